"""Codes to samples in any pieces, against the whole and against transformers."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers.models.qwen2_5_omni")

from speechstream import bundle
from speechstream.config import read
from speechstream.nn.flow import FlowDecoder
from speechstream.nn.flow_config import DiTConfig, FlowConfig, WindowConfig
from speechstream.nn.omni_config import OmniBundle
from speechstream.nn.token2wav import Token2Wav
from speechstream.state import nbytes
from tests.omni_tiny import made, theirs


@pytest.fixture(scope="module", params=["plain", "odd"])
def both(request, tmp_path_factory):
    """transformers' decoder, ours with all that the vocoder can look ahead to, and a speaker's vectors."""
    from safetensors.torch import load_file

    b = bundle.load(made(tmp_path_factory.mktemp("sound"), request.param))
    about = read(OmniBundle, b.config)
    c = about.network
    decoder = Token2Wav(c.flow, c.vocoder).eval().requires_grad_(False)
    decoder.load_state_dict(load_file(b.file("speech.safetensors")))
    vectors = load_file(b.file("speakers.safetensors"))
    return theirs(request.param), decoder, vectors["vectors"], vectors["nulls"]


def codes(n, batch=1, seed=0):
    return torch.randint(40, (batch, n), generator=torch.Generator().manual_seed(seed))


def streamed(decoder, given, sizes, *speaker):
    state, found, at = decoder.init_state(*speaker, 5), [], 0
    for n in sizes:
        last = at + n >= given.shape[1]
        x, state = decoder.step(given[:, at : at + n], state, last)
        found.append(x)
        at += n
    assert at >= given.shape[1]
    return torch.cat(found, 1)


@pytest.mark.parametrize("sizes", [[31], [1] * 31, [7, 0, 13, 20], [2, 9, 5, 5, 10]], ids=str)
def test_any_pieces_give_the_same_samples(both, sizes):
    _, decoder, vectors, nulls = both
    given = codes(31)
    whole = decoder(given, vectors[:1], nulls[:1], 5)
    c = decoder.flow.config
    assert whole.shape == (1, 31 * c.repeats * decoder.vocoder.config.frame_size)
    assert whole.std() > 0.01
    got = streamed(decoder, given, sizes, vectors[:1], nulls[:1])
    torch.testing.assert_close(got, whole, atol=1e-4, rtol=0)


def test_two_speakers_in_a_batch_are_each_alone(both):
    _, decoder, vectors, nulls = both
    given = codes(12, 2)
    got = streamed(decoder, given, [5, 7], vectors, nulls)
    for i in range(2):
        one = slice(i, i + 1)
        alone = streamed(decoder, given[one], [12], vectors[one], nulls[one])
        torch.testing.assert_close(got[one], alone, atol=1e-4, rtol=0)
    assert (got[0] - got[1]).abs().max() > 0.01


def test_the_speakers_and_the_whole_are_the_references(both):
    """From the checkpoint's own speakers, with the reference's solver and noise."""
    reference, _, vectors, nulls = both
    c = both[1].flow.config
    decoder = Token2Wav(replace(c, solver="rk4", steps=2), both[1].vocoder.config).eval()
    decoder.load_state_dict(both[1].state_dict())
    given = codes(9)
    for i, speaker in enumerate(reference.speaker_map.values()):
        torch.manual_seed(6)
        noise = torch.randn(1, 9 * c.repeats, c.n_mels)
        torch.manual_seed(6)
        expected = reference.token2wav(given, speaker["cond"], speaker["ref_mel"], num_steps=3)
        one = slice(i, i + 1)
        with torch.inference_mode():
            got = decoder(given, vectors[one], nulls[one], noise=noise, full=True)
        torch.testing.assert_close(got[0], expected, atol=1e-4, rtol=0)


def test_what_a_stream_remembers_does_not_grow(both):
    _, decoder, vectors, nulls = both
    state, sizes = decoder.init_state(vectors[:1], nulls[:1], 5), []
    for _ in range(14):
        _, state = decoder.step(codes(12), state)
        sizes.append(nbytes(state))
    assert len(set(sizes[6:])) == 1


def test_the_look_ahead_departs_little_from_the_offline_call():
    """A stream's next block is provisional where it is looked ahead to. With the released model's layers, at random."""
    windows = WindowConfig(24, 1, (0, 20), (10,))
    dit = DiTConfig(dim=32, layers=22, heads=2, head_dim=16, ff_dim=64, rotary_heads=1)
    config = FlowConfig(10, 12, 8, tokens=41, windows=windows, dit=dit, steps=4, guidance=0.5)
    torch.manual_seed(0)
    decoder = FlowDecoder(config).eval().requires_grad_(False)
    for p in decoder.parameters():
        p.add_(0.1 * torch.randn_like(p))
    speaker, null = torch.randn(1, 8), torch.zeros(1, 8)
    x = decoder.embed(codes(72))
    streamed = decoder(x, speaker, 3, null)
    whole = decoder(x, speaker, 3, null, full=True)
    departs = (streamed - whole).square().mean().sqrt() / whole.std()
    assert 0 < departs < 0.01
