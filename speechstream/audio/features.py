"""Log-mel features as Whisper computes them, offline and streamed with equal numbers.

Frame m is centred at sample 160 m: a periodic Hann window of 400 samples (25 ms at 16 kHz), power spectrum, Slaney mel
filters, log10. Two choices serve streams: the signal is preceded by zeros (not by its own reflection), and the dynamic
range is floored at a fixed level (Whisper floors at 8 below the loudest frame of the whole clip, which a stream
cannot know).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

SAMPLE_RATE = 16_000
N_FFT = 400       # 25 ms
HOP_LENGTH = 160  # 10 ms
LOG_FLOOR = -7.0  # log10 of mel energy


@dataclass(frozen=True)
class LogMelState:
    """The samples that later frames still need: (B, 399) at most, `filled` of them valid at the end."""

    samples: np.ndarray  # (B, N_FFT - 1) float32, right-aligned
    filled: np.ndarray   # (B,) int64, equal for all streams of a batch that are stepped together


@lru_cache
def mel_filters(mels: int) -> np.ndarray:
    """Slaney's mel filter bank, area-normalised: (mels, N_FFT // 2 + 1), as `librosa.filters.mel` gives it."""
    def hz(mel):  # linear to 1 kHz, logarithmic above
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    top = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)
    edges = hz(np.linspace(0, top, mels + 2))
    bins = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    slope = (edges[:, None] - bins) / -np.diff(edges, append=edges[-1] + 1)[:, None]  # rising side of each edge
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    bank = np.maximum(0, np.minimum(slope[:mels], falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return bank.astype(np.float32)


class LogMel:
    """Samples (B, n) at 16 kHz to log-mel frames (B, mels, frames), one every 10 ms."""

    def __init__(self, mels: int = 80, floor: float = LOG_FLOOR):
        self.mels, self.floor = mels, floor
        self.window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)  # periodic
        self.filters = mel_filters(mels)

    def init_state(self, batch: int = 1) -> LogMelState:
        """A stream that begins after silence: half a window of zeros stands before the first sample."""
        return LogMelState(np.zeros((batch, N_FFT - 1), np.float32), np.full(batch, N_FFT // 2, np.int64))

    def step(self, samples: np.ndarray, state: LogMelState) -> tuple[np.ndarray, LogMelState]:
        """Consume (B, n) samples, n >= 0; return (B, mels, frames), the frames that are now complete, and the state.

        The streams of one batch must hold equally many pending samples: batch those that arrived alike.
        """
        filled = int(state.filled[0])
        if (state.filled != filled).any():
            raise ValueError("streams stepped together must have the same number of samples pending")
        x = np.concatenate([state.samples[:, N_FFT - 1 - filled:], np.asarray(samples, np.float32)], axis=1)
        frames = max(0, (x.shape[1] - N_FFT) // HOP_LENGTH + 1)
        mel = self._frames(x, frames)
        rest = x[:, frames * HOP_LENGTH:]
        kept = np.zeros_like(state.samples)
        kept[:, N_FFT - 1 - rest.shape[1]:] = rest
        return mel, replace(state, samples=kept, filled=np.full_like(state.filled, rest.shape[1]))

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The whole signal (B, n): what one step from a fresh state gives."""
        return self.step(samples, self.init_state(samples.shape[0]))[0]

    def _frames(self, x: np.ndarray, frames: int) -> np.ndarray:
        if frames == 0:
            return np.zeros((x.shape[0], self.mels, 0), np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(x, N_FFT, axis=1)[:, : frames * HOP_LENGTH: HOP_LENGTH]
        power = np.abs(np.fft.rfft(windows * self.window)) ** 2  # numpy transforms float32 in float32 from 2.0 on
        mel = power.astype(np.float32) @ self.filters.T
        log = np.log10(np.maximum(mel, 1e-10))
        return ((np.maximum(log, self.floor) + 4) / 4).transpose(0, 2, 1).astype(np.float32)
