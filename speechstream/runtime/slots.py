"""States of many streams that stay where they are, each behind the number of a slot.

A state is a value on every floor; an engine may keep it in place all the same, so that a chunk copies
nothing but what is new. `Rows` is one array for each field of a state, a row a slot. A batch needs its
streams in neighbouring rows: `gather` moves those that are not there to the front, once, and while the
same streams come again nothing is moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from speechstream.state import flatten, unflatten


class Slots(Protocol):
    """A network whose states are resident. `step` equals the network's pure step on the states as values."""

    def open(self) -> int:
        """The slot of a new stream."""

    def step(self, slots: Sequence[int], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One step of these streams: inputs and outputs have them first, in this order."""

    def read(self, slot: int) -> Any:
        """A copy of a stream's state."""

    def write(self, slot: int, state: Any) -> None:
        """Give a slot this state."""

    def close(self, slot: int) -> None:
        """Free a slot. Raises KeyError for one that is not open."""


class Rows:
    """States as rows of numpy arrays, which grow as slots are opened. like: the first state of one stream.

    The lowest free row is taken first, so that busy rows stay together.
    """

    def __init__(self, like: Any):
        self._first = {n: _compact(a) for n, a in flatten(like).items()}
        self._like = unflatten(like, self._first)
        self._arrays = {n: np.zeros((0, *a.shape[1:]), a.dtype) for n, a in self._first.items()}
        self._row: dict[int, int] = {}  # of each slot
        self._slot: list[int | None] = []  # of each row
        self.generation = 0  # changes when the rows have moved to other memory

    def __len__(self) -> int:
        return len(self._row)

    def open(self, slot: int) -> None:
        """Give a slot the row of a new stream."""
        if None not in self._slot:
            self._resize(max(2 * len(self._slot), 1))
        row = self._slot.index(None)
        self._row[slot], self._slot[row] = row, slot
        for n, a in self._arrays.items():
            a[row] = self._first[n][0]

    def close(self, slot: int) -> None:
        """Free a row. Where most are free, memory goes back."""
        self._slot[self._row.pop(slot)] = None
        used = max(self._row.values(), default=-1) + 1
        if 4 * used <= len(self._slot):
            self._resize(used)

    def read(self, slot: int) -> Any:
        """A copy of a slot's state."""
        row = self._row[slot]
        return unflatten(self._like, {n: a[row : row + 1].copy() for n, a in self._arrays.items()})

    def write(self, slot: int, state: Any) -> None:
        """Copy a state of one stream to a slot."""
        row = self._row[slot]
        for n, a in flatten(state).items():
            self._arrays[n][row] = a[0]

    def gather(self, slots: Sequence[int]) -> tuple[list[int], slice]:
        """Bring slots to neighbouring rows: which of them is in each row, and the rows."""
        if len(slots) == 1:
            row = self._row[slots[0]]
            return [0], slice(row, row + 1)
        wanted = {slot: i for i, slot in enumerate(slots)}
        free = [row for row in range(len(slots)) if self._slot[row] not in wanted]
        for slot in slots:
            if self._row[slot] >= len(slots):
                self._swap(self._row[slot], free.pop())
        rows = slice(0, len(slots))
        return [wanted[slot] for slot in self._slot[rows] if slot is not None], rows

    def runs(self, slots: Sequence[int]) -> list[tuple[list[int], slice]]:
        """The same without moving anything: stretches of neighbouring rows, and which of the slots are in them.

        For states so large that moving one costs more than a batch gains.
        """
        out: list[tuple[list[int], slice]] = []
        for row, i in sorted((self._row[slot], i) for i, slot in enumerate(slots)):
            if out and out[-1][1].stop == row:
                members, rows = out.pop()
                out.append(([*members, i], slice(rows.start, row + 1)))
            else:
                out.append(([i], slice(row, row + 1)))
        return out

    def view(self, rows: slice) -> Any:
        """The states in some rows as one: views, to be changed in place."""
        return unflatten(self._like, {n: a[rows] for n, a in self._arrays.items()})

    def _swap(self, a: int, b: int) -> None:
        for x in self._arrays.values():
            x[[a, b]] = x[[b, a]]
        self._slot[a], self._slot[b] = self._slot[b], self._slot[a]
        for row in (a, b):
            if (slot := self._slot[row]) is not None:
                self._row[slot] = row

    def _resize(self, size: int) -> None:
        kept, self.generation = min(size, len(self._slot)), self.generation + 1
        for n, a in self._arrays.items():
            self._arrays[n] = np.zeros((size, *a.shape[1:]), a.dtype)
            self._arrays[n][:kept] = a[:kept]
        self._slot = self._slot[:kept] + [None] * (size - kept)


def _compact(a: np.ndarray) -> np.ndarray:
    """An array of zeros, as most first states are, in the memory of one."""
    return a if a.any() else np.broadcast_to(np.zeros((), a.dtype), a.shape)
