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


def test_it_takes_a_hundredth_of_the_time_at_most(monkeypatch):
    clock, asked = [100.0], []

    def trim():
        asked.append(clock[0])
        clock[0] += 0.02

    monkeypatch.setattr(memory, "_due", 0.0)
    monkeypatch.setattr(memory, "trim", trim)
    monkeypatch.setattr(memory.time, "monotonic", lambda: clock[0])
    for now in (100.0, 101.0, 101.9, 102.1, 103.0, 200.0):
        clock[0] = now
        memory.trim_at_times()
    assert asked == [100.0, 102.1, 200.0]


def test_a_process_that_was_stopped_meanwhile_gives_back_again_within_a_minute(monkeypatch):
    clock, asked = [0.0], []

    def trim():
        asked.append(clock[0])
        clock[0] += 100.0

    monkeypatch.setattr(memory, "_due", 0.0)
    monkeypatch.setattr(memory, "trim", trim)
    monkeypatch.setattr(memory.time, "monotonic", lambda: clock[0])
    for now in (0.0, 159.0, 161.0):
        clock[0] = now
        memory.trim_at_times()
    assert asked == [0.0, 159.0]
