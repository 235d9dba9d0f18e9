"""The states of a Voxtral Realtime as arrays; without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechstream.nn.growing import TextArrays
from speechstream.state import bounded, cache


@dataclass(frozen=True)
class EncoderArrays:
    """`nn.voxtral.VoxtralEncoderState` of one stream."""

    conv1: np.ndarray
    conv2: np.ndarray
    keys: np.ndarray = cache()
    values: np.ndarray = cache()
    frames: np.ndarray = bounded(0)


@dataclass(frozen=True)
class VoxtralCache:
    """All that a stream's networks remember."""

    encoder: EncoderArrays
    text: TextArrays
