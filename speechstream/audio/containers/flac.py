"""FLAC (RFC 9639): files that were joined, and frames behind a damaged one."""

from __future__ import annotations

from typing import Any

STREAMINFO = 42  # bytes from "fLaC" to the end of its first block
_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")


def links(data: Any) -> list[tuple[int, int]]:
    """[start, stop) of each FLAC stream that follows another in one file."""
    starts = []
    for mark in _STARTS:
        position = data.find(mark)
        while position >= 0:
            starts.append(position)
            position = data.find(mark, position + 1)
    starts.sort()
    return list(zip(starts, [*starts[1:], len(data)]))


def header(data: Any, start: int) -> bytes:
    """The head of a stream with STREAMINFO alone, and without the check sum of all samples: frames from anywhere in it
    may follow. A length that is not known becomes the longest."""
    head = bytearray(data[start : start + STREAMINFO])
    head[4] = 0x80  # the last block of metadata
    if not any((head[21] & 0x0F, *head[22:26])):  # the 36-bit count of samples
        head[21] |= 0x0F
        head[22:26] = b"\xff\xff\xff\xff"
    head[26:42] = bytes(16)
    return bytes(head)


def next_frame(data: Any, start: int, stop: int, sample: int) -> tuple[int, int] | None:
    """(byte, sample) where the first whole frame header begins that stands at `sample` or behind it."""
    info = bytes(data[start : start + STREAMINFO])
    least, fixed = int.from_bytes(info[8:10], "big"), info[8:10] == info[10:12]
    mark = b"\xff\xf8" if fixed else b"\xff\xf9"
    position = start + STREAMINFO
    while (position := data.find(mark, position, stop)) >= 0:
        number = _number(bytes(data[position : position + 16]))
        if number is not None and (at := number * (least if fixed else 1)) >= sample:
            return position, at
        position += 1
    return None


def _number(header: bytes) -> int | None:
    """The frame's or sample's number that a frame header holds; None where its check sum is wrong."""
    if len(header) < 16 or header[2] >> 4 == 0 or header[2] & 15 == 15 or header[3] & 1:
        return None
    coded = header[4]
    extra = 0
    while extra < 7 and coded & 0x80 >> extra:
        extra += 1
    if extra == 1 or extra > 7:
        return None
    number, extra = coded & (0x7F >> extra), max(extra - 1, 0)
    for byte in header[5 : 5 + extra]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
    size = 5 + extra
    size += {6: 1, 7: 2}.get(header[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    return number if size < 16 and _crc8(header[:size]) == header[size] else None


def _crc8(data: bytes) -> int:
    """x^8 + x^2 + x + 1, from 0."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    return crc
