"""Where a language model is in its text: the phoneme of each sub-frame, from the probabilities that phonemes end.

A phoneme that begins is alive with probability 1, and each hazard takes its part of that; it ends where what is left
falls below a threshold. A threshold drawn uniformly between 0 and 1 draws its duration from the model; 0.5 gives the
median. What moves the pointer is a few numbers, so it is a part of a stream's state, and it only goes forwards, a
phoneme after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MEDIAN = 0.5
CANDIDATES = 8  # phonemes that can be entered in one frame, with the one before it
MOST_TIMES = 4.0  # the expected duration, and
MOST_MORE = 10  # sub-frames more: nothing lasts longer
Array = np.ndarray


@dataclass(frozen=True)
class Pointer:
    """The phoneme of the last sub-frame, the sub-frames it has lasted, and the probability that it lasts longer."""

    symbol: int
    elapsed: int
    alive: float = 1.0
    over: bool = False  # the last phoneme has ended


@dataclass(frozen=True)
class Aligned:
    """A frame's sub-frames: the phoneme (S,) int64 of each and how long it has lasted (S,) int64, this one included; S
    is 0 where the utterance is over. begins: (k,) int64, the sub-frame before which each next phoneme begins."""

    symbol: Array
    elapsed: Array
    begins: Array


def first_frame(subframes: int) -> tuple[Pointer, Aligned]:
    """An utterance begins with a frame of its first symbol, which is silence."""
    symbol, elapsed = np.zeros(subframes, np.int64), np.arange(1, subframes + 1)
    return Pointer(0, subframes), Aligned(symbol, elapsed, np.zeros(0, np.int64))


def longest(expected: Array) -> Array:
    """Sub-frames (N,) that phonemes last at most, from the expected ones."""
    return (MOST_TIMES * expected + MOST_MORE).astype(np.int64)


def walk(
    pointer: Pointer, hazards: Array, most: Array, threshold: Callable[[int], float]
) -> tuple[Pointer, Aligned]:
    """The next frame's phonemes.

    hazards: (K, S), of the pointer's phoneme and those after it, see `speechstream.nn.codec_lm.CodecLm.step`. most:
    (N,) sub-frames that each of the utterance's phonemes lasts at most. threshold: by a phoneme's number. Where the
    last phoneme ends within a frame, it fills it.
    """
    if pointer.over:
        nothing = np.zeros(0, np.int64)
        return pointer, Aligned(nothing, nothing, nothing)
    first, last = pointer.symbol, len(most) - 1
    symbol, elapsed, alive = pointer.symbol, pointer.elapsed, pointer.alive
    over: bool = False
    symbols, lasted, begins = list[int](), list[int](), list[int]()
    for s in range(hazards.shape[1]):
        while not over and symbol - first < len(hazards):
            # a later candidate's sub-frames are counted from its own beginning
            alive *= 1 - float(hazards[symbol - first, s if symbol == first else elapsed])
            if alive >= threshold(symbol) and elapsed < most[symbol]:
                break
            if symbol == last:
                over = True
                break
            symbol, elapsed, alive = symbol + 1, 0, 1.0
            begins.append(s)
        if over and not symbols:
            break
        elapsed += 1
        symbols.append(symbol)
        lasted.append(elapsed)
    aligned = Aligned(*(np.array(a, np.int64) for a in (symbols, lasted, begins)))
    return Pointer(symbol, elapsed, alive, over), aligned
