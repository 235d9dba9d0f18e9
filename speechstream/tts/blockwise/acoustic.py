"""Run an exported acoustic model with numpy and onnxruntime alone, and spread symbols over frames.

    model = Acoustic(folder, subframes=4)
    encoding = model.encode(ids, speaker)                # one clause
    counts = sub_frames(encoding.log_durations, speed)   # 10 ms each
    plan = model.plan(encoding, counts)
    codes, state = model.step(plan.frames(0, 4), state)  # (1, levels, 4)

The graphs come from `speechstream.export.acoustic`. What a stream remembers is in its state, so streams and threads
may share a model, and `speechstream.state` stacks and selects states.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.tts.encoded import MAX_LOG_DURATION, Encoding, SpeakerConfig, TextEncoder
from speechstream.tts.graphs import VoiceGraph

ARCHITECTURE = "blockwise-tts"
Array = np.ndarray


@dataclass(frozen=True)
class VoiceConfig:
    """The `config` of a voice's bundle. model, codec: sizes of its networks, to train them further."""

    sample_rate: int  # Hz
    frame_size: int  # samples of a codec frame
    subframes: int  # of the acoustic model, a codec frame
    symbols: str  # in the order of the model's embedding
    speakers: tuple[SpeakerConfig, ...]
    blocks: tuple[int, ...]  # codec frames of a stream's first blocks, and of all that follow
    language: str = "en-US"
    model: Any = None
    codec: Any = None

    def __post_init__(self) -> None:
        sizes = (self.sample_rate, self.frame_size, self.subframes, *self.blocks)
        if min(sizes) < 1 or not self.blocks or not self.symbols or not self.speakers:
            raise ValueError(
                "it has no speakers, symbols or blocks, or sizes that are not positive"
            )


@dataclass(frozen=True)
class Plan:
    """The decoder's input for one utterance of S sub-frames, T = S / subframes frames: encodings (N, dim) of its symbols,
    each sub-frame's symbol (S,) int64, and scalars (S, 4) of `regulate`."""

    encodings: Array
    index: Array
    scalars: Array
    subframes: int

    def __len__(self) -> int:
        return len(self.index) // self.subframes

    def frames(self, begin: int, end: int) -> Array:
        """Frames (1, up to end - begin, subframes, features) float32."""
        at = slice(begin * self.subframes, end * self.subframes)
        rows = np.concatenate([self.encodings[self.index[at]], self.scalars[at]], 1)
        return rows.reshape(1, -1, self.subframes, rows.shape[1])


def sub_frames(log_durations: Array, speed: Array | float = 1.0) -> Array:
    """Whole numbers of sub-frames (N,) int64 from the logarithms of durations; `speed` divides. The rounding error is
    carried on, so a clause is as long as the sum of what was predicted."""
    exact = np.exp(np.minimum(log_durations, MAX_LOG_DURATION).astype(np.float64)) / speed
    return np.diff(np.round(np.cumsum(exact)), prepend=0.0).astype(np.int64)


def regulate(counts: Array, pitch: Array, energy: Array) -> tuple[Array, Array]:
    """FastSpeech's length regulator. From sub-frames of each symbol (N,), its pitch and energy, to each sub-frame's
    symbol (S,) int64 and scalars (S, 4) float32: place in the symbol (0 to 1), log duration / 3, pitch, energy.

    Pitch is drawn from the middle of one symbol to the middle of the next, so it has no steps.
    """
    counts = np.asarray(counts, np.int64)
    index = np.repeat(np.arange(len(counts)), counts)
    ends = np.cumsum(counts)
    at = np.arange(len(index)) + 0.5
    scalars = np.zeros((len(index), 4), np.float32)
    if not len(index):
        return index, scalars
    scalars[:, 0] = (at - (ends - counts)[index]) / counts[index]
    scalars[:, 1] = np.log(counts[index]) / 3
    heard = counts > 0
    scalars[:, 2] = np.interp(at, (ends - counts / 2)[heard], np.asarray(pitch)[heard])
    scalars[:, 3] = np.asarray(energy)[index]
    return index, scalars


class Acoustic(TextEncoder):
    """`text.onnx` and `acoustic.onnx` of a voice."""

    def __init__(
        self, folder: str | Path, subframes: int, threads: int = 1, device: str = "cpu"
    ) -> None:
        """`subframes` is the number of sub-frames a codec frame. Raises SpeechStreamError where a graph cannot be used."""
        self.subframes = subframes
        super().__init__(Path(folder) / "text.onnx", threads, device)
        self._decoder = VoiceGraph(Path(folder) / "acoustic.onnx", threads, device)
        shape = self._decoder.session.get_inputs()[0].shape
        if shape[2] != subframes or self._decoder.init_state() is None:
            raise SpeechStreamError(
                f"{folder}/acoustic.onnx takes frames {shape}, not of {subframes} sub-frames with a "
                "state; export the model again"
            )

    def init_state(self, batch: int = 1) -> Any:
        """The decoder's state of `batch` streams that have said nothing: a frozen dataclass of arrays."""
        return self._decoder.init_state(batch)

    def plan(self, encoding: Encoding, counts: Array) -> Plan:
        """What the decoder is given for sub-frames of each symbol (N,) that make whole frames.

        Raises ValueError where they do not.
        """
        if counts.sum() % self.subframes:
            raise ValueError(
                f"{counts.sum()} sub-frames are no whole number of frames of {self.subframes}; make the last "
                "symbol longer"
            )
        index, scalars = regulate(counts, encoding.pitch, encoding.energy)
        return Plan(encoding.encodings, index, scalars, self.subframes)

    def step(self, frames: Array, state: Any) -> tuple[Array, Any]:
        """The next frames (B, T, subframes, features) to codes int64 (B, levels, T), and the new state. T >= 1."""
        out, state = self._decoder.step({"frames": np.ascontiguousarray(frames, np.float32)}, state)
        return out["codes"], state
