"""Many unsynchronised streams through one engine, in batches.

    pool = asr.pool(slots=64)
    sid = pool.open(latency_ms=160, sample_rate=48000)
    pool.push(sid, block)              # whenever sound comes, in blocks of any length
    for sid, events in pool.step().items(): ...
    pool.finish(sid)                   # its last events come with the next step, then its slot is free
    data = pool.snapshot(sid)          # the stream as bytes ...
    sid = other_pool.resume(data)      # ... goes on in another process with the same text

Each stream is a generator that yields requests (`Encode`, `Decode`) and takes answers. The pool gathers what is asked
at one moment, runs requests of a kind and a like size as one batch, and sends each stream its own rows back: nobody
waits for another's audio, and every stream gives the events that it gives alone. What differs in size is padded
where it is masked (memory), where it comes later (tokens), or on the left (tokens read before), and cut back.
"""

from __future__ import annotations

import heapq
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generator

import numpy as np

from speechstream.asr.whisper.attention import Decode
from speechstream.events import Event
from speechstream.audio.samples import to_mono
from speechstream.asr.whisper.networks import Decoded, DecoderState, Encoded, EncoderState, Engine
from speechstream.errors import SpeechStreamError

if TYPE_CHECKING:
    from speechstream.asr.recognizer import Recognizer, Stream

PIECE_S = (
    0.5  # pushed audio is heard in pieces of at most this: nobody's backlog holds up the others
)
BATCHED_FRAMES = (
    64  # encoder chunks up to 1.28 s gain from a batch; longer ones fill the machine alone
)
MEMORY_FRAMES = 128  # the least memory a batch is padded to, doubled until it fits


@dataclass(frozen=True)
class Failed:
    """The last event of a stream that could not go on. Other streams are not affected."""

    message: str


@dataclass
class _Slot:
    sid: int
    stream: "Stream"
    queue: deque = field(default_factory=deque)  # mono blocks not heard yet, None for the end
    work: Generator | None = None  # hearing one of them
    request: Any = None  # what it waits for
    events: list = field(default_factory=list)  # not delivered yet
    ending: bool = False  # takes no more audio
    over: bool = False  # has said its last event
    encoded: int = 0  # chunks so far: tells the versions of its memory apart

    def resume(self, answer: Any = None) -> None:
        """Go on until the next request, or to the end of one block."""
        self.request = None
        try:
            if isinstance(answer, Exception):
                raise answer
            if self.work is None:
                self.work = self.stream.process(self.queue.popleft())
            self.request = self.work.send(answer)
        except StopIteration as done:
            self.events += done.value
            self.work, self.over = None, self.stream.finished
        except Exception as error:  # whatever it is, it is this stream's own
            self.events.append(Failed(f"{type(error).__name__}: {error}"))
            self.queue.clear()
            self.work, self.ending, self.over = None, True, True


class Pool:
    """Up to `slots` streams of one recogniser. Not for several threads at once: one owner opens, pushes and steps."""

    def __init__(self, recognizer: "Recognizer", slots: int = 64):
        if slots < 1:
            raise ValueError(f"a pool needs at least one slot, got {slots}")
        self.recognizer, self.slots = recognizer, slots
        self._open: dict[int, _Slot] = {}
        self._next = 0
        self._batches = Batches(recognizer.engine, slots)

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, sid: int) -> bool:
        return sid in self._open

    def open(self, latency_ms: int | None = 320, sample_rate: int = 16_000) -> int:
        """A new stream, by its number; latency_ms None hears whole segments (offline).

        Raises SpeechStreamError where all slots are taken, ValueError for a latency that the model does not have.
        """
        self._admit()
        return self._seat(self.recognizer.stream(latency_ms, sample_rate))

    def push(self, sid: int, block: np.ndarray) -> None:
        """Take a block as `Stream.push` does, to be heard in the next steps. ValueError on NaN or a wrong shape."""
        slot = self._slot(sid)
        if slot.ending:
            raise SpeechStreamError(f"stream {sid} is finished; open another one")
        samples = to_mono(block)
        size = max(int(PIECE_S * slot.stream.resampler.rate_in), 1)
        slot.queue.extend(samples[i : i + size] for i in range(0, len(samples), size))

    def finish(self, sid: int) -> None:
        """No more audio comes. When all of it has been heard and a step has given the last events, the slot is free."""
        slot = self._slot(sid)
        if not slot.ending:
            slot.ending = True
            slot.queue.append(None)

    def close(self, sid: int) -> None:
        """Drop a stream at once with all that it has not said yet. One that is gone already may be closed again."""
        self._open.pop(sid, None)

    def step(self, budget_s: float | None = None) -> dict[int, list[Event | Failed]]:
        """Hear what was pushed, and give each stream's new events.

        Returns when everything is heard, or about `budget_s` seconds from now with the rest left for the next step:
        streams take turns, half a second of audio at a time, so a long backlog delays only itself.
        """
        until = None if budget_s is None else time.monotonic() + budget_s
        while True:
            for slot in self._open.values():
                if slot.request is None and slot.queue:
                    slot.resume()
            asking = [slot for slot in self._open.values() if slot.request is not None]
            if not asking and not any(slot.queue for slot in self._open.values()):
                break
            for slot, answer in self._batches.answer(asking):
                slot.resume(answer)
            if until is not None and time.monotonic() >= until:
                break
        said = {sid: slot.events for sid, slot in self._open.items() if slot.events}
        for sid, slot in list(self._open.items()):
            slot.events = []
            if slot.over:
                del self._open[sid]
        return said

    def waiting(self, sid: int) -> float:
        """Seconds of audio that were pushed to a stream and not heard yet: a server's measure of being late."""
        slot = self._slot(sid)
        return sum(len(b) for b in slot.queue if b is not None) / slot.stream.resampler.rate_in

    def pausing(self, sid: int) -> bool:
        """Whether a stream is between two stretches of speech, where its snapshot is small."""
        return self._slot(sid).stream.segment is None

    def snapshot(self, sid: int, half: bool = False) -> bytes:
        """A stream with its unheard audio and undelivered events as bytes; the stream itself goes on unchanged.

        `half` stores the encoder's and decoder's caches in 16 bits: half the bytes, and a text that may differ.
        The block being heard, if a budget interrupted it, is heard to its end first. Raises SpeechStreamError for a
        stream that is not open or has failed.
        """
        from speechstream.asr import snapshot

        slot = self._slot(sid)
        while slot.request is not None:
            slot.resume(next(self._batches.answer([slot]))[1])
        if any(isinstance(e, Failed) for e in slot.events):
            raise SpeechStreamError(
                f"stream {sid} has failed and cannot be moved; the next step says why"
            )
        values, arrays = snapshot.dump(slot.stream)
        values |= {"ending": slot.ending, "events": snapshot.dump_events(slot.events)}
        queue = [b for b in slot.queue if b is not None]
        arrays["queue"] = np.concatenate([np.zeros(0, np.float32), *queue])
        return snapshot.pack(values, arrays, half)

    def resume(self, data: bytes) -> int:
        """Take up a stream from its snapshot, under a number of this pool.

        Raises SpeechStreamError where the bytes are no snapshot of a stream of this model, or all slots are taken.
        """
        from speechstream.asr import snapshot

        self._admit()
        values, arrays = snapshot.unpack(data)
        stream = snapshot.load(self.recognizer, values, arrays)
        try:
            events, ending, queue = (
                snapshot.load_events(values["events"]),
                values["ending"],
                arrays["queue"],
            )
            if type(ending) is not bool or (stream.finished and not ending):
                raise ValueError("it is neither open nor finished")
            if queue.ndim != 1 or queue.dtype != np.float32 or not np.isfinite(queue).all():
                raise ValueError("its audio is no audio")
        except (ValueError, KeyError, TypeError) as error:
            raise SpeechStreamError(f"this snapshot holds no stream of a pool: {error}") from error
        sid = self._seat(stream)
        if len(queue) and not stream.finished:
            self.push(sid, queue)
        slot = self._open[sid]
        slot.events, slot.over = events, stream.finished
        if ending and not stream.finished:
            self.finish(sid)
        slot.ending = ending
        return sid

    def _admit(self) -> None:
        if len(self._open) >= self.slots:
            raise SpeechStreamError(
                f"all {self.slots} slots of the pool are taken; close a stream or make it larger"
            )

    def _seat(self, stream: "Stream") -> int:
        sid, self._next = self._next, self._next + 1
        self._open[sid] = _Slot(sid, stream)
        return sid

    def _slot(self, sid: int) -> _Slot:
        if sid not in self._open:
            raise SpeechStreamError(f"stream {sid} is not open in this pool")
        return self._open[sid]


class Batches:
    """Answers the requests of many slots with as few calls of the engine as their sizes allow."""

    def __init__(self, engine: Engine, slots: int):
        self.engine, self.slots = engine, slots
        self.caches: dict[int, _Caches] = {}  # by chunk length
        self.memories: dict[tuple, _Memories] = {}  # by kind of call and memory length

    def answer(self, asking: list[_Slot]) -> Generator:
        """(slot, answer) for each slot that got one this time, an exception where its request could not be run.

        Chunks go first, so that those who wait for the decoder become more.
        """
        encodes = [s for s in asking if not isinstance(s.request, Decode)]
        groups: dict[tuple, list[_Slot]] = {}
        for slot in encodes or asking:
            groups.setdefault(self._kind(slot.request), []).append(slot)
        for kind, group in groups.items():
            if len(group) > 1:
                try:
                    answers = self._together(group, kind)
                except Exception:  # one of them is to blame: each alone
                    answers = None
            else:
                answers = None
            for slot, answer in (
                answers if answers is not None else ((s, self._alone(s)) for s in group)
            ):
                if isinstance(answer, tuple) and isinstance(answer[0], Encoded):
                    slot.encoded += 1  # its memory is about to change
                yield slot, answer

    def _kind(self, request: Any) -> tuple:
        if hasattr(request, "kind"):  # it knows how to be run with its like
            return request.kind
        if not isinstance(request, Decode):
            return "encode", request.mel.shape[2] // 2
        if len(request.tokens) > 1:
            return "beam", id(request)  # a batch already
        n, frames = request.tokens.shape[1], request.memory.keys.shape[3]
        # one token apart from several: a product with one row is computed in another order
        return (
            "decode",
            1 << (n - 1).bit_length(),
            MEMORY_FRAMES << (-(-frames // MEMORY_FRAMES) - 1).bit_length(),
        )

    def _together(self, group: list[_Slot], kind: tuple) -> list[tuple[_Slot, Any]] | None:
        """The answers of one call, or None where a batch gains nothing."""
        if kind[0] == "encode":
            return self._encode(group, *kind[1:])
        if kind[0] == "decode":
            return self._decode(group, *kind[1:])
        asked = [s.request for s in group]
        return (
            list(zip(group, asked[0].run_many(self.engine, asked)))
            if hasattr(asked[0], "run_many")
            else None
        )

    def _alone(self, slot: _Slot) -> Any:
        try:
            return slot.request.run(self.engine)
        except Exception as error:
            return error

    def _encode(self, group: list[_Slot], chunk: int) -> list[tuple[_Slot, Any]] | None:
        if chunk > BATCHED_FRAMES or any(s.request.keep not in (None, chunk) for s in group):
            return None
        if chunk not in self.caches:
            self.caches[chunk] = _Caches(self.engine.encoder_state(), self.slots)
        caches, out = self.caches[chunk], []
        seated = [(*caches.seat(s.request.state), s) for s in group]
        for run in _runs(sorted(seated, key=lambda seat: seat[0])):
            slots = [s for _, _, s in run]
            if run[0][0] < 0:
                out += [(s, self._alone(s)) for s in slots]
            else:
                mel = np.concatenate([s.request.mel for s in slots])
                out += zip(
                    slots,
                    caches.encode(self.engine, mel, [state for _, state, _ in run], run[0][0]),
                )
        return out

    def _decode(self, group: list[_Slot], most: int, frames: int) -> list[tuple[_Slot, Any]]:
        key = most > 1, frames
        if key not in self.memories:
            self.memories[key] = _Memories(frames)
        group, keys, values = self.memories[key].gather(group)
        asked = [s.request for s in group]
        tokens = np.zeros((len(asked), max(r.tokens.shape[1] for r in asked)), np.int64)
        mask = np.zeros((len(asked), frames), bool)
        known = max(r.state.keys.shape[3] for r in asked)
        past = [
            np.zeros((len(asked), *a.shape[1:3], known, a.shape[4]), a.dtype)
            for a in (asked[0].state.keys, asked[0].state.values)
        ]
        for i, r in enumerate(asked):
            tokens[i, : r.tokens.shape[1]] = r.tokens[0]
            mask[i, : r.memory.frames] = True
            S = r.state.keys.shape[3]
            past[0][i, :, :, known - S :], past[1][i, :, :, known - S :] = (
                r.state.keys[0],
                r.state.values[0],
            )
        before, first = np.concatenate([r.state.tokens for r in asked]), min(r.first for r in asked)
        said, new = self.engine.decode(
            tokens, keys, values, mask, DecoderState(*past, before), first
        )
        out = []
        for i, (slot, r) in enumerate(zip(group, asked)):
            n, rows = (
                r.tokens.shape[1],
                slice(known - r.state.keys.shape[3], known + r.tokens.shape[1]),
            )
            state = DecoderState(
                new.keys[i : i + 1, :, :, rows].copy(),
                new.values[i : i + 1, :, :, rows].copy(),
                r.state.tokens + n,
            )  # copied: a stream must not keep the whole batch alive
            text = None if said.text is None else said.text[i : i + 1, :n]
            decoded = Decoded(
                said.logits[i : i + 1, r.first - first : n - first],
                said.alignment[i : i + 1, :n, : r.memory.keys.shape[3]],
                text,
            )
            out.append((slot, (decoded, state)))
        return out


class _Caches:
    """The encoder caches of streams with one chunk length, as rows of one array: neighbours are a batch uncopied.

    A cache takes a row when it is first in a batch; its stream then holds views of that row, and when it lets go of
    them the row is free. The lowest free row is taken first, so that busy rows stay together.
    """

    def __init__(self, like: EncoderState, rows: int):
        self.keys, self.values = (
            np.zeros((rows, *a.shape[1:]), a.dtype) for a in (like.keys, like.values)
        )
        self.free = list(range(rows))
        self.used: set[int] = set()
        self.rows: dict[int, int] = {}  # id of the view that a stream holds: its row

    def seat(self, state: EncoderState) -> tuple[int, EncoderState]:
        """The row of a state, and the state in that row; row -1 and the state as it is where none is free."""
        row = self.rows.get(id(state.keys))
        if row is None and self.free:
            row = heapq.heappop(self.free)
            if state.frames[0] or row in self.used:  # else both are zeros
                self.keys[row], self.values[row] = state.keys[0], state.values[0]
            self.used.add(row)
            keys, values = self.keys[row : row + 1], self.values[row : row + 1]
            self.rows[id(keys)] = row
            weakref.finalize(keys, self._leave, id(keys)).atexit = False
            state = EncoderState(state.mel, keys, values, state.frames)
        return -1 if row is None else row, state

    def _leave(self, view: int) -> None:
        heapq.heappush(self.free, self.rows.pop(view))

    def encode(
        self, engine: Engine, mel: np.ndarray, states: list[EncoderState], first: int
    ) -> list[tuple[Encoded, EncoderState]]:
        """Chunks of the states that sit in the rows from `first` on."""
        keys, values = (
            self.keys[first : first + len(states)],
            self.values[first : first + len(states)],
        )
        out, new = engine.encode(
            mel,
            EncoderState(
                np.concatenate([s.mel for s in states]),
                keys,
                values,
                np.concatenate([s.frames for s in states]),
            ),
        )
        if new.keys is not keys:  # an engine that does not write in place
            keys[:], values[:] = new.keys, new.values
        return [
            (
                Encoded(
                    out.keys[i : i + 1],
                    out.values[i : i + 1],
                    out.ctc[i : i + 1],
                    None if out.gate is None else out.gate[i : i + 1],
                ),
                EncoderState(new.mel[i : i + 1], s.keys, s.values, new.frames[i : i + 1]),
            )
            for i, s in enumerate(states)
        ]


class _Memories:
    """What streams of like memory length read, as one array; a stream that keeps its place is not copied again.

    Within one bringing up to date a stream decodes token by token over the same memory: only its first call copies it.
    """

    def __init__(self, frames: int):
        self.frames = frames
        self.keys = self.values = None
        self.seated: list[tuple | None] = []
        self.filled: list[int] = []  # frames of each row that are not zeros

    def gather(self, group: list[_Slot]) -> tuple[list[_Slot], np.ndarray, np.ndarray]:
        """The group in the order of its rows, and the rows."""
        B, like = len(group), group[0].request.memory.keys
        if B > len(self.seated):
            B = 2 * B  # room to grow: the rows not used cost nothing
            layers, heads, _, width = like.shape[
                1:
            ]  # a graph takes layer by layer, and copies what is not in one piece
            self.keys, self.values = (
                np.zeros((layers, B, heads, self.frames, width), like.dtype).swapaxes(0, 1)
                for _ in range(2)
            )
            self.seated, self.filled = [None] * B, [0] * B
            B = len(group)
        places = {key: i for i, key in enumerate(self.seated[:B]) if key is not None}
        order: list = [None] * B
        rest = []
        for slot in group:
            at = places.get((slot.sid, slot.encoded))
            if at is None:
                rest.append(slot)
            else:
                order[at] = slot
        for i in range(B):
            if order[i] is None:
                slot = order[i] = rest.pop()
                m = slot.request.memory
                n = m.frames
                for rows, a in ((self.keys, m.keys), (self.values, m.values)):
                    rows[i, :, :, :n], rows[i, :, :, n : self.filled[i]] = (
                        a[0, :, :, :n],
                        0,
                    )  # what is masked is zero
                self.seated[i], self.filled[i] = (slot.sid, slot.encoded), n
        return order, self.keys[:B], self.values[:B]


def _runs(seats: list[tuple]) -> list[list[tuple]]:
    """Split seats (row, ...), sorted by row, into stretches of consecutive rows; those without one (-1) come first."""
    out: list[list] = []
    for seat in seats:
        before = out[-1][-1][0] if out else None
        if before is not None and (seat[0] == before == -1 or seat[0] - 1 == before >= 0):
            out[-1].append(seat)
        else:
            out.append([seat])
    return out
