"""When each word was said: the best monotonic path through the decoder's attention, its edges moved to the pauses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechstream.audio.features import SAMPLE_RATE
from speechstream.events import Word

SMOOTHING = 3  # frames of the median filter over attention: the middle one of three
STEP = 160  # samples: loudness is measured every 10 ms
PAUSE_S = 0.15  # what is quiet for so long is a pause; the closure of a plosive is shorter
QUIET = (
    0.3  # of the way up from the quietest to the loudest sound, in decibels: below it is silence
)
RANGE_DB = 15.0  # a pause is at least so far below the loudest sound
SILENT_DB = -90.0  # digital silence, which says nothing of how quiet the room is
REACH_S = 0.1  # a word's edge moves to a pause that is no further from it
SHORTEST_S = 0.04  # what moving leaves of a word


def token_spans(attention: np.ndarray) -> np.ndarray:
    """attention (n, T), row i being where the decoder looked when it chose token i, to frames (n, 2): first, last + 1.

    Rows are standardised against each other frame by frame and smoothed by a median; the path visits tokens in
    order, each for at least one frame where there are frames enough (dynamic time warping, as openai/whisper's timing).
    """
    n, T = attention.shape
    if n == 0 or T == 0:
        return np.zeros((n, 2), np.int64)
    w = attention.astype(np.float64)
    w = (w - w.mean(0)) / (w.std(0) + 1e-6)
    padded = np.pad(w, ((0, 0), (SMOOTHING // 2, SMOOTHING // 2)), mode="edge")
    before, after = padded[:, :-2], padded[:, 2:]
    w = np.maximum(np.minimum(before, after), np.minimum(np.maximum(before, after), w))
    if n > T:
        at = np.arange(n) * T // n
        return np.stack([at, at + 1], 1)
    # token by token: the best that ends in frame t is the sum up to t and, of all frames it may have begun in, the best
    # of what was there before less the sum up to there
    total = w.cumsum(1)
    score, begun = total[0], np.zeros((n, T), np.int64)
    for i in range(1, n):
        gained = np.concatenate([[-np.inf], score[:-1] - total[i, :-1]])
        best = np.maximum.accumulate(gained)
        better = np.concatenate([[False], best[1:] > best[:-1]])
        begun[i] = np.maximum.accumulate(np.where(better, np.arange(T), 0))
        score = total[i] + best
    first, last = np.zeros(n, np.int64), T
    for i in range(n - 1, 0, -1):
        first[i] = last = begun[i, last - 1]
    return np.stack([first, np.append(first[1:], T)], 1)


def pauses(samples: np.ndarray) -> np.ndarray:
    """Samples (n,) at 16 kHz to the pauses in them, (k, 2): seconds at which each begins and ends.

    Loudness is that of 30 ms, every 10 ms. What is quiet follows from the 5th and 90th percentile of what is heard.
    """
    steps = len(samples) // STEP
    if steps == 0:
        return np.zeros((0, 2))
    power = (samples[: steps * STEP].astype(np.float64).reshape(steps, STEP) ** 2).mean(1)
    power = np.lib.stride_tricks.sliding_window_view(np.pad(power, 1, mode="edge"), 3).mean(1)
    loudness = 10 * np.log10(power + 1e-12)
    heard = loudness[loudness > SILENT_DB]
    if not len(heard):
        return np.zeros((0, 2))
    low, high = np.percentile(heard, [5, 90])
    quiet = loudness < min(low + QUIET * (high - low), high - RANGE_DB)
    edges = np.flatnonzero(
        np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8))
    ).reshape(-1, 2)
    found = edges * (STEP / SAMPLE_RATE)
    return found[found[:, 1] - found[:, 0] > PAUSE_S - 1e-6]


def at_pauses(
    spans: Sequence[tuple[float, float]], pauses: np.ndarray
) -> list[tuple[float, float]]:
    """Words' spans (start, end), in order and in seconds, with the ends of words that precede a pause at its beginning.

    A pause belongs to the edge between two words where it comes within REACH_S of it: attention knows where the next
    word is, but shares out the silence between them as it likes. The word after the pause begins where the pause ends.
    """
    starts, ends = [s for s, _ in spans], [e for _, e in spans]
    for i, end in enumerate(ends):
        last = i + 1 == len(ends)
        near = [
            (a, b)
            for a, b in pauses
            if a < end + REACH_S
            and b > end - REACH_S
            and a >= starts[i] + SHORTEST_S
            and (last or b <= ends[i + 1] - SHORTEST_S)
        ]
        if near:
            a, b = max(near, key=lambda p: min(p[1], end + REACH_S) - max(p[0], end - REACH_S))
            ends[i] = float(a)
            if not last:
                starts[i + 1] = float(b)
    return [(s, max(e, s)) for s, e in zip(starts, ends)]


def until_gap(words: list[Word], reach: float) -> list[Word]:
    """The words before the longest gap in the last `reach` seconds of them; where there is no gap, all."""
    cut, longest = len(words), 0.0
    for i in range(len(words) - 1, 0, -1):
        end = words[i - 1].end
        if words[-1].end - end > reach:
            break
        if words[i].start - end > longest:
            cut, longest = i, words[i].start - end
    return words[:cut]
