"""Recordings of phones, browsers and video: through PyAV, or the program ffmpeg where PyAV is not installed.

Only what is recognised by its first bytes goes there: their own guesses may take any text for sound, or a playlist that
names other files.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np

from speechstream.audio.channels import MIX, Channels
from speechstream.audio.containers import ogg, trailing
from speechstream.audio.containers.content import Content, Pieces, exactly
from speechstream.audio.containers.riff import HEAD, is_unknown, wav_blocks
from speechstream.audio.recording import MAX_RATE, MIN_RATE, Blocks, Decoded, Part, joined
from speechstream.audio.samples import MAX_CHANNELS, as_samples
from speechstream.errors import SpeechStreamError

_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # an object with the file's size
SLACK_S = 0.5  # that a header may tell too much: encoders' padding, rounded times
STRICT = "crccheck+explode"  # no packet whose checksum is wrong
_LOSSLESS = ("WavPack", "True Audio", "Monkey's Audio")  # where ffmpeg is asked by its name
_MARKS = (
    (0, b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "Windows Media"),
    (0, b"#!AMR", "AMR"),
    (0, b"FLV\1", "Flash video"),
    (0, b"ADIF", "AAC"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"TTA1", "True Audio"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b".RMF", "RealMedia"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b"\x0bw", "AC-3"),
    (0, b"\x7f\xfe\x80\1", "DTS"),
    (0, b"\0\0\1\xba", "MPEG program stream"),
    (0, b"DSD ", "DSD"),
    (4, b"ftyp", "MP4"),
    (4, b"moov", "QuickTime"),
    (4, b"mdat", "QuickTime"),
    (4, b"wide", "QuickTime"),
    (4, b"styp", "MP4"),
    (8, b"AVI ", "AVI"),
)
_WHERE = re.compile(r"^\[[^\]]*\]\s*")  # "[mov,mp4 @ 0x55..] " before what ffmpeg says


def name(head: bytes) -> str | None:
    """What these first bytes of a recording are, if PyAV reads it and libsndfile does not."""
    for at, mark, found in _MARKS:
        if head[at : at + len(mark)] == mark:
            return found
    if head[:1] == b"G" and head[188:189] in (b"G", b"") and len(head) > 4:
        return "MPEG transport stream" if head[188:189] and head[376:377] in (b"G", b"") else None
    if adts_frame(head[:8]):
        return "AAC"
    return None


def adts_frame(head: bytes) -> int | None:
    """Bytes of the AAC frame (ADTS) that begins here; None where none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return None
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else None


def is_available() -> bool:
    """Whether there is a program that reads such files."""
    return importlib.util.find_spec("av") is not None or shutil.which("ffmpeg") is not None


def open_media(content: Content, seconds: float) -> Blocks:
    """The sound of such a file. Raises SpeechStreamError where it has none, or nothing is installed that reads it."""
    if importlib.util.find_spec("av") is not None:
        return _through_pyav(content, seconds)
    if program := shutil.which("ffmpeg"):
        return _through_ffmpeg(content, program)
    found = name(bytes(content.data[:512])) or "in a format that libsndfile does not read"
    raise SpeechStreamError(
        f"{content.name} is {found}, which is read through PyAV or ffmpeg; pip install speechstream[media]"
    )


def _through_pyav(content: Content, seconds: float) -> Blocks:
    import av

    try:
        container: Any = av.open(Pieces([(content.data, 0, len(content.data))]), "r")
    except (av.error.FFmpegError, ValueError) as error:
        raise _unreadable(content, getattr(error, "strerror", None) or str(error)) from error
    if not container.streams.audio:
        container.close()
        raise SpeechStreamError(f"{content.name} holds no sound")
    context = container.streams.audio[0].codec_context
    if context.codec.lossless:  # without its sums a damaged packet is loud noise; others conceal it
        context.options = {"err_detect": STRICT}
    told = _told(container)
    frames = _Frames(container)
    if frames.ahead is None:
        raise _unreadable(content, frames.fault or "no frame in it can be decoded")

    def parts() -> Iterator[Part | str]:
        while frames.ahead is not None:
            yield Part(frames.ahead.sample_rate, frames.run(seconds))
        if frames.fault:
            yield frames.fault
        elif cut := cut_off(content.data):
            yield cut
        elif told and frames.seconds < told - SLACK_S:
            yield f"its header promises {told:.2f} s"
        yield from content.faults

    return joined(parts(), content.name, told)


def _told(container: Any) -> float | None:
    """Seconds of sound, as the container tells; where it tells of the pictures too, only what it says of the sound."""
    stream = container.streams.audio[0]
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1 and container.duration
    return container.duration / 1e6 if alone else None


class _Frames:
    """The decoded frames of a container's first stream of sound. ahead: the next one, None at the end."""

    def __init__(self, container: Any):
        self.container, self.seconds, self.damaged = container, 0.0, 0
        self.fault: str | None = None
        self._frames = self._decode()
        self.ahead: Any = next(self._frames, None)

    def _decode(self) -> Generator[Any, None, None]:
        import av

        with self.container:
            packets = self.container.demux(self.container.streams.audio[0])
            while True:
                try:
                    packet = next(packets, None)
                except av.error.FFmpegError as error:
                    self.fault = self.fault or (error.strerror or str(error)).lower()
                    return
                if packet is None:
                    return
                try:
                    frames = packet.decode()
                except av.error.FFmpegError as error:
                    if not isinstance(error, EOFError):
                        self._damage()
                    continue
                for frame in frames:
                    if frame.is_corrupt:  # concealed, as AC-3 does
                        self._damage()
                    if frame.layout.nb_channels > MAX_CHANNELS:
                        count = frame.layout.nb_channels
                        self.fault = f"it has {count} channels, and {MAX_CHANNELS} are the most"
                        return
                    if frame.samples and MIN_RATE <= frame.sample_rate <= MAX_RATE:
                        self.seconds += frame.samples / frame.sample_rate
                        yield frame

    def _damage(self) -> None:
        self.damaged += 1
        self.fault = f"{self.damaged} packet(s) in it are damaged"

    def run(self, seconds: float) -> Decoded:
        """The frames up to one of another kind, in blocks of about `seconds`."""
        first, held, count = self.ahead, [], 0
        kind = _kind(first)
        try:
            while self.ahead is not None and _kind(self.ahead) == kind:
                held.append(_samples(self.ahead))
                count += len(held[-1])
                self.ahead = next(self._frames, None)
                if count >= seconds * first.sample_rate:
                    yield np.concatenate(held)
                    held, count = [], 0
        except GeneratorExit:
            self._frames.close()
            raise
        if held:
            yield np.concatenate(held)
        return None


def _kind(frame: Any) -> tuple[int, int]:
    return frame.sample_rate, len(frame.layout.channels)


def _samples(frame: Any) -> np.ndarray:
    """(n, channels), scaled."""
    x, channels = frame.to_ndarray(), len(frame.layout.channels)
    x = x.T if frame.format.is_planar else x.reshape(-1, channels)
    return np.asarray(x, np.float32) if x.dtype.kind == "f" else as_samples(x)


def cut_off(data: Any) -> str | None:
    """Whether a container's own lengths reach behind the end of the data, or its last frame does."""
    head, size = bytes(data[: 1 << 16]), len(data)
    end = None
    if adts_frame(head[:8]):
        return _adts_fault(data)
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"styp"):
        end = _boxes_end(data)
    elif head[:4] == b"\x1aE\xdf\xa3":
        end = _segment_end(head)
    elif (at := head.find(_ASF_FILE)) > 0:
        end = int.from_bytes(head[at + 40 : at + 48], "little")
    elif head[:4] == b"RIFF" and not is_unknown(size_told := int.from_bytes(head[4:8], "little")):
        end = 8 + size_told
    elif head[:1] == b"G" and size % 188:
        return "its last packet is cut off"
    elif head[:4] == b"caff":
        return trailing.caf_fault(data)
    elif head[:4] == b"OggS":
        return ogg.unended(data)
    return f"its header promises {end} bytes where {size} are there" if end and end > size else None


def _boxes_end(data: Any) -> int:
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16], "big")
        if length < 8:  # up to the end of the file
            return len(data)
        position += length
    return position


def _segment_end(head: bytes) -> int | None:
    """Where Matroska's one large element ends; None where its length is unknown, as in what is sent live."""

    def size_at(position: int) -> tuple[int, int | None]:
        first = head[position]
        width = 9 - first.bit_length() if first else 9
        value = int.from_bytes(head[position : position + width], "big") & (1 << 7 * width) - 1
        return position + width, None if value == (1 << 7 * width) - 1 else value

    position, size = size_at(4)
    position += size or 0
    if head[position : position + 4] != b"\x18S\x80g":
        return None
    position, size = size_at(position + 4)
    return None if size is None else position + size


def _adts_fault(data: Any) -> str | None:
    position, size = 0, len(data)
    while position + 7 <= size:
        frame = adts_frame(bytes(data[position : position + 8]))
        if frame is None:
            if data[position : position + 3] in (b"TAG", b"ID3"):
                return None
            return f"the frame at byte {position} is damaged"
        position += frame
    return "its last frame is cut off" if position != size else None


def _unreadable(content: Content, why: str) -> SpeechStreamError:
    what = name(bytes(content.data[:512])) or "of a format that libsndfile does not read"
    if what in ("MP4", "QuickTime") and _boxes_end(content.data) > len(content.data):
        why = "it is cut off, and its index is missing, which is written last"
    return SpeechStreamError(
        f"{content.name} ({what}) cannot be decoded: {why.lower().rstrip('.')}"
    )


def _through_ffmpeg(content: Content, program: str) -> Blocks:
    with ExitStack() as after:
        path = content.path
        if path is None:
            copy = after.enter_context(tempfile.NamedTemporaryFile())
            copy.write(content.data)
            copy.flush()
            path = copy.name
        said = after.enter_context(tempfile.TemporaryFile())
        command = [program, "-nostdin", "-v", "error"]
        if name(bytes(content.data[:512])) in _LOSSLESS:
            command += ["-err_detect", STRICT]
        command += ["-i", f"file:{path}", "-map", "0:a:0"]
        command += ["-c:a", "pcm_f32le", "-f", "wav", "-"]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
        )
        after.callback(process.wait)
        after.callback(process.kill)
        out: Any = process.stdout
        after.callback(out.close)

        def faults() -> Iterator[str]:
            out.read()
            code = process.wait()
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            if lines or code:
                yield _WHERE.sub(
                    "", lines[0] if lines else f"ffmpeg has failed with {code}"
                ).lower()
            elif cut := cut_off(content.data):
                yield cut
            yield from content.faults

        if len(exactly(out, HEAD)) < HEAD:
            why = next(faults())
            if "matches no streams" in why:
                raise SpeechStreamError(f"{content.name} holds no sound")
            raise _unreadable(content, why)
        blocks = wav_blocks(out, content.name, faults())
        close = after.pop_all().close

    def until_closed(channels: Channels = MIX) -> Iterator[np.ndarray]:
        try:
            yield from blocks.hear(channels)
        finally:
            close()

    return Blocks(blocks.rate, until_closed(), None, until_closed)
