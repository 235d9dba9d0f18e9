"""Audio files in, as mono float32 blocks: every format that libsndfile reads.

A file that is not whole yields all that could be decoded and then raises: nothing is lost in silence, and what was
already produced is kept.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np

from speechstream.audio import integrity
from speechstream.audio.pcm import wav_blocks
from speechstream.audio.recording import MAX_RATE, MIN_RATE, Blocks
from speechstream.audio.samples import to_mono
from speechstream.errors import SpeechStreamError

_NO_FRAMES = (
    7  # libsndfile's code for an MP3 without a usable frame; its text speaks of something else
)
_SEEK_FAILED = (
    39  # libsndfile's code at the end of a FLAC file whose header does not tell its length
)


def read(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    """Read a whole audio file: (samples (n,) mono float32, rate in Hz).

    Raises SpeechStreamError, naming the file and the reason, where it cannot be read to its end.
    """
    with blocks(path) as parts:
        return np.concatenate(list(parts)), parts.rate


def blocks(
    path: str | os.PathLike | BinaryIO, seconds: float = 1.0, name: str | None = None
) -> Blocks:
    """Open an audio file (or a seekable binary file object) and iterate over mono blocks of `seconds`.

    Raises SpeechStreamError at once where it cannot be opened, and while iterating where it turns out truncated,
    corrupt or to hold samples that are not finite, after everything before that place has been given.
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    if hasattr(path, "read"):
        name = name or str(getattr(path, "name", "the audio"))
        data = path.read()
        source = io.BytesIO(data)
    else:
        name = name or os.fspath(path)
        data, source = _map(Path(path), name), os.fspath(path)
    if is_unfinished_wav(data[: 1 << 16], len(data)):
        return wav_blocks(io.BytesIO(data[12:]), name)
    if data[:3] == b"ID3" or integrity.mpeg_frame(data[:4]):
        if integrity.mpeg_start(data) is not None and not integrity.mpeg_length_known(data):
            source = integrity.UnguessedLength(data)
    file = _open(source, name)
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        file.close()
        raise SpeechStreamError(
            f"{name} claims a sample rate of {file.samplerate} Hz, expected {MIN_RATE} to "
            f"{MAX_RATE}; its header is damaged"
        )
    if file.frames == 0:
        file.close()
        raise SpeechStreamError(f"{name} contains no samples")
    known = file.frames < 1 << 60 and not isinstance(source, integrity.UnguessedLength)
    frames = file.frames if known else None
    return Blocks(
        file.samplerate,
        _decode(file, data, name, frames, max(round(file.samplerate * seconds), 1)),
        frames / file.samplerate if known else None,
    )


def is_unfinished_wav(head: bytes, size: int) -> bool:
    """Whether a WAV file was written by a program that could not seek back to fill in a length of 0.

    `head` is the file's beginning, `size` its length. Such files hold sound that their header denies.
    """
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return False
    riff, position = int.from_bytes(head[4:8], "little"), 12
    while position + 8 <= len(head):
        length = int.from_bytes(head[position + 4 : position + 8], "little")
        position += 8
        if head[position - 8 : position - 4] == b"data":
            return (
                length == 0
                and size > position
                and (riff in (0, 0xFFFFFFFF) or riff + 8 <= position)
            )
        position += length + (length & 1)
    return False


def _map(path: Path, name: str) -> mmap.mmap:
    """The file's bytes, not loaded before they are looked at."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise SpeechStreamError(f"{name} is empty (0 bytes)")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise SpeechStreamError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise SpeechStreamError(f"{name} is a directory, expected an audio file") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno in errno.errorcode else str(error)
        raise SpeechStreamError(f"{name} cannot be opened: {reason}") from error


def _open(source, name: str):
    import soundfile  # here, so that importing this package needs no libsndfile

    try:
        with integrity.quiet_decoder():
            return soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        reason = (
            "no frame in it can be decoded"
            if error.code == _NO_FRAMES
            else error.error_string.rstrip(".")
        )
        raise SpeechStreamError(
            f"{name} cannot be read as audio, it is in no known format or its beginning is "
            f"damaged: {reason}"
        ) from error
    except TypeError as error:  # soundfile goes by the suffix .raw
        raise SpeechStreamError(
            f"{name} is raw PCM without a header; pipe it in and give its rate and type"
        ) from error


def _decode(file, data, name: str, frames: int | None, size: int) -> Iterator[np.ndarray]:
    import soundfile

    quiet = integrity.quiet_decoder if file.format == "MP3" else nullcontext
    decoded, error = 0, None
    with file:
        while error is None:
            block = np.full((size, file.channels), np.nan, np.float32)
            try:
                with quiet():
                    count = len(file.read(out=block))
            except soundfile.LibsndfileError as failure:
                count, error = _filled(block), failure
            if count:
                yield from _finite(block[:count], decoded, file.samplerate, name)
            decoded += count
            if count < size:
                break
        at = f"(the first {decoded / file.samplerate:.2f} s were read)"
        if error is not None and error.code == _SEEK_FAILED and frames is None:
            error = None
        if error is None and decoded == 0:
            raise SpeechStreamError(f"{name} contains no samples")
        reason = integrity.fault(
            data, file.format, file.extra_info, frames if error is None else None, decoded
        )
        if error is not None or reason:
            reason = reason or error.error_string.removeprefix("Error : ").rstrip(".")
            raise SpeechStreamError(f"{name} is truncated or corrupt {at}: {reason}") from error


def _filled(block: np.ndarray) -> int:
    """How many rows a failed read has filled: it does not tell, but the rest is still NaN."""
    untouched = np.isnan(block[:, 0])
    return int(untouched.argmax()) if untouched.any() else len(block)


def _finite(block: np.ndarray, position: int, rate: int, name: str) -> Iterator[np.ndarray]:
    bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
    if not len(bad):
        yield to_mono(block)
        return
    if bad[0]:
        yield to_mono(block[: bad[0]])
    raise SpeechStreamError(
        f"{name} holds a sample that is not a finite number at {(position + bad[0]) / rate:.3f} s"
    )
