"""What voices that speak through a codec ask it: requests of one key are answered in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream import state as states
from speechstream.tts.codec import CodecDecoder


@dataclass(frozen=True)
class CodecStep:
    """Codes (1, levels, T) to sound. Answer: audio (1, channels, samples) and the new state."""

    codec: CodecDecoder
    codes: np.ndarray
    state: Any
    rank = 2

    @property
    def key(self) -> Hashable:
        return self.codec, "step", self.codes.shape

    def run(self) -> tuple[np.ndarray, Any]:
        return self.codec.step(self.codes, self.state)

    def run_many(self, requests: Sequence[CodecStep]) -> list[tuple[np.ndarray, Any]]:
        codes = np.concatenate([r.codes for r in requests])
        return apart(*self.codec.step(codes, states.stack([r.state for r in requests])))


def apart(out: np.ndarray, state: Any) -> list[tuple[np.ndarray, Any]]:
    """The answers of a batch, each with its own state."""
    return [(out[i : i + 1], states.select(state, i)) for i in range(len(out))]
