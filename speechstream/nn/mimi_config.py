"""The sizes of Mimi and of its parts; without torch, so that whoever only runs one can read them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from speechstream.config import read


@dataclass(frozen=True)
class SEANetConfig:
    """Sizes of a SEANet. `ratios` are the decoder's upsampling strides in order; the encoder strides in reverse."""

    channels: int = 1
    dim: int = 512  # channels of a frame
    filters: int = 64  # channels at the sampling rate; doubled at each ratio
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel: int = 7
    last_kernel: int = 3
    residual_kernel: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2  # a residual block works on channels / compress

    def __post_init__(self) -> None:
        if not self.ratios or min(self.ratios) < 1:
            raise ValueError(f"ratios must be positive strides; got {self.ratios}")

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.ratios)


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a causal transformer. `context` is in frames, the query's own included."""

    dim: int = 512
    layers: int = 8
    heads: int = 8
    ff_dim: int = 2048
    left_context: int = 250
    max_period: float = 10_000.0
    layer_scale: float = 0.01
    activation: str = "gelu"  # or "gelu_tanh", its approximation

    def __post_init__(self) -> None:
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim must be a multiple of twice the heads; got dim {self.dim}, heads {self.heads}"
            )
        if self.activation not in ("gelu", "gelu_tanh"):
            raise ValueError(f"activation must be gelu or gelu_tanh; got {self.activation!r}")
        if self.left_context < 2:
            raise ValueError(f"left_context must be at least 2 frames; got {self.left_context}")


@dataclass(frozen=True)
class MimiConfig:
    """A codec of the Mimi family. The defaults are those of kyutai/mimi."""

    sample_rate: int = 24_000
    seanet: SEANetConfig = field(default_factory=SEANetConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    stride: int = 2  # transformer frames (25 Hz) per codec frame (12.5 Hz)
    n_codebooks: int = 32
    n_semantic_codebooks: int = 1
    codebook_size: int = 2048
    code_dim: int = 256

    def __post_init__(self) -> None:
        if self.seanet.dim != self.transformer.dim:
            raise ValueError(
                f"SEANet frames of size {self.seanet.dim} do not fit a transformer of size "
                f"{self.transformer.dim}"
            )

    @property
    def frame_size(self) -> int:
        """Samples of one codec frame: 1920 (80 ms) in Mimi."""
        return self.seanet.hop * self.stride

    @property
    def delay(self) -> int:
        """Samples by which decoded sound lags the original: none."""
        return 0

    def to_dict(self) -> dict[str, Any]:
        """As plain data for a JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> MimiConfig:
        """From what `to_dict` gave. Raises ValueError for unknown or missing entries and wrong types."""
        return read(cls, data)
