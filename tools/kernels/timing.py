"""How long a kernel takes, and tables of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

REPLAYS = 20


def timed(f: Callable[[], object], device: str, inner: int = 1) -> float:
    """Median microseconds of f (which does `inner` equal steps): graph replays on a GPU, a stopwatch on a CPU."""
    if device == "cpu":
        begun = time.perf_counter()
        f()
        return (time.perf_counter() - begun) * 1e6 / inner
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            f()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        f()
    return _replay(graph.replay) / inner


def _replay(f: Callable[[], object]) -> float:
    times = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        f()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def table(rows: list[list], head: str) -> list[str]:
    columns = head.split(" | ")
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(str(x) for x in row) + " |" for row in rows]
