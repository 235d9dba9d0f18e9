"""The state of a Kyutai speech-to-text as arrays; without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechstream.nn.growing import TextArrays
from speechstream.state import bounded, cache


@dataclass(frozen=True)
class TransformerArrays:
    """`nn.transformer.TransformerState` of one stream."""

    keys: np.ndarray = cache()
    values: np.ndarray = cache()
    frames: np.ndarray = bounded(0)


@dataclass(frozen=True)
class CodecArrays:
    """`nn.mimi.MimiEncoderState` of one stream."""

    seanet: np.ndarray
    transformer: TransformerArrays
    downsample: np.ndarray
    frames: np.ndarray = bounded(0)


@dataclass(frozen=True)
class KyutaiCache:
    """All that a stream's networks remember."""

    codec: CodecArrays
    text: TextArrays


def codec_arrays(fields: dict[str, np.ndarray]) -> CodecArrays:
    """From a flat dict, as `state.flatten` makes one. Raises KeyError and TypeError for another's fields."""
    own = dict(fields)
    inner = {n: own.pop(f"transformer.{n}") for n in ("keys", "values", "frames")}
    return CodecArrays(transformer=TransformerArrays(**inner), **own)
