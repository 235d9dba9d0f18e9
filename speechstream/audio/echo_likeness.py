"""How much what the microphone hears is like what was played, wherever in the last seconds that was.

While the delay or the path of an echo is not known, no filter can take it away, but it can still be told from somebody who
speaks: its energy rises and falls in each band as that of what was played does. The envelopes are compared at every lag;
neither the room's colour nor where two frames of 10 ms meet matters much, and a computer that loses sound now and then does
not either. What was played is smeared first, as a room smears it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

SAMPLE_RATE = 16_000
HOP = 160  # samples, 10 ms
SIZE = 512  # of a frame, 32 ms
BANDS = 20
LOWEST, HIGHEST = 150.0, 5000.0  # Hz
HEARD = 30  # frames that are compared
PLAYED = 250  # in which they are looked for: 1 s of delay, and what waits in buffers
LOUDNESS = 0.3  # exponent: about what loudness is to power
DECAY = 10 ** (-6 * HOP / SAMPLE_RATE / 0.2)  # of a room whose sound has gone (-60 dB) after 0.2 s
QUIET = 1e-4  # mean of a sample's power in a band, above which something was played


@dataclass(frozen=True)
class LikenessState:
    """The last frames of both sides, (n, BANDS) float32 to the power of LOUDNESS, and the samples that wait for the next.

    tail: (BANDS,) float64, what still sounds of what was played.
    """

    heard: np.ndarray
    played: np.ndarray
    mic: np.ndarray
    reference: np.ndarray
    tail: np.ndarray


class Likeness:
    """Pure: what it knows is in the state."""

    def __init__(self) -> None:
        edges = np.geomspace(LOWEST, HIGHEST, BANDS + 1) * SIZE / SAMPLE_RATE
        least = np.round(edges[0]) + np.arange(BANDS + 1)  # a band is a bin wide at least
        self._edges = np.maximum(np.round(edges), least).astype(int)
        self._window = np.hanning(SIZE).astype(np.float32)

    def init_state(self) -> LikenessState:
        """Nothing played, nothing heard."""
        none, rest = np.zeros((0, BANDS), np.float32), np.zeros(SIZE - HOP, np.float32)
        return LikenessState(none, none, rest, rest, np.zeros(BANDS))

    def played(self, pcm: np.ndarray, s: LikenessState) -> LikenessState:
        """(n,) float32 at 16 kHz that go to the loudspeaker."""
        powers, rest = self._powers(np.concatenate([s.reference, pcm]))
        tail, frames = s.tail, np.empty_like(powers)
        for i, power in enumerate(powers):
            tail = DECAY * tail + power
            frames[i] = tail
        frames = np.concatenate([s.played, frames**LOUDNESS])[-PLAYED:]
        return replace(s, played=frames, reference=rest, tail=tail)

    def hear(self, pcm: np.ndarray, s: LikenessState) -> LikenessState:
        """(n,) float32 at 16 kHz of the microphone."""
        powers, rest = self._powers(np.concatenate([s.mic, pcm]))
        return replace(s, heard=np.concatenate([s.heard, powers**LOUDNESS])[-HEARD:], mic=rest)

    def measure(self, s: LikenessState, count: int = HEARD) -> float:
        """The correlation of the last `count` frames that were heard with what was played, at the lag where it is highest."""
        if len(s.heard) < count or len(s.played) < count:
            return 0.0
        heard = s.heard[-count:]
        heard = (heard - heard.mean(0)).ravel()
        spans = np.lib.stride_tricks.sliding_window_view(s.played, count, axis=0)
        products = spans.transpose(0, 2, 1).reshape(len(spans), -1) @ heard  # of all spans
        # the sums of squares about each band's mean, by running sums
        sums, squares = (_running(x, count) for x in (s.played, s.played**2))
        spread = (squares - sums**2 / count).sum(1)
        loud = (sums.mean(1) / count) > QUIET**LOUDNESS
        scale = np.sqrt(np.maximum(spread, 1e-12)) * np.sqrt(heard @ heard + 1e-12)
        return float(np.max(np.where(loud, products / scale, 0.0)))

    def _powers(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The power in each band of all whole frames of x (n,): (frames, BANDS), and what is left of x."""
        count = (len(x) - SIZE) // HOP + 1 if len(x) >= SIZE else 0
        if not count:
            return np.zeros((0, BANDS), np.float32), x
        frames = np.lib.stride_tricks.sliding_window_view(x, SIZE)[: count * HOP : HOP]
        spectrum = np.fft.rfft(frames * self._window)
        power = (spectrum.real**2 + spectrum.imag**2) / SIZE
        power = np.add.reduceat(power, self._edges, axis=1)[:, :-1]
        return power.astype(np.float32), x[count * HOP :]


def _running(x: np.ndarray, count: int) -> np.ndarray:
    """Sums over each `count` rows of x (n, BANDS): (n - count + 1, BANDS)."""
    total = np.concatenate([np.zeros((1, x.shape[1])), np.cumsum(x, 0, dtype=np.float64)])
    return total[count:] - total[:-count]
