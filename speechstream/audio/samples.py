"""Blocks of samples, as sound cards, files and users hand them over, made into mono float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MAX_CHANNELS = 64  # more "channels" than this is a block that lies on its side
LOUDEST = 2.0  # floats beyond are no samples of full scale 1: integers that were cast, most often

# What a sample of each integer type is divided by, after its offset is taken away, to lie in [-1, 1).
_INTEGER_SCALES = {"u1": (128.0, 128.0), "i2": (0.0, 32768.0), "i4": (0.0, 2147483648.0)}


def as_samples(block: Any) -> np.ndarray:
    """Check a block of samples and convert it into a new float32 array of the same shape, (n,) or (n, channels).

    block: n may be 0; float16/32/64 as they are (nominally in [-1, 1]; a little more is kept, not clipped), int16 and
    int32 divided by their full scale, uint8 taken as offset binary with silence at 128 (as in WAV). Anything numpy can
    view as an array will do. The result never shares memory with the block, so that a reused capture buffer cannot
    change it later.

    Raises ValueError for bytes, for other types, for other shapes, for samples that are not finite, and for floats
    beyond LOUDEST: those of integers that were cast and not scaled.
    """
    if isinstance(block, (bytes, bytearray, memoryview, str)):
        raise ValueError(
            f"a block of samples must be an array, got {type(block).__name__}; "
            "turn raw PCM into one with numpy.frombuffer(data, dtype='<i2')"
        )
    try:
        x = np.asarray(block)
    except ValueError:  # rows of different lengths
        raise ValueError(
            "a block of samples must have shape (n,) or (n, channels), got rows of several lengths"
        ) from None
    if x.ndim not in (1, 2):
        raise ValueError(f"a block of samples must have shape (n,) or (n, channels), got {x.shape}")
    if x.ndim == 2 and not 1 <= x.shape[1] <= MAX_CHANNELS:
        raise ValueError(
            f"a block of shape {x.shape} has {x.shape[1]} channels, expected (n, channels) with 1 to "
            f"{MAX_CHANNELS} channels; transpose a block that comes as (channels, n)"
        )
    if x.size == 0 and x.dtype == np.float64:  # an empty list
        return np.zeros(x.shape, np.float32)
    kind = x.dtype.str[1:]
    if kind in _INTEGER_SCALES:
        offset, scale = _INTEGER_SCALES[kind]
        return ((x.astype(np.float64) - offset) / scale).astype(np.float32)
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        raise ValueError(
            f"samples of type {x.dtype} are not supported; "
            "expected uint8, int16, int32, float16, float32 or float64"
        )
    with np.errstate(over="ignore"):
        samples = np.array(x, np.float32, order="C")
    # NaN is no less than anything: one pass finds what is too loud, infinite or no number
    if samples.size and not max(samples.max(), -samples.min()) <= LOUDEST:
        bad = np.argwhere(~(np.abs(samples) <= LOUDEST))[0]
        value = x[tuple(bad)]
        if not np.isfinite(samples[tuple(bad)]):
            raise ValueError(
                f"sample {bad[0]} of the block is {value}; samples must be finite numbers within [-1, 1]"
            )
        raise ValueError(
            f"sample {bad[0]} of the block is {value:g}, but floating-point samples lie within [-1, 1]; divide 16-bit "
            "values by 32768 or give them as int16, and a louder recording by its peak"
        )
    return samples


def to_mono(block: Any) -> np.ndarray:
    """Convert a block of samples into a new mono float32 array (n,): `as_samples`, with the channels averaged.

    Raises ValueError as `as_samples` does. Whether channels cancel each other cannot be told from one block: streams
    and files go through a `Downmix`.
    """
    return _average(as_samples(block))


def _average(x: np.ndarray) -> np.ndarray:
    if x.ndim == 1:
        return x
    # Column by column, in double precision: the sum of a frame does not depend on the block it came in.
    total = x[:, 0].astype(np.float64)
    for c in range(1, x.shape[1]):
        total += x[:, c]
    return (total / x.shape[1]).astype(np.float32)


def side_by_side(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """Blocks of `as_samples` one behind the other, as one. A mono block among wider ones is in each of their channels;
    where there are several widths, all become mono."""
    widths = {x.shape[1] for x in blocks if x.ndim == 2}
    if not widths:
        return np.concatenate([np.zeros(0, np.float32), *blocks])
    width = widths.pop() if len(widths) == 1 else 1
    wide = [x if x.shape[1:] == (width,) else _average(x)[:, None] for x in blocks]
    return np.concatenate([np.broadcast_to(x, (len(x), width)) for x in wide])


@dataclass(frozen=True)
class DownmixState:
    """What a downmix remembers.

    levels: (channels + 1,) float64, the recent energy of each channel and of their sum; empty before the first block
    cell:   (channels + 1,) float64, the same of the cell that is not full yet, whole numbers
    held:   (n, channels) float32, frames that are not given yet: until something is heard, a cell waits until it is full
    filled: frames in the cell that are given
    alone:  the channel that is heard alone, from 1 on; 0 where all are averaged
    """

    levels: np.ndarray
    cell: np.ndarray
    held: np.ndarray
    filled: int = 0
    alone: int = 0


class Downmix:
    """Many channels into one: their average, or one of them where the average would cancel the sound.

    A cable with swapped poles, or a microphone that sums its capsules with the wrong sign, gives a second channel that
    is the first one inverted: their average is silence. The energy of the sum over the sum of the energies is 1 for
    unrelated channels and 0 where they cancel; below ALONE the loudest channel is heard alone, above TOGETHER all are
    averaged again. Nothing that is in all channels can vanish so, whatever its sign.

    It is decided on a grid of CELL frames from the frames before, with sums in whole numbers: without lookahead, and
    whatever the blocks, the same samples come out. Only until something has been heard, a cell is held until it is full.
    """

    CELL = 512  # frames
    DECAY = 1 - 1 / 32  # of the remembered energies in each cell
    ALONE, TOGETHER, QUIETER = 0.5, 0.75, 0.25
    SCALE = (
        1 << 15
    )  # the energies of 512 frames of 64 channels are whole numbers below 2^53: their sums are exact

    @staticmethod
    def init_state() -> DownmixState:
        """The state before the first block."""
        return DownmixState(np.zeros(0), np.zeros(0), np.zeros((0, 0), np.float32))

    def step(self, x: np.ndarray, state: DownmixState) -> tuple[np.ndarray, DownmixState]:
        """A block of `as_samples`, (n,) or (n, channels), into mono. Mono blocks go through as they are.

        Where the number of channels changes, it begins anew.
        """
        if x.ndim == 1 or x.shape[1] == 1:
            return np.concatenate([self.finish(state), x.reshape(-1)]), self._heard(state)
        before = np.zeros(0, np.float32)
        channels = x.shape[1]
        if len(state.levels) != channels + 1:
            before, zeros = self.finish(state), np.zeros(channels + 1)
            state = DownmixState(zeros, zeros, np.zeros((0, channels), np.float32))
        if len(state.held):
            x = np.concatenate([state.held, x])
        n, mono = len(x), _average(x)
        levels, alone, filled = state.levels.tolist(), state.alone, state.filled
        starts = [0, *range(self.CELL - filled, n, self.CELL)] if n else []
        sums = self._energies(x, starts) if n else np.zeros((0, channels + 1))
        sums[:1] += state.cell
        held = x[n:]
        for start, end, cell in zip(starts, [*starts[1:], n], sums.tolist()):
            filled += end - start
            if not any(levels):
                if filled < self.CELL:
                    held, mono, filled = x[start:], mono[:start], 0
                    break
                alone = self._choose(cell, 0)
            if alone:
                mono[start:end] = x[start:end, alone - 1]
            if filled == self.CELL:
                filled = 0
                levels = [self.DECAY * old + new for old, new in zip(levels, cell)]
                alone = self._choose(levels, alone)
        cell = sums[-1] if filled else np.zeros(channels + 1)
        state = DownmixState(np.array(levels), cell.copy(), held.copy(), filled, alone)
        return np.concatenate([before, mono]), state

    @staticmethod
    def finish(state: DownmixState) -> np.ndarray:
        """What was still held, where the sound ends."""
        return _average(state.held) if state.held.size else np.zeros(0, np.float32)

    @staticmethod
    def _heard(state: DownmixState) -> DownmixState:
        return replace(state, held=state.held[:0]) if len(state.held) else state

    def check(self, state: DownmixState) -> None:
        """Raises ValueError where no downmix can have come to this state."""
        shape = state.levels.shape
        if (state.levels.dtype, state.cell.dtype) != (np.float64, np.float64):
            raise ValueError(f"its downmix is {state.levels.dtype} and {state.cell.dtype}")
        if len(shape) != 1 or state.cell.shape != shape or not 0 <= state.filled < self.CELL:
            raise ValueError(f"its downmix is {shape} and {state.cell.shape}")
        if state.held.dtype != np.float32 or state.held.ndim != 2 or len(state.held) >= self.CELL:
            raise ValueError(f"its downmix holds {state.held.dtype}{list(state.held.shape)}")
        if not 0 <= state.alone <= max(shape[0] - 1, 0):
            raise ValueError(f"its downmix hears channel {state.alone}")

    def _energies(self, x: np.ndarray, starts: list[int]) -> np.ndarray:
        """(cells, channels + 1): of each channel and of their sum, between the starts. All are whole numbers."""
        whole = np.empty((x.shape[1] + 1, len(x)))
        np.rint(np.clip(x.T, -LOUDEST, LOUDEST) * np.float32(self.SCALE), out=whole[:-1])
        whole[:-1].sum(axis=0, out=whole[-1])
        whole *= whole
        return np.add.reduceat(whole, starts, axis=1).T

    def _choose(self, levels: list[float], alone: int) -> int:
        *each, together = levels
        total, loudest = sum(each), max(range(len(each)), key=each.__getitem__)
        if total == 0 or (not alone and together >= self.ALONE * total):
            return alone
        if alone and together > self.TOGETHER * total:
            return 0
        if alone and each[alone - 1] >= self.QUIETER * each[loudest]:
            return alone
        return loudest + 1
