"""What the networks remember of one segment, and the requests that read and extend it.

A segment's cache is a value (`SegmentCache`) where `Values` runs the networks: every request gives a
new one. `Resident` runs them on caches that stay where they are, each behind the number of a slot, which
is what streams and pools do; `read` and `write` turn one into the other, and both give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechstream.asr.whisper.networks import (
    Decoded,
    DecoderState,
    Encoded,
    EncoderState,
    Networks,
)
from speechstream.runtime.memory import trim_at_times
from speechstream.runtime.slots import Rows
from speechstream.state import cache

BLOCK_FRAMES = 128  # cross-attention keys grow by blocks, so that they are rarely copied
BATCHED_FRAMES = (
    64  # encoder chunks up to 1.28 s gain from a batch; longer ones fill the machine alone
)
LEAST_FRAMES = 128  # the shortest memory a batch is padded to, doubled until it fits


@dataclass(frozen=True)
class SegmentCache:
    """encoders: one state for each pass, keys and values of the frames that are filled. keys, values:
    (1, layers, H, T, Dh) for cross-attention, None before the first chunk."""

    encoders: tuple[EncoderState, ...] = cache()
    keys: np.ndarray | None = cache()
    values: np.ndarray | None = cache()


Cache = Any  # SegmentCache, or the number of a slot
Chunks = tuple[int | None, ...]  # encoder frames that each pass takes at a time


class Runner(Protocol):
    """Runs the networks on the caches of segments."""

    networks: Networks

    def open(self, chunks: Chunks) -> Cache:
        """The cache of a segment that nothing has been heard of; chunks: of its passes."""

    def close(self, cache: Cache) -> None:
        """It is not used again."""

    def encode(self, requests: Sequence[Encode]) -> list[tuple[Encoded, Cache]]: ...

    def decode(self, requests: Sequence[Decode]) -> list[tuple[Decoded, DecoderState]]: ...

    def attended(self, cache: Cache, first: int, last: int) -> np.ndarray:
        """(frames, D) the values of frames [first, last) that the decoder's first layer attends to, heads side by side."""


@dataclass(frozen=True)
class Encode:
    """Encode a chunk with one of the passes; its frames from `at` on become memory for the decoder.

    mel (1, mels, 2 c + 1); of the c frames the first `keep` are wanted, the rest is right context.
    Answer: what the heads say of the frames kept, and the cache.
    """

    runner: Runner
    cache: Cache
    mel: np.ndarray
    index: int  # of the pass
    at: int
    keep: int
    ctc: bool = True  # whether the CTC head is asked

    @property
    def key(self) -> Any:
        chunk = self.mel.shape[2] // 2
        if chunk > BATCHED_FRAMES or self.keep != chunk:
            return None
        return self.runner, "encode", self.index, chunk, self.ctc

    def run(self) -> tuple[Encoded, Cache]:
        return self.runner.encode([self])[0]

    def run_many(self, requests: Sequence[Encode]) -> list[tuple[Encoded, Cache]]:
        return self.runner.encode(requests)


@dataclass(frozen=True)
class Decode:
    """Read tokens (B, n) of B hypotheses about one segment, after `state`, over its first `frames` frames.

    Answer: what the decoder says of the tokens from `first` on (logits) and of all (alignment), and the
    new state.
    """

    runner: Runner
    cache: Cache
    tokens: np.ndarray
    state: DecoderState
    frames: int
    first: int = 0

    rank = 1  # encoders go first

    @property
    def key(self) -> Any:
        if len(self.tokens) > 1:
            return None  # a batch already
        n = self.tokens.shape[1]
        # one token apart from several: a product with one row is computed in another order
        return self.runner, "decode", 1 << (n - 1).bit_length(), padded_frames(self.frames)

    def run(self) -> tuple[Decoded, DecoderState]:
        return self.runner.decode([self])[0]

    def run_many(self, requests: Sequence[Decode]) -> list[tuple[Decoded, DecoderState]]:
        return self.runner.decode(requests)


def padded_frames(frames: int) -> int:
    """The length to which memories of about so many frames are padded in a batch."""
    return LEAST_FRAMES << (-(-frames // LEAST_FRAMES) - 1).bit_length()


def truncate(state: DecoderState, tokens: int) -> DecoderState:
    """The state of one stream after its first `tokens` tokens."""
    return DecoderState(
        state.keys[:, :, :, :tokens], state.values[:, :, :, :tokens], np.full(1, tokens, np.int64)
    )


class Memory:
    """Keys and values for cross-attention of one segment, (1, layers, H, T, Dh), written in place."""

    def __init__(self, keys: np.ndarray | None = None, values: np.ndarray | None = None):
        self.keys: Any = None  # (1, layers, H, at least T, Dh)
        self.values: Any = None
        self.frames = 0
        self._writes: list[int] = []  # from which frame on each was
        if keys is not None and values is not None:
            self.put(0, keys, values)

    def put(self, at: int, keys: np.ndarray, values: np.ndarray) -> None:
        """Write frames from `at` on: new ones, or in the place of those of a quicker pass."""
        end = at + keys.shape[3]
        if self.keys is None or end > self.keys.shape[3]:
            size = -(-end // BLOCK_FRAMES) * BLOCK_FRAMES
            old = self.keys, self.values
            self.keys, self.values = (
                np.zeros((*a.shape[:3], size, a.shape[4]), a.dtype) for a in (keys, values)
            )
            for new, a in zip((self.keys, self.values), old):
                if a is not None:
                    new[:, :, :, : self.frames] = a[:, :, :, : self.frames]
        self.keys[:, :, :, at:end] = keys
        self.values[:, :, :, at:end] = values
        self.frames = max(self.frames, end)
        self._writes.append(at)

    @property
    def version(self) -> int:
        """Changes with every write."""
        return len(self._writes)

    def changed(self, version: int) -> int:
        """The first frame that may differ from what it was in an earlier version."""
        return min(self._writes[version:], default=self.frames)

    def decode(self, networks: Networks, r: Decode) -> tuple[Decoded, DecoderState]:
        """Answer a request about this memory."""
        mask = np.arange(self.keys.shape[3])[None] < r.frames
        mask = np.repeat(mask, len(self.keys), 0)
        return networks.decode(r.tokens, self.keys, self.values, mask, r.state, r.first)


class Values:
    """Runs the networks on caches that are values: each request gives a new one and changes nothing."""

    def __init__(self, networks: Networks):
        self.networks = networks

    def open(self, chunks: Chunks) -> SegmentCache:
        empty = trimmed(self.networks, self.networks.encoder_state())
        return SegmentCache((empty,) * len(chunks), None, None)

    def close(self, cache: SegmentCache) -> None:
        """Nothing is held."""

    def encode(self, requests: Sequence[Encode]) -> list[tuple[Encoded, SegmentCache]]:
        return [self._encode(r) for r in requests]

    def _encode(self, r: Encode) -> tuple[Encoded, SegmentCache]:
        state = expanded(self.networks, r.cache.encoders[r.index])
        encoded, state = self.networks.encode(r.mel, state, r.keep, r.ctc)
        memory = Memory(r.cache.keys, r.cache.values)
        memory.put(r.at, encoded.keys, encoded.values)
        encoders = list(r.cache.encoders)
        encoders[r.index] = trimmed(self.networks, state)
        n = memory.frames
        return encoded, SegmentCache(
            tuple(encoders), memory.keys[:, :, :, :n], memory.values[:, :, :, :n]
        )

    def decode(self, requests: Sequence[Decode]) -> list[tuple[Decoded, DecoderState]]:
        return [Memory(r.cache.keys, r.cache.values).decode(self.networks, r) for r in requests]

    def attended(self, cache: SegmentCache, first: int, last: int) -> np.ndarray:
        return _side_by_side(cache.values, first, last)


def trimmed(networks: Networks, state: EncoderState) -> EncoderState:
    """One stream's state without the rows that are not filled yet, copied."""
    rows = networks.filled(int(state.frames[0]))
    return EncoderState(
        state.mel.copy(),
        state.keys[:, :, :, rows].copy(),
        state.values[:, :, :, rows].copy(),
        state.frames.copy(),
    )


def expanded(networks: Networks, state: EncoderState) -> EncoderState:
    """What `trimmed` was given, in arrays of its own."""
    like = networks.encoder_state()
    rows = networks.filled(int(state.frames[0]))
    like.keys[:, :, :, rows], like.values[:, :, :, rows] = state.keys, state.values
    return EncoderState(state.mel, like.keys, like.values, state.frames)


class Resident:
    """Runs the networks on caches that stay in place, each segment's behind the number of a slot."""

    def __init__(self, networks: Networks):
        self.networks = networks
        # encoder caches: streams that take chunks of one length are neighbours, and a batch
        self._tables: dict[tuple[int, int | None], Rows] = {}
        self._memories: dict[int, Memory] = {}
        self._used: dict[int, list[Rows]] = {}  # slot: the tables of its passes
        self._batches: dict[tuple, _Batch] = {}  # by one token or several, and length
        self._next = 0

    def __len__(self) -> int:
        return len(self._used)

    def open(self, chunks: Chunks) -> int:
        slot, self._next = self._next, self._next + 1
        for key in enumerate(chunks):
            if key not in self._tables:
                self._tables[key] = Rows(self.networks.encoder_state())
            self._tables[key].open(slot)
        self._memories[slot] = Memory()
        self._used[slot] = [self._tables[key] for key in enumerate(chunks)]
        return slot

    def close(self, cache: int) -> None:
        for rows in self._used.pop(cache):
            rows.close(cache)
        del self._memories[cache]
        for key, batch in list(self._batches.items()):
            batch.leave(cache)
            if batch.empty:  # the lengths of long segments come seldom
                del self._batches[key]
        trim_at_times()

    def read(self, slot: int) -> SegmentCache:
        """A copy of a slot's cache."""
        m = self._memories[slot]
        encoders = (rows.read(slot) for rows in self._used[slot])
        keys = None if m.keys is None else m.keys[:, :, :, : m.frames].copy()
        values = None if m.values is None else m.values[:, :, :, : m.frames].copy()
        return SegmentCache(tuple(trimmed(self.networks, s) for s in encoders), keys, values)

    def write(self, value: SegmentCache, chunks: Chunks) -> int:
        """A new slot that holds this cache."""
        slot = self.open(chunks)
        for rows, state in zip(self._used[slot], value.encoders):
            rows.write(slot, expanded(self.networks, state))
        self._memories[slot] = Memory(value.keys, value.values)
        return slot

    def encode(self, requests: Sequence[Encode]) -> list[tuple[Encoded, int]]:
        table = self._used[requests[0].cache][requests[0].index]
        out: list = [None] * len(requests)
        for members, rows in table.runs([r.cache for r in requests]):
            state = table.view(rows)
            mel = np.concatenate([requests[i].mel for i in members])
            keep, ctc = requests[0].keep, requests[0].ctc
            encoded, new = self.networks.encode_in_place(mel, state, keep, ctc)
            state.mel[:], state.frames[:] = new.mel, new.frames
            for row, i in enumerate(members):
                r, one = requests[i], _row(encoded, row)
                self._memories[r.cache].put(r.at, one.keys, one.values)
                out[i] = one, r.cache
        return out

    def decode(self, requests: Sequence[Decode]) -> list[tuple[Decoded, DecoderState]]:
        if len(requests) == 1:
            return [self._memories[requests[0].cache].decode(self.networks, requests[0])]
        key = requests[0].key[2] > 1, requests[0].key[3]
        batch = self._batches.setdefault(key, _Batch(key[1]))
        memories = [(r.cache, self._memories[r.cache]) for r in requests]
        order, keys, values = batch.gather(memories)
        answers = _decode([requests[i] for i in order], self.networks, keys, values)
        out: list = [None] * len(requests)
        for i, answer in zip(order, answers):
            out[i] = answer
        return out

    def attended(self, cache: int, first: int, last: int) -> np.ndarray:
        return _side_by_side(self._memories[cache].values, first, last)


class _Batch:
    """Memories of like length as one array. Of one that keeps its place only what has changed is copied again.

    While a segment is brought up to date it decodes token by token over the same memory, and the next time
    most of it is as it was.
    """

    def __init__(self, frames: int):
        self.frames = frames
        self.keys = self.values = np.zeros(0)
        self.seated: list[tuple[int, int] | None] = []  # slot and version in each row
        self.filled: list[int] = []  # frames of each row that are not zeros

    @property
    def empty(self) -> bool:
        """Whether none of its memories is used any more."""
        return not any(self.seated)

    def leave(self, slot: int) -> None:
        """A memory is over. Its row stays as it is until another takes it."""
        self.seated = [None if seat and seat[0] == slot else seat for seat in self.seated]

    def gather(
        self, memories: Sequence[tuple[int, Memory]]
    ) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Which of the memories is in each row, and the rows."""
        count = len(memories)
        if count > len(self.seated):
            like = memories[0][1].keys
            layers, heads, _, width = like.shape[1:]
            # stored layer by layer, as the graph takes it; the rows that are not used cost nothing
            self.keys, self.values = (
                np.zeros((layers, 2 * count, heads, self.frames, width), like.dtype).swapaxes(0, 1)
                for _ in range(2)
            )
            self.seated, self.filled = [None] * (2 * count), [0] * (2 * count)
        waiting = {slot: i for i, (slot, _) in enumerate(memories)}
        order: list = [waiting.pop(seat[0], None) if seat else None for seat in self.seated[:count]]
        for row, found in enumerate(order):
            if found is None:
                _, order[row] = waiting.popitem()
            self._bring(row, *memories[order[row]])
        return order, self.keys[:count], self.values[:count]

    def _bring(self, row: int, slot: int, m: Memory) -> None:
        seat, n = self.seated[row], m.frames
        since = m.changed(seat[1]) if seat and seat[0] == slot else 0
        for rows, a in ((self.keys, m.keys), (self.values, m.values)):
            rows[row, :, :, since:n] = a[0, :, :, since:n]
            rows[row, :, :, n : self.filled[row]] = 0  # what is masked is zero
        self.seated[row], self.filled[row] = (slot, m.version), n


def _decode(
    asked: Sequence[Decode], networks: Networks, keys: np.ndarray, values: np.ndarray
) -> list[tuple[Decoded, DecoderState]]:
    """Several segments' tokens in one call: later tokens and earlier ones are padded, and cut off again."""
    frames, known = keys.shape[3], max(r.state.keys.shape[3] for r in asked)
    tokens = np.zeros((len(asked), max(r.tokens.shape[1] for r in asked)), np.int64)
    mask = np.zeros((len(asked), frames), bool)
    past = [
        np.zeros((len(asked), *a.shape[1:3], known, a.shape[4]), a.dtype)
        for a in (asked[0].state.keys, asked[0].state.values)
    ]
    for i, r in enumerate(asked):
        tokens[i, : r.tokens.shape[1]] = r.tokens[0]
        mask[i, : r.frames] = True
        read = r.state.keys.shape[3]
        past[0][i, :, :, known - read :] = r.state.keys[0]
        past[1][i, :, :, known - read :] = r.state.values[0]
    before, first = np.concatenate([r.state.tokens for r in asked]), min(r.first for r in asked)
    said, new = networks.decode(
        tokens, keys, values, mask, DecoderState(past[0], past[1], before), first
    )
    out = []
    for i, r in enumerate(asked):
        n = r.tokens.shape[1]
        rows = slice(known - r.state.keys.shape[3], known + n)
        state = DecoderState(  # copied: a stream must not keep the whole batch alive
            new.keys[i : i + 1, :, :, rows].copy(),
            new.values[i : i + 1, :, :, rows].copy(),
            r.state.tokens + n,
        )
        hidden = None if said.hidden is None else said.hidden[i : i + 1, :n]
        logits = said.logits[i : i + 1, r.first - first : n - first]
        out.append((Decoded(logits, said.alignment[i : i + 1, :n], hidden), state))
    return out


def _side_by_side(values: np.ndarray | None, first: int, last: int) -> np.ndarray:
    """(1, layers, H, T, Dh) to the first layer's (last - first, H Dh)."""
    if values is None:
        return np.zeros((0, 0), np.float32)
    found = values[0, 0, :, first:last].swapaxes(0, 1)
    return found.reshape(len(found), -1).astype(np.float32)


def _row(e: Encoded, i: int) -> Encoded:
    ctc, gate = (None if a is None else a[i : i + 1] for a in (e.ctc, e.gate))
    return Encoded(e.keys[i : i + 1], e.values[i : i + 1], ctc, gate)
