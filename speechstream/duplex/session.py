"""A conversation with sound: recogniser, voice, agent and output around the state machine.

    session = Session(recognizer, synthesizer, agent)
    session.push(block)              # of the microphone
    speaker.write(session.pull(480)) # of the loudspeaker, at session.sample_rate
    session.close()

It owns no device and no thread. Its clock is the number of samples pushed, so a recording runs as fast as it can be
computed, in the same time as live. `pull` may be called from another thread than the rest.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.recognizer import Recognizer, Stream
from speechstream.audio.resample import Resampler
from speechstream.audio.samples import to_mono
from speechstream.audio.vad import SAMPLE_RATE
from speechstream.duplex.agent import Agent
from speechstream.duplex.config import ConversationConfig
from speechstream.duplex.conversation import (
    DECIDING,
    LISTENING,
    PAUSE,
    SPEAKING,
    USER,
    Conversation,
)
from speechstream.duplex.events import (
    Action,
    AgentEnd,
    AgentFailed,
    AgentText,
    Ask,
    Cancel,
    Duck,
    DuplexEvent,
    Foresee,
    Foreseen,
    Forget,
    Heard,
    Label,
    Message,
    Pause,
    Played,
    Read,
    Resume,
    Say,
    SpeechFailed,
    SpeechReady,
    SpokenWord,
    StopPressed,
    StopSpeaking,
    Tick,
    Typed,
    Unduck,
    VoiceActivity,
)
from speechstream.duplex.output import Output
from speechstream.duplex.spoken import AgentSound, SpokenAgent, SpokenRunner, is_spoken
from speechstream.errors import SpeechStreamError
from speechstream.events import Endpoint, Final
from speechstream.runtime.requests import drive
from speechstream.runtime.session import load_vad
from speechstream.tts.stream import SpeakingState, SynthesisCore
from speechstream.tts.synthesizer import Synthesizer

AHEAD_S = 0.5  # sound that is made before it is played
STEP_S = 0.02  # the microphone's sound is taken in pieces of this length
# Where somebody speaks into the assistant's voice, the recogniser hears the sound anew from so long before it was noticed.
LOOK_BACK_S = 0.2
RECENT_S = 1.0  # of sound that is kept for that
ATTENDED = (USER, PAUSE, DECIDING)  # phases in which the user's words are wanted
# A stretch of speech is written out soon, for the turn's end is decided here.
RULES = EndpointRules(silence_s=0.32)

AgentEvent = AgentText | AgentSound | AgentEnd | AgentFailed


class Runner(Protocol):
    """Who runs an agent beside the conversation."""

    def ask(self, reply: int, messages: tuple[Message, ...], now: float) -> None:
        """Begin to answer."""

    def cancel(self, reply: int) -> None:
        """Nobody waits for it any more."""

    def poll(self, now: float) -> list[AgentEvent]:
        """What has come since."""

    def close(self) -> None:
        """Cancel all."""


class Threaded:
    """An agent in a thread for each answer, which only posts what comes. For live conversations."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._news: queue.SimpleQueue[tuple[type, int, str]] = queue.SimpleQueue()
        self._running: dict[int, tuple[threading.Event, Any]] = {}

    def ask(self, reply: int, messages: tuple[Message, ...], now: float) -> None:
        cancelled = threading.Event()
        answer = self._agent([{"role": m.role, "content": m.content} for m in messages])
        self._running[reply] = (cancelled, answer)
        threading.Thread(
            target=self._run, args=(reply, answer, cancelled), name="agent", daemon=True
        ).start()

    def cancel(self, reply: int) -> None:
        cancelled, answer = self._running.pop(reply, (None, None))
        if cancelled is not None:
            cancelled.set()
            close = getattr(answer, "close", None)
            if close is not None:
                with suppress(ValueError):  # a generator that is running ends at its next piece
                    close()

    def poll(self, now: float) -> list[AgentEvent]:
        found: list[AgentEvent] = []
        while not self._news.empty():
            kind, reply, text = self._news.get()
            if kind is AgentText:
                found.append(AgentText(reply, text, now))
                continue
            self._running.pop(reply, None)
            found.append(
                AgentEnd(reply, now) if kind is AgentEnd else AgentFailed(reply, text, now)
            )
        return found

    def close(self) -> None:
        for reply in list(self._running):
            self.cancel(reply)

    def _run(self, reply: int, answer: Any, cancelled: threading.Event) -> None:
        try:
            for text in answer:
                if cancelled.is_set():
                    return
                self._news.put((AgentText, reply, text))
            self._news.put((AgentEnd, reply, ""))
        except SpeechStreamError as error:
            self._news.put((AgentFailed, reply, str(error)))
        except Exception as error:  # of a callable that is not ours: said, and the thread is over
            self._news.put((AgentFailed, reply, f"the agent failed: {error or type(error)}"))


class Timed:
    """An agent in the conversation's own time: the first piece after `first_s`, each next one after `each_s`."""

    def __init__(self, agent: Agent, first_s: float = 0.0, each_s: float = 0.0) -> None:
        self._agent, self._first, self._each = agent, first_s, each_s
        self._answers: dict[int, tuple[Iterator[str], float]] = {}

    def ask(self, reply: int, messages: tuple[Message, ...], now: float) -> None:
        pieces = iter(self._agent([{"role": m.role, "content": m.content} for m in messages]))
        self._answers[reply] = (pieces, now + self._first)

    def cancel(self, reply: int) -> None:
        self._answers.pop(reply, None)

    def poll(self, now: float) -> list[AgentEvent]:
        found: list[AgentEvent] = []
        for reply, (pieces, due) in list(self._answers.items()):
            while due <= now and reply in self._answers:
                try:
                    found.append(AgentText(reply, next(pieces), now))
                    due += self._each
                    self._answers[reply] = (pieces, due)
                except StopIteration:
                    found.append(AgentEnd(reply, now))
                    self.cancel(reply)
                except SpeechStreamError as error:
                    found.append(AgentFailed(reply, str(error), now))
                    self.cancel(reply)
        return found

    def close(self) -> None:
        self._answers.clear()


class Cleaned(Protocol):
    """The microphone's sound without the loudspeaker's: one for the voice activity, one for the recogniser."""

    @property
    def voice(self) -> np.ndarray:
        """(n,) float32: no echo, and where both speak not all of the user."""

    @property
    def words(self) -> np.ndarray:
        """(n,) float32: all of the user, and some of the echo."""

    @property
    def echoing(self) -> bool:
        """Whether there may be any echo."""


class EchoCanceller(Protocol):
    """Takes the loudspeaker's sound out of the microphone's; `speechstream.audio.echo` has one."""

    def played(self, pcm: np.ndarray, at: float | None = None) -> None:
        """(n,) float32 at the output's rate, as it goes to the loudspeaker, which plays it from this time on."""

    def cancel(self, pcm: np.ndarray, at: float | None = None) -> Cleaned:
        """(n,) float32 at 16 kHz of the microphone, captured from this time on, to what is left of it.

        A few samples may wait for the next ones.
        """

    def restart(self) -> None:
        """A device was gone."""


def _later(event: Any, seconds: float) -> Any:
    """An event of a stream that began so much later."""
    if not seconds:
        return event
    moved: dict[str, Any] = {
        name: getattr(event, name) + seconds
        for name in ("time", "decided", "start", "end")
        if hasattr(event, name)
    }
    if isinstance(event, Final):
        moved["words"] = tuple(_later(w, seconds) for w in event.words)
    return replace(event, **moved)


@dataclass
class Voice:
    """The speech that is being made."""

    label: Label
    state: SpeakingState
    text: deque[str]
    last: bool = False


class Session:
    """One conversation. See the module.

    sample_rate_in: of what is pushed. agent: a callable, a Runner, or one that hears and speaks itself (`duplex.spoken`): the
    recogniser then decides about turns, and the voice only apologises. on_event and on_action see all that happens, for
    displays, protocols and measuring. Raises ValueError for options that the models have not.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        synthesizer: Synthesizer,
        agent: Agent | Runner | SpokenAgent[Any, Any] | SpokenRunner,
        config: ConversationConfig | None = None,
        system: str = "",
        sample_rate_in: int = SAMPLE_RATE,
        latency_ms: int = 160,
        voice: str | None = None,
        echo: EchoCanceller | None = None,
        on_action: Callable[[Action, float], None] = lambda action, now: None,
        on_event: Callable[[DuplexEvent], None] = lambda event: None,
    ) -> None:
        self.conversation = Conversation(config)
        self.state = self.conversation.init_state(system)
        self.output = Output(synthesizer.sample_rate)
        self.sample_rate = synthesizer.sample_rate
        self._resampler = Resampler(sample_rate_in, SAMPLE_RATE)
        self._resampling = self._resampler.init_state()
        core = recognizer.core(latency_ms, SAMPLE_RATE, rules=RULES)
        self._stream = Stream(core.telling(recognizer.end_of_turn))
        self._silent = self._stream.state
        self._began = 0.0  # when the stream did, in seconds of the microphone's sound
        self._recent: deque[np.ndarray] = deque()  # what the recogniser may have to hear anew
        self._unattended = False  # it has been given what is left when all echo is suppressed
        self._vad = load_vad()
        self._activity = self._vad.init_state()
        self._core: SynthesisCore = synthesizer.core(voice=voice, markup="markdown")
        self._voice: Voice | None = None
        if is_spoken(agent):
            agent = SpokenRunner(agent, system)  # type: ignore[arg-type]
        self._runner: Runner = agent if hasattr(agent, "poll") else Threaded(agent)  # type: ignore[assignment, arg-type]
        self._spoken = agent if isinstance(agent, SpokenRunner) else None
        self._sounds: dict[int, list[AgentSound]] = {}  # of the reply that is given or prepared
        self._speaking: Label | None = None  # whose speech is the agent's own
        if self._spoken is not None and self._spoken.agent.sample_rate != self.sample_rate:
            raise ValueError(
                f"the agent speaks at {self._spoken.agent.sample_rate} Hz and the voice at {self.sample_rate}: take a voice "
                "of the agent's rate"
            )
        self.echo = echo
        self._on_action, self._on_event = on_action, on_event
        self._heard = 0  # samples at 16 kHz
        self._offset = 0.0  # seconds that `tick` was ahead of them
        self.compute_s = 0.0  # spent within push

    @property
    def now(self) -> float:
        """Seconds on the microphone's clock."""
        return self._heard / SAMPLE_RATE + self._offset

    def push(self, block: np.ndarray, at: float | None = None) -> None:
        """The microphone's next sound: any length, (n,) or (n, channels), int16, int32 or float.

        at: when its first sample was captured, in seconds of the same clock as `pull`'s; for the echo canceller.
        Raises ValueError for what is no sound.
        """
        began = time.perf_counter()
        pcm, self._resampling = self._resampler.step(to_mono(block)[None], self._resampling)
        size = round(STEP_S * SAMPLE_RATE)
        for begin in range(0, pcm.shape[1], size):
            captured = None if at is None else at + begin / SAMPLE_RATE
            self._hear(pcm[0, begin : begin + size], captured)
        self.compute_s += time.perf_counter() - began

    def _hear(self, pcm: np.ndarray, at: float | None) -> None:
        words, echoing = pcm, False
        if self.echo is not None:
            clean = self.echo.cancel(pcm, at)
            pcm, words, echoing = clean.voice, clean.words, clean.echoing
        self._heard += len(pcm)
        self._report()
        self._wake()
        before = self.state.phase
        windows, self._activity = self._vad.step(pcm[None], self._activity)
        for p in windows[0].tolist():
            self._step(VoiceActivity(p, self.now))
        voice = pcm
        if self.echo is not None:
            pcm = self._attend(pcm, words, echoing, before)
        self._recognize(pcm)
        if self._spoken is not None:
            self._spoken.sound(voice, self.state.phase)
        self.advance()

    def _attend(
        self, voice: np.ndarray, words: np.ndarray, echoing: bool, before: str
    ) -> np.ndarray:
        """What the recogniser hears: while there is an echo and nobody was noticed to speak, only what is surely none.

        When somebody is, it hears the last moments anew, with all of his voice.
        """
        self._recent.append(words)
        while sum(map(len, self._recent)) > RECENT_S * SAMPLE_RATE:
            self._recent.popleft()
        if self.state.phase not in ATTENDED:
            self._unattended = echoing
            return voice if echoing else words
        if not self._unattended:
            return words
        self._unattended = False
        if before not in (SPEAKING, LISTENING, DECIDING):
            return words
        if self.state.segment:
            self._step(Heard(Endpoint(self.now, self.now), self.now))
        back = np.concatenate(self._recent)
        back = back[-round((self.now - self.state.since + LOOK_BACK_S) * SAMPLE_RATE) :]
        self._stream.rollback(self._silent)
        self._began = (self._heard - len(back)) / SAMPLE_RATE
        return back

    def _recognize(self, pcm: np.ndarray) -> None:
        for event in self._stream.push(pcm):
            self._step(Heard(_later(event, self._began + self._offset), self.now))

    def tick(self, now: float) -> None:
        """Time has passed though the microphone gave nothing."""
        self._offset += max(now - self.now, 0.0)
        self._report()
        self._wake()
        self.advance()

    def advance(self) -> None:
        """What the agent has said, and the next sound of the voice. `push` and `tick` do it too."""
        for event in self._runner.poll(self.now):
            if isinstance(event, AgentSound):
                self._sounds.setdefault(event.reply, []).append(event)
                self._play([event])
            else:
                self._step(event)
        self._speak()

    def pull(self, count: int, at: float | None = None) -> np.ndarray:
        """(count,) float32: what goes to the loudspeaker now. at: when its first sample will be heard."""
        pcm = self.output.pull(count)
        if self.echo is not None:
            self.echo.played(pcm, at)
        return pcm

    def type(self, text: str) -> None:
        """The user wrote this instead of saying it."""
        self._report()
        self._step(Typed(text, self.now))
        self.advance()

    def stop(self) -> None:
        """The user wants silence."""
        self._report()
        self._step(StopPressed(self.now))

    def close(self) -> None:
        """Cancel what is still asked. The history stays in `state.messages`."""
        self._report()
        self._runner.close()

    # One step and its actions

    def _step(self, event: DuplexEvent) -> None:
        self._on_event(event)
        before = self.state
        actions, self.state = self.conversation.step(event, before)
        if self._spoken is not None:
            self._spoken.follow(before, self.state)
        for action in actions:
            self._do(action)
            self._on_action(action, self.now)
        if any(isinstance(a, Foresee) for a in actions):
            self._foresee()

    def _do(self, a: Action) -> None:
        if isinstance(a, Forget):
            self._stream.rollback(self._silent)
            self._began = self._heard / SAMPLE_RATE
        if isinstance(a, Ask):
            self._sounds = {}
            self._runner.ask(a.reply, a.messages, self.now)
        elif isinstance(a, Read):
            read = getattr(self._runner, "read", None)
            if read is not None:
                read(a.messages)
        elif isinstance(a, Cancel):
            self._runner.cancel(a.reply)
        elif isinstance(a, Say) and self._speaks_itself(a.label):
            if self._speaking != a.label:
                self._speaking = a.label
                self.output.admit(a.label)
                self._play(self._sounds.get(a.label.reply, []))
        elif isinstance(a, Say):
            if self._voice is None or self._voice.label != a.label:
                self._voice = Voice(a.label, self._core.init_state(), deque())
                self.output.admit(a.label)
            self._voice.text.append(a.text)
            self._voice.last = a.last
        elif isinstance(a, StopSpeaking):
            self.output.stop(a.label)
            self._voice = self._speaking = None
        elif isinstance(a, (Duck, Unduck)):
            self.output.duck(isinstance(a, Duck))
        elif isinstance(a, (Pause, Resume)):
            self.output.pause(isinstance(a, Pause))

    def _speaks_itself(self, label: Label) -> bool:
        """Whether the agent's own sound is this speech. An apology is the voice's."""
        r = self.state.reply
        return self._spoken is not None and r is not None and r.label == label and not r.apology

    def _play(self, sounds: list[AgentSound]) -> None:
        """Sound of the agent's, where it is the one that is being heard."""
        for sound in sounds:
            label = self._speaking
            if label is None or label.reply != sound.reply:
                return
            if self.output.put(label, sound.pcm):
                ready = SpeechReady(label, len(sound.pcm), sound.words, self.now, sound.last)
                self._step(ready)

    def _foresee(self) -> None:
        """What the recogniser would write if nothing more were said: a twin of its stream is ended."""
        said = [e for e in self._stream.fork().finish() if isinstance(e, Final)]
        end_of_turn = said[-1].end_of_turn if said else None
        self._step(Foreseen(" ".join(e.text for e in said), self.now, end_of_turn))

    def _wake(self) -> None:
        timer = self.state.timer
        if timer is not None and timer <= self.now:
            self._step(Tick(self.now))

    def _report(self) -> None:
        """What the loudspeaker has played since."""
        found = self.output.played()
        if found is not None:
            label, samples = found
            r = self.state.reply
            if r is not None and r.label == label and samples > r.played:
                self._step(Played(samples, label.generation, self.now))

    def _speak(self) -> None:
        """Make sound until there is enough ahead of the loudspeaker."""
        while (v := self._voice) is not None and (self.output.waiting < AHEAD_S * self.sample_rate):
            try:
                if v.text:
                    work = self._core.step(v.text.popleft(), v.state)
                elif v.last and not v.state.ended:
                    work = self._core.step(None, v.state)
                elif self._core.busy(v.state):
                    work = self._core.resume(v.state)
                else:
                    return
                events, state = drive(work)
            except (SpeechStreamError, ValueError) as error:
                self._voice = None
                self._step(SpeechFailed(v.label, f"the voice failed: {error}", self.now))
                return
            self._voice = replace(v, state=state)
            over = self._core.over(state)
            if over:
                self._voice = None
            for event in events:
                pcm, rate = event.pcm, self.sample_rate  # type: ignore[union-attr]
                words = tuple(
                    SpokenWord(round(w.start * rate), round(w.end * rate), *w.span)
                    for w in event.words  # type: ignore[union-attr]
                    if w.span is not None
                )
                if self.output.put(v.label, pcm):
                    self._step(SpeechReady(v.label, len(pcm), words, self.now))
            if over:
                self._step(SpeechReady(v.label, 0, (), self.now, last=True))
