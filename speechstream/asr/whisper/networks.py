"""Whisper's networks as functions of numpy arrays and explicit state, whoever runs them."""

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
    """What one encoder chunk of c frames gives: memory for the decoder, and what the heads make of pairs of frames."""

    keys: np.ndarray  # (B, layers, H, c, Dh)
    values: np.ndarray  # (B, layers, H, c, Dh)
    ctc: np.ndarray | None = (
        None  # (B, c // 2, pieces) log-probabilities, where they were asked for
    )
    gate: np.ndarray | None = (
        None  # (B, c // 2, D) what the transducer's joint hears; None for a model without
    )


@dataclass(frozen=True)
class Decoded:
    """What the decoder says after each of n tokens."""

    logits: np.ndarray  # (B, n, vocabulary); of fewer tokens where only the last were asked for
    alignment: np.ndarray  # (B, n, T) attention to the memory
    hidden: np.ndarray | None = (
        None  # (B, n, D) what the transducer's joint reads; None for a model without
    )


@dataclass(frozen=True)
class Joint:
    """The last layers of a transducer's gate (`speechstream.nn.whisper_heads.Gate`)."""

    attention: np.ndarray  # (2, D)
    out: np.ndarray  # (D,)
    bias: float

    def __call__(self, audio: np.ndarray, text: np.ndarray, attended: np.ndarray) -> np.ndarray:
        """Log odds (P,) that a token has been said by each of P pairs: audio (P, D), text (D,), attended (P, 2)."""
        return np.tanh(audio + text + attended @ self.attention) @ self.out + self.bias


class Networks(Protocol):
    """Who runs the networks of one model: torch or onnxruntime, interchangeable."""

    name: str
    joint: Joint | None

    def encoder_state(self, batch: int = 1) -> EncoderState:
        """The states of streams that have heard nothing, in arrays of their own."""

    def encode(
        self, mel: np.ndarray, state: EncoderState, keep: int | None = None, ctc: bool = True
    ) -> tuple[Encoded, EncoderState]:
        """mel (B, mels, 2c + 1), the last frame right context; `state` is not changed.

        keep: of the c frames, how many are wanted and go into the state (an even number, or None for
        all); those after them are right context too. ctc: whether the CTC head is asked.
        """

    def encode_in_place(
        self, mel: np.ndarray, state: EncoderState, keep: int | None = None, ctc: bool = True
    ) -> tuple[Encoded, EncoderState]:
        """The same numbers, but the new keys and values lie where those of `state` did."""

    def filled(self, frames: int) -> slice:
        """The rows of a stream's encoder cache that are real after so many frames."""

    def decoder_state(self, batch: int = 1) -> DecoderState:
        """The states of streams that have read no token."""

    def decode(
        self,
        tokens: np.ndarray,
        keys: np.ndarray,
        values: np.ndarray,
        mask: np.ndarray,
        state: DecoderState,
        first: int = 0,
    ) -> tuple[Decoded, DecoderState]:
        """tokens (B, n) over a memory (B, layers, H, T, Dh) of which mask (B, T) is real; a memory of one
        stream (1, ...) serves B hypotheses about it. Logits are of the tokens from `first` on.
        """
