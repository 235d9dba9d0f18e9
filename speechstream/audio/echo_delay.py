"""Where the loudspeaker's sound stands in the microphone's: the delay of the echo, found and followed.

Both devices have their own clocks and buffers. `Aligner` finds the echo's delay from the devices' time stamps first, then
by generalised cross-correlation with phase transform (GCC-PHAT, Knapp and Carter 1976) every half second in which something
is played; a slow loop turns what is left into a rate, and the reference is resampled by it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

SAMPLE_RATE = 16_000
RESIDUAL = 320  # samples, 20 ms, by which the echo should come after its reference
MARGIN = 160  # samples by which a reference is thought later than its nominal time, so that it is there when needed

WINDOW = 16_000  # samples of the microphone that are correlated
EVERY = 8_000  # samples between two correlations
EAGER = 2_000  # and before the echo was found
EARLIEST, LATEST = -3_200, 16_000  # lags that are searched: -0.2 s to 1 s
SLIPPED = -16_000  # the earliest where time stamps have moved: they may be wrong
TOO_FAR = 960  # samples, 60 ms from where the echo should be: the reference is moved at once
SMOOTH = 0.5  # weight of the correlations before
PEAK = 12.0  # times the root mean square of all lags: an echo, not chance
CERTAIN = 20.0  # times: believed at once
QUIET = 1e-4  # root mean square below which there is nothing to correlate
LOOP = (0.3, 0.04)  # least proportional and integral gain of the drift's loop, for each correlation
GROWING = 2  # correlations that count as made already: they are smoothed, so each is partly the one before
JUMPY = 12.0  # samples: a larger step of the peak is another path of the room, not drift
HOP = 160.0  # samples, 10 ms: a device lost or repeated some sound
ACTIVE = 0.5  # share of a window in which something was played, to conclude from it that the echo has moved
MAX_RATE = 1e-3  # clocks differ by less
STAMPS_S = 5.0  # of time stamps that are kept
LATE_S = 0.5  # in which all of them are late: the device has lost or inserted sound, and no computer is only busy
SLIP_S = 0.03  # by so much
SLIP = 640  # samples, 40 ms, by which time stamps move away sooner than any drift would move them
TAPS = 16  # of the interpolation


@dataclass(frozen=True)
class AlignState:
    """Where the reference stands against the microphone. Samples at 16 kHz.

    reference: the last ones that were played, from number `first` on. heard: the last WINDOW of the microphone.
    position: of the reference for the microphone's next sample. lag: of the echo behind it, None before it was found.
    """

    reference: np.ndarray
    first: int
    heard: np.ndarray
    position: float | None = None
    rate: float = 0.0  # reference samples for one of the microphone's, less 1
    drift: float = 0.0  # the part of it that lasts
    lag: float | None = None
    unseen: int = 0  # samples of the microphone since the echo was last found, silence left out
    far: float | None = None  # a lag that was found once and not yet believed
    correlation: np.ndarray | None = None
    since: int = 0  # samples of the microphone since the last correlation
    jumps: int = 0
    fixes: int = 0  # correlations that told the lag since the reference was last moved
    offset: float | None = None  # by which time stamps are ahead of `position`, drift followed
    slips: int = 0  # times that they moved away from an echo that was known

    @property
    def earliest(self) -> int:
        """The earliest lag that is searched."""
        return SLIPPED if self.slips else EARLIEST

    @property
    def end(self) -> int:
        """Reference samples in all."""
        return self.first + len(self.reference)


class Aligner:
    """The reference as the microphone hears it. Pure: what it knows is in the state."""

    def init_state(self) -> AlignState:
        """Nothing played, nothing heard."""
        return AlignState(np.zeros(0, np.float32), 0, np.zeros(WINDOW, np.float32))

    def played(self, pcm: np.ndarray, state: AlignState) -> AlignState:
        """(n,) float32 at 16 kHz that go to the loudspeaker."""
        kept = WINDOW + LATEST - SLIPPED + 2 * TAPS + len(pcm)
        if state.position is not None:  # a microphone that is heard late needs more
            kept = max(kept, state.end + len(pcm) - int(state.position) + WINDOW + LATEST + TAPS)
        kept = min(kept, 30 * SAMPLE_RATE)
        reference = np.concatenate([state.reference, pcm])
        drop = max(len(reference) - kept, 0)
        return replace(state, reference=reference[drop:], first=state.first + drop)

    def step(
        self,
        mic: np.ndarray,
        state: AlignState,
        nominal: float | None = None,
        stamped: bool = False,
    ) -> tuple[np.ndarray, AlignState]:
        """The reference (n,) for the next (n,) samples of the microphone.

        nominal: the reference's sample that left the loudspeaker when the first of them was captured, by time stamps;
        None: the last ones that were played. stamped: both devices tell the time, so that where it moves at once, one of them
        has lost or inserted sound: the reference is moved as far, and the echo is looked for anew.
        """
        s = state
        if nominal is None:
            nominal = float(s.end - len(mic))
        if s.position is None:
            s = replace(s, position=max(nominal, 0.0) - MARGIN)
        if stamped:
            s = self._stamped(nominal, len(mic), s)
        assert s.position is not None
        places = s.position + np.arange(len(mic)) * (1 + s.rate)
        aligned = between(s.reference, places - s.first)
        s = replace(
            s,
            position=s.position + len(mic) * (1 + s.rate),
            heard=np.concatenate([s.heard, mic])[-WINDOW:],
            since=s.since + len(mic),
        )
        if s.since >= (EAGER if s.lag is None else EVERY):
            s = self._measure(replace(s, since=0, unseen=s.unseen + s.since))
        return aligned, s

    @staticmethod
    def _stamped(nominal: float, count: int, s: AlignState) -> AlignState:
        """Follow the drift of the time stamps, and go where they go when they move at once."""
        assert s.position is not None
        offset = nominal - s.position
        away = 0.0 if s.offset is None else offset - s.offset
        if abs(away) <= SLIP:
            most = MAX_RATE * count
            return replace(s, offset=offset - away + float(np.clip(away, -most, most)))
        return replace(
            s,
            position=s.position + away,
            offset=offset - away,
            lag=None,
            far=None,
            correlation=None,
            fixes=0,
            slips=s.slips + (s.lag is not None),
        )

    def before(self, s: AlignState) -> np.ndarray:
        """The reference (WINDOW,) for the microphone's last samples, from where it stands now."""
        assert s.position is not None
        places = s.position - np.arange(WINDOW, 0, -1) * (1 + s.rate)
        return between(s.reference, places - s.first)

    def _measure(self, s: AlignState) -> AlignState:
        """Where the echo is now, and what follows from it."""
        assert s.position is not None
        earliest = s.earliest
        begin = int(s.position) - WINDOW - LATEST - s.first  # of the reference that may be heard
        size = WINDOW + LATEST - earliest
        at = np.arange(begin, begin + size)
        inside = (at >= 0) & (at < len(s.reference))
        if not inside.any():
            return s
        reference = np.where(inside, s.reference[np.clip(at, 0, len(s.reference) - 1)], 0)
        if rms(reference) < QUIET or rms(s.heard) < QUIET:
            return replace(s, unseen=0 if s.lag is None else s.unseen - EVERY)
        # an echo is of what was played by then: it cannot come before the newest that was
        possible = min(max(int(s.position) - s.end - earliest, 0), size - WINDOW - 1)
        found = phat(s.heard, reference)[::-1]  # [i] is the lag earliest + i
        smooth = found if s.correlation is None else SMOOTH * s.correlation + found
        s = replace(s, correlation=smooth)
        peak = possible + int(np.argmax(smooth[possible:]))
        height = smooth[peak] / rms(smooth)
        if height < PEAK:
            return s
        s = replace(s, unseen=0)
        lag = earliest + _vertex(smooth, peak)
        if s.lag is not None and abs(lag - s.lag) > HOP and not self._gone(found, s):
            return s  # somebody speaks: sounds that resemble what was played before
        if s.lag is None or abs(lag - RESIDUAL) > TOO_FAR:
            return self._far(lag, s, s.lag is None and height > CERTAIN)
        error = lag - s.lag
        if abs(error) > HOP:
            return self._far(lag, s, False)
        if abs(error) > JUMPY:
            # the same other path again: stay where it is, and follow it from now on
            moved = s.far is not None and abs(lag - s.far) < JUMPY
            return replace(s, far=None if moved else lag, lag=lag if moved else s.lag)
        # the gains of a line fitted to all that was measured, until they are those of the loop
        k = s.fixes + 1 + GROWING
        near = max(LOOP[0], 2 * (2 * k - 1) / (k * (k + 1)))
        lasting = max(LOOP[1], 6 / (k * (k + 1)))
        drift = float(np.clip(s.drift - lasting * error / EVERY, -MAX_RATE, MAX_RATE))
        rate = float(np.clip(drift - near * error / EVERY, -2 * MAX_RATE, 2 * MAX_RATE))
        return replace(s, drift=drift, rate=rate, far=None, fixes=s.fixes + 1)

    def _gone(self, found: np.ndarray, s: AlignState) -> bool:
        """Whether the echo is not where it was, by a correlation to which it would have contributed."""
        assert s.lag is not None
        expected = self.before(s)
        frames = expected.reshape(-1, EVERY // 50)
        if np.mean([rms(f) > 10 * QUIET for f in frames]) < ACTIVE:
            return False
        at = round(s.lag) - s.earliest
        near = found[max(at - round(HOP), 0) : at + round(HOP)]
        return float(near.max()) < 0.5 * PEAK * rms(found)

    @staticmethod
    def _far(lag: float, s: AlignState, certain: bool) -> AlignState:
        """An echo that is not where it should be: the reference is moved to it when it was found twice."""
        if not certain and (s.far is None or abs(lag - s.far) > JUMPY):
            return replace(s, far=lag)
        assert s.position is not None
        if s.lag is None and not s.slips and abs(lag - RESIDUAL) <= TOO_FAR:
            # near enough from the beginning
            return replace(s, lag=lag, far=None)
        return replace(
            s,
            position=s.position - (lag - RESIDUAL),
            offset=None if s.offset is None else s.offset + lag - RESIDUAL,
            lag=float(RESIDUAL),
            far=None,
            correlation=None,
            jumps=s.jumps + 1,
            fixes=0,
        )


def between(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """x (n,) float32 at fractional places (m,), by a windowed sinc; 0 where there is nothing."""
    whole = np.floor(places).astype(np.int64)
    taps = np.arange(-TAPS // 2 + 1, TAPS // 2 + 1)
    at = whole[:, None] + taps
    inside = (at >= 0) & (at < len(x))
    if not inside.any():
        return np.zeros(len(places), np.float32)
    values = np.where(inside, x[np.clip(at, 0, len(x) - 1)], 0)
    away = taps - (places - whole)[:, None]
    weights = np.sinc(away) * np.cos(np.pi * away / (TAPS + 2)) ** 2
    return (values * weights).sum(1).astype(np.float32)


def phat(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross-correlation of a (n,) with every place in b (m,), m >= n, by phase alone: (m - n,)."""
    size = 1 << (len(a) + len(b) - 1).bit_length()
    cross = np.fft.rfft(b, size) * np.conj(np.fft.rfft(a * np.hanning(len(a)), size))
    level = np.abs(cross)
    # what is silent in both has no phase worth its weight
    cross /= level + 1e-3 * level.mean() + 1e-12
    return np.fft.irfft(cross, size)[: len(b) - len(a)]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _vertex(y: np.ndarray, i: int) -> float:
    """Where the parabola through three values has its top."""
    if not 0 < i < len(y) - 1:
        return float(i)
    a, b, c = (float(v) for v in y[i - 1 : i + 2])
    bent = a - 2 * b + c
    return i + (0.5 * (a - c) / bent if bent else 0.0)


class Clock:
    """The time stamps of a device against its samples: the earliest of the last seconds, for a busy computer is late.

    Where all of half a second are late, the device has lost or inserted sound, and those before say nothing any more.
    """

    def __init__(self, sample_rate: int):
        self.sample_rate, self.samples = sample_rate, 0
        self._seen: deque[tuple[int, float]] = deque()

    @property
    def begin(self) -> float | None:
        """The time of sample 0."""
        return min((seen for _, seen in self._seen), default=None)

    def take(self, count: int, at: float | None) -> None:
        """So many samples, the first of them at this time; None: unknown."""
        if at is not None:
            self._seen.append((self.samples, at - self.samples / self.sample_rate))
            while self._seen[0][0] < self.samples - STAMPS_S * self.sample_rate:
                self._seen.popleft()
            new = self.samples - LATE_S * self.sample_rate
            of_late = min(seen for sample, seen in self._seen if sample >= new)
            while self._seen[0][0] < new and self._seen[0][1] < of_late - SLIP_S:
                self._seen.popleft()
        self.samples += count
