"""Positions for attention: rotary (our own models) and Transformer-XL relative (imported checkpoints).

Rotary: Su et al. 2021, RoFormer. Relative: Dai et al. 2019, Transformer-XL, appendix B, with the sign and order that
NVIDIA's Conformer uses.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BASE = 10000.0  # longest wavelength over 2 pi, in positions, of both encodings
PERIOD = 1 << 20  # positions after which the rotary angles repeat: 23 hours at 80 ms


def rotary_cycles(dim: int) -> Tensor:
    """Whole turns each pair of `dim` channels makes over PERIOD positions: (dim / 2,) int64.

    The frequencies of RoPE rounded to whole turns, so that an angle is computed from integers: it is as exact at the
    millionth frame of a stream as at the first, where position * frequency in float32 has lost three digits.
    """
    if dim % 2:
        raise ValueError(f"rotary positions need an even number of channels per head, got {dim}")
    frequency = BASE ** (
        -torch.arange(0, dim, 2, dtype=torch.float64) / dim
    )  # radians per position
    return (frequency * PERIOD / (2 * math.pi)).round().clamp(min=1).long()


def rotary_angles(positions: Tensor, cycles: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, each (B, 1, T, dim / 2), of the rotations at int64 `positions` (B, T)."""
    turns = (positions[:, None, :, None] * cycles) % PERIOD
    angle = turns.float() * (2 * math.pi / PERIOD)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs (i, i + Dh / 2) of x (B, H, T, Dh)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def relative_embedding(
    first: int, count: int, dim: int, device=None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Sinusoids (count, dim) of the distances first, first - 1, ...: sine on even channels, cosine on odd ones.

    A distance is the query's position less the key's, so it falls from the oldest key to the newest.
    """
    distance = first - torch.arange(count, dtype=torch.float32, device=device)
    frequency = torch.exp(
        torch.arange(0, dim, 2, dtype=torch.float32, device=device) * -(math.log(BASE) / dim)
    )
    angle = distance[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(count, dim).to(dtype)


def skew(scores: Tensor, keys: int) -> Tensor:
    """Scores by distance (..., c, keys + c - 1) to scores by key (..., c, keys).

    Row i of the result starts c - 1 - i columns into row i of the input. With one column more in each row and the first
    c entries dropped, that start moves by one place a row, so a change of shape does it (Transformer-XL, appendix B).
    """
    c, width = scores.shape[-2], keys + scores.shape[-2] - 1
    lead = scores.shape[:-2]
    flat = F.pad(scores, (1, 0)).reshape(*lead, width + 1, c)[..., 1:, :]
    return flat.reshape(*lead, c, width)[..., :keys]
