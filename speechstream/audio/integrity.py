"""What decoders pass over in silence: files that are cut short, damaged or longer than their header says.

libsndfile decodes what it can and mostly says nothing. Losing a user's speech without a word is worse than an error, so
after a file has been decoded its container is checked against what came out.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# "data : 95680 (should be 47818)" in libsndfile's log: a chunk that promises more bytes than the file has left.
_PROMISE = re.compile(
    r"^\s*(data|SSND|BODY|Data Size|riff|Riff size)\s*:\s*(\d+) \(should be (\d+)\)", re.M
)
_UNKNOWN_SIZES = {
    0,
    0xFFFFFFFF,
    0xFFFFFFFFFFFFFFFF,
}  # written by programs that cannot seek back to fill it in
_OGG_FAULTS = (
    ("Last page lacks an end-of-stream bit", "the stream is not ended"),
    ("Junk after the last page", "its last page is cut off"),
    ("looking for the next page", "a page in it is damaged"),
    ("reports a hole", "a part of it is missing"),
)
# What mpg123 prints by itself while it decodes.
_DECODER_CHATTER = re.compile(rb"(\[.*libmpg123.*|Note: .*|Warning: .*|\s*)\n?")
_stderr_lock = threading.Lock()


def fault(data, container: str, log: str, promised: int | None, decoded: int) -> str | None:
    """Why a decoded file is not whole, in a few words, or None.

    data: the file's bytes; container: soundfile's name of the format; log: libsndfile's log after decoding;
    promised: frames the header announces, None where it does not; decoded: frames that came out.
    """
    for _, claim, present in _PROMISE.findall(log):
        if int(claim) > int(present) and int(claim) not in _UNKNOWN_SIZES:
            return f"its header promises {claim} bytes where {present} are left"
    if container == "OGG":
        for sign, fault in _OGG_FAULTS:
            if sign in log:
                return fault
        if _ogg_streams(data) > 1:
            return "only the first of the streams chained in it was decoded"
    if container == "MP3" and (reason := _mp3_fault(data, decoded)):
        return reason
    if container == "CAF" and (reason := _caf_fault(data)):
        return reason
    if container == "NIST" and (count := re.search(rb"sample_count -i (\d+)", data[:1024])):
        promised = int(count[1])
    if promised is not None and decoded < promised:
        return f"{decoded} of {promised} samples are there"
    return None


def _ogg_streams(data) -> int:
    """How many logical streams begin in an Ogg file: pages marked as a beginning."""
    position, streams = 0, 0
    while data[position : position + 4] == b"OggS":
        streams += data[position + 5] >> 1 & 1
        segments = data[position + 26]
        position += 27 + segments + sum(data[position + 27 : position + 27 + segments])
    return streams


def _caf_fault(data) -> str | None:
    position = 8
    while position + 12 <= len(data):
        kind, size = (
            data[position : position + 4],
            int.from_bytes(data[position + 4 : position + 12], "big", signed=True),
        )
        if size < 0:  # data up to the end of the file
            return None
        position += 12 + size
        if position > len(data):
            return f"its {kind.decode('latin-1')!r} chunk lacks {position - len(data)} bytes"
    return None


# ISO 11172-3 and 13818-3: kbit/s by [version is 1][layer - 1], Hz by version bits.
_BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


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


def mpeg_start(data) -> int | None:
    """Where the first MPEG audio frame begins: past ID3v2 tags, and followed by another frame or the end."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        size = 0
        for byte in data[start + 6 : start + 10]:
            size = size << 7 | byte & 0x7F
        start += 10 + size + (10 if data[start + 5] & 0x10 else 0)
    for position in range(start, min(start + (1 << 16), len(data) - 3)):
        if data[position] == 0xFF and (frame := mpeg_frame(data[position : position + 4])):
            after = position + frame[0]
            if after + 4 > len(data) or mpeg_frame(data[after : after + 4]):
                return position
    return None


def mpeg_length_known(data) -> bool:
    """Whether an MP3's first frame tells its length (Xing, Info or VBRI); elsewhere libsndfile only guesses it."""
    start = mpeg_start(data)
    first = bytes(data[start : start + 256]) if start is not None else b""
    return any(tag in first for tag in (b"Xing", b"Info", b"VBRI"))


def _mp3_fault(data, decoded: int) -> str | None:
    """Follow the frames from first to last."""
    position, total, info = mpeg_start(data), 0, mpeg_length_known(data)
    known: dict = {}
    while position is not None and position < len(data):
        header = bytes(data[position : position + 4])
        frame = known.get(header) or known.setdefault(header, mpeg_frame(header))
        if frame is None:
            rest = bytes(data[position : position + 128])
            if rest.startswith((b"TAG", b"APETAGEX", b"LYRICS", b"ID3")) or not rest.strip(b"\0"):
                break  # tags or padding after the sound
            return f"the frame at byte {position} is damaged"
        position, total = position + frame[0], total + frame[1]
        if position > len(data):
            return "its last frame is cut off"
    if (
        info and total - decoded > 8 * 1152
    ):  # the information frame and the encoder's padding are a few frames
        return f"its header announces {decoded} samples, but it has about {total}"
    return None


class UnguessedLength(io.RawIOBase):
    """An MP3 file that seems far longer than it is.

    libsndfile stops at the length that it has guessed from the size of the file and its first frame, and so drops the
    end of files of variable bit rate. With this it reads on until the frames end.
    """

    FACTOR = 64  # more than the widest ratio of two bit rates

    def __init__(self, data):
        self._data, self._position, self._seeming = data, 0, len(data) * self.FACTOR

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._seeming)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if self._position > len(self._data):  # mpg123 looks for a tag at the end
            piece = bytes(max(min(size, self._seeming - self._position), 0))
        else:
            piece = bytes(self._data[self._position : self._position + size])
        self._position += len(piece)
        return piece

    def readinto(self, buffer) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


@contextmanager
def quiet_decoder() -> Iterator[None]:
    """Keep what mpg123 prints on the process' stderr away from the user; what anybody else prints is passed on."""
    with _stderr_lock:
        try:
            sys.stderr.flush()
            saved = os.dup(2)
        except (OSError, ValueError, AttributeError):  # no stderr to protect
            yield
            return
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(saved, 2)
                caught.seek(0)
                for line in caught:
                    if not _DECODER_CHATTER.fullmatch(line):
                        os.write(saved, line)
                os.close(saved)
