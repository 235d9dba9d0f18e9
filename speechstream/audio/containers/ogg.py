"""Ogg (RFC 3533): the streams that are chained in one file, and what libsndfile says of their damage."""

from __future__ import annotations

from typing import Any

_FAULTS = (
    ("Last page lacks an end-of-stream bit", "the stream is not ended"),
    ("Junk after the last page", "its last page is cut off"),
    ("looking for the next page", "a page in it is damaged"),
    ("reports a hole", "a part of it is missing"),
)


def links(data: Any) -> list[tuple[int, int]]:
    """[start, stop) of each of the streams that follow each other: a new one begins where pages marked as a beginning
    follow others. Bytes in front of the first page belong to none."""
    starts, position, beginning = [], data.find(b"OggS"), False
    while 0 <= position < len(data):
        head = bytes(data[position : position + 27])
        if len(head) < 27 or head[:4] != b"OggS":
            position = data.find(b"OggS", position + 1)
            continue
        first = bool(head[5] & 2)
        if first and not beginning:
            starts.append(position)
        beginning = first
        lacing = data[position + 27 : position + 27 + head[26]]
        position += 27 + len(lacing) + sum(lacing)
    return list(zip(starts, [*starts[1:], len(data)]))


def fault(log: str) -> str | None:
    """Why a decoded stream is not whole, from libsndfile's log."""
    return next((said for sign, said in _FAULTS if sign in log), None)


def unended(data: Any) -> str | None:
    """Why the last of the streams has no end, for decoders that do not say so."""
    at = data.rfind(b"OggS")
    head = bytes(data[at : at + 27])
    lacing = bytes(data[at + 27 : at + 27 + head[26]]) if len(head) == 27 else b""
    if len(head) < 27 or len(lacing) < head[26] or at + 27 + len(lacing) + sum(lacing) > len(data):
        return "its last page is cut off"
    return None if head[5] & 4 else "the stream is not ended"
