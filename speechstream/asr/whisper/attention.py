"""Whisper's own decoder: it says the end when it has nothing more to say, and reads doubtful places again."""

from __future__ import annotations

from speechstream.asr import beam as beams
from speechstream.asr.incremental import (
    FRAME_S,
    Draft,
    IncrementalDecoder,
    attention_table,
)
from speechstream.asr.prior import Prior
from speechstream.asr.text_model import Pieces, Said, TextModel, TextState
from speechstream.asr.timing import token_spans
from speechstream.runtime.requests import Work


class AttentionDecoder(IncrementalDecoder):
    """Greedy, and with a beam the doubtful places are searched again before their words become stable."""

    def __init__(
        self,
        vocabulary: Pieces,
        margin_s: float = 0.5,
        beam: int = 1,
        prior: Prior | None = None,
    ):
        if beam < 1:
            raise ValueError(f"beam must be at least 1, got {beam}")
        if prior is not None and beam < 2:
            raise ValueError(
                f"a prior chooses among hypotheses: beam must be 2 or more, got {beam}"
            )
        super().__init__(vocabulary, margin_s)
        self.beam, self.prior, self.searches = beam, prior, beam > 1

    def accept(
        self, d: Draft, n: int, token: int, said: Said, at: int, model: TextModel, final: bool
    ) -> bool:
        return token != self.vocabulary.end

    def settled(self, d: Draft, model: TextModel) -> int:
        horizon, settled = model.confirmed - self.margin_s / FRAME_S, 0
        if horizon <= 0 or not d.tokens:
            return 0
        spans = token_spans(attention_table(d.rows))
        for _, end in self.vocabulary.words(d.tokens)[:-1]:
            if spans[end - 1, 1] > horizon:
                break
            settled = end
        return settled

    def rescore(
        self, d: Draft, model: TextModel, state: TextState, limit: int, end: float, final: bool
    ) -> Work[tuple[Draft, TextState]]:
        if self.beam == 1:
            return d, state
        # doubts about words that cannot become stable yet are left for when they can
        until = limit + 1 if final else self.settled(d, model)
        return (yield from beams.refine(self, self.beam, d, model, state, limit, end, final, until))
