"""What streams say: one vocabulary for recognition, synthesis, captions, files and sockets.

Times are seconds from the start of the stream. Events are frozen values; `to_json` and `from_json` are
their one JSON form (`transcribe -f jsonl`, snapshots, Ray, sockets).
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Word:
    """A word that was heard or spoken.

    text: as written, with case and punctuation. confidence: 0 to 1, the least probability among its
    tokens; None for spoken words. span: where it stands in the text that was pushed, [first, last)
    in characters (a number gives several words with one span); None for words that were heard.
    """

    text: str
    start: float
    end: float
    confidence: float | None = None
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class Phoneme:
    """A sound, or a stress mark or punctuation, of synthesised speech."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class SpeechStarted:
    """Somebody began to speak.

    channel, here and in the other events of recognition: "left", "right" or a number from "1" on where each channel of a
    recording is heard by itself; None otherwise.
    """

    time: float  # where speech began
    decided: float  # how much of the stream had been heard when that was decided
    channel: str | None = None


@dataclass(frozen=True)
class Partial:
    """The sentence so far. `stable` only grows until its `Final`; `unstable` may change or vanish."""

    stable: str
    unstable: str
    time: float  # how much of the stream had been heard
    channel: str | None = None

    @property
    def text(self) -> str:
        """Both parts, as they stand now."""
        return " ".join(part for part in (self.stable, self.unstable) if part)


@dataclass(frozen=True)
class Final:
    """A stretch of speech that is done. Its text begins with every `stable` said before.

    end_of_turn: how probable it is that the speaker has finished, 0 to 1, of streams that were asked to tell.
    """

    text: str
    words: tuple[Word, ...]
    start: float
    end: float
    channel: str | None = None
    end_of_turn: float | None = None


@dataclass(frozen=True)
class Endpoint:
    """The speaker stopped, as far as the endpointing rules can tell."""

    time: float  # where speech ended
    decided: float  # how much of the stream had been heard when that was decided
    channel: str | None = None


@dataclass(frozen=True)
class Audio:
    """Synthesised sound: mono float32 `pcm` that begins `start` seconds into the stream.

    words and phonemes are those that begin in it; they may end in a later block.
    """

    pcm: np.ndarray
    start: float
    words: tuple[Word, ...] = ()
    phonemes: tuple[Phoneme, ...] = ()


@dataclass(frozen=True)
class Failed:
    """The last event of a stream that could not go on. Other streams are not affected."""

    message: str


Event = SpeechStarted | Partial | Final | Endpoint | Audio | Failed


@dataclass(frozen=True)
class Transcript:
    """A whole file or array. Segments are in the order in which they begin."""

    segments: tuple[Final, ...]
    duration: float  # seconds of audio

    @property
    def text(self) -> str:
        """All segments' text, with spaces between them."""
        return " ".join(s.text for s in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        """All segments' words, in seconds of the recording."""
        return tuple(w for s in self.segments for w in s.words)

    @property
    def channels(self) -> dict[str, Transcript]:
        """The transcript of each channel in which somebody speaks, by its label, where they are heard one by one."""
        labels = sorted({s.channel for s in self.segments if s.channel}, key=lambda c: (len(c), c))
        return {
            label: Transcript(tuple(s for s in self.segments if s.channel == label), self.duration)
            for label in labels
        }


_NAMES: dict[type, str] = {
    SpeechStarted: "speech_started",
    Partial: "partial",
    Final: "final",
    Endpoint: "endpoint",
    Audio: "audio",
    Failed: "failed",
}


def to_json(event: Event) -> dict[str, Any]:
    """An event as an object of JSON values: its "type" and its fields. Sound is base64 of 32-bit floats."""
    fields: dict[str, Any] = {"type": _NAMES[type(event)], **vars(event)}
    for name in ("channel", "end_of_turn"):
        if fields.get(name, "") is None:
            del fields[name]
    if isinstance(event, Audio):
        fields["pcm"] = base64.b64encode(event.pcm.astype("<f4").tobytes()).decode()
        fields["phonemes"] = [dict(vars(p)) for p in event.phonemes]
    if isinstance(event, (Final, Audio)):
        fields["words"] = [word_to_json(w) for w in event.words]
    return fields


def word_to_json(word: Word) -> dict[str, Any]:
    """A word as JSON values, without what it does not have."""
    found: dict[str, Any] = {"word": word.text, "start": word.start, "end": word.end}
    if word.confidence is not None:
        found["confidence"] = word.confidence
    if word.span is not None:
        found["span"] = list(word.span)
    return found


def from_json(value: Any) -> Event:
    """What `to_json` was given. Raises ValueError for anything else."""
    kind = _field(value, "type", str)
    readers: dict[str, Callable[[Any], Event]] = {
        "speech_started": lambda v: SpeechStarted(
            _seconds(v, "time"), _seconds(v, "decided"), _channel(v)
        ),
        "partial": lambda v: Partial(
            _field(v, "stable", str), _field(v, "unstable", str), _seconds(v, "time"), _channel(v)
        ),
        "final": lambda v: Final(
            _field(v, "text", str),
            _words(v),
            _seconds(v, "start"),
            _seconds(v, "end"),
            _channel(v),
            _probability(v, "end_of_turn"),
        ),
        "endpoint": lambda v: Endpoint(_seconds(v, "time"), _seconds(v, "decided"), _channel(v)),
        "audio": lambda v: Audio(_pcm(v), _seconds(v, "start"), _words(v), _phonemes(v)),
        "failed": lambda v: Failed(_field(v, "message", str)),
    }
    if kind not in readers:
        raise ValueError(f"{kind[:40]!r} is no type of event; expected one of {', '.join(readers)}")
    return readers[kind](value)


def _probability(value: Mapping[str, Any], name: str) -> float | None:
    if value.get(name) is None:
        return None
    found = _seconds(value, name)
    if not 0 <= found <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {found}")
    return found


def _channel(value: Mapping[str, Any]) -> str | None:
    return None if value.get("channel") is None else _field(value, "channel", str)


def _words(value: Mapping[str, Any]) -> tuple[Word, ...]:
    return tuple(_word(w) for w in _field(value, "words", list))


def _word(value: Any) -> Word:
    span = value.get("span") if isinstance(value, Mapping) else None
    if span is not None:
        first, last = _pair(span)
        span = (first, last)
    confidence = None
    if isinstance(value, Mapping) and value.get("confidence") is not None:
        confidence = _seconds(value, "confidence")
    return Word(
        _field(value, "word", str),
        _seconds(value, "start"),
        _seconds(value, "end"),
        confidence,
        span,
    )


def _phonemes(value: Mapping[str, Any]) -> tuple[Phoneme, ...]:
    return tuple(
        Phoneme(_field(p, "text", str), _seconds(p, "start"), _seconds(p, "end"))
        for p in _field(value, "phonemes", list)
    )


def _pcm(value: Mapping[str, Any]) -> np.ndarray:
    import numpy as np  # the command line's help needs events, and no numpy

    try:
        data = base64.b64decode(_field(value, "pcm", str), validate=True)
    except binascii.Error as error:
        raise ValueError("an event's sound is not base64") from error
    if len(data) % 4:
        raise ValueError(f"an event's sound has {len(data)} bytes, which are no 32-bit floats")
    return np.frombuffer(data, "<f4").astype(np.float32)


def _pair(value: Any) -> tuple[int, int]:
    if (
        not isinstance(value, (list, tuple))
        or len(value) != 2
        or not all(type(n) is int and n >= 0 for n in value)
    ):
        raise ValueError(f"an event's span is {str(value)[:40]}, expected two whole numbers")
    return value[0], value[1]


def _field(value: Any, name: str, kind: type[T]) -> T:
    found = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(found, kind):
        raise ValueError(f"an event's {name!r} is {str(found)[:40]!r}, expected {kind.__name__}")
    return found


def _seconds(value: Any, name: str) -> float:
    found = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise ValueError(f"an event's {name!r} is {str(found)[:40]!r}, expected a number")
    return float(found)
