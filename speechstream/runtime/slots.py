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
    """States as rows of numpy arrays, which grow as slots are opened. like: the first state of one stream."""

    def __init__(self, like: Any):
        self._like = like
        self._first = flatten(like)
        self._arrays = {n: np.empty((0, *a.shape[1:]), a.dtype) for n, a in self._first.items()}
        self._row: dict[int, int] = {}  # of each slot
        self._slot: list[int] = []  # of each row that is used; the used ones come first
        self.generation = 0  # changes when the rows have moved to other memory

    def __len__(self) -> int:
        return len(self._slot)

    def open(self, slot: int) -> None:
        """Give a slot the row of a new stream."""
        row = len(self._slot)
        if row == len(next(iter(self._arrays.values()))):
            self._grow(max(2 * row, 1))
        self._row[slot] = row
        self._slot.append(slot)
        for n, a in self._arrays.items():
            a[row] = self._first[n][0]

    def close(self, slot: int) -> None:
        """Free a row; the last one takes its place."""
        row, last = self._row[slot], len(self._slot) - 1
        if row != last:
            self._swap(row, last)
        self._slot.pop()
        del self._row[slot]
        if 4 * len(self._slot) <= len(next(iter(self._arrays.values()))):
            self._grow(len(self._slot))  # memory goes back when most streams have gone

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
        start = self._row[slots[0]] if len(slots) == 1 else 0
        wanted = {slot: i for i, slot in enumerate(slots)}
        if len(slots) > 1:
            free = [row for row in range(len(slots)) if self._slot[row] not in wanted]
            for slot in slots:
                if self._row[slot] >= len(slots):
                    self._swap(self._row[slot], free.pop())
        rows = slice(start, start + len(slots))
        return [wanted[slot] for slot in self._slot[rows]], rows

    def view(self, rows: slice) -> Any:
        """The states in some rows as one: views, to be changed in place."""
        return unflatten(self._like, {n: a[rows] for n, a in self._arrays.items()})

    def _swap(self, a: int, b: int) -> None:
        for x in self._arrays.values():
            x[[a, b]] = x[[b, a]]
        self._slot[a], self._slot[b] = self._slot[b], self._slot[a]
        self._row[self._slot[a]], self._row[self._slot[b]] = a, b

    def _grow(self, size: int) -> None:
        used, self.generation = len(self._slot), self.generation + 1
        for n, a in self._arrays.items():
            self._arrays[n] = np.zeros((size, *a.shape[1:]), a.dtype)
            self._arrays[n][:used] = a[:used]
