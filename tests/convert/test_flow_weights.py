"""Weights of others' flow decoders: Qwen2.5-Omni's against transformers, CosyVoice 2's against its formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from speechstream.convert.flow import (
    cosyvoice2_weights,
    cosyvoice3_weights,
    load,
    qwen_config,
    qwen_speaker_config,
    qwen_speaker_weights,
    qwen_vocoder_config,
    qwen_vocoder_weights,
    qwen_weights,
)
from speechstream.errors import SpeechStreamError
from speechstream.nn.bigvgan import BigVgan
from speechstream.nn.ecapa import Ecapa
from speechstream.nn.flow import FlowDecoder
from speechstream.nn.flow_config import DiTConfig, EcapaConfig, FlowConfig, UNetConfig, WindowConfig
from speechstream.nn.flow_networks import visible

ENC_DIM, CODES = 5, 20


@pytest.fixture(scope="module", params=[(0, 2), (0, 1)], ids=str)
def qwen(request):
    """transformers' model of a small random size, and ours with its weights."""
    pytest.importorskip("transformers.models.qwen2_5_omni")
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniDiTConfig
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
        Qwen2_5OmniToken2WavDiTModel,
    )

    torch.manual_seed(0)
    config = Qwen2_5OmniDiTConfig(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=3,
        head_dim=8,
        ff_mult=2,
        emb_dim=12,
        block_size=4,
        look_ahead_layers=[1],
        look_backward_layers=list(request.param),
        repeats=2,
        num_embeds=CODES,
        mel_dim=10,
        enc_emb_dim=6,
        enc_dim=ENC_DIM,
        enc_channels=[8, 8, 8, 8, 24],
        enc_attention_channels=4,
        enc_res2net_scale=2,
        enc_se_channels=4,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    reference = Qwen2_5OmniToken2WavDiTModel(config).eval().requires_grad_(False)
    for p in reference.parameters():
        p.add_(0.15 * torch.randn_like(p))
    ours = qwen_config(config.to_dict(), points=5)
    decoder = load(FlowDecoder(ours), qwen_weights(reference.state_dict(), ours, ENC_DIM))
    return reference, decoder.requires_grad_(False)


@pytest.fixture(scope="module")
def voice(qwen):
    """Reference mel, the speaker's embedding, our vector of both and that of no speaker."""
    torch.manual_seed(1)
    mel, embedding = torch.randn(2, 30, 10), torch.randn(2, 6)
    encoder = qwen[0].input_embed.spk_encoder
    vector = torch.cat([encoder(mel), embedding], -1)
    null = torch.cat([encoder(torch.zeros_like(mel)), torch.zeros_like(embedding)], -1)
    return mel, embedding, vector, null


def test_qwen_speaker_encoder(qwen, voice):
    reference, _ = qwen
    config = qwen_speaker_config(reference.config.to_dict())
    encoder = load(Ecapa(config), qwen_speaker_weights(reference.state_dict()))
    expected = reference.input_embed.spk_encoder(voice[0])
    assert expected.std() > 0.05
    torch.testing.assert_close(encoder(voice[0]), expected, atol=1e-5, rtol=1e-5)
    assert qwen_speaker_config({}) == EcapaConfig()
    with pytest.raises(ValueError, match="must be .B, 9 or more, 10.; got .1, 8, 10."):
        encoder(torch.zeros(1, 8, 10))
    with pytest.raises(ValueError, match="last of channels must be the sum"):
        EcapaConfig(channels=(8, 8, 8, 8, 16))


@pytest.mark.parametrize("tokens", [1, 7, 16])
def test_qwen_velocity(qwen, voice, tokens):
    reference, decoder = qwen
    mel, embedding, vector, _ = voice
    torch.manual_seed(tokens)
    codes, x = torch.randint(CODES, (2, tokens)), torch.randn(2, 2 * tokens, 10)
    time = torch.tensor([0.37, 0.9])
    expected = reference(
        x, mel, embedding[:, None].expand(-1, 2 * tokens, -1), codes, time, apply_cfg=False
    )
    got = decoder.velocity(x, time, decoder.embed(codes), vector)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_qwen_sample(qwen, voice):
    """Ten points of time in its schedule, Kutta's rule, guidance; the look-ahead as its offline call has it."""
    reference, decoder = qwen
    mel, embedding, vector, null = voice
    codes = torch.randint(CODES, (2, 11), generator=torch.Generator().manual_seed(2))
    torch.manual_seed(3)
    noise = torch.randn(2, 22, 10)
    torch.manual_seed(3)
    expected = reference.sample(embedding, mel, codes, num_steps=5, guidance_scale=0.5)
    got = decoder(decoder.embed(codes), vector, null_speaker=null, noise=noise, full=True)
    torch.testing.assert_close(got.transpose(1, 2), expected, atol=1e-4, rtol=0)


def test_qwen_mask(qwen):
    reference, decoder = qwen
    difference = reference._create_block_diff(torch.zeros(1, 22, 32))[0, 0]
    at = torch.arange(22)
    for i, block in enumerate(reference.transformer_blocks):
        expected = (difference >= -block.look_backward_block) & (
            difference <= block.look_ahead_block
        )
        got = visible(at[:, None], at, decoder.config.windows, i)
        assert torch.equal(got, expected)


def test_qwen_streamed(qwen, voice):
    """In blocks, where nothing looks ahead further than one block: equal to its own whole."""
    _, decoder = qwen
    _, _, vector, null = voice
    codes = torch.randint(CODES, (2, 16), generator=torch.Generator().manual_seed(4))
    x = F.pad(decoder.embed(codes), (0, 0, 0, 4), value=9.0)
    state, mel = decoder.init_state(2, vector, 7, null), []
    for at in range(0, 32, 8):
        part = x[:, at : at + 12]
        y, state = decoder.step(part, state, lengths=torch.full((2,), min(12, 32 - at)))
        mel.append(y)
    whole = decoder(x[:, :32], vector, 7, null)
    torch.testing.assert_close(torch.cat(mel, 1), whole, atol=1e-5, rtol=1e-5)


def test_qwen_token2wav(qwen, voice):
    """Codes to samples, decoder and vocoder one after another, as transformers' whole model has them."""
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import (
        Qwen2_5OmniBigVGANConfig,
        Qwen2_5OmniToken2WavConfig,
    )
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniToken2WavModel

    reference, decoder = qwen
    mel, embedding, vector, null = voice
    small = Qwen2_5OmniBigVGANConfig(
        mel_dim=10,
        upsample_initial_channel=8,
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 2, 1]],
        upsample_rates=[5, 2],
        upsample_kernel_sizes=[11, 4],
    )
    whole = Qwen2_5OmniToken2WavModel(
        Qwen2_5OmniToken2WavConfig(
            dit_config=reference.config.to_dict(), bigvgan_config=small.to_dict()
        )
    ).eval()
    whole.code2wav_dit_model.load_state_dict(reference.state_dict())
    for p in whole.requires_grad_(False).code2wav_bigvgan_model.parameters():
        p.add_(0.15 * torch.randn_like(p))
    vocoder = BigVgan(qwen_vocoder_config(small.to_dict()))
    load(vocoder, qwen_vocoder_weights(whole.code2wav_bigvgan_model.state_dict()))
    codes = torch.randint(CODES, (2, 9), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(6)
    noise = torch.randn(2, 18, 10)
    torch.manual_seed(6)
    expected = whole(codes, embedding, mel, num_steps=5)
    got = vocoder(decoder(decoder.embed(codes), vector, null_speaker=null, noise=noise, full=True))
    assert expected.shape == (2, 180) and expected.std() > 0.01
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_the_defaults_are_qwens():
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniDiTConfig

    config = qwen_config(Qwen2_5OmniDiTConfig().to_dict())
    assert config == qwen_config({})
    assert (config.lookahead, config.layers, config.evaluations) == (24, 22, 36)
    assert config.dit == DiTConfig(rotary_heads=1)


MEL, DIM, HEADS, EACH, MIDDLE, TIME = 5, 16, 2, 2, 3, 20


def cosyvoice(seed=0):
    """Random weights of CosyVoice 2's estimator under its names."""
    g, found = torch.Generator().manual_seed(seed), {}

    def add(name, *shape, bias=True):
        found[name + ".weight"] = (
            torch.randn(*shape, generator=g) / max(shape[1:], default=1) ** 0.5
        )
        if bias:
            found[name + ".bias"] = 0.2 * torch.randn(shape[0], generator=g)

    add("time_mlp.linear_1", TIME, 4 * MEL)
    add("time_mlp.linear_2", TIME, TIME)
    blocks = [("down_blocks.0", 4 * MEL), *((f"mid_blocks.{i}", DIM) for i in range(MIDDLE))]
    for name, inputs in [*blocks, ("up_blocks.0", 2 * DIM)]:
        for n, size in (("block1", inputs), ("block2", DIM)):
            add(f"{name}.0.{n}.block.0", DIM, size, 3)
            add(f"{name}.0.{n}.block.2", DIM)
        add(f"{name}.0.mlp.1", DIM, TIME)
        add(f"{name}.0.res_conv", DIM, inputs, 1)
        for i in range(EACH):
            layer = f"{name}.1.{i}"
            add(f"{layer}.norm1", DIM)
            add(f"{layer}.norm3", DIM)
            for p in "qkv":
                add(f"{layer}.attn1.to_{p}", HEADS * 8, DIM, bias=False)
            add(f"{layer}.attn1.to_out.0", DIM, HEADS * 8)
            add(f"{layer}.ff.net.0.proj", 64, DIM)
            add(f"{layer}.ff.net.2", DIM, 64)
    for name in ("down_blocks.0.2", "up_blocks.0.2", "final_block.block.0"):
        add(name, DIM, DIM, 3)
    add("final_block.block.2", DIM)
    add("final_proj", MEL, DIM, 1)
    return found


def cosyvoice_velocity(w, x, mu, t, speaker, prompt, block):
    """Its formulas, frames last, every frame seeing all blocks up to its own."""

    def linear(name, x):
        return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))

    def conv(name, x):
        kernel = w[name + ".weight"]
        return F.conv1d(F.pad(x, (kernel.shape[2] - 1, 0)), kernel, w[name + ".bias"])

    def norm(name, x):
        return F.layer_norm(x, (DIM,), w[name + ".weight"], w[name + ".bias"])

    def part(name, x):
        return F.mish(norm(f"{name}.block.2", conv(f"{name}.block.0", x).mT).mT)

    def resnet(name, x):
        h = part(f"{name}.block1", x) + linear(f"{name}.mlp.1", F.mish(time))[..., None]
        return part(f"{name}.block2", h) + conv(f"{name}.res_conv", x)

    def transform(name, x):
        h = norm(f"{name}.norm1", x)
        q, k, v = (
            linear(f"{name}.attn1.to_{p}", h).unflatten(-1, (HEADS, 8)).transpose(1, 2)
            for p in "qkv"
        )
        score = (q @ k.mT / math.sqrt(8)).masked_fill(~mask, -torch.inf).softmax(-1)
        x = x + linear(f"{name}.attn1.to_out.0", (score @ v).transpose(1, 2).flatten(2))
        h = F.gelu(linear(f"{name}.ff.net.0.proj", norm(f"{name}.norm3", x)))
        return x + linear(f"{name}.ff.net.2", h)

    def whole(name, x):
        x = resnet(f"{name}.0", x).mT
        for i in range(EACH):
            x = transform(f"{name}.1.{i}", x)
        return x.mT

    half = 2 * MEL
    angle = 1000 * t[:, None] * torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    time = torch.cat([angle.sin(), angle.cos()], 1)
    time = linear("time_mlp.linear_2", F.silu(linear("time_mlp.linear_1", time)))
    at = torch.arange(x.shape[2]) // block
    mask = at[None] <= at[:, None]
    speakers = speaker[..., None].expand(-1, -1, x.shape[2])
    skip = whole("down_blocks.0", torch.cat([x, mu, speakers, prompt], 1))
    x = conv("down_blocks.0.2", skip)
    for i in range(MIDDLE):
        x = whole(f"mid_blocks.{i}", x)
    x = conv("up_blocks.0.2", whole("up_blocks.0", torch.cat([x, skip], 1)))
    return conv("final_proj", part("final_block", x))


def cosyvoice_config(left=50):
    return FlowConfig(
        n_mels=MEL,
        condition_dim=MEL,
        speaker_dim=MEL,
        prompt=True,
        windows=WindowConfig(4, left),
        unet=UNetConfig(DIM, MIDDLE, EACH, HEADS, 8, 64, 4 * MEL, TIME),
        guidance=0.7,
        steps=4,
    )


def test_cosyvoice_2(seed=0):
    torch.manual_seed(seed)
    weights, config = cosyvoice(seed), cosyvoice_config()
    decoder = load(FlowDecoder(config), cosyvoice2_weights(weights, config)).requires_grad_(False)
    x, mu, prompt = (torch.randn(2, MEL, 22) for _ in range(3))
    speaker, t = torch.randn(2, MEL), torch.tensor([0.3, 0.8])
    expected = cosyvoice_velocity(weights, x, mu, t, speaker, prompt, 4)
    got = decoder.velocity(x.mT, t, mu.mT, speaker, prompt.mT)
    torch.testing.assert_close(got.mT, expected, atol=1e-4, rtol=0)


def test_cosyvoice_2_streamed():
    """Euler over its cosine schedule with guidance, each chunk solved once, against its recomputed whole."""
    torch.manual_seed(1)
    weights, config = cosyvoice(1), cosyvoice_config()
    decoder = load(FlowDecoder(config), cosyvoice2_weights(weights, config)).requires_grad_(False)
    noise, mu, prompt = (torch.randn(1, MEL, 24) for _ in range(3))
    speaker = torch.randn(1, MEL)
    x = noise
    times = [1 - math.cos(math.pi / 2 * i / 4) for i in range(5)]
    for begin, end in zip(times, times[1:]):
        two = [torch.cat([p, torch.zeros_like(p)]) for p in (mu, speaker, prompt)]
        t = torch.full((2,), begin)
        v, null = cosyvoice_velocity(
            weights, x.repeat(2, 1, 1), two[0], t, two[1], two[2], 4
        ).chunk(2)
        x = x + (end - begin) * (1.7 * v - 0.7 * null)
    state, mel, at = decoder.init_state(1, speaker), [], 0
    for size in (4, 12, 8):
        part = slice(at, at + size)
        y, state = decoder.step(
            mu[..., part].mT, state, prompt[..., part].mT, noise=noise[..., part].mT
        )
        mel.append(y)
        at += size
    torch.testing.assert_close(torch.cat(mel, 1).mT, x, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_named():
    weights, config = cosyvoice(), cosyvoice_config()
    found = cosyvoice2_weights(weights, config)
    model = FlowDecoder(config)
    with pytest.raises(SpeechStreamError, match=r"network.last.conv.bias is missing in the check"):
        load(model, {k: v for k, v in found.items() if k != "network.last.conv.bias"})
    with pytest.raises(
        SpeechStreamError, match=r"extra is \[1\] in the checkpoint, missing by its"
    ):
        load(model, {**found, "extra": torch.zeros(1)})
    with pytest.raises(SpeechStreamError, match=r"lacks .*layers.0.k.weight"):
        cosyvoice2_weights(
            {k: v for k, v in weights.items() if k != "mid_blocks.0.1.0.attn1.to_k.weight"}, config
        )
    with pytest.raises(SpeechStreamError, match="these weights are a transformer's"):
        cosyvoice3_weights({}, config)
