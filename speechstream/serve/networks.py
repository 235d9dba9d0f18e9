"""The thread that runs the networks: one pool, streams under their owner's keys, and what there is to tell about them.

    networks = Networks("live", Pool(slots), stats, tell, eager=True)
    networks.start(loop)                             # `tell(news)` is called on this loop
    networks.open(key, core)
    networks.push(key, block, 1)                     # what follows is done in the order in which it was asked

`serve.engine` has two of them in its own process; `serve.workers.worker` has two behind a socket.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from speechstream import state as states
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Failed
from speechstream.runtime.pool import Pool
from speechstream.serve import replay

BUDGET_S = 0.02  # a pool's step returns after about this: commands and events need not wait longer
TEXT_PIECE = 512  # characters that a speaking stream looks at in one step
PAUSE_S, SPEECH_S = 1.0, 1.0  # seconds of sound between two snapshots, in pauses and within speech
SNAPSHOT_SHARE = 0.1  # of the time that goes by, that snapshots may take within speech
STOPPED = "the server has stopped"
_log = logging.getLogger("speechstream.serve")


@dataclass
class Stats:
    """What the threads have done: counters."""

    heard_s: float = 0.0
    spoken_s: float = 0.0
    steps: int = 0
    busy_s: float = 0.0
    snapshots: int = 0
    snapshot_s: float = 0.0


class News(NamedTuple):
    """What there is to tell about a stream. seen: the number of the last push that it has; snapshot: taken after the
    events, with the pushes seen in it, as `state.pack` writes it; added: to the ones before."""

    key: int
    events: list[Any]
    waiting_s: float
    seen: int
    over: bool
    snapshot: bytes | None = None
    added: bool = False


class Table:
    """The streams of a pool under their keys. saves: news bring snapshots, where `replay.due` says so."""

    def __init__(
        self,
        pool: Pool,
        stats: Stats,
        eager: bool = False,
        saves: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.pool, self.stats, self._eager, self._saves = pool, stats, eager, saves
        self._clock = clock
        self._numbers: dict[int, int] = {}  # key -> number in the pool
        self._keys: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._rates: dict[int, int] = {}  # samples a second
        self._unsaved: dict[int, float] = {}  # seconds of sound since the last snapshot
        self._saves_of: dict[int, states.Flat] = {}  # the last one, of who speaks
        self._pushed: set[int] = set()  # since the last step
        self._late: dict[int, float] = {}  # what was told to wait
        self._rested = 0.0  # when the last snapshot within speech may be followed by another

    @property
    def busy(self) -> bool:
        """Whether a step would do or say anything."""
        return bool(self.pool.busy or self._pushed)

    def number(self, key: int) -> int:
        """A stream's number in the pool. Raises SpeechStreamError where it is over."""
        if key not in self._numbers:
            raise SpeechStreamError("this stream is over")
        return self._numbers[key]

    def open(self, key: int, core: Any) -> list[News]:
        return self._begin(key, core.sample_rate, lambda: self.pool.open_core(core))

    def fork(self, key: int, of: int) -> list[News]:
        return self._begin(key, self._rates.get(of, 1), lambda: self.pool.fork(self.number(of)))

    def resume(self, key: int, core: Any, data: states.Flat) -> list[News]:
        return self._begin(key, core.sample_rate, lambda: self.pool.resume(data, core))

    def _begin(self, key: int, rate: int, begin: Callable[[], int]) -> list[News]:
        try:
            sid = begin()
        except SpeechStreamError as error:
            return [News(key, [Failed(str(error))], 0.0, 0, True)]
        self._numbers[key], self._keys[sid] = sid, key
        self._seen[key], self._rates[key], self._unsaved[key] = 0, rate, 0.0
        return []

    def push(self, key: int, x: np.ndarray | str, count: int) -> list[News]:
        """Give a stream its input number `count`; one that is over takes nothing."""
        if key not in self._numbers:
            return []
        sid, pieces = self._numbers[key], [x]
        if isinstance(x, str):
            pieces = [x[i : i + TEXT_PIECE] for i in range(0, len(x), TEXT_PIECE)]
        try:
            for piece in pieces:
                self.pool.push(sid, piece)
        except (ValueError, SpeechStreamError) as error:  # samples that are no samples
            self.pool.close(sid)
            self._forget(key)
            return [News(key, [Failed(str(error))], 0.0, count, True)]
        if self._saves and not isinstance(x, str):
            self._unsaved[key] += len(x) / self._rates[key]
        self._seen[key] = count
        self._pushed.add(key)
        return []

    def do(self, key: int, what: Callable[[Pool, int], None]) -> list[News]:
        """Do something to a stream that may be over."""
        if key in self._numbers:
            what(self.pool, self._numbers[key])
        return []

    def drop(self, key: int) -> list[News]:
        self.do(key, Pool.close)
        self._forget(key)
        return [News(key, [], 0.0, 0, True)]

    def end(self) -> list[News]:
        """Everybody's last words."""
        return [News(key, [Failed(STOPPED)], 0.0, 0, True) for key in self._numbers]

    def _forget(self, key: int) -> None:
        if key in self._numbers:
            del self._keys[self._numbers.pop(key)], self._seen[key], self._rates[key]
            del self._unsaved[key]
        self._saves_of.pop(key, None)
        self._late.pop(key, None)
        self._pushed.discard(key)

    def step(self) -> list[News]:
        """Work for a while."""
        before = time.perf_counter()
        said = self.pool.step(BUDGET_S, self._eager)
        self.stats.busy_s += time.perf_counter() - before
        self.stats.steps += 1
        changed, self._pushed = self._pushed, set()
        changed |= {self._keys[sid] for sid in said}
        changed |= {key for sid, key in self._keys.items() if sid not in self.pool}
        news = []
        # those first who have the most to lose, as not all of them may have their snapshots taken
        for key in sorted(changed | set(self._late), key=lambda k: -self._unsaved[k]):
            sid = self._numbers[key]
            over = sid not in self.pool
            late = 0.0 if over else self.pool.waiting(sid)
            events = said.get(sid, [])
            if key in changed or late != self._late[key]:
                told = News(key, events, late, self._seen[key], over)
                news.append(told if over or not self._saves else self._saved(told, sid))
            self._late[key] = late
            if over:
                self._forget(key)
            elif not late:
                del self._late[key]
        return news

    def _saved(self, news: News, sid: int) -> News:
        """The news with a snapshot, where one is due."""
        key = news.key
        spoken = sum(len(event.pcm) for event in news.events if isinstance(event, Audio))
        self._unsaved[key] += spoken / self._rates[key]
        pausing, now = self.pool.pausing(sid), self._clock()
        due = replay.due(self._unsaved[key], pausing, PAUSE_S, SPEECH_S)
        if not due or not self.pool.resting(sid) or (not pausing and now < self._rested):
            return news
        before = time.thread_time()  # who else uses the machine is not their fault
        try:
            flat = self.pool.flat(sid)
        except SpeechStreamError:
            return news  # it has failed, and says so
        last = self._saves_of.pop(key, None)
        data = states.pack(flat, last)
        if not pausing:
            self._saves_of[key] = flat
        took = time.thread_time() - before
        if not pausing:
            self._rested = now + took / SNAPSHOT_SHARE
        self.stats.snapshots += 1
        self.stats.snapshot_s += took
        self._unsaved[key] = 0.0
        return news._replace(snapshot=data, added=last is not None)


class Networks:
    """A thread that owns a table. tell: takes news, on the loop.

    The methods are for the loop. `alive` ends with the thread, which only a fault of ours does early.
    """

    def __init__(
        self,
        name: str,
        pool: Pool,
        stats: Stats,
        tell: Callable[[list[News]], None],
        eager: bool = False,
        saves: bool = False,
    ):
        self.table, self._tell = Table(pool, stats, eager, saves), tell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.alive = True
        self.stepping_since: float | None = None  # monotonic seconds
        self._thread = threading.Thread(target=self._run, name=f"speechstream-{name}", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; streams that are open say that they have failed."""
        self._commands.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def open(self, key: int, core: Any) -> None:
        self._do(lambda: self.table.open(key, core))

    def fork(self, key: int, of: int) -> None:
        """Open the twin of another one."""
        self._do(lambda: self.table.fork(key, of))

    def push(self, key: int, x: np.ndarray | str, count: int) -> None:
        self._do(lambda: self.table.push(key, x, count))

    def finish(self, key: int) -> None:
        self._do(lambda: self.table.do(key, Pool.finish))

    def hold(self, key: int, held: bool) -> None:
        self._do(lambda: self.table.do(key, lambda pool, sid: pool.hold(sid, held)))

    def drop(self, key: int) -> None:
        self._do(lambda: self.table.drop(key))

    def resume(self, key: int, core: Any, data: states.Flat) -> None:
        self._do(lambda: self.table.resume(key, core, data))

    def refuse(self, key: int, why: str) -> None:
        """Say that a stream cannot be."""
        self._do(lambda: [News(key, [Failed(why)], 0.0, 0, True)])

    async def snapshot(self, key: int) -> bytes:
        """See `Pool.snapshot`. Raises SpeechStreamError where the stream is over."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bytes] = loop.create_future()

        def settle(value: bytes, error: Exception | None) -> None:
            if not answer.done():
                answer.set_exception(error) if error else answer.set_result(value)

        def run() -> list[News]:
            try:
                value, error = self.table.pool.snapshot(self.table.number(key)), None
            except SpeechStreamError as failure:
                value, error = b"", failure
            loop.call_soon_threadsafe(settle, value, error)
            return []

        self._do(run)
        return await answer

    def after(self, do: Callable[[], None]) -> None:
        """Have the loop do something once all that was asked so far has been done, and the news of it told."""

        def run() -> list[News]:
            self._call(do)
            return []

        self._do(run)

    def _do(self, what: Callable[[], list[News]]) -> None:
        self._commands.put(lambda: self._told(what()))

    # On the thread.

    def _run(self) -> None:
        try:
            while self._obey():
                self.stepping_since = time.monotonic()
                self._told(self.table.step())
                self.stepping_since = None
        except Exception:  # ours: nothing here may fail; whoever waits is told
            _log.exception("the thread that runs the networks has failed")
        self.alive = False
        self._told(self.table.end())

    def _obey(self) -> bool:
        """Do what is asked, waiting for it where there is nothing else to do. False: stop."""
        try:
            while True:
                do = self._commands.get(block=not self.table.busy)
                if do is None:
                    return False
                do()
        except queue.Empty:
            return True

    def _told(self, news: list[News]) -> None:
        if news:
            self._call(lambda: self._tell(news))

    def _call(self, do: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(do)
