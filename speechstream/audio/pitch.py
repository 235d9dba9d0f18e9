"""Pitch and loudness of recorded speech, for training and for measuring.

The pitch is YIN's (de Cheveigné and Kawahara, 2002) with a memory: the deepest minima of the cumulative mean normalised
difference function are each frame's candidates, and the path through them that is cheapest in depth, jumps and changes of
voicing is taken, as in pYIN and Praat. A single threshold calls a hoarse voice unvoiced, or a loud room voiced.
"""

from __future__ import annotations

import numpy as np

LOWEST_HZ, HIGHEST_HZ = 60.0, 500.0
WINDOW_S = 0.04  # two periods of the lowest pitch, and a little more
SILENT_DB = -55.0  # relative to full scale: below it nothing is voiced
CANDIDATES = 5  # minima of a frame
UNVOICED = 0.55  # costs of a frame: what a minimum must stay below in the long run,
LONG = 0.05  # an octave of period, so that of two multiples the shorter is taken,
JUMP = 0.6  # an octave of change from the frame before, for 10 ms,
TURN = 0.15  # and the beginning or the end of a voice


def loudness(pcm: np.ndarray, rate: int, hop_s: float = 0.01) -> np.ndarray:
    """Level in decibels of full scale (T,), of each hop."""
    hop = round(rate * hop_s)
    blocks = pcm[: len(pcm) // hop * hop].reshape(-1, hop).astype(np.float64)
    return 10 * np.log10(np.square(blocks).mean(1) + 1e-10)


def pitch(pcm: np.ndarray, rate: int, hop_s: float = 0.01) -> np.ndarray:
    """Hz (T,), of each hop of mono samples; 0 where the sound is unvoiced or silent."""
    hop, window = round(rate * hop_s), round(rate * WINDOW_S)
    low, high = int(rate / HIGHEST_HZ), int(np.ceil(rate / LOWEST_HZ))
    count = len(pcm) // hop
    if not count:
        return np.zeros(0)
    reach = window + high + 1
    before = (reach - hop) // 2
    padded = np.pad(np.asarray(pcm, np.float64), (before, reach))
    size = 1 << (reach + window).bit_length()
    lags, costs = np.zeros((count, CANDIDATES)), np.full((count, CANDIDATES), np.inf)
    for begin in range(0, count, 500):  # some frames at a time, so that memory is bounded
        rows = np.arange(begin, min(begin + 500, count))
        frames = padded[rows[:, None] * hop + np.arange(reach)]
        power = np.pad(np.cumsum(frames**2, 1), ((0, 0), (1, 0)))
        spectrum = np.fft.rfft(frames, size)
        head = np.fft.rfft(frames[:, :window], size)
        correlation = np.fft.irfft(spectrum * head.conj(), size)[:, : high + 2]
        lag = np.arange(high + 2)
        energy = power[:, np.minimum(lag + window, reach)] - power[:, lag]
        difference = np.maximum(energy[:, :1] + energy - 2 * correlation, 0.0)
        mean = np.cumsum(difference[:, 1:], 1) / lag[1:]
        normal = np.concatenate(
            [np.ones((len(rows), 1)), difference[:, 1:] / np.maximum(mean, 1e-9)], 1
        )
        lags[rows], costs[rows] = _minima(normal, low, high)
    costs = np.where(loudness(pcm, rate, hop_s)[:, None] > SILENT_DB, costs, np.inf)
    return rate * _path(lags, costs + LONG * np.log2(np.maximum(lags, low) / low), hop_s)


def _minima(normal: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The deepest minima (frames, CANDIDATES) of normalised differences (frames, lags): lags, refined by a parabola, and
    depths, infinite where there are fewer."""
    middle = normal[:, low : high + 1]
    before, after = normal[:, low - 1 : high], normal[:, low + 1 : high + 2]
    depth = np.where((middle < before) & (middle <= after), middle, np.inf)
    at = np.argpartition(depth, CANDIDATES, 1)[:, :CANDIDATES]
    a, b, c = (np.take_along_axis(x, at, 1) for x in (before, middle, after))
    bend = a - 2 * b + c
    lags = low + at + np.where(bend > 0, 0.5 * (a - c) / np.where(bend > 0, bend, 1.0), 0.0)
    return lags, np.take_along_axis(depth, at, 1)


def _path(lags: np.ndarray, costs: np.ndarray, hop_s: float) -> np.ndarray:
    """Periods a sample (T,) of the cheapest path through the candidates (T, K), 0 where it is unvoiced."""
    count, octaves = lags.shape[1], np.log2(np.maximum(lags, 1.0))
    jump = JUMP * 0.01 / hop_s
    total, back = np.append(costs[0], UNVOICED), np.zeros((len(lags), count + 1), np.int64)
    step = np.full((count + 1, count + 1), TURN)  # from, to
    step[count, count] = 0.0
    own = np.append(costs, np.full((len(costs), 1), UNVOICED), 1)
    for t in range(1, len(lags)):
        step[:count, :count] = jump * np.abs(octaves[t - 1][:, None] - octaves[t])
        reached = total[:, None] + step
        back[t] = reached.argmin(0)
        total = reached[back[t], np.arange(count + 1)] + own[t]
    frequency, state = np.zeros(len(lags)), int(total.argmin())
    for t in range(len(lags) - 1, -1, -1):
        frequency[t] = 1 / lags[t, state] if state < count else 0.0
        state = int(back[t, state])
    return frequency
