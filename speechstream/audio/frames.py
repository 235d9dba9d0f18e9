"""Samples cut into frames, for networks that take sound as it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FramesState:
    """The samples (n,) of a recording that fill no block of frames yet, and how many there were in all."""

    waiting: np.ndarray
    samples: int = 0


class Frames:
    """Samples to frames (hop, a multiple of `block`), a frame a column, none of them twice."""

    def __init__(self, hop: int, block: int):
        self.hop, self.block = hop, block

    def init_state(self) -> FramesState:
        """A recording of which nothing was heard."""
        return FramesState(np.zeros(0, np.float32))

    def step(self, x: np.ndarray, state: FramesState) -> tuple[np.ndarray, FramesState]:
        """Hear samples (n,); the blocks that are whole now."""
        x = np.concatenate([state.waiting, np.asarray(x, np.float32)])
        size = self.hop * self.block
        whole = len(x) // size * size
        samples = state.samples + len(x) - len(state.waiting)
        return self._cut(x[:whole]), FramesState(x[whole:].copy(), samples)

    def finish(self, state: FramesState) -> np.ndarray:
        """The frames that are left at the end of the recording. One that is not whole is silent, and counts."""
        x = state.waiting
        whole = len(x) // self.hop * self.hop
        return self._cut(np.pad(x[:whole], (0, self.hop if len(x) > whole else 0)))

    def check(self, s: FramesState, samples: int) -> int:
        """Frames that were given in blocks. Raises ValueError where so many samples cannot have made this state."""
        waiting = samples % (self.hop * self.block)
        if s.samples != samples or s.waiting.shape != (waiting,) or s.waiting.dtype != np.float32:
            raise ValueError("its samples do not add up")
        return samples // (self.hop * self.block) * self.block

    def _cut(self, x: np.ndarray) -> np.ndarray:
        found: np.ndarray = x.reshape(-1, self.hop).T
        return found
