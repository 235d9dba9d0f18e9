"""What left a language model's window, kept block by block, and which blocks answer what is asked now (InfLLM).

After InfLLM (arXiv:2402.04617): blocks of neighbouring tokens lie outside the graph, in host memory; those whose keys agree
best with the newest queries are put into the window, behind the sinks. Differences: a block is represented by the mean of its
keys (as in MoBA, arXiv:2502.13189), for which no attention has to be read out of the graph; each head of keys chooses for
itself; what is retrieved stands in the order of the text at positions of its own, not all at one distance; and it changes at
fixed numbers of tokens, whenever the window is full, or when it is asked for.

An `Archive` is one stream's and a value: blocks are never changed, and forks share them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from speechstream.nn.llm_config import LlmConfig


@dataclass(frozen=True)
class Retrieve:
    """tokens: rows of the window for what is retrieved, whole blocks. block: tokens of a block. keys: how many represent a
    block, the means of as many parts of it. newest: tokens whose queries ask. bits: of what is kept, 32 (floats) or 8.
    most: tokens that are kept at most, whole blocks, the oldest forgotten first; 0: all. Raises ValueError for what cannot be."""

    tokens: int = 128
    block: int = 16
    keys: int = 1
    newest: int = 8
    bits: int = 32
    most: int = 0

    def __post_init__(self) -> None:
        if self.block < 1 or self.tokens < 1 or self.tokens % self.block:
            raise ValueError(f"what is retrieved must be whole blocks; got {self}")
        if self.keys < 1 or self.block % self.keys or self.newest < 1:
            raise ValueError(
                f"a block has equal parts whose means represent it, and one token at least asks; got {self}"
            )
        if self.bits not in (8, 32) or self.most < 0:
            raise ValueError(
                f"what is kept has 8 or 32 bits and 0 tokens (all) or more; got {self}"
            )

    def check(self, window: int, drop: int, retain: int) -> None:
        """Raises ValueError for a window that this does not go with."""
        if retain:
            raise ValueError(
                "a window has rows for retained tokens or for retrieved ones, not for both"
            )
        if drop % self.block or self.newest > window - drop or 0 < self.most < self.tokens:
            raise ValueError(
                f"what leaves the window at once must be whole blocks, what asks must be in the window, and all that is "
                f"retrieved must be kept; got drop {drop} of window {window}, and {self}"
            )


@dataclass(frozen=True)
class Block:
    """codes (2, layers, kv_heads, tokens, head_dim): keys before any position, and values; int8 where there are scales
    (2, layers, kv_heads, 1, head_dim), one for each channel, else float32."""

    codes: np.ndarray
    scales: np.ndarray | None

    def __post_init__(self) -> None:
        self.codes.setflags(write=False)  # forks share it

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)

    def floats(self) -> np.ndarray:
        return self.codes if self.scales is None else self.codes * self.scales


class _Index:
    """Representatives of blocks, (layers, kv_heads, blocks, keys, head_dim) with room for more; some archive has `taken`."""

    def __init__(self, memory: np.ndarray, taken: int):
        self.memory, self.taken = memory, taken

    def with_row(self, first: int, end: int, row: np.ndarray) -> tuple[_Index, int]:
        """With a block after those from first to end, which are moved if another has gone on from there; the new first."""
        room = self.memory.shape[2]
        if self.taken == end < room:
            self.memory[:, :, end] = row
            self.taken += 1
            return self, first
        count = end - first
        layers, heads, _, *size = self.memory.shape
        grown = np.empty((layers, heads, max(count * 3 // 2, count + 8), *size), np.float32)
        grown[:, :, :count] = self.memory[:, :, first:end]
        grown[:, :, count] = row
        return _Index(grown, count + 1), 0


@dataclass(frozen=True)
class Archive:
    """What left the window of one stream. Never changes."""

    retrieve: Retrieve
    queries: np.ndarray  # (T, layers, kv_heads, head_dim) of the newest tokens
    index: _Index
    first: int = 0  # where the blocks' representatives begin in the index
    blocks: tuple[Block, ...] = ()
    # since the window was last full: after how many tokens which blocks were put there, (layers, kv_heads, blocks)
    chosen: tuple[tuple[int, np.ndarray], ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes, those included that it shares with forks."""
        blocks = sum(b.nbytes for b in self.blocks)
        return blocks + self.index.memory.nbytes + self.queries.nbytes

    @property
    def tokens(self) -> int:
        return sum(b.codes.shape[3] for b in self.blocks)

    def before(self, tokens: int, count: int) -> Archive:
        """As it was when `tokens` had been read, `count` fewer than now, since the window was last full."""
        chosen = tuple(c for c in self.chosen if c[0] <= tokens)
        asked = self.queries[: max(len(self.queries) - count, 0)]
        return dataclasses.replace(self, chosen=chosen, queries=asked)


@dataclass(frozen=True)
class ArchiveArrays:
    """Archives with the streams first, padded with zeros: codes (B, N, 2, layers, kv_heads, block, head_dim), `chosen` (B, C,
    layers, kv_heads, blocks) after `after` (B, C) tokens, -1 where there was none."""

    codes: np.ndarray = field(metadata={"cache": True})
    scales: np.ndarray | None
    blocks: np.ndarray  # (B,) how many of N
    queries: np.ndarray  # (B, T, layers, kv_heads, head_dim)
    asked: np.ndarray  # (B,) how many of T
    chosen: np.ndarray
    after: np.ndarray


class Retriever:
    """The operations on archives of one model and window. distance: of what is retrieved. drop: what leaves it at once."""

    def __init__(self, config: LlmConfig, retrieve: Retrieve, distance: int, drop: int):
        self.config, self.retrieve, self.drop = config, retrieve, drop
        self.shape = (config.layers, config.kv_heads)
        angle = distance * config.rope.frequencies(config.head_dim)
        self.cos, self.sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def empty(self) -> Archive:
        d = self.config.head_dim
        index = _Index(np.zeros((*self.shape, 0, self.retrieve.keys, d), np.float32), 0)
        return Archive(self.retrieve, np.zeros((0, *self.shape, d), np.float32), index)

    def read(self, archive: Archive, queries: np.ndarray) -> Archive:
        """After more tokens, whose queries (T, layers, kv_heads, head_dim) are not rotated. As many are kept as a rollback can
        ask for: those of the tokens since the window was full, and of the newest before them."""
        if not len(queries):
            return archive
        most = self.drop + self.retrieve.newest
        both = np.concatenate([archive.queries, queries[-most:]])[-most:]
        return dataclasses.replace(archive, queries=both)

    def stored(
        self, archive: Archive, keys: np.ndarray, values: np.ndarray, tokens: int
    ) -> Archive:
        """With what left the window after `tokens`, whole blocks of keys before any position and of values (layers,
        kv_heads, T, head_dim); then blocks are chosen."""
        size, both = self.retrieve.block, np.stack([keys, values])
        for at in range(0, both.shape[3], size):
            archive = self._with(archive, self._block(both[:, :, :, at : at + size]))
        return self.recalled(dataclasses.replace(archive, chosen=()), tokens)

    def recalled(self, archive: Archive, tokens: int) -> Archive:
        """The blocks chosen anew, for what the newest of `tokens` tokens ask for."""
        chosen = self.choose(archive)
        if archive.chosen and (archive.chosen[-1][1] == chosen).all():
            return archive
        return dataclasses.replace(archive, chosen=(*archive.chosen, (tokens, chosen)))

    def choose(self, archive: Archive) -> np.ndarray:
        """(layers, kv_heads, blocks), ascending: those whose best representative has the largest product with the mean of
        the newest queries, all of them as far apart."""
        q = archive.queries[-self.retrieve.newest :].mean(0)
        a, b = np.split(q, 2, -1)
        q = np.concatenate([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1)
        count = len(archive.blocks)
        keys = archive.index.memory[:, :, archive.first : archive.first + count]
        scores = (keys.reshape(*self.shape, -1, keys.shape[-1]) @ q[..., None])[..., 0]
        best = scores.reshape(*self.shape, count, -1).max(-1)
        taken = self.retrieve.tokens // self.retrieve.block
        return np.sort(np.argsort(-best, -1, kind="stable")[..., :taken], -1)

    def rows(self, archive: Archive) -> tuple[np.ndarray, np.ndarray]:
        """Keys before any position and values (layers, kv_heads, tokens, head_dim) of the blocks chosen last."""
        chosen, d = archive.chosen[-1][1], self.config.head_dim
        out = np.empty((2, *chosen.shape, self.retrieve.block, d), np.float32)
        for number in np.unique(chosen):
            layer, head, at = np.nonzero(chosen == number)
            out[:, layer, head, at] = archive.blocks[number].floats()[:, layer, head]
        keys, values = out.reshape(2, *self.shape, -1, d)
        return keys, values

    def _block(self, both: np.ndarray) -> Block:
        if self.retrieve.bits == 32:
            return Block(np.array(both, np.float32), None)
        scales = np.maximum(np.abs(both).max(3, keepdims=True) / 127, 1e-12).astype(np.float32)
        return Block(np.rint(both / scales).astype(np.int8), scales)

    def _represented(self, block: Block) -> np.ndarray:
        """The means of the parts of each head's keys, (layers, kv_heads, parts, head_dim)."""
        parts = (*self.shape, self.retrieve.keys, -1, self.config.head_dim)
        found: np.ndarray = block.floats()[0].reshape(parts).mean(3)
        return found

    def archives(self, arrays: ArchiveArrays, dropped: np.ndarray) -> tuple[Archive, ...]:
        """Those that `arrays_of` copied, of streams that lost `dropped` (B,). Raises ValueError for what cannot be."""
        r, a, batch, d = self.retrieve, arrays, len(dropped), self.config.head_dim
        count = np.where(dropped, dropped + r.tokens, 0) // r.block
        count = np.minimum(count, r.most // r.block) if r.most else count
        kind = np.dtype(np.int8 if r.bits == 8 else np.float32)
        n, asked = int(count.max()), int(a.asked.max(initial=0))
        each, recalls = (batch, n, 2, *self.shape), a.after.size // max(batch, 1)
        scales = (*each, 1, d) if r.bits == 8 else None
        fits = (
            (a.codes.shape, a.codes.dtype) == ((*each, r.block, d), kind)
            and (None if a.scales is None else a.scales.shape) == scales
            and a.queries.shape == (batch, asked, *self.shape, d)
            and a.chosen.shape == (batch, recalls, *self.shape, r.tokens // r.block)
            and a.blocks.tolist() == count.tolist()
            and all(x.dtype == np.int64 for x in (a.blocks, a.asked, a.chosen, a.after))
            and a.asked.shape == (batch,)
            and a.asked.min() >= 0
            and a.after.shape == (batch, recalls)
            and not (dropped.any() and not recalls)
            and (not recalls or ((a.after[:, 0] >= 0) == (count > 0)).all())
            and a.chosen.min(initial=0) >= 0
            and (a.chosen.max((1, 2, 3, 4), initial=0) < np.maximum(count, 1)).all()
        )
        if not fits:
            raise ValueError("the archive of this state is of another model, or of another window")
        found = []
        for i in range(batch):
            made = dataclasses.replace(self.empty(), queries=a.queries[i, : a.asked[i]].copy())
            for j in range(count[i]):
                codes = a.codes[i, j].copy()
                block = Block(codes, None if a.scales is None else a.scales[i, j].copy())
                made = self._with(made, block)
            pairs = [(int(t), c.copy()) for t, c in zip(a.after[i], a.chosen[i]) if t >= 0]
            found.append(dataclasses.replace(made, chosen=tuple(pairs)))
        return tuple(found)

    def _with(self, archive: Archive, block: Block) -> Archive:
        """A block more; the oldest one less, if there are too many."""
        blocks, most = (*archive.blocks, block), self.retrieve.most // self.retrieve.block
        end = archive.first + len(archive.blocks)
        index, first = archive.index.with_row(archive.first, end, self._represented(block))
        if most and len(blocks) > most:
            blocks, first = blocks[1:], first + 1
        return dataclasses.replace(archive, blocks=blocks, index=index, first=first)


def arrays_of(archives: Sequence[Archive]) -> ArchiveArrays:
    """Copies."""
    r = archives[0].retrieve
    *shape, _, _, d = archives[0].index.memory.shape
    kind = np.int8 if r.bits == 8 else np.float32
    chosen = [[c for _, c in a.chosen] for a in archives]
    after = [np.array([t for t, _ in a.chosen], np.int64) for a in archives]
    codes = [[b.codes for b in a.blocks] for a in archives]
    scales = [[b.scales for b in a.blocks if b.scales is not None] for a in archives]
    return ArchiveArrays(
        _padded(codes, (2, *shape, r.block, d), kind),
        _padded(scales, (2, *shape, 1, d), np.float32) if r.bits == 8 else None,
        np.array([len(c) for c in codes]),
        _padded([a.queries for a in archives], (*shape, d), np.float32),
        np.array([len(a.queries) for a in archives]),
        _padded(chosen, (*shape, r.tokens // r.block), np.int64),
        _padded([t + 1 for t in after], (), np.int64) - 1,
    )


def _padded(
    rows: Sequence[Sequence[np.ndarray] | np.ndarray], shape: tuple[int, ...], kind: type
) -> np.ndarray:
    """Lists of arrays of a shape as one array, zeros behind the shorter ones."""
    out: np.ndarray = np.zeros((len(rows), max(map(len, rows)), *shape), kind)
    for row, r in zip(out, rows):
        if len(r):
            row[: len(r)] = r
    return out
