"""States of a torch network that stay on its device, behind slot numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from speechstream.state import flatten, unflatten

Step = Callable[[dict[str, torch.Tensor], Any], tuple[dict[str, Any], Any]]


class TorchSlots:
    """`Slots` of a torch network: a step moves inputs and outputs between host and device, and no state.

    step: (inputs, state) -> (outputs, state), pure. like: the state of a stream that has heard nothing.
    """

    def __init__(self, step: Step, like: Any, device: str | torch.device):
        self._step, self._like, self.device = step, like, torch.device(device)
        self._first = {n: a.to(self.device) for n, a in flatten(like).items()}
        self._arrays = {n: a.new_empty((0, *a.shape[1:])) for n, a in self._first.items()}
        self._row: dict[int, int] = {}
        self._free: list[int] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._row)

    def open(self) -> int:
        slot, self._next = self._next, self._next + 1
        if not self._free:
            size = len(next(iter(self._arrays.values())))
            more = max(size, 1)
            for n, a in self._arrays.items():
                self._arrays[n] = torch.cat([a, a.new_zeros((more, *a.shape[1:]))])
            self._free = list(range(size + more - 1, size - 1, -1))
        self._row[slot] = self._free.pop()
        self._put([slot], self._first)
        return slot

    def close(self, slot: int) -> None:
        self._free.append(self._row.pop(slot))

    def read(self, slot: int) -> Any:
        """A copy of a stream's state, numpy arrays (1, ...)."""
        row = self._row[slot]
        return unflatten(
            self._like, {n: a[row : row + 1].cpu().numpy().copy() for n, a in self._arrays.items()}
        )

    def write(self, slot: int, state: Any) -> None:
        arrays = {n: torch.as_tensor(a).to(self.device) for n, a in flatten(state).items()}
        self._put([slot], arrays)

    @torch.inference_mode()
    def step(self, slots: Sequence[int], inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        rows = torch.tensor([self._row[s] for s in slots], device=self.device)
        state = unflatten(self._like, {n: a.index_select(0, rows) for n, a in self._arrays.items()})
        given = {
            n: torch.from_numpy(np.ascontiguousarray(a)).to(self.device) for n, a in inputs.items()
        }
        out, new = self._step(given, state)
        self._put(slots, flatten(new))
        return out

    def _put(self, slots: Sequence[int], arrays: Mapping[str, torch.Tensor]) -> None:
        rows = torch.tensor([self._row[s] for s in slots], device=self.device)
        for n, a in arrays.items():
            self._arrays[n].index_copy_(0, rows, a)
