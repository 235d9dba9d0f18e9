"""The assistant's side of a Realtime connection: its sound, its text and its calls of functions, as they are sent."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

from speechstream.duplex.events import (
    Label,
    Played,
    Say,
    SpeechFailed,
    SpeechReady,
    SpokenWord,
)
from speechstream.duplex.reply import CLOSING
from speechstream.duplex.spoken import AgentSound
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Event, Failed, Word
from speechstream.serve.engine import Stream
from speechstream.serve.realtime import messages
from speechstream.serve.realtime.connection import Connection
from speechstream.serve.realtime.tools import ToolCall
from speechstream.serve.realtime.voice import Encoder, Voice


class Speaking:
    """See the module. voice: the answer that is being given. calls: of functions, by reply."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.voice: Voice | None = None
        self.calls: dict[int, list[ToolCall]] = {}

    def close(self) -> None:
        if self.voice is not None and self.voice.stream is not None:
            self.voice.stream.close()

    def begin(self, label: Label) -> None:
        """A response has begun that speaks with this label."""
        r = self.connection.state.response
        assert r is not None
        spoken = self.connection.spoken
        given = self.connection.engine.synthesizer if spoken is None else spoken.agent
        rate = given.sample_rate
        self.voice = Voice(label, r.id, r.modality, Encoder(rate, r.output), rate)

    async def report(self) -> None:
        """What the client has played since."""
        v, r = self.voice, self.connection.core.reply
        if v is None or r is None or r.label != v.label or v.modality != "audio":
            return
        played = v.play(time.monotonic())
        if played > r.played:
            await self.connection.step(Played(played, v.label.generation, self.connection.now))

    async def say(self, a: Say) -> None:
        v = self.voice
        if v is None or v.label != a.label:
            return
        if v.modality == "text":
            await self.connection.news(messages.Wrote(v.response, a.text))
            if not v.text:  # for the conversation, text that is written has been heard
                self.connection.then(SpeechReady(v.label, 1, (), self.connection.now))
            v.text += a.text
            if a.last:
                await self._said_all(v)
                self.connection.then(SpeechReady(v.label, 0, (), self.connection.now, last=True))
                self.connection.then(Played(1, v.label.generation, self.connection.now))
            return
        if self.connection.spoken is not None:
            first, v.text = not v.text, v.text + a.text
            for sound in self.connection.spoken.sounds if first else ():
                await self.sound(v, sound)
            return
        if v.stream is None:
            try:
                v.stream = self._open_voice()
            except (ValueError, SpeechStreamError) as error:
                self.connection.then(SpeechFailed(v.label, str(error), self.connection.now))
                return
            self.connection.spawn(self._pump(v, v.stream))
        v.text += a.text
        with suppress(SpeechStreamError):  # it has failed, which its last event says
            await v.stream.push(a.text)
        if a.last:
            v.stream.finish()

    def _open_voice(self) -> Stream:
        r = self.connection.state.response
        assert r is not None
        return self.connection.engine.speak(self.connection.protocol.offer.voice(r.voice), r.speed)

    async def _pump(self, v: Voice, stream: Stream) -> None:
        """Take the voice's sound as fast as the client does."""
        try:
            async for event in stream:
                await self.connection.post(partial(self._spoke, v, event))
            await self.connection.post(partial(self._spoke, v, None))
        finally:
            stream.close()

    async def _spoke(self, v: Voice, e: Event | None) -> None:
        """A block of sound, or (None) the end."""
        if v is not self.voice:
            return
        if isinstance(e, Failed):
            await self.connection.step(
                SpeechFailed(v.label, f"the voice failed: {e.message}", self.connection.now)
            )
        elif isinstance(e, Audio):
            words = tuple(
                SpokenWord(round(w.start * v.rate), round(w.end * v.rate), *w.span)
                for w in e.words
                if w.span is not None
            )
            said = v.text[v.told : self._until(v, words)]
            v.told += len(said)
            data = v.encoder.push(e.pcm)
            await self.connection.news(messages.Spoke(v.response, data, len(e.pcm), said, words))
            if not v.sent:
                v.looked = time.monotonic()
            v.sent += len(e.pcm)
            await self.connection.step(
                SpeechReady(v.label, len(e.pcm), words, self.connection.wall())
            )
        elif v.sent:
            rest, v.told = v.text[v.told :], len(v.text)
            await self.connection.news(messages.Spoke(v.response, v.encoder.finish(), 0, rest))
            await self._said_all(v)
        if e is None:
            await self.connection.step(
                SpeechReady(v.label, 0, (), self.connection.wall(), last=True)
            )

    async def sound(self, v: Voice, sound: AgentSound) -> None:
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

    @staticmethod
    def _until(v: Voice, words: tuple[SpokenWord, ...]) -> int:
        """Characters of the text up to the end of these words, with the marks that follow."""
        end = max((w.last for w in words), default=v.told)
        while v.told < end < len(v.text) and v.text[end] in CLOSING:
            end += 1
        return max(end, v.told)

    async def _said_all(self, v: Voice) -> None:
        r = self.connection.core.reply
        failed = r.failed if r is not None and r.label == v.label else ""
        if failed:
            await self.connection.news(messages.Broke(v.response, failed))
        else:
            await self.call(v.label.reply, v)
            await self.connection.news(messages.Answered(v.response))

    async def call(self, reply: int, v: Voice) -> None:
        for call in self.calls.pop(reply, ()):
            await self.connection.news(
                messages.Called(v.response, call.id, call.name, call.arguments)
            )

    async def stop(self, label: Label) -> None:
        v = self.voice
        if v is None or v.label != label:
            return
        self.voice = None
        if v.stream is not None:
            v.stream.close()
        if not self.connection.silencing:
            await self.connection.news(messages.Interrupted(v.response, v.play(time.monotonic())))

    async def failed(self, message: str) -> None:
        v, r = self.voice, self.connection.state.response
        if r is not None and (v is None or v.response == r.id):
            await self.connection.news(messages.Broke(r.id, message))
        else:
            self.connection.complain(message, "server_error")
