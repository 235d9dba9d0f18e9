"""AIFF, AU, Wave64 and CAF: where one ends, and what follows it."""

from __future__ import annotations

from typing import Any

from speechstream.audio.containers import riff

_W64_UNKNOWN = (0, 0xFFFFFFFFFFFFFFFF, 0x7FFFFFFFFFFFFFFF)


def links(data: Any) -> list[tuple[int, int]]:
    """[start, stop) of each of the recordings that follow each other in one file; none where it is of another kind.

    What is between and behind them, if it is not zeros, is in no stretch.
    """
    found: list[tuple[int, int]] = []
    position = 0
    while (end := _end(data, position)) is not None:
        found.append((position, min(end, len(data))))
        if end >= len(data):
            break
        position = end
    return found


def _end(data: Any, start: int) -> int | None:
    """Where the recording that begins here ends by its header; the end of the data where it does not know."""
    head = bytes(data[start : start + 24])
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        size = int.from_bytes(head[4:8], "big")
        unknown, size = riff.is_unknown(size), 8 + size + (size & 1)
    elif head[:4] == b".snd":
        size = int.from_bytes(head[8:12], "big")
        unknown, size = riff.is_unknown(size), int.from_bytes(head[4:8], "big") + size
    elif head[:4] == b"riff":
        size = int.from_bytes(head[16:24], "little")
        unknown, size = size in _W64_UNKNOWN, -(-size // 8) * 8
    else:
        return None
    return len(data) if unknown or size < 24 else start + size


def caf_fault(data: Any) -> str | None:
    """What a CAF lacks, or what follows it, in a few words; None where neither does."""
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
