"""Log-mel features as NVIDIA NeMo computes them, for imported checkpoints, offline and streamed with equal numbers.

Pre-emphasis, a symmetric Hann window centred at sample hop * m, power spectrum, Slaney mel filters, natural logarithm.
A stream and a file give the same frames; normalisation over the whole utterance ("per_feature") exists offline only.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

MAX_FFT = 1 << 16  # samples; four seconds at 16 kHz
STD_FLOOR = 1e-5  # added to the standard deviation by "per_feature"


@dataclass(frozen=True)
class NemoMelConfig:
    """The parameters of NeMo's AudioToMelSpectrogramPreprocessor that change its output in evaluation."""

    n_mels: int = 80
    sample_rate: int = 16000
    window: int = 400  # samples
    hop: int = 160  # samples
    n_fft: int = 512
    preemphasis: float = 0.97  # 0: none
    log_guard: float = 2.0**-24  # added to the energies before the logarithm
    low: float = 0.0  # Hz
    high: float | None = None  # Hz, half the sample rate where None
    normalize: str = "none"  # or "per_feature"
    mean: float = 0.0  # the logarithms become (log - mean) / deviation: 0 and 1 are NeMo's
    deviation: float = 1.0

    def __post_init__(self):
        sizes = (self.n_mels, self.sample_rate, self.window, self.hop, self.n_fft)
        if (
            not all(type(n) is int for n in sizes)
            or self.n_fft > MAX_FFT
            or not 0 < self.n_mels <= self.n_fft
            or self.sample_rate < 1
        ):
            raise ValueError(
                f"features, sample_rate, window, hop and n_fft must be whole numbers, n_fft at most {MAX_FFT}; "
                f"got {reprlib.repr(sizes)}"
            )
        if not 0 <= self.low < (self.high or self.sample_rate / 2) <= self.sample_rate:
            raise ValueError(
                f"need 0 <= low < high <= sample_rate Hz, got {self.low} and {self.high}"
            )
        if not self.log_guard > 0 or not math.isfinite(self.log_guard + self.preemphasis):
            raise ValueError(
                f"log_guard must be positive, preemphasis finite; got {self.log_guard}, {self.preemphasis}"
            )
        if not 0 < self.hop <= self.window <= self.n_fft:
            raise ValueError(
                f"need 0 < hop <= window <= n_fft, got {self.hop}, {self.window}, {self.n_fft}"
            )
        if self.normalize not in ("none", "per_feature"):
            raise ValueError(f"normalize must be 'none' or 'per_feature', got {self.normalize!r}")
        if not self.deviation > 0 or not math.isfinite(self.mean):
            raise ValueError(
                f"deviation must be positive and mean finite, got {self.deviation} and {self.mean}"
            )


@dataclass(frozen=True)
class NemoMelState:
    """Pre-emphasised samples that later frames still need, right-aligned, and the last raw sample."""

    samples: np.ndarray  # (B, window - 1) float32
    filled: (
        np.ndarray
    )  # (B,) int64 valid samples at the end of `samples`, equal for all streams stepped together
    last: np.ndarray  # (B, 1) float32
    heard: np.ndarray  # (B,) int64 samples consumed


@lru_cache
def mel_filters(features: int, n_fft: int, rate: int, low: float, high: float) -> np.ndarray:
    """Slaney's area-normalised triangles (features, n_fft // 2 + 1), as `librosa.filters.mel` gives them."""

    def to_hz(mel):  # linear below 1 kHz, logarithmic above
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    def to_mel(hz):
        return 3 * hz / 200 if hz < 1000 else 15 + 27 * np.log(hz / 1000) / np.log(6.4)

    edges = to_hz(np.linspace(to_mel(low), to_mel(high), features + 2))
    bins = np.fft.rfftfreq(n_fft, 1 / rate)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return (
        np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    ).astype(np.float32)


class NemoMel:
    """Samples (B, n) at `sample_rate` to log-mel frames (B, features, frames), one every hop."""

    def __init__(self, config: NemoMelConfig = NemoMelConfig()):
        self.config = c = config
        self.window = np.hanning(c.window).astype(np.float32)
        self.filters = mel_filters(
            c.n_mels, c.n_fft, c.sample_rate, c.low, c.high or c.sample_rate / 2
        )

    def init_state(self, batch: int = 1) -> NemoMelState:
        """A stream that begins after silence: half a window of zeros stands before the first sample."""
        c = self.config
        return NemoMelState(
            np.zeros((batch, c.window - 1), np.float32),
            np.full(batch, c.window // 2, np.int64),
            np.zeros((batch, 1), np.float32),
            np.zeros(batch, np.int64),
        )

    def step(self, samples: np.ndarray, state: NemoMelState) -> tuple[np.ndarray, NemoMelState]:
        """Consume (B, n) samples, n >= 0; return (B, features, frames), the frames now complete, and the state.

        Raises ValueError where features are normalised over the utterance, which a stream cannot know.
        """
        if self.config.normalize != "none":
            raise ValueError(
                "these features are normalised over the whole utterance: they cannot be streamed, "
                "only computed for a file"
            )
        return self._step(samples, state)

    def finish(self, state: NemoMelState) -> np.ndarray:
        """The frames (B, features, 0 or 1) still due at the end of the audio: n // hop frames for n samples in all."""
        c = self.config
        filled, heard = self._filled(state), int(state.heard[0])
        have = (heard + c.window // 2 - filled) // c.hop  # frames already given
        x = np.pad(state.samples[:, c.window - 1 - filled :], ((0, 0), (0, c.window)))
        return self._frames(x, max(0, heard // c.hop - have))

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The whole signal (B, n) to (B, features, n // hop), normalised where the configuration says so."""
        mel, state = self._step(samples, self.init_state(np.shape(samples)[0]))
        mel = np.concatenate([mel, self.finish(state)], axis=2)
        if self.config.normalize == "per_feature":
            if mel.shape[2] < 2:
                raise ValueError(
                    f"normalising needs at least 2 frames ({2 * self.config.hop} samples), "
                    f"got {np.shape(samples)[1]} samples"
                )
            mean, std = mel.mean(2, keepdims=True), mel.std(2, ddof=1, keepdims=True)
            mel = (mel - mean) / (std + STD_FLOOR)
        return mel.astype(np.float32)

    def _step(self, samples: np.ndarray, state: NemoMelState) -> tuple[np.ndarray, NemoMelState]:
        c, filled = self.config, self._filled(state)
        raw = np.concatenate([state.last, np.asarray(samples, np.float32)], axis=1)
        x = raw[:, 1:] - np.float32(c.preemphasis) * raw[:, :-1]
        x = np.concatenate([state.samples[:, c.window - 1 - filled :], x], axis=1)
        frames = max(0, (x.shape[1] - c.window) // c.hop + 1)
        rest = x[:, frames * c.hop :]
        kept = np.zeros_like(state.samples)
        kept[:, c.window - 1 - rest.shape[1] :] = rest
        return self._frames(x, frames), NemoMelState(
            kept,
            np.full_like(state.filled, rest.shape[1]),
            raw[:, -1:].copy(),
            state.heard + raw.shape[1] - 1,
        )

    def _filled(self, state: NemoMelState) -> int:
        if (state.filled != state.filled[0]).any() or (state.heard != state.heard[0]).any():
            raise ValueError(
                "streams stepped together must have consumed the same number of samples"
            )
        return int(state.filled[0])

    def _frames(self, x: np.ndarray, frames: int) -> np.ndarray:
        c = self.config
        if frames == 0:
            return np.zeros((x.shape[0], c.n_mels, 0), np.float32)
        cut = np.lib.stride_tricks.sliding_window_view(x, c.window, axis=1)[
            :, : frames * c.hop : c.hop
        ]
        power = np.abs(np.fft.rfft(cut * self.window, c.n_fft)) ** 2
        mel = power.astype(np.float32) @ self.filters.T
        mel = np.log(mel + np.float32(c.log_guard))
        if (c.mean, c.deviation) != (0.0, 1.0):
            mel = (mel - np.float32(c.mean)) / np.float32(c.deviation)
        return mel.transpose(0, 2, 1)
