"""What incremental decoding asks of a decoder of text, whichever network it is.

A text model is conditioned on what has been encoded of one stretch of speech so far, and reads tokens
after a state, which is a value. Whisper's cross-attention and a transducer's gate are two
implementations (`asr.whisper.conditioned`); a language model that reads audio is a third kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from speechstream.runtime.requests import Request

TextState = Any  # the model's own frozen dataclass


class Said(Protocol):
    """What a text model says after each of the n tokens that it was given, of B hypotheses."""

    @property
    def logits(self) -> np.ndarray:
        """(B, at most n, vocabulary): of the last tokens where only those were asked for."""

    @property
    def alignment(self) -> np.ndarray | None:
        """(B, n, at least frames) attention to the sound; None for a model that says nothing of it."""

    @property
    def hidden(self) -> np.ndarray | None:
        """(B, n, D) what a transducer's joint reads; None for a model without one."""


class TextModel(Protocol):
    """A text model, conditioned on the first `frames` frames of one stretch of speech.

    Frames up to `confirmed` will not change, those after it may be encoded again, better.
    """

    @property
    def frames(self) -> int: ...

    @property
    def confirmed(self) -> int: ...

    @property
    def heads(self) -> np.ndarray | None:
        """What the encoder's head says, (1, frames // 2, D), where the decoder listens to one."""

    @property
    def guess(self) -> np.ndarray | None:
        """The best piece of each pair of frames by a CTC head and its probability, (frames // 2, 2), where there is one to guess from."""

    def has_news(self, final: bool) -> bool:
        """Whether more has been confirmed since the hypothesis was last verified. final: nothing more will be."""

    def step(self, tokens: Sequence[Sequence[int]], state: TextState, first: int = 0) -> Request:
        """The request to read tokens (B, n) after `state`; its answer is (Said, the new state).

        first: logits are asked for from this token on.
        """

    def length(self, state: TextState) -> int:
        """How many tokens a state has read."""

    def truncate(self, state: TextState, tokens: int) -> TextState:
        """The state of one hypothesis after its first `tokens` tokens."""

    def select(self, state: TextState, rows: Sequence[int]) -> TextState:
        """The state of the hypotheses in these rows of a batch."""

    def gather(self, hypotheses: Sequence[tuple[TextState, int]], tokens: int) -> TextState:
        """The state of hypotheses, each a row of a batch, after their first `tokens` tokens."""


class Pieces(Protocol):
    """The vocabulary of a text model: `prompt` starts a transcript, `end` closes it, ids from `end` on are no text."""

    prompt: list[int]
    end: int
    pieces: list[bytes]

    def text(self, ids: list[int]) -> str:
        """The text of tokens."""

    def words(self, ids: list[int]) -> list[tuple[int, int]]:
        """Spans (first, last + 1) of the ids that make up each word."""
