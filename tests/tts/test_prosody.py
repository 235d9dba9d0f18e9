"""Pitch and loudness against sounds whose pitch and loudness are known."""

import numpy as np
import pytest

from speechstream.tts.prosody import loudness, pitch

RATE = 24_000


@pytest.mark.parametrize("hz", [80.0, 123.4, 210.0, 350.0])
def test_pitch_of_a_buzz(hz):
    t = np.arange(RATE // 2) / RATE
    x = sum(np.sin(2 * np.pi * k * hz * t) / k for k in range(1, 12)) * 0.1
    found = pitch(x, RATE)
    assert len(found) == 50
    np.testing.assert_allclose(found[5:-5], hz, rtol=0.005)


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    assert (pitch(noise, RATE) > 0).mean() < 0.05
    assert not pitch(np.zeros(RATE), RATE).any() and pitch(np.zeros(0), RATE).shape == (0,)


def test_a_glide_is_followed():
    hz = np.linspace(100, 200, RATE)
    x = 0.3 * np.sin(2 * np.pi * np.cumsum(hz) / RATE)
    middle = hz[120::240][:100]
    np.testing.assert_allclose(pitch(x, RATE)[10:90], middle[10:90], rtol=0.02)


def test_loudness():
    x = np.concatenate([np.full(240, 0.5), np.zeros(240)])
    np.testing.assert_allclose(loudness(x, RATE), [20 * np.log10(0.5), -100], atol=0.01)
