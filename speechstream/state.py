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
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from speechstream.errors import SpeechStreamError

S = TypeVar("S")

FORMAT, VERSION = "speechstream-state", 1
MAX_COUNT = 1 << 53  # samples, frames: what JSON can say exactly


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
    values: dict[str, Any] = {}
    example: Any = like
    for f in dataclasses.fields(example):
        value, name = getattr(example, f.name), prefix + f.name
        if dataclasses.is_dataclass(value):
            values[f.name] = unflatten(value, arrays, name + ".")
        elif value is None:
            values[f.name] = None
        elif name in arrays:
            values[f.name] = arrays[name]
        else:
            raise ValueError(f"state array {name!r} is missing; found {sorted(arrays)}")
    rebuilt: S = dataclasses.replace(example, **values)
    return rebuilt


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


def to_bytes(
    state: Any, about: Mapping[str, Any] | None = None, fp16_caches: bool = False
) -> bytes:
    """Serialise a state as safetensors, its plain values and `about` as JSON in the metadata.

    A state is a dataclass of arrays, numbers, texts, None, tuples and further such dataclasses. With
    `fp16_caches`, fields declared by `cache()` are stored in 16 bits and read back as 32.
    """
    flat = flat_of(state, about, fp16_caches)
    content = json.dumps({"about": flat.about, "values": flat.values}, allow_nan=False)
    # one entry: the order of several is not said, and equal states have equal bytes
    head = {
        "format": FORMAT,
        "version": VERSION,
        "sha256": _digest(content, flat.arrays),
        "content": content,
    }
    data: bytes = safetensors.numpy.save(flat.arrays, {"speechstream": json.dumps(head)})
    return data


@dataclasses.dataclass(frozen=True)
class Flat:
    """A state taken apart: JSON values, with the names of arrays in their places, and the arrays, which are not copied."""

    values: Any
    about: dict[str, Any]
    arrays: dict[str, np.ndarray]


def flat_of(state: Any, about: Mapping[str, Any] | None = None, fp16_caches: bool = False) -> Flat:
    """A state taken apart, as `to_bytes` writes it."""
    arrays: dict[str, np.ndarray] = {}
    values = _dump(state, "", arrays, fp16_caches)
    return Flat(values, dict(about or {}), arrays)


def pack(flat: Flat, before: Flat | None = None) -> bytes:
    """A state for `unpack`, or only what is new since an earlier one of the same stream: caches grow at their ends.

    For processes that trust each other: unlike `to_bytes` it has no checksum, which costs more than all the rest.
    """
    if before is None:
        head: dict[str, Any] = {"values": flat.values, "about": flat.about}
        data: bytes = safetensors.numpy.save(flat.arrays, {"whole": json.dumps(head)})
        return data
    new, same, grown = {}, [], {}
    for name, a in flat.arrays.items():
        axis = _grown(a, before.arrays.get(name))
        if axis is None:
            new[name] = a
        elif axis < 0:
            same.append(name)
        else:
            grown[name] = axis
            begin = before.arrays[name].shape[axis]
            new[name] = np.ascontiguousarray(a[(slice(None),) * axis + (slice(begin, None),)])
    head = {"values": flat.values, "same": same, "grown": grown}
    added: bytes = safetensors.numpy.save(new, {"added": json.dumps(head)})
    return added


def unpack(pieces: Sequence[bytes]) -> Flat:
    """What `pack` was given last: a whole state, and what was added to it. Raises SpeechStreamError."""
    flat = Flat(None, {}, {})
    try:
        for i, data in enumerate(pieces):
            size = int.from_bytes(data[:8], "little")
            metadata = json.loads(data[8 : 8 + size])["__metadata__"]
            head, arrays = json.loads(metadata["added" if i else "whole"]), {}
            for name, a in safetensors.numpy.load(data).items():
                axis = head["grown"].get(name) if i else None
                arrays[name] = (
                    a if axis is None else np.concatenate([flat.arrays[name], a], axis=axis)
                )
            arrays |= {name: flat.arrays[name] for name in (head["same"] if i else ())}
            flat = Flat(head["values"], flat.about if i else head["about"], arrays)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise SpeechStreamError(f"these are no pieces of a snapshot: {error}") from error
    return flat


def _grown(a: np.ndarray, before: np.ndarray | None) -> int | None:
    """The axis along which an array goes on after the one before; -1: they are equal; None: it is another one."""
    if before is None or a.dtype != before.dtype or a.ndim != before.ndim:
        return None
    axes = [i for i, (n, m) in enumerate(zip(a.shape, before.shape)) if n != m]
    if len(axes) > 1 or (axes and a.shape[axes[0]] < before.shape[axes[0]]):
        return None
    axis = axes[0] if axes else -1
    first = a[(slice(None),) * axis + (slice(before.shape[axis]),)] if axes else a
    bits = f"u{a.itemsize}"  # NaN is equal to itself here, and 0 is not -0
    return axis if np.array_equal(first.view(bits), before.view(bits)) else None


def from_bytes(data: bytes | Flat, kind: Any, opaque: Mapping[str, Any] | None = None) -> Any:
    """Read what `to_bytes` wrote of a `kind`, a type or an example state; nothing in the bytes is executed.

    Every value is checked against its field's type and declared range. opaque: types, or example
    states, for fields whose declared type is Any, by their dotted names. Raises SpeechStreamError.
    """
    values, _, arrays = _unpack(data)
    try:
        left = dict(arrays)
        state = _load(values, kind, "", left, opaque or {}, {})
        if left:
            raise ValueError(f"nothing takes its array {next(iter(left))!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise SpeechStreamError(
            f"this snapshot holds no {_name(kind)} that could be: {error}"
        ) from error
    return state


def about_bytes(data: bytes | Flat) -> dict[str, Any]:
    """The `about` that `to_bytes` was given. Raises SpeechStreamError."""
    return _unpack(data)[1]


def bounded(least: int, most: int = MAX_COUNT, **options: Any) -> Any:
    """A field of whole numbers, or an array of them, within [least, most]; checked by `from_bytes`."""
    return dataclasses.field(metadata={"range": (least, most)}, **options)


def cache(**options: Any) -> Any:
    """A field that holds caches which `to_bytes` may store in 16 bits."""
    return dataclasses.field(metadata={"cache": True}, **options)


def _unpack(data: bytes | Flat) -> tuple[Any, dict[str, Any], dict[str, np.ndarray]]:
    if isinstance(data, Flat):
        return data.values, data.about, data.arrays
    try:
        data = bytes(memoryview(data))
        size = int.from_bytes(data[:8], "little")
        if size > len(data):
            raise ValueError("truncated")
        metadata = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["speechstream"])
        if metadata["format"] != FORMAT:
            raise ValueError("another format")
        if metadata["version"] != VERSION:
            raise SpeechStreamError(
                f"this snapshot has version {str(metadata['version'])[:20]}, expected {VERSION}; "
                "resume it with the release of speechstream that took it"
            )
        arrays = safetensors.numpy.load(data)
        content = metadata["content"]
        if _digest(content, arrays) != metadata["sha256"]:
            raise ValueError("altered")
        found = json.loads(content)
        return found["values"], found["about"], arrays
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        MemoryError,
        safetensors.SafetensorError,
    ) as error:
        raise SpeechStreamError(
            f"not the snapshot of a stream, or a damaged one ({_size(data)}); take it again"
        ) from error


def _digest(content: str, arrays: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        a = arrays[name]
        sha.update(f"{name} {a.dtype.str} {a.shape}".encode())
        sha.update(np.ascontiguousarray(a).tobytes())
    return sha.hexdigest()


def _dump(
    value: Any, name: str, arrays: dict[str, np.ndarray], half: bool, cached: bool = False
) -> Any:
    """A value as JSON. Its arrays go to `arrays` under dotted names, and their names in their places."""
    if dataclasses.is_dataclass(value):
        return {
            f.name: _dump(
                getattr(value, f.name),
                f"{name}.{f.name}".lstrip("."),
                arrays,
                half,
                cached or bool(f.metadata.get("cache")),
            )
            for f in dataclasses.fields(value)
        }
    if isinstance(value, tuple):
        return [_dump(v, f"{name}.{i}", arrays, half, cached) for i, v in enumerate(value)]
    if hasattr(value, "__array__") and not np.isscalar(value):
        a = np.ascontiguousarray(
            value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
        )
        a = a.astype(a.dtype.newbyteorder("<"), copy=False).reshape(np.shape(value))
        if half and cached and a.dtype == np.float32:
            a = a.clip(-65504, 65504).astype(np.float16)  # its largest number rather than infinity
        arrays[name] = a
        return name
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"{name} is {type(value).__name__}, which no state may hold")


def _load(
    value: Any,
    kind: Any,
    name: str,
    arrays: dict[str, np.ndarray],
    opaque: Mapping[str, Any],
    declared: Mapping[str, Any],
) -> Any:
    """A value of the declared type. Arrays that were taken leave `arrays`. Raises ValueError."""
    if kind is Any:
        kind = opaque.get(name)
        if kind is None:
            raise ValueError(f"{name} is of no type that is known here")
    if not isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _load_like(value, kind, name, arrays)
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        return _load(
            value, next(o for o in options if o is not type(None)), name, arrays, opaque, declared
        )
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        members = {f.name: f for f in dataclasses.fields(kind)}
        if not isinstance(value, dict) or set(value) != set(members):
            raise ValueError(f"{name or 'it'} has not the fields of a {kind.__name__}")
        kept = {"cache": True} if declared.get("cache") else {}
        return kind(
            **{
                n: _load(
                    value[n], hints[n], f"{name}.{n}".lstrip("."), arrays, opaque, kept | f.metadata
                )
                for n, f in members.items()
            }
        )
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name} is {str(value)[:40]}, expected a list")
        if len(options) == 2 and options[1] is Ellipsis:
            options = (options[0],) * len(value)
        if len(options) != len(value):
            raise ValueError(f"{name} has {len(value)} parts, expected {len(options)}")
        return tuple(
            _load(v, o, f"{name}.{i}", arrays, opaque, declared)
            for i, (v, o) in enumerate(zip(value, options))
        )
    if kind is np.ndarray:
        return _load_array(value, name, arrays, declared)
    return _load_plain(value, kind, name, declared)


def _load_plain(value: Any, kind: Any, name: str, declared: Mapping[str, Any]) -> Any:
    if kind is float and type(value) is int:
        value = float(value)
    if kind not in (bool, int, float, str) or type(value) is not kind:
        raise ValueError(f"{name} is {str(value)[:40]}, expected {getattr(kind, '__name__', kind)}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, expected a finite number")
    least, most = declared.get("range", (0, MAX_COUNT))
    if kind is int and not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]}, expected {least} to {most}")
    return value


def _load_array(
    value: Any, name: str, arrays: dict[str, np.ndarray], declared: Mapping[str, Any]
) -> np.ndarray:
    if value != name or name not in arrays:
        raise ValueError(f"its array {name!r} is missing")
    a = arrays.pop(name)
    if a.dtype == np.float16 and declared.get("cache"):
        a = a.astype(np.float32)
    if a.dtype.kind == "f" and not declared.get("infinite") and not np.isfinite(a).all():
        raise ValueError(f"{name} holds a number that is not finite")
    if np.isnan(a).any() if a.dtype.kind == "f" else False:
        raise ValueError(f"{name} holds NaN")
    least, most = declared.get("range", (-MAX_COUNT, MAX_COUNT))
    if a.dtype.kind in "iu" and a.size and (a.min() < least or a.max() > most):
        raise ValueError(f"{name} is out of the range {least} to {most}")
    return a


def _load_like(value: Any, like: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A network's state, of which `like` gives the structure, dtypes and shapes past the batch axis."""
    found = {}
    for n, a in fields(like):
        got = arrays.pop(f"{name}.{n}".lstrip("."), None)
        expected = np.dtype(str(a.dtype).removeprefix("torch."))
        if got is not None and got.dtype == np.float16:
            got = got.astype(expected)
        if got is None or got.dtype != expected or got.shape[1:] != tuple(a.shape[1:]):
            has = "nothing" if got is None else f"{got.dtype}{list(got.shape)}"
            raise ValueError(
                f"{name}.{n}".lstrip(".") + f" is {has}, expected {expected}{list(a.shape)}"
            )
        if got.dtype.kind == "f" and np.isnan(got).any():
            raise ValueError(f"{name}.{n} holds NaN")
        if (
            got.dtype.kind in "iu"
            and got.size
            and (got.min() < -MAX_COUNT or got.max() > MAX_COUNT)
        ):
            raise ValueError(f"{name}.{n} is out of range")
        found[n] = got
    return unflatten(like, found)


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", type(kind).__name__))


def _size(data: Any) -> str:
    return (
        f"{len(data)} bytes"
        if isinstance(data, (bytes, bytearray, memoryview))
        else type(data).__name__
    )


def _concatenate(arrays: list) -> Any:
    if isinstance(arrays[0], np.ndarray):
        return np.concatenate(arrays)
    import torch  # only reached with tensors in hand

    return torch.cat(arrays)
