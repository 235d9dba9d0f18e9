"""A spoken conversation as a pure state machine: `actions, state = conversation.step(event, state)`.

No thread, no clock, no device: events carry the time, and whoever drives it sends a `Tick` when `SetTimer` says so.

    LISTENING   nobody speaks, nothing is owed
    USER        the user speaks
    PAUSE       the user is silent: is the turn over? An answer may be prepared (speculative `Ask`)
    THINKING    the turn is over, its answer has not been heard yet
    SPEAKING    the assistant speaks
    DECIDING    somebody makes a sound meanwhile: ducked or paused until it is known what it means

From each of them a turn with words leads to an answer or to an error that is said, within `answer_s` (and `voice_s`);
what a user hears of an old generation is nothing, and the history holds what was heard.

The rules are pure functions by concern: `hearing` (what the user's sound and words do), `user_turn`, `answering`,
`barge_in` and `history`.
"""

from __future__ import annotations

from dataclasses import replace

from speechstream.duplex import answering, barge_in, hearing, history, user_turn
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.events import (
    Action,
    AgentEnd,
    AgentFailed,
    AgentText,
    DuplexEvent,
    Foreseen,
    Heard,
    Message,
    Played,
    SetTimer,
    Show,
    SpeechFailed,
    SpeechReady,
    StopPressed,
    Typed,
    VoiceActivity,
)
from speechstream.duplex.state import (
    DECIDING,
    EPSILON,
    LISTENING,
    PAUSE,
    PHASES,
    SPEAKING,
    THINKING,
    USER,
    State,
    due,
)
from speechstream.duplex.turns import tokens

__all__ = [
    "DECIDING",
    "LISTENING",
    "PAUSE",
    "PHASES",
    "SPEAKING",
    "THINKING",
    "USER",
    "Conversation",
    "State",
]

MAX_STEPS = 16  # rules that follow from each other without time passing; more would be a circle


class Conversation:
    """The rules. `step` is pure; an instance only holds the configuration."""

    def __init__(self, config: ConversationConfig | None = None) -> None:
        self.config = config or ConversationConfig()

    def init_state(self, system: str = "", history: tuple[Message, ...] = ()) -> State:
        """A conversation in which nothing was said, or that goes on from a history."""
        first = (Message("system", system),) if system else ()
        return State(first + tuple(history))

    def step(self, event: DuplexEvent, state: State) -> tuple[list[Action], State]:
        """What to do after this event. An event of the past counts as one of now."""
        out: list[Action] = []
        s = replace(state, now=max(state.now, event.now))
        s = _event(event, s, self.config, out)
        for _ in range(MAX_STEPS):
            before = s
            s = _settle(s, self.config, out)
            if s == before:
                break
        timer = _deadline(s, self.config)
        if timer != s.timer:
            out.append(SetTimer(timer))
            s = replace(s, timer=timer)
        shown = Show(s.phase, *_texts(s))
        if shown != s.shown:
            out.append(shown)
            s = replace(s, shown=shown)
        return out, s

    def truncate(self, samples: int, state: State) -> State:
        """The history as if only so many samples of the last answer that was stopped had been heard.

        For clients that count what they have played themselves; 0 is a number, more than was sent is all of it.
        """
        return history.truncate(samples, state)


def _event(e: DuplexEvent, s: State, c: ConversationConfig, out: list[Action]) -> State:
    if isinstance(e, VoiceActivity):
        return hearing.sounded(e, s, c, out)
    if isinstance(e, Heard):
        return hearing.heard(e.event, s, c, out)
    if isinstance(e, Foreseen):
        return hearing.foreseen(e, s, c)
    if isinstance(e, Typed):
        return hearing.typed(e.text, s, c, out)
    if isinstance(e, StopPressed):
        return _silence(s, c, out)
    if isinstance(e, Played):
        return history.played(e, s)
    if isinstance(e, (AgentText, AgentEnd, AgentFailed)):
        return answering.told(e, s, c, out)
    if isinstance(e, (SpeechReady, SpeechFailed)):
        return answering.voiced(e, s, c, out)
    return s  # a tick: what follows from the time does so in any case


def _silence(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """The user's button: whatever is said or prepared is dropped."""
    if s.phase in (SPEAKING, DECIDING, THINKING):
        s = answering.stop(s, c, out)
    s = user_turn.forget(answering.drop(s, out), out)
    return replace(s, phase=LISTENING, finals=(), partial="", owed=None)


def _settle(s: State, c: ConversationConfig, out: list[Action]) -> State:
    """What follows from the state and the time."""
    if s.voiced and due(s, s.heard_at + c.deaf_s):
        s = replace(s, voiced=False)  # the microphone gives nothing any more
    if s.phase == USER:
        if s.owed is not None and due(s, s.owed + c.noise_s):
            return user_turn.end(s, c, out)  # a noise: the turn has been over all the time
        if not s.voiced:
            return replace(s, phase=PAUSE)
        if due(s, s.since + c.longest_turn_s):
            return user_turn.end(user_turn.forget(s, out), c, out)
        return user_turn.foresee(s, c, out)
    if s.phase == PAUSE:
        return user_turn.pause(s, c, out)
    if s.phase in (THINKING, SPEAKING):
        s = answering.speak(s, out)
    if s.phase == THINKING:
        return answering.thinking(s, c, out)
    if s.phase in (SPEAKING, DECIDING):
        return barge_in.speaking(s, c, out)
    return s


def _deadline(s: State, c: ConversationConfig) -> float | None:
    """When something follows from time alone."""
    r = s.reply
    times: list[float] = []
    if s.voiced:
        times.append(s.heard_at + c.deaf_s)
    if s.phase in (USER, PAUSE) and s.owed is not None:
        times.append(s.owed + c.noise_s)
    if s.phase in (USER, PAUSE) and (at := user_turn.foresee_at(s, c)) is not None:
        times.append(at)
    if s.phase == USER:
        times.append(s.since + c.longest_turn_s)
    elif s.phase == PAUSE:
        if r is None and tokens(s.text) and s.tries < c.preempt_tries:
            times.append(s.last_speech + c.preempt_s)
        open = s.segment and not s.foreseen
        times.append(s.last_speech + (c.final_wait_s if open else user_turn.turn_wait(s, c)))
    elif s.phase == THINKING and r is not None:
        times.append(r.progress + c.voice_s if r.apology else (s.owed or 0.0) + c.answer_s)
    elif s.phase == SPEAKING and r is not None:
        times.append(r.progress + c.stall_s)
    elif s.phase == DECIDING:
        times.append(s.since + c.decide_s)
        if not s.voiced and not s.segment:
            times.append(s.last_speech + c.resume_s)
    return min((t for t in times if t > s.now + EPSILON), default=None)


def _texts(s: State) -> tuple[str, str]:
    r = s.reply
    user = s.text if s.phase in (USER, PAUSE, DECIDING) else (r.prompt if r else "")
    return user, r.text if r is not None and r.label is not None else ""
