"""WAV, as a file and as it arrives: lengths that nobody knew, and sound behind what a header calls the end.

Programs that write into a pipe cannot go back and fill in a length: they leave 0, 0xFFFFFFFF, or something near 2^31
(sox 0x7FFFF000, arecord 0x7FFFFF00). Others die before they do. Files are joined with `cat`. What lies behind the end of
the samples is therefore looked at: chunks (LIST, id3, bext ...) are passed over, another WAV is heard, and so is what is
neither, for it is sound that the header has forgotten.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from speechstream.audio.containers.content import exactly, some
from speechstream.audio.pcm import Decoder, decoder, part_of
from speechstream.audio.recording import MAX_RATE, MIN_RATE, Blocks, Part, joined
from speechstream.audio.samples import MAX_CHANNELS
from speechstream.errors import SpeechStreamError

_NEAR = 1 << 20  # bytes around 2^31 and below 2^32 where a length is none
_AIFF_SOX = 0x7F000000
_PLAIN = (1, 3, 6, 7, 0xFFFE)  # codes of formats whose samples have a size of their own
HEAD = 12  # bytes of "RIFF", a length and "WAVE"
_TYPES = {
    (1, 8): "uint8",
    (1, 16): "int16",
    (1, 24): "int24",
    (1, 32): "int32",
    (3, 32): "float32",
    (3, 64): "float64",
    (6, 8): "alaw",
    (7, 8): "mulaw",
}
_CHUNKS = frozenset(
    (
        b"LIST",
        b"fact",
        b"bext",
        b"id3 ",
        b"ID3 ",
        b"JUNK",
        b"junk",
        b"PAD ",
        b"FLLR",
        b"cue ",
        b"smpl",
        b"inst",
    )
    + (
        b"iXML",
        b"axml",
        b"_PMX",
        b"cart",
        b"acid",
        b"PEAK",
        b"DISP",
        b"afsp",
        b"umid",
        b"LGWV",
        b"chna",
    )
)
_TAGS = (b"ID3", b"TAG")  # of players, put behind a file without a chunk of their own


def is_unknown(size: int) -> bool:
    """Whether a length was written by a program that did not know it."""
    return (
        size == 0
        or abs(size - (1 << 31)) <= _NEAR
        or (1 << 32) - _NEAR <= size < 1 << 32
        or size >= (1 << 63) - 1
        or abs(size - _AIFF_SOX) <= _NEAR
    )


def is_wav(head: bytes) -> bool:
    """Whether a WAV begins with these bytes."""
    return head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def is_chunk(head: bytes) -> bool:
    """Whether a chunk begins with these 8 bytes: a known name, or a likely one before a length that is not absurd."""
    name = head[:4]
    return name in _CHUNKS or (
        len(head) >= 8
        and all(32 <= c < 127 for c in name)
        and sum(chr(c).isalnum() for c in name) >= 3
        and int.from_bytes(head[4:8], "little") < 1 << 24
    )


def is_plain(data: Any) -> bool:
    """Whether a WAV file's header tells what is in it, to the end of the file or to where it is cut off."""
    position, size = HEAD, len(data)
    long_size = None
    while position + 8 <= size:
        kind = bytes(data[position : position + 4])
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8
        if kind == b"ds64":
            long_size = int.from_bytes(data[position + 8 : position + 16], "little")
        if kind == b"data":
            if length == 0xFFFFFFFF and long_size is not None:
                length = long_size
            left = size - position
            if is_unknown(length) and length > left:
                return False
            return length > left or _only_chunks(data, position + length, length & 1)
        position += length + (length & 1)
    return True


def impossible(data: Any) -> str | None:
    """What in a WAV's format no sound can have, None where there is nothing: not every decoder survives it."""
    position = HEAD
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if bytes(data[position : position + 4]) == b"fmt ":
            code, channels, rate, _, align, bits = struct.unpack_from(
                "<HHIIHH", bytes(data[position + 8 : position + 24]).ljust(16, b"\0")
            )
            if not (channels and rate and align):
                return f"its header tells of {channels} channels at {rate} Hz and {align} bytes of a sample of all"
            if code in _PLAIN and not bits:
                return "its header tells of samples of no bits"
            return None
        position += 8 + length + (length & 1)
    return "it has no format"


def _only_chunks(data: Any, position: int, odd: int) -> bool:
    """Whether nothing but chunks, tags and padding follows."""
    size = len(data)
    if odd and not is_chunk(bytes(data[position : position + 8])):
        position += 1
    while position < size:
        rest = bytes(data[position : position + HEAD])
        if rest.startswith(_TAGS) and not is_chunk(rest):
            return True
        if is_wav(rest) or not is_chunk(rest):
            return not bytes(data[position : position + (1 << 20)]).strip(b"\0")
        length = int.from_bytes(rest[4:8], "little")
        position += 8 + length + (length & 1)
        if position > size + 1 and rest[:4] not in _CHUNKS:
            return False
    return True


class NotPlain(SpeechStreamError):
    """A WAV whose samples are coded in a way that is not decoded here."""


@dataclass(frozen=True)
class _Format:
    rate: int
    decoder: Decoder
    size: int | None  # bytes of samples, None where nobody knows
    floats: bool


def wav_blocks(stream: Any, name: str, faults: Iterable[str] = ()) -> Blocks:
    """A WAV after its first HEAD bytes, as it arrives, and others that follow it.

    faults: what is wrong with the stream itself; asked for when it has ended.

    Everything before the data is small, so it is simply read. Raises SpeechStreamError where that is broken, and
    NotPlain for other than PCM, floats, mu-law and A-law.
    """
    form = _header(stream, name)
    seconds = form.size and form.size / form.decoder.frame / form.rate
    return joined(chain(_parts(form, stream, name), faults), name, seconds)


def _parts(form: _Format | None, stream: Any, name: str) -> Iterator[Part | str]:
    while form is not None:
        end = _End(form.size)
        yield Part(form.rate, _samples(form, stream, end), None, form.floats)
        form = None
        if is_wav(end.rest):
            try:
                form = _header(stream, name)
            except SpeechStreamError as error:
                yield str(error)


class _End:
    """What was read behind the samples of one WAV."""

    def __init__(self, size: int | None):
        self.size, self.rest = size, b""


def _samples(form: _Format, stream: Any, end: _End) -> Generator[np.ndarray, None, str | None]:
    """The samples that the header tells of; then what follows, where it is sound too."""
    fault = yield from part_of(stream, b"", form.decoder, form.size)
    if fault is not None or form.size is None:
        return fault
    odd = form.size & 1
    rest = exactly(stream, HEAD + odd)
    while True:
        if odd and rest[:1] == b"\0" and not is_chunk(rest):
            rest = rest[1:]
        rest += exactly(stream, HEAD - len(rest))
        if is_wav(rest) or not rest.strip(b"\0") or rest.startswith(_TAGS):
            end.rest = rest
            return None
        if not is_chunk(rest):
            break
        length = int.from_bytes(rest[4:8], "little")
        odd = length & 1
        missing = 8 + length + odd - len(rest)
        rest = rest[8 + length :]
        while missing > 0 and (data := some(stream, size=min(missing, 1 << 16))):
            missing -= len(data)
        rest += exactly(stream, HEAD + odd - len(rest))
        odd = 0
    # whole frames behind whole frames: where the length was odd, its last bytes are missing here
    return (yield from part_of(stream, rest, form.decoder, None))


def _header(stream: Any, name: str) -> _Format:
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
    if tag == 0xFFFE and len(fmt) >= 26:
        # WAVE_FORMAT_EXTENSIBLE: the tag stands in front of the GUID
        tag = int.from_bytes(fmt[24:26], "little")
    dtype = _TYPES.get((tag, bits))
    if dtype is None:
        raise NotPlain(
            f"{name} is a WAV of format 0x{tag:x} with {bits} bits, which is not decoded as it arrives"
        )
    if not 1 <= channels <= MAX_CHANNELS or not MIN_RATE <= rate <= MAX_RATE:
        raise SpeechStreamError(
            f"{name} is a WAV that claims {channels} channel(s) at {rate} Hz; its header is damaged"
        )
    if size == 0xFFFFFFFF and long_size is not None:
        size = long_size
    return _Format(rate, decoder(dtype, channels), None if is_unknown(size) else size, tag == 3)
