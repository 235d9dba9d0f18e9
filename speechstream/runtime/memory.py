"""Memory that was freed, given back to the system.

glibc keeps freed memory wherever something that is still used lies above it. Opening a graph leaves 80 MB of weights in their
older forms behind, and the arrays of long segments, which grow from chunk to chunk, as much again. Other allocators give
back by themselves, or not at all.
"""

from __future__ import annotations

import ctypes
import sys
import time
from functools import lru_cache
from typing import Any

LEAST_S = 5.0  # between two times: it takes some milliseconds, in which no thread gets memory

_last = 0.0


@lru_cache(maxsize=1)
def _glibc() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def trim() -> None:
    """Give back what is free, where the allocator can be asked to."""
    if (malloc_trim := _glibc()) is not None:
        malloc_trim(0)


def trim_at_times() -> None:
    """`trim`, but not more often than every `LEAST_S` seconds."""
    global _last
    if (now := time.monotonic()) - _last >= LEAST_S:
        _last = now
        trim()
