"""Whisper's decoder made incremental: a draft that is verified, a stable part that only grows.

Each time more audio is known, the previous hypothesis is read back in one call as a draft; its tokens stand as far as
the decoder would choose them again, and greedy decoding goes on from there (so an unchanged hypothesis costs one
call). A word becomes stable once it ended `margin_s` before the end of the confirmed audio and another word
follows it; its tokens and their keys and values are then never computed again, hence never retracted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generator

import numpy as np

from speechstream.asr.timing import token_spans
from speechstream.asr.vocabulary import Vocabulary
from speechstream.engines.protocol import DecoderState, Engine

FRAME_S = 0.02
TOKENS_PER_S = 9       # nobody speaks faster; what exceeds it is a loop
BLOCK_FRAMES = 128     # memory grows by blocks, so that it is rarely copied


class Memory:
    """Cross-attention keys and values of a segment's frames, (1, layers, H, T, Dh), growing at the end.

    Frames up to `confirmed` will not change; those after it come from the encoder's quick pass and may be overwritten.
    """

    def __init__(self):
        self.keys = self.values = None
        self.frames = self.confirmed = 0

    def put(self, at: int, keys: np.ndarray, values: np.ndarray, confirmed: bool) -> None:
        end = at + keys.shape[3]
        if self.keys is None or end > self.keys.shape[3]:
            size = -(-end // BLOCK_FRAMES) * BLOCK_FRAMES
            grown = [np.zeros((*a.shape[:3], size, a.shape[4]), a.dtype) for a in (keys, values)]
            if self.keys is not None:
                for new, old in zip(grown, (self.keys, self.values)):
                    new[:, :, :, : self.frames] = old[:, :, :, : self.frames]
            self.keys, self.values = grown
        self.keys[:, :, :, at:end] = keys
        self.values[:, :, :, at:end] = values
        self.frames = max(self.frames, end)
        if confirmed:
            self.confirmed = end

    def mask(self) -> np.ndarray:
        return np.arange(self.keys.shape[3])[None] < self.frames


@dataclass
class Decode:
    """A request: these tokens after that state, over this memory. The driver answers with `run`'s result."""

    tokens: np.ndarray
    memory: Memory
    state: DecoderState

    def run(self, engine: Engine) -> tuple[np.ndarray, np.ndarray, DecoderState]:
        return engine.decode(self.tokens, self.memory.keys, self.memory.values, self.memory.mask(), self.state)


@dataclass
class Hypothesis:
    """Tokens of one segment. The first `stable` of them are final. rows: where the decoder looked for each."""

    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    stable: int = 0


class AttentionDecoder:
    """Incremental greedy decoding; one instance serves all streams, each with its `Hypothesis` and cache."""

    def __init__(self, vocabulary: Vocabulary, margin_s: float = 0.5):
        self.vocabulary, self.margin_s = vocabulary, margin_s

    def extend(self, hypothesis: Hypothesis, cache: DecoderState, memory: Memory, final: bool
               ) -> Generator[Decode, tuple, tuple[Hypothesis, DecoderState]]:
        """Bring a hypothesis up to date with its memory. `cache` holds the prompt and the stable tokens but the last.

        `final` says that no more audio follows: everything becomes stable.
        """
        v, kept = self.vocabulary, hypothesis.stable
        context = v.prompt + hypothesis.tokens[:kept]
        draft = hypothesis.tokens[kept:]
        new = Hypothesis(hypothesis.tokens[:kept], hypothesis.probabilities[:kept], hypothesis.rows[:kept], kept)
        known = int(cache.tokens[0])
        feed, first = context[known:] + draft, len(context) - known - 1  # output `first` predicts the first new token
        limit = int(memory.frames * FRAME_S * TOKENS_PER_S) + 8
        state, ended = cache, False
        while not ended:
            logits, alignment, state = yield Decode(np.array([feed], np.int64), memory, state)
            best, probability = self._choose(logits[0, first:])
            for n, token in enumerate(best.tolist()):
                if token == v.end or len(new.tokens) >= limit or self._loops(new.tokens, token):
                    ended = True
                    break
                new.tokens.append(token)
                new.probabilities.append(float(probability[n]))
                new.rows.append(alignment[0, first + n, : memory.frames].copy())
                if n >= len(draft) or token != draft[n]:
                    break
            if not ended:  # the last token has been chosen but not read
                state = _keep(state, len(v.prompt) + len(new.tokens) - 1)
                feed, first, draft = new.tokens[-1:], 0, []
        new.stable = len(new.tokens) if final else max(kept, self._settled(new, memory))
        return new, _keep(state, len(v.prompt) + new.stable - 1)

    def _choose(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = logits[:, : self.vocabulary.end + 1]  # what lies beyond starts transcripts and is never chosen
        best = logits.argmax(-1)
        top = logits[np.arange(len(best)), best]
        return best, 1 / np.exp(logits - top[:, None]).sum(-1)

    def _loops(self, tokens: list[int], token: int) -> bool:
        """Whether the token would complete the fourth copy in a row of the same one to eight tokens."""
        tail = tokens[-31:] + [token]
        return any(len(tail) >= 4 * k and len({tuple(tail[len(tail) - (j + 1) * k: len(tail) - j * k])
                                               for j in range(4)}) == 1 for k in range(1, 9))

    def _settled(self, h: Hypothesis, memory: Memory) -> int:
        """How many tokens are in words that ended well before the end of the confirmed audio."""
        horizon, settled = memory.confirmed - self.margin_s / FRAME_S, 0
        if horizon <= 0 or not h.tokens:
            return 0
        spans = token_spans(table(h.rows))
        for start, end in self.vocabulary.words(h.tokens)[:-1]:
            if spans[end - 1, 1] > horizon:
                break
            settled = end
        return settled


def table(rows: list[np.ndarray]) -> np.ndarray:
    """Attention rows of different ages as one array (n, T): a row knows nothing of frames that came after it."""
    out = np.zeros((len(rows), max((len(r) for r in rows), default=0)), np.float32)
    for line, row in zip(out, rows):
        line[: len(row)] = row
    return out


def _keep(state: DecoderState, tokens: int) -> DecoderState:
    return DecoderState(state.keys[:, :, :, :tokens], state.values[:, :, :, :tokens], np.full(1, tokens, np.int64))
