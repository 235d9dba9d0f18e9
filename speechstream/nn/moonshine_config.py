"""The sizes of a streaming Moonshine; without torch, so that whoever only runs one can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SAMPLE_RATE = 16_000
STACKED = 4  # frames of sound to one of the encoder: two convolutions of stride 2
KERNEL = 5
# What a config may ask for at most: the released models are well below, and a damaged file is not.
LIMITS = {
    "dim": 1 << 14,
    "layers": 256,
    "heads": 512,
    "head_dim": 1024,
    "ff_dim": 1 << 17,
}
MOST_WINDOW = 1 << 12  # frames on either side


def check_limits(config: Any, limits: dict[str, int], what: str) -> None:
    """Raises ValueError for sizes that are no sizes, or go beyond these."""
    for name, most in limits.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"the {what}'s {name} must be 1 to {most}; got {str(value)[:30]}")


@dataclass(frozen=True)
class MoonshineEncoderConfig:
    """The encoder; defaults are those of moonshine-streaming-tiny.

    frame: samples, 5 ms. windows: of each layer, frames of 20 ms that one sees: (itself and those before, those after).
    """

    dim: int = 320
    layers: int = 6
    heads: int = 8
    kv_heads: int = 8
    head_dim: int = 40
    ff_dim: int = 1280
    frame: int = 80
    bias: bool = False
    windows: tuple[tuple[int, int], ...] = ((16, 3), (16, 3), (16, 0), (16, 0), (16, 3), (16, 3))

    def __post_init__(self) -> None:
        check_limits(self, LIMITS | {"kv_heads": 512, "frame": 1600}, "encoder")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"the encoder's heads must be a multiple of kv_heads; got {self.heads} and {self.kv_heads}"
            )
        if len(self.windows) != self.layers:
            raise ValueError(
                f"the encoder has {self.layers} layers and windows for {len(self.windows)}"
            )
        if any(not 1 <= a <= MOST_WINDOW or not 0 <= b <= MOST_WINDOW for a, b in self.windows):
            raise ValueError(
                f"the encoder's windows must be 1 to {MOST_WINDOW} frames back and 0 to {MOST_WINDOW} ahead"
            )

    @property
    def ahead(self) -> int:
        """Frames that the last layer's depend on beyond themselves."""
        return sum(after for _, after in self.windows)

    @property
    def kept(self) -> tuple[int, ...]:
        """Frames whose keys and values each layer remembers."""
        return tuple(before - 1 + after for before, after in self.windows)


@dataclass(frozen=True)
class MoonshineDecoderConfig:
    """The decoder. positions: frames of the encoder that it can hear, and tokens that it can write."""

    vocab_size: int = 32768
    dim: int = 320
    layers: int = 6
    heads: int = 8
    head_dim: int = 40
    ff_dim: int = 1280
    rotary_dim: int = 32
    rope_base: float = 10_000.0
    positions: int = 4096
    bias: bool = False
    tied: bool = False

    def __post_init__(self) -> None:
        check_limits(self, LIMITS | {"vocab_size": 1 << 20, "positions": 1 << 20}, "decoder")
        if not 0 < self.rotary_dim <= self.head_dim or self.rotary_dim % 2:
            raise ValueError(
                f"the decoder rotates {self.rotary_dim} of {self.head_dim} numbers, expected an even part"
            )
        if not 1 < self.rope_base < 1e12:
            raise ValueError(f"rope base must be above 1; got {self.rope_base}")

    @property
    def kv_heads(self) -> int:
        """As many as queries have."""
        return self.heads


@dataclass(frozen=True)
class MoonshineConfig:
    """A streaming Moonshine (arXiv:2410.15608 and its successor): raw sound in, an encoder of sliding windows, a decoder."""

    encoder: MoonshineEncoderConfig
    decoder: MoonshineDecoderConfig

    @property
    def parameters(self) -> int:
        """Numbers in its matrices."""
        e, d = self.encoder, self.decoder
        inner, kv = e.heads * e.head_dim, e.kv_heads * e.head_dim
        layer = 2 * e.dim * (inner + kv) + 2 * e.dim * e.ff_dim
        front = e.dim * (e.frame + 4 * KERNEL * e.dim)
        written = 8 * d.dim * d.heads * d.head_dim + 3 * d.dim * d.ff_dim
        ends = d.positions * e.dim + e.dim * d.dim + (2 - d.tied) * d.vocab_size * d.dim
        return e.layers * layer + front + d.layers * written + ends


@dataclass(frozen=True)
class MoonshineBundle:
    """What a bundle says of a streaming Moonshine beside its weights. start: the token that a text begins with."""

    network: MoonshineConfig
    start: int
    stop: tuple[int, ...]

    def __post_init__(self) -> None:
        size = self.network.decoder.vocab_size
        if any(not 0 <= i < size for i in (self.start, *self.stop)):
            raise ValueError(f"its marks must be ids below {size}")
        if not self.stop or len(self.stop) > 100:
            raise ValueError("it needs marks that end a text")
