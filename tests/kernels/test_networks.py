"""The networks give the same output with the kernels on, in the interpreter, and off: whole and in steps."""

import dataclasses

import pytest
import torch

from kernels import dispatch
from speechstream.nn import conformer, whisper
from speechstream.state import select, stack

CONFIG = conformer.ConformerConfig(features=8, dim=16, layers=2, heads=2, ff_dim=16, kernel=3, subsampling=2,
                                   subsampling_channels=4, left=5, lookaheads=(1, 2), dropout=0.0)
VARIANTS = {
    "rope": CONFIG,
    "relative": dataclasses.replace(CONFIG, position="relative", scale_input=True),  # left is no multiple of a chunk
    "batch_norm": dataclasses.replace(CONFIG, position="relative", conv_norm="batch_norm", bias=False, left=4),
    "no left": dataclasses.replace(CONFIG, left=0),
    "whole": dataclasses.replace(CONFIG, left=None, causal=False, position="relative"),
}


def network(name):
    net = conformer.ConformerEncoder(VARIANTS[name])
    with torch.no_grad():
        for p in (*net.parameters(), *(b for n, b in net.named_buffers() if n.endswith("running_mean"))):
            p.add_(torch.randn_like(p) * 0.2)
    return net.eval()


@pytest.fixture
def counted(monkeypatch):
    """Names of the kernels that ran: an answer without them proves nothing."""
    seen, load = set(), dispatch._kernel
    monkeypatch.setattr(dispatch, "_kernel", lambda name: seen.add(name) or load(name))
    return seen


@pytest.mark.parametrize("name", list(VARIANTS))
@torch.no_grad()
def test_fastconformer_offline(name, close, counted):
    net = network(name)
    x, lengths = torch.randn(2, 15, 8), torch.tensor([15, 9])
    plain = net(x, lengths)
    assert not counted
    with dispatch.using("interpret"):
        close(net(x, lengths), plain, 1e-4)
    assert counted == {"chunked_attention"}


@pytest.mark.parametrize("name, frames, chunk", [("rope", 2, 2), ("relative", 3, 3), ("batch_norm", 4, 2),
                                                 ("no left", 2, 2), ("relative", 1, None)])
@torch.no_grad()
def test_fastconformer_steps(name, frames, chunk, close, counted):
    """Unsynchronised streams: the second begins two steps after the first and ends within a chunk."""
    net = network(name)
    blocks = torch.randn(3, 2, 2 * frames, 8)

    def run():
        first, state = net.step(blocks[0, :1], net.init_state(1), chunk=chunk)
        state, out = stack([state, net.init_state(1)]), [first]
        for block, lengths in ((blocks[1], None), (blocks[2], torch.tensor([2 * frames, 2]))):
            y, state = net.step(block, state, lengths, chunk)
            out += [y[:1], y[1:, :1 if lengths is not None else None]]
        return out, [t for t in vars(select(state, [0])).values()]

    plain = run()
    assert not counted
    with dispatch.using("interpret"):
        close(run(), plain, 1e-4)
    assert counted == {"attention_step", "conv_step"}


@pytest.mark.parametrize("name", ["rope", "relative"])
def test_fastconformer_gradients(name, close, counted):
    """Training: every parameter's gradient is the same."""
    net, x, lengths = network(name).train(), torch.randn(2, 9, 8), torch.tensor([9, 6])

    def run():
        return torch.autograd.grad(net(x, lengths).square().sum(), list(net.parameters()))

    plain = run()
    with dispatch.using("interpret"):
        got = run()
    assert counted == {"chunked_attention"}
    for a, b in zip(got, plain):
        assert (a - b).norm() <= 1e-4 * b.norm() + 1e-6


@torch.no_grad()
def test_causal_whisper(close, counted):
    """Offline, and in steps in which one stream is a step ahead of the other; the last chunk is shorter."""
    net = whisper.Encoder(whisper.WhisperConfig(mels=4, width=16, heads=2, encoder_layers=2, positions=20, left=6))
    mel, lengths = torch.randn(2, 4, 23), torch.tensor([11, 5])

    def run():
        _, late = net.step(torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1)), net.init_state(1))
        state, out = stack([net.init_state(1), late]), []
        for t in range(0, 22, 8):
            y, state = net.step(mel[:, :, t:t + 9], state)
            out.append(y)
        whole = net(mel, lengths, chunk=4)
        return whole[0], whole[1, :5], torch.cat(out, 1), vars(state)["keys"]

    plain = run()
    assert not counted
    with dispatch.using("interpret"):
        close(run(), plain, 1e-4)
    assert counted == {"chunked_attention", "attention_step"}
    close(plain[0], plain[2][0], 1e-4)
