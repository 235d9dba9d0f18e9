"""What the voices share whose text encoder says of each phoneme how it is spoken: its encoding and its prosody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechstream.tts.graphs import VoiceGraph

MAX_LOG_DURATION = 6.0  # e^6 sub-frames are 4 s: nothing that is spoken is longer
PITCH_UNIT = 4.0  # semitones, and
ENERGY_UNIT = 6.0  # decibels: what 1 is to a text encoder
PAD_ID = 0  # the symbol of silence at both ends of an utterance
Array = np.ndarray


@dataclass(frozen=True)
class SpeakerConfig:
    """One speaker of a voice: median pitch in Hz, level in dB of full scale. language: of the accent ("en-GB"), where it
    is another than the voice's, by whose front end all speakers read. energy_db: added to the loudness that the model predicts for it, so that the
    speakers of a voice are equally loud."""

    name: str
    description: str = ""
    pitch_hz: float | None = None
    level_db: float | None = None
    language: str | None = None
    energy_db: float = 0.0


@dataclass(frozen=True)
class Encoding:
    """What the text encoder makes of N symbols of a clause: encodings (N, dim), logarithms of durations in sub-frames,
    pitch and energy (N,) in units of the speaker's spread."""

    encodings: Array
    log_durations: Array
    pitch: Array
    energy: Array


class TextEncoder:
    """`text.onnx` of a voice, a graph of `speechstream.export.acoustic`."""

    def __init__(self, path: str | Path, threads: int = 1, device: str = "cpu") -> None:
        """Raises SpeechStreamError where the graph cannot be used."""
        self._text = VoiceGraph(path, threads, device)

    def encode(self, ids: Array, speaker: int) -> Encoding:
        """Encode the symbols (N,) of one clause for a speaker's number."""
        return self.encode_many(np.asarray(ids)[None], [speaker])[0]

    def encode_many(self, ids: Array, speakers: Sequence[int]) -> list[Encoding]:
        """Encode clauses of equal length (B, N), each for its speaker."""
        inputs = {"ids": np.asarray(ids, np.int64), "speaker": np.asarray(speakers, np.int64)}
        out, _ = self._text.step(inputs)
        return [Encoding(e, *p.T) for e, p in zip(out["encodings"], out["prosody"])]
