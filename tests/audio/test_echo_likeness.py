"""How much a sound is like what was played, wherever that was."""

import numpy as np
import pytest
import soundfile

from speechstream.audio.echo_likeness import BANDS, HEARD, Likeness

RATE = 16_000


@pytest.fixture(scope="module")
def speech(request):
    folder = request.path.parents[1] / "fixtures"
    return [
        soundfile.read(folder / f"austen_{n}.flac", dtype="float32")[0] for n in ("0870", "0890")
    ]


def fed(played, heard, block=320):
    """The likeness after each block of both."""
    likeness, found = Likeness(), []
    state = likeness.init_state()
    for i in range(0, min(len(played), len(heard)) - block + 1, block):
        state = likeness.played(played[i : i + block], state)
        state = likeness.hear(heard[i : i + block], state)
        found.append(likeness.measure(state))
    return np.array(found), state


def room(x, delay_s):
    rng = np.random.default_rng(0)
    n = round(0.3 * RATE)
    response = 0.15 * rng.standard_normal(n) * 10 ** (-3 * np.arange(n) / n)
    response[0] = 1.0
    return np.concatenate([np.zeros(round(delay_s * RATE)), np.convolve(x, response)])[
        : len(x)
    ].astype(np.float32)


@pytest.mark.parametrize("delay_s", [0.06, 0.5, 1.0])
def test_an_echo_is_like_what_was_played_whatever_its_delay_and_level(speech, delay_s):
    heard = room(speech[0], delay_s)
    found, _ = fed(speech[0], 0.1 * heard)
    blocks = heard[: len(found) * 320].reshape(-1, 320)
    loud = np.sqrt(np.mean(blocks**2, 1)) > 0.02
    loud[:60] = False
    assert np.median(found[loud]) > 0.85 and np.mean(found[loud] > 0.7) > 0.9


def test_another_voice_is_not_alone_and_over_the_echo(speech):
    n = min(map(len, speech))
    far, user = speech[0][:n], speech[1][:n]
    blocks = user[: n // 320 * 320].reshape(-1, 320)
    loud = np.sqrt(np.mean(blocks**2, 1)) > 0.02
    loud[:60] = False
    echo = room(far, 0.15)
    echo *= np.sqrt(np.mean(user**2) / np.mean(echo**2))
    for gain in (0.0, 0.5):
        found, _ = fed(far, user + gain * echo)
        assert np.mean(found[loud] > 0.7) < 0.25 and np.median(found[loud]) < 0.6


def test_it_is_the_correlation_of_both_at_the_best_lag(speech):
    heard = speech[1][RATE : 4 * RATE] + 0.3 * speech[0][RATE : 4 * RATE]
    found, state = fed(speech[0][RATE : 4 * RATE], heard)
    a = state.heard - state.heard.mean(0)
    by_hand = []
    for i in range(len(state.played) - HEARD + 1):
        b = state.played[i : i + HEARD] - state.played[i : i + HEARD].mean(0)
        by_hand.append(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))
    assert a.shape == (HEARD, BANDS) and found[-1] == pytest.approx(max(by_hand), abs=1e-4)


def test_nothing_is_like_silence():
    quiet = np.zeros(2 * RATE, np.float32)
    sound = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    for played, heard in ((quiet, sound), (sound, quiet), (quiet, quiet)):
        found, _ = fed(played, heard)
        assert (np.abs(found) < 0.05).all()


def test_any_block_length_gives_the_same_and_states_are_values(speech):
    x, y = speech[0][: 3 * RATE], speech[1][: 3 * RATE]
    found, state = fed(x, y, 320)
    again, other = fed(x[: len(found) * 320], y[: len(found) * 320], 160)
    assert again[1::2] == pytest.approx(found, abs=1e-6)
    likeness = Likeness()
    before = state.heard.copy(), state.played.copy()
    likeness.hear(y[:333], likeness.played(x[:333], state))
    assert np.array_equal(state.heard, before[0]) and np.array_equal(state.played, before[1])
