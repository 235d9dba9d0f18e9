"""The linear echo filter against paths that are known."""

from dataclasses import replace

import numpy as np
import pytest

from speechstream.audio.echo_path import BLOCK, EchoPath

RATE = 16_000


@pytest.fixture(scope="module")
def path():
    """White noise, an impulse response of 150 ms, and the echo."""
    rng = np.random.default_rng(0)
    x = (0.1 * rng.standard_normal(6 * RATE)).astype(np.float32)
    n = round(0.15 * RATE)
    response = rng.standard_normal(n) * 10 ** (-2 * np.arange(n) / n) * 0.05
    response[400] = 0.8
    return x, np.convolve(x, response)[: len(x)].astype(np.float32), response


def power_db(x):
    return 10 * np.log10(np.mean(np.square(x, dtype=np.float64)) + 1e-20)


def test_a_known_response_is_found(path):
    x, echo, response = path
    f = EchoPath()
    left, state = f.step(echo, x, f.init_state())
    assert power_db(echo[-RATE:]) - power_db(left[-RATE:]) > 30
    taps = np.fft.irfft(state.path, axis=1)[:, :BLOCK].ravel()
    assert np.abs(taps[: len(response)] - response).max() < 0.02


def test_a_voice_beside_it_is_only_added_to_what_is_left(path):
    """Twice as loud as the echo and at once: the filter forgets little of what it knew."""
    x, echo, _ = path
    rng = np.random.default_rng(1)
    near = np.zeros_like(echo)
    near[4 * RATE : 5 * RATE] = 2 * np.std(echo) * rng.standard_normal(RATE)
    f = EchoPath()
    left, _ = f.step(echo + near, x, f.init_state())
    span = slice(4 * RATE, 5 * RATE)
    assert power_db(near[span]) - power_db((left - near)[span]) > 15
    after = slice(5 * RATE, round(5.2 * RATE))
    assert power_db(echo[after]) - power_db(left[after]) > 12


def test_any_cut_gives_the_same(path):
    x, echo, _ = path
    x, echo = x[: 64 * BLOCK], echo[: 64 * BLOCK]
    f = EchoPath()
    whole, end = f.step(echo, x, f.init_state())
    state, parts = f.init_state(), []
    for i in range(0, len(x), 4 * BLOCK):
        part, state = f.step(echo[i : i + 4 * BLOCK], x[i : i + 4 * BLOCK], state)
        parts.append(part)
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(state.path, end.path)


def test_silence_teaches_nothing(path):
    x, echo, _ = path
    f = EchoPath()
    _, state = f.step(echo[:RATE], x[:RATE], f.init_state())
    quiet = np.zeros(RATE, np.float32)
    _, state = f.step(quiet, quiet, state)  # until the room is silent too
    noise = 0.1 * np.random.default_rng(2).standard_normal(RATE).astype(np.float32)
    left, after = f.step(noise, quiet, state)
    assert np.array_equal(left, noise) and np.array_equal(after.path, state.path)


def test_learning_again_hears_what_was_heard(path):
    """Whatever came before, the blocks whose tails are known are those of the first time."""
    x, echo, _ = path
    f = EchoPath(partitions=8)
    begin, end = 9 * BLOCK, 40 * BLOCK
    _, at_begin = f.step(0 * x[:begin], x[:begin], f.init_state())
    first = f.step(echo[begin:end], x[begin:end], at_begin)[1]
    stranger = f.step(echo[end : end + RATE], x[end : end + RATE], f.init_state())[1]
    known = replace(stranger, path=at_begin.path, doubt=at_begin.doubt, noise=at_begin.noise)
    again = f.again(echo[:end], x[:end], known)
    for a, b in zip(vars(first).values(), vars(again).values()):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_learning_again_brings_it_nearer_to_the_path(path):
    x, _, response = path
    speech = np.convolve(x, 0.95 ** np.arange(200))[: len(x)].astype(
        np.float32
    )  # coloured as speech is
    heard = np.convolve(speech, response)[: len(x)].astype(np.float32)
    f = EchoPath()
    _, once = f.step(heard[:RATE], speech[:RATE], f.init_state())
    twice = f.again(heard[:RATE], speech[:RATE], once)
    span = slice(RATE, RATE + 20 * BLOCK)
    left = [f.step(heard[span], speech[span], s)[0] for s in (once, twice)]
    assert power_db(left[0]) - power_db(left[1]) > 1.0, [power_db(v) for v in left]
