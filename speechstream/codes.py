"""Weights in 8 and 4 bits back to fp32: the inverses of `speechstream.export.quantize`, in numpy alone."""

from __future__ import annotations

import numpy as np


def dequantize_channels(codes: np.ndarray, scales: np.ndarray, axis: int) -> np.ndarray:
    """The inverse of `quantize_channels`."""
    return codes.astype(np.float32) * np.expand_dims(scales, 1 - axis)


def dequantize_blocks(codes: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """The inverse of `quantize_blocks`: (N, K) float32."""
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)
    blocks = (codes.astype(np.float32) - (1 << (bits - 1))) * scales[..., None]
    return blocks.reshape(blocks.shape[0], -1)
