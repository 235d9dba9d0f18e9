"""Blocks of samples, as sound cards, files and users hand them over, made into mono float32."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_CHANNELS = 64  # more "channels" than this is a block that lies on its side

# What a sample of each integer type is divided by, after its offset is taken away, to lie in [-1, 1).
_INTEGER_SCALES = {"u1": (128.0, 128.0), "i2": (0.0, 32768.0), "i4": (0.0, 2147483648.0)}


def to_mono(block: Any) -> np.ndarray:
    """Convert a block of samples into a new mono float32 array.

    block: array of shape (n,) or (n, channels), n may be 0; float16/32/64 as they are (nominally in [-1, 1]; louder
    samples are kept, not clipped), int16 and int32 divided by their full scale, uint8 taken as offset binary with
    silence at 128 (as in WAV). Anything numpy can view as an array will do. Channels are averaged.

    Returns float32 (n,), never sharing memory with the block, so that a reused capture buffer cannot change it later.
    Raises ValueError for bytes, for other types, for other shapes and for samples that are not finite.
    """
    if isinstance(block, (bytes, bytearray, memoryview, str)):
        raise ValueError(
            f"a block of samples must be an array, got {type(block).__name__}; "
            "turn raw PCM into one with numpy.frombuffer(data, dtype='<i2')"
        )
    x = np.asarray(block)
    if x.ndim not in (1, 2):
        raise ValueError(f"a block of samples must have shape (n,) or (n, channels), got {x.shape}")
    if x.ndim == 2 and not 1 <= x.shape[1] <= MAX_CHANNELS:
        raise ValueError(
            f"a block of shape {x.shape} has {x.shape[1]} channels, expected (n, channels) with 1 to "
            f"{MAX_CHANNELS} channels; transpose a block that comes as (channels, n)"
        )
    if x.size == 0 and x.dtype == np.float64:  # an empty list
        return np.zeros(0, np.float32)
    kind = x.dtype.str[1:]
    if kind in _INTEGER_SCALES:
        offset, scale = _INTEGER_SCALES[kind]
        y = (x.astype(np.float64) - offset) / scale
    elif x.dtype.kind == "f" and x.dtype.itemsize <= 8:
        y = x
    else:
        raise ValueError(
            f"samples of type {x.dtype} are not supported; "
            "expected uint8, int16, int32, float16, float32 or float64"
        )
    if y.ndim == 2:
        # Column by column, in double precision: the sum of a frame does not depend on the block it came in.
        y = sum(y[:, c].astype(np.float64) for c in range(y.shape[1])) / y.shape[1]
    with np.errstate(over="ignore"):
        mono = np.array(y, np.float32)
    if not np.isfinite(mono).all():
        bad = int(np.flatnonzero(~np.isfinite(mono))[0])
        raise ValueError(
            f"sample {bad} of the block is {y[bad]}; samples must be finite numbers within [-1, 1]"
        )
    return mono
