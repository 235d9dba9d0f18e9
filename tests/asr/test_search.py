"""What the searches share: n best, log-softmax, pieces to text, tokens to words."""

import math

import numpy as np
import pytest
import scipy.special

from speechstream.asr.search import Token, check_log_probs, detokenize, log_softmax, n_best, words

PIECES = ["<blank>", "▁", "▁he", "llo", "▁you", "'", "s", "x"]
FRAME_S = 0.04


def test_log_softmax_agrees_with_scipy_and_survives_large_logits():
    x = np.random.default_rng(0).normal(size=(3, 5, 11)) * 300 + 5000
    np.testing.assert_allclose(log_softmax(x), scipy.special.log_softmax(x, -1), atol=1e-9)
    assert log_softmax(x.astype(np.float32)).dtype == np.float32


def test_n_best_orders_and_breaks_ties_by_position():
    scores = np.array([[1.0, 3.0, 3.0, 2.0], [0.0, -np.inf, 5.0, 0.0]])
    assert n_best(scores, 3).tolist() == [[1, 2, 3], [2, 0, 3]]
    with pytest.raises(ValueError, match="1 to 4"):
        n_best(np.zeros((2, 4)), 5)


@pytest.mark.parametrize(
    "pieces, text",
    [
        (["▁he", "llo", "▁you"], "hello you"),
        (["he", "llo"], "hello"),
        ([], ""),
        (["▁"], ""),
        (["▁", "x", "▁", "▁you", "'", "s"], "x you's"),
    ],
)
def test_detokenize(pieces, text):
    assert detokenize(pieces) == text


def test_words_have_the_frames_of_their_pieces_and_the_least_confidence():
    p = [math.log(v) for v in (0.9, 0.5, 0.8, 0.7, 0.6)]
    said = [
        Token(2, 3, 5, p[0]),
        Token(3, 6, 9, p[1]),
        Token(1, 11, 12, p[2]),
        Token(7, 20, 21, p[3]),
        Token(4, 30, 34, p[4]),
    ]
    got = words(said, PIECES, FRAME_S)
    assert [w.text for w in got] == ["hello", "x", "you"]
    np.testing.assert_allclose(
        [(w.start, w.end) for w in got], [(0.12, 0.36), (0.8, 0.84), (1.2, 1.36)]
    )
    np.testing.assert_allclose([w.confidence for w in got], [0.5, 0.7, 0.6])


def test_words_begin_without_a_mark_and_lone_marks_are_none():
    got = words([Token(3, 0, 1, -0.1), Token(1, 1, 2, -0.1), Token(4, 2, 3, -0.1)], PIECES, FRAME_S)
    assert [w.text for w in got] == ["llo", "you"]
    assert words([], PIECES, FRAME_S) == ()
    with pytest.raises(ValueError, match="token 8 is outside the vocabulary of 8"):
        words([Token(8, 0, 1, 0.0)], PIECES, FRAME_S)


def test_wrong_log_probs_are_refused():
    good = log_softmax(np.random.default_rng(0).normal(size=(2, 3, 4)))
    assert check_log_probs(good, None, 2).tolist() == [3, 3]
    with pytest.raises(ValueError, match="for 3 stream"):
        check_log_probs(good, None, 3)
    with pytest.raises(ValueError, match="frames in 0..3"):
        check_log_probs(good, np.array([1, 4]), 2)
    with pytest.raises(ValueError, match="log_softmax"):
        check_log_probs(good + 3, None, 2)
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        check_log_probs(bad, None, 2)
    assert check_log_probs(bad, np.array([3, 2]), 2).tolist() == [
        3,
        2,
    ]  # what does not count may be anything
