"""What a recogniser says while it listens. Times are seconds from the start of the stream."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    text: str  # as written: case, punctuation
    start: float
    end: float
    confidence: float  # 0 to 1: the least probability among its tokens


@dataclass(frozen=True)
class Partial:
    """The sentence so far. `stable` only ever grows until its `Final`; `unstable` may change or vanish."""

    stable: str
    unstable: str
    time: float  # how much of the stream had been heard

    @property
    def text(self) -> str:
        return " ".join(part for part in (self.stable, self.unstable) if part)


@dataclass(frozen=True)
class Final:
    """A stretch of speech that is done. Its text begins with every `stable` said before."""

    text: str
    words: tuple[Word, ...]
    start: float
    end: float


@dataclass(frozen=True)
class Endpoint:
    """The speaker stopped, as far as the endpointing rules can tell."""

    time: float  # where speech ended
    decided: float  # how much of the stream had been heard when that was decided


Event = Partial | Final | Endpoint


@dataclass(frozen=True)
class Transcript:
    """A whole file or array."""

    segments: tuple[Final, ...]
    duration: float  # seconds of audio

    @property
    def text(self) -> str:
        return " ".join(s.text for s in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(w for s in self.segments for w in s.words)
