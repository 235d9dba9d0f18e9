"""States whose keys and values grow along axis 3: streams of any age as one batch, and no longer than a window; without torch.

All of it takes tensors as well as arrays. A younger stream is padded on the left, and what counts what a stream has
read comes last among a state's fields. A state may be made of several such groups, each with a count of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from speechstream.state import bounded, cache

S = TypeVar("S")

GROWING = ("keys", "values")


@dataclass(frozen=True)
class TextArrays:
    """`nn.llm.LlmState` of one stream."""

    keys: np.ndarray = cache()
    values: np.ndarray = cache()
    tokens: np.ndarray = bounded(0)


def join(states: Sequence[S]) -> S:
    """Streams of any age as one batch."""
    first: Any = states[0]
    if len(states) == 1:
        return states[0]
    found: dict[str, Any] = {}
    for f in fields(first):
        parts = [getattr(s, f.name) for s in states]
        if is_dataclass(parts[0]):
            found[f.name] = join(parts)
            continue
        longest = max(a.shape[3] for a in parts) if f.name in GROWING else 0
        whole = _zeros(parts, longest)
        at = 0
        for a in parts:
            rows = whole[at : at + len(a)]
            (rows[..., longest - a.shape[3] :, :] if f.name in GROWING else rows)[:] = a
            at += len(a)
        found[f.name] = whole
    joined: S = replace(first, **found)
    return joined


def part(state: S, row: int) -> S:
    """One stream of a batch, without what it was padded with, copied."""
    given: Any = state
    groups = {f.name: getattr(given, f.name) for f in fields(given)}
    if any(is_dataclass(g) for g in groups.values()):
        whole: S = replace(given, **{n: part(g, row) for n, g in groups.items()})
        return whole
    age = int(getattr(given, fields(given)[-1].name)[row])
    found = {}
    for f in fields(given):
        a = getattr(given, f.name)[row : row + 1]
        if f.name in GROWING:
            a = a[..., a.shape[3] - min(age, a.shape[3]) :, :]
        found[f.name] = a.copy() if isinstance(a, np.ndarray) else a.clone()
    one: S = replace(given, **found)
    return one


def _zeros(parts: Sequence[Any], longest: int) -> Any:
    a, batch = parts[0], sum(map(len, parts))
    shape = (batch, *a.shape[1:3], longest, a.shape[4]) if a.ndim == 5 else (batch, *a.shape[1:])
    return np.zeros(shape, a.dtype) if isinstance(a, np.ndarray) else a.new_zeros(shape)


def shortened(state: S, window: int) -> S:
    """A state without the keys and values that nothing will see again; window 0: all will be."""
    given: Any = state
    size = given.keys.shape[3]
    first = max(size - (window - 1), 0) if window else 0
    if not first:
        return state
    kept = {n: getattr(given, n)[:, :, :, first:] for n in GROWING}
    kept = {n: a.copy() if isinstance(a, np.ndarray) else a for n, a in kept.items()}
    short: S = replace(given, **kept)
    return short


def rewound(state: S, tokens: int) -> S:
    """A language model's state before its last tokens were read. Raises ValueError for more than there are."""
    given: Any = state
    have = given.keys.shape[3]
    if not 0 <= tokens <= min(have, int(given.tokens.min())):
        raise ValueError(f"{tokens} tokens cannot be taken back of {have}")
    kept: dict[str, Any] = {n: getattr(given, n)[:, :, :, : have - tokens] for n in GROWING}
    before: S = replace(given, tokens=given.tokens - tokens, **kept)
    return before
