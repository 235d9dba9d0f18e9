"""Worker processes behind one engine: they hold the networks, this process the connections.

    workers = Workers(4, Loading(), models)
    engine = Engine(recognizer, synthesizer, limits, workers)

`serve.workers.dispatch` decides; here are the sockets and the clock, and `serve.workers.places` or `serve.workers.ray_actors` have the processes.
What a worker says is data, see `serve.workers.wire`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from speechstream import state as states
from speechstream.errors import SpeechStreamError
from speechstream.runtime.pool import beginning
from speechstream.serve.attentive import Attentive
from speechstream.serve.networks import News
from speechstream.serve.workers import dispatch as plan, wire
from speechstream.serve.workers.dispatch import Dispatch
from speechstream.serve.workers.places import Here, Loading, Place, Process
from speechstream.tts.stream import SynthesisCore

TICK_S = 0.1
END_S = 5.0  # that a killed process may take to end
OPENINGS = 64  # that are kept, of streams that begin alike
_log = logging.getLogger("speechstream.serve")


class Workers:
    """`count` processes, started again where they die. models: their digests, which must be those of this process.
    place: where they run, by default on this machine."""

    def __init__(
        self,
        count: int,
        loading: Loading,
        models: list[str] | None = None,
        place: Place | None = None,
    ):
        if place is None and count < 2:
            raise ValueError(f"workers are at least 2, got {count}: one is this process itself")
        self._place = Here() if place is None else place
        self.dispatch, self._loading = Dispatch(count, models), loading
        self.slots = [0, 0]  # of the pools
        self.alive = True
        self._links: dict[int, _Link] = {}
        self._processes: set[Process] = set()
        self._listeners: dict[int, tuple[Callable[[list[News]], None], int]] = {}
        self._asked: dict[int, asyncio.Future[bytes]] = {}
        self._openings: OrderedDict[str, bytes] = OrderedDict()
        self._next = 0
        self._acting = False
        self._running: asyncio.AbstractEventLoop | None = None

    def keeper(self, lane: str, slots: int) -> Callable[[Callable[[list[News]], None]], Keeper]:
        """What makes the keeper of an engine's lane. slots: how many streams of it a worker takes."""
        self.slots[plan.LANES.index(lane)] = slots
        return lambda tell: Keeper(self, lane, tell)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the processes. May be called again."""
        if self._running is None:
            self._running = loop
            self._tick()

    def stop(self) -> None:
        """End the processes; streams that are open say that they have failed. May be called again."""
        self.alive = False
        self.dispatch.stop()
        self._act()
        for process in list(self._processes):
            process.kill()
            self._wait_for(process)

    def pids(self) -> list[int]:
        """Of the processes that are ready."""
        return [w.pid for w in self.dispatch.workers if w.state == "ready"]

    def _tick(self) -> None:
        if self.alive and self._running is not None:
            self.dispatch.tick(time.monotonic())
            self._act()
            self._running.call_later(TICK_S, self._tick)

    def _act(self) -> None:
        """Do what the dispatch asks for, in order: what a listener asks for when it is told comes after the rest."""
        if self._acting:
            return
        self._acting = True
        try:
            while actions := self.dispatch.take():
                for action in actions:
                    self._do(action)
        finally:
            self._acting = False

    def _do(self, action: plan.Action) -> None:
        if isinstance(action, plan.Send):
            link = self._links.get(action.worker)
            if link is not None:
                link.say(action.head, *action.bodies)
        elif isinstance(action, plan.Tell):
            self._tell(action)
        elif isinstance(action, plan.Answer):
            self._answer(action)
        elif isinstance(action, plan.Kill):
            self._part(action.worker)
        else:
            self._spawn(action.worker)

    def _tell(self, told: plan.Tell) -> None:
        tell, key = self._listeners.get(told.key, (None, 0))
        if told.over:
            self._listeners.pop(told.key, None)
        if tell is not None:
            tell([News(key, told.events, told.waiting_s, told.seen, told.over)])

    def _answer(self, answer: plan.Answer) -> None:
        future = self._asked.pop(answer.number, None)
        if future is not None and not future.done():
            if answer.error:
                future.set_exception(SpeechStreamError(answer.error))
            else:
                future.set_result(answer.data)

    # The processes.

    def _spawn(self, number: int) -> None:
        assert self._running is not None
        try:
            process = self._place.start(self._loading)
        except OSError as error:
            self.dispatch.lost(number, f"cannot be started: {error}", time.monotonic())
            return
        self._processes.add(process)
        link = self._links[number] = _Link(self, number, process)
        link.connecting = self._running.create_task(self._connect(link))

    async def _connect(self, link: _Link) -> None:
        try:
            sock = await link.process.connection()
        except OSError as error:
            self.lost(link, f"cannot be reached: {error}")
            return
        await asyncio.get_running_loop().create_connection(lambda: link, sock=sock)
        about = self._loading
        said = {"model": about.model, "voice": about.voice, "engine": about.engine}
        if about.prior is not None:
            said["prior"] = about.prior
        link.say(said | {"device": about.device, "slots": self.slots})

    def _part(self, number: int) -> None:
        """Have nothing more to do with a worker, whatever it is at."""
        link = self._links.pop(number, None)
        if link is None:
            return
        link.close()
        link.process.kill()
        if self._running is not None and self.alive:
            self._running.run_in_executor(None, self._wait_for, link.process)

    def _wait_for(self, process: Process) -> None:
        if not process.wait(END_S):
            _log.error("%s does not end", process.name)
        self._processes.discard(process)

    def heard(self, link: _Link, head: dict[str, Any], body: bytes) -> None:
        if self._links.get(link.number) is link:
            self.dispatch.heard(link.number, head, body, time.monotonic())
            self._act()

    def lost(self, link: _Link, why: str) -> None:
        if self._links.get(link.number) is link:
            self._part(link.number)
            self.dispatch.lost(link.number, why, time.monotonic())
            self._act()

    # The streams.

    def opening(self, core: Any) -> tuple[str, bytes]:
        """The kind of a core, and the snapshot of a stream of it that begins."""
        kind = "speak" if isinstance(core, SynthesisCore) else "hear"
        about = kind + json.dumps(core.about())
        found = self._openings.pop(about, None) or states.pack(beginning(core))
        self._openings[about] = found
        while len(self._openings) > OPENINGS:
            self._openings.popitem(last=False)
        if isinstance(core, Attentive):
            kind = "attend" if core.end_of_turn is None else "converse"
        return kind, found

    def number(self, tell: Callable[[list[News]], None], key: int) -> int:
        """A stream's number among those of all lanes."""
        number, self._next = self._next, self._next + 1
        self._listeners[number] = tell, key
        return number

    async def snapshot(self, number: int) -> bytes:
        future = asyncio.get_running_loop().create_future()
        self._asked[self.dispatch.ask(number)] = future
        self._act()
        data: bytes = await future
        return data

    def do(self, what: Callable[[Dispatch, float], None]) -> None:
        """Have something decided, and do what follows."""
        what(self.dispatch, time.monotonic())
        self._act()


class Keeper:
    """The workers, for the streams of one lane."""

    def __init__(self, workers: Workers, lane: str, tell: Callable[[list[News]], None]):
        self._workers, self._lane, self._tell = workers, lane, tell
        self._numbers: dict[int, int] = {}
        self._cores: dict[int, Any] = {}

    @property
    def alive(self) -> bool:
        return self._workers.alive

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._workers.start(loop)

    def stop(self) -> None:
        self._workers.stop()

    def open(self, key: int, core: Any) -> None:
        kind, opening = self._workers.opening(core)
        rate = core.sample_rate if kind == "speak" else 0
        number = self._add(key, core)
        self._workers.do(lambda d, now: d.open(number, self._lane, kind, opening, rate, now))

    def fork(self, key: int, of: int) -> None:
        source = self._numbers.get(of, -1)
        number = self._add(key, self._cores.get(of))
        self._workers.do(lambda d, now: d.fork(number, source, now))

    def push(self, key: int, x: np.ndarray | str, count: int) -> None:
        if key in self._numbers:
            number, seconds = self._numbers[key], self._cores[key].seconds(x)
            self._workers.do(lambda d, now: d.push(number, x, seconds))

    def finish(self, key: int) -> None:
        if key in self._numbers:
            self._workers.do(lambda d, now: d.finish(self._numbers[key]))

    def hold(self, key: int, held: bool) -> None:
        if key in self._numbers:
            self._workers.do(lambda d, now: d.hold(self._numbers[key], held))

    def drop(self, key: int) -> None:
        if key in self._numbers:
            number = self._numbers[key]
            self._workers.do(lambda d, now: d.drop(number, now))

    async def snapshot(self, key: int) -> bytes:
        """See `Pool.snapshot`. Raises SpeechStreamError where the stream is over."""
        return await self._workers.snapshot(self._numbers.get(key, -1))

    def _add(self, key: int, core: Any) -> int:
        number = self._numbers[key] = self._workers.number(self._told, key)
        self._cores[key] = core
        return number

    def _told(self, news: list[News]) -> None:
        for n in news:
            if n.over:
                self._numbers.pop(n.key, None)
                self._cores.pop(n.key, None)
        self._tell(news)


class _Link(asyncio.Protocol):
    """The connection to one process."""

    def __init__(self, workers: Workers, number: int, process: Process):
        self._workers, self.number, self.process = workers, number, process
        self._frames = wire.Frames()
        self._transport: Any = None
        self.connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._workers.lost(self, "has died")

    def data_received(self, data: bytes) -> None:
        try:
            for head, body in self._frames.feed(data):
                self._workers.heard(self, head, body)
        except ValueError as error:
            self._workers.lost(self, f"says what nobody can read ({error})")

    def say(self, head: dict[str, Any], *bodies: bytes) -> None:
        if self._transport is not None:
            self._transport.writelines(wire.pack(head, *bodies))

    def close(self) -> None:
        if self.connecting is not None:
            self.connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
