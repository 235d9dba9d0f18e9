"""Pitch and loudness of recorded speech, for training and for measuring.

The pitch is YIN's (de Cheveigné and Kawahara, 2002): the lag at which the cumulative mean normalised difference
function first falls below a threshold, refined by a parabola.
"""

from __future__ import annotations

import numpy as np

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
THRESHOLD = 0.2       # of the normalised difference: above it a frame is unvoiced
WINDOW_S = 0.04       # two periods of the lowest pitch, and a little more
SILENT_DB = -55.0     # relative to full scale: below it nothing is voiced


def loudness(pcm: np.ndarray, rate: int, hop_s: float = 0.01) -> np.ndarray:
    """Level in decibels of full scale (T,), of each hop."""
    hop = round(rate * hop_s)
    blocks = pcm[:len(pcm) // hop * hop].reshape(-1, hop).astype(np.float64)
    return 10 * np.log10(np.square(blocks).mean(1) + 1e-10)


def pitch(pcm: np.ndarray, rate: int, hop_s: float = 0.01) -> np.ndarray:
    """Hz (T,), of each hop of mono samples; 0 where the sound is unvoiced or silent."""
    hop, window = round(rate * hop_s), round(rate * WINDOW_S)
    low, high = int(rate / HIGHEST_HZ), int(np.ceil(rate / LOWEST_HZ))
    count = len(pcm) // hop
    out = np.zeros(count)
    if not count:
        return out
    reach = window + high
    before = (reach - hop) // 2
    padded = np.pad(np.asarray(pcm, np.float64), (before, reach))
    size = 1 << (reach + window).bit_length()
    level = loudness(pcm, rate, hop_s)
    for begin in range(0, count, 500):  # some frames at a time, so that memory is bounded
        rows = np.arange(begin, min(begin + 500, count))
        frames = padded[rows[:, None] * hop + np.arange(reach)]
        power = np.pad(np.cumsum(frames ** 2, 1), ((0, 0), (1, 0)))
        spectrum = np.fft.rfft(frames, size)
        head = np.fft.rfft(frames[:, :window], size)
        correlation = np.fft.irfft(spectrum * head.conj(), size)[:, :high + 1]
        lags = np.arange(high + 1)
        energy = power[:, lags + window] - power[:, lags]
        difference = np.maximum(energy[:, :1] + energy - 2 * correlation, 0.0)
        mean = np.cumsum(difference[:, 1:], 1) / lags[1:]
        normal = np.concatenate([np.ones((len(rows), 1)), difference[:, 1:] / np.maximum(mean, 1e-9)], 1)
        out[rows] = np.where(level[rows] > SILENT_DB, _frequency(normal, low, high, rate), 0.0)
    return out


def _frequency(normal: np.ndarray, low: int, high: int, rate: int) -> np.ndarray:
    """Hz of each frame from its normalised difference function (frames, lags), or 0."""
    rows, lags = np.arange(len(normal)), np.arange(low, high)
    below = normal[:, low:high] < THRESHOLD
    first = low + below.argmax(1)
    # from there down to the next minimum
    rising = (normal[:, low + 1:high + 1] >= normal[:, low:high]) & (lags >= first[:, None])
    rising[:, -1] = True
    lag = low + rising.argmax(1)
    a, b, c = normal[rows, lag - 1], normal[rows, lag], normal[rows, lag + 1]
    bend = a - 2 * b + c
    shift = np.where(bend > 0, 0.5 * (a - c) / np.where(bend > 0, bend, 1.0), 0.0)
    return np.where(below.any(1), rate / (lag + shift), 0.0)
