"""What an embedded voice asks to be computed: requests of one key are answered in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream import state as states
from speechstream.tts.blockwise.acoustic import Acoustic
from speechstream.tts.codec_step import apart
from speechstream.tts.encoded import Encoding


@dataclass(frozen=True)
class Plan:
    """Encode the symbols (N,) of a clause. Answer: their `Encoding`."""

    acoustic: Acoustic
    ids: np.ndarray
    speaker: int
    rank = 0  # a stream that plans has nothing to be heard yet

    @property
    def key(self) -> Hashable:
        return self.acoustic, "plan", len(self.ids)

    def run(self) -> Encoding:
        return self.acoustic.encode(self.ids, self.speaker)

    def run_many(self, requests: Sequence[Plan]) -> list[Encoding]:
        return self.acoustic.encode_many(
            np.stack([r.ids for r in requests]), [r.speaker for r in requests]
        )


@dataclass(frozen=True)
class AcousticStep:
    """Decode frames (1, T, subframes, features). Answer: codes (1, levels, T) and the new state."""

    acoustic: Acoustic
    frames: np.ndarray
    state: Any
    rank = 1

    @property
    def key(self) -> Hashable:
        return self.acoustic, "step", self.frames.shape

    def run(self) -> tuple[np.ndarray, Any]:
        return self.acoustic.step(self.frames, self.state)

    def run_many(self, requests: Sequence[AcousticStep]) -> list[tuple[np.ndarray, Any]]:
        frames = np.concatenate([r.frames for r in requests])
        return apart(*self.acoustic.step(frames, states.stack([r.state for r in requests])))
