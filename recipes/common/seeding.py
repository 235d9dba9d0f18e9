"""Random numbers that depend on the seed and the step alone, so that a resumed run equals an unbroken one."""

from __future__ import annotations

import numpy as np
import torch


def seed_step(seed: int, step: int) -> None:
    """Seed torch for a step: dropout and the like."""
    torch.manual_seed(seed + 1 + step)


def step_rng(seed: int, step: int) -> np.random.Generator:
    """NumPy's generator of a step: which examples are drawn."""
    return np.random.default_rng((seed, step))
