"""CosyVoice 3's vocoder: its weights, against its formulas over whole utterances with torch's own Fourier transforms."""

import math

import pytest
import torch
import torch.nn.functional as F

from speechstream.convert.flow import cosyvoice_vocoder_weights, load
from speechstream.errors import SpeechStreamError
from speechstream.nn.flow_vocoder import FlowVocoder
from speechstream.nn.vocoder_config import VocoderConfig

CONFIG = VocoderConfig(n_mels=6, dim=32, pitch_dim=12, sample_rate=24_000)
PITCH_BIAS = (2.0, -5.0)  # so that the random weights give voiced frames and unvoiced ones
STRIDES = (15, 3, 1)  # spectra of the source to a feature, after each rate


def checkpoint(seed=0):
    """Random weights under its names; weight norms as torch's parametrizations or its older form keep them."""
    g, found = torch.Generator().manual_seed(seed), {}

    def add(name, out, inputs, kernel, normed=True, size=1.0):
        weight = torch.randn(out, inputs, kernel, generator=g) * size / (inputs * kernel) ** 0.5
        found[name + ".bias"] = 0.1 * torch.randn(out, generator=g)
        if not normed:
            found[name + ".weight"] = weight
            return
        new = "parametrizations.weight.original{}"
        gain, direction = (new.format(0), new.format(1)) if seed else ("weight_g", "weight_v")
        found[f"{name}.{direction}"] = 3 * weight
        found[f"{name}.{gain}"] = weight.norm(dim=(1, 2), keepdim=True)

    def block(name, width, kernel):
        for j in range(3):
            for n in (1, 2):
                add(f"{name}.convs{n}.{j}", width, width, kernel)
                alpha = 0.5 + torch.rand(width, generator=g)
                found[f"{name}.activations{n}.{j}.alpha"] = alpha

    add("conv_pre", 32, 6, 5)
    for i, (kernel, stride) in enumerate(zip(CONFIG.kernels, STRIDES)):
        width = 32 // 2 ** (i + 1)
        add(f"ups.{i}", width, 2 * width, kernel)
        add(f"source_downs.{i}", width, 18, 2 * stride if stride > 1 else 1, normed=False)
        block(f"source_resblocks.{i}", width, CONFIG.source_kernels[i])
        for j, size in enumerate(CONFIG.block_kernels):
            block(f"resblocks.{3 * i + j}", width, size)
    add("conv_post", 18, 4, 7, size=0.1)
    for i in range(5):
        add(f"f0_predictor.condnet.{2 * i}", 12, 12 if i else 6, 3 if i else 4)
    found["f0_predictor.classifier.weight"] = 15 * torch.randn(1, 12, generator=g)
    found["f0_predictor.classifier.bias"] = torch.tensor([PITCH_BIAS[seed]])
    found["m_source.l_linear.weight"] = torch.randn(1, 9, generator=g)
    found["m_source.l_linear.bias"] = torch.zeros(1)
    return found


def weight(w, name):
    for gain, direction in (
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ("weight_g", "weight_v"),
    ):
        if f"{name}.{gain}" in w:
            return torch._weight_norm(w[f"{name}.{direction}"], w[f"{name}.{gain}"], 0)
    return w[name + ".weight"]


def reference(w, mel, noise):
    """The formulas of the paper in its causal form, for mel (1, 6, T) and noise (1, T * 480, 9)."""

    def conv(name, x, left, right=0, **options):
        kernel, bias = weight(w, name).to(x.dtype), w[name + ".bias"].to(x.dtype)
        return F.conv1d(F.pad(x, (left, right)), kernel, bias, **options)

    def block(name, x, kernel):
        for j, dilation in enumerate((1, 3, 5)):
            y = x
            for n, d in ((1, dilation), (2, 1)):
                a = w[f"{name}.activations{n}.{j}.alpha"][:, None]
                y = y + torch.sin(a * y) ** 2 / (a + 1e-9)
                y = conv(f"{name}.convs{n}.{j}", y, (kernel - 1) * d, dilation=d)
            x = x + y
        return x

    h = F.elu(conv("f0_predictor.condnet.0", mel.double(), 0, 3))
    for i in range(1, 5):
        h = F.elu(conv(f"f0_predictor.condnet.{2 * i}", h, 2))
    hz = F.linear(h.mT, *(w[f"f0_predictor.classifier.{p}"].double() for p in ("weight", "bias")))
    hz = hz.abs().repeat_interleave(480, 1)  # (1, T * 480, 1)
    assert hz.shape[1] == 480 or 0.1 < float((hz > 10).double().mean()) < 0.99
    cycles = (hz[:, ::480] * torch.arange(1, 10) / 24_000).cumsum(1).repeat_interleave(480, 1)
    voiced = (hz > 10).double()
    waves = 0.1 * torch.sin(2 * math.pi * 480 * cycles) * voiced
    waves = (waves + (voiced * 0.003 + (1 - voiced) * 0.1 / 3) * noise).float()
    merge = (w[f"m_source.l_linear.{p}"] for p in ("weight", "bias"))
    source = torch.tanh(F.linear(waves, *merge))[..., 0]
    hann = torch.hann_window(16)
    spectra = torch.stft(source, 16, 4, window=hann, return_complex=True)
    spectra = torch.cat([spectra.real, spectra.imag], 1)
    x = conv("conv_pre", mel, 0, 4)
    for i, (rate, kernel) in enumerate(zip((8, 5, 3), CONFIG.kernels)):
        x = F.leaky_relu(x, 0.1).repeat_interleave(rate, 2)
        x = conv(f"ups.{i}", x, kernel - 1)
        if i == 2:
            x = F.pad(x, (1, 0), mode="reflect")
        s = conv(f"source_downs.{i}", spectra, STRIDES[i] - 1, stride=STRIDES[i])
        x = x + block(f"source_resblocks.{i}", s, CONFIG.source_kernels[i])
        x = sum(block(f"resblocks.{3 * i + j}", x, k) for j, k in enumerate((3, 7, 11))) / 3
    x = conv("conv_post", F.leaky_relu(x), 6)
    magnitude, phase = x[:, :9].exp().clip(max=100), torch.sin(x[:, 9:])
    sound = torch.istft(torch.polar(magnitude, phase), 16, 4, window=hann)
    return sound.clamp(-0.99, 0.99)


@pytest.mark.parametrize("seed, frames", [(0, 1), (0, 13), (1, 40)])
def test_sound_is_the_formulas(seed, frames):
    weights = checkpoint(seed)
    vocoder = load(FlowVocoder(CONFIG), cosyvoice_vocoder_weights(weights)).requires_grad_(False)
    mel = torch.randn(1, 40, 6, generator=torch.Generator().manual_seed(seed))[:, :frames]
    expected = reference(weights, mel.mT, vocoder.noise[None, : frames * 480])
    torch.testing.assert_close(vocoder(mel), expected, atol=1e-4, rtol=0)
    state, samples, at = vocoder.init_state(1), [], 0
    while at < frames:
        part = mel[:, at : at + 5 + 4]
        known = torch.tensor([part.shape[1]])
        y, state = vocoder.step(F.pad(part, (0, 0, 0, 9 - part.shape[1])), state, known)
        samples.append(y)
        at += 5
    sound = torch.cat([*samples, vocoder.finish(state)], 1)[:, 8 : 8 + 480 * frames]
    torch.testing.assert_close(sound, expected, atol=1e-4, rtol=0)


def test_what_does_not_fit_is_named():
    found = cosyvoice_vocoder_weights(checkpoint())
    with pytest.raises(SpeechStreamError, match=r"the vocoder's first.weight is missing in the"):
        load(FlowVocoder(CONFIG), {k: v for k, v in found.items() if k != "first.weight"})
    broken = {k: v for k, v in checkpoint().items() if k != "ups.0.weight_v"}
    with pytest.raises(SpeechStreamError, match=r"lacks ups.0.weight_v"):
        cosyvoice_vocoder_weights(broken)
