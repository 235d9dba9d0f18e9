"""Text to speech tokens by a language model, one token at a time: the sequences of CosyVoice 2 as a pure state machine.

A whole sentence stands as  begin, prompt's text, text, task, prompt's speech, speech ... end.  Text that is still being
written stands between its speech, `text_group` tokens and then `speech_group`, whose end the model marks with `fill`:
begin, text, speech, text, speech, ..., the last text, task, speech ... end.  The prompt is the beginning of either.

    now = sentence(config, prompt, text, number)
    while not now.over:
        token, now = drive(write(network, sampling, now))       # None: nothing is said by this one
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from speechstream.lm.appending import Caches
from speechstream.nn.cosyvoice_config import MOST_SPEECH, SpeechLmConfig, SpeechSampling
from speechstream.runtime.requests import Request, Work
from speechstream.state import bounded

NEVER = -1
NOTHING = np.zeros(0, np.int64)
Array = np.ndarray


@dataclass(frozen=True)
class Writing:
    """Speech tokens that are being written. Ids are those of the model's input, but for `recent`."""

    caches: Caches
    unread: Array  # (n,) int64 read with the next step
    text: Array  # (t,) int64 text that waits for its turn
    prompt: Array  # (p,) int64 the prompt's speech that waits for its turn
    recent: Array  # (w,) int64 outputs of late, oldest first
    number: int  # of the utterance: what is drawn follows from it
    made: int  # outputs so far
    said: int  # speech tokens of the last stretch, after `task`
    least: int  # of these
    most: int
    fill_at: int = bounded(
        NEVER, 1 << 40, default=NEVER
    )  # number of the output that must be `fill`
    hungry: bool = False  # no speech before a group of text
    ended: bool = True  # no more text comes
    final: bool = True  # `task` has been read, or is about to be
    over: bool = False


class Reader(Protocol):
    """What runs the language model."""

    @property
    def lm(self) -> SpeechLmConfig: ...

    def read(self, ids: Array, caches: Caches) -> Request:
        """A request for the logits (outputs,) after these ids, and the new caches."""


def nothing_read(c: SpeechLmConfig) -> Caches:
    return Caches.empty(c.network.layers, c.network.kv_heads, c.network.head_dim)


def sentence(
    c: SpeechLmConfig, prompt_text: Array, prompt: Array, text: Array, number: int
) -> Writing:
    """A text that is known to its end. prompt: speech tokens (p,) of the recording that is continued."""
    ids = [[c.begin], prompt_text, text, [c.task], prompt + c.speech]
    return Writing(
        nothing_read(c),
        np.concatenate([np.asarray(i, np.int64) for i in ids]),
        NOTHING,
        NOTHING,
        NOTHING,
        number,
        made=0,
        said=0,
        least=int(len(text) * c.least),
        most=min(max(int(len(text) * c.most), 1), MOST_SPEECH),
    )


def interleaved(
    c: SpeechLmConfig, prompt_text: Array, prompt: Array, number: int, instruction: int = 0
) -> Writing:
    """A text that is yet to come, by `told`. instruction: so many of the prompt's text go before all turns."""
    group = c.speech_group
    head = np.concatenate([[c.begin], prompt_text[:instruction]]).astype(np.int64)
    return Writing(
        nothing_read(c),
        head,
        np.asarray(prompt_text[instruction:], np.int64),
        np.asarray(prompt, np.int64) + c.speech,
        NOTHING,
        number,
        made=0,
        said=0,
        least=0,
        most=1,
        fill_at=(len(prompt) // group + 1) * group - len(prompt),
        hungry=not len(prompt),
        ended=False,
        final=False,
    )


def told(c: SpeechLmConfig, text: Array, now: Writing) -> Writing:
    """More text."""
    most = min(now.most + int(len(text) * c.most), MOST_SPEECH)
    return _fed(c, replace(now, text=np.concatenate([now.text, text]), most=most))


def closed(c: SpeechLmConfig, now: Writing) -> Writing:
    """No more text comes."""
    return _fed(c, replace(now, ended=True))


def _fed(c: SpeechLmConfig, now: Writing) -> Writing:
    """Groups of text, and of the prompt's speech, that have their turn."""
    unread, text, prompt = [now.unread], now.text, now.prompt
    hungry, final, n = now.hungry, now.final, c.text_group
    if final:
        return now
    while len(prompt) and len(text) >= n:
        unread += [text[:n], prompt[: c.speech_group]]
        text, prompt = text[n:], prompt[c.speech_group :]
    if not len(prompt) and hungry and len(text) >= n:
        unread.append(text[:n])
        text, hungry = text[n:], False
    if now.ended and (hungry or len(prompt)):
        unread += [text, np.array([c.task], np.int64), prompt]
        text, prompt, hungry, final = text[:0], prompt[:0], False, True
    # what was put there waits to be read; a model that is hungry or lacks a prompt's text reads nothing yet
    return replace(
        now,
        unread=np.concatenate(unread),
        text=text,
        prompt=prompt,
        hungry=hungry,
        final=final,
    )


def ready(now: Writing) -> bool:
    """Whether `write` can go on."""
    return not now.over and (now.final or not (now.hungry or len(now.prompt)))


def write(
    network: Reader, sampling: SpeechSampling, now: Writing
) -> Work[tuple[int | None, Writing]]:
    """The next output: a speech token (0 to speech_tokens - 1), or None for a mark."""
    c = network.lm
    logits, caches = yield network.read(now.unread, now.caches)
    now = replace(now, caches=caches, unread=NOTHING)
    if not now.final:
        token = c.fill if now.made == now.fill_at else choose(c, sampling, logits, now, c.fill)
    elif now.said >= now.most:
        token = c.end
    else:
        token = choose(c, sampling, logits, now, c.end if now.said >= now.least else None)
    recent = np.append(now.recent, token)[-max(sampling.window, 1) :]
    now = replace(now, recent=recent, made=now.made + 1)
    if token == c.end:
        return None, replace(now, over=True)
    if token == c.fill:
        hungry = replace(now, fill_at=now.made + c.speech_group, hungry=True)
        return None, _fed(c, hungry)
    said = now.said + int(now.final)
    return token, replace(now, unread=np.array([c.speech + token], np.int64), said=said)


def choose(
    c: SpeechLmConfig, s: SpeechSampling, logits: Array, now: Writing, mark: int | None
) -> int:
    """One output out of logits (outputs,): a speech token, or `mark`."""
    allowed = np.full(len(logits), -np.inf)
    allowed[: c.speech_tokens] = logits[: c.speech_tokens]
    if mark is not None:
        allowed[mark] = logits[mark]
    if not s.temperature:
        return int(allowed.argmax())
    p = np.exp((allowed - allowed.max()) / s.temperature)
    p /= p.sum()
    drawn = np.random.Generator(
        np.random.Philox(key=[s.seed, now.number], counter=[0, 0, 0, now.made])
    )
    first, second = drawn.random(2)
    likely = np.argsort(-p, kind="stable")[: s.top_k]
    before = np.cumsum(p[likely]) - p[likely]
    likely = likely[before < s.top_p]
    token = int(likely[_drawn(p[likely], first)])
    if s.window and (now.recent[-s.window :] == token).sum() >= s.repeats:
        p[token] = 0
        if p.any():
            token = _drawn(p, second)
    return token


def _drawn(weights: Array, u: float) -> int:
    """A number by its weight, for u from 0 to 1."""
    edges = np.cumsum(weights)
    at = int(np.searchsorted(edges, u * edges[-1], side="right"))
    return min(at, int(np.flatnonzero(weights)[-1]))
