"""Both models for many asyncio connections: the networks run on threads of their own, never on the event loop.

    engine = Engine(recognizer, synthesizer, Limits())
    engine.start()                                   # on the loop that is told
    stream = engine.listen(latency_ms=320, sample_rate=48000)
    await stream.push(block)                         # waits where too much is unheard
    stream.finish()
    async for event in stream: ...
    stream.close()

Two threads (`serve.networks`), each with one `Pool`: `live` hears and speaks for whoever waits, `files` hears recordings,
whose long steps would hold up the others; or several processes, each with two such threads (`serve.workers.front`). All that waits is bounded: a stream whose events are not taken is held, so its input waits,
so the connection is not read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from speechstream.asr.biasing import Phrases
from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.recognizer import Recognizer
from speechstream.asr.stream import RecognitionCore
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Event, Failed
from speechstream.runtime.pool import Pool
from speechstream.serve.networks import Networks, News, Stats
from speechstream.serve.workers.front import Workers
from speechstream.tts.stream import SynthesisCore
from speechstream.tts.synthesizer import Synthesizer

UNTAKEN_BYTES = 1 << 20  # events that a stream holds for its listener at most, about
EVENT_BYTES = 1000  # of an event without sound, about
GATHERED_S = 0.01  # of sound; what is shorter is given on with what follows, while the thread has something to do
_log = logging.getLogger("speechstream.serve")


class Refused(SpeechStreamError):
    """No place is free. retry_s: when to try again; None: not here."""

    def __init__(self, message: str, retry_s: int | None):
        super().__init__(message)
        self.retry_s = retry_s


@dataclass(frozen=True)
class Limits:
    """What a server gives at most."""

    sessions: int = 32  # connections that stream, and requests in progress
    files: int = 8  # recordings that are heard at once
    session_s: float = 4 * 3600.0  # sound of one live connection
    upload_bytes: int = 512 << 20
    message_bytes: int = 16 << 20  # of a WebSocket; a client may send its whole clip in one
    characters: int = 100_000  # of a text to speak in one request
    backlog_s: float = 20.0  # sound not heard yet, from where on a connection is not read
    idle_s: float = 300.0  # a live connection that sends nothing
    slow_s: float = 20.0  # a client that does not read
    resume_s: float = 60.0  # a dropped connection may be taken up again
    drain_s: float = 30.0  # requests in progress at the end

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ValueError(f"{field.name} must be above 0, got {value!r}")


class Stream:
    """One stream of an engine, for the event loop alone. Iterate over its events; the last may be a Failed."""

    def __init__(
        self,
        lane: Lane,
        core: RecognitionCore | SynthesisCore,
        backlog_s: float,
        twin_of: int | None = None,
    ):
        self._lane, self._core, self._backlog_s = lane, core, backlog_s
        self._key = lane.open(self, core, twin_of)
        self._events: deque[Event] = deque()
        self._untaken, self._held = 0, False
        self._waiting_s = 0.0
        self._asked: deque[tuple[int, float]] = deque()  # pushes that the thread has not seen
        self._asked_s = 0.0
        self._pushes = 0
        self._gathered: list[np.ndarray] = []  # short blocks that were not given on yet
        self._gathered_s = 0.0
        self._changed = asyncio.Event()
        self.over, self.finished = False, False

    @property
    def waiting_s(self) -> float:
        """Seconds of input that were not used yet."""
        return self._waiting_s + self._asked_s + self._gathered_s

    @property
    def quiet(self) -> bool:
        """Whether no event waits to be taken."""
        return not self._events

    async def push(self, x: np.ndarray | str) -> None:
        """Give a block of mono float32 samples, or text; wait until there is room for it.

        Ten thousand blocks of one sample cost the thread no more than a hundred of a hundred: while it has not seen what
        was pushed before, short ones are gathered.

        Raises SpeechStreamError where the stream is finished or over.
        """
        while self.waiting_s > self._backlog_s and not self.over:
            await self._wait()
        if self.finished or self.over:
            raise SpeechStreamError("this stream is finished; open another one")
        seconds = self._core.seconds(x)  # type: ignore[arg-type]
        if isinstance(x, str):
            self._give(x, seconds)
            return
        self._lane.stats.heard_s += seconds
        self._gathered.append(x)
        self._gathered_s += seconds
        if self._gathered_s >= GATHERED_S or not self._asked:
            self._give_gathered()

    def _give(self, x: np.ndarray | str, seconds: float) -> None:
        self._pushes += 1
        self._asked.append((self._pushes, seconds))
        self._asked_s += seconds
        self._lane.keeper.push(self._key, x, self._pushes)

    def _give_gathered(self) -> None:
        if not self._gathered:
            return
        blocks, seconds = self._gathered, self._gathered_s
        self._gathered, self._gathered_s = [], 0.0
        self._give(blocks[0] if len(blocks) == 1 else np.concatenate(blocks), seconds)

    def finish(self) -> None:
        """No more input comes. The last events come, then the iteration ends."""
        if not self.finished:
            self.finished = True
            self._give_gathered()
            self._lane.keeper.finish(self._key)

    def close(self) -> None:
        """Give up; nothing more is said. May be called again."""
        self.finished = True
        if not self.over:
            self.over = True
            self._lane.keeper.drop(self._key)
        self._events.clear()
        self._changed.set()

    def fork(self) -> Stream:
        """A twin that was given the same and goes its own way. It begins with the events that come after now."""
        self._give_gathered()
        return Stream(self._lane, self._core, self._backlog_s, self._key)

    async def snapshot(self) -> bytes:
        """The stream with all that it has not said yet, see `Pool.snapshot`. Events taken so far are not in it.

        Raises SpeechStreamError where the stream is over.
        """
        self._give_gathered()
        return await self._lane.keeper.snapshot(self._key)

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            if self.over:
                raise StopAsyncIteration
            await self._wait()
        event = self._events.popleft()
        self._untaken -= _size(event)
        if self._held and self._untaken <= UNTAKEN_BYTES // 2 and not self.over:
            self._held = False
            self._lane.keeper.hold(self._key, False)
        return event

    def ready(self) -> list[Event]:
        """Events that need not be waited for."""
        found = list(self._events)
        self._events.clear()
        self._untaken = 0
        if self._held and not self.over:
            self._held = False
            self._lane.keeper.hold(self._key, False)
        return found

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def told(self, events: list[Event], waiting_s: float, seen: int, over: bool) -> None:
        """News from the thread."""
        if self.over:  # closed meanwhile
            return
        while self._asked and self._asked[0][0] <= seen:
            self._asked_s -= self._asked.popleft()[1]
        if not self._asked:
            self._asked_s = 0.0  # exactly
        self._waiting_s, self.over = waiting_s, over
        if not (self._asked or over):
            self._give_gathered()
        self._events += events
        self._untaken += sum(map(_size, events))
        if self._untaken > UNTAKEN_BYTES and not self._held and not over:
            self._held = True
            self._lane.keeper.hold(self._key, True)
        self._changed.set()


def _size(event: Event) -> int:
    return EVENT_BYTES + (event.pcm.nbytes if isinstance(event, Audio) else 0)


class Keeper(Protocol):
    """Who has streams heard and spoken, under their keys: a thread of this process, or workers."""

    @property
    def alive(self) -> bool: ...

    def start(self, loop: asyncio.AbstractEventLoop) -> None: ...

    def stop(self) -> None: ...

    def open(self, key: int, core: Any) -> None: ...

    def fork(self, key: int, of: int) -> None: ...

    def push(self, key: int, x: np.ndarray | str, count: int) -> None: ...

    def finish(self, key: int) -> None: ...

    def hold(self, key: int, held: bool) -> None: ...

    def drop(self, key: int) -> None: ...

    async def snapshot(self, key: int) -> bytes: ...


class Lane:
    """The streams of one keeper, and what is told about them. For the event loop alone."""

    def __init__(self, keeper: Callable[[Callable[[list[News]], None]], Keeper], stats: Stats):
        self.keeper, self.stats = keeper(self._tell), stats
        self._streams: dict[int, Stream] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def alive(self) -> bool:
        return self.keeper.alive

    @property
    def waiting_s(self) -> float:
        """The longest backlog."""
        return max((s.waiting_s for s in self._streams.values()), default=0.0)

    def open(
        self, stream: Stream, core: RecognitionCore | SynthesisCore, twin_of: int | None = None
    ) -> int:
        """Take in a stream: a new one, or the twin of another. Raises Refused where the keeper has ended."""
        if not self.alive:
            raise Refused("the server has failed and must be started again", None)
        key, self._next = self._next, self._next + 1
        self._streams[key] = stream
        if twin_of is None:
            self.keeper.open(key, core)
        else:
            self.keeper.fork(key, twin_of)
        return key

    def _tell(self, news: list[News]) -> None:
        for key, events, waiting, seen, over, *_ in news:
            stream = self._streams.get(key)
            if stream is None:
                continue
            for event in events:
                if isinstance(event, Failed):
                    # not the whole message: it may hold somebody's words
                    _log.error("a stream has failed: %s", event.message.split(":")[0][:80])
                elif isinstance(event, Audio):
                    self.stats.spoken_s += len(event.pcm) / stream._core.sample_rate
            stream.told(events, waiting, seen, over)
            if over:
                del self._streams[key]


class Engine:
    """The models, the threads, the limits, and who is there. workers: run the networks in place of this process."""

    def __init__(
        self,
        recognizer: Recognizer,
        synthesizer: Synthesizer,
        limits: Limits | None = None,
        workers: Workers | None = None,
    ):
        self.recognizer, self.synthesizer = recognizer, synthesizer
        self.limits, self.stats = limits or Limits(), Stats()
        # A connection may end one stretch while the next begins, and hear while it speaks.
        slots = 4 * self.limits.sessions + 4
        self._families = recognizer.family.resident(), recognizer.family.resident()
        self.workers = workers
        self.live = self._lane("live", slots, eager=True)
        self.files = self._lane("files", self.limits.files)
        self.seated: dict[str, int] = {}
        self.resumable: dict[str, Any] = {}  # sessions that outlive their connection, by their name
        self.draining = asyncio.Event()

    def _lane(self, name: str, slots: int, eager: bool = False) -> Lane:
        if self.workers is not None:
            return Lane(self.workers.keeper(name, slots), self.stats)
        return Lane(lambda tell: Networks(name, Pool(slots), self.stats, tell, eager), self.stats)

    def start(self) -> None:
        """Begin to work for the running loop."""
        loop = asyncio.get_running_loop()
        self.live.keeper.start(loop)
        self.files.keeper.start(loop)

    def stop(self) -> None:
        """End the threads; streams that are open say that they have failed."""
        self.live.keeper.stop()
        self.files.keeper.stop()

    @property
    def alive(self) -> bool:
        """Whether the threads are, or some worker is."""
        working = self.workers is None or self.workers.dispatch.ready > 0
        return self.live.alive and self.files.alive and working

    @property
    def sessions(self) -> int:
        """Seats that are taken."""
        return sum(self.seated.values())

    @contextmanager
    def seat(self, kind: str) -> Iterator[None]:
        """A place for a connection or a request of this kind. Raises Refused where none is free."""
        self.admit()
        self.seated[kind] = self.seated.get(kind, 0) + 1
        try:
            yield
        finally:
            self.seated[kind] -= 1

    def admit(self) -> None:
        """Raises Refused where no seat is free."""
        if self.draining.is_set():
            raise Refused("the server is about to end; connect again in a moment", 5)
        if self.sessions >= self.limits.sessions:
            raise Refused(
                f"all {self.limits.sessions} places of this server are taken; try again later", 2
            )

    def listen(
        self,
        latency_ms: int | None = 320,
        sample_rate: int = 16_000,
        rules: EndpointRules | None = None,
        hotwords: Phrases = None,
    ) -> Stream:
        """Hear somebody live. hotwords: as of `Recognizer.stream`.

        Raises ValueError for a latency or a rate that the model has not, and for hot words that are none.
        """
        return self.hear(self.recognizer.core(latency_ms, sample_rate, hotwords, rules=rules))

    def hear(self, core: RecognitionCore) -> Stream:
        """Hear somebody live with a core of `recognizer.core`, or with one of a kind of its own."""
        return Stream(self.live, core.on(self._families[0]), self.limits.backlog_s)

    def hear_file(
        self,
        latency_ms: int | None,
        sample_rate: int,
        rules: EndpointRules | None = None,
        hotwords: Phrases = None,
    ) -> Stream:
        """Hear a recording, without holding up who waits. Raises Refused where too many are heard."""
        if len(self.files) >= self.limits.files:
            raise Refused(
                f"{self.limits.files} recordings are being heard already; try again later", 5
            )
        core = self.recognizer.core(latency_ms, sample_rate, hotwords, rules=rules)
        return Stream(self.files, core.on(self._families[1]), self.limits.backlog_s)

    def speak(self, voice: str | None = None, speed: float = 1.0, markup: bool = False) -> Stream:
        """Speak. Raises ValueError for a voice or a speed that there is not."""
        core = self.synthesizer.core(voice=voice, speed=speed, markup=markup)
        return Stream(self.live, core, float("inf"))
