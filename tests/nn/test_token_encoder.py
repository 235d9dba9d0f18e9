"""The encoder of speech tokens and the vocoder that looks both ways: a stream cut anywhere equals the whole."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from speechstream.nn.hift import HiftVocoder
from speechstream.nn.token_config import TokenEncoderConfig
from speechstream.nn.token_encoder import TokenEncoder
from speechstream.nn.vocoder_config import HiftConfig
from speechstream.state import nbytes, select, stack

TOKENS = TokenEncoderConfig(
    vocab_size=50,
    input_dim=16,
    dim=16,
    heads=2,
    ff_dim=24,
    layers=2,
    up_layers=1,
    lookahead_dim=12,
    n_mels=5,
    speaker_dim=6,
    block=5,
    left_blocks=2,
)
PLAIN = TokenEncoderConfig(
    vocab_size=50, input_dim=5, dim=2, heads=1, layers=0, up_layers=0, n_mels=5, block=5
)
HIFT = HiftConfig(
    n_mels=5,
    dim=16,
    sample_rate=2400,
    rates=(4, 3),
    kernels=(8, 5),
    block_kernels=(3, 5),
    dilations=(1, 2),
    source_kernels=(3, 5),
    harmonics=3,
    pitch_dim=6,
)


def weights(module, spread=0.2):
    generator = torch.Generator().manual_seed(0)
    for p in module.parameters():
        with torch.no_grad():
            p.add_(spread * torch.randn(p.shape, generator=generator))
    return module.eval().requires_grad_(False)


class Run:
    """One stream of a module with `step`, its inputs, and how much of them it has been given."""

    def __init__(self, module, inputs, ahead, unit):
        self.module, self.inputs, self.ahead, self.unit = module, inputs, ahead, unit
        self.at, self.state, self.out = 0, module.init_state(1), []

    @property
    def left(self):
        return self.inputs.shape[1] - self.at

    def given(self, size):
        x = self.inputs[:, self.at : self.at + size + self.ahead]
        fill = size + self.ahead - x.shape[1]
        return F.pad(x, (0, fill) if x.ndim == 2 else (0, 0, 0, fill), value=9)


def advance(runs, size):
    """A step of these streams in one batch."""
    module, ahead = runs[0].module, runs[0].ahead
    lengths = torch.tensor([min(r.left, size + ahead) for r in runs])
    batch = stack([r.state for r in runs])
    y, after = module.step(torch.cat([r.given(size) for r in runs]), batch, lengths)
    assert nbytes(after) == nbytes(batch)
    for i, r in enumerate(runs):
        r.out.append(y[i, : r.left * r.unit])
        r.state, r.at = select(after, i), r.at + size


def check(module, make, ahead, unit, block, seed):
    rng = np.random.default_rng(seed)
    runs = [Run(module, make(int(n)), ahead, unit) for n in rng.integers(1, 60, 4)]
    while any(r.left > 0 for r in runs):
        ready = [r for r in runs if r.left > 0 and rng.random() < 0.6]
        if ready:
            advance(ready, block * int(rng.integers(1, 4)))
    for r in runs:
        whole = module(r.inputs)[0]
        assert whole.std() > 1e-3
        torch.testing.assert_close(torch.cat(r.out), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", [TOKENS, PLAIN], ids=["layers", "convolutions"])
def test_token_streams_equal_the_whole(config, seed):
    """Chunks of any blocks, streams that begin and end when they like."""
    torch.manual_seed(seed)
    encoder = weights(TokenEncoder(config))
    check(encoder, lambda n: torch.randint(50, (1, n)), 3, 2, 5, seed)


@pytest.mark.parametrize("seed", range(3))
def test_sound_streams_equal_the_whole(seed):
    """Chunks of any frames; the phase of the source goes on."""
    torch.manual_seed(seed)
    vocoder = weights(HiftVocoder(HIFT), 0.05)
    vocoder.pitch.output.weight.data *= 100
    check(
        vocoder,
        lambda n: torch.randn(1, n, 5),
        HIFT.given_ahead,
        HIFT.frame_size,
        1 + 4 * seed,
        seed,
    )


def test_a_sample_depends_on_no_more_than_is_said():
    """A change of one frame reaches `reach` frames and, but for the phase, which goes on for ever, none further back."""
    torch.manual_seed(0)
    vocoder = weights(HiftVocoder(HIFT), 0.05)
    mel = torch.randn(1, 80, 5)
    other = mel.clone()
    other[0, 50] += 1
    off = (vocoder(mel) - vocoder(other)).abs()[0] > 0
    first = int(off.nonzero()[0]) / HIFT.frame_size
    assert 50 - HIFT.reach <= first < 50 - 5


def test_steps_that_do_not_fit_are_refused():
    encoder, vocoder = TokenEncoder(TOKENS), HiftVocoder(HIFT)
    with pytest.raises(ValueError, match="a multiple of 5 tokens and 3"):
        encoder.step(torch.zeros(1, 7, dtype=torch.int64), encoder.init_state(1))
    short = torch.zeros(1, 8, dtype=torch.int64)
    _, state = encoder.step(short, encoder.init_state(1), torch.tensor([4]))
    with pytest.raises(ValueError, match="has ended"):
        encoder.step(short, state)
    with pytest.raises(ValueError, match="a step takes mel"):
        vocoder.step(torch.zeros(1, 3, 5), vocoder.init_state(1))


def test_configs_are_read_strictly():
    for config in (TOKENS, PLAIN, HIFT):
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (HiftConfig().frame_size, HiftConfig().reach) == (480, 22)
    for kind, change, message in [
        (TOKENS, {"loudness": 1}, "loudness is not known"),
        (TOKENS, {"heads": 3}, "multiple of heads"),
        (TOKENS, {"up_layers": 0}, "go together"),
        (TOKENS, {"dim": 1 << 14, "left_blocks": 1 << 14}, "take fewer left_blocks"),
        (PLAIN, {"n_mels": 6}, "input_dim must be n_mels"),
        (HIFT, {"kernels": (8, 4)}, "as far back as ahead"),
        (HIFT, {"hop": 5}, "window must be 4 hops"),
    ]:
        with pytest.raises(ValueError, match=message):
            type(kind).from_dict({**kind.to_dict(), **change})
