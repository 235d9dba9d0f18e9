"""A Moshi as an agent: each 80 ms of the user's sound give 80 ms of its own sound and text.

    agent = load("bundle/")
    state = agent.open()
    piece, state = agent.exchange(pcm, state)             # both speak at once: 16 kHz in, the codec's rate out, no turns

As a `duplex.spoken.SpokenAgent` it takes turns, for a conversation in which somebody else decides who speaks:

    state = agent.hear(pcm, state)                        # the user's turn: it hears, and is made to be silent
    answer = agent.answer(state)                          # its own: it hears silence
    while not agent.over(answer):
        piece, answer = agent.step(answer)                # 80 ms
    state = agent.settle(answer, "what was heard of it")

It has no mark that ends an answer: one is over when no text has come for two seconds. Text comes in the frame in which it is
spoken, so that words have times.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from speechstream import bundle, models
from speechstream.asr.vocabulary import Vocabulary
from speechstream.audio.resample import Resampler, ResamplerState
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.duplex.agent import Messages
from speechstream.duplex.events import SpokenWord
from speechstream.duplex.spoken import NOTHING, RATE, Piece
from speechstream.errors import SpeechStreamError
from speechstream.nn.moshi_config import FrameSampling, MoshiBundle
from speechstream.nn.moshi_state import MoshiArrays
from speechstream.state import bounded, from_bytes, to_bytes

QUIET_S = 2.0  # without text, after which an answer is over
PATIENCE_S = 5.0  # without text, after which there is none
LONGEST_S = 60.0  # of an answer
MOST_AT_ONCE = 25  # frames of the user that are heard in one pass
ONLY_SOUND = "this model hears sound only: it cannot be given text"


@dataclass(frozen=True)
class Heard:
    """A conversation. networks: their states, or the arrays of a snapshot."""

    networks: Any
    resampling: ResamplerState  # of the user's sound, to the codec's rate
    waiting: np.ndarray = field(default_factory=lambda: NOTHING)  # less than a frame of it
    half: tuple[int, ...] = bounded(0, 255, default=())  # bytes of a letter that is not whole
    listening: bool = False  # to a turn


@dataclass(frozen=True)
class Snapshot(Heard):
    """A conversation as bytes hold it."""

    networks: MoshiArrays


@dataclass(frozen=True)
class Answer:
    """An answer while it is given. `before` is the conversation up to its first frame."""

    before: Heard
    networks: Any
    words: tuple[int, ...] = ()  # tokens, one a frame
    codes: tuple[tuple[int, ...], ...] = ()
    ends: tuple[int, ...] = ()  # characters of the text up to each frame
    text: str = ""
    half: tuple[int, ...] = ()
    placed: int = 0  # characters of the text whose words have been given out
    quiet: int = 0  # frames since text came
    over: bool = False


class MoshiAgent:
    """See the module. networks: of `duplex.moshi.torch`. longest_s: of an answer."""

    speakers: tuple[str, ...] = ("own",)  # the one that it was trained with
    system = ""
    instructed = False  # it takes no instructions

    def __init__(
        self,
        networks: Any,
        about: MoshiBundle,
        vocabulary: Vocabulary,
        longest_s: float = LONGEST_S,
    ):
        self.networks, self.about, self.vocabulary = networks, about, vocabulary
        codec = about.network.codec
        self.sample_rate, self.frame = codec.sample_rate, codec.frame_size
        self.longest = max(round(longest_s / about.frame_s), 1)
        self.quiet, self.patience = (round(s / about.frame_s) for s in (QUIET_S, PATIENCE_S))
        self._resampler = Resampler(RATE, self.sample_rate)
        self._silence = networks.silence()  # what it says while it is made to be silent

    def open(self, system: str = "") -> Heard:
        """A conversation. system: has no effect, for the model takes no instructions."""
        return Heard(self.networks.start(), self._resampler.init_state())

    # Both at once

    def exchange(self, pcm: np.ndarray, state: Heard) -> tuple[Piece, Heard]:
        """The user's sound, float32 at 16 kHz, any length, to what it says in the frames that are whole with it.

        Raises ValueError for what is no sound.
        """
        frames, state = self._frames(pcm, state)
        networks, half, text, sound = state.networks, bytes(state.half), "", [NOTHING]
        for frame in frames:
            word, _, own, networks = self.networks.step(frame, networks)
            more, half = self._written(word, half)
            text += more
            sound.append(own)
        state = replace(state, networks=networks, half=tuple(half))
        return Piece(text, np.concatenate(sound)), state

    def snapshot(self, state: Heard) -> bytes:
        """A conversation as safetensors, for `resume`. An answer is one only when it is settled."""
        arrays = self.networks.value(state.networks)
        return to_bytes(replace(state, networks=arrays), {"family": "moshi"})

    def resume(self, data: bytes) -> Heard:
        """What `snapshot` gave. Raises SpeechStreamError for anything else."""
        found: Snapshot = from_bytes(data, Snapshot)
        kept = found.resampling
        like = self._resampler.init_state()
        if found.waiting.ndim != 1 or len(found.waiting) >= self.frame:
            raise SpeechStreamError("this snapshot is of another model: it cannot be taken up")
        if any(getattr(kept, n).shape != a.shape for n, a in vars(like).items()):
            raise SpeechStreamError("this snapshot is of another model: it cannot be taken up")
        fields = {n: getattr(found, n) for n in vars(found)}
        return Heard(**fields | {"networks": self.networks.native(found.networks)})

    # By turns

    def hear(self, pcm: np.ndarray, state: Heard) -> Heard:
        frames, state = self._frames(pcm, state)
        networks = state.networks
        for at in range(0, len(frames), MOST_AT_ONCE):
            some = frames[at : at + MOST_AT_ONCE]
            words, codes = [self.about.pad] * len(some), [self._silence] * len(some)
            networks = self.networks.follow(np.concatenate(some), words, codes, networks)
        return replace(state, networks=networks, listening=True)

    def write(self, text: str, state: Heard) -> Heard:
        raise SpeechStreamError(ONLY_SOUND)

    def __call__(self, messages: Messages) -> Iterator[str]:
        raise SpeechStreamError(ONLY_SOUND)

    def answer(self, state: Heard, speaker: str | None = None) -> Answer:
        if speaker not in (None, *self.speakers):
            raise ValueError(
                f"the speaker must be {self.speakers[0]}, the only one; got {speaker!r}"
            )
        if state.listening:  # the turn's last frame is filled up with silence
            rest = self._resampler.finish(state.resampling)[0]
            x = np.concatenate([state.waiting, rest])
            x = np.concatenate([x, np.zeros(-len(x) % self.frame, np.float32)])
            state = replace(state, waiting=NOTHING, resampling=self._resampler.init_state())
            count = len(x) // self.frame
            words, codes = [self.about.pad] * count, [self._silence] * count
            networks = self.networks.follow(x, words, codes, state.networks)
            state = replace(state, networks=networks, listening=False)
        return Answer(state, state.networks)

    def step(self, answer: Answer) -> tuple[Piece, Answer]:
        a = answer
        silent = np.zeros(self.frame, np.float32)
        word, codes, pcm, networks = self.networks.step(silent, a.networks)
        more, half = self._written(word, bytes(a.half))
        text = a.text + more
        quiet = 0 if more or half else a.quiet + 1
        most = self.quiet if text.strip() else self.patience
        over = quiet >= most or len(a.words) + 1 >= self.longest
        a = replace(
            a,
            networks=networks,
            words=(*a.words, word),
            codes=(*a.codes, codes),
            ends=(*a.ends, len(text)),
            text=text,
            half=tuple(half),
            quiet=quiet,
            over=over,
        )
        words = self._words(a)
        a = replace(a, placed=words[-1].last if words else a.placed)
        return Piece(more, pcm, tuple(words), over), a

    def over(self, answer: Answer) -> bool:
        return answer.over

    def settle(self, answer: Answer, heard: str) -> Heard:
        """Frames are kept as far as their text was heard; what was said beyond is taken back."""
        a = answer
        reach = len(a.text) - len(a.text.lstrip()) + len(heard)
        if heard and heard == a.text.strip():
            return replace(a.before, networks=a.networks)
        kept = sum(end <= reach for end in a.ends) if heard else 0
        networks = a.before.networks
        for at in range(0, kept, MOST_AT_ONCE):
            part = slice(at, min(at + MOST_AT_ONCE, kept))
            pcm = np.zeros((part.stop - at) * self.frame, np.float32)
            networks = self.networks.follow(pcm, a.words[part], a.codes[part], networks)
        return replace(a.before, networks=networks)

    # The parts of a step

    def _frames(self, pcm: np.ndarray, state: Heard) -> tuple[list[np.ndarray], Heard]:
        """Whole frames at the codec's rate."""
        x = np.asarray(pcm, np.float32)
        if x.ndim != 1 or not np.isfinite(x).all():
            raise ValueError("the user's sound must be (n,) finite samples at 16 kHz")
        higher, resampling = self._resampler.step(x[None], state.resampling)
        whole = np.concatenate([state.waiting, higher[0]])
        count = len(whole) // self.frame
        frames = np.split(whole[: count * self.frame], count) if count else []
        rest = whole[count * self.frame :].copy()
        return frames, replace(state, resampling=resampling, waiting=rest)

    def _written(self, token: int, half: bytes) -> tuple[str, bytes]:
        """What a token writes after half a letter, and the half letter that is left."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        v = self.vocabulary
        special = token < v.special
        text = decoder.decode(half + (b"" if special else v.pieces[token - v.special]), special)
        return text, decoder.getstate()[0]

    def _words(self, a: Answer) -> list[SpokenWord]:
        """Words that are whole by now and were not given out: a frame without text, or the next word, ends one."""
        found = []
        for m in re.compile(r"\S+").finditer(a.text, a.placed):
            if m.end() == len(a.text) and not (a.quiet or a.over):
                continue
            first = next(i for i, end in enumerate(a.ends) if end > m.start())
            last = next(i for i, end in enumerate(a.ends) if end >= m.end())
            found.append(SpokenWord(first * self.frame, (last + 1) * self.frame, *m.span()))
        return found


def load(
    path: str | os.PathLike[str],
    device: str = "cpu",
    threads: int | None = None,
    dtype: str = "float32",
    sampling: FrameSampling | None = None,
    seed: int = 0,
    **options: Any,
) -> MoshiAgent:
    """The agent of a bundle. options: of `MoshiAgent`. It runs in torch. Raises SpeechStreamError, in one sentence."""
    b = path if isinstance(path, Bundle) else bundle.load(path)
    models.find(b.architecture, "talk")
    try:
        about = read(MoshiBundle, b.config)
        vocabulary = Vocabulary.read(b.file("tokens.json"), about.network.text.vocab_size)
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    try:
        from speechstream.duplex.moshi.torch import TorchNetworks, read_moshi
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"the model {b.path} runs in {error.name}, which is not installed: pip install speechstream[train]"
        ) from error
    model = read_moshi(b, about.network)
    networks = TorchNetworks(model, sampling or about.sampling, seed, device, threads, dtype)
    return MoshiAgent(networks, about, vocabulary, **options)
