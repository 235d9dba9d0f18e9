"""Many unsynchronised streams in one process, of any kind, in batches.

    pool = asr.pool(slots=64)
    sid = pool.open(latency_ms=160, sample_rate=48000)
    pool.push(sid, block)              # whenever sound comes, in blocks of any length
    for sid, events in pool.step().items(): ...
    pool.finish(sid)                   # its last events come with the next step, then its slot is free
    data = pool.snapshot(sid)          # the stream as bytes ...
    sid = other_pool.resume(data)      # ... goes on in another process with the same text

Each stream is a core's generator that yields requests and takes answers. The pool gathers what is asked at
one moment and answers requests of one key by one call of their network: nobody waits for another's audio, and
every stream gives the events that it gives alone. One pool serves recognition and synthesis at once:
`open_core` takes the core of any stream.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from speechstream import state as states
from speechstream.errors import SpeechStreamError
from speechstream.events import Event, Failed, from_json, to_json
from speechstream.runtime.requests import Work, answer_together

PIECE_S = (
    0.5  # pushed audio is heard in pieces of at most this: nobody's backlog holds up the others
)


@dataclass
class _Open:
    """One stream: its core and state, what it was given and has not taken, what it has said."""

    core: Any
    state: Any
    queue: deque[Any] = field(default_factory=deque)  # inputs not taken yet, None for the end
    work: Work[tuple[list[Event], Any]] | None = None  # a step in progress
    request: Any = None  # what it waits for
    events: list[Event] = field(default_factory=list)  # not delivered yet
    ending: bool = False  # takes no more input
    over: bool = False  # has said its last event
    held: bool = False  # its events are not wanted yet

    @property
    def ready(self) -> bool:
        """Whether it can go on without an answer."""
        return (
            self.request is None
            and not self.over
            and not self.held
            and bool(self.queue or self.core.busy(self.state))
        )

    def go_on(self, answer: Any = None) -> None:
        """Take the answer, or the next input, and go on until the next request or the end of the step."""
        self.request = None
        try:
            if isinstance(answer, Exception) and self.work is not None:
                self.request = self.work.throw(answer)
                return
            if self.work is None:
                if self.core.busy(self.state):
                    self.work = self.core.resume(self.state)
                else:
                    self.work = self.core.step(self.queue.popleft(), self.state)
            self.request = self.work.send(answer)
        except StopIteration as done:
            events, self.state = done.value
            self.events += events
            self.work, self.over = None, self.core.over(self.state)
        except Exception as error:  # whatever it is, it is this stream's own
            self.events.append(Failed(f"{type(error).__name__}: {error}"))
            self.queue.clear()
            self.work, self.ending, self.over = None, True, True


class Pool:
    """Up to `slots` streams. Not for several threads at once: one owner opens, pushes and steps.

    core: makes the core of a stream from the arguments of `open`; kind: these arguments from a snapshot.
    """

    def __init__(
        self,
        slots: int = 64,
        core: Callable[..., Any] | None = None,
        kind: Callable[[Any], tuple[Any, ...]] | None = None,
    ):
        if type(slots) is not int or slots < 1:
            raise ValueError(f"a pool needs at least one slot, got {slots}")
        self.slots, self._core, self._kind = slots, core, kind
        self._open: dict[int, _Open] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, sid: int) -> bool:
        return sid in self._open

    def open(self, *args: Any, **options: Any) -> int:
        """A new stream, by its number; arguments are those of the model's `stream`.

        Raises SpeechStreamError where all slots are taken, ValueError for what the model does not have.
        """
        self._admit()
        if self._core is None:
            raise ValueError("this pool belongs to no model: open_core takes a stream's core")
        return self.open_core(self._core(*args, **options))

    def open_core(self, core: Any, state: Any = None) -> int:
        """A stream of any core, from a state that is a value, or from the beginning."""
        self._admit()
        state = core.init_state() if state is None else core.write(state)
        sid, self._next = self._next, self._next + 1
        self._open[sid] = _Open(core, state)
        return sid

    def push(self, sid: int, x: Any) -> None:
        """Take a block (or text) as the stream's own `push` does, to be used in the next steps. Raises ValueError."""
        one = self._find(sid)
        if one.ending:
            raise SpeechStreamError(f"stream {sid} is finished; open another one")
        one.queue.extend(one.core.pieces(x, PIECE_S))

    def finish(self, sid: int) -> None:
        """No more input comes. When a step has given the last events, the slot is free."""
        one = self._find(sid)
        if not one.ending:
            one.ending = True
            one.queue.append(None)

    def close(self, sid: int) -> None:
        """Drop a stream at once with all that it has not said yet. One that is gone may be closed again."""
        one = self._open.pop(sid, None)
        if one is not None:
            if one.work is not None:
                one.work.close()  # gives back what the step in progress has opened
            one.core.close(one.state)

    def step(self, budget_s: float | None = None, eager: bool = False) -> dict[int, list[Event]]:
        """Work on what was pushed, and give each stream's new events.

        Returns when all is done, or about `budget_s` seconds from now with the rest left for the next step:
        streams take turns, so a long backlog delays only itself. eager: it returns as well once anybody has said
        anything, so that the first sound does not wait for the second.
        """
        until = None if budget_s is None else time.monotonic() + budget_s
        while self._turn() and (until is None or time.monotonic() < until):
            if eager and any(one.events for one in self._open.values()):
                break
        said = {sid: one.events for sid, one in self._open.items() if one.events}
        for sid, one in list(self._open.items()):
            one.events = []
            if one.over:
                self.close(sid)
        return said

    def _turn(self) -> bool:
        """Everybody goes on until the next request, and the requests are answered; False: nothing to do."""
        for one in self._open.values():
            if one.ready:
                one.go_on()
        asking = [one for one in self._open.values() if one.request is not None]
        if not asking:
            return any(one.ready for one in self._open.values())
        # what feeds a stream goes first, so that those who wait for the costlier calls become more
        first = min(_rank(one.request) for one in asking)
        asking = [one for one in asking if _rank(one.request) == first]
        for i, answer in answer_together([one.request for one in asking]):
            asking[i].go_on(answer)
        return True

    @property
    def busy(self) -> bool:
        """Whether a step would do or say anything."""
        return any(
            one.ready or one.over or one.request is not None or one.events
            for one in self._open.values()
        )

    def hold(self, sid: int, held: bool = True) -> None:
        """Let a stream rest, whatever it was given, until it is let go (held=False): its listener is slow."""
        self._find(sid).held = held

    def waiting(self, sid: int) -> float:
        """Seconds of audio that were pushed to a stream and not heard yet: how late a server is."""
        one = self._find(sid)
        return float(sum(one.core.seconds(x) for x in one.queue if x is not None))

    def resting(self, sid: int) -> bool:
        """Whether no step of a stream is in progress, which its snapshot would have to end, and nothing is unsaid."""
        one = self._find(sid)
        return one.work is None and not one.events

    def pausing(self, sid: int) -> bool:
        """Whether a stream is between two stretches of speech, where its snapshot is small."""
        one = self._find(sid)
        return bool(one.core.pausing(one.state))

    def fork(self, sid: int) -> int:
        """Another stream that has been given the same. Raises SpeechStreamError where all slots are taken."""
        self._admit()
        one = self._settled(sid)
        twin = self.open_core(one.core, one.core.read(one.state))
        self._open[twin].queue.extend(one.queue)
        self._open[twin].events, self._open[twin].ending = list(one.events), one.ending
        self._open[twin].over = one.over
        return twin

    def snapshot(self, sid: int, fp16_caches: bool = False) -> bytes:
        """A stream with what it has not taken and not said yet as bytes; the stream goes on unchanged.

        The step in progress, if a budget interrupted it, ends first. fp16_caches: half the bytes, and a text
        that may differ. Raises SpeechStreamError for a stream that is not open or has failed.
        """
        return states.to_bytes(*self._wrapped(sid), fp16_caches)

    def flat(self, sid: int) -> states.Flat:
        """A snapshot taken apart, for `states.pack`. Raises SpeechStreamError as `snapshot` does."""
        return states.flat_of(*self._wrapped(sid))

    def _wrapped(self, sid: int) -> tuple[_Snapshot, dict[str, Any]]:
        one = self._settled(sid)
        wrapped = _Snapshot(
            one.core.read(one.state),
            one.core.joined([x for x in one.queue if x is not None]),
            _dumped(one.events),
            one.ending,
        )
        return wrapped, one.core.about()

    def resume(self, data: bytes | states.Flat, core: Any = None) -> int:
        """Take up a stream from its snapshot, under a number of this pool. core: its own, if the pool belongs to no model.

        Raises SpeechStreamError where the bytes are no snapshot of a stream of this model, or no slot is free.
        """
        self._admit()
        if core is None and (self._core is None or self._kind is None):
            raise ValueError("this pool belongs to no model: open_core takes a state")
        try:
            core = core or self._core(*self._kind(data))  # type: ignore[misc]
        except ValueError as error:
            raise SpeechStreamError(f"this snapshot is of another model: {error}") from error
        found = core.unpack(data, _Snapshot, "stream")
        try:
            events = _loaded(found.events)
            if core.over(found.stream) and not found.ending:
                raise ValueError("it is neither open nor finished")
            pieces = core.pieces(found.queue, PIECE_S)
        except ValueError as error:
            raise SpeechStreamError(f"this snapshot holds no stream of a pool: {error}") from error
        sid = self.open_core(core, found.stream)
        one = self._open[sid]
        one.events, one.ending, one.over = events, found.ending, core.over(found.stream)
        if not one.over:
            one.queue.extend(pieces)
            if found.ending:
                one.queue.append(None)
        return sid

    def _settled(self, sid: int) -> _Open:
        """A stream whose step in progress has ended. Raises SpeechStreamError for one that has failed."""
        one = self._find(sid)
        while one.request is not None:
            one.go_on(next(answer_together([one.request]))[1])
        if any(isinstance(e, Failed) for e in one.events):
            raise SpeechStreamError(
                f"stream {sid} has failed and cannot be moved; the next step says why"
            )
        return one

    def _admit(self) -> None:
        if len(self._open) >= self.slots:
            raise SpeechStreamError(
                f"all {self.slots} slots of the pool are taken; close a stream or make it larger"
            )

    def _find(self, sid: int) -> _Open:
        if sid not in self._open:
            raise SpeechStreamError(f"stream {sid} is not open in this pool")
        return self._open[sid]


@dataclass(frozen=True)
class _Snapshot:
    """A stream of a pool. queue: its input that was not taken, in one piece. events: as JSON."""

    stream: Any
    queue: Any
    events: tuple[str, ...]
    ending: bool


def beginning(core: Any) -> states.Flat:
    """The snapshot of a stream that has been given nothing."""
    wrapped = _Snapshot(core.read(core.init_state()), core.joined([]), (), False)
    return states.flat_of(wrapped, core.about())


def _rank(request: Any) -> int:
    return getattr(request, "rank", 0)


def _dumped(events: list[Event]) -> tuple[str, ...]:
    return tuple(json.dumps(to_json(e)) for e in events)


def _loaded(events: tuple[str, ...]) -> list[Event]:
    return [from_json(json.loads(e)) for e in events]
