"""A FastConformer recogniser: one encoder, with a CTC head, a transducer (RNN-T or TDT), or both."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor, nn

from speechstream.nn.conformer import ConformerConfig, ConformerEncoder
from speechstream.nn.transducer import Joiner, JoinerConfig, Predictor, PredictorConfig


@dataclass(frozen=True)
class FastConformerConfig:
    """What rebuilds the network. vocab: tokens without blank, which has the id `vocab` in every head."""

    encoder: ConformerConfig
    vocab: int
    ctc: bool = True
    predictor: PredictorConfig | None = None
    joiner: JoinerConfig | None = None

    def __post_init__(self):
        if (self.predictor is None) != (self.joiner is None):
            raise ValueError("a transducer needs both a predictor and a joiner")
        if not self.ctc and self.joiner is None:
            raise ValueError("the network needs a head: ctc, or a predictor and a joiner")
        for part in (self.predictor, self.joiner):
            if part is not None and part.vocab != self.vocab:
                raise ValueError(
                    f"every head must have the vocabulary of {self.vocab} tokens, got {part.vocab}"
                )
        if self.joiner is not None and (self.joiner.encoder_dim, self.joiner.predictor_dim) != (
            self.encoder.dim,
            self.predictor.dim,
        ):
            raise ValueError(
                f"the joiner takes {self.joiner.encoder_dim} and {self.joiner.predictor_dim} channels, "
                f"encoder and predictor give {self.encoder.dim} and {self.predictor.dim}"
            )

    def to_dict(self) -> dict:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict) -> FastConformerConfig:
        """What `to_dict` gave, also after a round through JSON. Raises ValueError for unknown or missing entries."""
        try:
            predictor, joiner = d.get("predictor"), d.get("joiner")
            encoder = ConformerConfig(
                **{**d["encoder"], "lookaheads": tuple(d["encoder"]["lookaheads"])}
            )
            return cls(
                encoder,
                d["vocab"],
                d["ctc"],
                predictor and PredictorConfig(**predictor),
                joiner and JoinerConfig(**{**joiner, "durations": tuple(joiner["durations"])}),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the configuration of a FastConformer: {error}") from error


class FastConformer(nn.Module):
    """encoder; ctc (None without a CTC head); predictor and joiner (None without a transducer)."""

    def __init__(self, config: FastConformerConfig):
        super().__init__()
        self.config = c = config
        self.encoder = ConformerEncoder(c.encoder)
        self.ctc = nn.Linear(c.encoder.dim, c.vocab + 1) if c.ctc else None
        self.predictor = Predictor(c.predictor) if c.predictor else None
        self.joiner = Joiner(c.joiner) if c.joiner else None

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, lookahead: int | None = None
    ) -> Tensor:
        """CTC log probabilities (B, frames, vocab + 1) of whole utterances of features (B, T, features)."""
        if self.ctc is None:
            raise ValueError("this network has no CTC head: use its encoder, predictor and joiner")
        return self.ctc(self.encoder(x, lengths, lookahead)).log_softmax(-1)
