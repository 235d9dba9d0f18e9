"""The last hop: every sample once, no clicks, nothing of an old label."""

import numpy as np

from speechstream.duplex.events import Label
from speechstream.duplex.output import DUCKED, Output

A, B = Label(1, 1, 0), Label(2, 2, 1)
RATE = 24_000


def sine(n=RATE):
    return (0.5 * np.sin(np.arange(n) * 0.05)).astype(np.float32)


def playing(x, label=A):
    out = Output(RATE)
    out.admit(label)
    assert out.put(label, x)
    return out


def test_pulls_of_any_size_give_the_sound():
    x, out, rng = sine(), playing(sine()), np.random.default_rng(0)
    got = np.concatenate([out.pull(n) for n in rng.integers(1, 999, 100)])[: len(x)]
    assert np.array_equal(got, x) and out.played() == (A, len(x))


def test_ducked_by_12_db_within_10_ms_without_a_step():
    out = playing(np.full(RATE, 0.5, np.float32))
    out.pull(100)
    out.duck(True)
    got = out.pull(2400)
    assert np.abs(np.diff(got)).max() < 0.5 / 200
    assert np.allclose(got[240:], 0.5 * DUCKED)
    out.duck(False)
    assert np.allclose(out.pull(2400)[240:], 0.5)


def test_a_pause_keeps_every_sample():
    x = sine()
    out = playing(x)
    first = out.pull(1000)
    out.pause(True)
    faded = np.concatenate([out.pull(480) for _ in range(4)])
    at = out.played()[1]
    assert 1000 < at <= 1240 and not faded[240:].any()
    out.pause(False)
    rest = out.pull(RATE)
    assert np.array_equal(first, x[:1000])
    assert np.allclose(rest[240 : RATE - at], x[at + 240 :], atol=1e-6)
    assert out.played() == (A, len(x))


def test_a_stop_fades_and_counts_what_was_heard():
    out = playing(np.full(RATE, 0.5, np.float32))
    out.pull(1000)
    assert out.stop(A) == 1000
    got = out.pull(1000)
    assert np.abs(np.diff(np.concatenate([[0.5], got]))).max() < 0.5 / 200
    assert not got[240:].any() and out.played() is None


def test_old_sound_is_dropped():
    out = playing(sine())
    out.stop(A)
    assert not out.put(A, sine())
    out.admit(B)
    assert not out.put(A, sine()) and out.waiting == 0
    assert out.put(B, sine(10)) and out.stop(A) == 0 and out.waiting == 10
