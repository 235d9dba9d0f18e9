"""What a CosyVoice asks to be computed: requests of one key are answered in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream import state as states
from speechstream.lm.appending import Caches
from speechstream.tts.cosyvoice.network import CosyVoiceNetwork, FlowMemory, Primed, VoicePrompt


@dataclass(frozen=True)
class Prime:
    """Begin with a voice. Answer: its `Primed`, solved when it is first asked for."""

    network: CosyVoiceNetwork
    speaker: int
    key = None
    rank = 0

    def run(self) -> Primed:
        return self.network.primed(self.speaker)

    def run_many(self, requests: Sequence[Prime]) -> list[Primed]:
        return [r.run() for r in requests]


@dataclass(frozen=True)
class Read:
    """Read ids; answer: the logits after the last, and the new caches. Single ids share a batch, longer texts do not."""

    network: CosyVoiceNetwork
    ids: np.ndarray
    caches: Caches

    @property
    def rank(self) -> int:
        return int(len(self.ids) == 1)

    @property
    def key(self) -> Hashable:
        return (self.network, "read") if len(self.ids) == 1 else None

    def run(self) -> tuple[np.ndarray, Caches]:
        return self.network.read_one(self.ids, self.caches)

    def run_many(self, requests: Sequence[Read]) -> list[tuple[np.ndarray, Caches]]:
        return self.network.read_many(
            [int(r.ids[0]) for r in requests], [r.caches for r in requests]
        )


@dataclass(frozen=True)
class Solve:
    """Speech tokens (T + lookahead,), of which `length` are real, to mel. Answer: (frames, n_mels) and the new memory."""

    network: CosyVoiceNetwork
    tokens: np.ndarray
    length: int
    memory: FlowMemory
    voice: VoicePrompt
    rank = 2

    @property
    def key(self) -> Hashable:
        return self.network, "solve", len(self.tokens)

    def run(self) -> tuple[np.ndarray, FlowMemory]:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Solve]) -> list[tuple[np.ndarray, FlowMemory]]:
        return self.network.solve(
            [r.tokens for r in requests],
            [r.length for r in requests],
            [r.memory for r in requests],
            [r.voice for r in requests],
        )


@dataclass(frozen=True)
class Decode:
    """mel (T + given_ahead, n_mels), of which `length` frames are real, to sound. Answer: samples and the new state."""

    network: CosyVoiceNetwork
    mel: np.ndarray
    length: int
    state: Any
    rank = 3

    @property
    def key(self) -> Hashable:
        return self.network, "decode", self.mel.shape

    def run(self) -> tuple[np.ndarray, Any]:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Decode]) -> list[tuple[np.ndarray, Any]]:
        mel, lengths = np.stack([r.mel for r in requests]), [r.length for r in requests]
        state = states.stack([r.state for r in requests])
        audio, state = self.network.decode(mel, np.asarray(lengths), state)
        return [(a, states.select(state, i)) for i, a in enumerate(audio)]
