"""Whisper's decoder as the prediction network of a transducer: it says a token when the gate finds that it has been said.

The attention decoder must guess where the sound stops: it says the end, or runs on into what it has not heard. Here a small
gate (`speechstream.nn.whisper_heads.Gate`) decides for each pair of frames whether the next token has been said by then, so
the search walks the pairs as any transducer's does, and the end is never chosen, only the best of all other tokens. A gate that misses a token would hold up all that follow; then
the decoder's own word counts that it would go on, once its attention has passed, or when no more audio comes.
What the decoder thinks of a token changes with the audio that it has heard, so the tokens that are not stable are read
again each time (one call), and walked again from the pair that said the last stable one.
"""

from __future__ import annotations

from typing import Generator

import numpy as np

from speechstream.asr.whisper.attention import FRAME_S, TOKENS_PER_S, AttentionDecoder, Hypothesis
from speechstream.asr.whisper.memory import Decode, Memory, keep
from speechstream.asr.transducer import MAX_SYMBOLS
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.asr.whisper.networks import Engine, Joint
from speechstream.errors import SpeechStreamError

PAIR_S = 2 * FRAME_S
BLOCK = 64  # pairs that are looked at together
OVERDUE = (
    25  # pairs: what the attention has left so long ago has been said, whatever the gate finds,
)
LEFT = 0.9  # if so much of it lies before


class GatedDecoder(AttentionDecoder):
    """Greedy transducer search; one instance serves all streams, each with its `Hypothesis`."""

    def __init__(self, vocabulary: Vocabulary, joint: Joint | None, margin_s: float = 0.5):
        if joint is None:
            raise SpeechStreamError(
                "this model has no transducer; choose the decoder 'attention' or 'ctc'"
            )
        super().__init__(vocabulary, margin_s)
        self.joint = joint

    def extend(
        self, hypothesis: Hypothesis, memory: Memory, final: bool
    ) -> Generator[Decode, tuple, Hypothesis]:
        """Bring a hypothesis up to date with its memory. `final` says that no more audio follows: all becomes stable."""
        v, kept, pairs = self.vocabulary, hypothesis.stable, memory.frames // 2
        again = careful = memory.news(final)
        cache = keep(hypothesis.cache, 0) if again else hypothesis.cache
        context, draft = v.prompt + hypothesis.tokens[:kept], hypothesis.tokens[kept:]
        new = Hypothesis(
            hypothesis.tokens[:kept],
            hypothesis.probabilities[:kept],
            hypothesis.rows[:kept],
            kept,
            pair=hypothesis.pair,
        )
        known = int(cache.tokens[0])
        feed, first = (
            context[known:] + draft,
            len(context) - known - 1,
        )  # output `first` predicts the first new token
        limit = int(memory.frames * FRAME_S * TOKENS_PER_S) + 8
        state, said_in, waiting = cache, [], False
        while not waiting:
            said, state = yield Decode(np.array([feed], np.int64), memory, state, first)
            if again:  # what is stable is dated anew
                new.rows = [
                    row[: memory.frames].copy()
                    for row in said.alignment[0, len(v.prompt) - 1 : first]
                ]
                again = False
            best, probability = self._choose(said.logits[0], [] if careful else draft)
            goes_on = said.logits[0, :, : v.end + 1].argmax(-1) != v.end
            for n, token in enumerate(best.tolist()):
                row = said.alignment[0, first + n, : memory.frames]
                pair = self._next(
                    memory.gate[0, :pairs], said.text[0, first + n], row, said_in or [new.pair]
                )
                if pair is None and goes_on[n]:
                    pair = self._missed(row, pairs, (said_in or [new.pair])[-1], final)
                if pair is None or len(new.tokens) >= limit or self.loops(new.tokens, token):
                    waiting = True
                    break
                new.tokens.append(token)
                new.probabilities.append(float(probability[n]))
                new.rows.append(row.copy())
                said_in.append(pair)
                if n >= len(draft) or token != draft[n]:
                    break
            if not waiting:  # the last token has been chosen but not read
                state = keep(state, len(v.prompt) + len(new.tokens) - 1)
                feed, first, draft = new.tokens[-1:], 0, []
        if careful:
            new.stable = len(new.tokens) if final else kept + self._said(new, said_in, memory)
            new.pair = said_in[new.stable - kept - 1] if new.stable > kept else new.pair
        new.cache = keep(state, len(v.prompt) + new.stable - 1)
        return new

    def _choose(self, logits: np.ndarray, draft: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """As the attention decoder chooses, but never the end."""
        logits = logits.copy()
        logits[:, self.vocabulary.end] = -np.inf
        return super()._choose(logits, draft)

    def _next(
        self, audio: np.ndarray, text: np.ndarray, row: np.ndarray, said_in: list[int]
    ) -> int | None:
        """The first pair, from that of the token before, by which a token has been said: audio (P, D), text (D,)."""
        at = said_in[-1]
        if said_in[-MAX_SYMBOLS:] == [at] * MAX_SYMBOLS:
            at += 1
        within = row[: 2 * len(audio)].reshape(-1, 2).sum(1)
        attention = np.stack([within.cumsum(), within], 1)
        while at < len(audio):
            open_ = self.joint(audio[at : at + BLOCK], text, attention[at : at + BLOCK]) > 0
            if open_.any():
                return at + int(open_.argmax())
            at += BLOCK
        return None

    def _missed(self, row: np.ndarray, pairs: int, at: int, final: bool) -> int | None:
        """The pair by which a token has been said that the gate has missed, if it has."""
        seen = row[: 2 * pairs].reshape(-1, 2).sum(1).cumsum()
        if pairs > at + OVERDUE and seen[pairs - 1 - OVERDUE] > LEFT:
            return max(at, int((seen > LEFT).argmax()))
        return max(at, pairs - 1) if final else None

    def _said(self, h: Hypothesis, said_in: list[int], memory: Memory) -> int:
        """How many of the new tokens are in words that were said well before the end of the confirmed audio."""
        horizon, settled = (memory.confirmed * FRAME_S - self.margin_s) / PAIR_S, h.stable
        for start, end in self.vocabulary.words(h.tokens)[:-1]:
            if end > h.stable:
                if said_in[end - h.stable - 1] + 1 > horizon:
                    break
                settled = end
        return settled - h.stable
