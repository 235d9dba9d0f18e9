"""What a search needs to know of an encoder, and how feature frames become its blocks.

An encoder with `subsampling` s turns s feature frames into one encoder frame. `lead` is how many frames that lie before
the audio its first block starts with (7 for a causal FastConformer: its frame t is due with feature frame 8 t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


class StreamEncoder(Protocol):
    """A streaming encoder, run by any engine, on numpy arrays."""

    subsampling: int
    lead: int
    lookaheads: tuple[int, ...]  # frames of right context it can run with, the default first

    def init_state(self, batch: int = 1) -> Any: ...

    def step(self, x: np.ndarray, state: Any, lengths: np.ndarray) -> tuple[np.ndarray, Any]:
        """x (B, subsampling * chunk, features), of which lengths (B,) frames count, to (B, chunk, dim)."""


@dataclass(frozen=True)
class BlockState:
    """Feature frames of one stream that wait for their block to fill."""

    pending: np.ndarray  # (1, size, features) left-aligned
    filled: np.ndarray  # (1,) int64
    audio: np.ndarray  # (1,) int64 feature frames taken since the start, without the lead


class Blocks:
    """Feature frames as they come, any number at a time, to blocks of `chunk` encoder frames."""

    def __init__(self, features: int, chunk: int, subsampling: int = 8, lead: int = 7):
        if min(features, chunk, subsampling) < 1 or not 0 <= lead < subsampling:
            raise ValueError(
                f"need features, chunk, subsampling >= 1 and 0 <= lead < subsampling; got {features}, "
                f"{chunk}, {subsampling}, {lead}"
            )
        self.features, self.subsampling, self.lead = features, subsampling, lead
        self.size = chunk * subsampling

    def init_state(self) -> BlockState:
        return BlockState(
            np.zeros((1, self.size, self.features), np.float32),
            np.full(1, self.lead, np.int64),
            np.zeros(1, np.int64),
        )

    def push(self, x: np.ndarray, state: BlockState) -> tuple[np.ndarray, BlockState]:
        """Add frames x (n, features), n >= 0: the full blocks (blocks, size, features), and the state."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"expected frames (n, {self.features}), got {x.shape}")
        have = np.concatenate([state.pending[0, : int(state.filled[0])], np.asarray(x, np.float32)])
        whole = len(have) // self.size * self.size
        rest = have[whole:]
        pending = np.zeros_like(state.pending)
        pending[0, : len(rest)] = rest
        blocks = have[:whole].reshape(-1, self.size, self.features)
        return blocks, BlockState(pending, np.full(1, len(rest), np.int64), state.audio + len(x))

    def finish(self, state: BlockState) -> tuple[np.ndarray, int]:
        """The last block, padded, and how many of its frames count: 0 where nothing is left to encode."""
        n = int(state.filled[0]) if state.audio[0] else 0
        return state.pending[0], n
