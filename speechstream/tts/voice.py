"""What a stream asks of a voice, whatever is inside: `tts.blockwise`, `tts.piper` and `tts.pocket` are such families."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from speechstream.runtime.requests import Work
from speechstream.text.clauses import Clause
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import Utterance

S = TypeVar("S")


@dataclass(frozen=True)
class Controls:
    """How a stream speaks: speaker's name (None: the voice's first), factor on the rate, semitones, decibels of
    effort, factor on the length of pauses."""

    voice: str | None = None
    speed: float = 1.0
    pitch: float = 0.0
    energy: float = 0.0
    pause: float = 1.0

    def __post_init__(self) -> None:
        if self.voice is not None and not isinstance(self.voice, str):
            raise ValueError(f"voice is a speaker's name; got {self.voice!r}")
        for name, low, high in (
            ("speed", 0.25, 4.0),
            ("pitch", -12.0, 12.0),
            ("energy", -12.0, 12.0),
            ("pause", 0.0, 4.0),
        ):
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not low <= value <= high
            ):
                raise ValueError(f"{name} goes from {low:g} to {high:g}; got {value!r}")


@dataclass(frozen=True)
class VoiceInfo:
    """One speaker of a voice."""

    name: str
    language: str
    description: str


@dataclass(frozen=True)
class Block:
    """A stretch of an utterance's sound: mono float32 samples, and what is known of its timing by now.

    starts: (k,) seconds from the utterance's first sample at which its next symbols begin. An utterance of N
    symbols has N + 1 of them, the last is its end. A voice that plans ahead gives all with the first block, another
    a few with each; what it leaves out ends with the utterance.
    """

    pcm: np.ndarray
    starts: np.ndarray


class Voice(Protocol[S]):
    """A voice that any number of threads and streams may share. A stream's state S is a value."""

    sample_rate: int  # Hz of its sound
    speakers: tuple[VoiceInfo, ...]
    digest: str  # of its model: states are taken up by the same model only
    phonetic: bool  # whether an utterance's symbols are phonemes; otherwise they are letters

    def utterances(
        self, clause: Clause, markup: bool, reading: ReadingOptions | None = None
    ) -> list[Utterance]:
        """Text to symbols. `markup`: whether SSML and [[phonemes]] are read, or text like any other."""

    def check_controls(self, controls: Controls) -> None:
        """Raises ValueError for a speaker or a control that this voice has not."""

    def init_state(self) -> S:
        """A stream that has said nothing."""

    def begin(self, utterance: Utterance, controls: Controls, state: S) -> Work[S]:
        """Take up the next utterance; the one before is over."""

    def speaking(self, state: S) -> bool:
        """Whether there is another block of the utterance."""

    def block(self, state: S) -> Work[tuple[Block, S]]:
        """The next block of the utterance. Its sound may be empty."""

    def rest(self, state: S) -> S:
        """All has been said and no text is there: the next block is wanted soon."""

    def finish(self, controls: Controls, state: S) -> Work[tuple[np.ndarray, S]]:
        """The stream ends: what the voice still holds, mono float32."""

    def finishing(self, state: S) -> bool:
        """Whether `finish` has more to give: it is called until it has not."""

    def declared(self) -> Mapping[str, Any]:
        """The state's type under "", and example states for its fields of type Any by their names."""

    def check_state(self, state: S, utterance: Utterance | None) -> None:
        """Raises ValueError where no stream that speaks this utterance (None: nothing) can have come to a state."""


def speaker_number(speakers: tuple[VoiceInfo, ...], name: str | None) -> int:
    """A speaker's number. Raises ValueError for an unknown name."""
    names = [s.name for s in speakers]
    if name is None:
        return 0
    if name not in names:
        raise ValueError(
            f"this voice has no speaker {name!r}; it has {', '.join(names[:10])}"
            + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        )
    return names.index(name)
