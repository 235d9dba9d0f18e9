"""Which worker has which stream, and what becomes of the streams of one that dies: no sockets, no processes, no clock.

    dispatch = Dispatch(workers=2)
    dispatch.tick(now)                               # asks for the workers to be started
    dispatch.open(key, "live", "hear", opening, 0, now)
    dispatch.heard(0, head, body, now)               # a message of a worker
    dispatch.lost(0, "was killed by signal 9", now)
    for action in dispatch.take(): ...               # Spawn, Kill, Send, Tell, Answer, in order

`serve.workers.front` does what is asked. Each stream has a `Journal`: where its worker dies, another one is given the last
snapshot and the inputs since, says again what was said since, and of that only what goes beyond is told.

A stream that workers die of would take all of them with it, again and again. Whose worker has died twice before the stream
was beyond the place is a suspect, and suspects are taken up one at a time; of whom LIVES workers have died fails.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechstream.events import Failed
from speechstream.serve.networks import STOPPED
from speechstream.serve.replay import Journal
from speechstream.serve.workers import wire

HANG_S = 5.0  # without a word from a worker that has streams
STUCK_S = 60.0  # of one step of its networks
LOAD_S = 180.0  # until it has its models
TRIAL_S = 30.0  # a suspect that lives so long is none
PATIENCE_S = 120.0  # a stream waits so long for a worker
STEADY_S = 20.0  # a worker that has lived so long may be replaced at once
BACKOFF_S, LONGEST_BACKOFF_S = 0.5, 30.0
LIVES = 4  # workers that may die of one stream
SUSPECT = 2
LATE_TICK_S = 1.0  # our own process was stopped: nobody else is to blame
LANES = ("live", "files")
_log = logging.getLogger("speechstream.serve")


@dataclass(frozen=True)
class Spawn:
    """Start a worker."""

    worker: int


@dataclass(frozen=True)
class Kill:
    """End a worker; `lost` need not be told."""

    worker: int
    why: str


@dataclass(frozen=True)
class Send:
    """A message for a worker."""

    worker: int
    head: dict[str, Any]
    bodies: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Tell:
    """News of a stream for its listener."""

    key: int
    events: list[Any]
    waiting_s: float
    seen: int
    over: bool


@dataclass(frozen=True)
class Answer:
    """A snapshot that was asked for, or why there is none."""

    number: int
    data: bytes
    error: str = ""


Action = Spawn | Kill | Send | Tell | Answer


@dataclass
class Worker:
    """One place for a process. pid, rss, busy_s, steps: as it last said."""

    number: int
    state: str = "down"  # loading, ready
    since: float = 0.0  # when it came into that state
    heard: float = 0.0  # when it last said something
    due: float = -math.inf  # when it may be started
    failures: int = 0  # deaths in a row
    pid: int = 0
    rss: int = 0
    streams: int = 0


@dataclass
class Counts:
    """What has happened."""

    deaths: int = 0
    restarts: int = 0
    resumed: int = 0  # streams that another worker has taken up
    given_up: int = 0
    moved: int = 0
    gaps: int = 0  # streams that came beyond the place where their worker died
    gap_s: float = 0.0  # how long that took
    longest_gap_s: float = 0.0
    snapshots: int = 0
    snapshot_bytes: int = 0
    busy_s: float = 0.0
    steps: int = 0


@dataclass(eq=False)
class _Stream:
    key: int
    lane: str
    kind: str
    journal: Journal
    finished: bool = False
    held: bool = False
    worker: Worker | None = None
    id: int = -1  # by which its worker knows it
    since: float = 0.0  # when it was given to that, or has begun to wait
    lost: float | None = None  # when its worker died, until it is beyond that place
    deaths: int = 0  # of workers, before it was beyond the place
    trial: bool = False
    pushed_s: float = 0.0
    target_s: float = 0.0  # of input, beyond which it has to come
    seen: int = 0
    before: int = 0  # inputs that a twin has from its source
    asks: list[int] = field(default_factory=list)  # snapshots
    twins: list[_Stream] = field(default_factory=list)  # that its worker has not begun yet
    twin_of: _Stream | None = None
    gone: bool = False  # for its listener; its twins still need what is under way


class Dispatch:
    """The streams and the workers. Not for several threads. `now`, everywhere: monotonic seconds.

    models: what the workers must say that they have loaded; None: whatever it is.
    """

    def __init__(self, workers: int, models: list[str] | None = None):
        self.workers = [Worker(n) for n in range(workers)]
        self.models, self.counts = models, Counts()
        self._actions: list[Action] = []
        self._streams: dict[int, _Stream] = {}
        self._by_id: dict[int, _Stream] = {}
        self._waiting: list[_Stream] = []
        self._next = 0
        self._ticked = -math.inf
        self._asked = 0

    def take(self) -> list[Action]:
        """What is to be done."""
        actions, self._actions = self._actions, []
        return actions

    @property
    def ready(self) -> int:
        """Workers that work."""
        return sum(w.state == "ready" for w in self.workers)

    @property
    def kept_bytes(self) -> int:
        """Of snapshots and inputs that are kept for a death, about."""
        kept = 0
        for s in self._streams.values():
            kept += sum(x.nbytes if isinstance(x, np.ndarray) else len(x) for x in s.journal.inputs)
            kept += sum(map(len, s.journal.opening))
        return kept

    # What the listeners ask for.

    def open(self, key: int, lane: str, kind: str, opening: bytes, rate: int, now: float) -> None:
        """A stream begins; opening: `pool.beginning` of its core, packed, rate: of its speech."""
        s = self._streams[key] = _Stream(key, lane, kind, Journal((opening,), rate), since=now)
        self._place(s, now)

    def fork(self, key: int, of: int, now: float) -> None:
        """A twin of another stream begins: it has been given and has said the same."""
        source = self._streams.get(of)
        if source is None:
            self._tell(key, [Failed("this stream is over")], over=True)
            return
        twin = _Stream(key, source.lane, source.kind, source.journal.fork(), source.finished)
        twin.since, twin.pushed_s, twin.seen = now, source.pushed_s, source.seen
        twin.target_s, twin.deaths = source.target_s, source.deaths
        twin.before = source.journal.count + len(source.journal.inputs)
        self._streams[key] = twin
        w = source.worker
        if w is None:
            self._wait(twin, now)
            return
        self._seat(twin, w, now)
        # what is under way to us was said before: neither has it in its journal yet
        source.twins.append(twin)
        twin.twin_of = source
        self._send(w, {"do": "fork", "id": twin.id, "of": source.id})

    def push(self, key: int, x: np.ndarray | str, seconds: float) -> None:
        s = self._streams.get(key)
        if s is not None:
            s.pushed_s += seconds
            self._give(s, x, s.journal.push(x, seconds))

    def finish(self, key: int) -> None:
        s = self._streams.get(key)
        if s is not None:
            s.finished = True
            self._say(s, {"do": "finish"})

    def hold(self, key: int, held: bool) -> None:
        s = self._streams.get(key)
        if s is not None:
            s.held = held
            self._say(s, {"do": "hold", "held": held})

    def drop(self, key: int, now: float) -> None:
        """A listener has gone."""
        s = self._streams.get(key)
        if s is not None:
            self._say(s, {"do": "drop"})
            self._remove(s, now)
            self._tell(key, [], over=True)

    def ask(self, key: int) -> int:
        """Have a stream's snapshot taken. The number of the answer."""
        self._asked += 1
        s = self._streams.get(key)
        if s is None:
            self._actions.append(Answer(self._asked, b"", "this stream is over"))
        else:
            s.asks.append(self._asked)
            self._say(s, {"do": "ask", "number": self._asked})
        return self._asked

    def stop(self) -> None:
        """The end: the workers are killed, and who listens is told."""
        for key in list(self._streams):
            self._tell(key, [Failed(STOPPED)], over=True)
        self._streams.clear()
        self._by_id.clear()
        self._waiting.clear()
        for w in self.workers:
            if w.state != "down":
                self._actions.append(Kill(w.number, STOPPED))
            w.state, w.due = "down", math.inf

    # What the workers say.

    def heard(self, worker: int, head: dict[str, Any], body: bytes, now: float) -> None:
        """A message of a worker. One who says what it never would is ended."""
        w = self.workers[worker]
        if w.state == "down":
            return
        w.heard = now
        try:
            self._heard(w, head, body, now)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            self.kill(worker, f"says what it never would ({error})", now)

    def kill(self, worker: int, why: str, now: float) -> None:
        """End a worker, and go on without it."""
        if self.workers[worker].state != "down":
            self._actions.append(Kill(worker, why))
            self.lost(worker, why, now)

    def lost(self, worker: int, why: str, now: float) -> None:
        """A worker is there no more. why: as what follows "worker 1"."""
        w = self.workers[worker]
        if w.state == "down":
            return
        steady = w.state == "ready" and now - w.since >= STEADY_S
        w.failures = 1 if steady else w.failures + 1
        wait = 0.0 if steady else min(BACKOFF_S * 2 ** min(w.failures - 1, 16), LONGEST_BACKOFF_S)
        w.state, w.since, w.due = "down", now, now + wait
        w.streams = w.rss = 0
        self.counts.deaths += 1
        orphans = [s for s in self._streams.values() if s.worker is w]
        for number in [number for number, s in self._by_id.items() if s.worker is w and s.gone]:
            del self._by_id[number]
        _log.error(
            "worker %d (pid %d) %s; %d streams go on elsewhere; the next one starts in %.1f s",
            w.number,
            w.pid,
            why,
            len(orphans),
            wait,
        )
        tried = any(s.trial for s in orphans)
        for s in orphans:
            if s.trial or not tried:
                s.deaths += 1
            self._unseat(s)
            s.lost = now if s.lost is None else s.lost
            s.target_s = s.pushed_s
            if s.deaths >= LIVES:
                self._give_up(s, now)
            else:
                self._wait(s, now)
        self._house(now)

    def tick(self, now: float) -> None:
        """Time goes by: several times a second."""
        late = now - self._ticked
        self._ticked = now
        for w in self.workers:
            if late > LATE_TICK_S:
                w.heard = now  # its words may lie in the socket
            elif w.state == "ready" and w.streams and now - w.heard > HANG_S:
                self.kill(w.number, f"has not said a word for {HANG_S:.0f} s", now)
            elif w.state == "loading" and now - w.since > LOAD_S:
                self.kill(w.number, f"has not loaded its models in {LOAD_S:.0f} s", now)
            if w.state == "down" and now >= w.due:
                w.state, w.since, w.heard = "loading", now, now
                self.counts.restarts += bool(w.failures)
                self._actions.append(Spawn(w.number))
        for s in list(self._streams.values()):
            if s.lost is not None and s.worker is not None and now - s.since > TRIAL_S:
                s.lost = None  # it rests: no word of it says how far it is
                self._passed(s, now)
        for s in [s for s in self._waiting if now - s.since > PATIENCE_S]:
            self._end(s, f"no worker was there for {PATIENCE_S:.0f} s", now)
        self._house(now)

    def _heard(self, w: Worker, head: dict[str, Any], body: bytes, now: float) -> None:
        say = wire.field(head, "say", str)
        if say == "beat":
            self._beat(w, head, now)
        elif say == "ready":
            models = wire.field(head, "models", list)
            if self.models is not None and models != self.models:
                raise ValueError("other models than ours: were they changed on the disk?")
            w.pid = wire.field(head, "pid", int)
            w.state, w.since = "ready", now
            _log.info("worker %d (pid %d) is ready", w.number, w.pid)
            self._house(now)
        elif say == "unable":
            _log.error("worker %d: %s", w.number, wire.field(head, "why", str)[:300])
        else:
            self._of_stream(w, say, head, body, now)

    def _beat(self, w: Worker, head: dict[str, Any], now: float) -> None:
        w.rss = wire.field(head, "rss", int)
        self.counts.steps += wire.field(head, "steps", int)
        self.counts.busy_s += float(wire.field(head, "busy_s", float, int))
        if float(wire.field(head, "step_s", float, int)) > STUCK_S:
            self.kill(w.number, f"has worked on one step for {STUCK_S:.0f} s", now)

    def _of_stream(
        self, w: Worker, say: str, head: dict[str, Any], body: bytes, now: float
    ) -> None:
        number = wire.field(head, "id", int)
        s = self._by_id.get(number)
        if s is None:
            if not 0 <= number < self._next:
                raise ValueError(f"it has no stream {number}")
            return  # it has gone meanwhile
        if s.worker is not w:
            raise ValueError(f"stream {number} is not its own")
        if s.gone:
            if say == "news":
                for twin in s.twins:
                    twin.journal.told_of(wire.unpack_events(head.get("events"), body))
        elif say == "news":
            self._news(s, head, body, now)
        elif say == "saved":
            self.counts.snapshots += 1
            self.counts.snapshot_bytes += len(body)
            added = wire.field(head, "added", bool)
            s.journal.save((*s.journal.opening, body) if added else (body,), self._seen(s, head))
            self._balance(s, now)
        elif say == "forked":
            self._forked(s)
        elif say == "answer":
            asked = wire.field(head, "number", int)
            if asked in s.asks:
                s.asks.remove(asked)
                self._actions.append(Answer(asked, body, str(head.get("error", ""))[:300]))
        else:
            raise ValueError(f"{say[:40]!r} is nothing that is said")

    def _seen(self, s: _Stream, head: dict[str, Any]) -> int:
        seen: int = wire.field(head, "seen", int)
        if not 0 <= seen <= s.journal.count + len(s.journal.inputs):
            raise ValueError(f"it has seen {seen} inputs")
        return seen

    def _news(self, s: _Stream, head: dict[str, Any], body: bytes, now: float) -> None:
        events = wire.unpack_events(head.get("events"), body)
        waiting, seen = float(wire.field(head, "waiting", float, int)), self._seen(s, head)
        over = wire.field(head, "over", bool)
        failed = bool(events) and isinstance(events[-1], Failed)
        if not 0 <= waiting < math.inf or (over and not s.finished and not failed):
            raise ValueError("a stream is over that was not finished")
        before = s.journal.told
        fresh = s.journal.told_of(events)
        for twin in s.twins:
            twin.journal.told_of(events)
        s.seen = max(s.seen, seen)
        if s.lost is not None:
            heard = s.pushed_s - s.journal.seconds_after(seen) - waiting
            spoken = s.journal.rate and s.journal.told.samples > before.samples
            if over or spoken or (not s.journal.rate and heard >= s.target_s):
                self._passed(s, now)
        if over:
            self._remove(s, now)
        self._tell(s.key, fresh, waiting, max(s.seen - s.before, 0), over)

    def _forked(self, twin: _Stream) -> None:
        source, twin.twin_of = twin.twin_of, None
        if source is not None:
            source.twins.remove(twin)
            if source.gone and not source.twins:
                self._by_id.pop(source.id, None)

    # Where streams are.

    def _place(self, s: _Stream, now: float) -> None:
        """Have a worker take up a stream, if there is one and it may."""
        ready = [w for w in self.workers if w.state == "ready"]
        suspect = s.deaths >= SUSPECT
        if not ready or (suspect and any(o.trial for o in self._streams.values())):
            if s not in self._waiting:
                self._wait(s, now)
            return
        if s in self._waiting:
            self._waiting.remove(s)
        s.trial = suspect
        self._begin(s, min(ready, key=lambda w: (self._share(w, s.lane), w.streams)), now)

    def _begin(self, s: _Stream, w: Worker, now: float) -> None:
        self._seat(s, w, now)
        opening, inputs = s.journal.again()
        about = {"do": "open", "id": s.id, "lane": s.lane, "kind": s.kind}
        self._send(w, about | {"pieces": [len(piece) for piece in opening]}, *opening)
        if s.lost is not None:
            self.counts.resumed += 1
        for number, x in enumerate(inputs, s.journal.count + 1):
            self._give(s, x, number)
        if s.finished:
            self._say(s, {"do": "finish"})
        if s.held:
            self._say(s, {"do": "hold", "held": True})
        for number in s.asks:
            self._say(s, {"do": "ask", "number": number})

    def _share(self, w: Worker, lane: str) -> int:
        return sum(s.worker is w and s.lane == lane for s in self._streams.values())

    def _seat(self, s: _Stream, w: Worker, now: float) -> None:
        s.worker, s.id, s.since = w, self._next, now
        self._next += 1
        self._by_id[s.id] = s
        w.streams += 1

    def _unseat(self, s: _Stream) -> None:
        if s.worker is not None:
            s.worker.streams = max(s.worker.streams - 1, 0)
            del self._by_id[s.id]
            s.worker, s.trial = None, False
        self._forked(s)
        for twin in list(s.twins):
            self._forked(twin)

    def _wait(self, s: _Stream, now: float) -> None:
        s.since = now
        self._waiting.append(s)

    def _house(self, now: float) -> None:
        """Place those who wait, those first who have the least to be heard again."""
        for s in sorted(self._waiting, key=lambda s: (s.deaths, s.journal.seconds)):
            self._place(s, now)

    def _balance(self, s: _Stream, now: float) -> None:
        """Move a stream that was just saved, so that nothing is to be heard again, where others have less to do."""
        w = s.worker
        ready = [o for o in self.workers if o.state == "ready"]
        if w is None or s.twins or s.twin_of or s.trial or s.lost is not None:
            return
        least = min(ready, key=lambda o: self._share(o, s.lane))
        if self._share(w, s.lane) - self._share(least, s.lane) >= 2:
            self._say(s, {"do": "drop"})
            self._unseat(s)
            self.counts.moved += 1
            self._begin(s, least, now)

    def _passed(self, s: _Stream, now: float) -> None:
        """A stream is beyond the place where its worker died."""
        if s.lost is not None:
            gap = now - s.lost
            self.counts.gaps += 1
            self.counts.gap_s += gap
            self.counts.longest_gap_s = max(self.counts.longest_gap_s, gap)
        s.deaths, s.lost = 0, None
        if s.trial:
            s.trial = False
            self._house(now)

    def _give_up(self, s: _Stream, now: float) -> None:
        self.counts.given_up += 1
        what = "spoke" if s.kind == "speak" else "heard"
        self._end(s, f"this stream was given up, as {LIVES} workers have died while they {what} it", now)  # fmt: skip

    def _end(self, s: _Stream, why: str, now: float) -> None:
        self._remove(s, now)
        self._tell(s.key, [Failed(why)], over=True)

    def _remove(self, s: _Stream, now: float) -> None:
        trial = s.trial
        if s.twins and s.worker is not None:
            s.gone = True
            s.worker.streams -= 1
            self._forked(s)
        else:
            self._unseat(s)
        self._streams.pop(s.key, None)
        if s in self._waiting:
            self._waiting.remove(s)
        for number in s.asks:
            self._actions.append(Answer(number, b"", "this stream is over"))
        if trial:
            self._house(now)

    # What is sent.

    def _give(self, s: _Stream, x: np.ndarray | str, number: int) -> None:
        if s.worker is not None:
            about, body = wire.pack_input(x)
            self._say(s, {"do": "push", "count": number, **about}, body)

    def _say(self, s: _Stream, head: dict[str, Any], body: bytes = b"") -> None:
        if s.worker is not None:
            self._send(s.worker, head | {"id": s.id}, body)

    def _send(self, w: Worker, head: dict[str, Any], *bodies: bytes) -> None:
        self._actions.append(Send(w.number, head, bodies))

    def _tell(
        self,
        key: int,
        events: Iterable[Any],
        waiting_s: float = 0.0,
        seen: int = 0,
        over: bool = False,
    ) -> None:
        self._actions.append(Tell(key, list(events), waiting_s, seen, over))
