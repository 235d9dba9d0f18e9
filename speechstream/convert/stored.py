"""The tensors of a checkpoint's *.safetensors as they lie in their files: names, sizes, and one at a time their bytes.

Neither torch nor a whole checkpoint in memory is needed to copy them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.config import read_value
from speechstream.errors import SpeechStreamError

MOST_JSON, MOST_HEADER = 128 << 20, 64 << 20  # bytes
DTYPES = {"BF16": 2, "F16": 2, "F32": 4}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its bytes are [begin, end)."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def tensors(folder: Path, renamed: Callable[[str], str | None]) -> dict[str, Stored]:
    """Every tensor of the folder's *.safetensors under its name here, checked to lie within its file.

    renamed: gives that name, None for what is left out. Raises SpeechStreamError.
    """
    parts = [
        p for p in sorted(folder.glob("*.safetensors")) if not p.name.startswith("consolidated")
    ]
    if not parts:
        raise SpeechStreamError(f"{folder} has no *.safetensors; other weights are not read")
    found: dict[str, Stored] = {}
    for path in parts:
        for name, stored in _header(path):
            new = renamed(name)
            if new is None:
                continue
            if new in found:
                raise SpeechStreamError(f"{folder} has the tensor {name!r} twice")
            found[new] = stored
    return found


def _header(path: Path) -> Iterator[tuple[str, Stored]]:
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
            yield name, Stored(path, entry["dtype"], shape, 8 + size + begin, 8 + size + end)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is damaged: {first_line(error)}") from error


def write(path: Path, tensors: dict[str, Stored]) -> None:
    """One safetensors file of tensors from several, each read once. Raises SpeechStreamError for NaN and infinity."""
    header, at = {}, 0
    for name, t in tensors.items():
        size = t.end - t.begin
        header[name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, t in tensors.items():
            with open(t.path, "rb") as file:
                file.seek(t.begin)
                raw = file.read(t.end - t.begin)
            if len(raw) != t.end - t.begin:
                raise SpeechStreamError(f"{t.path} is damaged at its tensor {name!r}")
            if not _finite(raw, t.dtype):
                raise SpeechStreamError(
                    f"{t.path} is damaged: its tensor {name!r} holds NaN or infinity"
                )
            out.write(raw)


def _finite(raw: bytes, dtype: str) -> bool:
    if dtype == "BF16":  # numpy has none: a number whose exponent is all ones
        return not (np.frombuffer(raw, "<u2") & 0x7F80 == 0x7F80).any()
    return bool(np.isfinite(np.frombuffer(raw, f"<f{DTYPES[dtype]}")).all())


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises SpeechStreamError."""
    try:
        if path.stat().st_size > MOST_JSON:
            raise SpeechStreamError(f"{path} is too long to be what its name says")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is damaged: it is not JSON") from error


def first_line(error: Exception) -> str:
    """An error's message, short."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
