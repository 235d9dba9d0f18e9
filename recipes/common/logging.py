"""The log of a training loop: one JSON object a line, on standard output."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any


def report(**values: Any) -> None:
    """Print a line; floats are rounded to five significant digits."""
    print(json.dumps({name: _rounded(value) for name, value in values.items()}), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(v) for name, v in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


class Means:
    """Means of what a loop has measured since the last line."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.sums[name] += value
            self.counts[name] += 1

    def take(self) -> dict[str, float]:
        """The means, and start anew."""
        means = {name: self.sums[name] / self.counts[name] for name in self.sums}
        self.sums.clear()
        self.counts.clear()
        return means
