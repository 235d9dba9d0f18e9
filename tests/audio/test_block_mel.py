"""Features in blocks against Whisper's own extractor."""

import numpy as np
import pytest
import soundfile as sf

transformers = pytest.importorskip("transformers")

from speechstream.audio.block_mel import BlockMel


def blocks(x, sizes, mels=80, block=100):
    features = BlockMel(mels, block)
    state, found, at, n = features.init_state(), [], 0, 0
    while at < len(x):
        size = sizes[n % len(sizes)]
        mel, state = features.step(x[at : at + size], state)
        assert mel.shape[1] % block == 0
        found.append(mel)
        at, n = at + size, n + 1
    return np.concatenate([*found, features.finish(state)], 1)


def theirs(x, mels=80):
    extractor = transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=8)
    found = extractor(x, sampling_rate=16_000, return_attention_mask=True)
    return found["input_features"][0][:, : int(found["attention_mask"].sum())]


@pytest.mark.parametrize("count", [1, 100, 201, 5_000, 16_000, 50_007])
def test_a_recording_is_heard_as_whisper_hears_it(fixtures_dir, count):
    x = sf.read(fixtures_dir / "austen_0870.flac", dtype="float32")[0][20_000 : 20_000 + count]
    expected = theirs(x)
    for sizes in ([count], [37, 1, 4000, 160]):
        got = blocks(x, sizes)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert not blocks(x[:0], [1]).size


def test_what_comes_later_is_not_known_yet():
    """A quiet beginning keeps its range until something louder is heard; from then on it is Whisper's."""
    x = np.random.default_rng(0).normal(size=40_000).astype(np.float32)
    x[:16_100] *= 1e-6
    got, expected = blocks(x, [1000]), theirs(x)
    np.testing.assert_allclose(got[:, 100:], expected[:, 100:], atol=1e-4)
    assert (got[:, :90] < expected[:, :90] - 0.1).all()
