"""The sizes of what turns speech tokens into conditions of a flow, as data: no torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from speechstream.config import read

LARGEST = 1 << 14  # of any size: the published ones are far below, and a damaged file is not
MOST_LAYERS = 256
MAX_STATE_BYTES = 4 << 30  # of one stream's keys and values


@dataclass(frozen=True)
class TokenEncoderConfig:
    """Speech tokens to mel-sized conditions, `repeats` frames a token. The defaults are those of CosyVoice 2.

    Frames see whole blocks: their own of `block` tokens, and `left_blocks` before it. lookahead: tokens that the first
    convolution sees ahead. Without layers there are only its two convolutions, as in CosyVoice 3; input_dim is then
    n_mels.
    """

    vocab_size: int = 6561
    input_dim: int = 512  # of a token's embedding
    dim: int = 512
    heads: int = 8
    ff_dim: int = 2048
    layers: int = 6  # at the tokens' rate
    up_layers: int = 4  # at the frames' rate
    lookahead: int = 3
    lookahead_dim: int = 512  # channels between its two convolutions
    repeats: int = 2
    n_mels: int = 80
    speaker_dim: int = 192  # of a speaker's vector, as an encoder of speakers gives it
    block: int = 25
    left_blocks: int = 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name in ("layers", "up_layers", "left_blocks") else 1
            most = 1 << 20 if name == "vocab_size" else LARGEST
            if type(value) is not int or not least <= value <= most:
                raise ValueError(f"{name} must be {least} to {most}; got {str(value)[:30]}")
        if bool(self.layers) != bool(self.up_layers):
            raise ValueError("layers and up_layers go together")
        if self.layers > MOST_LAYERS or self.up_layers > MOST_LAYERS:
            raise ValueError(f"{MOST_LAYERS} layers at most; got {self.layers}, {self.up_layers}")
        if self.layers and (self.dim % self.heads or self.dim % 2):
            raise ValueError(
                f"dim must be even and a multiple of heads; got {self.dim}, {self.heads}"
            )
        if not self.layers and self.input_dim != self.n_mels:
            raise ValueError(
                f"without layers input_dim must be n_mels; got {self.input_dim} and {self.n_mels}"
            )
        if self.state_bytes > MAX_STATE_BYTES:
            raise ValueError(
                f"a stream's keys and values would take {self.state_bytes >> 20} MiB; take fewer left_blocks"
            )

    @property
    def left(self) -> int:
        """Tokens before its own block that a token sees."""
        return self.left_blocks * self.block

    @property
    def state_bytes(self) -> int:
        """Bytes of keys and values of a stream, however long it is."""
        return 4 * 2 * self.dim * self.left * (self.layers + self.repeats * self.up_layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any) -> TokenEncoderConfig:
        """What `to_dict` gave, also after a round through JSON. Raises ValueError for unknown or wrong entries."""
        return read(cls, d)
