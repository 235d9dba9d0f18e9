"""When each token was said: the best monotonic path through the decoder's attention to the audio."""

from __future__ import annotations

import numpy as np

SMOOTHING = 7  # frames of the median filter, as openai/whisper's timing has


def token_spans(attention: np.ndarray) -> np.ndarray:
    """attention (n, T), row i being where the decoder looked when it chose token i, to frames (n, 2): first, last + 1.

    Rows are standardised against each other frame by frame and smoothed by a median; the path visits tokens in
    order, each for at least one frame where there are frames enough.
    """
    n, T = attention.shape
    if n == 0 or T == 0:
        return np.zeros((n, 2), np.int64)
    w = attention.astype(np.float64)
    w = (w - w.mean(0)) / (w.std(0) + 1e-6)
    padded = np.pad(w, ((0, 0), (SMOOTHING // 2, SMOOTHING // 2)), mode="edge")
    w = np.median(np.lib.stride_tricks.sliding_window_view(padded, SMOOTHING, axis=1), axis=-1)
    if n > T:
        at = np.arange(n) * T // n
        return np.stack([at, at + 1], 1)
    score = np.full(n, -np.inf)
    score[0] = w[0, 0]
    moved = np.zeros((T, n), bool)
    for t in range(1, T):
        step = np.concatenate([[-np.inf], score[:-1]])
        moved[t] = step > score
        score = np.where(moved[t], step, score) + w[:, t]
    i, path = n - 1, np.empty(T, np.int64)
    for t in range(T - 1, -1, -1):
        path[t] = i
        i -= int(moved[t, i])
    first = np.searchsorted(path, np.arange(n))
    return np.stack([first, np.append(first[1:], T)], 1)
