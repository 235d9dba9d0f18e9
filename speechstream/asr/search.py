"""What every decoder's search shares: tokens with their frames, pieces to text, tokens to words, n best of a batch.

Frames are counted from the start of the stream. A span [start, end) is in frames, `start` first, `end` past the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream.events import Word
from speechstream.state import MAX_COUNT, flatten

WORD_START = "▁"  # begins a piece that begins a word (SentencePiece's mark)


@dataclass(frozen=True)
class Token:
    """A piece of the vocabulary, the frames [start, end) that say it, and the log of its confidence (at most 0)."""

    token: int
    start: int
    end: int
    logprob: float


@dataclass(frozen=True)
class Hypothesis:
    """A sequence of tokens and the log probability of saying it."""

    tokens: tuple[Token, ...]
    logprob: float


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (..., V) to log probabilities over the last axis, in their own dtype."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def n_best(scores: np.ndarray, n: int) -> np.ndarray:
    """Indices (..., n) of the n largest along the last axis, best first; of equal ones the first comes first."""
    if not 1 <= n <= scores.shape[-1]:
        raise ValueError(f"n must be 1 to {scores.shape[-1]}, the number of scores; got {n}")
    return np.argsort(-scores, axis=-1, kind="stable")[..., :n]


def detokenize(pieces: Sequence[str]) -> str:
    """Pieces to text: '▁' begins a word, other pieces continue it. `["▁he", "llo", "▁you"]` gives "hello you"."""
    return " ".join("".join(pieces).replace(WORD_START, " ").split())


def words(tokens: Sequence[Token], pieces: Sequence[str], frame_s: float) -> tuple[Word, ...]:
    """Group tokens into words.

    pieces: the vocabulary, indexed by token. frame_s: seconds a frame lasts. A word spans the frames of its pieces
    that carry a letter (a lone '▁' only opens it); its confidence is the least probability among its tokens.
    Raises ValueError where a token is outside the vocabulary.
    """
    groups: list[list[Token]] = []
    for t in tokens:
        if not 0 <= t.token < len(pieces):
            raise ValueError(f"token {t.token} is outside the vocabulary of {len(pieces)} pieces")
        if pieces[t.token].startswith(WORD_START) or not groups:
            groups.append([])
        groups[-1].append(t)
    out = []
    for group in groups:
        spoken = [t for t in group if pieces[t.token] != WORD_START]
        if spoken:
            confidence = math.exp(min(0.0, min(t.logprob for t in group)))
            out.append(
                Word(
                    detokenize([pieces[t.token] for t in group]),
                    spoken[0].start * frame_s,
                    spoken[-1].end * frame_s,
                    confidence,
                )
            )
    return tuple(out)


def check_log_probs(log_probs: np.ndarray, lengths: np.ndarray | None, streams: int) -> np.ndarray:
    """The valid frames (B,) of log probabilities (B, T, V). Raises ValueError where shapes or values cannot be."""
    if log_probs.ndim != 3 or log_probs.shape[0] != streams:
        raise ValueError(
            f"log_probs must be ({streams}, frames, pieces) for {streams} stream(s), "
            f"got {log_probs.shape}"
        )
    B, T, _ = log_probs.shape
    n = np.full(B, T, np.int64) if lengths is None else np.asarray(lengths, np.int64)
    if n.shape != (B,) or (n < 0).any() or (n > T).any():
        raise ValueError(f"lengths must be ({B},) frames in 0..{T}, got {n.tolist()}")
    used = log_probs if lengths is None else log_probs[np.arange(T) < n[:, None]]
    if np.isnan(used).any() or (used > 1e-3).any():
        raise ValueError(
            "log_probs must be log probabilities (at most 0, no NaN); apply log_softmax to logits first"
        )
    return n


def check_state(state: Any, top: int, capacity: int = 0, trie: Any = None) -> None:
    """Raises ValueError where a search's state names a piece above `top`, is longer than its capacity, or is not in its
    trie."""
    highest = {"tokens": top, "token": top, "length": capacity}
    highest["nodes"] = 0 if trie is None else len(trie) - 1
    for name, a in flatten(state).items():
        most = highest.get(name.rpartition(".")[2], MAX_COUNT)
        if a.dtype.kind == "i" and ((a < 0) | (a > most)).any():
            raise ValueError(f"its search.{name} is out of range")


def check_tokens(tokens: Sequence[Token], top: int) -> None:
    """Raises ValueError for pieces above `top`."""
    if any(t.token > top for t in tokens):
        raise ValueError("its pieces are out of range")
