"""A recognition stream as a value: what it remembers, and what a snapshot of one says of itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream import state as states
from speechstream.asr.biasing import HotWords
from speechstream.asr.endpoint import EndpointRules, SegmenterState
from speechstream.asr.form import TextForm
from speechstream.audio.resample import ResamplerState
from speechstream.audio.samples import DownmixState
from speechstream.audio.vad import VadState
from speechstream.config import read
from speechstream.errors import SpeechStreamError

MERGED = 32  # blocks of a segment's audio that are kept apart before they are put together
MAX_RATE = 1 << 20  # Hz
MAX_SEGMENT = 1 << 24  # samples at 16 kHz, 17 minutes: far beyond the longest segment


@dataclass(frozen=True)
class Segment:
    """One stretch of speech while it is heard."""

    start: int  # sample of the stream, at 16 kHz
    onset: int  # from which on the voice was active
    audio: tuple[np.ndarray, ...]  # all of it
    shown: tuple[str, str]  # the stable and unstable text of the last Partial
    decoding: Any  # the family's state

    @property
    def samples(self) -> int:
        return sum(map(len, self.audio))

    def check(self, heard: int) -> None:
        """Raises ValueError where no stream that has judged so many samples can hold this."""
        if any(a.ndim != 1 or a.dtype != np.float32 for a in self.audio):
            raise ValueError("its audio is no audio")
        longest = min(MAX_SEGMENT, heard)
        if self.samples > longest or not self.start <= self.onset <= heard:
            raise ValueError("its segment is longer than the stream")


@dataclass(frozen=True)
class StreamState:
    """All that a recognition stream remembers. Samples are counted at 16 kHz."""

    resampler: ResamplerState
    vad: VadState
    segmenter: SegmenterState
    pending: np.ndarray  # (n,) samples that do not fill the next windows yet
    recent: np.ndarray  # (n,) the last windows, for what precedes an onset
    downmix: DownmixState
    heard: int = 0  # samples judged so far, whole windows
    received: int = 0  # samples that came
    segment: Segment | None = None
    finished: bool = False


def longer(segment: Segment, x: np.ndarray) -> Segment:
    """A segment with more audio, which its decoding has yet to hear."""
    audio = (*segment.audio, x)
    if len(audio) > MERGED:
        audio = (np.concatenate(audio),)
    return replace(segment, audio=audio)


def kind(
    data: bytes | states.Flat,
) -> tuple[int | None, int, HotWords | None, EndpointRules, TextForm]:
    """Latency, sample rate, hot words, endpoint rules and form of the stream that a snapshot holds. Raises SpeechStreamError."""
    about = states.about_bytes(data)
    try:
        words = HotWords.from_json(about["hotwords"]) if "hotwords" in about else None
        rules = read(EndpointRules, about.get("rules"), "rules")
        form = read(TextForm, about.get("form", {}), "form")
    except ValueError as error:
        raise SpeechStreamError(f"this snapshot holds no recognition stream: {error}") from error
    latency_ms, sample_rate = about.get("latency_ms"), about.get("sample_rate")
    if latency_ms is not None and type(latency_ms) is not int:
        raise SpeechStreamError("this snapshot holds no recognition stream: it names no latency")
    if type(sample_rate) is not int or not 1 <= sample_rate <= MAX_RATE:
        raise SpeechStreamError("this snapshot holds no recognition stream: it names no rate")
    return latency_ms, sample_rate, words, rules, form
