"""PCM without a header: sample formats, telephony's among them, from a stream that cuts them anywhere."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from speechstream.audio.channels import MIX, Channels
from speechstream.audio.containers.content import READ_BYTES, some
from speechstream.audio.recording import Decoded, Part, heard
from speechstream.audio.samples import MAX_CHANNELS, as_samples

_TYPES = {"uint8": "u1", "int16": "<i2", "int32": "<i4", "float32": "<f4", "float64": "<f8"}
TYPES = (*_TYPES, "int24", "mulaw", "alaw")
UNKNOWN_SIZE = 0xFFFFFFFF  # of a WAV whose length is not known yet: players read on to the end


def raw_blocks(
    stream: BinaryIO,
    dtype: str | np.dtype = "int16",
    channels: int = 1,
    name: str = "the stream",
    hear: Channels = MIX,
) -> Iterator[np.ndarray]:
    """Read raw interleaved PCM from a binary stream until it ends, as mono float32 blocks (n,) of what has arrived.

    dtype: "uint8", "int16", "int24", "int32", "float32" or "float64", little endian, or "mulaw" or "alaw" (ITU-T
    G.711); or a numpy dtype with its own byte order. channels: how many there are; hear: which of them, as of
    `audio.io.blocks`. Raises ValueError for other types, SpeechStreamError where the
    stream holds no sample, and AudioDamaged where it ends in the middle of one, or has held some that are not finite.
    """
    kind = decoder(dtype, channels)
    return heard([Part(None, part_of(stream, b"", kind, None), floats=kind.floats)], name, hear)


@dataclass(frozen=True)
class Decoder:
    """decode: whole frames of bytes to an array (n, channels); frame: the bytes of one; floats: of what type."""

    decode: Callable[[bytes], np.ndarray]
    frame: int
    floats: bool = False


def decoder(dtype: str | np.dtype, channels: int) -> Decoder:
    """How frames of a type are read. Raises ValueError for other types and numbers of channels."""
    if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"channels must lie between 1 and {MAX_CHANNELS}, got {channels}")
    if isinstance(dtype, str) and dtype in ("mulaw", "alaw"):
        table = mulaw_table() if dtype == "mulaw" else alaw_table()
        return Decoder(
            lambda data: table[np.frombuffer(data, np.uint8)].reshape(-1, channels), channels
        )
    if isinstance(dtype, str) and dtype == "int24":

        def decode24(data: bytes) -> np.ndarray:
            x = np.zeros((len(data) // 3, 4), np.uint8)
            x[:, 1:] = np.frombuffer(data, np.uint8).reshape(
                -1, 3
            )  # as the upper bytes of an int32
            return as_samples(x.view("<i4").reshape(-1, channels))

        return Decoder(decode24, 3 * channels)
    try:
        kind = np.dtype(_TYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype)
    except TypeError:
        kind = None
    if kind is None or kind.str[1:] not in ("u1", "i2", "i4", "f4", "f8"):
        raise ValueError(
            f"raw PCM of type {str(dtype)!r} is not supported; expected one of {', '.join(TYPES)}"
        )
    if kind.kind == "f":  # checked where it is heard
        decode = lambda data: np.frombuffer(data, kind).reshape(-1, channels)
    else:
        decode = lambda data: as_samples(np.frombuffer(data, kind).reshape(-1, channels))
    return Decoder(decode, kind.itemsize * channels, kind.kind == "f")


def mulaw_table() -> np.ndarray:
    """(256,) float32: what each byte of G.711 mu-law stands for, in steps of 14 bits."""
    code = ~np.arange(256) & 0xFF
    exponent, mantissa = code >> 4 & 7, code & 15
    magnitude = ((2 * mantissa + 33) << exponent) - 33
    return (np.where(code & 0x80, -magnitude, magnitude) / 8192).astype(np.float32)


def alaw_table() -> np.ndarray:
    """(256,) float32: what each byte of G.711 A-law stands for, in steps of 13 bits."""
    code = np.arange(256) ^ 0x55
    exponent, mantissa = code >> 4 & 7, code & 15
    magnitude = (2 * mantissa + 1 + np.where(exponent > 0, 32, 0)) << np.maximum(exponent - 1, 0)
    return (np.where(code & 0x80, magnitude, -magnitude) / 4096).astype(np.float32)


def part_of(stream: Any, pending: bytes, kind: Decoder, limit: int | None) -> Decoded:
    """Frames as they arrive, behind those that are `pending`; `limit` bytes at most, and all of them if the header has
    told. Returns why they are not whole, or None."""
    taken = len(pending)
    while True:
        usable = len(pending) // kind.frame * kind.frame
        if usable:
            yield kind.decode(pending[:usable])
            pending = pending[usable:]
        if taken == limit:
            break
        data = some(stream, size=READ_BYTES if limit is None else min(READ_BYTES, limit - taken))
        if not data:
            break
        pending, taken = pending + data, taken + len(data)
    if limit is not None and taken < limit:
        return f"it ends after {taken} of the {limit} bytes of samples that its header promises"
    if pending:
        return f"it ends in the middle of a sample: {len(pending)} of {kind.frame} bytes"
    return None


def wav_header(rate: int, size: int | None = None) -> bytes:
    """44 bytes of a WAV (mono, 16 bits) of so many bytes of sound (None: it is not known yet)."""
    riff, data = (UNKNOWN_SIZE, UNKNOWN_SIZE) if size is None else (size + 36, size)
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", riff)
        + b"WAVE"
        + b"fmt "
        + struct.pack("<I", len(form))
        + form
        + b"data"
        + struct.pack("<I", data)
    )
