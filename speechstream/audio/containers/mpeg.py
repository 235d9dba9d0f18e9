"""MPEG audio (MP3, layers I and II): its frames, found among tags and damage.

libsndfile stops at the length that a first frame announces, or that it guesses, and gives up where a kilobyte is no
frame. So the frames are followed here, and each run of them is decoded by itself: files that were joined, cut or
damaged are heard as far as there are frames. (ISO 11172-3 and 13818-3; the Xing, Info and VBRI frames of encoders.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# kbit/s by [version is 1][layer - 1], Hz by version bits.
_BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
CERTAIN = 4  # frames in a row that are no accident
SEARCHED = 1 << 16  # bytes in front of the first frame


@dataclass
class Run:
    """Frames that follow each other and are of one kind: [start, stop) in bytes.

    announced: frames that its first frame tells of (which holds no sound itself), None where it is a usual one.
    """

    start: int
    stop: int
    rate: int
    announced: int | None
    first: int  # bytes of its first frame
    frames: int = 0
    samples: int = 0

    @property
    def told(self) -> bool:
        """Whether the decoder may trust the announcement, which tells it of the encoder's padding too: of a file that
        was cut it reads what is there, but of one that is longer it would drop the rest."""
        return self.announced is not None and self.announced >= self.frames


@dataclass
class Scan:
    """The runs of a file, and what is wrong between and behind them."""

    runs: list[Run] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def mpeg_frame(header: bytes) -> tuple[int, int] | None:
    """(bytes, samples) of the MPEG audio frame that begins with these four bytes; None where none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:  # reserved, or free format
        return None
    bits, hertz = _BITRATES[version == 3, layer][bitrate - 1] * 1000, _RATES[version][rate]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4, 384
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * bits // hertz + padding, samples


def scan(data: Any) -> Scan:
    """Follow the frames of a whole file. No run where it holds none that are certain."""
    found, position, size = Scan(), 0, len(data)
    known: dict[bytes, tuple[int, int] | None] = {}
    run, kind = None, b""
    while position < size:
        header = bytes(data[position : position + 4])
        frame = known.get(header) or known.setdefault(header, mpeg_frame(header))
        fresh = run is None or frame is None or _kind(header) != kind
        if frame is None or (fresh and not _certain(data, position, frame)):
            after = past_tags(data, position)
            if after > position:
                position, run = after, None
                continue
            following = _next(data, position + 1, SEARCHED if not found.runs else size)
            if not found.runs and following is None:
                return Scan()
            until = size if following is None else following
            if bytes(data[position:until]).strip(b"\0"):  # zeros are padding
                found.faults.append(
                    f"{until - position} bytes at byte {position} of it are no sound"
                )
            position, run = until, None
            continue
        if position + frame[0] > size:
            found.faults.append("its last frame is cut off")
            break
        announced = _announced(data, position, header)
        if run is None or fresh or announced is not None:
            kind = _kind(header)
            run = Run(
                position,
                position,
                _RATES[header[1] >> 3 & 3][header[2] >> 2 & 3],
                announced,
                frame[0],
            )
            found.runs.append(run)
        if announced is None:
            run.frames, run.samples = run.frames + 1, run.samples + frame[1]
        position = run.stop = position + frame[0]
    for run in found.runs:
        if run.announced is not None and run.announced > run.frames:
            found.faults.append(f"it announces {run.announced} frames, and {run.frames} are there")
    found.runs = [run for run in found.runs if run.frames]
    return found


def _kind(header: bytes) -> bytes:
    """What a decoder cannot change within a stream: version, layer, rate, and whether it is mono."""
    return bytes((header[1] & 0xFE, header[2] & 0x0C, header[3] >> 6 == 3))


def _certain(data: Any, position: int, frame: tuple[int, int]) -> bool:
    """Whether CERTAIN frames of one kind, or all up to the end, follow each other from here."""
    kind, size = _kind(data[position : position + 4]), len(data)
    for _ in range(CERTAIN):
        position += frame[0]
        header = bytes(data[position : position + 4])
        if position + 4 > size or header[:3] in (b"TAG", b"ID3") or header == b"APET":
            return True
        following = mpeg_frame(header)
        if following is None or _kind(header) != kind:
            return False
        frame = following
    return True


def _next(data: Any, position: int, searched: int) -> int | None:
    """Where the next frame begins that is certain."""
    end = min(position + searched, len(data))
    while (position := data.find(b"\xff", position, end)) >= 0:
        frame = mpeg_frame(bytes(data[position : position + 4]))
        if frame and position + frame[0] <= len(data) and _certain(data, position, frame):
            return position
        position += 1
    return None


def past_tags(data: Any, position: int) -> int:
    """Where what begins here as a tag (ID3, APE, Lyrics3) ends; the same place where none does."""
    head = bytes(data[position : position + 32])
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return min(position + 10 + size + (10 if head[5] & 0x10 else 0), len(data))
    if head[:3] == b"TAG" and len(data) - position >= 125:
        return min(position + 128, len(data))
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        size = int.from_bytes(head[12:16], "little")
        return min(position + size + (32 if head[23] & 0x20 else 0), len(data))
    if head[:11] == b"LYRICSBEGIN":
        end = data.find(b"LYRICS200", position)
        return position if end < 0 else end + 9
    return position


def _announced(data: Any, position: int, header: bytes) -> int | None:
    """Frames that a frame of an encoder's information tells of, 0 where it does not say; None for any other."""
    mono, old = header[3] >> 6 == 3, header[1] >> 3 & 3 != 3
    at = position + 4 + ((9 if mono else 17) if old else (17 if mono else 32))
    at += 0 if header[1] & 1 else 2  # a check sum
    tag = bytes(data[at : at + 12])
    if tag[:4] in (b"Xing", b"Info"):
        return int.from_bytes(tag[8:12], "big") if tag[7] & 1 else 0
    tag = bytes(data[position + 36 : position + 54])
    if tag[:4] == b"VBRI":
        return int.from_bytes(tag[14:18], "big")
    return None
