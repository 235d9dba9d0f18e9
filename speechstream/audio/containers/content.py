"""The bytes of a recording, wherever they lie: a file, an object with `read`, bytes."""

from __future__ import annotations

import errno
import io
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from speechstream.errors import SpeechStreamError

READ_BYTES = 1 << 16
FORGOTTEN = 1 << 25  # bytes of a mapped file that stay in memory


@dataclass(frozen=True)
class Content:
    """All bytes of a recording; those of a file are not loaded before they are looked at.

    path: where it lies as a file, for programs that want one. faults: why its end could not be read, if so.
    """

    name: str
    data: Any  # bytes or a mmap
    path: str | None = None
    faults: tuple[str, ...] = ()
    kept: Any = field(default=None, repr=False)  # a temporary file that lives as long as this


def shown(name: str | bytes | os.PathLike) -> str:
    """A name in a sentence: on one line, and in characters that can be written."""
    text = os.fsdecode(name)
    if not text.strip():
        return repr(text)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def is_file_object(source: Any) -> bool:
    """Whether it has a `read`."""
    return callable(getattr(source, "read", None))


def open_path(path: str | os.PathLike) -> Content | BinaryIO:
    """The content of a regular file; a named pipe or a device as a stream of bytes. Raises SpeechStreamError."""
    name = shown(path)
    try:
        if os.path.isdir(path):  # before it is opened: Windows forbids that
            raise SpeechStreamError(f"{name} is a directory, expected an audio file")
        file = open(path, "rb", buffering=0)
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        with file:
            if os.fstat(file.fileno()).st_size == 0:
                # the pseudo files of /proc look so as well
                data: Any = file.read(1 << 24)
                if not data:
                    raise SpeechStreamError(f"{name} is empty (0 bytes)")
            else:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return Content(name, data, os.fsdecode(path))
    except FileNotFoundError:
        raise SpeechStreamError(f"{name} does not exist") from None
    except OSError as error:
        known = error.errno is not None and error.errno in errno.errorcode
        reason = error.strerror if known else str(error)
        raise SpeechStreamError(f"{name} cannot be opened: {reason}") from error
    except ValueError as error:  # a null character in the name
        raise SpeechStreamError(f"{name} cannot be opened: {error}") from error


def gathered(stream: Any, name: str, head: bytes = b"") -> Content:
    """What an object with `read` gives until its end, in a temporary file.

    head: what has been read of it. Raises SpeechStreamError where it gives nothing, or breaks off at once.
    """
    kept, size = tempfile.TemporaryFile(), len(head)
    faults: tuple[str, ...] = ()
    try:
        kept.write(head)
        while piece := some(stream, name):
            kept.write(piece)
            size += len(piece)
    except SpeechStreamError as error:
        faults = (str(error),)
    if not size:
        kept.close()
        said = faults[0] if faults else f"{name} is empty (0 bytes from where it stands)"
        raise SpeechStreamError(said)
    kept.flush()
    data = mmap.mmap(kept.fileno(), 0, access=mmap.ACCESS_READ)
    return Content(name, data, None, faults, kept)


def forget(data: Any) -> None:
    """Let go of the pages of a mapped file: they are read again when they are looked at again."""
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)


def some(stream: Any, name: str = "the stream", size: int = READ_BYTES) -> bytes:
    """What has arrived, at least one byte; b"" at the end. A stream that does not block is asked again."""
    read = getattr(stream, "read1", stream.read)
    try:
        while (data := read(size)) is None:
            time.sleep(0.005)
    except OSError as error:
        raise SpeechStreamError(f"reading {name} failed: {error.strerror or error}") from error
    except UnicodeDecodeError:
        data = ""
    if isinstance(data, str):
        raise ValueError(f"{name} gives text; open it in binary mode, as in open(path, 'rb')")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ValueError(f"{name} gives {type(data).__name__}, expected bytes")
    return bytes(data)


def exactly(stream: Any, size: int, name: str = "the stream") -> bytes:
    """`size` bytes, fewer only at the end."""
    pieces, missing = [], size
    while missing and (piece := some(stream, name, min(missing, READ_BYTES))):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


class Kept:
    """A stream of which what has been read is kept, until that is over."""

    def __init__(self, stream: Any):
        self._stream, self.data, self.over = stream, b"", False

    def read(self, size: int) -> bytes:
        data = some(self._stream, size=size)
        self.data = b"" if self.over else self.data + data
        return data


class Pieces(io.RawIOBase):
    """Stretches of bytes as one seekable file.

    pieces: (data, start, stop) each. factor: how many times longer it seems than it is, with zeros behind its end.
    """

    def __init__(self, pieces: Sequence[tuple[Any, int, int]], factor: int = 1):
        self._pieces = [(data, start, stop) for data, start, stop in pieces if stop > start]
        self._length = sum(stop - start for _, start, stop in self._pieces)
        self._seeming, self._position, self._unforgotten = self._length * factor, 0, 0

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(offset + (0, self._position, self._seeming)[whence], 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            size = self._length - self._position
        if self._position > self._length:  # decoders look for tags at what seems to be the end
            piece = bytes(max(min(size, self._seeming - self._position), 0))
        else:
            piece = self._cut(self._position, self._position + size)
        self._position += len(piece)
        self._unforgotten += len(piece)
        if self._unforgotten > FORGOTTEN:
            self._unforgotten = 0
            for data, _, _ in self._pieces:
                forget(data)
        return piece

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def _cut(self, first: int, last: int) -> bytes:
        found = []
        for data, start, stop in self._pieces:
            size = stop - start
            if first < size and last > 0:
                found.append(data[start + max(first, 0) : start + min(last, size)])
            first, last = first - size, last - size
        return b"".join(found)
