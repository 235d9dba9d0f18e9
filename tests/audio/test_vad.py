"""Voice activity against the original wrapper's figures, on speech, silence and noise."""

import json
from pathlib import Path

import numpy as np
import pytest

from speechstream.audio import read
from speechstream.runtime.session import load_vad
from speechstream.state import select, stack, to_bytes


@pytest.fixture(scope="module")
def vad():
    return load_vad()


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    return read(fixtures_dir / "austen_0880.flac")[0]


def test_equals_the_original(vad, speech):
    golden = json.loads((Path(__file__).parent / "golden_vad.json").read_text())["probabilities"]
    np.testing.assert_allclose(vad(speech)[: len(golden)], golden, atol=5e-5)


def test_speech_silence_and_noise(vad, fixtures_dir):
    rng = np.random.default_rng(0)
    for noise in (0.0, 0.001, 0.01, 0.1):
        assert vad((noise * rng.standard_normal(80_000)).astype(np.float32)).max() < 0.5
    for entry in json.loads((fixtures_dir / "transcripts.json").read_text()):
        p = vad(read(fixtures_dir / entry["file"])[0])
        times = np.array([(w["start"], w["end"]) for w in entry["words"]])
        middle = (np.arange(len(p)) + 0.5) * 0.032
        spoken = ((middle[:, None] > times[:, 0]) & (middle[:, None] < times[:, 1])).any(axis=1)
        assert (p[spoken] > 0.5).mean() > 0.85
        quiet = (middle < times[0, 0] - 0.1) | (middle > times[-1, 1] + 0.3)
        assert not quiet.any() or (p[quiet] > 0.5).mean() < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_any_splitting_gives_the_same_probabilities(vad, speech, seed):
    rng = np.random.default_rng(seed)
    x = np.stack([speech[:20_000], speech[10_000:30_000]])
    state, parts, position = vad.init_state(2), [], 0
    while position < x.shape[1]:
        size = int(rng.choice([0, 1, 100, 511, 512, 513, 3000]))
        p, state = vad.step(x[:, position : position + size], state)
        parts.append(p)
        position += size
    parts.append(vad.finish(state))
    np.testing.assert_allclose(np.concatenate(parts, axis=1), vad(x), atol=1e-6)


def test_unsynchronised_streams_in_one_batch(vad, speech):
    a, b = speech[:8000], speech[8000:16000]
    p, first = vad.step(a[None, :300], vad.init_state())
    assert p.shape == (1, 0)
    batch = stack([first, vad.init_state()])
    kept = to_bytes(batch)
    p, after = vad.step(np.stack([a[300:1000], b[:700]]), batch)
    assert to_bytes(batch) == kept
    assert list(after.windows) == [1, 1]
    p2, last = vad.step(np.stack([a[1000:1030], b[700:730]]), after)
    assert list(last.windows - after.windows) == [1, 0] and np.isnan(p2[1, 0])
    rest, _ = vad.step(a[None, 1030:], select(last, 0))
    np.testing.assert_allclose(np.concatenate([p[0], p2[0], rest[0]]), vad(a)[:15], atol=1e-6)
    end = vad.finish(stack([vad.init_state(), select(last, 1)]))
    assert end.shape == (2, 1) and np.isnan(end[0, 0])
    np.testing.assert_allclose(end[1, 0], vad(b[:730])[1], atol=1e-6)


def test_shapes(vad):
    assert vad(np.zeros(0, np.float32)).shape == (0,)
    assert vad(np.zeros(513, np.float32)).shape == (2,)
    with pytest.raises(ValueError, match="expected a block of shape"):
        vad.step(np.zeros(512, np.float32), vad.init_state())
