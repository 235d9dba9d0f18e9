"""Run an exported acoustic model with numpy and onnxruntime alone, and spread symbols over frames.

    model = Acoustic(folder, sub=4)
    plan = model.plan(ids, speaker)                     # encodings and prosody of one clause
    counts = sub_frames(plan.log_durations, speed)      # 10 ms each
    frames = model.frames(plan, counts)                 # (T, sub, features)
    codes, state = model.step(frames[None, :4], state)  # (1, levels, 4)

The graphs come from `speechstream.export.acoustic`. What a stream remembers is in its state, so streams and threads
may share a model, and `speechstream.state` stacks and selects states.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.runtime.session import open_session

ARCHITECTURE = "blockwise-tts"
FORMAT_KEYS = (
    "sample_rate",
    "frame_size",
    "sub",
    "symbols",
    "speakers",
    "blocks",
)  # of a bundle's config
MAX_LOG_DURATION = 6.0  # e^6 sub-frames are 4 s: nothing that is spoken is longer
Array = np.ndarray


@dataclass(frozen=True)
class Plan:
    """What the text encoder makes of N symbols of a clause: encodings (N, dim), logarithms of durations in sub-frames,
    pitch and energy (N,) in units of the speaker's spread."""

    encodings: Array
    log_durations: Array
    pitch: Array
    energy: Array


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


class Acoustic:
    """`text.onnx` and `acoustic.onnx` of a voice."""

    def __init__(self, folder: str | Path, sub: int, threads: int = 1, device: str = "cpu") -> None:
        """`sub` is the number of sub-frames a codec frame. Raises SpeechStreamError where a graph cannot be used."""
        self.sub = sub
        self._text = open_session(Path(folder) / "text.onnx", threads, device)
        self._step = open_session(Path(folder) / "acoustic.onnx", threads, device)
        self._fields = [i for i in self._step.get_inputs() if i.name.startswith("state.")]
        shape = self._step.get_inputs()[0].shape
        if shape[2] != sub or not self._fields:
            raise SpeechStreamError(
                f"{folder}/acoustic.onnx takes frames {shape}, not of {sub} sub-frames with a "
                "state; export the model again"
            )
        names = [i.name.removeprefix("state.").replace(".", "_") for i in self._fields]
        self._state = dataclasses.make_dataclass(
            "AcousticState", [(n, Array) for n in names], frozen=True
        )

    def init_state(self, batch: int = 1) -> Any:
        """The decoder's state of `batch` streams that have said nothing: a frozen dataclass of arrays."""
        return self._state(
            *(
                np.zeros([batch, *i.shape[1:]], np.int64 if "int64" in i.type else np.float32)
                for i in self._fields
            )
        )

    def plan(self, ids: Array, speaker: int) -> Plan:
        """Encode the symbols (N,) of one clause for a speaker's number."""
        encodings, prosody = self._text.run(
            None, {"ids": np.asarray(ids, np.int64)[None], "speaker": np.array([speaker], np.int64)}
        )
        return Plan(encodings[0], *prosody[0].T)

    def frames(self, plan: Plan, counts: Array) -> Array:
        """The decoder's input (T, sub, features) for sub-frames of each symbol that make whole frames.

        Raises ValueError where they do not.
        """
        if counts.sum() % self.sub:
            raise ValueError(
                f"{counts.sum()} sub-frames are no whole number of frames of {self.sub}; make the last "
                "symbol longer"
            )
        index, scalars = regulate(counts, plan.pitch, plan.energy)
        rows = np.concatenate([plan.encodings[index], scalars], 1)
        return rows.reshape(-1, self.sub, rows.shape[1])

    def step(self, frames: Array, state: Any) -> tuple[Array, Any]:
        """The next frames (B, T, sub, features) to codes int64 (B, levels, T), and the new state. T >= 1."""
        feed = {i.name: a for i, a in zip(self._fields, dataclasses.astuple(state))}
        codes, *new = self._step.run(
            None, {"frames": np.ascontiguousarray(frames, np.float32), **feed}
        )
        return codes, self._state(*new)
