"""The user's side of a Realtime connection: sound, the stream that hears it, and the words of its items."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from speechstream.duplex.conversation import (
    DECIDING,
    SPEAKING,
    THINKING,
    State as Core,
)
from speechstream.duplex.events import (
    DuplexEvent,
    Foreseen,
    Heard,
    StopPressed,
    Tick,
    VoiceActivity,
)
from speechstream.errors import SpeechStreamError
from speechstream.events import Endpoint, Event, Failed, Final, Partial, SpeechStarted
from speechstream.serve.attentive import Attentive
from speechstream.serve.engine import Refused, Stream
from speechstream.serve.realtime import messages
from speechstream.serve.realtime.connection import ACTIVE, TURN, Connection
from speechstream.serve.realtime.messages import News
from speechstream.serve.realtime.session import TRANSCRIPTION
from speechstream.serve.realtime.stretch import Stretch, behind
from speechstream.serve.sockets import POLICY, Ended

BLOCK_S = 0.25  # of sound is pushed at once: a block that is being heard counts as heard


class Hearing:
    """See the module. fed: sound that is to be pushed into streams, in the client's time."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.ears: Stretch | None = None
        self.fed: list[tuple[Stream, np.ndarray]] = []
        self._clips: set[Stream] = set()
        self._ahead: Stream | None = None  # a twin of the ears, which foresees the end of the turn
        self._appended_s = self._heard_s = 0.0  # seconds of the connection's sound
        self._whole: Event | VoiceActivity | None = None  # what was heard last, unabridged

    def close(self) -> None:
        """Give back the streams of recordings and the twin; those of the ears close with their tasks."""
        self.give_up()
        for stream in self._clips:
            stream.close()

    def hear(self, pcm: np.ndarray) -> None:
        rate = self.connection.session.input.rate
        most = self.connection.engine.limits.session_s
        if self._appended_s > most:
            raise Ended(POLICY, f"a connection may bring {most:g} s of sound")
        if self.ears is None or self.ears.stream.over:
            try:
                self._open_ears()
            except (ValueError, SpeechStreamError) as error:
                self.connection.complain(
                    f"this audio cannot be heard: {error}", "transcription_failed"
                )
                return
        s = self.ears
        assert s is not None
        self.connection.sounded = time.monotonic()
        self._appended_s += len(pcm) / rate
        s.seconds += len(pcm) / rate
        if self.connection.spoken is not None and self.connection.session.type != TRANSCRIPTION:
            self.connection.spoken.instruct(self.connection.session.instructions)
            self.connection.spoken.take(pcm, rate)
            if not s.automatic and self.connection.core.reply is None:
                self.connection.spoken.give()
        size = max(round(BLOCK_S * rate), 1)
        self.fed += [(s.stream, pcm[at : at + size]) for at in range(0, len(pcm), size)]

    def _open_ears(self) -> None:
        engine, s = self.connection.engine, self.connection.session
        words = list(s.transcription.keywords) if s.transcription else []
        core = engine.recognizer.core(s.latency_ms, s.input.rate, words or None, rules=s.rules())
        if s.automatic:
            core = Attentive.of(core.telling(engine.recognizer.end_of_turn))
        stream = engine.hear(core)
        self.ears = Stretch(stream, self._appended_s, s.automatic)
        self.connection.spawn(self._listen(self.ears))

    async def _listen(self, s: Stretch) -> None:
        """Put into the queue what a stream says. It is bounded by what the stream was given."""
        try:
            async for event in s.stream:
                self.connection.put(partial(self._recognized, s, event))
            self.connection.put(partial(self._listened, s))
        finally:
            s.stream.close()

    @property
    def late(self) -> bool:
        """Whether sound that came waits to be heard."""
        return bool(self.fed) or (self.ears is not None and self.ears.stream.waiting_s > 0)

    def close_ears(self) -> None:
        if self.ears is not None:
            self.ears.stream.close()
            self.ears = None

    async def commit(self, item: str) -> None:
        """The client ends the turn, or its settings do."""
        s, self.ears = self.ears, None
        if s is None:
            await self.connection.news(messages.Transcribed(item, "", 0.0))
            return
        if s.automatic and self.connection.core.phase not in ACTIVE:
            s.renew()
        s.item = item
        s.stream.finish()
        await self.connection.leave_turn()

    async def _recognized(self, s: Stretch, e: Event | VoiceActivity) -> None:
        if isinstance(e, SpeechStarted):
            # of the sentence before, which nobody was interested in
            s.stable = s.partial = s.cut = ""
        if s.item is not None:
            await self._committed(s, e)
        elif s is not self.ears:
            return
        elif isinstance(e, Failed):
            self.ears = None
            self.connection.complain(
                f"this audio cannot be heard: {e.message}", "transcription_failed"
            )
        elif s.automatic:
            await self._attend(s, e)
        else:
            await self._write(s, e)

    async def _committed(self, s: Stretch, e: Event | VoiceActivity) -> None:
        assert s.item is not None
        if isinstance(e, Failed):
            await self.connection.news(messages.Unheard(s.item, e.message))
        elif isinstance(e, (Partial, Final)):
            s.note(e)
            await self.connection.news(messages.Words(s.said, s.item))

    async def _listened(self, s: Stretch) -> None:
        """A stream is over."""
        if s.item is not None:
            await self.connection.news(s.transcribed(s.item, s.seconds))

    async def clip(self, c: messages.HearClip) -> None:
        """Hear a recording that is an item."""
        try:
            stream = self.connection.engine.hear_file(None, c.rate)
        except (ValueError, Refused, SpeechStreamError) as error:
            await self.connection.post(
                partial(self.connection.news, messages.Unheard(c.item, str(error)))
            )
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
        await self.connection.post(partial(self.connection.news, news))

    async def _write(self, s: Stretch, e: Event | VoiceActivity) -> None:
        """What was heard, where the client or silence alone ends a turn."""
        turns = self.connection.session.turns
        if isinstance(e, (Partial, Final)):
            s.note(e)
            await self.connection.news(messages.Words(s.said))
        elif turns is None:
            return
        elif isinstance(e, SpeechStarted):
            s.renew()
            s.began = s.offset + e.time
            await self.connection.news(messages.TurnBegan(milliseconds(s.began)))
            if self.connection.session.type != TRANSCRIPTION and turns.interrupt_response:
                await self._interrupt()
        elif isinstance(e, Endpoint):
            end = s.offset + e.decided
            turn = self.connection.state.turn
            await self.connection.news(messages.TurnEnded(milliseconds(end), s.said))
            if turn is not None:
                await self.connection.news(s.transcribed(turn.item, end - s.began))
            s.renew()
            if self.connection.session.type != TRANSCRIPTION and turns.create_response:
                self.connection.unanswered = True
                await self.connection.answer()

    async def _interrupt(self) -> None:
        """A sound ends the speech."""
        if self.connection.core.phase in (THINKING, SPEAKING, DECIDING):
            await self.connection.step(StopPressed(self.connection.wall()))

    async def _attend(self, s: Stretch, e: Event | VoiceActivity) -> None:
        """What was heard, where the conversation decides."""
        self._whole = e
        if isinstance(e, VoiceActivity):
            self.connection.sounded = time.monotonic()
            self._heard_s = s.offset + e.now
            self.connection.reach(self._heard_s)
            await self.connection.report()
            await self.connection.wake()
            await self.connection.step(replace(e, now=self.connection.now))
            if self.connection.spoken is not None:
                self.connection.spoken.reach(self._heard_s, self.connection.core.phase)
            return
        if isinstance(e, (SpeechStarted, Endpoint)):
            s.deaf, s.taken = False, 0
        if isinstance(e, SpeechStarted):
            s.began = s.offset + e.time
            e = replace(e, time=s.began + self.connection.shift)
        if isinstance(e, (Partial, Final)) and (s.deaf or s.taken):
            new = None if s.deaf else behind(e, s.taken)
            if isinstance(e, Final):
                s.taken = 0
            if new is None:
                if s.late is not None:
                    s.note(e)
                    await self.connection.news(messages.Words(s.said, s.late))
                return
            e = new
        await self.connection.step(Heard(e, self.connection.now))  # type: ignore[arg-type]
        if isinstance(e, Endpoint) and s.late is not None:
            item, s.late = s.late, None
            await self.connection.news(s.transcribed(item, self._heard_s - s.began))
            s.renew()

    async def follow(self, s: Stretch, before: Core, after: Core, event: DuplexEvent) -> None:
        """The user's turn begins, goes on and ends with the conversation's step."""
        words = self._whole if isinstance(event, Heard) else None
        open_ = before.segment and not (
            isinstance(event, Heard) and isinstance(event.event, (Endpoint, Failed))
        )
        if before.phase not in ACTIVE and after.phase in ACTIVE:
            if s.late is not None:
                item, s.late = s.late, None
                await self.connection.news(s.transcribed(item, self._heard_s - s.began))
            s.renew()
        if isinstance(words, (Partial, Final)) and (
            s.late or before.phase in ACTIVE or after.phase in ACTIVE
        ):
            s.note(words)
            if s.late:
                await self.connection.news(messages.Words(s.said, s.late))
        turn = self.connection.state.turn
        if after.phase in TURN and turn is None:
            began = s.began if after.segment else self._heard_s - after.run
            await self.connection.news(messages.TurnBegan(milliseconds(began)))
        if after.phase in TURN:
            await self.connection.news(messages.Words(s.said))
        elif turn is not None and turn.vad:
            await self.connection.news(messages.TurnEnded(milliseconds(self._heard_s), s.all))
            if after.segment or open_:  # the recogniser goes on with the sentence
                s.late = turn.item
            else:
                seconds = self._heard_s - s.began
                await self.connection.news(s.transcribed(turn.item, seconds))

    def forget(self, before: Core, event: DuplexEvent) -> None:
        """Of the sentence that is being heard the conversation has taken the words so far, or wants no more."""
        s = self.ears
        if s is None:
            return
        s.deaf = not isinstance(event, (Tick, VoiceActivity, Heard, Foreseen))
        s.taken = len(before.partial.split())

    def foresee(self, number: int) -> None:
        """Let a twin of the stream tell what would be written if nothing more were said."""
        self.give_up()
        s = self.ears
        if s is not None and not s.stream.over and not s.stream.finished:
            with suppress(Refused):
                self._ahead = s.stream.fork()
                self.connection.spawn(self._twin(s, self._ahead, number))

    def give_up(self) -> None:
        """Nobody waits for what was to be foreseen: its twin gives its place back."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    async def _twin(self, s: Stretch, twin: Stream, number: int) -> None:
        twin.finish()
        try:
            found = [e async for e in twin]
        finally:
            given_up = twin is not self._ahead
            twin.close()
        if given_up:
            return
        self._ahead = None
        if any(isinstance(e, Failed) for e in found):
            return  # no slot is free: the conversation waits for the recogniser instead
        said = [e for e in found if isinstance(e, Final)]
        text = " ".join(e.text for e in said)
        end_of_turn = said[-1].end_of_turn if said else None

        async def tell() -> None:
            if s is self.ears:
                now = self.connection.wall()
                await self.connection.step(Foreseen(text, now, end_of_turn, number))

        self.connection.put(tell)


def milliseconds(seconds: float) -> int:
    return max(round(seconds * 1000), 0)
