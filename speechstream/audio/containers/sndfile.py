"""Parts of recordings through libsndfile, each checked against its container when it has been decoded.

libsndfile decodes what it can and mostly says nothing. Losing a user's speech without a word is worse than an error.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from speechstream.audio.containers import flac, mpeg, ogg, riff, trailing
from speechstream.audio.containers.content import Content, Pieces
from speechstream.audio.recording import MAX_RATE, MIN_RATE, Decoded, Part
from speechstream.errors import SpeechStreamError

# libsndfile's codes: an MP3 without a usable frame, whose text speaks of something else ...
_NO_FRAMES = 7
# ... and the end of a FLAC file whose header does not tell its length.
_SEEK_FAILED = 39
# "data : 95680 (should be 47818)" in libsndfile's log: a chunk that promises more bytes than the file has left.
_PROMISE = re.compile(
    r"^\s*(data|SSND|BODY|FORM|Data Size|riff|Riff size)\s*:\s*(\d+) \(should be (\d+)\)", re.M
)
LONGEST_GAP_S = 60  # of silence in the place of frames that are lost
# What mpg123 prints by itself while it decodes.
_DECODER_CHATTER = re.compile(rb"(\[.*libmpg123.*|Note: .*|Warning: .*|\s*)\n?")
_stderr_lock = threading.Lock()


class Unreadable(SpeechStreamError):
    """libsndfile does not know the format, or what is coded in it; `reason` has its words."""

    reason = ""


def whole(content: Content, seconds: float) -> Part:
    """A file as one part."""
    return stretch(content, 0, len(content.data), seconds)


def stretch(content: Content, start: int, stop: int, seconds: float) -> Part:
    """A part of a file that is a recording by itself."""
    source = Pieces([(content.data, start, stop)])
    return _part(source, content.data, content.name, seconds)


def flac_link(content: Content, start: int, stop: int, seconds: float) -> Part:
    """One stream of a FLAC file; frames behind damaged ones are heard too."""
    data, name = content.data, content.name
    file = _open(Pieces([(data, start, stop)]), name)
    frames = file.frames if 0 < file.frames < 1 << 60 else None

    def resumed() -> Decoded:
        part, at, count = file, 0, _Count()
        first = yield from _decode(part, data, frames, seconds, count)
        fault, longest = first, LONGEST_GAP_S * file.samplerate
        while fault is not None:
            at += count.frames
            found = _behind(data, start, stop, at, name)
            if found is None:
                break
            part, sample = found
            gap, at = min(sample - at, longest), sample
            while gap > 0:
                yield np.zeros((min(gap, file.samplerate), file.channels), np.float32)
                gap -= file.samplerate
            count = _Count()
            fault = yield from _decode(part, data, None, seconds, count)
            at += not count.frames
        return first

    return Part(file.samplerate, resumed(), frames / file.samplerate if frames else None)


def _behind(data: Any, start: int, stop: int, sample: int, name: str) -> tuple[Any, int] | None:
    """A FLAC stream opened at the first whole frame that stands at `sample` or behind it, and where that is."""
    import soundfile

    head = flac.header(data, start)
    while found := flac.next_frame(data, start, stop, sample):
        position, sample = found
        file = _open(Pieces([(head, 0, len(head)), (data, position, stop)]), name)
        try:
            file.seek(sample)  # for soundfile seeks behind each block, by the numbers of the frames
        except soundfile.LibsndfileError:
            file.close()
            sample += 1
        else:
            return file, sample
    return None


def mpeg_run(content: Content, run: mpeg.Run, seconds: float) -> Part:
    """A run of MPEG frames. Where its encoder's information is wrong, it is left out and the frames count."""
    start = run.start if run.told or run.announced is None else run.start + run.first
    # libsndfile stops at a length that it guesses from the size: with a file that seems far longer it does not; the
    # factor is more than the widest ratio of two bit rates
    source = Pieces([(content.data, start, run.stop)], 1 if run.told else 64)
    part = _part(
        source, content.data, content.name, seconds, guessed=not run.told, expected=run.samples
    )
    exact = part.seconds if run.announced == run.frames else None
    return Part(part.rate, part.blocks, exact or run.samples / run.rate)


def _part(
    source: Pieces,
    data: Any,
    name: str,
    seconds: float,
    guessed: bool = False,
    expected: int | None = None,
) -> Part:
    file = _open(source, name)
    known = 0 < file.frames < 1 << 60 and not guessed
    frames = file.frames if known else None
    return Part(
        file.samplerate,
        _decode(file, data, frames, seconds, _Count(), expected),
        frames / file.samplerate if frames is not None else None,
        file.subtype in ("FLOAT", "DOUBLE"),
    )


def _open(source: Pieces, name: str) -> Any:
    import soundfile  # here, so that importing this package needs no libsndfile

    try:
        with quiet_decoder():
            file = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        reason = (
            "no frame in it can be decoded"
            if error.code == _NO_FRAMES
            else error.error_string.rstrip(".")
        )
        refused = Unreadable(
            f"{name} cannot be read as audio, it is in no known format or its beginning is "
            f"damaged: {reason}"
        )
        refused.reason = reason
        raise refused from error
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        file.close()
        raise SpeechStreamError(
            f"{name} claims a sample rate of {file.samplerate} Hz, expected {MIN_RATE} to "
            f"{MAX_RATE}; its header is damaged"
        )
    return file


class _Count:
    """How many frames a decoder has given."""

    frames = 0


def _decode(
    file: Any,
    data: Any,
    frames: int | None,
    seconds: float,
    count: _Count,
    expected: int | None = None,
) -> Decoded:
    """The blocks of an open file; returns why it is not whole.

    frames: as its header announces. expected: as its container shows, with a decoder's delay more or less.
    """
    import soundfile

    size = max(round(file.samplerate * seconds), 1)
    quiet = quiet_decoder if file.format == "MP3" else nullcontext
    error = None
    with file:
        while error is None:
            block = np.full((size, file.channels), np.nan, np.float32)
            try:
                with quiet():
                    filled = len(file.read(out=block))
            except soundfile.LibsndfileError as failure:
                filled, error = _filled(block), failure
            if filled:
                count.frames += filled
                yield block[:filled]
            if filled < size:
                break
        if error is not None and error.code == _SEEK_FAILED and frames is None:
            error = None
        if error is None and expected is not None:
            short = expected - count.frames > mpeg.CERTAIN * 1152
            return f"{count.frames} of about {expected} samples could be decoded" if short else None
        reason = _fault(data, file, frames if error is None else None, count.frames)
        if error is not None and reason is None:
            reason = error.error_string.removeprefix("Error : ").rstrip(".")
        return reason


def _filled(block: np.ndarray) -> int:
    """How many rows a failed read has filled: it does not tell, but the rest is still NaN."""
    untouched = np.isnan(block[:, 0])
    return int(untouched.argmax()) if untouched.any() else len(block)


def _fault(data: Any, file: Any, promised: int | None, decoded: int) -> str | None:
    """Why a decoded file is not whole, in a few words."""
    log = file.extra_info
    for _, claim, present in _PROMISE.findall(log):
        if int(claim) > int(present) and not riff.is_unknown(int(claim)):
            return f"its header promises {claim} bytes where {present} are left"
    if file.format == "OGG" and (reason := ogg.fault(log)):
        return reason
    if file.format == "CAF" and (reason := trailing.caf_fault(data)):
        return reason
    if file.format == "NIST" and (count := re.search(rb"sample_count -i (\d+)", data[:1024])):
        promised = int(count[1])
    if promised is not None and decoded < promised:
        return f"{decoded} of {promised} samples are there"
    return None


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
        caught = _caught()
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            if caught.seek(0, os.SEEK_END):
                caught.seek(0)
                for line in caught:
                    if not _DECODER_CHATTER.fullmatch(line):
                        os.write(saved, line)
                caught.seek(0)
                caught.truncate()
            os.close(saved)


@functools.cache
def _caught() -> Any:
    """Where what is printed goes meanwhile; one file for all, behind the lock."""
    return tempfile.TemporaryFile()
