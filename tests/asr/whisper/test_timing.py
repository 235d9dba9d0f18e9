"""Word times: the best monotonic path against a search through all paths, pauses, and real recordings."""

import difflib
import itertools
import json
import re

import numpy as np
import pytest

from speechstream.asr.incremental import attention_table as table
from speechstream.asr.timing import SMOOTHING, at_pauses, pauses, token_spans


def stretches(lengths, noise=0.0, seed=0):
    """Attention in which token i looks at stretch i."""
    rng = np.random.default_rng(seed)
    w = np.zeros((len(lengths), sum(lengths)))
    at = 0
    for i, n in enumerate(lengths):
        w[i, at : at + n] = 1.0 / n
        at += n
    return (w + noise * rng.random(w.shape)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_clear_attention_gives_its_stretches(noise):
    lengths = [12, 20, 8, 15, 30, 9]
    ends = np.cumsum(lengths)
    np.testing.assert_array_equal(
        token_spans(stretches(lengths, noise)), np.stack([ends - lengths, ends], 1)
    )


def brute_force(attention):
    """The score of every monotonic path that visits each token in order; the best ones' boundaries."""
    n, T = attention.shape
    w = (attention - attention.mean(0)) / (attention.std(0) + 1e-6)
    padded = np.pad(w, ((0, 0), (SMOOTHING // 2,) * 2), mode="edge")
    w = np.array([[np.median(row[t : t + SMOOTHING]) for t in range(T)] for row in padded])
    best, found = -np.inf, None
    for cuts in itertools.combinations(range(1, T), n - 1):
        edges = [0, *cuts, T]
        score = sum(w[i, edges[i] : edges[i + 1]].sum() for i in range(n))
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


def sound(parts, seed=0):
    """Samples of noise at 16 kHz: (seconds, amplitude) each."""
    rng = np.random.default_rng(seed)
    return np.concatenate([a * rng.standard_normal(round(16000 * s)) for s, a in parts]).astype(
        np.float32
    )


@pytest.mark.parametrize("room", [0.0, 0.001, 0.01])
def test_pauses_are_where_it_is_quiet_for_long(room):
    x = sound([(0.5, 0.1), (0.4, room), (0.5, 0.2), (0.1, room), (0.6, 0.1), (0.3, room)])
    np.testing.assert_allclose(pauses(x), [[0.5, 0.9], [2.1, 2.4]], atol=0.011)


def test_steady_sound_silence_and_nothing_have_no_pauses():
    for x in (
        sound([(2, 0.1)]),
        np.zeros(16000, np.float32),
        np.zeros(100, np.float32),
        np.zeros(0, np.float32),
        sound([(0.5, 0.1), (0.5, 0.03), (0.5, 0.1)]),
    ):  # the last: 10 dB softer is no pause
        assert pauses(x).shape == (0, 2)


def test_digital_silence_does_not_hide_the_room():
    x = sound([(0.5, 0.1), (0.4, 0.001), (0.5, 0.1), (20, 0.0)])
    np.testing.assert_allclose(pauses(x), [[0.5, 0.9], [1.4, 21.4]], atol=0.011)


def test_a_loud_or_soft_recording_has_the_same_pauses():
    x = sound([(0.5, 0.1), (0.4, 0.001), (0.5, 0.2)])
    np.testing.assert_array_equal(pauses(x), pauses(x * np.float32(4)))


def test_words_end_where_the_pause_begins():
    spans = [(0.1, 0.4), (0.4, 0.7), (0.7, 1.3), (1.3, 2.0)]
    quiet = np.array([[0.62, 0.9], [1.9, 2.0]])
    assert at_pauses(spans, quiet) == [(0.1, 0.4), (0.4, 0.62), (0.9, 1.3), (1.3, 1.9)]
    # the first edge is as near as the second, but then the pause would swallow a word
    assert at_pauses([(0.1, 0.55), (0.55, 0.7), *spans[2:]], quiet)[:3] == [
        (0.1, 0.55),
        (0.55, 0.62),
        (0.9, 1.3),
    ]
    # 0.78 is 80 ms after the edge, and 0.85 too far
    assert at_pauses(spans, np.array([[0.78, 1.0]])) == [
        *spans[:1],
        (0.4, 0.78),
        (1.0, 1.3),
        spans[3],
    ]
    assert at_pauses(spans, np.array([[0.85, 1.0]])) == spans
    assert at_pauses(spans, np.zeros((0, 2))) == spans and at_pauses([], quiet) == []


@pytest.mark.parametrize("seed", range(20))
def test_words_stay_in_order(seed):
    rng = np.random.default_rng(seed)
    edges = np.sort(rng.choice(400, 16, replace=False)) / 100
    spans = list(zip(edges[:-1], edges[1:]))
    quiet = np.sort(rng.choice(400, 12, replace=False)).reshape(-1, 2) / 100
    moved = at_pauses(spans, quiet)
    assert all(start <= end for start, end in moved)
    assert all(a[1] <= b[0] + 1e-9 for a, b in zip(moved, moved[1:]))
    for (start, end), old in zip(moved, spans):
        assert end == old[1] or end in quiet[:, 0]
        assert start == old[0] or start in quiet[:, 1]


def key(word):
    return re.sub(r"[^a-z]", "", word.lower())


@pytest.mark.parametrize("latency_ms", [640, None])
def test_recordings_are_dated_as_forced_alignment_dates_them(
    latency_ms, fixtures_dir, embedded_asr
):
    """Against pocketsphinx's alignments of the same recordings."""
    asr, errors = embedded_asr, []
    for entry in json.loads((fixtures_dir / "transcripts.json").read_text())[1:4]:
        words = asr.transcribe(fixtures_dir / entry["file"], latency_ms=latency_ms).words
        said, reference = [key(w.text) for w in words], [w["word"] for w in entry["words"]]
        for a, b, n in difflib.SequenceMatcher(
            None, said, reference, autojunk=False
        ).get_matching_blocks():
            errors += [
                (w.start - dated["start"], w.end - dated["end"])
                for w, dated in zip(words[a : a + n], entry["words"][b : b + n])
            ]
    assert len(errors) > 30
    starts, ends = np.abs(errors).T
    assert np.median(starts) <= 0.04 and np.median(ends) <= 0.04 and np.quantile(ends, 0.9) <= 0.15
