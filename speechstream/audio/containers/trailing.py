"""Sound behind the end that a header tells: AIFF, AU, CAF and Wave64 that were joined, or whose length is wrong.

WAV has its own module, and is heard to its end. Of these a user is told.
"""

from __future__ import annotations

from typing import Any

from speechstream.audio.containers import riff

W64_UNKNOWN = (0, 0xFFFFFFFFFFFFFFFF, 0x7FFFFFFFFFFFFFFF)


def fault(data: Any, container: str) -> str | None:
    """What lies behind the end of a file, or is missing before it, in a few words; None where nothing does."""
    if container == "CAF":
        return _caf(data)
    ends = {"AIFF": _aiff, "AU": _au, "W64": _w64}
    end = ends[container](data) if container in ends else None
    if end is None or end >= len(data) or not bytes(data[end : end + (1 << 16)]).strip(b"\0"):
        return None
    return (
        f"its header ends it at byte {end}, and {len(data) - end} bytes follow that were not heard"
    )


def _aiff(data: Any) -> int | None:
    size = int.from_bytes(data[4:8], "big")
    return None if riff.is_unknown(size) else 8 + size + (size & 1)


def _au(data: Any) -> int | None:
    begin, size = bytes(data[4:8]), bytes(data[8:12])
    if data[:4] != b".snd":  # little endian
        begin, size = begin[::-1], size[::-1]
    length = int.from_bytes(size, "big")
    return None if riff.is_unknown(length) else int.from_bytes(begin, "big") + length


def _w64(data: Any) -> int | None:
    size = int.from_bytes(data[16:24], "little")
    return None if size in W64_UNKNOWN else -(-size // 8) * 8


def _caf(data: Any) -> str | None:
    position = 8
    while position + 12 <= len(data):
        kind, size = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 12], "big", signed=True),
        )
        if kind == b"caff" or not kind.isascii() or not kind.strip(b"\0"):
            rest = len(data) - position
            return f"{rest} bytes follow its end that were not heard" if kind.strip(b"\0") else None
        if size < 0:  # data up to the end of the file
            return None
        position += 12 + size
        if position > len(data):
            return f"its {kind.decode('latin-1')!r} chunk lacks {position - len(data)} bytes"
    return None
