"""Token times: the best monotonic path, against a search through all paths."""

import itertools

import numpy as np
import pytest

from speechstream.asr.attention import table
from speechstream.asr.timing import SMOOTHING, token_spans


def stretches(lengths, noise=0.0, seed=0):
    """Attention in which token i looks at stretch i."""
    rng = np.random.default_rng(seed)
    w = np.zeros((len(lengths), sum(lengths)))
    at = 0
    for i, n in enumerate(lengths):
        w[i, at:at + n] = 1.0 / n
        at += n
    return (w + noise * rng.random(w.shape)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_clear_attention_gives_its_stretches(noise):
    lengths = [12, 20, 8, 15, 30, 9]
    ends = np.cumsum(lengths)
    np.testing.assert_array_equal(token_spans(stretches(lengths, noise)), np.stack([ends - lengths, ends], 1))


def brute_force(attention):
    """The score of every monotonic path that visits each token in order; the best ones' boundaries."""
    n, T = attention.shape
    w = (attention - attention.mean(0)) / (attention.std(0) + 1e-6)
    padded = np.pad(w, ((0, 0), (SMOOTHING // 2,) * 2), mode="edge")
    w = np.array([[np.median(row[t:t + SMOOTHING]) for t in range(T)] for row in padded])
    best, found = -np.inf, None
    for cuts in itertools.combinations(range(1, T), n - 1):
        edges = [0, *cuts, T]
        score = sum(w[i, edges[i]:edges[i + 1]].sum() for i in range(n))
        if score > best + 1e-9:
            best, found = score, edges
    return best, found, w


@pytest.mark.parametrize("seed", range(6))
def test_the_path_is_the_best_there_is(seed):
    rng = np.random.default_rng(seed)
    n, T = int(rng.integers(2, 5)), int(rng.integers(8, 14))
    attention = rng.random((n, T)).astype(np.float32)
    best, _, w = brute_force(attention.astype(np.float64))
    spans = token_spans(attention)
    assert spans[0, 0] == 0 and spans[-1, 1] == T
    assert (spans[1:, 0] == spans[:-1, 1]).all() and (spans[:, 0] < spans[:, 1]).all()
    assert sum(w[i, a:b].sum() for i, (a, b) in enumerate(spans)) == pytest.approx(best, abs=1e-6)


def test_edge_cases():
    assert token_spans(np.zeros((0, 10))).shape == (0, 2)
    np.testing.assert_array_equal(token_spans(np.zeros((3, 0))), np.zeros((3, 2)))
    np.testing.assert_array_equal(token_spans(np.random.rand(1, 9)), [[0, 9]])
    spans = token_spans(np.random.rand(9, 4))  # more tokens than frames
    assert (np.diff(spans[:, 0]) >= 0).all() and spans.min() >= 0 and spans.max() <= 4
    spans = token_spans(np.random.rand(6, 6))
    np.testing.assert_array_equal(spans[:, 0], np.arange(6))


def test_rows_of_different_ages_become_one_table():
    rows = [np.array([1.0, 2.0]), np.array([3.0, 4.0, 5.0])]
    np.testing.assert_array_equal(table(rows), [[1, 2, 0], [3, 4, 5]])
    assert table([]).shape == (0, 0)
