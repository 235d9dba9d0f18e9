"""Stream state as a value.

Every streaming part keeps what it must remember in a frozen dataclass whose fields are arrays (numpy or torch) with the
batch of streams as their first axis, or further such dataclasses. A step takes a state and returns a new one and never
changes what it was given, so a state can be kept, compared, sent elsewhere, or taken up again:

    batch = stack([alice, bob])          # two streams with different histories, one batch
    y, batch = encoder.step(x, batch)
    alice, bob = select(batch, 0), select(batch, 1)

Nothing here imports torch: tensors are recognised by their methods.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any, Iterator, Sequence, TypeVar

import numpy as np

from speechstream.errors import SpeechStreamError

S = TypeVar("S")

_DTYPE = re.compile(r"[<|][biuf][1248]")  # what `to_bytes` writes, little endian


def fields(state: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every array of a state with its dotted name, in declaration order. `None` fields are passed over."""
    for f in dataclasses.fields(state):
        value = getattr(state, f.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{f.name}.")
        elif value is not None:
            yield prefix + f.name, value


def flatten(state: Any) -> dict[str, Any]:
    """A state as one flat dict, dotted names to arrays: the inputs and outputs of an exported graph."""
    return dict(fields(state))


def unflatten(like: S, arrays: dict[str, Any], prefix: str = "") -> S:
    """Rebuild a state of the same structure as `like` from a flat dict. Raises ValueError where an array is missing."""
    values = {}
    for f in dataclasses.fields(like):
        value, name = getattr(like, f.name), prefix + f.name
        if dataclasses.is_dataclass(value):
            values[f.name] = unflatten(value, arrays, name + ".")
        elif value is None:
            values[f.name] = None
        elif name in arrays:
            values[f.name] = arrays[name]
        else:
            raise ValueError(f"state array {name!r} is missing; found {sorted(arrays)}")
    return dataclasses.replace(like, **values)


def stack(states: Sequence[S]) -> S:
    """Concatenate states along their batch axis. All must have the same structure and the same shapes past it."""
    if not states:
        raise ValueError("stack needs at least one state")
    first = flatten(states[0])
    others = [flatten(s) for s in states]
    for flat in others:
        for name, a in first.items():
            if name not in flat or tuple(flat[name].shape[1:]) != tuple(a.shape[1:]):
                got = tuple(flat[name].shape) if name in flat else "nothing"
                raise ValueError(f"state array {name!r}: cannot stack {got} with {tuple(a.shape)}")
    return unflatten(
        states[0], {name: _concatenate([flat[name] for flat in others]) for name in first}
    )


def select(state: S, index: int | Sequence[int]) -> S:
    """The streams at `index` (one, or several in the order given) as a state of their own, copied."""
    rows = [index] if isinstance(index, (int, np.integer)) else list(index)
    return unflatten(
        state, {name: a[rows] for name, a in fields(state)}
    )  # a list index copies, a slice would share


def put(state: S, index: int | Sequence[int], part: S) -> S:
    """A copy of `state` in which the streams at `index` are replaced by those of `part`."""
    rows = [index] if isinstance(index, (int, np.integer)) else list(index)
    new, parts = {}, flatten(part)
    for name, a in fields(state):
        a = a.copy() if isinstance(a, np.ndarray) else a.clone()
        a[rows] = parts[name]
        new[name] = a
    return unflatten(state, new)


def batch_size(state: Any) -> int:
    """How many streams a state holds."""
    return next(fields(state))[1].shape[0]


def nbytes(state: Any) -> int:
    """Bytes a state occupies, over all its streams."""
    return sum(
        int(np.prod(a.shape)) * (a.itemsize if isinstance(a, np.ndarray) else a.element_size())
        for _, a in fields(state)
    )


def describe(state: Any) -> str:
    """A table of a state: name, shape, dtype and bytes of each array."""
    rows = [
        (name, str(tuple(a.shape)), str(a.dtype).removeprefix("torch."))
        for name, a in fields(state)
    ]
    widths = [max(len(r[i]) for r in rows) for i in range(2)]
    lines = [f"{n:{widths[0]}}  {s:{widths[1]}}  {d}" for n, s, d in rows]
    return "\n".join(lines + [f"{nbytes(state):,} bytes, {batch_size(state)} stream(s)"])


def to_bytes(state: Any) -> bytes:
    """Serialise a state: the length of a JSON header (8 bytes), the header, the raw arrays (little endian)."""
    header, blobs = [], []
    for name, a in fields(state):
        a = np.ascontiguousarray(a if isinstance(a, np.ndarray) else a.detach().cpu().numpy())
        header.append({"name": name, "shape": a.shape, "dtype": a.dtype.str})
        blobs.append(a.tobytes())
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + b"".join(blobs)


def from_bytes(data: bytes, like: S) -> S:
    """Read what `to_bytes` wrote into numpy arrays. `like` gives the structure, dtypes and shapes past the batch axis.

    Raises SpeechStreamError where the bytes are not such a state: nothing in them is executed.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        offset, arrays = 8 + size, {}
        for h in header:
            shape = tuple(int(n) for n in h["shape"])
            if (
                not _DTYPE.fullmatch(h["dtype"]) or min(shape, default=0) < 0
            ):  # numpy would parse far more than a name
                raise ValueError(h)
            dtype = np.dtype(h["dtype"])
            count = int(np.prod(shape))
            arrays[h["name"]] = np.frombuffer(data, dtype, count, offset).reshape(shape).copy()
            offset += count * dtype.itemsize
        if offset != len(data):
            raise ValueError("trailing bytes")
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError) as error:
        raise SpeechStreamError(
            f"not a stream state, or a truncated one ({len(data)} bytes)"
        ) from error
    for name, a in fields(like):
        got = arrays.get(name)
        expected = str(a.dtype).removeprefix("torch.")
        if got is None or got.shape[1:] != tuple(a.shape[1:]) or str(got.dtype) != expected:
            found = "nothing" if got is None else f"{got.dtype}{got.shape}"
            raise SpeechStreamError(
                f"this state is of another model: {name} is {found}, "
                f"expected {expected}{tuple(a.shape)}"
            )
    return unflatten(like, arrays)


def _concatenate(arrays: list) -> Any:
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    import torch  # only reached with tensors in hand

    return torch.cat(arrays)
