"""What a conversation remembers, as a value."""

from __future__ import annotations

from dataclasses import dataclass

from speechstream.duplex.events import Message, Show
from speechstream.duplex.reply import Reply
from speechstream.duplex.turns import Pauses

LISTENING, USER, PAUSE = "listening", "user speaks", "user pauses"
THINKING, SPEAKING, DECIDING = "thinking", "speaking", "deciding"
PHASES = (LISTENING, USER, PAUSE, THINKING, SPEAKING, DECIDING)
EPSILON = 1e-6  # a timer that comes this early is in time


@dataclass(frozen=True)
class State:
    """All that a conversation remembers. Times in seconds."""

    history: tuple[Message, ...] = ()  # what is over; `messages` adds what goes on
    forgotten: int = 0  # messages that the history had before
    phase: str = LISTENING
    now: float = 0.0
    turn: int = 0
    replies: int = 0  # ids given so far
    generation: int = 0
    # the user's sound
    voiced: bool = False  # the user speaks, by the voice activity
    run: float = 0.0  # seconds of speech without a break
    spoken: float = 0.0  # seconds of speech since `since`
    since: float = 0.0  # when the user's sound of this turn or this decision began
    last_speech: float = 0.0
    heard_at: float = 0.0  # when the microphone last gave a window
    end_of_turn: float | None = None
    pauses: Pauses = Pauses()
    # the user's words
    segment: bool = False  # the recogniser is within a stretch of speech
    skip: bool = False  # whose words are of no interest any more
    finals: tuple[str, ...] = ()
    partial: str = ""
    stable: str = ""  # of the partial, what does not change any more
    foreseeing: bool = False  # the recogniser was asked what it would write
    foreseen: bool = False  # and `partial` is what it said
    sure: tuple[str, ...] = ()  # words of a decision that are final and were heard well
    # the assistant
    reply: Reply | None = None
    tries: int = 0  # answers prepared in this turn
    owed: float | None = None  # since when an answer is due
    ducked: bool = False
    paused: bool = False
    last_words: str = ""  # of the last speech, and when it was over: they may still echo
    silent_since: float = 0.0
    stopped: Reply | None = (
        None  # the last one that was cut, whose last samples may still be reported
    )
    # the driver
    timer: float | None = None
    shown: Show | None = None

    @property
    def text(self) -> str:
        """What the user has said in this turn."""
        return " ".join(t for t in (*self.finals, self.partial) if t)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history with what goes on now: the user's turn that is over, the assistant's words heard so far."""
        r = self.reply
        if r is None or r.label is None:
            return self.history
        heard = r.heard()
        now = (Message("user", r.prompt),) if r.prompt else ()
        return self.history + now + ((Message("assistant", heard, r.id),) if heard else ())


def due(s: State, at: float) -> bool:
    """Whether this time has come."""
    return s.now >= at - EPSILON
