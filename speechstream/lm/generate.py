"""Tokens out of a language model: greedy or drawn, with drafts out of the text itself that are verified in one step.

Drafts (prompt lookup, Saxena 2023): where the last few tokens stood before, what followed them there is proposed, and one
step reads it all. What greedy decoding would have written is kept, so that the text is that of plain greedy decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from speechstream.lm.cache import LmState
from speechstream.lm.model import LanguageModel

NGRAM = 3  # tokens that must agree for a draft


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. temperature 0: the likeliest. top_p: draw among the likeliest that together have
    this probability. draft: tokens proposed at once at most, for temperature 0. seed: of the drawing."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    draft: int = 0
    most: int = 512  # tokens of a reply

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature must be 0 to 100 and top_p above 0, at most 1; got {self.temperature}, {self.top_p}"
            )
        if self.seed < 0 or not 0 <= self.draft <= 64 or self.most < 1:
            raise ValueError(
                f"seed must not be negative, draft must be 0 to 64, most 1 or more; got {self.seed}, "
                f"{self.draft}, {self.most}"
            )
        if self.draft and self.temperature:
            raise ValueError(
                "drafts are for temperature 0: drawn tokens are rarely those of before"
            )


@dataclass(frozen=True)
class Step:
    """Tokens that were written, and the state that has read them."""

    tokens: tuple[int, ...]
    state: LmState


def draw(logits: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> int:
    """One token out of logits (vocab_size,)."""
    if not sampling.temperature:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    p = np.exp(scaled - scaled.max())
    p /= p.sum()
    if sampling.top_p < 1:
        order = np.argsort(-p, kind="stable")
        before = np.cumsum(p[order]) - p[order]
        p[order[before >= sampling.top_p]] = 0
        p /= p.sum()
    return int(rng.choice(len(p), p=p))


def lookup(text: Sequence[int], most: int, ngram: int = NGRAM) -> list[int]:
    """What followed the last `ngram` tokens where they stood last before, or of fewer tokens; at most `most`."""
    for n in range(min(ngram, len(text) - 1), 0, -1):
        end = list(text[-n:])
        for at in range(len(text) - n - 1, -1, -1):
            if list(text[at : at + n]) == end:
                return list(text[at + n : at + n + most])
    return []


def generate(
    model: LanguageModel,
    logits: np.ndarray,
    state: LmState,
    sampling: Sampling = Sampling(),
    stop: Sequence[int] = (),
    context: Sequence[int] = (),
) -> Iterator[Step]:
    """Continue a stream: steps as they are written, a stop token not among them.

    logits (vocab_size,): after what `state` (of one stream) has read. context: the tokens it has read, which drafts are
    taken from.
    """
    rng, text, written = np.random.default_rng(sampling.seed), list(context), 0
    token = draw(logits, sampling, rng)
    while written < sampling.most and token not in stop:
        text.append(token)
        room = min(sampling.draft, sampling.most - written - 1, model.free(state) - 1)
        draft = lookup(text, room) if room > 0 else []
        proposal = model.propose([[token, *draft]], state)
        following = proposal.logits[0]
        taken = 0
        while taken < len(draft) and draft[taken] not in stop:
            if int(following[taken].argmax()) != draft[taken]:
                break
            taken += 1
        state = model.accept(proposal, [1 + taken])
        text += draft[:taken]
        written += 1 + taken
        yield Step((token, *draft[:taken]), state)
        token = draw(following[taken], sampling, rng)
