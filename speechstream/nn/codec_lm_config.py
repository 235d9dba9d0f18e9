"""The sizes of a codec language model; without torch, so that whoever only runs one can read them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from speechstream.config import read

PROSODY = 3  # log duration / LOG_DURATION_UNIT, pitch, energy: of a phoneme, then of the one that follows it
LOG_DURATION = 2 * PROSODY  # a row's place of the logarithm of the duration, from its end
LOG_DURATION_UNIT = 3.0


@dataclass(frozen=True)
class CodecLmConfig:
    """Sizes. The defaults suit the small codec: 40 ms frames of 4 sub-frames, 8 levels of 1024 codes in 64
    dimensions."""

    row_dim: int = 198  # numbers that are told of a phoneme
    dim: int = 384
    layers: int = 6
    heads: int = 6
    ff_dim: int = 1536
    left_context: int = 128  # frames that the language model looks back
    subframes: int = 4  # sub-frames a codec frame
    levels: int = 8  # of the codec
    codebook_size: int = 1024
    code_dim: int = 64
    depth_input: int = 256  # what the depth-wise decoder is given of a frame
    depth_dim: int = 128
    depth_blocks: int = 2
    elapsed_dim: int = 32  # of the time that a phoneme has lasted
    pace_dim: int = 128  # of the network that says when a phoneme ends
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.subframes, self.levels) < 1 or self.row_dim < LOG_DURATION:
            raise ValueError(
                f"expected subframes >= 1, levels >= 1, row_dim >= {LOG_DURATION}; got {self.subframes}, "
                f"{self.levels}, {self.row_dim}"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain data for a JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> CodecLmConfig:
        """From what `to_dict` gave. Raises ValueError for unknown or missing entries and wrong types."""
        return read(cls, data)
