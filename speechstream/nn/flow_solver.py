"""Explicit Runge-Kutta methods on whatever can be added: tensors in training, arrays where there is no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from speechstream.nn.flow_config import SOLVERS

A = TypeVar("A", bound=Any)


def solve(velocity: Callable[[A, int], A], x: A, times: tuple[float, ...], solver: str) -> A:
    """Carry x along dx/dt = velocity(x, e) through `times` with an explicit Runge-Kutta method; e counts evaluations."""
    weights, result, _ = SOLVERS[solver]
    for i, (begin, end) in enumerate(zip(times, times[1:])):
        step, slopes = end - begin, list[A]()
        for j, row in enumerate(weights):
            y = _along(x, step, row, slopes)
            slopes.append(velocity(y, i * len(weights) + j))
        x = _along(x, step, result, slopes)
    return x


def evaluation_times(times: tuple[float, ...], solver: str) -> list[float]:
    """The time of each evaluation that `solve` makes."""
    stages = SOLVERS[solver][2]
    return [a + (b - a) * c for a, b in zip(times, times[1:]) for c in stages]


def _along(x: A, step: float, weights: tuple[float, ...], slopes: list[A]) -> A:
    for weight, slope in zip(weights, slopes):
        if weight:
            x = x + (step * weight) * slope
    return x
