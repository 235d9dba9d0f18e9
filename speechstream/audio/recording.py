"""Blocks of a recording, wherever it comes from."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np

MIN_RATE, MAX_RATE = 1000, 768_000  # Hz; a rate outside is a damaged header, not a recording


class Blocks:
    """An iterator of mono float32 blocks (n,) of one recording.

    rate: samples per second; duration: seconds, or None where the header does not tell.
    Close it, or use it in a `with`, when it is not read to its end.
    """

    def __init__(self, rate: int, blocks: Iterator[np.ndarray], duration: float | None = None):
        self.rate, self.duration, self._blocks = rate, duration, blocks

    def __iter__(self) -> Blocks:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._blocks)

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *exc) -> None:
        self.close()

    def close(self) -> None:
        """Release the file. Iteration ends."""
        if isinstance(self._blocks, Generator):
            self._blocks.close()
