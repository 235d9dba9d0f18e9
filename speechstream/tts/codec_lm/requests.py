"""What a codec language model asks to be computed: requests of one key are answered in one batch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream import state as states
from speechstream.tts.codec_lm.network import CodecLmNetwork, Made, Told
from speechstream.tts.encoded import Encoding


@dataclass(frozen=True)
class Encode:
    """Encode the symbols (N,) of a clause. Answer: their `Encoding`."""

    network: CodecLmNetwork
    ids: np.ndarray
    speaker: int
    rank = 0  # a stream that reads has nothing to be heard yet

    @property
    def key(self) -> Hashable:
        return self.network, "encode", len(self.ids)

    def run(self) -> Encoding:
        return self.network.encode(self.ids, self.speaker)

    def run_many(self, requests: Sequence[Encode]) -> list[Encoding]:
        ids = np.stack([r.ids for r in requests])
        return self.network.encode_many(ids, [r.speaker for r in requests])


@dataclass(frozen=True)
class Next:
    """Make the next frame. Answer: it, and the language model's new state."""

    network: CodecLmNetwork
    told: Told
    state: Any
    rank = 1

    @property
    def key(self) -> Hashable:
        return self.network, "next"

    def run(self) -> tuple[Made, Any]:
        made, state = self.network.step([self.told], self.state)
        return made[0], state

    def run_many(self, requests: Sequence[Next]) -> list[tuple[Made, Any]]:
        state = states.stack([r.state for r in requests])
        made, state = self.network.step([r.told for r in requests], state)
        return [(m, states.select(state, i)) for i, m in enumerate(made)]
