"""PCM without a header, and WAV as it arrives: sample formats, lengths that pipes do not know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from speechstream.audio.recording import MAX_RATE, MIN_RATE, Blocks
from speechstream.audio.samples import MAX_CHANNELS, to_mono
from speechstream.errors import SpeechStreamError

READ_BYTES = 1 << 16
UNKNOWN_LENGTH = (
    0,
    0xFFFFFFFF,
    0xFFFFFFFFFFFFFFFF,
)  # of a WAV's data, where the writer cannot seek back
_TYPES = {"uint8": "u1", "int16": "<i2", "int32": "<i4", "float32": "<f4", "float64": "<f8"}


def raw_blocks(
    stream: BinaryIO, dtype: str | np.dtype = "int16", channels: int = 1, name: str = "the stream"
) -> Iterator[np.ndarray]:
    """Read raw interleaved PCM from a binary stream until it ends, as mono float32 blocks (n,) of what has arrived.

    dtype: "uint8", "int16", "int24", "int32", "float32" or "float64", little endian; or a numpy dtype with its own
    byte order. Raises ValueError for other types, and SpeechStreamError where the stream holds no sample, ends in the
    middle of one, or holds one that is not finite.
    """
    decode, frame = decoder(dtype, channels)
    return decode_blocks(stream, b"", frame, decode, None, name)


def wav_blocks(stream: BinaryIO, name: str) -> Blocks:
    """A WAV after its first 12 bytes. Everything before the data is small, so it is simply read."""
    fmt, long_size = None, None
    while True:
        chunk = exactly(stream, 8)
        if len(chunk) < 8:
            raise SpeechStreamError(f"{name} is a WAV that ends before its samples begin")
        kind, size = chunk[:4], int.from_bytes(chunk[4:], "little")
        if kind == b"data":
            break
        body = exactly(stream, size + (size & 1))
        if len(body) < size:
            raise SpeechStreamError(
                f"{name} is a WAV that ends within its {kind.decode('latin-1')!r} chunk"
            )
        if kind == b"fmt ":
            fmt = body
        elif kind == b"ds64" and size >= 16:
            long_size = int.from_bytes(body[8:16], "little")
    if fmt is None or len(fmt) < 16:
        raise SpeechStreamError(f"{name} is a WAV without a description of its format")
    tag, channels, rate = (int.from_bytes(fmt[a:b], "little") for a, b in ((0, 2), (2, 4), (4, 8)))
    bits = int.from_bytes(fmt[14:16], "little")
    if (
        tag == 0xFFFE and len(fmt) >= 26
    ):  # WAVE_FORMAT_EXTENSIBLE: the tag stands in front of the GUID
        tag = int.from_bytes(fmt[24:26], "little")
    dtype = {
        (1, 8): "uint8",
        (1, 16): "int16",
        (1, 24): "int24",
        (1, 32): "int32",
        (3, 32): "float32",
        (3, 64): "float64",
    }.get((tag, bits))
    if dtype is None:
        raise SpeechStreamError(
            f"{name} is a WAV of format 0x{tag:x} with {bits} bits, which cannot be read from a "
            "pipe; give it as a file, or convert it to 16-bit PCM"
        )
    if not 1 <= channels <= MAX_CHANNELS or not MIN_RATE <= rate <= MAX_RATE:
        raise SpeechStreamError(
            f"{name} is a WAV that claims {channels} channel(s) at {rate} Hz; its header is damaged"
        )
    if size == 0xFFFFFFFF and long_size is not None:
        size = long_size
    decode, frame = decoder(dtype, channels)
    limit = None if size in UNKNOWN_LENGTH else size
    return Blocks(
        rate, decode_blocks(stream, b"", frame, decode, limit, name), limit and limit / frame / rate
    )


def decoder(dtype: str | np.dtype, channels: int) -> tuple[Callable[[bytes], np.ndarray], int]:
    """A function from whole frames of bytes to an array (n, channels), and the bytes of a frame."""
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"channels must lie between 1 and {MAX_CHANNELS}, got {channels}")
    if isinstance(dtype, str) and dtype == "int24":

        def decode24(data: bytes) -> np.ndarray:
            x = np.zeros((len(data) // 3, 4), np.uint8)
            x[:, 1:] = np.frombuffer(data, np.uint8).reshape(
                -1, 3
            )  # as the upper bytes of an int32
            return x.view("<i4").reshape(-1, channels)

        return decode24, 3 * channels
    try:
        kind = np.dtype(_TYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype)
    except TypeError:
        kind = None
    if kind is None or kind.str[1:] not in ("u1", "i2", "i4", "f4", "f8"):
        raise ValueError(
            f"raw PCM of type {dtype!r} is not supported; expected one of {', '.join(_TYPES)} or int24"
        )
    return lambda data: np.frombuffer(data, kind).reshape(-1, channels), kind.itemsize * channels


def decode_blocks(
    stream: BinaryIO, pending: bytes, frame: int, decode: Callable, limit: int | None, name: str
) -> Iterator[np.ndarray]:
    """Yield whole frames as they arrive; `limit` bytes at most, and all of them if the header has told."""
    taken, samples = len(pending), 0
    while True:
        usable = len(pending) // frame * frame
        if usable:
            try:
                mono = to_mono(decode(pending[:usable]))
            except ValueError as error:
                raise SpeechStreamError(
                    f"{name} cannot be used from sample {samples} on: {error}"
                ) from error
            samples += len(mono)
            yield mono
            pending = pending[usable:]
        if taken == limit:
            break
        data = some(stream, READ_BYTES if limit is None else min(READ_BYTES, limit - taken))
        if not data:
            break
        pending, taken = pending + data, taken + len(data)
    if limit is not None and taken < limit:
        raise SpeechStreamError(
            f"{name} ends after {taken} of the {limit} bytes of samples that its header promises"
        )
    if pending:
        raise SpeechStreamError(
            f"{name} ends in the middle of a sample: {len(pending)} of {frame} bytes"
        )
    if not samples:
        raise SpeechStreamError(f"{name} contains no samples")


def some(stream: BinaryIO, size: int = READ_BYTES) -> bytes:
    """What has arrived, at least one byte; b"" at the end. A stream that does not block is asked again."""
    read = getattr(stream, "read1", stream.read)
    while (data := read(size)) is None:
        time.sleep(0.005)
    return data


def exactly(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end."""
    data = b""
    while len(data) < size and (piece := some(stream, size - len(data))):
        data += piece
    return data
