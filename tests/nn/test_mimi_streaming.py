"""Mimi and its transformer: a stream cut anywhere equals the whole, for streams that began at different times."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from speechstream.nn.mimi import Mimi, MimiConfig, overlap_add
from speechstream.nn.seanet import (
    DownConv1d,
    SEANetConfig,
    SEANetDecoder,
    SEANetEncoder,
    Tails,
    UpConv1d,
)
from speechstream.nn.transformer import CausalTransformer, TransformerConfig, rotary_table
from speechstream.state import flatten, from_bytes, put, select, stack, to_bytes

CONFIG = MimiConfig(
    sample_rate=480,
    seanet=SEANetConfig(dim=16, filters=2, ratios=(4, 3, 2), residual_layers=2),
    transformer=TransformerConfig(
        dim=16, layers=2, heads=2, ff_dim=24, left_context=9, layer_scale=0.5
    ),
    n_codebooks=5,
    codebook_size=32,
    code_dim=8,
)
FRAME = CONFIG.frame_size


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return Mimi(CONFIG).eval().requires_grad_(False)


def splits(total, seed):
    """Random block lengths, some of them 0 and 1, that add up to `total`."""
    rng = np.random.default_rng(seed)
    sizes = [0, 1]
    while sum(sizes) < total:
        sizes.append(int(rng.integers(0, 14)))
    sizes[-1] -= sum(sizes) - total
    return sizes


@pytest.mark.parametrize("seed", range(4))
def test_steps_equal_the_whole(codec, seed):
    torch.manual_seed(seed)
    frames = 40  # 80 frames of the transformer, whose context is 9
    audio = torch.randn(2, 1, frames * FRAME)
    latent, codes = codec.latent(audio), codec.encode(audio)
    decoded = codec.decode(codes)
    encoder, decoder = codec.init_encoder_state(2), codec.init_decoder_state(2)
    latents, coded, sound, at = [], [], [], 0
    for size in splits(frames, seed):
        block = audio[..., at * FRAME : (at + size) * FRAME]
        before = encoder
        new_codes, encoder = codec.encode_step(block, encoder)
        if size:
            latents.append(codec.latent_step(block, before)[0])
        new_sound, decoder = codec.decode_step(codes[..., at : at + size], decoder)
        coded.append(new_codes)
        sound.append(new_sound)
        at += size
    torch.testing.assert_close(torch.cat(latents, 1), latent, atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.cat(coded, -1), codes)
    torch.testing.assert_close(torch.cat(sound, -1), decoded, atol=1e-5, rtol=1e-5)
    assert encoder.frames.tolist() == decoder.transformer.frames.div(2).tolist() == [frames, frames]


def test_unsynchronised_streams_share_a_batch(codec):
    torch.manual_seed(5)
    audio = torch.randn(3, 1, 30 * FRAME)
    codes = codec.encode(audio)
    decoded, latent = codec.decode(codes), codec.latent(audio)
    ages = (0, 7, 19)
    enc = [
        codec.encode_step(audio[i : i + 1, :, : n * FRAME], codec.init_encoder_state())[1]
        for i, n in enumerate(ages)
    ]
    dec = [
        codec.decode_step(codes[i : i + 1, :, :n], codec.init_decoder_state())[1]
        for i, n in enumerate(ages)
    ]
    enc, dec = stack(enc), stack(dec)
    for step in range(11):
        at = [n + step for n in ages]
        x, enc = codec.latent_step(
            torch.stack([audio[i, :, n * FRAME : (n + 1) * FRAME] for i, n in enumerate(at)]), enc
        )
        y, dec = codec.decode_step(
            torch.stack([codes[i, :, n : n + 1] for i, n in enumerate(at)]), dec
        )
        for i, n in enumerate(at):
            torch.testing.assert_close(x[i, 0], latent[i, n], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                y[i], decoded[i, :, n * FRAME : (n + 1) * FRAME], atol=1e-5, rtol=1e-5
            )


def test_a_state_is_a_value(codec):
    torch.manual_seed(6)
    codes = torch.randint(CONFIG.codebook_size, (2, CONFIG.n_codebooks, 6))
    _, state = codec.decode_step(codes, codec.init_decoder_state(2))
    kept = {name: a.clone() for name, a in flatten(state).items()}
    one, _ = codec.decode_step(codes[..., :2], state)
    again, _ = codec.decode_step(codes[..., :2], from_bytes_torch(to_bytes(state), state))
    assert torch.equal(one, again)
    assert all(torch.equal(kept[name], a) for name, a in flatten(state).items())
    swapped = put(state, [0, 1], select(state, [1, 0]))
    other, _ = codec.decode_step(codes[[1, 0], :, :2], swapped)
    torch.testing.assert_close(other[[1, 0]], one, atol=1e-6, rtol=1e-6)


def from_bytes_torch(data, like):
    from speechstream.state import unflatten

    arrays = {name: torch.from_numpy(a) for name, a in flatten(from_bytes(data, like)).items()}
    return unflatten(like, arrays)


def test_the_end_is_filled_up_and_the_wrong_shape_refused(codec):
    audio = torch.randn(1, 1, 2 * FRAME + 1)
    assert codec.encode(audio).shape == (1, CONFIG.n_codebooks, 3)
    assert codec(audio).shape == audio.shape
    assert codec.encode(audio[..., :0]).shape == (1, CONFIG.n_codebooks, 0)
    with pytest.raises(ValueError, match="multiple of 48 samples"):
        codec.encode_step(audio, codec.init_encoder_state())
    with pytest.raises(ValueError, match="1 to 5 levels"):
        codec.decode(torch.zeros(1, 6, 2, dtype=torch.int64))


def test_the_defaults_are_kyutais():
    config = MimiConfig()
    assert (config.frame_size, config.sample_rate / config.frame_size) == (1920, 12.5)
    assert config.seanet.hop == 960 and config.n_codebooks == 32
    assert MimiConfig.from_dict(config.to_dict()) == config


def test_transposed_convolution_equals_torchs():
    torch.manual_seed(7)
    weight, bias = torch.randn(6, 4, 10), torch.randn(4)
    layer = UpConv1d(6, 4, 5)
    layer.weight.data, layer.bias.data = layer.pack_weight(weight), bias
    x = torch.randn(2, 6, 9)
    whole = F.conv_transpose1d(x, weight, bias, stride=5)[..., :45]
    first, x = Tails(torch.zeros(2, layer.tail_size)), x.transpose(1, 2)
    a = layer.step(x[:, :4], first)
    b = layer.step(x[:, 4:], Tails(first.pack()))
    torch.testing.assert_close(torch.cat([a, b], 1).transpose(1, 2), whole)


def test_strided_convolution_equals_torchs():
    torch.manual_seed(9)
    weight, bias = torch.randn(4, 6, 10), torch.randn(4)
    layer = DownConv1d(6, 4, 5)
    layer.weight.data, layer.bias.data = layer.pack_weight(weight), bias
    x = torch.randn(2, 6, 45)
    whole = F.conv1d(F.pad(x, (5, 0)), weight, bias, stride=5)
    first, x = Tails(torch.zeros(2, layer.tail_size)), x.transpose(1, 2)
    a = layer.step(x[:, :20], first)
    b = layer.step(x[:, 20:], Tails(first.pack()))
    torch.testing.assert_close(torch.cat([a, b], 1).transpose(1, 2), whole)


def test_seanet_shapes():
    config = SEANetConfig(dim=8, filters=2, ratios=(4, 3))
    audio = torch.randn(2, 1, 12 * 5)
    frames = SEANetEncoder(config)(audio)
    assert frames.shape == (2, 8, 5)
    assert SEANetDecoder(config)(frames).shape == audio.shape


def test_attention_against_a_plain_mask():
    """The gathered windows give what a dense band mask gives."""
    torch.manual_seed(8)
    config = TransformerConfig(
        dim=16, layers=1, heads=2, ff_dim=16, left_context=5, layer_scale=1.0
    )
    model = CausalTransformer(config).eval().requires_grad_(False)
    x = torch.randn(2, 23, 16)
    layer, at = model.layers[0], torch.arange(23)
    cos, sin = rotary_table(at, 8, config.max_period)
    q, k, v = layer.project(x, cos, sin)
    distance = at[:, None] - at
    mask = (distance >= 0) & (distance < 5)
    weights = ((q @ k.transpose(-1, -2)) / math.sqrt(8)).masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close(model(x), layer.finish(x, weights @ v), atol=1e-5, rtol=1e-5)


def test_rotation_stays_exact_after_an_hour():
    positions = torch.tensor([0, 1, 255, 256, 90_000, 2_000_000])
    cos, sin = rotary_table(positions, 64, 10_000.0)
    angle = positions.double()[:, None] * 10_000.0 ** (-2 * torch.arange(32).double() / 64)
    assert (cos - angle.cos()).abs().max() < 2e-3 and (sin - angle.sin())[:5].abs().max() < 2e-4


def test_gradients_reach_every_weight(codec):
    model = Mimi(CONFIG)
    latent = model.latent(torch.randn(1, 1, 4 * FRAME))
    tail = latent.new_zeros(1, 2, 16)
    x, _ = overlap_add(
        model.quantizer.acoustic(latent)[0] + model.quantizer.semantic(latent)[0],
        model.upsample,
        tail,
    )
    model.decoder(model.decoder_transformer(x).transpose(1, 2)).square().sum().backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None and "input_proj" not in n]
    assert not missing
