"""Keys and values of those heads of a model that remember equally much; see `lm.cache`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from speechstream.lm.retrieval import (
    Archive,
    ArchiveArrays,
    Retrieve,
    Retriever,
    arrays_of,
)
from speechstream.nn.llm_config import LlmConfig

GROWTH = 64  # tokens: a buffer's room is a multiple of it


@dataclass(frozen=True)
class CacheConfig:
    """window: tokens kept at most, sinks among them. drop: forgotten at once when it is full. retain: of the window, rows
    for old tokens that stand out, each head's own (`standing_out`); 0: the recent ones alone are kept. retrieve: rows for
    blocks of what left the window, which is archived; None: it is forgotten."""

    window: int = 8192
    sinks: int = 4
    drop: int = 256
    retain: int = 0
    retrieve: Retrieve | None = None

    def __post_init__(self) -> None:
        r = self.retrieve
        fixed = self.sinks + self.drop + self.retain + (r.tokens if r else 0)
        if self.sinks < 0 or self.drop < 1 or self.retain < 0 or self.window < fixed:
            raise ValueError(
                f"a window must hold the sinks, what is dropped at once and what is retained; got window {self.window}, "
                f"sinks {self.sinks}, drop {self.drop}, retain {self.retain}{f', retrieve {r.tokens}' if r else ''}"
            )
        if r:
            r.check(self.window, self.drop, self.retain)

    def dropped(self, tokens: int) -> int:
        """How many tokens are forgotten of a text of this many."""
        return -(-max(tokens - self.window, 0) // self.drop) * self.drop


class Buffer:
    """Keys and values of B streams with room for C tokens, and how many of them some state already has.

    memory: 2 x layers arrays (B, heads of this layer, C, head_dim), keys first; views of one block.
    """

    def __init__(self, heads: Sequence[int], batch: int, room: int, head_dim: int, kind: type):
        sizes = [batch * n * room * head_dim for n in heads] * 2
        ends = np.cumsum([0, *sizes])
        self.block = np.zeros(ends[-1], kind)
        self.memory = [
            self.block[a:b].reshape(batch, n, room, head_dim)
            for a, b, n in zip(ends, ends[1:], [*heads, *heads])
        ]
        self.room = room
        self.taken = np.zeros(batch, np.int64)


@dataclass(frozen=True)
class Part:
    """Of B streams what one group of heads remembers."""

    buffer: Buffer
    kept: np.ndarray  # (B,) int64: rows of the buffer that are theirs
    sinks: (
        np.ndarray | None
    )  # (2, heads of all layers, B, sinks, head_dim): the first tokens, unmoved
    archives: tuple[Archive, ...] = ()  # of each stream, where what leaves the window is archived

    @property
    def nbytes(self) -> int:
        window = self.buffer.block.nbytes + (0 if self.sinks is None else self.sinks.nbytes)
        return window + sum(a.nbytes for a in self.archives)

    def appended(self, count: np.ndarray) -> Part:
        if (self.buffer.taken != self.kept).any():
            raise ValueError("another step has been taken from this state meanwhile")
        kept = self.kept + count
        self.buffer.taken[:] = kept
        return replace(self, kept=kept)

    def arrays(self) -> PartArrays:
        """Copies, zero where a stream has nothing."""
        longest, layers = int(self.kept.max(initial=0)), len(self.buffer.memory) // 2
        hidden = np.arange(longest) >= self.kept[:, None]  # what others may have written
        found = []
        for memory in (self.buffer.memory[:layers], self.buffer.memory[layers:]):
            a = np.concatenate([m[:, :, :longest] for m in memory], 1)
            a[np.broadcast_to(hidden[:, None], a.shape[:-1])] = 0
            found.append(a)
        sinks = None if self.sinks is None else np.moveaxis(self.sinks, 2, 0).copy()
        archive = arrays_of(self.archives) if self.archives else None
        return PartArrays(found[0], found[1], sinks, self.kept.copy(), archive)


@dataclass(frozen=True)
class PartArrays:
    """A part with the streams first: keys and values (B, heads of all layers, longest, head_dim), the sinks (B, 2, heads,
    sinks, head_dim)."""

    keys: np.ndarray = field(metadata={"cache": True})
    values: np.ndarray = field(metadata={"cache": True})
    sinks: np.ndarray | None = field(metadata={"cache": True})
    kept: np.ndarray
    archive: ArchiveArrays | None = None


class Group:
    """The operations on the parts of one group of heads. heads: of each layer the heads of keys that belong to it."""

    def __init__(
        self,
        config: LlmConfig,
        heads: Sequence[Sequence[int]],
        cache: CacheConfig,
        scales: np.ndarray | None,
    ):
        self.config, self.heads, self.cache = config, heads, cache
        self.counts = [len(h) for h in heads]
        self.kind = np.float32 if scales is None else np.int8
        self.scales: list[np.ndarray] | None = (
            None  # as the memory: of each layer (heads, 1, head_dim)
        )
        self._scales = np.ones((2, sum(self.counts), 1, 1), np.float32)
        if scales is not None:
            self.scales = [
                np.ascontiguousarray(scales[kv, i, list(h), None], np.float32)
                for kv in range(2)
                for i, h in enumerate(heads)
            ]
            flat = np.concatenate(self.scales)
            self._scales = flat.reshape(2, sum(self.counts), 1, -1)
        r = cache.retrieve
        self.places = r.tokens if r else 0
        self.retriever = (
            Retriever(config, r, cache.window - cache.sinks - r.tokens, cache.drop) if r else None
        )

    def buffer(self, batch: int, room: int) -> Buffer:
        return Buffer(self.counts, batch, room, self.config.head_dim, self.kind)

    def empty(self, zeros: np.ndarray, room: int) -> Part:
        archives = (self.retriever.empty(),) * len(zeros) if self.retriever else ()
        return Part(self.buffer(len(zeros), room), zeros, None, archives)

    def dropped(self, tokens: np.ndarray) -> np.ndarray:
        return np.array([self.cache.dropped(int(t)) for t in tokens])

    def free(self, part: Part) -> np.ndarray:
        left = self.cache.window - part.kept
        return np.where(left == 0, self.cache.drop, left)

    def prepared(self, part: Part, tokens: np.ndarray, count: np.ndarray) -> Part:
        """Able to append `count` (B,) tokens after `tokens` (B,) that were read."""
        full = (part.kept == self.cache.window) & (count > 0)
        need = int(np.where(full, part.kept - self.cache.drop, part.kept).max() + count.max())
        newest = (part.kept == part.buffer.taken).all()
        if newest and not full.any() and need <= part.buffer.room:
            return part
        return self._copied(part, tokens, full, need)

    def _copied(self, part: Part, tokens: np.ndarray, full: np.ndarray, need: int) -> Part:
        drop, first, retain = self.cache.drop, self.cache.sinks, self.cache.retain
        limit = max(self.cache.window, need)
        buffer = self.buffer(len(full), _rounded(max(min(need * 3 // 2, limit), need)))
        kept, sinks, archives = part.kept.copy(), part.sinks, list(part.archives)
        if full.any() and first and sinks is None:
            sinks = self._first(part)
        for b in range(len(full)):
            n = int(kept[b])
            if not full[b]:
                for new, old in zip(buffer.memory, part.buffer.memory):
                    new[b, :, :n] = old[b, :, :n]
                continue
            kept[b] = n - drop
            recent = first + retain + self.places
            for new, old in zip(buffer.memory, part.buffer.memory):
                new[b, :, recent : n - drop] = old[b, :, recent + drop : n]
            if retain:
                self._retain(buffer, part.buffer, b)
            if r := self.retriever:
                archives[b] = self._archive(r, part, b, int(tokens[b]))
                self._retrieve(r, buffer, b, archives[b], int(tokens[b] - kept[b]))
            if first and sinks is not None:
                if part.sinks is not None and tokens[b] == self.cache.window:
                    sinks = sinks.copy()  # this stream's first time, in the company of older ones
                    sinks[:, :, b] = self._first(part)[:, :, b]
                self._put_sinks(buffer, b, sinks[:, :, b], int(tokens[b] - kept[b]))
        buffer.taken[:] = kept
        return Part(buffer, kept, sinks, tuple(archives))

    def _archive(self, r: Retriever, part: Part, b: int, tokens: int) -> Archive:
        """Stream b's archive with what leaves its full window after so many tokens: at first what is retrieved has no
        rows yet, and these leave, too."""
        archive, c = part.archives[b], self.cache
        begin = c.sinks + (self.places if archive.blocks else 0)
        rows = slice(begin, c.sinks + self.places + c.drop)
        memory, layers = part.buffer.memory, len(self.counts)
        keys, values = (
            np.stack([m[b, :, rows] for m in half]) for half in (memory[:layers], memory[layers:])
        )
        where = tokens - c.window + np.arange(rows.start, rows.stop)
        return r.stored(archive, self._moved(keys, -where), values, tokens)

    def _retrieve(self, r: Retriever, buffer: Buffer, b: int, archive: Archive, shift: int) -> None:
        """What stream b's archive has chosen, put behind the sinks; row 0 of the buffer has the position `shift`."""
        place = slice(self.cache.sinks, self.cache.sinks + self.places)
        keys, values = r.rows(archive)
        keys = self._moved(keys, shift + np.arange(place.start, place.stop))
        for memory, rows in zip(buffer.memory, [*keys, *values]):
            memory[b, :, place] = rows

    def read(self, part: Part, count: np.ndarray, queries: Sequence[np.ndarray]) -> Part:
        """After `count` (B,) tokens more, whose keys and values are written; queries: of each stream's, for an archive."""
        part = part.appended(count)
        if not (r := self.retriever):
            return part
        archives = [r.read(a, q[:n]) for a, q, n in zip(part.archives, queries, count)]
        return replace(part, archives=tuple(archives))

    def recalled(self, part: Part, tokens: np.ndarray) -> Part:
        """What is retrieved chosen anew, where something has left the window."""
        if not (r := self.retriever):
            return part
        archives = [r.recalled(a, int(t)) if a.blocks else a for a, t in zip(part.archives, tokens)]
        return self._exchanged(r, part, archives, tokens)

    def before(self, part: Part, tokens: np.ndarray, count: int) -> Part:
        """As it was before the last `count` tokens, after `tokens` (B,), nothing having left the window since."""
        part = replace(part, kept=part.kept - count)
        if not (r := self.retriever):
            return part
        archives = [a.before(int(t), count) for a, t in zip(part.archives, tokens)]
        return self._exchanged(r, part, archives, tokens)

    def _exchanged(
        self, r: Retriever, part: Part, archives: Sequence[Archive], tokens: np.ndarray
    ) -> Part:
        """With other archives, and what they have chosen in its place: in a copy, since other states see the rows."""
        others = [
            b
            for b, (old, new) in enumerate(zip(part.archives, archives))
            if new.chosen and old.chosen[-1] is not new.chosen[-1]
        ]
        if others:
            part = self.select(part, range(len(archives)))
        for b in others:
            self._retrieve(r, part.buffer, b, archives[b], int(tokens[b] - part.kept[b]))
        return replace(part, archives=tuple(archives))

    def _retain(self, new: Buffer, old: Buffer, b: int) -> None:
        """Of stream b's oldest tokens after the sinks those that stand out move up to the recent ones, each head's own."""
        c, layers = self.cache, len(self.counts)
        rows = slice(c.sinks, c.sinks + c.retain + c.drop)
        place = slice(c.sinks, c.sinks + c.retain)
        for i in range(layers):
            keys, values = (old.memory[j][b, :, rows] for j in (i, layers + i))
            chosen = standing_out(keys, c.retain)
            shift = c.drop + np.arange(c.retain) - chosen
            new.memory[i][b, :, place] = self._moved(_taken(keys, chosen), shift)
            new.memory[layers + i][b, :, place] = _taken(values, chosen)

    def _first(self, part: Part) -> np.ndarray:
        """The first tokens as they lie: (2, heads of all layers, B, sinks, head_dim)."""
        first = np.concatenate(
            [m[:, :, : self.cache.sinks].swapaxes(0, 1) for m in part.buffer.memory]
        )
        return first.reshape(2, -1, *first.shape[1:])

    def _put_sinks(self, buffer: Buffer, b: int, sinks: np.ndarray, shift: int) -> None:
        """Sinks (2, heads, sinks, head_dim) of stream b, as they were `shift` positions later. In 8 bits they are moved as
        the floats that they stand for, always from where they were read: no error adds up."""
        moved = self._moved(sinks[0] * self._scales[0], shift)
        keys = moved if self.scales is None else self.codes(moved, 0)
        ends = np.cumsum(self.counts)[:-1]
        parts = [*np.split(keys, ends), *np.split(sinks[1], ends)]
        for memory, rows in zip(buffer.memory, parts):
            memory[b, :, : self.cache.sinks] = rows

    def _moved(self, keys: np.ndarray, shift: int | np.ndarray) -> np.ndarray:
        """Rotated keys (..., head_dim) as they were `shift` (...) positions later."""
        angle = np.asarray(shift)[..., None] * self.config.rope.frequencies(self.config.head_dim)
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        a, b = np.split(keys, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def codes(self, values: np.ndarray, kv: int) -> np.ndarray:
        """Keys (kv 0) or values (1) of all layers' heads (heads, T, head_dim) in 8 bits."""
        return np.clip(np.rint(values / self._scales[kv]), -128, 127).astype(np.int8)

    def floats(self, part: Part) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of the first stream the keys and values of each layer (heads, T, head_dim) in floats."""
        n, layers = int(part.kept[0]), len(self.counts)
        found = []
        for i, m in enumerate(part.buffer.memory):
            a = m[0, :, :n].astype(np.float32)
            found.append(a if self.scales is None else a * self.scales[i])
        return found[:layers], found[layers:]

    def select(self, part: Part, rows: Sequence[int]) -> Part:
        kept = part.kept[list(rows)]
        buffer = self.buffer(len(rows), _rounded(int(kept.max())))
        for new, old in zip(buffer.memory, part.buffer.memory):
            for i, b in enumerate(rows):
                new[i, :, : kept[i]] = old[b, :, : kept[i]]
        buffer.taken[:] = kept
        sinks = None if part.sinks is None else part.sinks[:, :, list(rows)]
        return Part(buffer, kept, sinks, tuple(part.archives[b] for b in rows if part.archives))

    def part(self, arrays: PartArrays, tokens: np.ndarray) -> Part:
        """The part that `Part.arrays` copied. Raises ValueError for what cannot be."""
        keys, values, sinks, kept = arrays.keys, arrays.values, arrays.sinks, arrays.kept
        batch, total, d = len(tokens), sum(self.counts), self.config.head_dim
        longest = int(kept.max(initial=0))
        shape = (batch, total, longest, d)
        if keys.shape != shape or values.shape != shape or kept.shape != (batch,):
            raise ValueError(
                f"keys and values of this model have the shape {shape}; got {keys.shape}, {values.shape}"
            )
        if keys.dtype != self.kind or values.dtype != self.kind:
            raise ValueError(
                f"keys and values of this model are {np.dtype(self.kind)}; got {keys.dtype}"
            )
        dropped = self.dropped(tokens)
        if (kept != tokens - dropped).any():
            raise ValueError("this state was made with another window")
        if dropped.any() and sinks is None and self.cache.sinks:
            raise ValueError("this state lacks its sinks")
        expected = (batch, 2, total, self.cache.sinks, d)
        if sinks is not None and sinks.shape != expected:
            raise ValueError(f"sinks of this model have the shape {expected}; got {sinks.shape}")
        if (arrays.archive is None) != (self.retriever is None):
            raise ValueError(
                "a state with an archive goes with a window that retrieves, and only that"
            )
        archives: tuple[Archive, ...] = ()
        if self.retriever and arrays.archive:
            archives = self.retriever.archives(arrays.archive, dropped)
        buffer = self.buffer(batch, _rounded(longest))
        ends = np.cumsum(self.counts)[:-1]
        for memory, a in zip(buffer.memory, [*np.split(keys, ends, 1), *np.split(values, ends, 1)]):
            memory[:, :, :longest] = a
        buffer.taken[:] = kept
        moved = None if sinks is None else np.moveaxis(sinks, 0, 2).copy()
        return Part(buffer, kept.copy(), moved, archives)


def standing_out(keys: np.ndarray, count: int) -> np.ndarray:
    """Rows (heads, count), ascending, of the keys (heads, T, head_dim) that are least like all of them: KeyDiff
    (arXiv:2504.15364), which needs neither attention's weights nor the order in which they came."""
    unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True).clip(1e-12)
    like = (unit * unit.mean(1, keepdims=True)).sum(-1)
    return np.sort(np.argsort(like, -1, kind="stable")[:, :count], -1)


def _taken(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Of each head's rows (heads, T, head_dim) those chosen (heads, count)."""
    return np.take_along_axis(rows, chosen[..., None], 1)


def concatenated(group: Group, parts: Sequence[Part]) -> Part:
    """The streams of several parts as one."""
    kept = np.concatenate([p.kept for p in parts])
    buffer = group.buffer(len(kept), _rounded(int(kept.max())))
    at = 0
    for p in parts:
        n, end = int(p.kept.max()), at + len(p.kept)
        for new, old in zip(buffer.memory, p.buffer.memory):
            new[at:end, :, :n] = old[:, :, :n]
        at = end
    buffer.taken[:] = kept
    archives = tuple(a for p in parts for a in p.archives)
    if all(p.sinks is None for p in parts):
        return Part(buffer, kept, None, archives)
    shape = (2, sum(group.counts), len(kept), group.cache.sinks, group.config.head_dim)
    sinks = np.zeros(shape, group.kind)
    at = 0
    for p in parts:
        if p.sinks is not None:
            sinks[:, :, at : at + len(p.kept)] = p.sinks
        at += len(p.kept)
    return Part(buffer, kept, sinks, archives)


def _rounded(tokens: int) -> int:
    return max(-(-tokens // GROWTH), 1) * GROWTH
