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
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.events import (
    Action,
    AgentEnd,
    AgentFailed,
    AgentText,
    Ask,
    Cancel,
    Duck,
    DuplexEvent,
    Error,
    Foresee,
    Foreseen,
    Forget,
    Heard,
    Label,
    Message,
    Pause,
    Played,
    Read,
    Recognized,
    Resume,
    Say,
    SetTimer,
    Show,
    SpeechFailed,
    StopPressed,
    StopSpeaking,
    Tick,
    Typed,
    Unduck,
    VoiceActivity,
)
from speechstream.duplex.reply import Reply
from speechstream.duplex.turns import (
    EMPTY_WORDS,
    Pauses,
    content,
    is_echo,
    is_stop,
    learn,
    same,
    tokens,
    wait,
)
from speechstream.events import Endpoint, Failed, Final, Partial, SpeechStarted

LISTENING, USER, PAUSE = "listening", "user speaks", "user pauses"
THINKING, SPEAKING, DECIDING = "thinking", "speaking", "deciding"
PHASES = (LISTENING, USER, PAUSE, THINKING, SPEAKING, DECIDING)
EPSILON = 1e-6  # a timer that comes this early is in time
ECHO_REACH = 40  # of the assistant's last words, those that may still echo
MAX_STEPS = 16  # rules that follow from each other without time passing; more would be a circle


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
        s = self._event(event, s, out)
        for _ in range(MAX_STEPS):
            before = s
            s = self._settle(s, out)
            if s == before:
                break
        timer = self._deadline(s)
        if timer != s.timer:
            out.append(SetTimer(timer))
            s = replace(s, timer=timer)
        shown = Show(s.phase, *self._texts(s))
        if shown != s.shown:
            out.append(shown)
            s = replace(s, shown=shown)
        return out, s

    # Events

    def _event(self, e: DuplexEvent, s: State, out: list[Action]) -> State:
        r = s.reply
        if isinstance(e, VoiceActivity):
            return self._voice(e, s, out)
        if isinstance(e, Heard):
            return self._heard(e.event, s, out)
        if isinstance(e, Foreseen):
            if not s.foreseeing or s.phase != PAUSE or s.voiced:
                return s  # of a pause that is over
            return self._judged(e.end_of_turn, replace(s, partial=e.text, foreseen=True))
        if isinstance(e, Typed):
            return self._typed(e.text, s, out)
        if isinstance(e, StopPressed):
            return self._silence(s, out)
        if isinstance(e, Played):
            return self._played(e, s)
        if r is None or isinstance(e, Tick):
            return s
        if isinstance(e, (AgentText, AgentEnd, AgentFailed)):
            if e.reply != r.id or r.ended:
                return s  # of an answer that nobody waits for
            if isinstance(e, AgentText):
                text = r.text + e.text
                long = len(text) > self.config.longest_reply
                if long:
                    out.append(Cancel(r.id))
                return replace(s, reply=replace(r, text=text, ended=long, progress=s.now))
            failed = e.message if isinstance(e, AgentFailed) else ""
            return replace(s, reply=replace(r, ended=True, failed=failed, progress=s.now))
        if e.label != r.label:
            return s  # sound of an old generation
        if isinstance(e, SpeechFailed):
            out.append(Error(e.message))
            return self._stop(s, out)
        r = replace(
            r,
            ready=r.ready + e.samples,
            words=r.words + e.words,
            voiced=e.last,
            progress=s.now,
        )
        s = replace(s, reply=r)
        if s.phase == THINKING and r.ready:
            s = replace(s, phase=SPEAKING, owed=None, skip=s.segment)
        return s

    def _voice(self, e: VoiceActivity, s: State, out: list[Action]) -> State:
        c = self.config
        speech = e.speech >= (c.release if s.voiced else c.onset)
        s = replace(s, heard_at=s.now, run=s.run + e.duration if speech else 0.0)
        if speech:
            s = replace(s, foreseeing=False, foreseen=False, end_of_turn=None)
        s = self._judged(e.end_of_turn, s)
        if speech and s.voiced:
            return replace(s, last_speech=s.now, spoken=s.spoken + e.duration)
        if speech and s.run >= c.onset_s - EPSILON:
            s = self._onset(s.now - s.run, s, out)
            return replace(s, voiced=True, last_speech=s.now, spoken=s.spoken + s.run)
        if s.voiced and s.now - s.last_speech >= c.hang_s - EPSILON:
            return replace(s, voiced=False)
        if s.phase == SPEAKING and speech != s.ducked and not s.voiced:
            out.append(Duck() if speech else Unduck())  # at the first window; one alone was nothing
            return replace(s, ducked=speech)
        return s

    def _judged(self, end_of_turn: float | None, s: State) -> State:
        """The newest opinion on whether the user has finished holds until there is another, or speech."""
        if end_of_turn is None or not self.config.end_of_turn:
            return s
        return replace(s, end_of_turn=end_of_turn)

    def _onset(self, at: float, s: State, out: list[Action]) -> State:
        """Somebody begins to make a sound."""
        if s.phase == LISTENING:
            return self._read(self._begin(at, s), out)
        if s.phase == PAUSE:
            if s.text:
                s = replace(s, pauses=learn(at - s.last_speech, s.pauses, self.config))
            return replace(s, phase=USER)
        if s.phase == THINKING and s.reply is not None and s.reply.apology:
            return self._begin(at, self._stop(s, out))
        if s.phase == THINKING and s.now - (s.owed or 0.0) < self.config.noise_s:
            return self._reopen(s, out)
        if s.phase == SPEAKING:
            if not s.ducked:
                out.append(Duck())
            s = replace(s, phase=DECIDING, ducked=True, since=at, spoken=0.0)
            return replace(s, finals=(), partial="", sure=())
        return s

    def _begin(self, at: float, s: State) -> State:
        return replace(
            s,
            phase=USER,
            turn=s.turn + 1,
            since=at,
            spoken=0.0,
            finals=(),
            partial="",
            stable="",
            foreseeing=False,
            foreseen=False,
            end_of_turn=None,
            tries=0,
            owed=None,
        )

    def _reopen(self, s: State, out: list[Action]) -> State:
        """The turn was not over: its answer becomes a prepared one, of which nothing is spoken."""
        r = s.reply
        if r is not None:
            if r.label is not None:
                out.append(StopSpeaking(r.label, 0))
            r = Reply(r.id, r.prompt, r.text, r.ended, r.failed, progress=r.progress)
        pauses = learn(s.now - s.last_speech, s.pauses, self.config)
        return replace(s, phase=USER, reply=r, generation=s.generation + 1, pauses=pauses)

    def _heard(self, e: Recognized, s: State, out: list[Action]) -> State:
        if isinstance(e, SpeechStarted):
            s = replace(s, segment=True, skip=False)
            if s.voiced or s.phase in (LISTENING, SPEAKING):
                s = self._onset(e.time, s, out) if s.phase in (LISTENING, SPEAKING) else s
                s = replace(s, last_speech=max(s.last_speech, s.now))
            return s
        if isinstance(e, Endpoint):
            return replace(s, segment=False, skip=False, partial="")
        if isinstance(e, Failed):
            out.append(Error(e.message))
            return replace(s, segment=False)
        if s.skip or not tokens(e.text):
            return s
        if s.phase == LISTENING:
            s = replace(self._begin(s.now, s), last_speech=s.now)
        if isinstance(e, Partial):
            if s.foreseen:
                return s  # it lags behind what is known already
            text = replace(s, partial=e.text, stable=e.stable)
            if e.stable != s.stable and s.phase in (USER, PAUSE):
                text = self._read(text, out)
        else:
            if s.phase == DECIDING and not _least(e, self.config.min_confidence):
                return replace(s, partial="")
            sure = tuple(tokens(" ".join(_least(e, self.config.sure))))
            finals = (*s.finals, e.text)
            text = replace(s, finals=finals, partial="", stable="", sure=s.sure + sure)
            if not s.voiced:  # nothing is left to foresee, and what was foreseen has come
                text = replace(text, foreseeing=False, foreseen=True)
                text = self._judged(e.end_of_turn, text)
        if s.phase == THINKING:
            if s.reply is not None and s.reply.apology:
                return self._heard(e, self._begin(s.now, self._stop(s, out)), out)
            if same(text.text, s.text):
                return text
            return replace(self._reopen(text, out), owed=None)
        if s.phase == SPEAKING:  # words without a sound before them
            text = self._onset(s.now, s, out)
            return self._heard(e, text, out)
        if s.owed is not None and not same(text.text, s.text):
            text = replace(text, owed=None)
        return text

    def _typed(self, written: str, s: State, out: list[Action]) -> State:
        if not written.strip():
            return s
        deciding = s.phase == DECIDING
        if s.phase in (SPEAKING, DECIDING):
            s = self._stop(s, out)
        elif s.phase == LISTENING:
            s = self._begin(s.now, s)
        elif s.phase == THINKING:
            apology = s.reply is not None and s.reply.apology
            s = self._stop(s, out) if apology else self._reopen(s, out)
        if deciding or s.phase == LISTENING:
            s = self._begin(s.now, s)
        finals = (*s.finals, *([s.partial] if s.partial else []), written.strip())
        s = self._forget(replace(s, finals=finals, partial="", last_words=""), out)
        return self._end(s, out)

    def _silence(self, s: State, out: list[Action]) -> State:
        """The user's button: whatever is said or prepared is dropped."""
        if s.phase in (SPEAKING, DECIDING, THINKING):
            s = self._stop(s, out)
        s = self._forget(self._drop(s, out), out)
        return replace(s, phase=LISTENING, finals=(), partial="", owed=None)

    def _played(self, e: Played, s: State) -> State:
        r = s.reply
        if r is not None and r.label is not None and e.generation == r.label.generation:
            samples = min(e.samples, r.ready)
            if samples > r.played:
                s = replace(s, reply=replace(r, played=samples, progress=s.now))
            return s
        old = s.stopped
        if old is None or old.label is None or old.label.generation != e.generation:
            return s
        old = replace(old, played=min(max(e.samples, old.played), old.ready))
        heard = old.heard()
        history = tuple(
            replace(m, content=heard) if m.reply == old.id and heard else m for m in s.history
        )
        return replace(s, stopped=old, history=history)

    def truncate(self, samples: int, state: State) -> State:
        """The history as if only so many samples of the last answer that was stopped had been heard.

        For clients that count what they have played themselves; 0 is a number, more than was sent is all of it.
        """
        old = state.stopped
        if old is None:
            return state
        old = replace(old, played=min(max(samples, 0), old.ready))
        heard = old.heard()
        history = tuple(
            replace(m, content=heard) if m.reply == old.id else m
            for m in state.history
            if m.reply != old.id or heard
        )
        return replace(state, stopped=old, history=history)

    # What follows from the state and the time

    def _settle(self, s: State, out: list[Action]) -> State:
        c = self.config
        if s.voiced and self._due(s, s.heard_at + c.deaf_s):
            s = replace(s, voiced=False)  # the microphone gives nothing any more
        if s.phase == USER:
            if s.owed is not None and self._due(s, s.owed + c.noise_s):
                return self._end(s, out)  # a noise: the turn has been over all the time
            if not s.voiced:
                return replace(s, phase=PAUSE)
            if self._due(s, s.since + c.longest_turn_s):
                return self._end(self._forget(s, out), out)
            return s
        if s.phase == PAUSE:
            return self._pause(s, out)
        if s.phase in (THINKING, SPEAKING):
            s = self._speak(s, out)
        if s.phase == THINKING:
            return self._thinking(s, out)
        if s.phase in (SPEAKING, DECIDING):
            return self._speaking(s, out)
        return s

    def _pause(self, s: State, out: list[Action]) -> State:
        """The user is silent. A prepared answer, the end of the turn, or neither yet."""
        c, text, r = self.config, s.text, s.reply
        if s.owed is not None and self._due(s, s.owed + c.noise_s):
            return self._end(s, out)
        if r is not None and not same(r.prompt, text):
            return self._drop(s, out)
        early = self._due(s, s.last_speech + c.preempt_s)
        if s.segment and not s.foreseen:
            if early and not s.foreseeing:
                out.append(Foresee())
                return replace(s, foreseeing=True)
            if not self._due(s, s.last_speech + c.final_wait_s):
                return s
        elif not self._due(s, s.last_speech + self._wait(s)):
            if r is None and tokens(text) and early:
                return self._prepare(s, out)
            return s
        return self._end(self._forget(s, out), out)

    @staticmethod
    def _forget(s: State, out: list[Action]) -> State:
        """What the recogniser still holds of this turn is taken as it stands."""
        if not s.segment:
            return s
        out.append(Forget())
        finals = (*s.finals, s.partial) if s.partial else s.finals
        return replace(s, segment=False, skip=False, finals=finals, partial="", foreseen=False)

    def _wait(self, s: State) -> float:
        return wait(s.text, s.pauses, s.end_of_turn, self.config)

    def _prepare(self, s: State, out: list[Action]) -> State:
        """Ask before the turn is over."""
        if s.tries >= self.config.preempt_tries or self._echoes(s):
            return s
        return replace(self._ask(s.text, s, out, speculative=True), tries=s.tries + 1)

    def _ask(self, prompt: str, s: State, out: list[Action], speculative: bool) -> State:
        id = s.replies + 1
        messages, _ = _kept((*s.history, Message("user", prompt)), self.config.keep_messages)
        out.append(Ask(id, messages, speculative))
        return replace(s, replies=id, reply=Reply(id, prompt, progress=s.now))

    def _read(self, s: State, out: list[Action]) -> State:
        """Let the agent read ahead what is certain."""
        if s.reply is None:
            said = " ".join(t for t in (*s.finals, s.stable) if t)
            messages, _ = _kept((*s.history, Message("user", said)), self.config.keep_messages)
            out.append(Read(messages))
        return s

    def _drop(self, s: State, out: list[Action]) -> State:
        """A prepared answer is not wanted."""
        if s.reply is not None and not s.reply.ended:
            out.append(Cancel(s.reply.id))
        return replace(s, reply=None)

    def _end(self, s: State, out: list[Action]) -> State:
        """The turn is over: from now on an answer is owed, if there were words."""
        text, r = s.text, s.reply
        if not tokens(text) or self._echoes(s):
            return replace(self._drop(s, out), phase=LISTENING, owed=None, finals=(), partial="")
        owed = s.now if s.owed is None else s.owed
        if r is None or not same(r.prompt, text):
            s = self._ask(text, self._drop(s, out), out, speculative=False)
        elif r.failed and not r.text:  # what was prepared in vain is tried once more
            s = self._ask(text, s, out, speculative=False)
        assert s.reply is not None
        label = Label(s.turn, s.reply.id, s.generation)
        reply = replace(s.reply, label=label, progress=s.now)
        return replace(s, phase=THINKING, reply=reply, owed=owed, ducked=False, paused=False)

    def _echoes(self, s: State) -> bool:
        """Whether what was heard right behind the assistant's last words is those."""
        late = s.since - s.silent_since <= self.config.echo_s
        return late and is_echo(tokens(s.text), tokens(s.last_words)[-ECHO_REACH:])

    def _speak(self, s: State, out: list[Action]) -> State:
        """Give the voice what the agent has said."""
        r = s.reply
        if r is None or r.label is None or r.closed or (r.said == len(r.text) and not r.ended):
            return s
        if not tokens(r.text):
            return s
        out.append(Say(r.label, r.text[r.said :], r.ended))
        return replace(s, reply=replace(r, said=len(r.text), closed=r.ended))

    def _thinking(self, s: State, out: list[Action]) -> State:
        c, r = self.config, s.reply
        assert r is not None
        if r.apology:
            if r.voiced or self._due(s, r.progress + c.voice_s):
                out.append(Error("nothing can be said: the voice gave no sound"))
                return self._stop(s, out)
            return s
        if r.failed and not tokens(r.text):
            return self._apologise(r.failed, s, out)
        if r.ended and not tokens(r.text):
            return self._apologise("the agent gave an empty answer", s, out)
        if r.voiced and r.closed:
            return self._apologise("the answer has nothing that can be spoken", s, out)
        if self._due(s, (s.owed or 0.0) + c.answer_s):
            what = "the voice gave no sound" if r.said else "the agent gave no answer"
            return self._apologise(f"{what} within {c.answer_s:g} s", s, out)
        return s

    def _apologise(self, why: str, s: State, out: list[Action]) -> State:
        """Say that there is no answer."""
        out.append(Error(why))
        r = s.reply
        assert r is not None
        if r.label is not None and r.said:
            out.append(StopSpeaking(r.label, r.played))
        s = self._drop(s, out)
        id, generation = s.replies + 1, s.generation + 1
        apology = Reply(
            id,
            r.prompt,
            self.config.apology,
            ended=True,
            label=Label(s.turn, id, generation),
            progress=s.now,
            apology=True,
        )
        return replace(s, reply=apology, replies=id, generation=generation)

    def _speaking(self, s: State, out: list[Action]) -> State:
        c, r = self.config, s.reply
        assert r is not None
        if r.over:
            if r.failed:
                out.append(Error(r.failed))
            deciding = s.phase == DECIDING
            s = self._unduck(self._finish(s), out)
            return replace(s, phase=USER, turn=s.turn + 1, tries=0) if deciding else s
        if s.phase == SPEAKING:
            if self._due(s, r.progress + c.stall_s):
                out.append(Error(f"the answer did not get on within {c.stall_s:g} s and was ended"))
                return self._stop(s, out)
            return s
        if self._interrupts(s, r):
            s = self._stop(s, out, told=True)
            return replace(s, phase=USER if s.voiced else PAUSE)
        if not s.paused and s.spoken >= c.pause_s - EPSILON and s.voiced:
            out.append(Pause())
            s = replace(s, paused=True)
        late = self._due(s, s.since + c.decide_s)
        silent = not s.voiced and self._due(s, s.last_speech + c.resume_s)
        if (silent and not s.segment) or late:
            s = self._unduck(s, out)
            skip = s.segment
            r = replace(r, progress=s.now)
            return replace(s, phase=SPEAKING, reply=r, finals=(), partial="", skip=skip)
        return s

    def _interrupts(self, s: State, r: Reply) -> bool:
        """Whether the sound during the assistant's speech takes the floor."""
        c, words = self.config, tokens(s.text)
        said = tokens(r.text[: self._reach(r)])[-ECHO_REACH:]
        if is_echo(words, said):
            return False
        if s.voiced and s.spoken >= c.long_speech_s:
            return True
        final, partial = " ".join(s.finals), s.partial
        if s.spoken < c.partial_s:
            partial = ""  # so soon a recogniser guesses more than it hears
        if is_stop(tokens(final)) or (not final and is_stop(tokens(partial))):
            return True
        if len(content(tokens(f"{final} {partial}"))) >= c.many_words:
            return True
        meant = content(s.sure)
        return len(meant) >= c.min_words or bool(set(meant) - EMPTY_WORDS)

    @staticmethod
    def _reach(r: Reply) -> int:
        """Characters of the text whose words have begun to be played."""
        return max((w.last for w in r.words if w.start <= r.played), default=0)

    def _unduck(self, s: State, out: list[Action]) -> State:
        if s.paused:
            out.append(Resume())
        if s.ducked:
            out.append(Unduck())
        return replace(s, ducked=False, paused=False)

    def _finish(self, s: State) -> State:
        """The answer has been heard to its end, or is over for another reason: it becomes history."""
        kept, dropped = _kept(s.messages, self.config.keep_messages)
        forgotten = s.forgotten + dropped
        if s.reply is not None:
            s = replace(s, last_words=s.reply.text[: self._reach(s.reply)], silent_since=s.now)
        return replace(s, history=kept, forgotten=forgotten, reply=None, phase=LISTENING, owed=None)

    def _stop(self, s: State, out: list[Action], told: bool = False) -> State:
        """End the speech now. told: the user goes on, and where nothing was heard yet, goes on with the same turn."""
        r = s.reply
        if r is None:
            return replace(s, phase=LISTENING, owed=None, ducked=False, paused=False)
        if r.label is not None:
            out.append(StopSpeaking(r.label, r.played))
        if not r.ended:
            out.append(Cancel(r.id))
        if told and not r.heard() and not r.apology:
            s = replace(s, reply=None, finals=(r.prompt, *s.finals), stopped=None, owed=None)
        else:
            s = replace(self._finish(s), stopped=r)
        return replace(
            s,
            phase=LISTENING,
            turn=s.turn + 1,
            tries=0,
            generation=s.generation + 1,
            ducked=False,
            paused=False,
        )

    # Time

    @staticmethod
    def _due(s: State, at: float) -> bool:
        return s.now >= at - EPSILON

    def _deadline(self, s: State) -> float | None:
        """When something follows from time alone."""
        c, r = self.config, s.reply
        times: list[float] = []
        if s.voiced:
            times.append(s.heard_at + c.deaf_s)
        if s.phase in (USER, PAUSE) and s.owed is not None:
            times.append(s.owed + c.noise_s)
        if s.phase == USER:
            times.append(s.since + c.longest_turn_s)
        elif s.phase == PAUSE:
            foreseeing = s.segment and not s.foreseeing
            preparing = r is None and tokens(s.text) and s.tries < c.preempt_tries
            if foreseeing or preparing:
                times.append(s.last_speech + c.preempt_s)
            open = s.segment and not s.foreseen
            times.append(s.last_speech + (c.final_wait_s if open else self._wait(s)))
        elif s.phase == THINKING and r is not None:
            times.append(r.progress + c.voice_s if r.apology else (s.owed or 0.0) + c.answer_s)
        elif s.phase == SPEAKING and r is not None:
            times.append(r.progress + c.stall_s)
        elif s.phase == DECIDING:
            times.append(s.since + c.decide_s)
            if not s.voiced and not s.segment:
                times.append(s.last_speech + c.resume_s)
        return min((t for t in times if t > s.now + EPSILON), default=None)

    def _texts(self, s: State) -> tuple[str, str]:
        r = s.reply
        user = s.text if s.phase in (USER, PAUSE, DECIDING) else (r.prompt if r else "")
        return user, r.text if r is not None and r.label is not None else ""


def _least(final: Final, confidence: float) -> list[str]:
    """The words that were heard with this confidence; all where none is known."""
    if not final.words:
        return final.text.split()
    return [w.text for w in final.words if w.confidence is None or w.confidence >= confidence]


def _kept(messages: tuple[Message, ...], count: int) -> tuple[tuple[Message, ...], int]:
    """The last `count` messages behind the system's, and how many were left out."""
    system = messages[:1] if messages and messages[0].role == "system" else ()
    rest = messages[len(system) :]
    dropped = max(len(rest) - count, 0)
    return system + rest[dropped:], dropped
