"""Greedy transducer search (RNN-T and TDT) on numpy arrays, for a batch of streams that need not be in step.

It works on two callables, so that any engine may run the networks:

    predict(tokens (B,) int64, state) -> (g (B, dim), state)      # Predictor.step
    join(x (B, encoder_dim), g (B, dim)) -> scores (B, outputs)   # Joiner.forward

where B is any number of rows. The outputs are the tokens, blank, and for TDT (Xu et al. 2023) the durations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream.asr.search import Token, log_softmax
from speechstream.lm.constraints import TokenTrie
from speechstream.state import put, select

MAX_SYMBOLS = 10  # tokens a frame may emit before the search moves on


@dataclass(frozen=True)
class GreedyState:
    """Where each of B streams stands between two blocks."""

    predictor: Any  # the predictor's state after the last token
    vectors: np.ndarray  # (B, dim) the predictor's output after the last token
    skip: np.ndarray  # (B,) int64 frames of the next block that a duration has already jumped over
    frames: np.ndarray  # (B,) int64 encoder frames consumed
    nodes: np.ndarray | None = None  # (B,) int64 in the trie of a biased search


class GreedyTransducer:
    """Best token at each point, block by block: any division of the frames into blocks gives the same tokens.

    init_predictor: `init_state` of the predictor (batch to state). durations: of a TDT joiner, () for RNN-T. trie:
    sequences whose scores count for which token is said, not for when one is.
    """

    def __init__(
        self,
        predict: Callable,
        join: Callable,
        init_predictor: Callable,
        blank: int,
        durations: tuple[int, ...] = (),
        max_symbols: int = MAX_SYMBOLS,
        trie: TokenTrie | None = None,
    ):
        if max_symbols < 1:
            raise ValueError(f"max_symbols must be at least 1, got {max_symbols}")
        self.predict, self.join, self.init_predictor = predict, join, init_predictor
        self.blank, self.durations, self.max_symbols = (
            blank,
            np.asarray(durations, np.int64),
            max_symbols,
        )
        self.trie = trie

    def init_state(self, batch: int = 1) -> GreedyState:
        start = np.full(batch, self.blank, np.int64)
        vectors, state = self.predict(start, self.init_predictor(batch))
        zeros = np.zeros(batch, np.int64)
        nodes = None if self.trie is None else zeros.copy()
        return GreedyState(state, vectors, zeros, zeros.copy(), nodes)

    def step(
        self, x: np.ndarray, state: GreedyState, lengths: np.ndarray | None = None
    ) -> tuple[list[list[Token]], GreedyState]:
        """Search a block x (B, T, encoder_dim), of which `lengths` (B,) frames count: the new tokens of each stream.

        A token starts at the frame that emitted it, counted from the stream's start, and lasts its duration, of one
        frame at least.
        """
        n = (
            np.full(x.shape[0], x.shape[1], np.int64)
            if lengths is None
            else np.asarray(lengths, np.int64)
        )
        if n.shape != (x.shape[0],) or (n < 0).any() or (n > x.shape[1]).any():
            raise ValueError(
                f"lengths must be ({x.shape[0]},) frames in 0..{x.shape[1]}, got {n.tolist()}"
            )
        emitted: list[list[Token]] = [[] for _ in range(x.shape[0])]
        predictor, vectors, at = state.predictor, state.vectors.copy(), state.skip.copy()
        symbols = np.zeros_like(at)  # tokens emitted at the current frame
        nodes = None if state.nodes is None else state.nodes.copy()
        while (rows := np.flatnonzero(at < n)).size:
            scores = self.join(x[rows, at[rows]], vectors[rows])
            tokens = scores[:, : self.blank + 1].argmax(-1)
            if self.durations.size:
                jump = self.durations[scores[:, self.blank + 1 :].argmax(-1)]
                jump = np.where((tokens == self.blank) & (jump == 0), 1, jump)
            else:
                jump = (tokens == self.blank).astype(np.int64)
            new = np.flatnonzero(tokens != self.blank)
            if new.size:
                who, what = rows[new], tokens[new]
                if self.trie is not None and nodes is not None:
                    # nothing is taken back: a greedy search has no other hypothesis that this could help
                    what = (
                        scores[new, : self.blank] + self.trie.scores(nodes[who]).clip(0)
                    ).argmax(-1)
                    nodes[who] = self.trie.advance(nodes[who], what)[0]
                logprobs = log_softmax(scores[new, : self.blank + 1])[np.arange(new.size), what]
                for row, token, lasts, value in zip(who, what, jump[new], logprobs):
                    start = int(state.frames[row] + at[row])
                    emitted[row].append(
                        Token(int(token), start, start + max(1, int(lasts)), float(value))
                    )
                g, part = self.predict(what.astype(np.int64), select(predictor, who))
                predictor, vectors[who] = put(predictor, who, part), g
            symbols[rows] = np.where(jump == 0, symbols[rows] + 1, 0)
            full = symbols[rows] == self.max_symbols
            at[rows] += np.where(full, 1, jump)
            symbols[rows[full]] = 0
        return emitted, replace(
            state,
            predictor=predictor,
            vectors=vectors,
            skip=at - n,
            frames=state.frames + n,
            nodes=nodes,
        )

    def __call__(self, x: np.ndarray, lengths: np.ndarray | None = None) -> list[list[Token]]:
        """Search whole utterances (B, T, encoder_dim)."""
        return self.step(x, self.init_state(x.shape[0]), lengths)[0]
