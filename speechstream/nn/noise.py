"""Noise that is a function of where it stands: the same for a whole utterance, for its chunks and in any batch.

Philox 4x32-10 (Salmon et al., 2011, Parallel random numbers: as easy as 1, 2, 3), a generator without a state: four
words of a counter and two of a key give four random words. Here the counter is the frame and the channel, the key the
stream's seed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROUNDS = 10
FACTORS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # what is added to the key after each round
WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Four random 32-bit words of four words of counter and two of key; int64 tensors, broadcast against each other."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        first, second = a * FACTORS[0], c * FACTORS[1]  # int64 wraps, which keeps all 64 bits
        a, b, c, d = (
            ((second >> 32) & WORD) ^ b ^ k0,
            second & WORD,
            ((first >> 32) & WORD) ^ d ^ k1,
            first & WORD,
        )
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return a, b, c, d


def normal(seed: Tensor, positions: Tensor, channels: int) -> Tensor:
    """Standard normal noise (B, T, channels) fp32 at int64 frames `positions` (B, T) of streams with int64 `seed` (B,)."""
    group = torch.arange(-(-channels // 4), device=positions.device)
    frame, seed = positions[..., None], seed[:, None, None]
    words = philox(
        (frame & WORD, (frame >> 32) & WORD, group, torch.zeros_like(group)),
        (seed & WORD, (seed >> 32) & WORD),
    )
    pairs = []
    for one, other in (words[:2], words[2:]):  # Box and Muller's transform
        radius = torch.sqrt(-2 * torch.log((one.double() + 1) / 2**32))
        angle = other.double() * (2 * math.pi / 2**32)
        pairs += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(pairs, -1).flatten(2)[..., :channels].float()
