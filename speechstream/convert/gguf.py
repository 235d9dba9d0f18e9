"""GGUF files (llama.cpp's) in: metadata and tensors, every length checked against the file before it is believed.

Matrices come as they are stored, blocks of 4 or 8 bits, so that an exported graph can hold the very same numbers:
value = scale x (code - 2^(bits-1)) + offset. The layouts are those of ggml (`ggml-quants.c`).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.errors import SpeechStreamError

MAGIC = b"GGUF"
MOST_ENTRIES = 1 << 16  # of metadata, and of tensors
MOST_ITEMS = 1 << 22  # of an array of metadata: a vocabulary has fewer
MOST_TEXT = 1 << 24  # bytes of one text
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
# type: (name, weights a block, bytes a block)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    30: ("BF16", 1, 2),
}
# What the 16 codes of IQ4_NL and IQ4_XS stand for (ggml's kvalues_iq4nl)
_UNEVEN = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int16
)


@dataclass(frozen=True)
class Blocks:
    """A matrix (N, K) in blocks along K: value = scale x (code - 2^(bits-1)) + offset."""

    bits: int  # 4 or 8
    codes: np.ndarray  # (N, K) uint8, not packed
    scales: np.ndarray  # (N, K / block) float32
    offsets: np.ndarray | None  # (N, K / block) float32, or none at all

    @property
    def block(self) -> int:
        return self.codes.shape[1] // self.scales.shape[1]

    def values(self) -> np.ndarray:
        """The matrix (N, K) float32."""
        n, k = self.codes.shape
        codes = self.codes.reshape(n, -1, self.block).astype(np.float32) - (1 << (self.bits - 1))
        codes *= self.scales[..., None]
        if self.offsets is not None:
            codes += self.offsets[..., None]
        return codes.reshape(n, k)

    def rows(self, order: np.ndarray) -> Blocks:
        """The matrix with its rows in another order."""
        offsets = None if self.offsets is None else self.offsets[order]
        return Blocks(self.bits, self.codes[order], self.scales[order], offsets)


@dataclass(frozen=True)
class Tensor:
    """What the file says of a tensor; shape is numpy's, the last axis is the contiguous one."""

    name: str
    kind: int
    shape: tuple[int, ...]
    start: int  # in the file
    nbytes: int


class Gguf:
    """An open file: `metadata` by key, `tensors` by name. Raises SpeechStreamError for a damaged or foreign one."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise SpeechStreamError(f"{path} cannot be read as a GGUF file: {error}") from error
        self._at = 0
        try:
            self._read()
        except (struct.error, ValueError, OverflowError) as error:
            raise SpeechStreamError(f"{path} is not a usable GGUF file: {error}") from error

    def _read(self) -> None:
        if self._data[:4] != MAGIC:
            raise ValueError("it does not begin with 'GGUF'")
        self._at = 4
        version, tensors, entries = self._number("I"), self._number("Q"), self._number("Q")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, supported are 2 and 3")
        if tensors > MOST_ENTRIES or entries > MOST_ENTRIES:
            raise ValueError(f"it claims {tensors} tensors and {entries} entries of metadata")
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._text()
            self.metadata[key] = self._value(self._number("I"))
        found = [self._header() for _ in range(tensors)]
        align = self.metadata.get("general.alignment", 32)
        if type(align) is not int or not 0 < align <= 1 << 16:
            raise ValueError(f"its alignment is {str(align)[:20]}")
        begin = -(-self._at // align) * align
        self.tensors: dict[str, Tensor] = {}
        for t in found:
            start = begin + t.start
            if start + t.nbytes > len(self._data):
                raise ValueError(f"it ends before its tensor {t.name[:60]!r} does")
            self.tensors[t.name] = Tensor(t.name, t.kind, t.shape, start, t.nbytes)

    def _number(self, kind: str) -> Any:
        value = struct.unpack_from("<" + kind, self._data, self._at)[0]
        self._at += struct.calcsize("<" + kind)
        return value

    def _text(self) -> str:
        size = self._number("Q")
        if size > MOST_TEXT or self._at + size > len(self._data):
            raise ValueError(f"it has a text of {size} bytes at byte {self._at}")
        self._at += size
        return self._data[self._at - size : self._at].decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind in _PLAIN:
            return self._number(_PLAIN[kind])
        if kind != _ARRAY:
            raise ValueError(f"it has metadata of the unknown type {kind}")
        item, count = self._number("I"), self._number("Q")
        if count > MOST_ITEMS:
            raise ValueError(f"it claims a list of {count} items")
        if item == _TEXT:
            return [self._text() for _ in range(count)]
        if item not in _PLAIN:
            raise ValueError(f"it has a list of the unsupported type {item}")
        size = count * struct.calcsize("<" + _PLAIN[item])
        if self._at + size > len(self._data):
            raise ValueError("it ends in the middle of a list")
        self._at += size
        return list(struct.unpack_from(f"<{count}{_PLAIN[item]}", self._data, self._at - size))

    def _header(self) -> Tensor:
        name, axes = self._text(), self._number("I")
        if not 1 <= axes <= 4:
            raise ValueError(f"its tensor {name[:60]!r} has {axes} axes")
        shape = tuple(self._number("Q") for _ in range(axes))[::-1]
        kind, start = self._number("I"), self._number("Q")
        if kind not in TYPES:
            raise ValueError(
                f"its tensor {name[:60]!r} is stored in ggml's type {kind}; supported are "
                + ", ".join(t for t, _, _ in TYPES.values())
            )
        _, weights, size = TYPES[kind]
        if not all(shape) or shape[-1] % weights:
            raise ValueError(f"its tensor {name[:60]!r} has the impossible shape {shape}")
        return Tensor(name, kind, shape, start, math.prod(shape) // weights * size)

    def values(self, name: str) -> np.ndarray:
        """A tensor in float32. Raises SpeechStreamError where the file has none of this name."""
        t = self._find(name)
        raw = np.frombuffer(self._data, np.uint8, t.nbytes, t.start)
        if t.kind == 0:
            return raw.view("<f4").reshape(t.shape).astype(np.float32)
        if t.kind == 1:
            return raw.view("<f2").reshape(t.shape).astype(np.float32)
        if t.kind == 30:
            return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).reshape(t.shape)
        found = self.blocks(name)
        assert found is not None
        return found.values().reshape(t.shape)

    def blocks(self, name: str) -> Blocks | None:
        """A tensor as the blocks that it is stored in, (rows, last axis); None where it is stored in floats."""
        t = self._find(name)
        kind, weights, size = TYPES[t.kind]
        if weights == 1:
            return None
        raw = np.frombuffer(self._data, np.uint8, t.nbytes, t.start).reshape(-1, size)
        codes, scales, offsets = _UNPACK[kind](raw)
        rows = math.prod(t.shape[:-1])
        return Blocks(
            4 if kind.startswith("Q4") else 8,
            codes.reshape(rows, -1),
            scales.reshape(rows, -1),
            None if offsets is None else offsets.reshape(rows, -1),
        )

    def _find(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise SpeechStreamError(f"{self.path} lacks the tensor {name!r}")
        return self.tensors[name]


def _half(raw: np.ndarray, at: int) -> np.ndarray:
    """The number in 16 bits at this byte of each block, (blocks, 1) float32."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(raw: np.ndarray) -> np.ndarray:
    """(blocks, n) bytes to (blocks, 2 n): all low halves, then all high ones."""
    return np.concatenate([raw & 15, raw >> 4], -1)


def _q4_0(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    return _nibbles(raw[:, 2:]), _half(raw, 0), None


def _q4_1(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale, least = _half(raw, 0), _half(raw, 2)
    return _nibbles(raw[:, 4:]), scale, least + 8 * scale


def _fives(raw: np.ndarray, at: int) -> np.ndarray:
    """(blocks, 32) codes of 5 bits: 4 bytes of high bits at this byte, then nibbles; 112 more, so that 16 is in the middle."""
    high = np.unpackbits(raw[:, at : at + 4], axis=1, bitorder="little")
    return (_nibbles(raw[:, at + 4 :]) | high << 4) + np.uint8(112)


def _q5_0(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    return _fives(raw, 2), _half(raw, 0), None


def _q5_1(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale, least = _half(raw, 0), _half(raw, 2)
    return _fives(raw, 4), scale, least + 16 * scale


def _uneven(raw: np.ndarray) -> np.ndarray:
    """(blocks, n) bytes of codes of 4 bits to (blocks, 2 n) of 8."""
    return (_UNEVEN + 128).astype(np.uint8)[_nibbles(raw)]


def _iq4_nl(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    return _uneven(raw[:, 2:]), _half(raw, 0), None


def _iq4_xs(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    low = np.stack([raw[:, 4:8] & 15, raw[:, 4:8] >> 4], -1).reshape(-1, 8)
    high = np.ascontiguousarray(raw[:, 2:4]).view("<u2") >> (2 * np.arange(8, dtype=np.uint16)) & 3
    scales = ((low | high << 4).astype(np.float32) - 32) * _half(raw, 0)
    return _uneven(raw[:, 8:].reshape(-1, 8, 16)), scales, None


def _pairs_of_bits(raw: np.ndarray) -> np.ndarray:
    """64 bytes of a K block to its 256 codes of 2 bits, (blocks, 2, 4, 32)."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return (raw.reshape(-1, 2, 1, 32) >> shifts) & 3


def _q2_k(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scales, least = (raw[:, :16] & 15) * _half(raw, 80), (raw[:, :16] >> 4) * _half(raw, 82)
    return _pairs_of_bits(raw[:, 16:80]) + np.uint8(128), scales, -least


def _q3_k(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    shifts = np.arange(8, dtype=np.uint8).reshape(2, 4, 1)
    high = (raw[:, None, None, :32] >> shifts) & 1
    codes = _pairs_of_bits(raw[:, 32:96]) + 4 * high + np.uint8(124)  # code - 128 is q - 4
    low = np.concatenate([raw[:, 96:104] & 15, raw[:, 96:104] >> 4], 1)
    rest = (raw[:, None, 104:108] >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    scales = (low | rest.reshape(-1, 16) << 4).astype(np.float32) - 32
    return codes, scales * _half(raw, 108), None


def _q8_0(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    return raw[:, 2:] ^ 128, _half(raw, 0), None  # int8 + 128


def _sixes(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 8 scales and 8 minima of 6 bits in the 12 bytes of a K block."""
    a, b, c = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], 1)
    least = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], 1)
    return scales.astype(np.float32), least.astype(np.float32)


def _q4_k(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scales, least = _sixes(raw)
    scales, least = scales * _half(raw, 0), least * _half(raw, 2)
    return _nibbles(raw[:, 16:].reshape(-1, 4, 32)), scales, 8 * scales - least


def _q5_k(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scales, least = _sixes(raw)
    scales, least = scales * _half(raw, 0), least * _half(raw, 2)
    low = _nibbles(raw[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    high = (raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return (low | high << 4) + np.uint8(112), scales, 16 * scales - least  # code - 128 is q - 16


def _q6_k(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
    low = _nibbles(raw[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = _pairs_of_bits(raw[:, 128:192])
    scales = np.ascontiguousarray(raw[:, 192:208]).view(np.int8) * _half(raw, 208)
    return (low | high << 4) + np.uint8(96), scales, None  # code - 128 is q - 32


_UNPACK: dict[str, Any] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
