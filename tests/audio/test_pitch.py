"""Pitch and loudness against sounds whose pitch and loudness are known."""

from pathlib import Path

import numpy as np
import pytest

from speechstream.audio.pitch import loudness, pitch

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


def test_a_human_voice_against_pyin():
    """librosa's pYIN, an independent tracker, of a recorded reader."""
    librosa = pytest.importorskip("librosa", reason="the peer is librosa's pYIN")
    pcm, rate = librosa.load(Path(__file__).parents[1] / "fixtures" / "austen_0870.flac", sr=None)
    pcm, hop = pcm[: 6 * rate], rate // 100
    theirs, voiced, _ = librosa.pyin(
        pcm, fmin=60, fmax=500, sr=rate, hop_length=hop, frame_length=1024
    )
    ours = pitch(pcm, rate)
    both = voiced[: len(ours)] & (ours > 0)
    assert both.mean() > 0.25 and (voiced[: len(ours)] == (ours > 0)).mean() > 0.8
    cents = 1200 * np.abs(np.log2(ours[both] / theirs[: len(ours)][both]))
    assert np.median(cents) < 20 and (cents > 300).mean() < 0.02
