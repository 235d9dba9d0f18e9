"""What a decoder reads of a segment, and how it asks an engine to read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechstream.asr.whisper.networks import Decoded, DecoderState, Encoded, Engine

BLOCK_FRAMES = 128  # memory grows by blocks, so that it is rarely copied


class Memory:
    """What the encoder has said of a segment's frames: keys and values for cross-attention, (1, layers, H, T, Dh), and
    of each pair of frames the CTC head's log-probabilities, (1, T // 2, pieces), and what the transducer's joint hears of
    it, (1, T // 2, D), None where the model has no gate. All of it grows at the end.

    Frames up to `confirmed` will not change; those after it come from the encoder's quick pass and may be overwritten.
    """

    def __init__(self):
        self.keys = self.values = self.ctc = self.gate = None
        self.frames = self.confirmed = 0
        self.checked = (
            0  # frames that were confirmed when the hypothesis was last read over with care
        )

    def put(self, at: int, encoded: Encoded, confirmed: bool) -> None:
        end, pair = at + encoded.keys.shape[3], at // 2
        if self.keys is None or end > self.keys.shape[3]:
            size = -(-end // BLOCK_FRAMES) * BLOCK_FRAMES
            grown = [
                np.zeros((*a.shape[:3], size, a.shape[4]), a.dtype)
                for a in (encoded.keys, encoded.values)
            ]
            heads = [
                a if a is None else np.zeros((1, size // 2, a.shape[2]), a.dtype)
                for a in (encoded.ctc, encoded.gate)
            ]
            if self.keys is not None:
                for new, old in zip(grown, (self.keys, self.values)):
                    new[:, :, :, : self.frames] = old[:, :, :, : self.frames]
                for new, old in zip(heads, (self.ctc, self.gate)):
                    if new is not None:
                        new[:, : self.frames // 2] = old[:, : self.frames // 2]
            (self.keys, self.values), (self.ctc, self.gate) = grown, heads
        self.keys[:, :, :, at:end] = encoded.keys
        self.values[:, :, :, at:end] = encoded.values
        self.ctc[:, pair : pair + encoded.ctc.shape[1]] = encoded.ctc
        if encoded.gate is not None:
            self.gate[:, pair : pair + encoded.gate.shape[1]] = encoded.gate
        self.frames = max(self.frames, end)
        if confirmed:
            self.confirmed = end

    def news(self, final: bool) -> bool:
        """Whether more has been confirmed since this was last asked, or nothing more will be."""
        last, self.checked = self.checked, self.confirmed
        return final or self.confirmed > last

    def mask(self) -> np.ndarray:
        return np.repeat(np.arange(self.keys.shape[3])[None] < self.frames, len(self.keys), 0)


@dataclass
class Decode:
    """A request: these tokens after that state, over this memory. The driver answers with `run`'s result.

    tokens (B, n) of B hypotheses about one stream. Logits are wanted of the tokens from `first` on.
    """

    tokens: np.ndarray
    memory: Memory
    state: DecoderState
    first: int = 0

    def run(self, engine: Engine) -> tuple[Decoded, DecoderState]:
        return engine.decode(
            self.tokens,
            self.memory.keys,
            self.memory.values,
            self.memory.mask(),
            self.state,
            self.first,
        )


def keep(state: DecoderState, tokens: int) -> DecoderState:
    """The state of one stream after its first `tokens` tokens."""
    return DecoderState(
        state.keys[:, :, :, :tokens], state.values[:, :, :, :tokens], np.full(1, tokens, np.int64)
    )
