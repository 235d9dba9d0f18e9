"""A FastConformer recogniser: one encoder, with a CTC head, a transducer (RNN-T or TDT), or both."""

from __future__ import annotations

from torch import Tensor, nn

from speechstream.nn.configs import FastConformerConfig
from speechstream.nn.conformer import ConformerEncoder
from speechstream.nn.transducer import Joiner, Predictor


class FastConformer(nn.Module):
    """encoder; ctc (None without a CTC head); predictor and joiner (None without a transducer)."""

    def __init__(self, config: FastConformerConfig):
        super().__init__()
        self.config = c = config
        self.encoder = ConformerEncoder(c.encoder)
        self.ctc = nn.Linear(c.encoder.dim, c.vocab_size + 1) if c.ctc else None
        self.predictor = Predictor(c.predictor) if c.predictor else None
        self.joiner = Joiner(c.joiner) if c.joiner else None

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, lookahead: int | None = None
    ) -> Tensor:
        """CTC log probabilities (B, frames, vocab + 1) of whole utterances of features (B, T, features)."""
        if self.ctc is None:
            raise ValueError("this network has no CTC head: use its encoder, predictor and joiner")
        return self.ctc(self.encoder(x, lengths, lookahead)).log_softmax(-1)
