"""The linear echo filter against paths that are known."""

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
