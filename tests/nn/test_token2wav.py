"""Codes to samples in any pieces, against the whole and against transformers."""

import pytest
import torch

pytest.importorskip("transformers.models.qwen2_5_omni")

from speechstream import bundle
from speechstream.config import read
from speechstream.nn.omni_config import OmniBundle
from speechstream.nn.token2wav import Token2Wav
from tests.omni_tiny import SIZES, made, theirs


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
    name = "plain" if reference is theirs("plain") else "odd"
    assert name in SIZES
    c = both[1].flow.config
    from dataclasses import replace

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
