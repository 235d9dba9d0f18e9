"""What the synthesizer asks of a voice, whatever is inside: see `Blockwise` (embedded voices) and `PiperSpeech`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Protocol

import numpy as np

from speechstream.text.en.phonemes import Utterance
from speechstream.text.clauses import Clause


@dataclass(frozen=True)
class Controls:
    """How a stream speaks: speaker's name (None: the voice's first), factor on the rate, semitones, decibels of
    effort."""

    voice: str | None = None
    speed: float = 1.0
    pitch: float = 0.0
    energy: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("speed", 0.25, 4.0),
            ("pitch", -12.0, 12.0),
            ("energy", -12.0, 12.0),
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
class Spoken:
    """An utterance being spoken: when each of its N symbols begins, and when the last ends, in seconds (N + 1,) from
    its first sample; and its sound, mono float32 blocks that are made when they are asked for."""

    starts: np.ndarray
    blocks: Iterator[np.ndarray]


class Speaking(Protocol):
    """One stream of a voice. Used by one thread at a time."""

    def speak(self, utterance: Utterance) -> Spoken:
        """Speak what follows. The blocks must be used up before the next call."""

    def rest(self) -> None:
        """The stream has had to wait for text: the next block is wanted soon."""

    def finish(self) -> np.ndarray:
        """What the voice still holds when the stream ends, mono float32."""


class Voice(Protocol):
    """A voice that any number of threads and streams may share."""

    sample_rate: int  # Hz of its sound
    speakers: tuple[VoiceInfo, ...]

    def utterances(self, clause: Clause, markup: bool) -> list[Utterance]:
        """Text to symbols. `markup`: whether SSML and [[phonemes]] are read, or text like any other."""

    def start(self, controls: Controls) -> Speaking:
        """A new stream. Raises ValueError for a speaker or a control that this voice has not."""


def find_speaker(speakers: tuple[VoiceInfo, ...], name: str | None) -> int:
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
