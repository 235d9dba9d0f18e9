"""Stateful resampling between any two integer rates.

A windowed-sinc polyphase filter: each output sample is one dot product of a row of the filter bank with the input
around it. Which samples meet which coefficients, and in what order they are added, depends only on the output's number
and never on how the input was cut, so streamed and offline results are identical to the bit.

The filter is flat up to 0.9 of the lower rate's Nyquist frequency and rejects what lies above that frequency by more
than 80 dB (Kaiser window; Kaiser & Schafer, "On the use of the I0-sinh window for spectrum analysis", 1980). It is
centred: output sample j stands exactly at time j / rate_out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

PASSBAND = 0.9  # of the lower Nyquist frequency; the stopband begins at 1.0
ATTENUATION = 96.0  # dB asked of the window: rejection and ripple
MAX_BANK = (
    1 << 22
)  # coefficients (16 MB); a ratio that needs more interpolates between neighbouring phases
INTERPOLATED = 4096  # phases in such a bank: linear interpolation then errs by less than 1e-7
MAX_GATHER = (
    1 << 16
)  # input samples gathered at once: they stay in the cache, and a long file needs no more memory


@dataclass(frozen=True)
class ResamplerState:
    """What a resampler remembers of each stream.

    history:  (B, taps - 1) float32, the last input samples, zeros before the first one
    consumed: (B,) int64, input samples taken so far
    produced: (B,) int64, output samples given so far
    """

    history: np.ndarray
    consumed: np.ndarray
    produced: np.ndarray


class Resampler:
    """Resample float32 audio from `rate_in` to `rate_out` (integers, Hz), block by block or at once.

        resampler = Resampler(44100, 16000)
        state = resampler.init_state(batch=1)
        y, state = resampler.step(x, state)     # x (B, n), any n, 0 too; y (B, m)
        tail = resampler.finish(state)          # what was still waiting for its right context

    Over a whole stream exactly ceil(n * rate_out / rate_in) samples come out. Equal rates pass the input through.

    Streams of one batch share n, yet may stand at different phases (`state.stack`), so that in one step some give a
    sample more than others. Rows are then aligned to the left and padded with NaN, which cannot be overlooked;
    `lengths(before, after)` tells how many samples of each row are real. Streams started together are never padded.
    """

    def __init__(self, rate_in: int, rate_out: int):
        for name, rate in (("rate_in", rate_in), ("rate_out", rate_out)):
            if rate != int(rate) or rate < 1:
                raise ValueError(f"{name} must be a positive whole number of Hz, got {rate}")
        self.rate_in, self.rate_out = int(rate_in), int(rate_out)
        divisor = math.gcd(self.rate_in, self.rate_out)
        self.up, self.down = self.rate_out // divisor, self.rate_in // divisor
        self.identity = self.up == self.down
        self.half = 0 if self.identity else _half_width(self.up, self.down)
        self.taps = 2 * self.half

    @property
    def latency_s(self) -> float:
        """Seconds of input after an output sample's own time that must have arrived before it is given."""
        return self.half / self.rate_in

    def init_state(self, batch: int = 1) -> ResamplerState:
        """The state before the first sample, for `batch` streams."""
        zeros = np.zeros(batch, np.int64)
        return ResamplerState(
            np.zeros((batch, max(self.taps - 1, 0)), np.float32), zeros, zeros.copy()
        )

    def step(self, x: np.ndarray, state: ResamplerState) -> tuple[np.ndarray, ResamplerState]:
        """Take x (B, n) and return all output that is now certain, (B, m) float32, and the new state."""
        x = np.asarray(x, np.float32)
        batch = len(state.consumed)
        if x.ndim != 2 or x.shape[0] != batch:
            raise ValueError(
                f"expected a block of shape ({batch}, n) for a state of {batch} stream(s), got {x.shape}"
            )
        consumed = state.consumed + x.shape[1]
        if self.identity:
            return x.copy(), ResamplerState(
                state.history.copy(), consumed, state.produced + x.shape[1]
            )
        produced = self.certain(consumed)
        counts = produced - state.produced
        buffers = np.concatenate([state.history, x], axis=1)
        y = np.full((batch, int(counts.max(initial=0))), np.nan, np.float32)
        for b in range(batch):
            self._filter(
                buffers[b], int(state.consumed[b]), int(state.produced[b]), y[b, : counts[b]]
            )
        history = buffers[:, buffers.shape[1] - (self.taps - 1) :].copy()
        return y, ResamplerState(history, consumed, produced)

    def finish(self, state: ResamplerState) -> np.ndarray:
        """The last samples of each stream, (B, m), as if silence followed. The state may be taken up again or not."""
        zeros = np.zeros((len(state.consumed), self.half), np.float32)
        return self.step(zeros, state)[0]

    def remaining(self, state: ResamplerState) -> np.ndarray:
        """(B,) how many samples `finish` would give each stream."""
        return -(-state.consumed * self.up // self.down) - state.produced

    def lengths(self, before: ResamplerState, after: ResamplerState) -> np.ndarray:
        """(B,) how many samples of each row of a step's output are real."""
        return after.produced - before.produced

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Resample whole signals: (n,) or (B, n) float32 to (m,) or (B, m), m = ceil(n * rate_out / rate_in)."""
        x = np.asarray(x, np.float32)
        if x.ndim == 1:
            return self(x[None])[0]
        y, state = self.step(x, self.init_state(len(x)))
        return np.concatenate([y, self.finish(state)], axis=1)

    def certain(self, consumed: np.ndarray) -> np.ndarray:
        """How many outputs have their whole window within the first `consumed` inputs."""
        return np.maximum(-(-(consumed - self.half) * self.up // self.down), 0)

    def _filter(self, buffer: np.ndarray, consumed: int, first: int, out: np.ndarray) -> None:
        """Fill `out` with the outputs from number `first` on; the buffer ends `taps - 1` samples before `consumed`."""
        if not len(out):
            return
        bank = _bank(self.up, self.down)
        windows = np.lib.stride_tricks.sliding_window_view(buffer, self.taps)
        size = max(MAX_GATHER // self.taps, 1)
        for begin in range(0, len(out), size):
            part = out[begin : begin + size]
            position = (np.arange(len(part)) + (first + begin)) * self.down
            start, phase = position // self.up - consumed + self.half, position % self.up
            if self.up == 1:
                x, h = (
                    windows[start[0] : start[-1] + 1 : self.down],
                    bank,
                )  # evenly spaced: no copy is needed
            elif len(bank) == self.up:
                x, h = windows[start], bank[phase]
            else:
                row, rest = np.divmod(phase * INTERPOLATED, self.up)
                weight = (rest / self.up).astype(np.float32)[:, None]
                x, h = windows[start], bank[row] + weight * (bank[row + 1] - bank[row])
            # One dot product an output, along the contiguous axis: einsum adds the same way for every row.
            np.einsum("mt,mt->m", x, np.broadcast_to(h, x.shape), out=part)


def _half_width(up: int, down: int) -> int:
    """Input samples on each side of an output that its filter covers (Kaiser's estimate of the length)."""
    transition = (1 - PASSBAND) / 2 * min(1.0, up / down)  # cycles per input sample
    return math.ceil((ATTENUATION - 7.95) / (14.36 * transition) / 2)


@lru_cache(maxsize=16)
def _bank(up: int, down: int) -> np.ndarray:
    """The filter bank, (phases, taps) float32: row p holds the coefficients of an output p / phases past a sample."""
    half = _half_width(up, down)
    exact = up * 2 * half <= MAX_BANK
    phases = np.arange(up) / up if exact else np.arange(INTERPOLATED + 1) / INTERPOLATED
    cutoff = (
        (1 + PASSBAND) / 2 * min(1.0, up / down)
    )  # of the input's Nyquist frequency: mid-transition
    beta = 0.1102 * (ATTENUATION - 8.7)
    bank = np.empty((len(phases), 2 * half), np.float32)
    for p, phase in enumerate(phases):
        t = np.arange(1 - half, half + 1) - phase
        h = np.sinc(cutoff * t) * np.i0(beta * np.sqrt(np.maximum(1 - (t / half) ** 2, 0)))
        bank[p] = h / h.sum()  # a constant passes every phase unchanged
    bank.setflags(write=False)
    return bank
