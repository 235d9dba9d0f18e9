"""BigVGAN: transformers' numbers for the whole, and the whole's numbers for a stream cut anywhere."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechstream.convert.flow import load, qwen_vocoder_config, qwen_vocoder_weights
from speechstream.nn.bigvgan import BigVgan
from speechstream.nn.vocoder_config import BigVganConfig
from speechstream.state import fields, from_bytes, nbytes, select, stack, to_bytes

SMALL = dict(
    mel_dim=5,
    upsample_initial_channel=8,
    resblock_kernel_sizes=[3, 5],
    resblock_dilation_sizes=[[1, 2, 1], [1, 1, 2]],
    upsample_rates=[5, 2],
    upsample_kernel_sizes=[11, 4],
)
HOP = 10


@pytest.fixture(scope="module")
def pair():
    pytest.importorskip("transformers.models.qwen2_5_omni")
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
        Qwen2_5OmniBigVGANConfig,
    )
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
        Qwen2_5OmniToken2WavBigVGANModel,
    )

    torch.manual_seed(0)
    reference = Qwen2_5OmniToken2WavBigVGANModel(Qwen2_5OmniBigVGANConfig(**SMALL)).eval()
    for p in reference.requires_grad_(False).parameters():
        p.add_(0.15 * torch.randn_like(p))
    vocoder = BigVgan(qwen_vocoder_config(reference.config.to_dict()))
    load(vocoder, qwen_vocoder_weights(reference.state_dict()))
    return reference, vocoder.requires_grad_(False)


@pytest.fixture
def vocoder(pair):
    return pair[1]


def mels(count, seed, batch=1):
    """Logarithmic, some below what the network hears and some above."""
    generator = torch.Generator().manual_seed(seed)
    return 6 * torch.randn(batch, count, 5, generator=generator) - 4


@pytest.mark.parametrize("frames", [1, 2, 30])
def test_equal_to_transformers(pair, frames):
    reference, vocoder = pair
    mel = mels(frames, frames, batch=2)
    expected = reference(mel.mT)
    assert expected.std() > 0.02
    torch.testing.assert_close(vocoder(mel), expected, atol=1e-5, rtol=0)


def test_the_defaults_are_qwens():
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
        Qwen2_5OmniBigVGANConfig,
    )

    config = qwen_vocoder_config(Qwen2_5OmniBigVGANConfig().to_dict())
    assert config == BigVganConfig() == qwen_vocoder_config({})
    assert BigVganConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.frame_size == 240  # 12,000 samples a second from 50 mel frames


class Stream:
    def __init__(self, vocoder, count, seed, ahead):
        self.vocoder, self.count, self.at, self.ahead = vocoder, count, 0, ahead
        self.mel, self.state, self.samples = mels(count, seed), vocoder.init_state(1), []

    @property
    def left(self):
        return self.count - self.at

    def given(self, size):
        x = self.mel[:, self.at : self.at + size + self.ahead]
        return F.pad(x, (0, 0, 0, size + self.ahead - x.shape[1]), value=9.0)


def advance(streams, size):
    vocoder, ahead = streams[0].vocoder, streams[0].ahead
    batch = stack([s.state for s in streams])
    before = {name: a.clone() for name, a in fields(batch)}
    lengths = torch.tensor([min(s.left, size + ahead) for s in streams])
    mel = torch.cat([s.given(size) for s in streams])
    samples, after = vocoder.step(mel, batch, ahead, lengths)
    assert samples.shape == (len(streams), size * HOP)
    assert all(torch.equal(a, before[name]) for name, a in fields(batch))
    assert nbytes(after) == nbytes(batch)
    for i, s in enumerate(streams):
        s.samples.append(samples[i])
        s.state = select(after, i)
        s.at += size


@pytest.mark.parametrize("seed", range(3))
def test_streams_equal_the_whole(vocoder, seed):
    rng = np.random.default_rng(seed)
    reach = vocoder.config.reach
    streams = [Stream(vocoder, int(n), i, reach) for i, n in enumerate(rng.integers(1, 80, 4))]
    while any(s.left > 0 for s in streams):
        ready = [s for s in streams if s.left > 0 and rng.random() < 0.6]
        if ready:
            advance(ready, int(rng.choice([0, 1, 3, 12, 30])))
    for s in streams:
        done = torch.cat(s.samples)
        torch.testing.assert_close(done[: s.count * HOP], vocoder(s.mel)[0], atol=1e-5, rtol=1e-5)
        assert not done[s.count * HOP :].any()
        assert s.state.frames.tolist() == [s.count]


def test_with_less_ahead_the_signal_ends_after_it(vocoder):
    s = Stream(vocoder, 60, 4, ahead=4)
    while s.left > 0:
        at = s.at
        advance([s], 12)
        prefix = vocoder(s.mel[:, : at + 16])[0, at * HOP : (at + 12) * HOP]
        torch.testing.assert_close(s.samples[-1], prefix, atol=1e-5, rtol=1e-5)


def test_it_reaches_no_further_than_it_says(vocoder):
    reach, mel = vocoder.config.reach, mels(90, 5) * 0.3
    whole = vocoder(mel)[0]
    mel[:, 45] += 1.0
    changed = (vocoder(mel)[0] - whole).abs().view(90, HOP).amax(1).nonzero().flatten()
    assert 45 - reach <= int(changed[0]) < 45 < int(changed[-1]) <= 45 + reach
    # the filters have long tails of little weight: most of the reach is below rounding


def test_a_batch_of_whole_utterances_equals_each(vocoder):
    parts = [mels(n, n) for n in (5, 21, 9)]
    mel = torch.cat([F.pad(p, (0, 0, 0, 21 - p.shape[1]), value=9.0) for p in parts])
    for row, p in zip(vocoder(mel, torch.tensor([5, 21, 9])), parts):
        n = p.shape[1] * HOP
        torch.testing.assert_close(row[:n], vocoder(p)[0], atol=1e-5, rtol=1e-5)
        assert not row[n:].any()


def test_a_state_is_a_value(vocoder):
    s = Stream(vocoder, 20, 3, 4)
    advance([s], 6)
    for name, a in fields(from_bytes(to_bytes(s.state), s.state)):
        assert np.array_equal(a, dict(fields(s.state))[name].numpy())


def test_wrong_input_is_refused(vocoder):
    state = vocoder.init_state(1)
    for shape in ((1, 2, 5), (1, 9, 6)):
        with pytest.raises(ValueError, match=r"a step takes mel \(B, T \+ 4, 5\); got"):
            vocoder.step(torch.zeros(shape), state, 4)
    assert vocoder(torch.zeros(2, 0, 5)).shape == (2, 0)
    for change, message in [
        ({"loudness": 1}, "loudness is not known"),
        ({"dim": 6}, "dim must be a multiple of 64"),
        ({"rates": [4]}, "equally many"),
        ({"kernels": [5, 7, 4, 4, 4, 6]}, None),
        ({"kernels": [6, 7, 4, 4, 4, 4]}, "exceed its rate by an even number"),
        ({"block_kernels": [3, 7]}, "block_kernels must be odd"),
        ({"block_kernels": [3, 7, 10]}, "block_kernels must be odd"),
        ({"n_mels": 0}, "sizes must be 1 to"),
        ({"dilations": [[1]]}, "block_kernels must be odd"),
    ]:
        if message is None:
            BigVganConfig.from_dict({**BigVganConfig().to_dict(), **change})
            continue
        with pytest.raises(ValueError, match=message):
            BigVganConfig.from_dict({**BigVganConfig().to_dict(), **change})
