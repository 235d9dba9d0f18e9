"""What a Realtime connection does: it drives the protocol, the conversation, and the engine's streams.

`Talk` has no thread and no socket. Whatever happens is put into one queue and done in order: a client's event, what
was heard, a piece of an answer, sound of the voice, a timer. The turns of a conversation are decided by
`duplex.conversation`, as in `speechstream talk`, wherever the session lets it create responses and interrupt them.

A client plays what it is sent by itself, and says nothing of it: it is taken to play at once and in real time, until
it truncates.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from speechstream.duplex.conversation import (
    DECIDING,
    PAUSE,
    SPEAKING,
    THINKING,
    USER,
    Conversation,
    State as Core,
)
from speechstream.duplex.events import (
    Action,
    AgentEnd,
    AgentFailed,
    AgentText,
    Ask,
    Cancel,
    DuplexEvent,
    Error,
    Foresee,
    Foreseen,
    Forget,
    Heard,
    Label,
    Played,
    Say,
    SpeechFailed,
    SpeechReady,
    SpokenWord,
    StopPressed,
    StopSpeaking,
    Tick,
    Typed,
    VoiceActivity,
)
from speechstream.duplex.reply import CLOSING
from speechstream.duplex.spoken import AgentSound, SpokenEvent, is_spoken
from speechstream.errors import SpeechStreamError
from speechstream.events import (
    Audio,
    Endpoint,
    Event,
    Failed,
    Final,
    Partial,
    SpeechStarted,
    Word,
)
from speechstream.serve import realtime_messages as messages
from speechstream.serve.attentive import Attentive
from speechstream.serve.engine import Engine, Refused, Stream
from speechstream.serve.realtime_items import State
from speechstream.serve.realtime_messages import News
from speechstream.serve.realtime_protocol import Protocol
from speechstream.serve.realtime_session import TRANSCRIPTION, Json, Session
from speechstream.serve.realtime_spoken import Spoken
from speechstream.serve.realtime_stretch import Stretch, behind
from speechstream.serve.realtime_thinking import Agent, Thinking
from speechstream.serve.realtime_tools import ToolCall
from speechstream.serve.realtime_voice import Encoder, Voice
from speechstream.serve.sockets import POLICY, Ended

TURN, ACTIVE = (USER, PAUSE), (USER, PAUSE, DECIDING)
QUIET_S = 0.25  # without sound, after which the clock goes on by itself
TICK_S = 0.1  # between two looks at what was played
KEPT = (
    20  # messages of the conversation's own history; the protocol's items are what an agent is told
)
PROMPT = "go on"  # stands for a turn that the client describes by its items


class Talk:
    """One connection. `run` works until it raises; `event` gives it a client's message.

    send: takes a server event, and waits while the client is slow. agent: who answers.
    """

    def __init__(
        self,
        engine: Engine,
        rules: Protocol,
        opening: tuple[list[Any], State],
        agent: Agent,
        send: Callable[[Mapping[str, Any]], Awaitable[None]],
    ):
        self.engine, self.protocol, self.agent = engine, rules, agent
        self._out, self.state = list(opening[0]), opening[1]
        self._send = send
        self._inbox: asyncio.Queue[tuple[Callable[[], Awaitable[None]], asyncio.Event | None]]
        self._inbox = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.conversation = Conversation(self.session.conversation())
        self.core = self.conversation.init_state()
        self._todo: deque[DuplexEvent] = deque()
        self._stepping = False
        self._ears: Stretch | None = None
        self._fed: list[tuple[Stream, np.ndarray]] = []  # sound that is to be pushed
        self._clips: set[Stream] = set()
        self._appended_s = self._heard_s = 0.0  # seconds of the connection's sound
        self.now = self._shift = 0.0  # the conversation's clock, and its lead on the sound
        self._moved = self._sounded = time.monotonic()
        self._asked = False  # by the client, for a response that is begun
        self._calls: dict[int, list[ToolCall]] = {}  # of functions, in replies; those
        self._only: set[int] = set()  # that are nothing else
        self._silencing = False  # the client ends the speech, not the user
        self._unanswered = False  # a turn ended during a response
        self._voice: Voice | None = None
        self._thinking = Thinking(agent, self._agent_said)
        self._loop = asyncio.get_running_loop()
        self._spoken = Spoken(agent, self._agent_spoke) if is_spoken(agent) else None
        self._whole: Event | VoiceActivity | None = None  # what was heard last, unabridged

    @property
    def session(self) -> Session:
        return self.state.session

    # The queue

    async def run(self) -> None:
        """Do what comes, one after the other, and send what follows."""
        try:
            await self._flush()
            while True:
                do, done = await self._inbox.get()
                await do()
                await self._flush()
                self._wind()
                if done is not None:
                    done.set()
        finally:
            self.close()

    async def event(self, event: Any) -> None:
        """A client's event, parsed; returns when it has been dealt with."""
        await self._post(partial(self._news, messages.Client(event)))
        fed, self._fed = self._fed, []
        for (
            stream,
            block,
        ) in fed:  # here, so that what is heard of a long block can be told meanwhile
            with suppress(
                SpeechStreamError
            ):  # it has failed, which its last event says, or was dropped
                await stream.push(block)
            self._sounded = time.monotonic()

    async def nonsense(self, message: str) -> None:
        """A client's message that is no event."""

        async def tell() -> None:
            self._complain(message, "invalid_json")

        await self._post(tell)

    async def rest(self, longest_s: float) -> None:
        """Wait until nothing is being answered or written down, so long at most."""
        until = time.monotonic() + longest_s
        while (self.state.response or self.state.owed) and time.monotonic() < until:
            await asyncio.sleep(TICK_S)

    def close(self) -> None:
        """Give back all streams."""
        if self._timer is not None:
            self._timer.cancel()
        self._thinking.close()
        if self._spoken is not None:
            self._spoken.close()
        for task in self._tasks:
            task.cancel()
        for stream in self._clips:
            stream.close()
        if self._voice is not None and self._voice.stream is not None:
            self._voice.stream.close()

    async def _post(self, do: Callable[[], Awaitable[None]]) -> None:
        done = asyncio.Event()
        self._inbox.put_nowait((do, done))
        await done.wait()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        out, self._out = self._out, []
        for event in out:
            await self._send(event)

    async def _news(self, x: News) -> None:
        out, self.state = self.protocol.step(x, self.state)
        for one in out:
            if isinstance(one, dict):
                self._out.append(one)
            else:
                await self._do(one)

    def _complain(self, message: str, code: str) -> None:
        out, self.state = self.protocol.refused(message, self.state, code)
        self._out += out

    # Commands of the protocol

    async def _do(self, c: messages.Command) -> None:
        if isinstance(c, messages.Hear):
            self._hear(c.pcm)
        elif isinstance(c, messages.Commit):
            await self._commit(c.item)
        elif isinstance(c, messages.HearClip):
            self._spawn(self._clip(c))
        elif isinstance(c, messages.Forget):
            self._close_ears()
            if self._spoken is not None:
                self._spoken.clear()
            await self._leave_turn()
        elif isinstance(c, messages.Configure):
            await self._configure(c.before)
        elif isinstance(c, messages.Answer):
            self._asked = True
            self._silencing = True
            await self._step(Typed(PROMPT, self._wall()))
            self._silencing = False
        elif isinstance(c, messages.Stop):
            self._silencing = True
            await self._step(StopPressed(self._wall()))
            self._silencing = False

    async def _configure(self, before: Session) -> None:
        now = self.session
        if now.automatic != before.automatic:
            await self._leave_turn()
        self.conversation = Conversation(now.conversation())
        heard = ("type", "input", "turns", "transcription")
        if any(getattr(now, n) != getattr(before, n) for n in heard):
            if self._ears is not None and self.state.turn is None:
                self._close_ears()

    async def _leave_turn(self) -> None:
        """The user's turn of which the conversation knows does not count."""
        if self.core.phase in TURN:
            await self._step(StopPressed(self.now))

    # Ears

    def _hear(self, pcm: np.ndarray) -> None:
        rate = self.session.input.rate
        most = self.engine.limits.session_s
        if self._appended_s > most:
            raise Ended(POLICY, f"a connection may bring {most:g} s of sound")
        if self._ears is None or self._ears.stream.over:
            try:
                self._open_ears()
            except (ValueError, SpeechStreamError) as error:
                self._complain(f"this audio cannot be heard: {error}", "transcription_failed")
                return
        s = self._ears
        assert s is not None
        self._sounded = time.monotonic()
        self._appended_s += len(pcm) / rate
        s.seconds += len(pcm) / rate
        if self._spoken is not None and self.session.type != TRANSCRIPTION:
            self._spoken.instruct(self.session.instructions)
            self._spoken.take(pcm, rate)
            if not s.automatic and self.core.reply is None:
                self._spoken.give()
        self._fed += [(s.stream, pcm[at : at + rate]) for at in range(0, len(pcm), rate)]

    def _open_ears(self) -> None:
        engine, s = self.engine, self.session
        words = list(s.transcription.keywords) if s.transcription else []
        core = engine.recognizer.core(s.latency_ms, s.input.rate, words or None, rules=s.rules())
        if s.automatic:
            core = Attentive.of(core.telling(engine.recognizer.end_of_turn))
        stream = engine.hear(core)
        self._ears = Stretch(stream, self._appended_s, s.automatic)
        self._spawn(self._listen(self._ears))

    async def _listen(self, s: Stretch) -> None:
        """Put into the queue what a stream says. It is bounded by what the stream was given."""
        try:
            async for event in s.stream:
                self._inbox.put_nowait((partial(self._recognized, s, event), None))
            self._inbox.put_nowait((partial(self._listened, s), None))
        finally:
            s.stream.close()

    def _close_ears(self) -> None:
        if self._ears is not None:
            self._ears.stream.close()
            self._ears = None

    async def _commit(self, item: str) -> None:
        """The client ends the turn, or its settings do."""
        s, self._ears = self._ears, None
        if s is None:
            await self._news(messages.Transcribed(item, "", 0.0))
            return
        if s.automatic and self.core.phase not in ACTIVE:
            s.renew()
        s.item = item
        s.stream.finish()
        await self._leave_turn()

    async def _recognized(self, s: Stretch, e: Event | VoiceActivity) -> None:
        if isinstance(e, SpeechStarted):
            s.stable = s.partial = s.cut = (
                ""  # of the sentence before, which nobody was interested in
            )
        if s.item is not None:
            await self._committed(s, e)
        elif s is not self._ears:
            return
        elif isinstance(e, Failed):
            self._ears = None
            self._complain(f"this audio cannot be heard: {e.message}", "transcription_failed")
        elif s.automatic:
            await self._attend(s, e)
        else:
            await self._write(s, e)

    async def _committed(self, s: Stretch, e: Event | VoiceActivity) -> None:
        assert s.item is not None
        if isinstance(e, Failed):
            await self._news(messages.Unheard(s.item, e.message))
        elif isinstance(e, (Partial, Final)):
            s.note(e)
            await self._news(messages.Words(s.said, s.item))

    async def _listened(self, s: Stretch) -> None:
        """A stream is over."""
        if s.item is not None:
            await self._news(s.transcribed(s.item, s.seconds))

    async def _clip(self, c: messages.HearClip) -> None:
        """Hear a recording that is an item."""
        try:
            stream = self.engine.hear_file(None, c.rate)
        except (ValueError, Refused, SpeechStreamError) as error:
            await self._post(partial(self._news, messages.Unheard(c.item, str(error))))
            return
        self._clips.add(stream)
        try:
            await stream.push(c.pcm)
            stream.finish()
            events = [e async for e in stream]
        finally:
            self._clips.discard(stream)
            stream.close()
        news: News = messages.Transcribed(
            c.item, " ".join(e.text for e in events if isinstance(e, Final)), len(c.pcm) / c.rate
        )
        if events and isinstance(events[-1], Failed):
            news = messages.Unheard(c.item, events[-1].message)
        await self._post(partial(self._news, news))

    async def _write(self, s: Stretch, e: Event | VoiceActivity) -> None:
        """What was heard, where the client or silence alone ends a turn."""
        turns = self.session.turns
        if isinstance(e, (Partial, Final)):
            s.note(e)
            await self._news(messages.Words(s.said))
        elif turns is None:
            return
        elif isinstance(e, SpeechStarted):
            s.renew()
            s.began = s.offset + e.time
            await self._news(messages.TurnBegan(_ms(s.began)))
            if self.session.type != TRANSCRIPTION and turns.interrupt_response:
                await self._interrupt()
        elif isinstance(e, Endpoint):
            end = s.offset + e.decided
            turn = self.state.turn
            await self._news(messages.TurnEnded(_ms(end), s.said))
            if turn is not None:
                await self._news(s.transcribed(turn.item, end - s.began))
            s.renew()
            if self.session.type != TRANSCRIPTION and turns.create_response:
                self._unanswered = True
                await self._answer()

    async def _interrupt(self) -> None:
        """A sound ends the speech."""
        if self.core.phase in (THINKING, SPEAKING, DECIDING):
            await self._step(StopPressed(self._wall()))

    async def _answer(self) -> None:
        """Answer the turns that no answer was given to, when nothing is being said."""
        if self._unanswered and self.state.response is None and not self.session.automatic:
            self._unanswered = False
            await self._news(messages.Client({"type": "response.create"}))

    async def _attend(self, s: Stretch, e: Event | VoiceActivity) -> None:
        """What was heard, where the conversation decides."""
        self._whole = e
        if isinstance(e, VoiceActivity):
            self._sounded = time.monotonic()
            self._heard_s = s.offset + e.now
            self._reach(self._heard_s)
            await self._report()
            await self._wake()
            await self._step(replace(e, now=self.now))
            if self._spoken is not None:
                self._spoken.reach(self._heard_s, self.core.phase)
            return
        if isinstance(e, (SpeechStarted, Endpoint)):
            s.deaf, s.taken = False, 0
        if isinstance(e, SpeechStarted):
            s.began = s.offset + e.time
            e = replace(e, time=s.began + self._shift)
        if isinstance(e, (Partial, Final)) and (s.deaf or s.taken):
            new = None if s.deaf else behind(e, s.taken)
            if isinstance(e, Final):
                s.taken = 0
            if new is None:
                if s.late is not None:
                    s.note(e)
                    await self._news(messages.Words(s.said, s.late))
                return
            e = new
        await self._step(Heard(e, self.now))  # type: ignore[arg-type]
        if isinstance(e, Endpoint) and s.late is not None:
            item, s.late = s.late, None
            await self._news(s.transcribed(item, self._heard_s - s.began))
            s.renew()

    # The clock

    def _reach(self, heard: float) -> None:
        """The clock follows the sound."""
        at = heard + self._shift
        if at < self.now:
            self._shift += self.now - at
        self.now = max(self.now, at)
        self._moved = time.monotonic()

    def _wall(self) -> float:
        """The time now; without sound it goes on as the wall's."""
        wall = time.monotonic()
        if not self.session.automatic or wall - self._sounded > QUIET_S:
            self.now += wall - self._moved
            self._moved = wall
        return self.now

    def _wind(self) -> None:
        """Be woken when something follows from time alone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waits = []
        if self.core.timer is not None:
            waits.append(max(self.core.timer - self.now, TICK_S / 2))
        if self.core.phase in (SPEAKING, DECIDING):
            waits.append(TICK_S)
        if waits:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(waits), self._inbox.put_nowait, (self._tick, None))

    async def _tick(self) -> None:
        self._wall()
        await self._report()
        await self._wake()

    async def _wake(self) -> None:
        if self.core.timer is not None and self.core.timer <= self.now:
            await self._step(Tick(self.now))

    async def _report(self) -> None:
        """What the client has played since."""
        v, r = self._voice, self.core.reply
        if v is None or r is None or r.label != v.label or v.modality != "audio":
            return
        played = v.play(time.monotonic())
        if played > r.played:
            await self._step(Played(played, v.label.generation, self.now))

    # The conversation

    async def _step(self, event: DuplexEvent) -> None:
        """One step of the conversation; those that follow from it come after all its actions."""
        self._todo.append(event)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._todo:
                event = self._todo.popleft()
                before = self.core
                actions, after = self.conversation.step(event, before)
                self.core = replace(after, history=after.history[-KEPT:])
                if self._spoken is not None:
                    self._spoken.follow(before, after, self._silencing)
                if any(isinstance(a, Forget) for a in actions):
                    self._forget(before, event)
                await self._follow(before, after, event)
                for action in actions:
                    await self._act(action)
        finally:
            self._stepping = False
        await self._answer()

    async def _follow(self, before: Core, after: Core, event: DuplexEvent) -> None:
        """Turns and answers begin and end: say so."""
        s = self._ears
        if s is not None and s.automatic:
            await self._follow_turn(s, before, after, event)
        label = after.reply.label if after.reply is not None else None
        if label is None or (before.reply is not None and before.reply.label == label):
            return
        assert after.reply is not None
        if after.reply.apology:  # said as a failed response
            self._todo.append(StopPressed(self.now))
            return
        if not self._asked:
            await self._news(messages.Answering())
        self._asked = False
        r = self.state.response
        assert r is not None
        given = self.engine.synthesizer if self._spoken is None else self._spoken.agent
        rate = given.sample_rate
        self._voice = Voice(label, r.id, r.modality, Encoder(rate, r.output), rate)
        if after.reply.id in self._only:
            self._inbox.put_nowait((partial(self._call_only, label.reply), None))

    async def _follow_turn(self, s: Stretch, before: Core, after: Core, event: DuplexEvent) -> None:
        words = self._whole if isinstance(event, Heard) else None
        open_ = before.segment and not (
            isinstance(event, Heard) and isinstance(event.event, (Endpoint, Failed))
        )
        if before.phase not in ACTIVE and after.phase in ACTIVE:
            if s.late is not None:
                item, s.late = s.late, None
                await self._news(s.transcribed(item, self._heard_s - s.began))
            s.renew()
        if isinstance(words, (Partial, Final)) and (
            s.late or before.phase in ACTIVE or after.phase in ACTIVE
        ):
            s.note(words)
            if s.late:
                await self._news(messages.Words(s.said, s.late))
        turn = self.state.turn
        if after.phase in TURN and turn is None:
            began = s.began if after.segment else self._heard_s - after.run
            await self._news(messages.TurnBegan(_ms(began)))
        if after.phase in TURN:
            await self._news(messages.Words(s.said))
        elif turn is not None and turn.vad:
            await self._news(messages.TurnEnded(_ms(self._heard_s), s.all))
            if after.segment or open_:  # the recogniser goes on with the sentence
                s.late = turn.item
            else:
                seconds = self._heard_s - s.began
                await self._news(s.transcribed(turn.item, seconds))

    async def _act(self, a: Action) -> None:
        if isinstance(a, Ask):
            by = self.state.response or self.session
            if self._spoken is not None:
                self._ask_spoken(self._spoken, a.reply, by.voice, by.modality == "audio")
                return
            self._thinking.ask(a.reply, self._messages(), by.tools, by.tool_choice)
        elif isinstance(a, Cancel):
            if self._spoken is not None:
                self._spoken.cancel(a.reply)
            self._thinking.cancel(a.reply)
            self._calls.pop(a.reply, None)
            self._only.discard(a.reply)
        elif isinstance(a, Say):
            await self._say(a)
        elif isinstance(a, StopSpeaking):
            await self._stop(a.label)
        elif isinstance(a, Foresee):
            self._foresee()
        elif isinstance(a, Error):
            await self._failed(a.text)

    def _forget(self, before: Core, event: DuplexEvent) -> None:
        """Of the sentence that is being heard the conversation has taken the words so far, or wants no more."""
        s = self._ears
        if s is None:
            return
        s.deaf = not isinstance(event, (Tick, VoiceActivity, Heard, Foreseen))
        s.taken = len(before.partial.split())

    def _foresee(self) -> None:
        """Let a twin of the stream tell what would be written if nothing more were said."""
        s = self._ears
        if s is not None and not s.stream.over and not s.stream.finished:
            with suppress(Refused):
                self._spawn(self._twin(s, s.stream.fork()))

    async def _twin(self, s: Stretch, twin: Stream) -> None:
        twin.finish()
        try:
            found = [e async for e in twin]
        finally:
            twin.close()
        if any(isinstance(e, Failed) for e in found):
            return  # no slot is free: the conversation waits for the recogniser instead
        said = [e for e in found if isinstance(e, Final)]
        text = " ".join(e.text for e in said)
        end_of_turn = said[-1].end_of_turn if said else None

        async def tell() -> None:
            if s is self._ears:
                await self._step(Foreseen(text, self._wall(), end_of_turn))

        self._inbox.put_nowait((tell, None))

    def _messages(self) -> tuple[Json, ...]:
        """What the agent is told: the items, and the turn that goes on."""
        s = self._ears
        going = self.state.turn is not None and self.state.response is None
        return self.protocol.messages(self.state, s.all if s is not None and going else "")

    async def _failed(self, message: str) -> None:
        v, r = self._voice, self.state.response
        if r is not None and (v is None or v.response == r.id):
            await self._news(messages.Broke(r.id, message))
        else:
            self._complain(message, "server_error")

    def _agent_said(self, kind: type, reply: int, said: Any) -> None:
        """On the loop."""
        self._inbox.put_nowait((partial(self._take, kind, reply, said), None))

    async def _take(self, kind: type, reply: int, said: Any) -> None:
        now, r = self._wall(), self.core.reply
        if kind is AgentText:
            await self._step(AgentText(reply, said, now))
            return
        if kind is not ToolCall:
            self._thinking.over(reply)
        if r is None or r.id != reply:
            return
        if kind is ToolCall:
            self._calls.setdefault(reply, []).append(said)
            return
        if kind is AgentFailed:
            await self._step(AgentFailed(reply, said, now))
        elif reply in self._calls and not r.text.strip():  # for the conversation it has not ended
            self._only.add(reply)
            if r.label is not None:
                await self._call_only(reply)
        else:
            await self._step(AgentEnd(reply, now))

    async def _call_only(self, reply: int) -> None:
        """The answer is nothing but calls: there is nothing to be said."""
        self._only.discard(reply)
        v = self._voice
        if v is None or v.label.reply != reply:
            return  # stopped meanwhile
        await self._call(reply, v)
        await self._news(messages.Answered(v.response))
        self._silencing = True
        await self._step(StopPressed(self.now))
        self._silencing = False

    async def _call(self, reply: int, v: Voice) -> None:
        for call in self._calls.pop(reply, ()):
            await self._news(messages.Called(v.response, call.id, call.name, call.arguments))

    # An agent that hears and speaks itself

    def _ask_spoken(self, spoken: Spoken, reply: int, voice: str, aloud: bool) -> None:
        spoken.instruct(self.session.instructions)
        if not self.session.automatic:
            spoken.give()
        spoken.ask(reply, self._messages(), self.protocol.offer.voice(voice), aloud)

    def _agent_spoke(self, event: SpokenEvent) -> None:
        """On the agent's thread."""

        def put() -> None:
            self._inbox.put_nowait((partial(self._hear_agent, event), None))

        with suppress(RuntimeError):  # the loop is over
            self._loop.call_soon_threadsafe(put)

    async def _hear_agent(self, event: SpokenEvent) -> None:
        spoken, r = self._spoken, self.core.reply
        assert spoken is not None
        if r is None or r.id != event.reply:
            return  # nobody waits for it
        if isinstance(event, AgentSound):
            spoken.sounds.append(event)
            v = self._voice
            if v is not None and v.label.reply == event.reply and v.text:
                await self._sounded_by_agent(v, event)
        else:
            await self._step(replace(event, now=self._wall()))

    async def _sounded_by_agent(self, v: Voice, sound: AgentSound) -> None:
        """A block of the agent's own speech, as though a voice had read its text."""
        if v.modality == "audio":
            words = tuple(
                Word(
                    v.text[w.first : w.last],
                    w.start / v.rate,
                    w.end / v.rate,
                    span=(w.first, w.last),
                )
                for w in sound.words
            )
            if len(sound.pcm):
                await self._spoke(v, Audio(sound.pcm, v.sent / v.rate, words))
            if sound.last:
                await self._spoke(v, None)

    # The voice

    async def _say(self, a: Say) -> None:
        v = self._voice
        if v is None or v.label != a.label:
            return
        if v.modality == "text":
            await self._news(messages.Wrote(v.response, a.text))
            if not v.text:  # for the conversation, text that is written has been heard
                self._todo.append(SpeechReady(v.label, 1, (), self.now))
            v.text += a.text
            if a.last:
                await self._said_all(v)
                self._todo.append(SpeechReady(v.label, 0, (), self.now, last=True))
                self._todo.append(Played(1, v.label.generation, self.now))
            return
        if self._spoken is not None:
            first, v.text = not v.text, v.text + a.text
            for sound in self._spoken.sounds if first else ():
                await self._sounded_by_agent(v, sound)
            return
        if v.stream is None:
            try:
                v.stream = self._open_voice()
            except (ValueError, SpeechStreamError) as error:
                self._todo.append(SpeechFailed(v.label, str(error), self.now))
                return
            self._spawn(self._pump(v, v.stream))
        v.text += a.text
        with suppress(SpeechStreamError):  # it has failed, which its last event says
            await v.stream.push(a.text)
        if a.last:
            v.stream.finish()

    def _open_voice(self) -> Stream:
        r = self.state.response
        assert r is not None
        return self.engine.speak(self.protocol.offer.voice(r.voice), r.speed)

    async def _pump(self, v: Voice, stream: Stream) -> None:
        """Take the voice's sound as fast as the client does."""
        try:
            async for event in stream:
                await self._post(partial(self._spoke, v, event))
            await self._post(partial(self._spoke, v, None))
        finally:
            stream.close()

    async def _spoke(self, v: Voice, e: Event | None) -> None:
        """A block of sound, or (None) the end."""
        if v is not self._voice:
            return
        if isinstance(e, Failed):
            await self._step(SpeechFailed(v.label, f"the voice failed: {e.message}", self.now))
        elif isinstance(e, Audio):
            words = tuple(
                SpokenWord(round(w.start * v.rate), round(w.end * v.rate), *w.span)
                for w in e.words
                if w.span is not None
            )
            said = v.text[v.told : self._until(v, words)]
            v.told += len(said)
            data = v.encoder.push(e.pcm)
            await self._news(messages.Spoke(v.response, data, len(e.pcm), said, words))
            if not v.sent:
                v.looked = time.monotonic()
            v.sent += len(e.pcm)
            await self._step(SpeechReady(v.label, len(e.pcm), words, self._wall()))
        elif v.sent:
            rest, v.told = v.text[v.told :], len(v.text)
            await self._news(messages.Spoke(v.response, v.encoder.finish(), 0, rest))
            await self._said_all(v)
        if e is None:
            await self._step(SpeechReady(v.label, 0, (), self._wall(), last=True))

    @staticmethod
    def _until(v: Voice, words: tuple[SpokenWord, ...]) -> int:
        """Characters of the text up to the end of these words, with the marks that follow."""
        end = max((w.last for w in words), default=v.told)
        while v.told < end < len(v.text) and v.text[end] in CLOSING:
            end += 1
        return max(end, v.told)

    async def _said_all(self, v: Voice) -> None:
        r = self.core.reply
        failed = r.failed if r is not None and r.label == v.label else ""
        if failed:
            await self._news(messages.Broke(v.response, failed))
        else:
            await self._call(v.label.reply, v)
            await self._news(messages.Answered(v.response))

    async def _stop(self, label: Label) -> None:
        v = self._voice
        if v is None or v.label != label:
            return
        self._voice = None
        if v.stream is not None:
            v.stream.close()
        if not self._silencing:
            await self._news(messages.Interrupted(v.response, v.play(time.monotonic())))


def _ms(seconds: float) -> int:
    return max(round(seconds * 1000), 0)
