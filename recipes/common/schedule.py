"""Learning-rate schedules, as factors of the peak rate."""

from __future__ import annotations

import math


def warmup_cosine(step: int, warmup: int, progress: float, floor: float = 0.0) -> float:
    """Linear warm-up over `warmup` steps, times a cosine from 1 to `floor` as `progress` goes from 0 to 1.

    `progress` may count steps or wall-clock time.
    """
    progress = min(max(progress, 0.0), 1.0)
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    return min(1.0, (step + 1) / max(1, warmup)) * cosine
