"""Sound as bytes while it is made: MP3, Opus, AAC, FLAC, WAV and PCM, all mono at 24 kHz as OpenAI gives it.

    encoder = encoder_of("mp3", 24_000)
    yield encoder.encode(block) ...                  # float32; b"" where a frame is not full yet
    yield encoder.finish()

MP3, Opus, AAC and FLAC are PyAV's (FFmpeg), which writes each packet at once.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechstream.audio.pcm import wav_header
from speechstream.audio.resample import Resampler
from speechstream.errors import SpeechStreamError

RATE = 24_000  # Hz
PAGE_US = 20_000  # of an Ogg page: by default they hold a second, for which a listener would wait


class Encoder(Protocol):
    """One stream of sound."""

    def encode(self, pcm: np.ndarray) -> bytes:
        """What is complete with this block of float32 samples."""

    def finish(self) -> bytes:
        """The rest."""


@dataclass(frozen=True)
class Format:
    """media_type: of HTTP. container, codec, options: FFmpeg's; no container: written here."""

    media_type: str
    container: str | None = None
    codec: str = ""
    bit_rate: int = 0
    options: tuple[tuple[str, str], ...] = ()


FORMATS = {
    "mp3": Format("audio/mpeg", "mp3", "libmp3lame", 96_000, (("write_xing", "0"),)),
    "opus": Format("audio/ogg", "ogg", "libopus", 48_000, (("page_duration", str(PAGE_US)),)),
    "aac": Format("audio/aac", "adts", "aac", 96_000),
    "flac": Format("audio/flac", "flac", "flac"),
    "wav": Format("audio/wav"),
    "pcm": Format("audio/pcm"),
}


def encoder_of(name: str, rate: int) -> Encoder:
    """An encoder for blocks at `rate`. Raises ValueError for a format that there is not, SpeechStreamError where what
    it needs is not installed."""
    if name not in FORMATS:
        raise ValueError(
            f"{name[:40]!r} is no format of sound; expected one of {', '.join(FORMATS)}"
        )
    form = FORMATS[name]
    if form.container is None:
        return _Plain(rate, wav_header(RATE) if name == "wav" else b"")
    if importlib.util.find_spec("av") is None:
        raise SpeechStreamError(
            f"{name} needs PyAV, which is not installed: pip install speechstream[serve]; "
            "wav and pcm need nothing"
        )
    return _Encoded(rate, form)


def warm() -> None:
    """Load what encodes, so that no listener waits for it. Without PyAV it does nothing."""
    if importlib.util.find_spec("av") is not None:
        for name in FORMATS:
            encoder = encoder_of(name, RATE)
            encoder.encode(np.zeros(RATE // 10, np.float32))
            encoder.finish()


class _Plain:
    """16-bit PCM behind a header."""

    def __init__(self, rate: int, header: bytes):
        self._samples, self._header = _At24k(rate), header

    def encode(self, pcm: np.ndarray) -> bytes:
        data = self._header + self._samples.step(pcm).tobytes()
        self._header = b""
        return data

    def finish(self) -> bytes:
        return self._header + self._samples.finish().tobytes()


class _Encoded:
    """What FFmpeg encodes."""

    def __init__(self, rate: int, form: Format):
        import av

        self._av, self._samples, self._sink = av, _At24k(rate), _Sink()
        options = dict(form.options) | {"flush_packets": "1"}
        self._container: Any = av.open(self._sink, "w", format=form.container, options=options)
        stream: Any = self._container.add_stream(form.codec, rate=RATE, layout="mono")
        self._stream = stream
        if form.bit_rate:
            self._stream.bit_rate = form.bit_rate
        self._count = 0

    def encode(self, pcm: np.ndarray) -> bytes:
        self._feed(self._samples.step(pcm))
        return self._sink.taken()

    def finish(self) -> bytes:
        self._feed(self._samples.finish())
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.taken()

    def _feed(self, samples: np.ndarray) -> None:
        if not len(samples):
            return
        frame = self._av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, self._count
        self._count += len(samples)
        self._container.mux(self._stream.encode(frame))


class _Sink:
    """A file that is only written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data, self._pieces = b"".join(self._pieces), []
        return data


class _At24k:
    """Float32 blocks of any rate as 16-bit blocks at 24 kHz."""

    def __init__(self, rate: int):
        self._resampler = None if rate == RATE else Resampler(rate, RATE)
        self._state: Any = self._resampler and self._resampler.init_state()

    def step(self, pcm: np.ndarray) -> np.ndarray:
        if self._resampler is not None:
            rows, self._state = self._resampler.step(pcm[None], self._state)
            pcm = rows[0]
        return _int16(pcm)

    def finish(self) -> np.ndarray:
        if self._resampler is None:
            return np.zeros(0, "<i2")
        return _int16(self._resampler.finish(self._state)[0])


def _int16(pcm: np.ndarray) -> np.ndarray:
    return np.asarray((np.clip(pcm, -1, 1) * 32767).round().astype("<i2"))
