"""What the language model is told of a phoneme, from what the text encoder says of a clause."""

from __future__ import annotations

import numpy as np

from speechstream.nn.codec_lm_config import LOG_DURATION, LOG_DURATION_UNIT
from speechstream.tts.encoded import MAX_LOG_DURATION, Encoding


def symbol_rows(encoding: Encoding) -> np.ndarray:
    """A row (N, dim + 6) float32 for each symbol: its encoding, its prosody, and the prosody of the next."""
    durations = np.minimum(encoding.log_durations, MAX_LOG_DURATION) / LOG_DURATION_UNIT
    own = np.stack([durations, encoding.pitch, encoding.energy], 1)
    following = np.concatenate([own[1:], own[-1:]])
    return np.concatenate([encoding.encodings, own, following], 1).astype(np.float32)


def expected_durations(rows: np.ndarray) -> np.ndarray:
    """Sub-frames (N,) float64 that are expected of the symbols of rows (N, dim + 6)."""
    return np.exp(LOG_DURATION_UNIT * rows[:, -LOG_DURATION].astype(np.float64))
