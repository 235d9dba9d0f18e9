"""The sizes of a FastConformer, as data: no torch here, so that a bundle can be read where it is not installed."""

from __future__ import annotations

import reprlib
from dataclasses import asdict, dataclass
from typing import Any

from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.config import read

MAX_FRAMES = 4096  # of context, which a stream's caches have: five minutes
STORED_FORM = ("bits", "block")  # beside a network's sizes in a bundle: how its matrices are stored
ACTIVATIONS = ("relu", "tanh", "sigmoid")


@dataclass(frozen=True)
class ConformerConfig:
    """Shape of a FastConformer encoder. The defaults are the 17 x 512 "large" of the paper (114 M parameters)."""

    n_mels: int = 80  # mel bins
    dim: int = 512
    layers: int = 17
    heads: int = 8
    ff_dim: int = 2048
    kernel: int = 9  # of the depthwise convolution
    subsampling: int = 8
    subsampling_channels: int = 256
    left_context: int | None = 70  # frames of left context; None: the whole utterance, offline only
    lookaheads: tuple[int, ...] = (
        13,
        6,
        1,
        0,
    )  # frames of right context the weights are trained for; first: default
    causal: bool = True  # causal convolutions; False: symmetric ones, offline only
    position: str = "rope"  # or "relative" (Transformer-XL)
    conv_norm: str = "layer_norm"  # or "batch_norm"
    bias: bool = True  # in the linear layers and convolutions of the blocks
    scale_input: bool = False  # multiply the subsampled input by sqrt(dim)
    dropout: float = 0.1

    def __post_init__(self):
        sizes = (
            self.n_mels,
            self.dim,
            self.layers,
            self.heads,
            self.ff_dim,
            self.kernel,
            self.subsampling,
            self.subsampling_channels,
        )
        frames = (*self.lookaheads, *(() if self.left_context is None else (self.left_context,)))
        if not all(type(n) is int and n > 0 for n in sizes) or not all(
            type(n) is int for n in frames
        ):
            raise ValueError(
                f"sizes and frames must be whole numbers, the sizes positive; got {reprlib.repr((*sizes, *frames))}"
            )
        if not all(isinstance(flag, bool) for flag in (self.causal, self.bias, self.scale_input)):
            raise ValueError(
                f"causal, bias and scale_input must be true or false, got {self.causal!r}, {self.bias!r}, "
                f"{self.scale_input!r}"
            )
        if max(frames, default=0) > MAX_FRAMES:
            raise ValueError(
                f"left_context and lookaheads can be {MAX_FRAMES} frames at most, got {max(frames)}"
            )
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if self.position not in ("rope", "relative"):
            raise ValueError(f"position must be 'rope' or 'relative', got {self.position!r}")
        if self.conv_norm not in ("layer_norm", "batch_norm"):
            raise ValueError(
                f"conv_norm must be 'layer_norm' or 'batch_norm', got {self.conv_norm!r}"
            )
        if (self.left_context is None) == self.causal:
            raise ValueError(
                "a causal encoder needs `left_context`, one with symmetric convolutions left_context=None; "
                f"got left_context={self.left_context}, causal={self.causal}"
            )
        if self.causal and (
            self.left_context < 0 or not self.lookaheads or min(self.lookaheads) < 0
        ):
            raise ValueError(
                f"left_context and lookaheads must be frames >= 0, got {self.left_context} and {self.lookaheads}"
            )

    @property
    def streaming(self) -> bool:
        return self.causal


@dataclass(frozen=True)
class PredictorConfig:
    """vocab: tokens without blank, which has the id `vocab`. context: tokens a stateless predictor sees."""

    vocab_size: int
    dim: int = 640
    kind: str = "lstm"  # or "stateless" (Ghodsi et al. 2020)
    layers: int = 1  # of the LSTM
    context: int = 2
    dropout: float = 0.1

    def __post_init__(self):
        if self.kind not in ("lstm", "stateless"):
            raise ValueError(f"a predictor is 'lstm' or 'stateless', got {self.kind!r}")
        if min(self.vocab_size, self.dim, self.layers, self.context) < 1:
            raise ValueError(f"vocab, dim, layers and context must be positive, got {self}")


@dataclass(frozen=True)
class JoinerConfig:
    """durations: frames a TDT joiner may advance by, () for RNN-T. Outputs: vocab tokens, blank, then durations."""

    vocab_size: int
    encoder_dim: int
    predictor_dim: int = 640
    dim: int = 640
    activation: str = "relu"
    durations: tuple[int, ...] = ()
    dropout: float = 0.1

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}"
            )
        if any(d < 0 for d in self.durations) or (self.durations and max(self.durations) < 1):
            raise ValueError(
                f"durations must be frames >= 0, one of them positive; got {self.durations}"
            )


@dataclass(frozen=True)
class FastConformerConfig:
    """What rebuilds the network. vocab: tokens without blank, which has the id `vocab` in every head."""

    encoder: ConformerConfig
    vocab_size: int
    ctc: bool = True
    predictor: PredictorConfig | None = None
    joiner: JoinerConfig | None = None

    def __post_init__(self):
        if (self.predictor is None) != (self.joiner is None):
            raise ValueError("a transducer needs both a predictor and a joiner")
        if not self.ctc and self.joiner is None:
            raise ValueError("the network needs a head: ctc, or a predictor and a joiner")
        for part in (self.predictor, self.joiner):
            if part is not None and part.vocab_size != self.vocab_size:
                raise ValueError(
                    f"every head must have the vocabulary of {self.vocab_size} tokens, got {part.vocab_size}"
                )
        if self.joiner is not None and (self.joiner.encoder_dim, self.joiner.predictor_dim) != (
            self.encoder.dim,
            self.predictor.dim,
        ):
            raise ValueError(
                f"the joiner takes {self.joiner.encoder_dim} and {self.joiner.predictor_dim} channels, "
                f"encoder and predictor give {self.encoder.dim} and {self.predictor.dim}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any) -> FastConformerConfig:
        """What `to_dict` gave, also after a round through JSON. Raises ValueError for unknown or missing entries."""
        return read(cls, d)


@dataclass(frozen=True)
class FastConformerBundle:
    """The `config` of a FastConformer's bundle."""

    network: FastConformerConfig
    features: NemoMelConfig

    def __post_init__(self) -> None:
        if self.features.n_mels != self.network.encoder.n_mels:
            raise ValueError(
                f"{self.features.n_mels} mel bins for an encoder that takes {self.network.encoder.n_mels}"
            )

    def check_tokens(self, tokens: Any) -> tuple[str, ...]:
        """The vocabulary by id. Raises ValueError for anything else."""
        size = self.network.vocab_size
        if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
            raise ValueError("tokens.json is no list of texts")
        if len(tokens) != size:
            raise ValueError(f"{len(tokens)} tokens for a vocabulary of {size}")
        return tuple(tokens)
