"""Whisper's decoder as a text model: `asr.text_model.TextModel` over the memory of one segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechstream.asr.whisper.cache import Cache, Decode, Runner, truncate
from speechstream.asr.whisper.networks import DecoderState


@dataclass(frozen=True)
class ConditionedDecoder:
    """The decoder, conditioned on what has been encoded of a segment.

    checked: frames that were confirmed when the hypothesis was last verified. heads: what the encoder's
    head says of each pair of frames, (1, frames // 2, D), where the search listens to one. guess: the CTC head's best
    pieces and their probabilities, (frames // 2, 2).
    """

    runner: Runner
    cache: Cache
    frames: int
    confirmed: int
    checked: int
    heads: np.ndarray | None
    guess: np.ndarray | None = None

    def has_news(self, final: bool) -> bool:
        return final or self.confirmed > self.checked

    def step(self, tokens: Sequence[Sequence[int]], state: DecoderState, first: int = 0) -> Decode:
        return Decode(
            self.runner, self.cache, np.array(tokens, np.int64), state, self.frames, first
        )

    def length(self, state: DecoderState) -> int:
        return int(state.tokens[0])

    def truncate(self, state: DecoderState, tokens: int) -> DecoderState:
        return truncate(state, tokens)

    def select(self, state: DecoderState, rows: Sequence[int]) -> DecoderState:
        index = list(rows)
        return DecoderState(state.keys[index], state.values[index], state.tokens[index])

    def gather(self, hypotheses: Sequence[tuple[DecoderState, int]], tokens: int) -> DecoderState:
        keys, values = (
            np.concatenate([a[b : b + 1, :, :, :tokens] for a, b in found])
            for found in (
                [(s.keys, b) for s, b in hypotheses],
                [(s.values, b) for s, b in hypotheses],
            )
        )
        return DecoderState(keys, values, np.full(len(hypotheses), tokens, np.int64))
