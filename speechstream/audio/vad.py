"""Voice activity: the probability of speech every 32 ms, by the Silero VAD model through onnxruntime.

The network (Silero Team, "Silero VAD", MIT; its 16 kHz "sequence" graph) sees windows of 512 samples, each preceded by
the last 64 samples of the one before, and carries an LSTM from window to window.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

SAMPLE_RATE = 16_000
WINDOW = 512  # samples, 32 ms
CONTEXT = 64  # samples before the window that the network sees again
HIDDEN = 128
MAX_WINDOWS = 512  # windows in one run, 16 s: bounds the memory of an offline call

MODEL = Path(__file__).with_name("silero_vad.onnx")


class Network(Protocol):
    """Silero's graph, run by whoever has a session for it."""

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """input (n, 576), h and c (1, 1, 128) to probabilities (n,), h and c."""


@dataclass(frozen=True)
class VadState:
    """What the VAD remembers of each stream.

    samples: (B, 64 + 511) float32: the context, then the samples that do not yet fill a window, then zeros
    filled:  (B,) int64, how many samples wait for their window
    windows: (B,) int64, windows judged so far
    h, c:    (B, 128) float32, the LSTM
    """

    samples: np.ndarray
    filled: np.ndarray
    windows: np.ndarray
    h: np.ndarray
    c: np.ndarray


class Vad:
    """Speech probabilities of 16 kHz audio.

        vad = load_vad()                          # of speechstream.runtime.session
        state = vad.init_state(batch=1)
        p, state = vad.step(x, state)      # x (B, n) float32, any n; p (B, k), one for each window completed
        p = vad(x)                         # a whole recording, its last window filled up with silence

    Window number i covers samples 512 i to 512 (i + 1); speech is commonly taken to be p >= 0.5. Streams of one batch
    share n, yet may wait with different numbers of samples (`state.stack`) and then complete different numbers of
    windows: such rows are padded with NaN at their end; `after.windows - before.windows` tells how many are real.
    """

    sample_rate = SAMPLE_RATE

    def __init__(self, network: Network):
        self._network = network

    def init_state(self, batch: int = 1) -> VadState:
        """The state before the first sample, for `batch` streams."""
        counts, lstm = np.zeros(batch, np.int64), np.zeros((batch, HIDDEN), np.float32)
        return VadState(
            np.zeros((batch, CONTEXT + WINDOW - 1), np.float32),
            counts,
            counts.copy(),
            lstm,
            lstm.copy(),
        )

    def step(self, x: np.ndarray, state: VadState) -> tuple[np.ndarray, VadState]:
        """Take x (B, n) float32 at 16 kHz; return (B, k), the windows it completes, and the state."""
        x = np.asarray(x, np.float32)
        batch = len(state.filled)
        if x.ndim != 2 or x.shape[0] != batch:
            raise ValueError(
                f"expected a block of shape ({batch}, n) for a state of {batch} stream(s), got {x.shape}"
            )
        counts = (state.filled + x.shape[1]) // WINDOW
        p = np.full((batch, int(counts.max(initial=0))), np.nan, np.float32)
        samples, h, c = np.zeros_like(state.samples), state.h.copy(), state.c.copy()
        for b in range(batch):
            signal = np.concatenate([state.samples[b, : CONTEXT + state.filled[b]], x[b]])
            done = counts[b] * WINDOW
            p[b, : counts[b]], h[b], c[b] = self._judge(
                signal[: CONTEXT + done], state.h[b], state.c[b]
            )
            samples[b, : len(signal) - done] = signal[done:]
        return p, VadState(
            samples, state.filled + x.shape[1] - counts * WINDOW, state.windows + counts, h, c
        )

    def finish(self, state: VadState) -> np.ndarray:
        """The probability of the unfinished window as if silence followed: (B, 1), or (B, 0) where none has begun."""
        longest = int(state.filled.max(initial=0))
        if longest == 0:
            return np.zeros((len(state.filled), 0), np.float32)
        need = WINDOW - int(state.filled[state.filled > 0].min())
        p, _ = self.step(np.zeros((len(state.filled), need), np.float32), state)
        return np.where(state.filled[:, None] > 0, p[:, :1], np.nan).astype(np.float32)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Probabilities of whole recordings: (n,) or (B, n) float32 to (k,) or (B, k), k = ceil(n / 512)."""
        x = np.asarray(x, np.float32)
        if x.ndim == 1:
            return self(x[None])[0]
        p, state = self.step(x, self.init_state(len(x)))
        return np.concatenate([p, self.finish(state)], axis=1)

    def _judge(
        self, signal: np.ndarray, h: np.ndarray, c: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the windows of one stream; the signal begins with the context of the first."""
        if len(signal) == CONTEXT:
            return np.zeros(0, np.float32), h, c
        windows = np.lib.stride_tricks.sliding_window_view(signal, CONTEXT + WINDOW)[::WINDOW]
        h, c, p = h.reshape(1, 1, HIDDEN), c.reshape(1, 1, HIDDEN), []
        for begin in range(0, len(windows), MAX_WINDOWS):
            part = np.ascontiguousarray(windows[begin : begin + MAX_WINDOWS])
            probabilities, h, c = self._network.run(None, {"input": part, "h": h, "c": c})
            p.append(probabilities)
        return np.concatenate(p), h[0, 0], c[0, 0]
