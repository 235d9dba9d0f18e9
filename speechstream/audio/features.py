"""Log-mel features as Whisper computes them, offline and streamed with equal numbers.

Frame m is centred at sample 160 m: a periodic Hann window of 400 samples (25 ms at 16 kHz), power spectrum, Slaney mel
filters, log10. Two choices serve streams: the signal is preceded by zeros (not by its own reflection), and the dynamic
range is floored at a fixed level (Whisper floors at 8 below the loudest frame of the whole clip, which a stream
cannot know).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SAMPLE_RATE = 16_000
N_FFT = 400  # 25 ms
HOP_LENGTH = 160  # 10 ms
LOG_FLOOR = -7.0  # log10 of mel energy


@dataclass(frozen=True)
class LogMelState:
    """The samples of each stream that later frames still need."""

    samples: np.ndarray  # (B, N_FFT - 1) float32, right-aligned
    filled: np.ndarray  # (B,) int64: how many of them are valid
    frames: np.ndarray  # (B,) int64: frames given so far


@lru_cache
def mel_filters(mels: int) -> np.ndarray:
    """Slaney's mel filter bank, area-normalised: (mels, N_FFT // 2 + 1), as `librosa.filters.mel` gives it."""

    def hz(mel):  # linear to 1 kHz, logarithmic above
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    edges = hz(np.linspace(0, top, mels + 2))
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    slope = (edges[:, None] - bins) / -np.diff(edges, append=edges[-1] + 1)[
        :, None
    ]  # rising side of each edge
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bank = (
        np.maximum(0, np.minimum(slope[:mels], falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    )
    return bank.astype(np.float32)


class LogMel:
    """Samples (B, n) at 16 kHz to log-mel frames (B, mels, frames), one every 10 ms."""

    def __init__(self, mels: int = 80, floor: float = LOG_FLOOR):
        self.mels, self.floor = mels, floor
        self.window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)  # periodic
        self.filters = mel_filters(mels)

    def init_state(self, batch: int = 1) -> LogMelState:
        """A stream that begins after silence: half a window of zeros stands before the first sample."""
        return LogMelState(
            np.zeros((batch, N_FFT - 1), np.float32),
            np.full(batch, N_FFT // 2, np.int64),
            np.zeros(batch, np.int64),
        )

    def step(self, samples: np.ndarray, state: LogMelState) -> tuple[np.ndarray, LogMelState]:
        """Consume (B, n) samples, n >= 0; return (B, mels, frames), the frames that are now complete, and the state.

        Streams of one batch share n, yet may wait with different numbers of samples (`state.stack`) and then complete
        different numbers of frames: such rows are padded with NaN at their end; `after.frames - before.frames` tells
        how many are real. Raises ValueError for another shape.
        """
        x = np.asarray(samples, np.float32)
        if x.ndim != 2 or x.shape[0] != len(state.filled):
            raise ValueError(
                f"expected a block of shape ({len(state.filled)}, n) for a state of {len(state.filled)} "
                f"stream(s), got {x.shape}"
            )
        buffers = np.concatenate([state.samples, x], axis=1)
        counts = np.maximum(0, (state.filled + x.shape[1] - N_FFT) // HOP_LENGTH + 1)
        first = N_FFT - 1 - state.filled  # where each row begins
        if (first == first[0]).all():
            mel = self._frames(buffers[:, first[0] :], counts[0])
        else:
            mel = np.full((len(x), self.mels, counts.max()), np.nan, np.float32)
            for b, n in enumerate(counts):
                mel[b, :, :n] = self._frames(buffers[b : b + 1, first[b] :], n)[0]
        filled = state.filled + x.shape[1] - counts * HOP_LENGTH
        valid = np.arange(N_FFT - 1) >= N_FFT - 1 - filled[:, None]
        kept = np.where(valid, buffers[:, buffers.shape[1] - (N_FFT - 1) :], np.float32(0))
        return mel, LogMelState(kept, filled, state.frames + counts)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The whole signal (B, n): what one step from a fresh state gives."""
        return self.step(samples, self.init_state(samples.shape[0]))[0]

    def _frames(self, x: np.ndarray, frames: int) -> np.ndarray:
        if frames == 0:
            return np.zeros((x.shape[0], self.mels, 0), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(x, N_FFT, axis=1)[
            :, : frames * HOP_LENGTH : HOP_LENGTH
        ]
        power = (
            np.abs(np.fft.rfft(windows * self.window)) ** 2
        )  # numpy transforms float32 in float32 from 2.0 on
        mel = power.astype(np.float32) @ self.filters.T
        log = np.log10(np.maximum(mel, 1e-10))
        return ((np.maximum(log, self.floor) + 4) / 4).transpose(0, 2, 1).astype(np.float32)
