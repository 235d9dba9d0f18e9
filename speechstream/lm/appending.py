"""Graphs whose attention appends keys and values behind those of a stream, which is a value all the same.

    graph = AppendingGraph(path, layers, ("logits",))
    (logits,), caches = graph.run(feeds, caches, count)          # one stream, `count` positions
    made, all_caches = graph.run_together(feeds, caches)         # several, one position each

The graphs are those of `export.llm`, `export.pocket` and `export.cosyvoice`. `lm.cache` holds batches of streams in one buffer with a
window; here each stream has its own, for voices, whose streams are short and come and go.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.nn.llm_config import RopeConfig
from speechstream.runtime.session import open_session
from speechstream.state import cache

GROWTH = 64  # positions: a stream's room is a multiple of it
Array = np.ndarray


class Home:
    """Where one stream's keys and values lie, with room for C positions, and how many of these some state has."""

    def __init__(self, caches: Caches, room: int) -> None:
        arrays = caches.keys + caches.values
        _, heads, taken, size = arrays[0].shape
        self.memory = np.zeros((len(arrays), 1, heads, room, size), np.float32)
        self.memory[..., :taken, :] = arrays
        self.room, self.taken, self._lock = room, taken, threading.Lock()

    def claim(self, read: int, count: int) -> bool:
        """Whether who has read so many may write the next `count` positions: the first who asks, if there is room."""
        with self._lock:
            mine = self.taken == read and read + count <= self.room
            self.taken += count if mine else 0
            return mine


@dataclass(frozen=True)
class Caches:
    """What a stream has read: keys and values of each layer, (1, kv_heads, S, head_dim) float32. A value.

    They are views of a `Home` where a graph has made them. It writes behind what any state has, and nothing twice:
    the newest of a stream's states grows without a copy, and an older one is copied before it grows.
    """

    keys: tuple[Array, ...] = cache()
    values: tuple[Array, ...] = cache()
    home: ClassVar[Home | None] = None  # no part of the value: lost on the way through bytes

    def __len__(self) -> int:
        return int(self.keys[0].shape[2])

    @classmethod
    def empty(cls, layers: int, kv_heads: int, head_dim: int) -> Caches:
        """A stream that has read nothing."""
        nothing = (np.zeros((1, kv_heads, 0, head_dim), np.float32),) * layers
        return cls(nothing, nothing)

    def with_room(self, count: int) -> Home:
        """Where `count` positions may be written behind these."""
        read, home = len(self), self.home
        if home is not None and home.claim(read, count):
            return home
        need = read + count
        home = Home(self, -(-max(need * 3 // 2, need + 1) // GROWTH) * GROWTH)
        home.claim(read, count)
        return home

    @classmethod
    def at(cls, home: Home, read: int) -> Caches:
        """The first positions of a home."""
        views = tuple(m[..., :read, :] for m in home.memory)
        layers = len(views) // 2
        made = cls(views[:layers], views[layers:])
        object.__setattr__(made, "home", home)
        return made

    def check(self, layers: int, kv_heads: int, head_dim: int, context: int) -> None:
        """Raises ValueError for keys and values of another network."""
        arrays = self.keys + self.values
        if len(self.keys) != layers or len(self.values) != layers:
            raise ValueError("its keys and values are of another number of layers")
        shape = 1, kv_heads, arrays[0].shape[2] if arrays[0].ndim == 4 else -1, head_dim
        if any(a.shape != shape or a.dtype != np.float32 for a in arrays) or shape[2] > context:
            raise ValueError("its keys and values are of another size")


class AppendingGraph:
    """made: names of the outputs beside keys and values. Raises SpeechStreamError for a file that is no such graph."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        layers: int,
        made: tuple[str, ...],
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        self.path, self.layers, self.made = Path(path), layers, made
        self.session = open_session(path, threads, device)
        self._caches = [f"{n}.{i}" for n in ("keys", "values") for i in range(layers)]
        takes = [i.name for i in self.session.get_inputs()]
        self.inputs = [n for n in takes if n not in self._caches]
        gives = {o.name for o in self.session.get_outputs()}
        others = [n for n in self.inputs if n.startswith(("keys.", "values."))]
        missing = [n for n in self._caches if n not in takes]
        if others or missing or not gives.issuperset(made):
            raise SpeechStreamError(
                f"{self.path.parent} is damaged: its {self.path.name} is of another size"
            )

    def positions(
        self, caches: Sequence[Caches], count: int, rope: RopeConfig, head_dim: int
    ) -> dict[str, Array]:
        """The feeds that say where the next `count` positions of each stream are."""
        read = np.array([len(c) for c in caches])
        cos, sin = rope.table((read[:, None] + np.arange(count)).ravel(), head_dim)
        return {
            "cosines": cos,
            "sines": sin,
            "seen": (read + count - 1).astype(np.int32),
            "total": np.array(read.max() + count, np.int32),
        }

    def run(
        self, feeds: Mapping[str, Array], caches: Caches, count: int
    ) -> tuple[list[Array], Caches]:
        """One stream: its keys and values are appended where they lie."""
        home = caches.with_room(count)
        binding = self.session.io_binding()
        for name, a in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(a))
        for name in self.made:
            binding.bind_output(name)
        for name, m in zip(self._caches, home.memory):
            binding.bind_input(name, "cpu", 0, m.dtype, m.shape, m.ctypes.data)
            binding.bind_output(f"new.{name}", "cpu", 0, m.dtype, m.shape, m.ctypes.data)
        try:
            self.session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise self._unfit(error) from error
        made = [v.numpy() for v in binding.get_outputs()[: len(self.made)]]
        return made, Caches.at(home, len(caches) + count)

    def run_together(
        self, feeds: Mapping[str, Array], caches: Sequence[Caches]
    ) -> tuple[list[Array], list[Caches]]:
        """Several streams, a position each: their keys and values are joined, and taken apart again."""
        past = zip(*(c.keys + c.values for c in caches))
        joined = {n: _joined(parts) for n, parts in zip(self._caches, past)}
        names = [*self.made, *(f"new.{n}" for n in self._caches)]
        try:
            out = self.session.run(names, {**feeds, **joined})
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise self._unfit(error) from error
        made, new = out[: len(self.made)], out[len(self.made) :]
        found = []
        for i, c in enumerate(caches):
            own = tuple(a[i : i + 1, :, : len(c) + 1].copy() for a in new)
            found.append(Caches(own[: self.layers], own[self.layers :]))
        return made, found

    def _unfit(self, error: Exception) -> SpeechStreamError:
        return SpeechStreamError(f"{self.path} cannot be run: {str(error).splitlines()[0][:300]}")


def _joined(parts: Sequence[Array]) -> Array:
    """Keys (1, H, S, D) of several streams as one array, the shorter ones filled up behind."""
    longest = max(p.shape[2] for p in parts) + 1
    out = np.zeros((len(parts), parts[0].shape[1], longest, parts[0].shape[3]), np.float32)
    for row, p in zip(out, parts):
        row[:, : p.shape[2]] = p[0]
    return out
