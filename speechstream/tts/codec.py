"""Run an exported codec frame by frame with numpy and onnxruntime alone.

    decoder = CodecDecoder("mimi/decoder.onnx")
    state = decoder.init_state()
    audio, state = decoder.step(codes, state)      # (1, levels, T) -> (1, 1, T * frame_size)

The graphs come from `speechstream.export.codec` and carry their sizes in their metadata, so the same two classes run
Mimi and the small codec of the embedded voices. States are values: `speechstream.state` stacks and selects them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from speechstream import state as states
from speechstream.config import Section
from speechstream.errors import SpeechStreamError
from speechstream.runtime.graph import Graph

OFFLINE_FRAMES = 25  # frames an offline call hands to the graph at a time: its attention is square in this number
Array = np.ndarray


class _Codec:
    """One direction of a codec. All that a stream has is in its state, so streams and threads may share one."""

    direction: str

    def __init__(self, path: str | Path, threads: int = 1, device: str = "cpu") -> None:
        """`threads`: how many onnxruntime may use for one step.

        Raises SpeechStreamError where the file is not such a graph, or the device is not to be had.
        """
        self.graph = Graph(path, threads, device)
        about = Section(self.graph.about)
        if about.raw("architecture") != "codec":
            raise SpeechStreamError(
                f"{path} is no codec graph; speechstream.export.codec makes them"
            )
        if about.raw("direction") != self.direction:
            raise SpeechStreamError(
                f"{path} is to {about.raw('direction')}, not to {self.direction}"
            )
        try:
            self.sample_rate = about.integer("sample_rate")
            self.frame_size = about.integer("frame_size")  # samples
            self.delay = about.integer("delay")  # samples by which decoded sound lags the original
            self.channels = about.integer("channels")
            self.levels = about.integer("levels")
            self.bins = about.integer("bins")
        except ValueError as error:
            raise SpeechStreamError(f"{path} is damaged: in its metadata, {error}") from error

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.frame_size

    def init_state(self, batch: int = 1) -> Any:
        """The state of `batch` streams that have seen nothing: a frozen dataclass of arrays, streams first."""
        return self.graph.init_state(batch)

    def _run(self, x: Array, state: Any) -> tuple[Array, Any]:
        if len(x) != states.batch_size(state):
            raise ValueError(
                f"{len(x)} streams of input, but a state of {states.batch_size(state)}"
            )
        out, state = self.graph.step({self.graph.inputs[0]: np.ascontiguousarray(x)}, state)
        return out[self.graph.outputs[0]], state


class CodecDecoder(_Codec):
    """Codes to sound."""

    direction = "decode"

    def step(self, codes: Array, state: Any) -> tuple[Array, Any]:
        """The next codes (B, levels or fewer, T), integers, to audio float32 (B, channels, T * frame_size) and the new
        state. A code of -1 is an absent level. T may be 0. Raises ValueError for other shapes and other codes."""
        codes = np.asarray(codes)
        if (
            codes.ndim != 3
            or not 1 <= codes.shape[1] <= self.levels
            or codes.dtype.kind not in "iu"
        ):
            raise ValueError(
                f"expected integer codes (B, 1 to {self.levels} levels, T); got {codes.dtype} "
                f"{codes.shape}"
            )
        if codes.size == 0:
            return np.zeros((len(codes), self.channels, 0), np.float32), state
        if codes.min() < -1 or codes.max() >= self.bins:
            raise ValueError(
                f"codes go from 0 to {self.bins - 1} (-1: absent); got {codes.min()} to {codes.max()}"
            )
        missing = self.levels - codes.shape[1]
        codes = np.pad(codes.astype(np.int64), ((0, 0), (0, missing), (0, 0)), constant_values=-1)
        return self._run(codes, state)

    def __call__(self, codes: Array) -> Array:
        """All codes (B, levels or fewer, T) of new streams to audio (B, channels, T * frame_size)."""
        state, audio = self.init_state(len(codes)), []
        for start in range(0, max(codes.shape[-1], 1), OFFLINE_FRAMES):
            block, state = self.step(codes[..., start : start + OFFLINE_FRAMES], state)
            audio.append(block)
        return np.concatenate(audio, -1)


class CodecEncoder(_Codec):
    """Sound to codes."""

    direction = "encode"

    def step(self, audio: Array, state: Any) -> tuple[Array, Any]:
        """The next whole frames (B, channels, T * frame_size), floats within [-1, 1], to codes int64 (B, levels, T) and
        the new state. T may be 0. `stream()` takes blocks of any length. Raises ValueError for another shape."""
        audio = np.asarray(audio)
        if audio.ndim != 3 or audio.shape[1] != self.channels or audio.shape[-1] % self.frame_size:
            raise ValueError(
                f"expected audio (B, {self.channels}, a multiple of {self.frame_size} samples); got "
                f"{audio.shape}; stream() takes blocks of any length"
            )
        if audio.dtype.kind != "f":
            raise ValueError(f"expected floating-point audio within [-1, 1]; got {audio.dtype}")
        if audio.size == 0:
            return np.zeros((len(audio), self.levels, 0), np.int64), state
        frames = audio.reshape(*audio.shape[:2], -1, self.frame_size)  # the graph counts in frames
        return self._run(frames.astype(np.float32, copy=False), state)

    def __call__(self, audio: Array) -> Array:
        """Whole recordings (B, channels, samples) to codes (B, levels, T), the end filled up with silence."""
        audio = np.pad(audio, ((0, 0), (0, 0), (0, -audio.shape[-1] % self.frame_size)))
        state, codes, hop = self.init_state(len(audio)), [], OFFLINE_FRAMES * self.frame_size
        for start in range(0, max(audio.shape[-1], 1), hop):
            block, state = self.step(audio[..., start : start + hop], state)
            codes.append(block)
        return np.concatenate(codes, -1)

    def stream(self) -> EncoderStream:
        """A stream of its own that takes mono blocks of any length."""
        return EncoderStream(self)


class EncoderStream:
    """Encodes one stream in blocks of any length: what does not fill a frame waits for the next block."""

    def __init__(self, encoder: CodecEncoder) -> None:
        self.encoder, self.state = encoder, encoder.init_state()
        self._rest = np.zeros((encoder.channels, 0), np.float32)

    def push(self, pcm: Array) -> Array:
        """Take samples (n,) or (channels, n); return the codes (levels, T) of the frames they complete."""
        pcm = np.atleast_2d(np.asarray(pcm, np.float32))
        if pcm.shape[0] != self.encoder.channels:
            raise ValueError(f"expected {self.encoder.channels} channel(s); got {pcm.shape[0]}")
        pcm = np.concatenate([self._rest, pcm], -1)
        whole = pcm.shape[-1] // self.encoder.frame_size * self.encoder.frame_size
        codes, self.state = self.encoder.step(pcm[None, :, :whole], self.state)
        self._rest = pcm[:, whole:]
        return codes[0]

    def finish(self) -> Array:
        """The codes (levels, 1 or 0) of what is left, filled up with silence; the stream begins anew."""
        missing = -self._rest.shape[-1] % self.encoder.frame_size
        codes = self.push(np.zeros((self.encoder.channels, missing), np.float32))
        self.state = self.encoder.init_state()
        return codes
