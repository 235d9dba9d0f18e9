"""What a pocket-tts asks to be computed: requests of one key are answered in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream import state as states
from speechstream.lm.appending import Caches
from speechstream.tts.pocket.network import Frame, PocketNetwork


@dataclass(frozen=True)
class Read:
    """Read a text's tokens after a voice. Answer: the first frame, and the new caches. Answered alone: texts differ in
    length."""

    network: PocketNetwork
    tokens: tuple[int, ...]
    noise: np.ndarray
    caches: Caches
    key = None
    rank = 0  # a stream that reads has nothing to be heard yet

    def run(self) -> tuple[Frame, Caches]:
        return self.network.read(self.tokens, self.noise, self.caches)

    def run_many(self, requests: Sequence[Read]) -> list[tuple[Frame, Caches]]:
        return [r.run() for r in requests]


@dataclass(frozen=True)
class Next:
    """Make the frame after `latent`. Answer: it, and the new caches."""

    network: PocketNetwork
    latent: np.ndarray
    noise: np.ndarray
    caches: Caches
    rank = 1

    @property
    def key(self) -> Hashable:
        return self.network, "next"

    def run(self) -> tuple[Frame, Caches]:
        return self.network.next(self.latent, self.noise, self.caches)

    def run_many(self, requests: Sequence[Next]) -> list[tuple[Frame, Caches]]:
        latents, noise, caches = zip(*((r.latent, r.noise, r.caches) for r in requests))
        return self.network.next_many(latents, noise, caches)


@dataclass(frozen=True)
class Decode:
    """Latents (T, latent_dim) to sound. Answer: samples (n,) and the codec's new state."""

    network: PocketNetwork
    latents: np.ndarray
    state: Any
    rank = 2

    @property
    def key(self) -> Hashable:
        return self.network, "decode", self.latents.shape

    def run(self) -> tuple[np.ndarray, Any]:
        audio, state = self.network.decode(self.latents[None], self.state)
        return audio[0], state

    def run_many(self, requests: Sequence[Decode]) -> list[tuple[np.ndarray, Any]]:
        latents = np.stack([r.latents for r in requests])
        audio, state = self.network.decode(latents, states.stack([r.state for r in requests]))
        return [(a, states.select(state, i)) for i, a in enumerate(audio)]
