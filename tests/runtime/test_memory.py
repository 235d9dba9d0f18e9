"""Freed memory is given back, and not too often."""

import sys

import numpy as np
import pytest

from speechstream.runtime import memory


def resident() -> int:
    with open("/proc/self/statm", encoding="utf-8") as f:
        return int(f.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux" or memory._glibc() is None, reason="needs glibc")
def test_what_is_free_below_something_used_is_given_back():
    # blocks under glibc's threshold for mappings of their own, one in fifty of which stays
    blocks = [np.ones(60_000, np.uint8) for _ in range(1000)]
    kept = blocks[::50]
    before = resident()
    del blocks
    memory.trim()
    assert resident() < before - 40_000_000 and all(b.all() for b in kept)


def test_it_is_not_asked_for_at_every_occasion(monkeypatch):
    asked, times = [], [100.0, 101.0, 104.9, 105.0, 105.1, 200.0]
    monkeypatch.setattr(memory, "_last", 0.0)
    monkeypatch.setattr(memory, "trim", lambda: asked.append(6 - len(times)))
    monkeypatch.setattr(memory.time, "monotonic", lambda: times.pop(0))
    for _ in range(6):
        memory.trim_at_times()
    assert asked == [1, 4, 6]
