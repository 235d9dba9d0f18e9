import numpy as np
import pytest

from speechstream.audio.nemo_mel import NemoMel, NemoMelConfig, mel_filters


def test_filters_equal_librosa():
    librosa = pytest.importorskip("librosa", reason="the reference for mel filters")
    for features, n_fft, low, high in (
        (80, 512, 0.0, 8000.0),
        (128, 512, 0.0, 8000.0),
        (40, 1024, 60.0, 7000.0),
    ):
        theirs = librosa.filters.mel(sr=16000, n_fft=n_fft, n_mels=features, fmin=low, fmax=high)
        np.testing.assert_allclose(
            mel_filters(features, n_fft, 16000, low, high), theirs, atol=1e-6
        )


def test_frame_equals_its_formula():
    """One frame written out: pre-emphasis, the window around sample 160 m, a plain Fourier sum, filters, logarithm."""
    config = NemoMelConfig(n_mels=20)
    x = np.random.RandomState(0).standard_normal(2000)
    y = x - 0.97 * np.concatenate([[0], x[:-1]])
    m, n = 5, np.arange(400)
    cut = y[160 * m - 200 : 160 * m + 200] * (0.5 - 0.5 * np.cos(2 * np.pi * n / 399))
    bins = np.arange(257)[:, None]
    power = np.abs((cut * np.exp(-2j * np.pi * bins * n / 512)).sum(1)) ** 2
    expected = np.log(mel_filters(20, 512, 16000, 0.0, 8000.0) @ power + 2.0**-24)
    np.testing.assert_allclose(NemoMel(config)(x[None])[0, :, m], expected, atol=1e-4)
    config = NemoMelConfig(n_mels=20, mean=-12.0, deviation=4.0)
    np.testing.assert_allclose(NemoMel(config)(x[None])[0, :, m], (expected + 12) / 4, atol=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 161, 399, 1000, 4807])
def test_stream_equals_offline(samples):
    mel, random = NemoMel(NemoMelConfig(n_mels=12)), np.random.RandomState(samples)
    x = random.standard_normal((2, samples)).astype(np.float32)
    state, parts = mel.init_state(2), []
    for block in np.split(x, sorted(random.randint(0, samples + 1, 9)), axis=1):
        y, state = mel.step(block, state)
        parts.append(y)
    got = np.concatenate([*parts, mel.finish(state)], axis=2)
    assert got.shape == (2, 12, samples // 160)
    np.testing.assert_allclose(got, mel(x), atol=1e-5)


def test_per_feature_normalisation():
    mel = NemoMel(NemoMelConfig(n_mels=12, normalize="per_feature"))
    y = mel(np.random.RandomState(1).standard_normal((1, 8000)))
    np.testing.assert_allclose(y.mean(2), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(2, ddof=1), 1, atol=1e-3)
    with pytest.raises(ValueError, match="cannot be streamed"):
        mel.step(np.zeros((1, 160)), mel.init_state())
    with pytest.raises(ValueError, match="at least 2 frames"):
        mel(np.zeros((1, 200)))


def test_config_errors():
    for bad in ({"hop": 500}, {"window": 600}, {"normalize": "global"}, {"deviation": 0.0}):
        with pytest.raises(ValueError, match="need|must"):
            NemoMelConfig(**bad)
