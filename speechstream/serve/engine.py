"""Both models for many asyncio connections: the networks run on threads of their own, never on the event loop.

    engine = Engine(recognizer, synthesizer, Limits())
    engine.start()                                   # on the loop that is told
    stream = engine.listen(latency_ms=320, sample_rate=48000)
    await stream.push(block)                         # waits where too much is unheard
    stream.finish()
    async for event in stream: ...
    stream.close()

Two threads, each with one `Pool`: `live` hears and speaks for whoever waits, `files` hears recordings, whose long
steps would hold up the others. Commands go to a thread through a queue, events come back with
`call_soon_threadsafe`. All that waits is bounded: a stream whose events are not taken is held, so its input waits,
so the connection is not read.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from speechstream.asr.biasing import Phrases
from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.recognizer import Recognizer
from speechstream.asr.stream import RecognitionCore
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Event, Failed
from speechstream.runtime.pool import Pool
from speechstream.tts.stream import SynthesisCore
from speechstream.tts.synthesizer import Synthesizer

BUDGET_S = 0.02  # a pool's step returns after about this: commands and events need not wait longer
UNTAKEN_BYTES = 1 << 20  # events that a stream holds for its listener at most, about
EVENT_BYTES = 1000  # of an event without sound, about
TEXT_PIECE = 512  # characters that a speaking stream looks at in one step
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


@dataclass
class Stats:
    """What the threads have done: counters."""

    heard_s: float = 0.0
    spoken_s: float = 0.0
    steps: int = 0
    busy_s: float = 0.0


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
        self._pushes = 0
        self._changed = asyncio.Event()
        self.over, self.finished = False, False

    @property
    def waiting_s(self) -> float:
        """Seconds of input that were not used yet."""
        return self._waiting_s + sum(s for _, s in self._asked)

    @property
    def quiet(self) -> bool:
        """Whether no event waits to be taken."""
        return not self._events

    async def push(self, x: np.ndarray | str) -> None:
        """Give a block of mono float32 samples, or text; wait until there is room for it.

        Raises SpeechStreamError where the stream is finished or over.
        """
        while self.waiting_s > self._backlog_s and not self.over:
            await self._wait()
        if self.finished or self.over:
            raise SpeechStreamError("this stream is finished; open another one")
        seconds = self._core.seconds(x)  # type: ignore[arg-type]
        self._pushes += 1
        if isinstance(self._core, RecognitionCore):
            self._lane.stats.heard_s += seconds
        self._asked.append((self._pushes, seconds))
        self._lane.push(self._key, x, self._pushes)

    def finish(self) -> None:
        """No more input comes. The last events come, then the iteration ends."""
        if not self.finished:
            self.finished = True
            self._lane.command(lambda: self._lane.pool_do(self._key, Pool.finish))

    def close(self) -> None:
        """Give up; nothing more is said. May be called again."""
        self.finished = True
        if not self.over:
            self.over = True
            self._lane.command(lambda: self._lane.drop(self._key))
        self._events.clear()
        self._changed.set()

    def fork(self) -> Stream:
        """A twin that was given the same and goes its own way. It begins with the events that come after now."""
        return Stream(self._lane, self._core, self._backlog_s, self._key)

    async def snapshot(self) -> bytes:
        """The stream with all that it has not said yet, see `Pool.snapshot`. Events taken so far are not in it.

        Raises SpeechStreamError where the stream is over.
        """
        return await self._lane.ask(lambda: self._lane.pool.snapshot(self._lane.number(self._key)))

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
            self._lane.hold(self._key, False)
        return event

    def ready(self) -> list[Event]:
        """Events that need not be waited for."""
        found = list(self._events)
        self._events.clear()
        self._untaken = 0
        if self._held and not self.over:
            self._held = False
            self._lane.hold(self._key, False)
        return found

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def told(self, events: list[Event], waiting_s: float, seen: int, over: bool) -> None:
        """News from the thread."""
        if self.over:  # closed meanwhile
            return
        while self._asked and self._asked[0][0] <= seen:
            self._asked.popleft()
        self._waiting_s, self.over = waiting_s, over
        self._events += events
        self._untaken += sum(map(_size, events))
        if self._untaken > UNTAKEN_BYTES and not self._held and not over:
            self._held = True
            self._lane.hold(self._key, True)
        self._changed.set()


def _size(event: Event) -> int:
    return EVENT_BYTES + (event.pcm.nbytes if isinstance(event, Audio) else 0)


class Lane:
    """One thread that owns a pool. Its public methods are for the event loop, unless they say otherwise."""

    def __init__(self, name: str, pool: Pool, stats: Stats, eager: bool = False):
        self.pool, self.stats, self._eager = pool, stats, eager
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[int, Stream] = {}  # of the loop
        self._next = 0
        self._numbers: dict[int, int] = {}  # of the thread: key -> number in the pool
        self._keys: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._pushed: set[int] = set()  # since the last step
        self._late: dict[int, float] = {}  # what was told to wait
        self.alive = True
        self._thread = threading.Thread(target=self._run, name=f"speechstream-{name}", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def waiting_s(self) -> float:
        """The longest backlog."""
        return max((s.waiting_s for s in self._streams.values()), default=0.0)

    def command(self, do: Callable[[], None]) -> None:
        """Have the thread do something."""
        self._commands.put(do)

    async def ask(self, do: Callable[[], Any]) -> Any:
        """Have the thread do something, and take its answer."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any, error: Exception | None) -> None:
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(value)

        def run() -> None:
            try:
                value, error = do(), None
            except SpeechStreamError as failure:
                value, error = None, failure
            loop.call_soon_threadsafe(settle, value, error)

        self.command(run)
        return await answer

    def open(
        self, stream: Stream, core: RecognitionCore | SynthesisCore, twin_of: int | None = None
    ) -> int:
        """Take in a stream: a new one, or the twin of another. Raises Refused where the thread has ended."""
        if not self.alive:
            raise Refused("the server has failed and must be started again", None)
        key, self._next = self._next, self._next + 1
        self._streams[key] = stream
        self.command(lambda: self._open(key, core, twin_of))
        return key

    def push(self, key: int, x: np.ndarray | str, count: int) -> None:
        self.command(lambda: self._push(key, x, count))

    def hold(self, key: int, held: bool) -> None:
        self.command(lambda: self.pool_do(key, lambda pool, sid: pool.hold(sid, held)))

    # On the thread.

    def number(self, key: int) -> int:
        """A stream's number in the pool. Raises SpeechStreamError where it is over."""
        if key not in self._numbers:
            raise SpeechStreamError("this stream is over")
        return self._numbers[key]

    def pool_do(self, key: int, do: Callable[[Pool, int], None]) -> None:
        """Do something to a stream that may be over."""
        if key in self._numbers:
            do(self.pool, self._numbers[key])

    def drop(self, key: int) -> None:
        self.pool_do(key, Pool.close)
        self._forget(key)
        self._told([(key, [], 0.0, 0, True)])

    def _open(self, key: int, core: RecognitionCore | SynthesisCore, twin_of: int | None) -> None:
        try:
            if twin_of is None:
                sid = self.pool.open_core(core)
            else:
                sid = self.pool.fork(self.number(twin_of))
        except SpeechStreamError as error:
            self._told([(key, [Failed(str(error))], 0.0, 0, True)])
            return
        self._numbers[key], self._keys[sid], self._seen[key] = sid, key, 0

    def _push(self, key: int, x: np.ndarray | str, count: int) -> None:
        if key not in self._numbers:
            return
        pieces = (
            [x[i : i + TEXT_PIECE] for i in range(0, len(x), TEXT_PIECE)]
            if isinstance(x, str)
            else [x]
        )
        try:
            for piece in pieces:
                self.pool.push(self._numbers[key], piece)
        except (ValueError, SpeechStreamError) as error:  # samples that are no samples
            self.pool.close(self._numbers[key])
            self._forget(key)
            self._told([(key, [Failed(str(error))], 0.0, count, True)])
            return
        self._seen[key] = count
        self._pushed.add(key)

    def _forget(self, key: int) -> None:
        if key in self._numbers:
            del self._keys[self._numbers.pop(key)], self._seen[key]
        self._late.pop(key, None)
        self._pushed.discard(key)

    def _run(self) -> None:
        try:
            while self._obey():
                self._step()
        except Exception:  # ours: nothing here may fail; whoever waits is told
            _log.exception("the thread that runs the networks has failed")
        self.alive = False
        end: list[Event] = [Failed("the server has stopped")]
        self._told([(key, end, 0.0, 0, True) for key in list(self._numbers)])

    def _obey(self) -> bool:
        """Do what is asked, waiting for it where there is nothing else to do. False: stop."""
        try:
            while True:
                wait = not (self.pool.busy or self._pushed)
                do = self._commands.get(block=wait)
                if do is None:
                    return False
                do()
        except queue.Empty:
            return True

    def _step(self) -> None:
        before = time.perf_counter()
        said = self.pool.step(BUDGET_S, self._eager)
        self.stats.busy_s += time.perf_counter() - before
        self.stats.steps += 1
        changed, self._pushed = self._pushed, set()
        changed |= {self._keys[sid] for sid in said}
        changed |= {key for sid, key in self._keys.items() if sid not in self.pool}
        news = []
        for key in changed | set(self._late):
            sid = self._numbers[key]
            over = sid not in self.pool
            late = 0.0 if over else self.pool.waiting(sid)
            if key in changed or late != self._late[key]:
                news.append((key, said.get(sid, []), late, self._seen[key], over))
            self._late[key] = late
            if over:
                self._forget(key)
            elif not late:
                del self._late[key]
        self._told(news)

    def _told(self, news: list[tuple[int, list[Event], float, int, bool]]) -> None:
        if news and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, news)

    def _tell(self, news: list[tuple[int, list[Event], float, int, bool]]) -> None:
        """On the loop."""
        for key, events, waiting, seen, over in news:
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
    """The models, the threads, the limits, and who is there."""

    def __init__(
        self, recognizer: Recognizer, synthesizer: Synthesizer, limits: Limits | None = None
    ):
        self.recognizer, self.synthesizer = recognizer, synthesizer
        self.limits, self.stats = limits or Limits(), Stats()
        # A connection may end one stretch while the next begins, and hear while it speaks.
        slots = 4 * self.limits.sessions + 4
        self._families = recognizer.family.resident(), recognizer.family.resident()
        self.live = Lane("live", Pool(slots), self.stats, eager=True)
        self.files = Lane("files", Pool(self.limits.files), self.stats)
        self.seated: dict[str, int] = {}
        self.resumable: dict[str, Any] = {}  # sessions that outlive their connection, by their name
        self.draining = asyncio.Event()

    def start(self) -> None:
        """Begin to work for the running loop."""
        loop = asyncio.get_running_loop()
        self.live.start(loop)
        self.files.start(loop)

    def stop(self) -> None:
        """End the threads; streams that are open say that they have failed."""
        self.live.stop()
        self.files.stop()

    @property
    def alive(self) -> bool:
        """Whether both threads are."""
        return self.live.alive and self.files.alive

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
