"""Cores without networks, that say what can be reckoned; and a worker without a process that runs them.

The hearing one is given word numbers as samples, 0 being silence; it looks at GRID of them at a time, and what it says
depends only on where it is. The speaking one makes three samples of each letter.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from speechstream import state as states
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Endpoint, Final, Partial, SpeechStarted, Word
from speechstream.runtime.pool import Pool, beginning
from speechstream.serve.networks import Stats, Table
from speechstream.serve.workers import wire
from speechstream.serve.workers.dispatch import Answer, Dispatch, Kill, Send, Spawn, Tell

GRID, RATE = 4, 10


@dataclass(frozen=True)
class Hearing:
    pending: np.ndarray
    words: tuple[int, ...] = ()
    position: int = 0
    onset: int = 0
    finished: bool = False


class Toy:
    """What both have in common."""

    sample_rate = RATE

    def busy(self, state):
        return False

    def resume(self, state):
        yield from ()
        return [], state

    def over(self, state):
        return state.finished

    def read(self, state):
        return state

    write = read

    def close(self, state):
        pass

    def about(self):
        return {"toy": type(self).__name__}

    def unpack(self, data, kind, name=""):
        return states.from_bytes(data, kind, {name: self.state, "queue": self.queued})


class HearingCore(Toy):
    state, queued = Hearing, np.ndarray

    def init_state(self):
        return Hearing(np.zeros(0, np.float32))

    def pieces(self, x, seconds):
        return [x] if len(x) else []

    def seconds(self, x):
        return len(x) / RATE

    def joined(self, blocks):
        return np.concatenate([np.zeros(0, np.float32), *blocks])

    def pausing(self, state):
        return not state.words

    def step(self, x, state):
        yield from ()
        events, end = [], x is None
        pending = np.concatenate(
            [state.pending, np.zeros(-len(state.pending) % GRID) if end else x]
        )
        while len(pending) >= GRID:
            for number in map(int, pending[:GRID]):
                state = replace(state, position=state.position + 1)
                if number < 0:
                    raise ValueError("deadly")
                if number and not state.words:
                    state = replace(state, onset=state.position)
                    events.append(SpeechStarted(state.position, state.position))
                if number:
                    state = replace(state, words=(*state.words, number))
                elif state.words:
                    state = self._end(state, events)
            if state.words:
                *stable, last = map(str, state.words)
                events.append(Partial(" ".join(stable), last, state.position))
            pending = pending[GRID:]
        state = replace(state, pending=pending.astype(np.float32), finished=end)
        if end and state.words:
            state = self._end(state, events)
        return events, state

    def _end(self, state, events):
        text = " ".join(map(str, state.words))
        events += [
            Final(text, (), state.onset, state.position),
            Endpoint(state.position, state.position),
        ]
        return replace(state, words=())


@dataclass(frozen=True)
class Speaking:
    text: str = ""
    samples: int = 0
    ended: bool = False

    @property
    def finished(self):
        return self.ended and not self.text


class SpeakingCore(Toy):
    state, queued = Speaking, str

    def init_state(self):
        return Speaking()

    def pieces(self, x, seconds):
        return [x] if x else []

    def seconds(self, x):
        return len(x) / RATE

    def joined(self, blocks):
        return "".join(blocks)

    def busy(self, state):
        return bool(state.text)

    def pausing(self, state):
        return not state.text

    def step(self, x, state):
        if x is None:
            state = replace(state, ended=True)
        else:
            state = replace(state, text=state.text + x)
        return (yield from self.resume(state))

    def resume(self, state):
        yield from ()
        if not state.text:
            return [], state
        letter, at = state.text[0], state.samples
        pcm = np.full(3, ord(letter), np.float32) + np.arange(3, dtype=np.float32) / 4
        events = [Audio(pcm, at / RATE, (Word(letter, at / RATE, (at + 3) / RATE),))]
        return events, replace(state, text=state.text[1:], samples=at + 3)


CORES = {"hear": HearingCore(), "speak": SpeakingCore()}


def opening(kind):
    return states.pack(beginning(CORES[kind]))


def alone(kind, inputs):
    """What a stream says that nobody disturbs."""
    pool = Pool(1)
    sid = pool.open_core(CORES[kind])
    for x in inputs:
        pool.push(sid, x)
    pool.finish(sid)
    return pool.step().get(sid, [])


class ToyWorker:
    """What `serve.workers.worker` does, without threads and sockets. It dies of a word below 0."""

    def __init__(self, pid):
        self.pid, self.table = pid, Table(Pool(100), Stats(), saves=True)
        self.out = deque([self._message({"say": "ready", "pid": pid, "models": ["toy"]})])
        self.dead = False

    def _message(self, head, body=b""):
        ((said, rest),) = wire.Frames().feed(b"".join(wire.pack(head, body)))
        return said, rest

    def obey(self, head, body):
        number, do = head["id"], head["do"]
        if do == "open":
            data = states.unpack(wire.apart(head["pieces"], body))
            self._say(self.table.resume(number, CORES[head["kind"]], data))
        elif do == "fork":
            self._say(self.table.fork(number, head["of"]))
            self.out.append(self._message({"say": "forked", "id": number}))
        elif do == "push":
            x = wire.unpack_input(head, body)
            self.dead = self.dead or (not isinstance(x, str) and bool((x < 0).any()))
            self._say(self.table.push(number, x, head["count"]))
        elif do == "finish":
            self._say(self.table.do(number, Pool.finish))
        elif do == "hold":
            self._say(self.table.do(number, lambda pool, sid: pool.hold(sid, head["held"])))
        elif do == "drop":
            self._say(self.table.drop(number))
        elif do == "ask":
            about = {"say": "answer", "id": number, "number": head["number"]}
            try:
                sid = self.table.number(number)
                self.out.append(self._message(about, self.table.pool.snapshot(sid)))
            except SpeechStreamError as error:
                self.out.append(self._message(about | {"error": str(error)}))

    def step(self):
        if self.table.busy:
            self._say(self.table.step())

    def _say(self, news):
        for n in news:
            said, sound = wire.pack_events(n.events)
            about = {"id": n.key, "seen": n.seen}
            told = {"say": "news", "events": said, "waiting": n.waiting_s, "over": n.over}
            self.out.append(self._message(about | told, sound))
            if n.snapshot is not None:
                saved = about | {"say": "saved", "added": n.added}
                self.out.append(self._message(saved, n.snapshot))


class Scene:
    """A dispatch with its workers, and what its listeners were told."""

    def __init__(self, workers=2):
        self.dispatch, self.now = Dispatch(workers, ["toy"]), 0.0
        self.processes: dict[int, ToyWorker] = {}
        self.told: dict[int, list] = {}
        self.over: set[int] = set()
        self.answers: dict[int, Answer] = {}
        self.pid = 0
        self.tick(0.0)

    def tick(self, seconds):
        self.now += seconds
        self.dispatch.tick(self.now)
        self.act()

    def act(self):
        for action in self.dispatch.take():
            if isinstance(action, Spawn):
                self.pid += 1
                self.processes[action.worker] = ToyWorker(self.pid)
            elif isinstance(action, Kill):
                self.processes.pop(action.worker, None)
            elif isinstance(action, Send):
                process = self.processes.get(action.worker)
                if process is not None and not process.dead:
                    process.obey(action.head, b"".join(action.bodies))
            elif isinstance(action, Tell):
                assert action.key not in self.over
                self.told.setdefault(action.key, []).extend(action.events)
                if action.over:
                    self.over.add(action.key)
            else:
                self.answers[action.number] = action
        for number, process in list(self.processes.items()):
            if process.dead:
                self.kill(number)

    def kill(self, number):
        if self.processes.pop(number, None) is not None:
            self.dispatch.lost(number, "has died", self.now)
            self.act()

    def step(self, number):
        if number in self.processes:
            self.processes[number].step()

    def deliver(self, number, most=1):
        """Up to so many words of a worker arrive."""
        for _ in range(most):
            process = self.processes.get(number)
            if process is None or not process.out:
                return
            head, body = process.out.popleft()
            self.dispatch.heard(number, head, body, self.now)
            self.act()

    def settle(self, seconds=0.2):
        """Everybody does all there is to do, some time long."""
        for _ in range(400):
            for number in list(self.processes):
                self.step(number)
                self.deliver(number, 1000)
            self.tick(seconds)
            if (
                not any(p.out or p.table.busy for p in self.processes.values())
                and self.dispatch.ready
            ):
                if not self.dispatch._waiting:
                    return

    def open(self, key, kind="hear"):
        self.dispatch.open(
            key, "live", kind, opening(kind), RATE if kind == "speak" else 0, self.now
        )
        self.act()

    def push(self, key, x):
        x = x if isinstance(x, str) else np.asarray(x, np.float32)
        self.dispatch.push(key, x, len(x) / RATE)
        self.act()

    def do(self, what, *args):
        getattr(self.dispatch, what)(*args)
        self.act()
