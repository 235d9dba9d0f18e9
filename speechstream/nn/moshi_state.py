"""The state of a Moshi as arrays; without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechstream.nn.growing import TextArrays
from speechstream.nn.kyutai_state import CodecArrays, TransformerArrays
from speechstream.state import bounded


@dataclass(frozen=True)
class CodecDecoderArrays:
    """`nn.mimi.MimiDecoderState` of one stream."""

    upsample: np.ndarray
    transformer: TransformerArrays
    seanet: np.ndarray
    frames: np.ndarray = bounded(0)


@dataclass(frozen=True)
class MoshiArrays:
    """`nn.moshi.MoshiState` of one stream."""

    encoder: CodecArrays
    text: TextArrays
    decoder: CodecDecoderArrays
    own: np.ndarray = bounded(0)
    user: np.ndarray = bounded(0)
