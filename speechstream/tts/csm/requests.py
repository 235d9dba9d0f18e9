"""What a CSM asks to be computed: requests of one key are answered in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from speechstream.lm.appending import Caches
from speechstream.tts.csm.network import CsmNetwork, Read


@dataclass(frozen=True)
class ReadText:
    """Read a text's tokens after a voice. Answered alone: texts differ in length."""

    network: CsmNetwork
    tokens: tuple[int, ...]
    caches: Caches
    key = None
    rank = 0  # a stream that reads has nothing to be heard yet

    def run(self) -> Read:
        return self.network.backbone.read(self.tokens, self.caches)

    def run_many(self, requests: Sequence[ReadText]) -> list[Read]:
        return [r.run() for r in requests]


@dataclass(frozen=True)
class Levels:
    """The codes of a frame whose first is known."""

    network: CsmNetwork
    hidden: np.ndarray
    first: int
    noise: np.ndarray
    top_k: int
    rank = 1

    @property
    def key(self) -> Hashable:
        return self.network, "levels", self.top_k

    def run(self) -> np.ndarray:
        return self.network.levels(self.hidden, self.first, self.noise, self.top_k)

    def run_many(self, requests: Sequence[Levels]) -> list[np.ndarray]:
        hidden, first, noise = zip(*((r.hidden, r.first, r.noise) for r in requests))
        return self.network.levels_many(hidden, first, noise, self.top_k)


@dataclass(frozen=True)
class ReadFrame:
    """Read a frame of codes (levels,)."""

    network: CsmNetwork
    codes: np.ndarray
    caches: Caches
    rank = 1

    @property
    def key(self) -> Hashable:
        return self.network, "frame"

    def run(self) -> Read:
        return self.network.backbone.frames(self.codes[None], self.caches)

    def run_many(self, requests: Sequence[ReadFrame]) -> list[Read]:
        codes, caches = zip(*((r.codes, r.caches) for r in requests))
        return self.network.backbone.next_many(codes, caches)
