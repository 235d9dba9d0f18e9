"""What a recogniser asks of a model, whatever is inside: see `asr.whisper.family`, `asr.fastconformer.family`.

A family turns the samples of one stretch of speech into text. Its state for such a segment is a value; where
a network runs on caches that stay in place (`resident`), the state holds the number of their slot instead,
and `read` and `write` turn one into the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from speechstream.asr.biasing import Bias, HotWords
from speechstream.events import Word
from speechstream.runtime.requests import Work

S = TypeVar("S")


@dataclass(frozen=True)
class Mode:
    """How a stream is heard. chunks: encoder frames a pass takes at a time, None for whole segments."""

    chunks: tuple[int | None, ...]
    right_context: int = (
        0  # frames that the last pass hears beyond its chunk, where there are several
    )
    vad_windows: int = 1  # of 32 ms, judged together


NOTHING = np.zeros(0, np.float32)  # samples


class Family(Protocol[S]):
    """One model as a recogniser. Shared by any number of streams and threads."""

    latencies: tuple[int, ...]  # milliseconds: the lengths of chunk that a live stream may have
    batch_size: int  # recordings that a core transcribes faster together than one after the other

    def mode(self, latency_ms: int | None) -> Mode:
        """Of a latency; None: as files are heard. Raises ValueError, or SpeechStreamError for no live stream."""

    def open(self, mode: Mode) -> S:
        """A segment that nothing has been heard of."""

    def feed(self, x: np.ndarray, segment: S, mode: Mode) -> Work[S]:
        """Hear samples (n,) at 16 kHz."""

    def finish(self, segment: S, mode: Mode, rest: np.ndarray = NOTHING) -> Work[S]:
        """Hear the last samples (n,) and the end of the segment: all of its text becomes stable."""

    def close(self, segment: S) -> None:
        """The segment is not used again."""

    def text(self, segment: S) -> tuple[str, str]:
        """The stable and the unstable part."""

    def words(self, segment: S, spoken_from: float) -> list[Word]:
        """The stable words, in seconds from the segment's start. Nobody speaks before `spoken_from`."""

    def resident(self) -> Family[S]:
        """This family on caches that stay in place, for one owner; close what you open."""

    def read(self, segment: S) -> S:
        """The segment as a value."""

    def write(self, segment: S, mode: Mode) -> S:
        """A segment as this family runs it, from a value."""

    def identity(self) -> dict[str, Any]:
        """JSON values that must agree between a state that is left and the family that takes it up."""

    def declared(self, mode: Mode) -> Mapping[str, Any]:
        """Types of the segment's fields that are declared Any, by their names, for `state.from_bytes`.

        The segment's own type is under "".
        """

    def check(self, segment: S, samples: int, mode: Mode) -> None:
        """Raises ValueError where a segment of so many samples cannot have this state."""


@runtime_checkable
class Biasable(Protocol):
    """What a family has besides, whose decoder takes hot words."""

    def compile(self, words: HotWords) -> Bias:
        """Hot words as the decoder's tokens. Raises ValueError for what it cannot write."""

    def biased(self, bias: Bias) -> Family[Any]:
        """This family with them, on the same runner: its streams share batches with those that have none."""


@runtime_checkable
class Attended(Protocol):
    """What a family has besides, whose encoder's frames can be read."""

    def attended(self, segment: Any, samples: int) -> np.ndarray:
        """(K, D) what the encoder has heard in the last frames that end within the first `samples`, oldest first."""
