"""What a conversation is told (events) and what it asks for (actions). All of them are frozen values.

`now` is the time of the event in seconds on the clock of the microphone's samples. Everything that concerns one
answer's speech carries its `Label`, so that what belongs to an older one is recognised anywhere and dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

from speechstream.events import Endpoint, Failed, Final, Partial, SpeechStarted

Recognized = SpeechStarted | Partial | Final | Endpoint | Failed


@dataclass(frozen=True)
class Label:
    """Which speech: the user's turn, the reply to it, and how often speech had been stopped before."""

    turn: int
    reply: int
    generation: int


@dataclass(frozen=True)
class SpokenWord:
    """A word of the assistant: samples [start, end) of the speech of its label, and characters [first, last) of the text
    that was given to the voice."""

    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class Message:
    """An entry of the history. role: "system", "user" or "assistant". reply: which one the assistant's words belong to."""

    role: str
    content: str
    reply: int | None = None


# Events


@dataclass(frozen=True)
class Heard:
    """The recogniser said something about the user's sound."""

    event: Recognized
    now: float


@dataclass(frozen=True)
class VoiceActivity:
    """A window of the microphone that ends `now`: the probability of speech, and how long the window is.

    end_of_turn: the probability that the user has finished, 0 to 1, of a model that can tell; None without one. doubtful: it
    may be the assistant's own echo, whose path is not known well yet.
    """

    speech: float
    now: float
    duration: float = 0.032
    end_of_turn: float | None = None
    doubtful: bool = False


@dataclass(frozen=True)
class Foreseen:
    """The answer to `Foresee`: the whole text of the open stretch of speech if nothing more is said.

    end_of_turn: the probability that the user has finished, 0 to 1, of a recogniser that can tell. number: of the wish
    that it answers; None: the last one.
    """

    text: str
    now: float
    end_of_turn: float | None = None
    number: int | None = None


@dataclass(frozen=True)
class AgentText:
    """The agent goes on with this text."""

    reply: int
    text: str
    now: float


@dataclass(frozen=True)
class AgentEnd:
    """The agent has said all."""

    reply: int
    now: float


@dataclass(frozen=True)
class AgentFailed:
    """The agent could not answer, or not to the end."""

    reply: int
    message: str
    now: float


@dataclass(frozen=True)
class SpeechReady:
    """The voice made `samples` more of this speech, in which these words begin. last: it has nothing left to say."""

    label: Label
    samples: int
    words: tuple[SpokenWord, ...]
    now: float
    last: bool = False


@dataclass(frozen=True)
class SpeechFailed:
    """The voice could not go on."""

    label: Label
    message: str
    now: float


@dataclass(frozen=True)
class Played:
    """`samples` of the speech of this generation have been heard so far, counted from its beginning."""

    samples: int
    generation: int
    now: float


@dataclass(frozen=True)
class Typed:
    """The user wrote instead of speaking: a whole turn."""

    text: str
    now: float


@dataclass(frozen=True)
class StopPressed:
    """The user wants silence, and no answer."""

    now: float


@dataclass(frozen=True)
class Tick:
    """Time has passed."""

    now: float


DuplexEvent = (
    Heard
    | Foreseen
    | VoiceActivity
    | AgentText
    | AgentEnd
    | AgentFailed
    | SpeechReady
    | SpeechFailed
    | Played
    | Typed
    | StopPressed
    | Tick
)


# Actions


@dataclass(frozen=True)
class Ask:
    """Ask the agent. speculative: the user may go on, nothing is spoken yet."""

    reply: int
    messages: tuple[Message, ...]
    speculative: bool


@dataclass(frozen=True)
class Cancel:
    """The agent need not go on with this reply."""

    reply: int


@dataclass(frozen=True)
class Read:
    """The user is saying this: an agent that can, reads it ahead. The last message is the user's, as far as it is certain."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Foresee:
    """Ask a copy of the recogniser what it would write if the user said no more; `Foreseen` tells, with this number."""

    number: int = 0


@dataclass(frozen=True)
class Forget:
    """The recogniser's open stretch of speech is over: what it holds of it is settled, and it begins anew."""


@dataclass(frozen=True)
class Say:
    """Give this text to the voice. last: no more comes."""

    label: Label
    text: str
    last: bool


@dataclass(frozen=True)
class Duck:
    """Lower the assistant's voice: somebody speaks."""


@dataclass(frozen=True)
class Unduck:
    """Raise it again."""


@dataclass(frozen=True)
class Pause:
    """Hold the speech at the sample that has been reached."""


@dataclass(frozen=True)
class Resume:
    """Go on with the sample after the last one played."""


@dataclass(frozen=True)
class StopSpeaking:
    """This speech is over: drop what the sink and the voice hold. at: samples known to have been played."""

    label: Label
    at: int


@dataclass(frozen=True)
class SetTimer:
    """Send a Tick at this time, in place of an earlier wish; None: no need."""

    at: float | None


@dataclass(frozen=True)
class Show:
    """What a display shows: the phase and both sides' text."""

    phase: str
    user: str
    assistant: str


@dataclass(frozen=True)
class Error:
    """A sentence for the user's eyes."""

    text: str


Action = (
    Ask
    | Cancel
    | Read
    | Foresee
    | Forget
    | Say
    | Duck
    | Unduck
    | Pause
    | Resume
    | StopSpeaking
    | SetTimer
    | Show
    | Error
)
