"""What an engine offers: one model's networks as functions of numpy arrays and explicit state.

The recogniser, the pool and the evaluation tools see nothing else of a model, so torch and onnxruntime are
interchangeable under them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class EncoderState:
    """A stream's encoder, as numpy arrays (`speechstream.nn.whisper.EncoderState` has the shapes)."""

    mel: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    frames: np.ndarray


@dataclass(frozen=True)
class DecoderState:
    """Keys and values of the tokens read; left-padded where streams of a batch have read fewer."""

    keys: np.ndarray
    values: np.ndarray
    tokens: np.ndarray


@dataclass(frozen=True)
class Encoded:
    """What one encoder chunk of c frames gives: memory for the decoder, and the CTC head's opinion."""

    keys: np.ndarray    # (B, layers, H, c, Dh)
    values: np.ndarray  # (B, layers, H, c, Dh)
    ctc: np.ndarray     # (B, c // 2, pieces) log-probabilities


class Engine(Protocol):
    name: str

    def encoder_state(self, batch: int = 1) -> EncoderState: ...

    def encode(self, mel: np.ndarray, state: EncoderState) -> tuple[Encoded, EncoderState]:
        """mel (B, mels, 2c + 1), the last frame look-ahead. An engine may reuse the arrays of the state it is given."""

    def decoder_state(self, batch: int = 1) -> DecoderState: ...

    def decode(self, tokens: np.ndarray, keys: np.ndarray, values: np.ndarray, mask: np.ndarray, state: DecoderState
               ) -> tuple[np.ndarray, np.ndarray, DecoderState]:
        """tokens (B, n) over a memory (B, layers, H, T, Dh) of which mask (B, T) is real.

        Returns logits (B, n, vocabulary), alignment (B, n, T) and the new state.
        """
