"""A causal Whisper's CTC head and gate: chunks on their own, padding without influence, the joint by its formula."""

import dataclasses

import numpy as np
import pytest
import torch

from speechstream.nn.whisper import Whisper, WhisperConfig
from speechstream.nn.whisper_heads import Gate, looked

CONFIG = WhisperConfig(
    n_mels=8,
    dim=24,
    heads=3,
    encoder_layers=1,
    decoder_layers=2,
    vocab_size=40,
    text_context=32,
    positions=40,
    left_context=20,
    ctc_vocab_size=7,
    ctc_dim=16,
    ctc_blocks=2,
    gate_dim=12,
    alignment_heads=((0, 1), (1, 2)),
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Whisper(CONFIG).eval().requires_grad_(False)


@pytest.mark.parametrize("chunk", [2, 6, 16])
def test_chunks_of_the_ctc_head_stand_alone(model, chunk):
    x = torch.randn(2, 37, CONFIG.dim)
    whole = model.ctc_log_probs(x, chunk=chunk)
    apart = torch.cat([model.ctc_log_probs(part) for part in x.split(chunk, 1)], 1)
    torch.testing.assert_close(whole, apart)
    assert (
        whole.shape == (2, 18, 7) and (whole - model.ctc_log_probs(x)).abs().max() > 1e-3
    )  # neighbours do count


def test_padding_does_not_reach_the_ctc_head(model):
    x, lengths = torch.randn(2, 40, CONFIG.dim), torch.tensor([40, 26])
    got = model.ctc_log_probs(x, lengths)
    torch.testing.assert_close(got[1:, :13], model.ctc_log_probs(x[1:, :26]))
    torch.testing.assert_close(got[:1], model.ctc_log_probs(x[:1]))


@pytest.mark.parametrize("frames", [0, 1, 2, 3])
def test_the_ctc_head_of_next_to_nothing(model, frames):
    assert model.ctc_log_probs(torch.randn(1, frames, CONFIG.dim)).shape == (1, frames // 2, 7)


def test_the_gate_by_its_formula(model):
    gate: Gate = model.gate
    audio, text, seen = torch.randn(5, 12), torch.randn(5, 12), torch.rand(5, 2)
    w = {n: p.numpy() for n, p in gate.named_parameters()}
    hidden = np.tanh(audio.numpy() + text.numpy() + seen.numpy() @ w["looked.weight"].T)
    np.testing.assert_allclose(
        gate(audio, text, seen).numpy(),
        hidden @ w["out.weight"][0] + w["out.bias"],
        rtol=1e-5,
        atol=1e-6,
    )


def test_what_was_looked_at():
    a = np.random.default_rng(0).random((3, 9)).astype(np.float32)
    got = looked(torch.from_numpy(a)).numpy()
    for p in range(4):
        np.testing.assert_allclose(got[:, p, 0], a[:, : 2 * p + 2].sum(1), rtol=1e-5)
        np.testing.assert_allclose(got[:, p, 1], a[:, 2 * p] + a[:, 2 * p + 1], rtol=1e-5)


def test_hidden_states_and_attention_of_training_are_those_of_decoding(model):
    tokens, features = torch.randint(0, 40, (2, 6)), torch.randn(2, 11, CONFIG.dim)
    mask = torch.arange(11) < torch.tensor([[11], [7]])
    hidden, alignment = model.decoder.hidden(tokens, features, mask, align=True)
    keys, values = model.decoder.memory(features)
    one, where, _ = model.decoder.read(tokens, model.decoder.init_state(2), keys, values, mask)
    torch.testing.assert_close(hidden, one)
    torch.testing.assert_close(alignment, where)
    torch.testing.assert_close(model.decoder.logits(hidden), model.decoder(tokens, features, mask))


def test_networks_without_a_gate_are_as_they_were():
    plain = Whisper(dataclasses.replace(CONFIG, ctc_blocks=0, gate_dim=0))
    assert plain.gate is None and {n for n in plain.state_dict() if n.startswith("ctc.")} == {
        "ctc.0.weight",
        "ctc.0.bias",
        "ctc.2.weight",
        "ctc.2.bias",
    }
