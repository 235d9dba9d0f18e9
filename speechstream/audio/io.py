"""Audio in, as mono float32 blocks: files, pipes, objects with `read`, and bytes.

A recording that is not whole yields all that could be decoded and then raises: nothing is lost in silence, and what was
already produced is kept.
"""

from __future__ import annotations

import os
from typing import Any, BinaryIO

import numpy as np

from speechstream.audio.channels import MIX, Channels, check_channels
from speechstream.audio.containers.content import (
    Content,
    gathered,
    is_file_object,
    open_path,
    shown,
)
from speechstream.audio.containers.decode import decoded
from speechstream.audio.containers.sndfile import Unreadable
from speechstream.audio.recording import Blocks
from speechstream.audio.stream import stream_blocks
from speechstream.errors import SpeechStreamError

# A path, a binary object with `read`, or the bytes of a file.
Source = str | os.PathLike[str] | BinaryIO | bytes | bytearray | memoryview


def is_source(source: Any) -> bool:
    """Whether `blocks` takes it."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview)
    return isinstance(source, kinds) or is_file_object(source)


def read(source: Source) -> tuple[np.ndarray, int]:
    """Read a whole recording: (samples (n,) mono float32, rate in Hz).

    Raises SpeechStreamError, naming the file and the reason, where it cannot be read to its end.
    """
    with blocks(source) as parts:
        return np.concatenate(list(parts)), parts.rate


def blocks(
    source: Source, seconds: float = 1.0, name: str | None = None, channels: Channels = MIX
) -> Blocks:
    """Open a recording and iterate over its mono blocks of about `seconds`.

    source: the path of a file, of a named pipe or of a device; a binary object with `read`, read from where it stands;
    or the bytes of a file. Its first bytes tell its format: what libsndfile reads (WAV, FLAC, Ogg, MP3, AIFF, ...), and
    with PyAV or ffmpeg installed what they read (MP4, WebM, AAC, WMA, video, ...). Recordings that were joined into one
    file are heard one after the other. Channels that would cancel each other are not averaged: see `Downmix`.

    channels: "mix" of all; "left", "right" or a number from 1 on for one of them; "split" for blocks (n, channels).

    Raises SpeechStreamError at once where it cannot be opened, and while iterating AudioDamaged where it turns out
    truncated, corrupt or to hold samples that are no numbers, after everything that could be decoded has been given.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    channels = check_channels(channels)
    return _opened(source, seconds, name).hear(channels)


def _opened(source: Source, seconds: float, name: str | None) -> Blocks:
    if isinstance(source, (bytes, bytearray, memoryview)):
        name = name or "the audio"
        if not len(source):
            raise SpeechStreamError(f"{name} is empty (0 bytes)")
        try:
            return decoded(Content(name, bytes(source)), seconds)
        except Unreadable as error:
            raise SpeechStreamError(
                f"{error}; turn raw PCM into an array with numpy.frombuffer(data, dtype='<i2')"
            ) from error
    stream: Any = source
    if is_file_object(source):
        name = name or _name_of(source)
        if getattr(source, "seekable", lambda: False)():
            return decoded(gathered(source, name), seconds)
        return stream_blocks(stream, None, name=name)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"a recording must be a path, a binary file object or the bytes of a file, got {type(source).__name__}"
        )
    opened = open_path(source)
    if isinstance(opened, Content):
        return decoded(opened, seconds)
    return stream_blocks(opened, None, name=name or shown(source))


def _name_of(source: Any) -> str:
    name = getattr(source, "name", None)
    return shown(name) if isinstance(name, (str, bytes)) and name else "the audio"
