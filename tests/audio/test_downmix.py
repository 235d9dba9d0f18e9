"""Channels into one: the average, unless that would cancel what is said."""

import numpy as np
import pytest
import soundfile as sf

from speechstream.audio import read
from speechstream.audio.samples import Downmix, as_samples, side_by_side

CELL = Downmix.CELL


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    return sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")[0]


def mixed(x, cuts=()):
    mix, state, parts = Downmix(), Downmix.init_state(), []
    for piece in np.split(as_samples(x), cuts):
        mono, state = mix.step(piece, state)
        mix.check(state)
        parts.append(mono)
    return np.concatenate([*parts, mix.finish(state)])


def level(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("gain", [-1.0, -0.8, -0.5, -1.5])
@pytest.mark.parametrize("lead", [0, 100, 16000], ids=["at once", "mid cell", "after silence"])
def test_an_inverted_channel_does_not_cancel_the_other(speech, gain, lead):
    x = np.concatenate([np.zeros(lead, np.float32), speech])
    mono = mixed(np.stack([x, gain * x], axis=1))
    assert level(mono) > 0.99 * level(x) * max(1, -gain)
    np.testing.assert_array_equal(np.abs(mono), np.abs(x if gain >= -1 else np.float32(gain) * x))


def test_what_is_in_one_channel_alone_is_kept_beside_an_inverted_pair(speech):
    noise = np.random.default_rng(0).normal(0, 0.002, (len(speech), 2)).astype(np.float32)
    mono = mixed(np.stack([speech, -speech], axis=1) + noise)
    assert np.corrcoef(mono, speech)[0, 1] ** 2 > 0.98


def test_unrelated_alike_and_silent_channels_are_averaged(speech):
    other = speech[::-1]
    silent = np.zeros_like(speech)
    for pair in ((speech, other), (speech, speech), (speech, silent), (speech, -0.2 * speech)):
        x = np.stack(pair, axis=1)
        np.testing.assert_allclose(mixed(x), x.mean(axis=1), atol=1e-7)


def test_hum_of_opposite_signs_does_not_take_the_speech_away(speech):
    hum = 0.4 * np.sin(2 * np.pi * 50 * np.arange(len(speech)) / 16000).astype(np.float32)
    mono = mixed(np.stack([speech + hum, speech - hum], axis=1))
    rest = mono - speech
    rest = rest - rest.dot(hum) / hum.dot(hum) * hum  # what is neither
    assert level(rest) < 0.1 * level(speech)


def test_a_cable_that_is_put_right_is_averaged_again(speech):
    first, second = np.stack([speech, -speech], axis=1), np.stack([speech, 0.5 * speech], axis=1)
    mono = mixed(np.concatenate([first, second, second]))
    np.testing.assert_allclose(mono[-len(speech) :], 0.75 * speech, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_blocks_make_no_difference(speech, channels):
    rng = np.random.default_rng(channels)
    signs = rng.choice([-1.0, 1.0, 0.5], channels)
    x = (speech[:, None] * signs + rng.normal(0, 0.01, (len(speech), channels))).astype(np.float32)
    x[:700] = 0
    x[20000:24000] *= [1, *[-1] * (channels - 1)]
    whole = mixed(x)
    assert len(whole) == len(x)
    for size in (1, 7, CELL - 1, CELL, CELL + 1, 10000):
        n = 5000 if size == 1 else len(x)
        np.testing.assert_array_equal(mixed(x[:n], range(size, n, size)), mixed(x[:n]))
    np.testing.assert_array_equal(mixed(x, np.sort(rng.integers(0, len(x), 40))), whole)


def test_another_number_of_channels_begins_anew_and_loses_nothing(speech):
    mix, state = Downmix(), Downmix.init_state()
    out = []
    for x in (
        speech[:100, None].repeat(2, axis=1),
        speech[100:300],
        speech[300:, None].repeat(3, axis=1),
    ):
        mono, state = mix.step(x, state)
        out.append(mono)
    np.testing.assert_allclose(np.concatenate([*out, mix.finish(state)]), speech, atol=1e-7)


@pytest.mark.parametrize(
    "kind", [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "FLOAT")]
)
def test_files_with_an_inverted_channel(tmp_path, speech, kind):
    sf.write(
        tmp_path / "a", np.stack([speech, -speech], axis=1), 16000, format=kind[0], subtype=kind[1]
    )
    x, _ = read(tmp_path / "a")
    alike = 0.85 if kind[1] == "VORBIS" else 0.999  # which couples its channels
    assert abs(np.corrcoef(x, speech)[0, 1]) > alike and level(x) > 0.9 * level(speech)


def test_side_by_side_keeps_every_frame():
    mono, pair, three = (
        np.ones(2, np.float32),
        np.zeros((3, 2), np.float32),
        np.ones((1, 3), np.float32),
    )
    assert side_by_side([]).shape == (0,)
    assert side_by_side([mono, mono]).shape == (4,)
    np.testing.assert_array_equal(side_by_side([mono, pair]), [[1, 1]] * 2 + [[0, 0]] * 3)
    np.testing.assert_array_equal(side_by_side([pair, mono, three])[:, 0], [0] * 3 + [1] * 3)
