"""What a language model remembers of a text: a value that is cheap to keep, to fork and to roll back.

`LmState` is a view of a buffer of keys and values into which nothing is written twice: appending writes behind what any state
of this buffer has, and a state that is not the newest of its buffer is copied before it is appended to. So every state
stays what it is; the newest one grows without a copy.

Without end at constant memory: of more than `window` tokens the oldest `drop` are forgotten at once, except for the first
`sinks`, which move up to the oldest one that is kept (StreamingLLM, arXiv:2309.17453: attention sinks, and positions
within the cache). What is forgotten depends on the number of tokens alone, not on the steps in which they were read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream.nn.llm_config import LlmConfig

GROWTH = 64  # tokens: a buffer's room is a multiple of it


@dataclass(frozen=True)
class CacheConfig:
    """window: tokens kept at most, sinks among them. drop: forgotten at once when it is full."""

    window: int = 8192
    sinks: int = 4
    drop: int = 256

    def __post_init__(self) -> None:
        if self.sinks < 0 or self.drop < 1 or self.window < self.sinks + self.drop:
            raise ValueError(
                f"a window must hold the sinks and what is dropped at once; got window {self.window}, "
                f"sinks {self.sinks}, drop {self.drop}"
            )

    def dropped(self, tokens: int) -> int:
        """How many tokens are forgotten of a text of this many."""
        return -(-max(tokens - self.window, 0) // self.drop) * self.drop


class Buffer:
    """Keys and values of B streams with room for C tokens, and how many of them some state already has."""

    def __init__(self, config: LlmConfig, batch: int, room: int):
        c = config
        # layers first: what a graph's input takes of one layer is then contiguous
        self.memory = np.zeros((2, c.layers, batch, c.kv_heads, room, c.head_dim), np.float32)
        self.taken = np.zeros(batch, np.int64)

    @property
    def room(self) -> int:
        return int(self.memory.shape[4])


@dataclass(frozen=True)
class LmState:
    """B streams. Equal to all others that have read the same tokens; never changes."""

    buffer: Buffer
    tokens: np.ndarray  # (B,) int64: read in all
    kept: np.ndarray  # (B,) int64: rows of the buffer that are theirs
    sinks: np.ndarray | None  # (2, layers, B, kv_heads, sinks, head_dim): the first tokens, unmoved

    @property
    def batch(self) -> int:
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, those included that it shares with other states."""
        return self.buffer.memory.nbytes + (0 if self.sinks is None else self.sinks.nbytes)


@dataclass(frozen=True)
class LmArrays:
    """A state as arrays with the streams first, no longer than what is kept: for `speechstream.state.to_bytes`."""

    keys: np.ndarray = dataclasses.field(metadata={"cache": True})
    values: np.ndarray = dataclasses.field(metadata={"cache": True})
    sinks: np.ndarray | None = dataclasses.field(metadata={"cache": True})
    tokens: np.ndarray
    kept: np.ndarray


def to_arrays(state: LmState) -> LmArrays:
    """Copies of what a state holds: keys and values (B, layers, kv_heads, longest, head_dim)."""
    longest = int(state.kept.max(initial=0))
    keys, values = (np.moveaxis(m, 0, 1)[..., :longest, :].copy() for m in state.buffer.memory)
    hidden = np.arange(longest) >= state.kept[:, None]  # what others may have written
    for a in (keys, values):
        a[np.broadcast_to(hidden[:, None, None], a.shape[:-1])] = 0
    sinks = None if state.sinks is None else np.moveaxis(state.sinks, 2, 0).copy()
    return LmArrays(keys, values, sinks, state.tokens.copy(), state.kept.copy())


def from_arrays(arrays: LmArrays, config: LlmConfig, cache: CacheConfig) -> LmState:
    """The state that `to_arrays` copied. Raises ValueError for arrays of another model or that cannot be."""
    a, c = arrays, config
    batch, longest = len(a.tokens), int(a.kept.max(initial=0))
    shape = (batch, c.layers, c.kv_heads, longest, c.head_dim)
    if a.keys.shape != shape or a.values.shape != shape or a.kept.shape != (batch,):
        raise ValueError(
            f"keys and values of this model have the shape {shape}; got {a.keys.shape}, {a.values.shape}"
        )
    expected = [t - cache.dropped(int(t)) for t in a.tokens]
    if a.kept.tolist() != expected:
        raise ValueError("this state was made with another window")
    sinks = (batch, 2, c.layers, c.kv_heads, cache.sinks, c.head_dim)
    if any(cache.dropped(int(t)) for t in a.tokens) and a.sinks is None and cache.sinks:
        raise ValueError("this state lacks its sinks")
    if a.sinks is not None and a.sinks.shape != sinks:
        raise ValueError(f"sinks of this model have the shape {sinks}; got {a.sinks.shape}")
    buffer = Buffer(c, batch, _rounded(longest))
    for m, part in zip(buffer.memory, (a.keys, a.values)):
        np.moveaxis(m, 0, 1)[..., :longest, :] = part
    buffer.taken[:] = a.kept
    moved = None if a.sinks is None else np.moveaxis(a.sinks, 0, 2).copy()
    return LmState(buffer, a.tokens.copy(), a.kept.copy(), moved)


class Cache:
    """The operations on states of one model: all pure, but for `room`, which may write behind what states have."""

    def __init__(self, config: LlmConfig, cache: CacheConfig):
        self.config, self.cache = config, cache

    def init_state(self, batch: int = 1) -> LmState:
        """Streams that have read nothing."""
        if batch < 1:
            raise ValueError(f"a batch must have one stream or more, got {batch}")
        zeros = np.zeros(batch, np.int64)
        return LmState(Buffer(self.config, batch, GROWTH), zeros, zeros.copy(), None)

    def free(self, state: LmState) -> np.ndarray:
        """How many tokens each stream can read before some are forgotten; a full one forgets first. (B,)"""
        left = self.cache.window - state.kept
        return np.where(left == 0, self.cache.drop, left)

    def prepared(self, state: LmState, count: np.ndarray) -> LmState:
        """The same streams, able to append `count` (B,) tokens, at most `free` each, padded to the longest."""
        full = (state.kept == self.cache.window) & (count > 0)
        need = int(np.where(full, state.kept - self.cache.drop, state.kept).max() + count.max())
        newest = (state.kept == state.buffer.taken).all()
        if newest and not full.any() and need <= state.buffer.room:
            return state
        return self._copied(state, full, need)

    def _copied(self, state: LmState, full: np.ndarray, need: int) -> LmState:
        c, drop, first = self.config, self.cache.drop, self.cache.sinks
        limit = self.cache.window + int(need - self.cache.window if need > self.cache.window else 0)
        room = _rounded(max(min(need * 3 // 2, limit), need))
        buffer = Buffer(c, state.batch, room)
        old, kept, sinks = state.buffer.memory, state.kept.copy(), state.sinks
        if full.any() and first and sinks is None:
            sinks = old[..., :first, :].copy()
        for b in range(state.batch):
            n = int(kept[b])
            if not full[b]:
                buffer.memory[:, :, b, :, :n] = old[:, :, b, :, :n]
                continue
            kept[b] = n - drop
            buffer.memory[:, :, b, :, first : n - drop] = old[:, :, b, :, first + drop : n]
            if first and sinks is not None:
                if state.sinks is not None and state.tokens[b] == self.cache.window:
                    sinks = sinks.copy()  # this stream's first time, in the company of older ones
                    sinks[:, :, b] = old[:, :, b, :, :first]
                shift = int(state.tokens[b] - kept[b])
                buffer.memory[0, :, b, :, :first] = self._moved(sinks[0, :, b], shift)
                buffer.memory[1, :, b, :, :first] = sinks[1, :, b]
        buffer.taken[:] = kept
        return LmState(buffer, state.tokens, kept, sinks)

    def _moved(self, keys: np.ndarray, shift: int) -> np.ndarray:
        """Rotated keys (..., head_dim) as they were `shift` positions later."""
        angle = shift * self.config.rope.frequencies(self.config.head_dim)
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        a, b = np.split(keys, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def appended(self, state: LmState, count: np.ndarray) -> LmState:
        """After a graph has written: the first `count` (B,) of the new rows become the state's."""
        if (state.buffer.taken != state.kept).any():
            raise ValueError("another step has been taken from this state meanwhile")
        kept = state.kept + count
        state.buffer.taken[:] = kept
        return LmState(state.buffer, state.tokens + count, kept, state.sinks)

    def rollback(self, state: LmState, tokens: int) -> LmState:
        """As before the last `tokens` of each stream. Raises ValueError where that was forgotten."""
        before = state.tokens - tokens
        if tokens < 0 or (before < 0).any():
            raise ValueError(
                f"these streams have read {state.tokens.min()} tokens; {tokens} cannot be taken back"
            )
        if any(
            self.cache.dropped(int(a)) != int(t - k)
            for a, t, k in zip(before, state.tokens, state.kept)
        ):
            raise ValueError(
                f"{tokens} tokens cannot be taken back: older ones have been forgotten since, to keep the window"
            )
        return LmState(state.buffer, before, state.kept - tokens, state.sinks)

    def select(self, state: LmState, index: int | Sequence[int]) -> LmState:
        """Some of the streams, in this order, as a state of its own; one may be taken several times: a fork for each."""
        rows = [index] if isinstance(index, (int, np.integer)) else list(index)
        found = self.init_state(len(rows))
        room = _rounded(int(state.kept[rows].max()))
        buffer = Buffer(self.config, len(rows), room)
        for i, b in enumerate(rows):
            n = int(state.kept[b])
            buffer.memory[:, :, i, :, :n] = state.buffer.memory[:, :, b, :, :n]
        buffer.taken[:] = state.kept[rows]
        sinks = None if state.sinks is None else state.sinks[:, :, rows].copy()
        return dataclasses.replace(
            found, buffer=buffer, tokens=state.tokens[rows], kept=state.kept[rows], sinks=sinks
        )

    def stack(self, states: Sequence[LmState]) -> LmState:
        """The streams of several states as one batch, however many tokens each has read."""
        if not states:
            raise ValueError("stack needs at least one state")
        kept = np.concatenate([s.kept for s in states])
        buffer = Buffer(self.config, len(kept), _rounded(int(kept.max())))
        at = 0
        for s in states:
            n = int(s.kept.max())
            buffer.memory[:, :, at : at + s.batch, :, :n] = s.buffer.memory[..., :n, :]
            at += s.batch
        buffer.taken[:] = kept
        tokens = np.concatenate([s.tokens for s in states])
        sinks: Any = None
        if any(s.sinks is not None for s in states):
            shape = (*buffer.memory.shape[:4], self.cache.sinks, self.config.head_dim)
            blank = np.zeros(shape, np.float32)
            at = 0
            for s in states:
                if s.sinks is not None:
                    blank[:, :, at : at + s.batch] = s.sinks
                at += s.batch
            sinks = blank
        return LmState(buffer, tokens, kept, sinks)


def _rounded(tokens: int) -> int:
    return max(-(-tokens // GROWTH), 1) * GROWTH
