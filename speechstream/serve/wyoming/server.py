"""Wyoming, the voice protocol of Home Assistant, on a TCP port of its own: recognition and synthesis.

    async with start(engine, listening("127.0.0.1", 10300)): ...

`Connection` joins `wyoming_protocol` with a socket and the engine. What a client asks for is done in order, one
recognition and one synthesis at a time, which may overlap. An error is told in one `error` event and ends the
connection: clients that pass over that event wait for an answer or the end.

Needs `pip install speechstream[serve]`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream.errors import SpeechStreamError

try:
    from wyoming.event import Event
except ImportError as missing:
    raise SpeechStreamError(
        "the Wyoming server needs the package wyoming; pip install speechstream[serve]"
    ) from missing

from wyoming.asr import Transcript, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.tts import SynthesizeStopped

from speechstream.asr.biasing import HotWords
from speechstream.events import Audio, Failed
from speechstream.serve.engine import Engine, Limits, Refused, Stream
from speechstream.serve.sockets import within
from speechstream.serve.wyoming.frames import ProtocolError, encoded, read_event
from speechstream.serve.wyoming.protocol import (
    Command,
    EndListening,
    EndSpeaking,
    Hear,
    Listen,
    Protocol,
    Say,
    Send,
    Speak,
    State,
    Writing,
    blocks,
    describe,
)

HEADER_BYTES = 64 << 10  # of an event besides its text
PAYLOAD_BYTES = 4 << 20  # of an event at most: two minutes at 16 kHz
SPARE = 64  # connections beyond the seats: they ask what there is, or wait
# What the kernel keeps for a client: sound is not made far ahead of a slow one.
SEND_BYTES = 64 << 10
# What still comes after an error is read so long, or the client's system drops the error with it.
LINGER_S = 2.0
_log = logging.getLogger("speechstream.serve")


class TooSlow(SpeechStreamError):
    """A client does not read."""


class Idle(SpeechStreamError):
    """A client sends nothing."""


@dataclass(frozen=True)
class Job:
    """A stream of the engine, and who writes what it says."""

    stream: Stream
    task: asyncio.Task[None]


class Connection:
    """One client."""

    def __init__(
        self,
        engine: Engine,
        protocol: Protocol,
        latency_ms: int | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ):
        self._engine, self._protocol, self._latency_ms = engine, protocol, latency_ms
        self._reader, self._writer = reader, writer
        self._limits = engine.limits
        self._state = State()
        self._hearing: Job | None = None
        self._speaking: Job | None = None
        self._sending = asyncio.Lock()
        self._error: Exception | None = None
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None  # for the client's next event

    async def run(self, refused: Refused | None = None) -> None:
        """Serve until the client goes or an error ends it. refused: there is no room."""
        try:
            if refused is not None:
                self._error = refused
            else:
                await self._serve()
            self._give_up()
            if self._jobs:
                await asyncio.wait([job.task for job in self._jobs])
            if isinstance(self._error, SpeechStreamError):
                await self._tell(self._error)
            self._writer.close()
            await within(self._limits.slow_s, self._writer.wait_closed())
        except (OSError, asyncio.TimeoutError):
            self._writer.transport.abort()
        except BaseException:  # the server ends: what was written still leaves
            self._writer.close()
            raise
        finally:
            self._give_up()

    async def _serve(self) -> None:
        self._reading = asyncio.ensure_future(self._guarded(self._read))
        self._watch()
        await asyncio.wait([self._reading])
        # Who has sent all may have closed one direction only, and wait for the answer.
        ended = [job.task for job in self._jobs if job.stream.finished]
        if ended and self._error is None:
            await asyncio.wait(ended)

    @property
    def _jobs(self) -> list[Job]:
        return [job for job in (self._hearing, self._speaking) if job is not None]

    def _give_up(self) -> None:
        """Stop all work."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
        for job in self._jobs:
            job.task.cancel()

    async def _guarded(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do a part of the work; what goes wrong there ends the connection."""
        try:
            await work(*arguments)
        except Exception as error:
            if not isinstance(error, (SpeechStreamError, OSError)):
                _log.exception("a Wyoming connection has failed")
                error = SpeechStreamError("the server has failed at this request")
            if self._error is None:
                self._error = error
            if self._reading is not None and self._reading is not asyncio.current_task():
                self._reading.cancel()

    # Reading

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        data_bytes = _header_bytes(self._limits)
        payload_bytes = min(PAYLOAD_BYTES, self._limits.message_bytes)
        while True:
            self._waits_since = loop.time()
            event = await read_event(self._reader, data_bytes, payload_bytes)
            self._waits_since = None
            if event is None:
                return
            commands, self._state = self._protocol.step(event, self._state)
            for command in commands:
                await self._do(command)
            await asyncio.sleep(0)  # events that lie there already must not keep others waiting

    def _watch(self) -> None:
        """Look from time to time whether the client still sends."""
        loop, limit = asyncio.get_running_loop(), self._limits.idle_s
        since = self._waits_since
        answering = any(job.stream.finished and not job.task.done() for job in self._jobs)
        quiet = 0.0 if since is None or answering else loop.time() - since
        if quiet >= limit:
            if self._error is None:
                self._error = Idle(f"nothing came for {limit:g} s, so the connection ends")
            assert self._reading is not None
            self._reading.cancel()
        else:
            self._timer = loop.call_later(limit - quiet, self._watch)

    async def _do(self, command: Command) -> None:
        match command:
            case Send(event):
                await self._send(event)
            case Listen():
                await self._listen(command)
            case Hear() if self._hearing is not None:
                for block in blocks(command):
                    await self._hearing.stream.push(block)
                    await asyncio.sleep(0)
            case EndListening() if self._hearing is not None:
                self._hearing.stream.finish()
            case Speak(voice, markup, streamed):
                await _over(self._speaking)
                self._speaking = self._begin(
                    lambda: self._engine.speak(voice, markup=markup), self._say, streamed
                )
            case Say(text) if self._speaking is not None:
                await self._speaking.stream.push(text)
            case EndSpeaking() if self._speaking is not None:
                self._speaking.stream.finish()

    async def _listen(self, command: Listen) -> None:
        await _over(self._hearing)
        engine, rate = self._engine, command.format.rate
        words = await asyncio.to_thread(self._compiled, command)
        self._hearing = self._begin(
            lambda: engine.listen(self._latency_ms, rate, hotwords=words),
            self._write,
            command.language,
        )

    def _compiled(self, command: Listen) -> HotWords | None:
        """Hot words of the request and of the server, ready for the recogniser: many take a while.

        None: those of the server alone.
        """
        asr = self._engine.recognizer
        if not command.phrases or (asr.hotwords is not None and asr.hotwords.closed):
            return None
        ours = () if asr.hotwords is None else asr.hotwords.phrases
        words = HotWords(ours + tuple((text, 1.0) for text in command.phrases))
        try:
            asr.core(self._latency_ms, command.format.rate, hotwords=words)
        except ValueError as error:  # names help, and are not needed
            _log.warning("a request's names are not used as hot words: %s", str(error)[:80])
            return None
        return words

    def _begin(
        self, opened: Callable[[], Stream], work: Callable[..., Awaitable[None]], *arguments: Any
    ) -> Job:
        """Take a seat, open a stream and let its words or its sound be written. work: is given the stream and what gives
        both back."""
        with ExitStack() as stack:
            stack.enter_context(self._engine.seat("wyoming"))
            stream = opened()
            stack.callback(stream.close)
            kept = stack.pop_all()
            task = asyncio.ensure_future(self._guarded(work, stream, kept.close, *arguments))
            task.add_done_callback(lambda _: kept.close())
        return Job(stream, task)

    # Writing

    async def _write(
        self, stream: Stream, give_back: Callable[[], None], language: str | None
    ) -> None:
        """The transcript."""
        languages = self._protocol.info.asr[0].models[0].languages
        language = languages[0] if len(languages) == 1 else language
        await self._send(TranscriptStart(language=language).event())
        writing = Writing()
        async for event in stream:
            if isinstance(event, Failed):
                raise SpeechStreamError(event.message)
            events, writing = writing.step(event)
            for one in events:
                await self._send(one)
        last = Transcript(writing.done, language=language).event(), TranscriptStop().event()
        await self._send(*last, then=give_back)

    async def _say(self, stream: Stream, give_back: Callable[[], None], streamed: bool) -> None:
        """The sound: 16 bits, mono."""
        rate, samples = self._engine.synthesizer.sample_rate, 0
        begun = False
        async for event in stream:
            if isinstance(event, Failed):
                raise SpeechStreamError(event.message)
            if not isinstance(event, Audio) or not len(event.pcm):
                continue
            if not begun:
                begun = True
                await self._send(AudioStart(rate, 2, 1, timestamp=0).event())
            data = (np.clip(event.pcm, -1, 1) * 32767).round().astype("<i2").tobytes()
            chunk = AudioChunk(rate, 2, 1, data, timestamp=samples * 1000 // rate)
            samples += len(event.pcm)
            await self._send(chunk.event())
        last = [] if begun else [AudioStart(rate, 2, 1, timestamp=0).event()]
        last.append(AudioStop(timestamp=samples * 1000 // rate).event())
        if streamed:
            last.append(SynthesizeStopped().event())
        await self._send(*last, then=give_back)

    async def _send(self, *events: Event, then: Callable[[], None] = lambda: None) -> None:
        """then: is called when they are on their way, for who has the last one may ask for more, here or elsewhere."""
        async with self._sending:
            self._writer.write(b"".join(map(encoded, events)))
            then()
            # No wait_for: it may lose a cancellation that comes when the wait is over.
            stalled = asyncio.get_running_loop().call_later(self._limits.slow_s, self._stalled)
            try:
                await self._writer.drain()
            finally:
                stalled.cancel()

    def _stalled(self) -> None:
        """The client does not read: end the connection, and with it the wait."""
        if self._error is None:
            self._error = TooSlow(f"the client has not read for {self._limits.slow_s:g} s")
        self._writer.transport.abort()

    async def _tell(self, error: SpeechStreamError) -> None:
        """Say what is wrong, and let the client see the end of the connection; to one that does not read, nothing."""
        if isinstance(error, TooSlow):
            return
        code = {Refused: "refused", ProtocolError: "bad-request", Idle: "idle"}
        text = str(error).encode("utf-8", "replace").decode()
        await self._send(Error(text, code.get(type(error), "failed")).event())
        self._writer.write_eof()
        try:
            await within(LINGER_S, self._drained())
        except asyncio.TimeoutError:
            pass

    async def _drained(self) -> None:
        while await self._reader.read(HEADER_BYTES):
            await asyncio.sleep(0)


async def _over(job: Job | None) -> None:
    """Wait for the end of the request before."""
    if job is not None:
        await asyncio.wait([job.task])


def _header_bytes(limits: Limits) -> int:
    """Of an event's JSON at most: the longest text in UTF-8, and the rest."""
    return 4 * limits.characters + HEADER_BYTES


@asynccontextmanager
async def start(
    engine: Engine, sock: socket.socket, latency_ms: int | None = 320
) -> AsyncIterator[None]:
    """Serve on a socket of `ports.listening` until the context is left, and close it.

    latency_ms: of the recognition, for a model that has it.
    """
    protocol = Protocol(describe(engine), engine.limits)
    if latency_ms not in engine.recognizer.latencies:
        latency_ms = next(iter(engine.recognizer.latencies), None)
    tasks: set[asyncio.Task[Any]] = set()
    served: set[asyncio.Task[Any]] = set()  # of them, those that were not turned away

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        most = engine.limits.sessions + SPARE
        refused = None
        if len(served) >= most:
            refused = Refused(f"{most} clients are connected already; try again later", 5)
        else:
            served.add(task)
            task.add_done_callback(served.discard)
        try:
            await Connection(engine, protocol, latency_ms, reader, writer).run(refused)
        except asyncio.CancelledError:
            pass  # the server ends; asyncio of Python 3.11 would log it as a fault

    limit = _header_bytes(engine.limits)
    server = await asyncio.start_server(connected, sock=sock, limit=limit)
    try:
        yield
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed one turn after they were told
