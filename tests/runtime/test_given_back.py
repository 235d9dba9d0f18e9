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


class Clock:
    """The time of day, and what this thread has had of it."""

    def __init__(self, monkeypatch, costs, others):
        self.now, self.own, self.asked = 0.0, 0.0, []

        def trim():
            self.asked.append(self.now)
            self.own += costs
            self.now += costs + others

        monkeypatch.setattr(memory, "_due", 0.0)
        monkeypatch.setattr(memory, "trim", trim)
        monkeypatch.setattr(memory.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(memory.time, "thread_time", lambda: self.own)

    def at(self, *times):
        for now in times:
            self.now = now
            memory.trim_at_times()
        return self.asked


def test_it_takes_a_hundredth_of_the_time_at_most(monkeypatch):
    clock = Clock(monkeypatch, costs=0.02, others=0)
    assert clock.at(100.0, 101.0, 101.9, 102.1, 103.0, 200.0) == [100.0, 102.1, 200.0]


def test_time_that_others_had_the_core_or_the_process_was_stopped_does_not_count(monkeypatch):
    clock = Clock(monkeypatch, costs=0.02, others=100)
    assert clock.at(0.0, 1.9, 2.1, 4.2) == [0.0, 2.1, 4.2]
