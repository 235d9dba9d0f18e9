"""Whisper's decoder as the prediction network of a transducer: it says a token when the gate finds that it has been said.

The attention decoder must guess where the sound stops: it says the end, or runs on into what it has not heard. Here a small
gate (`speechstream.nn.whisper_heads.Gate`) decides for each pair of frames whether the next token has been said by then, so
the search walks the pairs as any transducer's does, and the end is never chosen, only the best of all other tokens. A gate that misses a token would hold up all that follow; then
the decoder's own word counts that it would go on, once its attention has passed, or when no more audio comes.
What the decoder thinks of a token changes with the audio that it has heard, so the tokens that are not stable are read
again each time (one call), and walked again from the pair that said the last stable one.
"""

from __future__ import annotations

import numpy as np

from speechstream.asr.incremental import FRAME_S, Draft, IncrementalDecoder, attended
from speechstream.asr.text_model import Pieces, Said, TextModel
from speechstream.asr.transducer import MAX_SYMBOLS
from speechstream.asr.whisper.networks import Joint
from speechstream.errors import SpeechStreamError

PAIR_S = 2 * FRAME_S
BLOCK = 64  # pairs that are looked at together
OVERDUE = (
    25  # pairs: what the attention has left so long ago has been said, whatever the gate finds,
)
LEFT = 0.9  # if so much of it lies before


class GatedDecoder(IncrementalDecoder):
    """Greedy transducer search; one instance serves all streams, each with its `Hypothesis`."""

    head = "gate"
    repeats = False

    def __init__(self, vocabulary: Pieces, joint: Joint | None, margin_s: float = 0.5):
        if joint is None:
            raise SpeechStreamError(
                "this model has no transducer; choose the decoder 'attention' or 'ctc'"
            )
        super().__init__(vocabulary, margin_s)
        self.joint = joint

    def accept(
        self, d: Draft, n: int, token: int, said: Said, at: int, model: TextModel, final: bool
    ) -> bool:
        pairs, row = model.frames // 2, attended(said, 0, at, model.frames)
        heads = model.heads
        if heads is None or said.hidden is None:
            raise ValueError("a transducer hears the encoder's gate, and this memory has none")
        pair = self._next(heads[0, :pairs], said.hidden[0, at], row, d.pairs)
        goes_on = said.logits[0, n, : self.vocabulary.end + 1].argmax() != self.vocabulary.end
        if pair is None and goes_on:
            pair = self._missed(row, pairs, d.pairs[-1], final)
        if pair is None:
            return False
        d.pairs.append(pair)
        return True

    def settled(self, d: Draft, model: TextModel) -> int:
        """How many tokens are in words that were said well before the end of the confirmed audio."""
        horizon, settled = (model.confirmed * FRAME_S - self.margin_s) / PAIR_S, d.stable
        for _, end in self.vocabulary.words(d.tokens)[:-1]:
            if end > d.stable:
                if d.pairs[end - d.stable] + 1 > horizon:
                    break
                settled = end
        return settled

    def choose(
        self, logits: np.ndarray, draft: list[int], context: list[int], begin: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """As the attention decoder chooses, but never the end."""
        logits = logits.copy()
        logits[:, self.vocabulary.end] = -np.inf
        return super().choose(logits, draft, context, begin)

    def _next(
        self, audio: np.ndarray, text: np.ndarray, row: np.ndarray, pairs: list[int]
    ) -> int | None:
        """The first pair, from that of the token before, by which a token has been said: audio (P, D), text (D,)."""
        at = pairs[-1]
        if pairs[1:][-MAX_SYMBOLS:] == [at] * MAX_SYMBOLS:
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
