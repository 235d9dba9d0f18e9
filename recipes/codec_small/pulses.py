"""A pulse train that beats with a recording: what makes waveforms comparable, so that phases can be learnt.

A decoder's pulses have the recording's pitch and any phase. Where both are voiced, the phase of the recording's own fundamental
(its sound, turned back by the pitch and averaged over a little more than two periods) is added to that of the pulses: every
harmonic of theirs then lies beside the recording's, at a distance that the vowel alone decides. That also takes out what is
left of errors in the pitch.
"""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve

from speechstream.nn.harmonic import HARMONICS_TO

AVERAGED_S = 0.025  # length of the window over which the fundamental's phase is taken


def beating_pulses(
    pcm: np.ndarray, tone: np.ndarray, sure: np.ndarray, rate: int, hop: int
) -> np.ndarray:
    """Pulses (T * hop,) float32 as `speechstream.nn.harmonic.PulseTrain` makes them, in time with samples (T * hop,). `tone` (T,):
    Hz of each hop, 0 where there are to be no pulses; `sure` (T,): where the recording's fundamental can be heard."""
    before = np.concatenate([[0.0], tone[:-1]])
    start = np.where(before > 0, before, tone)
    u = np.arange(hop) / hop
    glide = start[:, None] * u + (tone - start)[:, None] * (0.5 * u * u)
    ends = np.cumsum(0.5 * (start + tone)) * hop / rate
    cycles = (np.concatenate([[0.0], ends[:-1]])[:, None] + glide * hop / rate).ravel()
    voiced = np.repeat(tone > 0, hop)
    turned = pcm * voiced * np.exp(-2j * np.pi * cycles)
    window = np.hanning(round(AVERAGED_S * rate))
    fundamental = fftconvolve(turned, window, mode="same")
    reliable = np.repeat(sure & (tone > 0), hop)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], voiced.astype(int), [0]])))
    for a, b in edges.reshape(-1, 2):
        at = np.flatnonzero(reliable[a:b])
        if len(at):
            phase = np.unwrap(np.angle(fundamental[a:b][at])) / (2 * np.pi)
            cycles[a:b] += np.interp(np.arange(b - a), at, phase)
    x = cycles - np.round(cycles)
    highest = np.maximum(np.maximum(start, tone), 1.0)
    count = np.repeat(np.maximum(np.floor(HARMONICS_TO * rate / highest), 1.0), hop)
    near = np.abs(x) < 1e-5
    ratio = np.sin(np.pi * (2 * count + 1) * x) / np.where(near, 1.0, np.sin(np.pi * x))
    pulses = (np.where(near, 2 * count + 1, ratio) - 1) / np.sqrt(2 * count)
    return (pulses * voiced).astype(np.float32)
