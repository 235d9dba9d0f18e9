"""Log-mel features against librosa, however the samples are cut and whoever shares the batch."""

import librosa
import numpy as np
import pytest

from speechstream.audio import LogMel, read
from speechstream.audio.features import HOP_LENGTH, LOG_FLOOR, N_FFT, mel_filters
from speechstream.state import select, stack, to_bytes


def reference(x, mels, floor=LOG_FLOOR):
    """librosa's power mel spectrogram with zeros around the signal, in Whisper's logarithmic scale."""
    mel = librosa.feature.melspectrogram(
        y=x,
        sr=16_000,
        n_fft=N_FFT,
        hop_length=HOP_LENGTH,
        n_mels=mels,
        center=True,
        pad_mode="constant",
        power=2.0,
    )
    return (np.maximum(np.log10(np.maximum(mel, 1e-10)), floor) + 4) / 4


@pytest.mark.parametrize("mels", [40, 80, 128])
def test_filters_are_librosas(mels):
    expected = librosa.filters.mel(sr=16_000, n_fft=N_FFT, n_mels=mels)
    np.testing.assert_allclose(mel_filters(mels), expected, atol=1e-7)


@pytest.mark.parametrize("mels", [80, 128])
def test_equals_librosa_on_speech(mels, fixtures_dir):
    x = read(fixtures_dir / "austen_0880.flac")[0]
    got, expected = LogMel(mels)(x[None])[0], reference(x, mels)
    assert got.dtype == np.float32
    # librosa fills the end with zeros; of n samples the frames centred up to n - 200 need none of them
    assert got.shape[1] == (len(x) - N_FFT // 2) // HOP_LENGTH + 1 <= expected.shape[1]
    np.testing.assert_allclose(got, expected[:, : got.shape[1]], atol=2e-5)


def test_the_dynamic_range_has_a_fixed_floor():
    x = np.zeros((1, 4000), np.float32)
    np.testing.assert_array_equal(LogMel()(x), np.float32((LOG_FLOOR + 4) / 4))
    x[0, 2000] = 1.0  # a click leaves the frames that do not see it where they were
    mel = LogMel()(x)[0]
    assert (mel[:, :11] == np.float32((LOG_FLOOR + 4) / 4)).all() and (mel[:, 12] > -0.5).all()


@pytest.mark.parametrize("seed", range(4))
def test_any_splitting_gives_the_same_frames(seed):
    rng, features = np.random.default_rng(seed), LogMel()
    x = rng.standard_normal((2, int(rng.integers(1, 9000)))).astype(np.float32)
    state, parts, at = features.init_state(2), [], 0
    while at < x.shape[1]:
        size = int(rng.choice([0, 1, 159, 160, 161, 400, 2000]))
        mel, state = features.step(x[:, at : at + size], state)
        parts.append(mel)
        at += size
    np.testing.assert_allclose(np.concatenate(parts, axis=2), features(x), atol=1e-6)
    assert state.frames.tolist() == [features(x).shape[2]] * 2


def test_unsynchronised_streams_in_one_batch():
    rng, features = np.random.default_rng(7), LogMel()
    x = rng.standard_normal((3, 6000)).astype(np.float32)
    heads, got, states = [0, 333, 1001], [], []
    for b, head in enumerate(heads):
        mel, state = features.step(x[b : b + 1, :head], features.init_state())
        got.append([mel[0]])
        states.append(state)
    batch = stack(states)
    for size in (0, 1, 100, 60, 161, 1900):
        before, kept = batch, to_bytes(batch)
        mel, batch = features.step(
            np.stack([x[b, heads[b] : heads[b] + size] for b in range(3)]), before
        )
        assert to_bytes(before) == kept
        heads = [h + size for h in heads]
        for b, n in enumerate(batch.frames - before.frames):
            got[b].append(mel[b, :, :n])
            assert np.isnan(mel[b, :, n:]).all() and np.isfinite(mel[b, :, :n]).all()
    for b, head in enumerate(heads):
        got[b].append(features.step(x[b : b + 1, head:], select(batch, b))[0][0])
        np.testing.assert_allclose(
            np.concatenate(got[b], axis=1), features(x[b : b + 1])[0], atol=1e-6
        )


def test_wrong_blocks_are_refused():
    features = LogMel()
    for block in (np.zeros(160, np.float32), np.zeros((2, 160), np.float32)):
        with pytest.raises(ValueError, match=r"expected a block of shape \(1, n\)"):
            features.step(block, features.init_state())
