"""The causal vocoder: a stream cut anywhere equals the whole, at a constant size."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechstream.nn.flow_vocoder import NOISE_FRAMES, FlowVocoder
from speechstream.nn.vocoder_config import VocoderConfig
from speechstream.state import fields, from_bytes, nbytes, select, stack, to_bytes

CONFIG = VocoderConfig(
    n_mels=5,
    dim=16,
    sample_rate=4800,
    rates=(4, 3),
    kernels=(8, 5),
    block_kernels=(3, 5),
    dilations=(1, 2),
    source_kernels=(3, 5),
    harmonics=3,
    pitch_dim=6,
    pitch_layers=2,
)
HOP = CONFIG.frame_size


@pytest.fixture(scope="module", params=[4, 1], ids=["4 ahead", "1 ahead"])
def vocoder(request):
    torch.manual_seed(0)
    model = FlowVocoder(VocoderConfig(**{**CONFIG.to_dict(), "lookahead": request.param}))
    for p in model.parameters():
        with torch.no_grad():
            p.add_(0.05 * torch.randn_like(p))
    model.pitch.output.weight.data *= 100  # from no voice to a high one
    return model.eval().requires_grad_(False)


class Stream:
    def __init__(self, vocoder, count, seed):
        generator = torch.Generator().manual_seed(seed)
        self.vocoder, self.count, self.at = vocoder, count, 0
        self.mel = torch.randn(1, count, 5, generator=generator)
        self.state, self.samples = vocoder.init_state(1), []

    @property
    def left(self):
        return self.count - self.at

    def given(self, size):
        x = self.mel[:, self.at : self.at + size + self.vocoder.config.given_ahead]
        return F.pad(x, (0, 0, 0, size + self.vocoder.config.given_ahead - x.shape[1]), value=9.0)

    def sound(self):
        done = torch.cat([*self.samples, self.vocoder.finish(self.state)[0]])
        return done[self.vocoder.delay :][: self.count * HOP]


def advance(streams, size):
    vocoder = streams[0].vocoder
    batch = stack([s.state for s in streams])
    before = {name: a.clone() for name, a in fields(batch)}
    ahead = vocoder.config.given_ahead
    lengths = torch.tensor([min(max(s.left, 0), size + ahead) for s in streams])
    samples, after = vocoder.step(torch.cat([s.given(size) for s in streams]), batch, lengths)
    assert samples.shape == (len(streams), size * HOP)
    assert all(torch.equal(a, before[name]) for name, a in fields(batch))
    assert nbytes(after) == nbytes(batch)
    for i, s in enumerate(streams):
        s.samples.append(samples[i])
        s.state = select(after, i)
        s.at += size


@pytest.mark.parametrize("seed", range(3))
def test_streams_equal_the_whole(vocoder, seed):
    """Chunks of any frames, streams that begin and end when they like, some within a chunk and some with one."""
    rng = np.random.default_rng(seed)
    streams = [Stream(vocoder, int(n), i) for i, n in enumerate(rng.integers(1, 40, 4))]
    while any(s.left > 0 for s in streams):
        ready = [s for s in streams if s.left > 0 and rng.random() < 0.6]
        if ready:
            advance(ready, int(rng.choice([0, 1, 2, 7, min(s.left for s in ready)])))
    for s in streams:
        torch.testing.assert_close(s.sound(), vocoder(s.mel)[0], atol=1e-5, rtol=1e-5)
        assert s.state.frames.tolist() == [s.count]


def test_a_batch_of_whole_utterances_equals_each(vocoder):
    streams = [Stream(vocoder, n, n) for n in (3, 12, 7)]
    mel = torch.cat([F.pad(s.mel, (0, 0, 0, 12 - s.count), value=9.0) for s in streams])
    sound = vocoder(mel, torch.tensor([3, 12, 7]))
    for row, s in zip(sound, streams):
        torch.testing.assert_close(row[: s.count * HOP], vocoder(s.mel)[0], atol=1e-6, rtol=1e-5)
        assert not row[s.count * HOP :].any()


def test_it_looks_ahead_no_further_than_it_says(vocoder):
    """A change of a mel frame reaches nothing before its look-ahead and the few samples a window spreads."""
    s = Stream(vocoder, 30, 1)
    whole = vocoder(s.mel)[0]
    s.mel[:, 20] += 1.0
    changed = (vocoder(s.mel)[0] - whole).abs() > 0
    first = int(changed.float().argmax())
    assert (20 - vocoder.config.given_ahead) * HOP - 2 * vocoder.delay <= first < 20 * HOP
    assert changed[20 * HOP : 21 * HOP].all()


def test_a_long_stream_stays_exact(vocoder):
    """The phase of the harmonics and the turn of the noise, past the end of its table."""
    s = Stream(vocoder, NOISE_FRAMES * 2 + 9, 2)
    while s.left > 0:
        advance([s], 11)
    torch.testing.assert_close(s.sound(), vocoder(s.mel)[0], atol=1e-5, rtol=1e-5)


def test_a_state_is_a_value(vocoder):
    s = Stream(vocoder, 20, 3)
    advance([s], 6)
    kept = from_bytes(to_bytes(s.state), s.state)
    for name, a in fields(kept):
        assert np.array_equal(a, dict(fields(s.state))[name].numpy())


def test_wrong_input_is_refused(vocoder):
    ahead, state = vocoder.config.given_ahead, vocoder.init_state(1)
    for shape in ((1, 2, 5), (1, 9, 6)):
        with pytest.raises(ValueError, match=r"a step takes mel \(B, T \+ 4, 5\); got"):
            vocoder.step(torch.zeros(shape), state)
    _, ended = vocoder.step(torch.zeros(1, 3 + ahead, 5), state, torch.tensor([2]))
    with pytest.raises(ValueError, match="has ended"):
        vocoder.step(torch.zeros(1, 3 + ahead, 5), ended)
    assert not vocoder.finish(ended).any()
    assert vocoder(torch.zeros(2, 0, 5)).shape == (2, 0)


def test_gradients_reach_every_weight(vocoder):
    torch.manual_seed(1)
    model = FlowVocoder(vocoder.config)
    model.pitch.output.bias.data += 100
    model(torch.randn(2, 9, 5)).square().sum().backward()
    # the sines' gradient reaches the pitch, as its phase is a sum of what it says
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing


def test_configs_are_read_strictly():
    assert VocoderConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    assert (VocoderConfig().frame_size, VocoderConfig().given_ahead) == (480, 4)
    for change, message in [
        ({"loudness": 1}, "loudness is not known"),
        ({"dim": 0}, "sizes must be 1 to"),
        ({"dim": 6}, "dim must be a multiple of 4"),
        ({"rates": [4]}, "equally many"),
        ({"hop": 5}, "window must be 4 hops"),
        ({"lookahead": 99}, "lookahead must be 0 to 64"),
        ({"sample_rate": 1}, "sample_rate be 1000"),
        ({"rates": [16384, 16384]}, "a mel frame's samples times the harmonics 262144"),
    ]:
        with pytest.raises(ValueError, match=message):
            VocoderConfig.from_dict({**CONFIG.to_dict(), **change})
