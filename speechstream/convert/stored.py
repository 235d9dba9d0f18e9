"""Tensors where they lie in *.safetensors: found by the headers alone, read one at a time, written one at a time.

A tensor is numbers of one width, whatever they mean: it can be cut and put together as it is stored. Nothing is made of
a size that a file claims before the file is seen to be that long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.config import Section, read_value
from speechstream.errors import SpeechStreamError

MOST_JSON, MOST_HEADER = 128 << 20, 64 << 20  # bytes
DTYPES = {"BF16": 2, "F16": 2, "F32": 4}
BOOL = "BOOL"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its bytes are [begin, end)."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def read(self) -> np.ndarray:
        """Its numbers as they are stored, in unsigned integers of their width. Raises SpeechStreamError where one is no number."""
        with open(self.path, "rb") as file:
            file.seek(self.begin)
            raw = file.read(self.end - self.begin)
        if len(raw) != self.end - self.begin:
            raise SpeechStreamError(f"{self.path} is damaged at its tensor {self.name!r}")
        if not _finite(raw, self.dtype):
            raise SpeechStreamError(
                f"{self.path} is damaged: its tensor {self.name!r} holds NaN or infinity"
            )
        return np.frombuffer(raw, f"<u{DTYPES[self.dtype]}").reshape(self.shape)


@dataclass(frozen=True)
class Made:
    """A tensor that is made when it is written. make: its numbers, in unsigned integers of their width."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]

    def read(self) -> np.ndarray:
        return self.make()


def header(path: Path) -> Iterator[Stored]:
    """Every tensor of a file, checked to lie within it. Raises SpeechStreamError for a damaged one, or another type of number."""
    try:
        whole = path.stat().st_size
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > min(whole, MOST_HEADER):
                raise ValueError("truncated")
            entries = json.loads(file.read(size))
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            shape = read_value(tuple[int, ...], entry["shape"], name)
            begin, end = read_value(tuple[int, int], entry["data_offsets"], name)
            width = DTYPES.get(entry["dtype"])
            if width is None:
                raise SpeechStreamError(
                    f"{path}: its tensor {name[:80]!r} is of type {str(entry['dtype'])[:20]}, which is not read"
                )
            count = int(np.prod([float(n) for n in shape]))
            if not 0 <= begin <= end <= whole - 8 - size or end - begin != width * count:
                raise ValueError(f"{name[:80]} lies outside the file")
            yield Stored(path, name, entry["dtype"], shape, 8 + size + begin, 8 + size + end)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is damaged: {first_line(error)}") from error


def tensors(folder: Path, renamed: Callable[[str], str | None]) -> dict[str, Stored]:
    """Every tensor of a folder's *.safetensors under its new name. renamed: None for one that is left out.

    Files that begin with "consolidated" hold the same once more, in another form. Raises SpeechStreamError.
    """
    parts = [
        p for p in sorted(folder.glob("*.safetensors")) if not p.name.startswith("consolidated")
    ]
    if not parts:
        raise SpeechStreamError(f"{folder} has no *.safetensors; other weights are not read")
    found: dict[str, Stored] = {}
    for path in parts:
        for stored in header(path):
            name = renamed(stored.name)
            if name in found:
                raise SpeechStreamError(f"{folder} has the tensor {stored.name!r} twice")
            if name is not None:
                found[name] = stored
    return found


def rename(name: str, patterns: Sequence[tuple[str, str]]) -> str:
    """A name with each pattern replaced, one after the other."""
    for pattern, new in patterns:
        name = re.sub(pattern, new, name)
    return name


def check_kind(config: Section, kind: str) -> None:
    """Raises ValueError where a config.json is that of another type of model, or of one that is quantised."""
    said = config.text("model_type", "")
    if said != kind:
        raise ValueError(f"its model type is {said[:40]!r}, expected {kind!r}")
    if "quantization_config" in config:
        raise ValueError("its weights are quantised; convert the original")


def check_only(what: str, section: Section, key: str, only: str) -> None:
    """Raises ValueError where a key says something else."""
    said = section.text(key, only)
    if said != only:
        raise ValueError(f"{what} is {said[:40]!r}, and only {only!r} is supported")


def rotary_base(section: Section, default: float = 10_000.0) -> float:
    """The base of rotary positions that turn a whole head and are not stretched. Raises ValueError for others."""
    rope, older = (section.section(key) for key in ("rope_parameters", "rope_scaling"))
    if rope.keys and older.keys:
        raise ValueError("it has rope_parameters and rope_scaling, and only one of them is read")
    rope = rope if rope.keys else older
    kind = rope.text("rope_type", rope.text("type", "default"))
    part = rope.number("partial_rotary_factor", section.number("partial_rotary_factor", 1.0))
    if kind != "default" or part != 1:
        what = f"of type {kind[:40]!r}" if kind != "default" else f"in {part:g} of a head"
        raise ValueError(f"{rope.name} are rotary positions {what}, which are not supported")
    return rope.number("rope_theta", section.number("rope_theta", default))


def write(path: Path, tensors: Mapping[str, Stored | Made]) -> None:
    """One safetensors file of tensors from wherever they are, each read once."""
    entries, at = {}, 0
    for name, t in tensors.items():
        size = DTYPES.get(t.dtype, 1) * int(np.prod(t.shape, dtype=np.int64))
        entries[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for t in tensors.values():
            out.write(np.ascontiguousarray(t.read()).data)


def check_shapes(
    where: Path, given: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]
) -> None:
    """Raises SpeechStreamError where the shapes of tensors are not those that a configuration asks for."""
    if wrong := sorted(expected.keys() ^ given.keys()):
        what = "lacks the tensor" if wrong[0] in expected else "has an unknown tensor"
        raise SpeechStreamError(f"{where} {what} {wrong[0][:80]!r} (as it is called here)")
    for name, shape in expected.items():
        if tuple(given[name]) != tuple(shape):
            raise SpeechStreamError(
                f"{where}: its tensor {name!r} (as it is called here) has the shape {tuple(given[name])}, "
                f"and its config says {tuple(shape)}"
            )


def check_copy(where: Path, copy: Stored | None, original: Stored | None) -> None:
    """Raises SpeechStreamError where an output layer stands beside the embedding that it is said to be, and is another."""
    if copy is None or original is None or copy.shape != original.shape:
        return
    if copy.dtype != original.dtype or not np.array_equal(copy.read(), original.read()):
        raise SpeechStreamError(
            f"{where}: its output layer differs from its embedding, and its config says that they are one"
        )


def read_json(path: Path) -> Any:
    """What a file holds. Raises SpeechStreamError for one that is absent, too long or no JSON."""
    try:
        if path.stat().st_size > MOST_JSON:
            raise SpeechStreamError(f"{path} is too long to be what its name says")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is damaged: it is not JSON") from error


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def _finite(raw: bytes, dtype: str) -> bool:
    if dtype == "BF16":  # numpy has none: a number whose exponent is all ones
        return not (np.frombuffer(raw, "<u2") & 0x7F80 == 0x7F80).any()
    return bool(np.isfinite(np.frombuffer(raw, f"<f{DTYPES[dtype]}")).all())
