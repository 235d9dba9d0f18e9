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

SHARE = 0.01  # of the time that giving back may take: meanwhile no thread gets memory

_due = 0.0  # not before this time again


@lru_cache(maxsize=1)
def _glibc() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def trim() -> None:
    """Give back what is free, where the allocator can be asked to."""
    if (malloc_trim := _glibc()) is not None:
        malloc_trim(0)


def trim_at_times() -> None:
    """`trim`, where it was not asked for so lately that it would take more than `SHARE` of the time. It takes milliseconds,
    and more with many streams: of this thread's own time, as others may have had the core meanwhile."""
    global _due
    now = time.monotonic()
    if now >= _due:
        began = time.thread_time()
        trim()
        _due = now + (time.thread_time() - began) / SHARE
