"""A recording as a prompt of CosyVoice: speech tokens, mel frames and a speaker's vector, by the checkpoint's own networks.

campplus.onnx hears filter banks as Kaldi computes them, speech_tokenizer_v2.onnx spectra as Whisper does, and the flow continues
a mel spectrogram of HiFi-GAN's kind. All three are computed of the whole recording, which has an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.audio.features import HOP_LENGTH, N_FFT, mel_filters
from speechstream.audio.nemo_mel import mel_filters as slaney_filters
from speechstream.audio.resample import Resampler
from speechstream.errors import SpeechStreamError
from speechstream.runtime.session import open_session

RATE = 16_000  # Hz of what the networks hear
LEAST_S, MOST_S = 0.5, 30.0  # of a recording
SPEECH_MELS = 128
BANKS, BANK_WINDOW, BANK_HOP, BANK_FFT = 80, 400, 160, 512  # Kaldi's defaults at 16 kHz
PREEMPHASIS, LOWEST_HZ = 0.97, 20.0
Array = np.ndarray


@dataclass(frozen=True)
class MelConfig:
    """A mel spectrogram of HiFi-GAN's kind (arXiv:2010.05646). low, high: Hz; high: half the sample rate where None."""

    sample_rate: int = 24_000
    n_mels: int = 80
    window: int = 1920
    hop: int = 480
    high: float | None = None
    low: float = 0.0

    def __post_init__(self) -> None:
        high = self.sample_rate / 2 if self.high is None else self.high
        if not 1 <= self.hop <= self.window <= 1 << 16 or self.window % 2:
            raise ValueError(
                f"a window of {self.window} samples and a hop of {self.hop} make no spectrum"
            )
        if not 0 <= self.low < high <= self.sample_rate / 2:
            raise ValueError(
                f"mels from {self.low:g} to {high:g} Hz do not fit {self.sample_rate} Hz"
            )


def flow_mel(pcm: Array, c: MelConfig) -> Array:
    """Samples (n,) at its rate to logarithmic magnitudes (frames, n_mels), n / hop of them."""
    side = (c.window - c.hop) // 2
    x = np.pad(pcm.astype(np.float64), side, mode="reflect")
    cut = np.lib.stride_tricks.sliding_window_view(x, c.window)[:: c.hop]
    spectra = np.fft.rfft(cut * np.hanning(c.window + 1)[:-1])
    magnitudes = np.sqrt(np.abs(spectra) ** 2 + 1e-9)
    bank = slaney_filters(c.n_mels, c.window, c.sample_rate, c.low, c.high or c.sample_rate / 2)
    return np.log(np.maximum(magnitudes @ bank.T, 1e-5)).astype(np.float32)


def whisper_mel(pcm: Array, mels: int = SPEECH_MELS) -> Array:
    """Samples (n,) at 16 kHz to Whisper's spectrum (mels, n / 160), its range bounded by the loudest frame."""
    x = np.pad(pcm.astype(np.float64), N_FFT // 2, mode="reflect")
    cut = np.lib.stride_tricks.sliding_window_view(x, N_FFT)[::HOP_LENGTH][:-1]
    power = np.abs(np.fft.rfft(cut * np.hanning(N_FFT + 1)[:-1])) ** 2
    log = np.log10(np.maximum(power @ mel_filters(mels).T.astype(np.float64), 1e-10))
    return ((np.maximum(log, log.max() - 8) + 4) / 4).T.astype(np.float32)


def kaldi_banks(pcm: Array) -> Array:
    """Samples (n,) at 16 kHz to Kaldi's logarithmic filter banks (frames, BANKS), without dither; whole windows only."""
    frames = np.lib.stride_tricks.sliding_window_view(pcm.astype(np.float64), BANK_WINDOW)[
        ::BANK_HOP
    ]
    frames = frames - frames.mean(1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    frames = (frames - PREEMPHASIS * before) * np.hanning(BANK_WINDOW) ** 0.85
    power = np.abs(np.fft.rfft(frames, BANK_FFT)) ** 2

    def mel(hz: Array) -> Array:
        return np.asarray(1127 * np.log(1 + hz / 700))

    edges = np.linspace(mel(np.float64(LOWEST_HZ)), mel(np.float64(RATE / 2)), BANKS + 2)
    bins = mel(np.arange(BANK_FFT // 2 + 1) * RATE / BANK_FFT)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    bank = np.maximum(np.minimum(rise, fall), 0)
    return np.log(np.maximum(power @ bank.T, np.finfo(np.float32).eps)).astype(np.float32)


class PromptReader:
    """The networks of a checkpoint that hear. Raises SpeechStreamError where one is missing or cannot be used."""

    def __init__(self, folder: Path, tokenizer: str, mel: MelConfig, repeats: int = 2) -> None:
        """repeats: mel frames to a speech token."""
        files = [folder / "campplus.onnx", folder / tokenizer]
        for file in files:
            if not file.is_file():
                raise SpeechStreamError(
                    f"{folder} lacks {file.name}, without which no voice can be taken from a recording"
                )
        self.mel, self.repeats, self.files = mel, repeats, files
        self.speaker, self.tokens = (open_session(file) for file in files)
        for file, session, most in zip(files, (self.speaker, self.tokens), (1, 2)):
            if not 1 <= len(session.get_inputs()) <= most:
                raise SpeechStreamError(f"{file} takes other inputs than a spectrum and its length")

    def __call__(self, pcm: Array, rate: int) -> tuple[Array, Array, Array]:
        """A recording (n,) to speech tokens (p,) int64, mel frames (repeats * p, n_mels) and a speaker's vector (d,).

        Raises ValueError where it is too short, too long or silent.
        """
        if not LEAST_S * rate <= len(pcm) <= MOST_S * rate:
            raise ValueError(
                f"a voice's recording lasts {LEAST_S:g} to {MOST_S:g} s; got {len(pcm) / rate:.1f} s"
            )
        if not np.isfinite(pcm).all() or np.abs(pcm).max() < 1e-4:
            raise ValueError("a voice's recording is silent, or holds numbers that are not finite")
        low, high = (_at(pcm, rate, to) for to in (RATE, self.mel.sample_rate))
        banks = kaldi_banks(low)
        vector = self._run(0, self.speaker, banks - banks.mean(0)).astype(np.float32).ravel()
        spectrum = whisper_mel(low)
        tokens = self._run(1, self.tokens, spectrum, spectrum.shape[1])
        if tokens.dtype.kind not in "iu" or not 0 < tokens.size <= len(banks):
            raise SpeechStreamError(f"{self.files[1]} makes no speech tokens")
        if not np.isfinite(vector).all():
            raise SpeechStreamError(f"{self.files[0]} makes a vector that is not finite")
        tokens = tokens.astype(np.int64).ravel()
        mel = flow_mel(high, self.mel)
        count = min(len(mel) // self.repeats, len(tokens))
        return tokens[:count], mel[: self.repeats * count], vector

    def _run(self, which: int, session: Any, x: Array, length: int | None = None) -> Array:
        inputs = session.get_inputs()
        feeds = {inputs[0].name: x[None]}
        if length is not None and len(inputs) > 1:
            feeds[inputs[1].name] = np.array([length], np.int32)
        try:
            found = session.run(None, feeds)[0]
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise SpeechStreamError(
                f"{self.files[which]} cannot hear: {(str(error).splitlines() or ['it fails'])[0][:200]}"
            ) from error
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu":
            raise SpeechStreamError(f"{self.files[which]} makes something else than numbers")
        return found


def _at(pcm: Array, rate: int, wanted: int) -> Array:
    if rate == wanted:
        return pcm.astype(np.float32)
    resampler = Resampler(rate, wanted)
    return np.asarray(resampler(pcm.astype(np.float32)))
