"""A conversation with sound: recogniser, voice, agent and output around the state machine.

    session = Session(recognizer, synthesizer, agent)
    session.push(block)              # of the microphone
    speaker.write(session.pull(480)) # of the loudspeaker, at session.sample_rate
    session.close()

It owns no device. Its clock is the number of samples pushed, so a recording runs as fast as it can be computed, in the same
time as live. `pull` may be called from another thread than the rest.

In virtual time everything is computed within `push`, and the same sound gives the same conversation. Live (`beside`) the
recogniser and the voice have threads of their own, so that the microphone is heard in time whatever they are at; `push`,
which cancels the echo and detects speech, takes what they have said since.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.recognizer import Recognizer
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
from speechstream.duplex.ears import Ears
from speechstream.duplex.events import (
    Action,
    Ask,
    Cancel,
    Duck,
    DuplexEvent,
    Foresee,
    Forget,
    Heard,
    Label,
    Pause,
    Played,
    Read,
    Resume,
    Say,
    SpeechReady,
    StopPressed,
    StopSpeaking,
    Tick,
    Typed,
    Unduck,
    VoiceActivity,
)
from speechstream.duplex.mouth import Mouth
from speechstream.duplex.output import Output
from speechstream.duplex.runners import Runner, Threaded
from speechstream.duplex.spoken import AgentSound, SpokenAgent, SpokenRunner, is_spoken
from speechstream.events import Endpoint
from speechstream.runtime.session import load_vad
from speechstream.tts.synthesizer import Synthesizer

STEP_S = 0.02  # the microphone's sound is taken in pieces of this length
# Where somebody speaks into the assistant's voice, the recogniser hears the sound anew from so long before it was noticed.
LOOK_BACK_S = 0.2
RECENT_S = 1.0  # of sound that is kept for that
ATTENDED = (USER, PAUSE, DECIDING)  # phases in which the user's words are wanted
# A stretch of speech is written out soon, for the turn's end is decided here.
RULES = EndpointRules(silence_s=0.32)


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

    @property
    def doubtful(self) -> bool:
        """Whether `voice` may hold some, for its path is not known well yet."""


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


class Session:
    """One conversation. See the module.

    sample_rate_in: of what is pushed. agent: a callable, a Runner, or one that hears and speaks itself (`duplex.spoken`): the
    recogniser then decides about turns, and the voice only apologises. on_event and on_action see all that happens, for
    displays, protocols and measuring. beside: networks run in threads, see the module. Raises ValueError for options that
    the models have not.
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
        beside: bool = False,
    ) -> None:
        self.conversation = Conversation(config)
        self.state = self.conversation.init_state(system)
        self.output = Output(synthesizer.sample_rate)
        self.sample_rate = synthesizer.sample_rate
        self._resampler = Resampler(sample_rate_in, SAMPLE_RATE)
        self._resampling = self._resampler.init_state()
        core = recognizer.core(latency_ms, SAMPLE_RATE, rules=RULES)
        self._ears = Ears(core.telling(recognizer.end_of_turn), beside)
        self._began = 0.0  # when its stream did, in seconds of the microphone's sound
        self._recent: deque[np.ndarray] = deque()  # what the recogniser may have to hear anew
        self._unattended = False  # it has been given what is left when all echo is suppressed
        self._vad = load_vad()
        self._activity = self._vad.init_state()
        self._mouth = Mouth(synthesizer.core(voice=voice, markup="markdown"), self.output, beside)
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
        words, echoing, doubtful = pcm, False, False
        if self.echo is not None:
            clean = self.echo.cancel(pcm, at)
            pcm, words, echoing = clean.voice, clean.words, clean.echoing
            doubtful = clean.doubtful
        self._heard += len(pcm)
        self._report()
        self._wake()
        before = self.state.phase
        windows, self._activity = self._vad.step(pcm[None], self._activity)
        for p in windows[0].tolist():
            self._step(VoiceActivity(p, self.now, doubtful=doubtful))
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
        self._restart(len(back))
        return back

    def _restart(self, back: int = 0) -> None:
        """The recogniser begins anew, with the last `back` samples."""
        self._ears.restart()
        self._began = (self._heard - back) / SAMPLE_RATE

    def _recognize(self, pcm: np.ndarray) -> None:
        self._ears.hear(pcm, self._began + self._offset)
        self._listen()

    def _listen(self) -> None:
        """What the recogniser has said."""
        for event in self._ears.poll(self.now):
            self._step(event)

    @property
    def behind_s(self) -> float:
        """Seconds of the microphone's sound that the recogniser has not heard yet."""
        return self._ears.behind_s

    def tick(self, now: float) -> None:
        """Time has passed though the microphone gave nothing."""
        self._offset += max(now - self.now, 0.0)
        self._report()
        self._wake()
        self.advance()

    def advance(self) -> None:
        """What the recogniser and the agent have said, and the next sound of the voice. `push` and `tick` do it too."""
        self._listen()
        for event in self._runner.poll(self.now):
            if isinstance(event, AgentSound):
                self._sounds.setdefault(event.reply, []).append(event)
                self._play([event])
            else:
                self._step(event)
        for made in self._mouth.made(self.now):
            self._step(made)

    def wait(self) -> None:
        """Until the threads have done what they were asked, for tests and recordings; `advance` then takes it."""
        self._ears.wait()
        self._mouth.wait()

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
        self._ears.close()
        self._mouth.close()

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
        if before.foreseeing and not self.state.foreseeing:
            self._ears.give_up()
        for action in actions:
            if isinstance(action, Foresee):
                self._ears.foresee(action.number)
                self._listen()

    def _do(self, a: Action) -> None:
        if isinstance(a, Forget):
            self._restart()
        elif isinstance(a, Ask):
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
            self._mouth.say(a)
        elif isinstance(a, StopSpeaking):
            self.output.stop(a.label)
            self._mouth.stop()
            self._speaking = None
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
