"""What a language model remembers of a text: a value that is cheap to keep, to fork and to roll back.

`LmState` is a view of buffers of keys and values into which nothing is written twice: appending writes behind what any state
of this buffer has, and a state that is not the newest of its buffer is copied before it is appended to. So every state
stays what it is; the newest one grows without a copy.

Without end at constant memory: of more than `window` tokens the oldest `drop` are forgotten at once, except for the first
`sinks`, which move up to the oldest one that is kept (StreamingLLM, arXiv:2309.17453: attention sinks, and positions
within the cache). What is forgotten depends on the number of tokens alone, not on the steps in which they were read.

Of a window some rows may be for old tokens that stand out (`retain`): of the oldest ones, whenever some must go, each head
keeps those whose keys are least like the others' (KeyDiff, arXiv:2504.15364), and they too move up. What is kept follows
from the keys alone, so that a state holds nothing else for it.

What leaves the window may be archived instead of forgotten, and come back into it, block by block (`retrieve`, `lm.retrieval`).

Heads may differ: those that stream have a window of their own, shorter than that of those that look for things far
back (DuoAttention, arXiv:2410.10819), and so a `Part` of the state of their own (`lm.parts`).

A prefix that many streams share (BatchLLM's idea, arXiv:2412.03594) lies in memory once: their states hold only what came
after it. It is never forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechstream.lm.parts import GROWTH, CacheConfig, Group, Part, PartArrays, concatenated
from speechstream.nn.llm_config import FLOATS, KvConfig, LlmConfig

__all__ = ["Cache", "CacheConfig", "LmArrays", "LmState", "Prefix", "from_arrays", "to_arrays"]


@dataclass(frozen=True)
class Prefix:
    """The beginning that streams share: for each group of heads, and each layer, keys (heads, head_dim, tokens) and
    values (heads, tokens, head_dim)."""

    tokens: int
    keys: tuple[tuple[np.ndarray, ...], ...]
    values: tuple[tuple[np.ndarray, ...], ...]

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for group in (*self.keys, *self.values) for a in group)


@dataclass(frozen=True)
class LmState:
    """B streams. Equal to all others that have read the same tokens; never changes."""

    tokens: np.ndarray  # (B,) int64: read in all, the prefix included
    parts: tuple[Part, ...]  # of the heads that see all, then of those that stream
    prefix: Prefix | None = None

    @property
    def batch(self) -> int:
        return len(self.tokens)

    @property
    def own(self) -> np.ndarray:
        """Tokens (B,) that were read after the prefix."""
        return self.tokens - (self.prefix.tokens if self.prefix else 0)

    @property
    def kept(self) -> np.ndarray:
        """Of these, how many (B,) the heads that see all still remember."""
        return self.parts[0].kept

    @property
    def nbytes(self) -> int:
        """Bytes of memory, those included that it shares with other states, but without a prefix's."""
        return sum(p.nbytes for p in self.parts)

    @property
    def archived(self) -> int:
        """Of these, the bytes of what left the window, which grow with the text."""
        return sum(a.nbytes for p in self.parts for a in p.archives)


@dataclass(frozen=True)
class LmArrays:
    """A state as arrays with the streams first, no longer than what is kept: for `speechstream.state.to_bytes`."""

    tokens: np.ndarray
    whole: PartArrays  # of the heads that see all
    recent: PartArrays | None  # of those that stream, if there are any


def to_arrays(state: LmState) -> LmArrays:
    """Copies of what a state holds. Raises ValueError for streams with a shared prefix, which is not theirs alone."""
    if state.prefix:
        raise ValueError("streams that share a prefix cannot be written: it is not theirs alone")
    parts = [p.arrays() for p in state.parts]
    return LmArrays(state.tokens.copy(), parts[0], parts[1] if len(parts) > 1 else None)


def from_arrays(arrays: LmArrays, cache: Cache) -> LmState:
    """The state that `to_arrays` copied. Raises ValueError for arrays of another model or that cannot be."""
    given = [p for p in (arrays.whole, arrays.recent) if p is not None]
    if len(given) != len(cache.groups):
        raise ValueError(f"a state of this model has {len(cache.groups)} parts; got {len(given)}")
    parts = tuple(g.part(p, arrays.tokens) for g, p in zip(cache.groups, given))
    return LmState(arrays.tokens.copy(), parts)


class Cache:
    """The operations on states of one model: all pure, but for `prepared`, which may write behind what states have.

    scales: (2, layers, kv_heads, head_dim) of keys and values in 8 bits.
    """

    def __init__(
        self,
        config: LlmConfig,
        cache: CacheConfig,
        kv: KvConfig = FLOATS,
        scales: np.ndarray | None = None,
    ):
        shape = (2, config.layers, config.kv_heads, config.head_dim)
        if (kv.bits == 8) != (scales is not None):
            raise ValueError("keys and values of 8 bits go with their scales")
        if scales is not None and (scales.shape != shape or not (scales > 0).all()):
            raise ValueError(f"the scales must be {shape} and above 0; got {scales.shape}")
        if cache.retain and kv.bits == 8:
            raise ValueError(
                "old tokens are retained with keys in floats: in 8 bits each of their moves would be an error more"
            )
        self.config, self.cache, self.kv = config, cache, kv
        if cache.retrieve and (kv != KvConfig(queries=True) or config.window_layers):
            raise ValueError(
                "blocks are retrieved by a graph that gives its queries (convert with --queries), keeps keys and values in "
                "floats, and shares no prefix, in a model whose layers and heads all see the whole window"
            )
        windows = [cache, CacheConfig(kv.recent, kv.sinks, max(kv.recent // 4, 1))]
        self.groups = [
            Group(config, heads, window, scales)
            for heads, window in zip(kv.groups(config), windows)
        ]

    def init_state(self, batch: int = 1, prefix: Prefix | None = None) -> LmState:
        """Streams that have read nothing, or a prefix that they share."""
        if batch < 1:
            raise ValueError(f"a batch must have one stream or more, got {batch}")
        if prefix and not self.kv.shared:
            raise ValueError("this model's graph was not made for a shared prefix")
        tokens = np.full(batch, prefix.tokens if prefix else 0, np.int64)
        zeros = np.zeros(batch, np.int64)
        return LmState(tokens, tuple(g.empty(zeros, GROWTH) for g in self.groups), prefix)

    def prefix(self, state: LmState) -> Prefix:
        """What one stream has read, as a prefix that many can share. Raises ValueError where some is forgotten."""
        if not self.kv.shared:
            raise ValueError("this model's graph was not made for a shared prefix")
        if state.batch != 1 or state.prefix:
            raise ValueError("a prefix is made of one stream that has none itself")
        n = int(state.tokens[0])
        if not n or any(p.kept[0] != n for p in state.parts):
            raise ValueError(
                "of a prefix nothing may have been forgotten, and it has one token at least"
            )
        pairs = [g.floats(p) for g, p in zip(self.groups, state.parts)]
        return Prefix(
            n,
            tuple(tuple(np.ascontiguousarray(a.swapaxes(1, 2)) for a in keys) for keys, _ in pairs),
            tuple(tuple(values) for _, values in pairs),
        )

    def free(self, state: LmState) -> np.ndarray:
        """How many tokens each stream can read before some are forgotten; a full one forgets first. (B,)"""
        return np.min([g.free(p) for g, p in zip(self.groups, state.parts)], 0)

    def prepared(self, state: LmState, count: np.ndarray) -> LmState:
        """The same streams, able to append `count` (B,) tokens, at most `free` each, padded to the longest."""
        parts = tuple(g.prepared(p, state.own, count) for g, p in zip(self.groups, state.parts))
        return dataclasses.replace(state, parts=parts)

    def appended(
        self, state: LmState, count: np.ndarray, queries: Sequence[np.ndarray] = ()
    ) -> LmState:
        """After a graph has written: the first `count` (B,) of the new rows become the state's. queries: of each stream's
        (T, layers, kv_heads, head_dim), where the graph gives them."""
        parts = tuple(g.read(p, count, queries) for g, p in zip(self.groups, state.parts))
        return dataclasses.replace(state, tokens=state.tokens + count, parts=parts)

    def rollback(self, state: LmState, tokens: int) -> LmState:
        """As before the last `tokens` of each stream. Raises ValueError where that was forgotten."""
        before = state.own - tokens
        if tokens < 0 or (before < 0).any():
            raise ValueError(
                f"these streams have read {state.own.min()} tokens; {tokens} cannot be taken back"
            )
        for g, p in zip(self.groups, state.parts):
            if (g.dropped(before) != state.own - p.kept).any():
                raise ValueError(
                    f"{tokens} tokens cannot be taken back: older ones have been forgotten since, to keep the window"
                )
        parts = tuple(g.before(p, before, tokens) for g, p in zip(self.groups, state.parts))
        return dataclasses.replace(state, tokens=state.tokens - tokens, parts=parts)

    def recall(self, state: LmState) -> LmState:
        """With the blocks that answer the newest queries best, as is done whenever the window is full; before a reply, say.
        Those until then are there again after a rollback to before it."""
        parts = tuple(g.recalled(p, state.own) for g, p in zip(self.groups, state.parts))
        return dataclasses.replace(state, parts=parts)

    def select(self, state: LmState, index: int | Sequence[int]) -> LmState:
        """Some of the streams, in this order, as a state of its own; one may be taken several times: a fork for each."""
        rows = [index] if isinstance(index, (int, np.integer)) else list(index)
        if not rows:
            raise ValueError("select needs at least one stream")
        parts = tuple(g.select(p, rows) for g, p in zip(self.groups, state.parts))
        return LmState(state.tokens[rows], parts, state.prefix)

    def stack(self, states: Sequence[LmState]) -> LmState:
        """The streams of several states as one batch, however many tokens each has read; of one prefix or none."""
        if not states:
            raise ValueError("stack needs at least one state")
        if any(s.prefix is not states[0].prefix for s in states):
            raise ValueError("streams of different prefixes cannot be in one batch")
        parts = tuple(
            concatenated(g, [s.parts[i] for s in states]) for i, g in enumerate(self.groups)
        )
        return LmState(np.concatenate([s.tokens for s in states]), parts, states[0].prefix)
