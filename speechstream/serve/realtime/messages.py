"""What goes in and out of the Realtime protocol beside server events: news for its `step`, and commands for its driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream.duplex.events import SpokenWord
from speechstream.events import Word
from speechstream.serve.realtime.session import Session

# News for `step`.


@dataclass(frozen=True)
class Client:
    """A client's event, parsed from JSON: any value."""

    event: Any


@dataclass(frozen=True)
class TurnBegan:
    """The user began to speak."""

    at_ms: int


@dataclass(frozen=True)
class TurnEnded:
    """The user has finished. said: the words so far, which may still change."""

    at_ms: int
    said: str = ""


@dataclass(frozen=True)
class Words:
    """All stable words of the user's turn so far: each text begins with the one before. item: None for the open turn."""

    said: str
    item: str | None = None


@dataclass(frozen=True)
class Transcribed:
    """The text of a turn that was committed, and how many seconds of sound it had.

    words: with their times in seconds of all sound that was appended, where they are known.
    """

    item: str
    said: str
    seconds: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Unheard:
    """A turn that was committed cannot be written down."""

    item: str
    message: str


@dataclass(frozen=True)
class Answering:
    """The conversation itself begins an answer: the user's turn has ended."""


@dataclass(frozen=True)
class Wrote:
    """More text of an answer that is not spoken."""

    response: str
    text: str


@dataclass(frozen=True)
class Spoke:
    """More sound of an answer, in the response's format.

    text: of the answer, up to the end of the last word that begins in it. samples and words: as in `SpeechReady`.
    """

    response: str
    data: bytes
    samples: int
    text: str = ""
    words: tuple[SpokenWord, ...] = ()


@dataclass(frozen=True)
class Called:
    """The answer calls a function of the client's. arguments: JSON."""

    response: str
    call: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Answered:
    """An answer is complete."""

    response: str


@dataclass(frozen=True)
class Broke:
    """An answer cannot be given, or not to its end."""

    response: str
    message: str


@dataclass(frozen=True)
class Interrupted:
    """The user took the floor. response: the last answer. samples: of it, about as many were heard."""

    response: str
    samples: int


News = (
    Client
    | TurnBegan
    | TurnEnded
    | Words
    | Transcribed
    | Unheard
    | Answering
    | Wrote
    | Spoke
    | Called
    | Answered
    | Broke
    | Interrupted
)


# Commands that come out beside server events.


@dataclass(frozen=True)
class Hear:
    """Sound of the user, (n,) float32 at the session's input rate."""

    pcm: np.ndarray


@dataclass(frozen=True)
class Commit:
    """The client ends the turn: `Transcribed` or `Unheard` is owed for this item."""

    item: str


@dataclass(frozen=True)
class HearClip:
    """A recording that is an item: the same is owed."""

    item: str
    pcm: np.ndarray
    rate: int


@dataclass(frozen=True)
class Forget:
    """Drop the sound that was not committed."""


@dataclass(frozen=True)
class Configure:
    """The session was changed from `before`."""

    before: Session


@dataclass(frozen=True)
class Answer:
    """Begin the response with this id, to `Protocol.messages` and with its tools: all that it answers is known."""

    response: str


@dataclass(frozen=True)
class Stop:
    """The client wants no more of this answer."""

    response: str


Command = Hear | Commit | HearClip | Forget | Configure | Answer | Stop
Out = list[Any]  # dicts that are server events, and Commands
