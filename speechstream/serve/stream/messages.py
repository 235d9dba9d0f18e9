"""The first message of a connection: what a session hears and says, or which session goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

SOUND = {"int16": "<i2", "float32": "<f4"}


@dataclass(frozen=True)
class Listen:
    """How a session hears. latency_ms: None is the model's own; endpointing: of `asr.endpoint.EndpointRules`, what differs."""

    sample_rate: int = 16_000
    encoding: str = "int16"
    channels: int = 1
    latency_ms: int | None = None
    endpointing: dict[str, float] = field(default_factory=dict)
    hotwords: dict[str, float] | tuple[str, ...] = ()


@dataclass(frozen=True)
class Speak:
    """How a session speaks. encoding: int16 or float32, little endian, mono."""

    voice: str | None = None
    speed: float = 1.0
    encoding: str = "int16"
    markup: bool = False

    def __post_init__(self) -> None:
        if self.encoding not in SOUND:
            raise ValueError(
                f"speak.encoding is {self.encoding[:40]!r}, expected one of {', '.join(SOUND)}"
            )


@dataclass(frozen=True)
class Start:
    """The first message of a session."""

    listen: Listen | None = None
    speak: Speak | None = None

    def __post_init__(self) -> None:
        if self.listen is None and self.speak is None:
            raise ValueError('start needs "listen" or "speak" or both, each an object')


@dataclass(frozen=True)
class Resume:
    """The first message of another connection. received: the number of the last event that came whole."""

    token: str
    received: int = 0
