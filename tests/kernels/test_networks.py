"""The networks give the same output with the kernels on, in the interpreter, and off: whole and in steps."""

import dataclasses

import pytest
import torch

from speechstream.asr.transducer import GreedyTransducer
from speechstream.kernels import dispatch
from speechstream.kernels.reference import init_greedy
from speechstream.nn import conformer, transducer, whisper
from speechstream.state import select, stack

CONFIG = conformer.ConformerConfig(
    n_mels=8,
    dim=16,
    layers=2,
    heads=2,
    ff_dim=16,
    kernel=3,
    subsampling=2,
    subsampling_channels=4,
    left_context=5,
    lookaheads=(1, 2),
    dropout=0.0,
)
VARIANTS = {
    "rope": CONFIG,
    "relative": dataclasses.replace(
        CONFIG, position="relative", scale_input=True
    ),  # left is no multiple of a chunk
    "batch_norm": dataclasses.replace(
        CONFIG, position="relative", conv_norm="batch_norm", bias=False, left_context=4
    ),
    "no left": dataclasses.replace(CONFIG, left_context=0),
    "whole": dataclasses.replace(CONFIG, left_context=None, causal=False, position="relative"),
}


def network(name):
    net = conformer.ConformerEncoder(VARIANTS[name])
    with torch.no_grad():
        for p in (
            *net.parameters(),
            *(b for n, b in net.named_buffers() if n.endswith("running_mean")),
        ):
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


@pytest.mark.parametrize(
    "name, frames, chunk",
    [
        ("rope", 2, 2),
        ("relative", 3, 3),
        ("batch_norm", 4, 2),
        ("no left", 2, 2),
        ("relative", 1, None),
    ],
)
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
            out += [y[:1], y[1:, : 1 if lengths is not None else None]]
        return out, list(vars(select(state, [0])).values())

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
    net = whisper.Encoder(
        whisper.WhisperConfig(
            n_mels=4, dim=16, heads=2, encoder_layers=2, positions=20, left_context=6
        )
    )
    mel, lengths = torch.randn(2, 4, 23), torch.tensor([11, 5])

    def run():
        _, late = net.step(
            torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(1)), net.init_state(1)
        )
        state, out = stack([net.init_state(1), late]), []
        for t in range(0, 22, 8):
            y, state = net.step(mel[:, :, t : t + 9], state)
            out.append(y)
        whole = net(mel, lengths, chunk=4)
        return whole[0], whole[1, :5], torch.cat(out, 1), vars(state)["keys"]

    plain = run()
    assert not counted
    with dispatch.using("interpret"):
        close(run(), plain, 1e-4)
    assert counted == {"chunked_attention", "attention_step"}
    close(plain[0], plain[2][0], 1e-4)


def heads(kind, durations=(), activation="relu"):
    predictor = transducer.Predictor(
        transducer.PredictorConfig(6, 8, kind, layers=2, context=3)
    ).eval()
    joiner = transducer.Joiner(transducer.JoinerConfig(6, 10, 8, 12, activation, durations)).eval()
    with torch.no_grad():
        for p in (*predictor.parameters(), *joiner.parameters()):
            p.mul_(4)
        predictor.embed.weight[6] = 0
        joiner.out.bias[6] += 0 if durations else 4  # an RNN-T would never stop emitting
    return predictor, joiner


@pytest.mark.parametrize(
    "kind, durations", [("stateless", ()), ("lstm", (0, 1, 2)), ("stateless", (1, 2))]
)
@torch.no_grad()
def test_greedy_transducer(kind, durations, counted):
    """Two chunks in one launch each find what the search that steps the networks finds."""
    predictor, joiner = heads(kind, durations)
    x, lengths = torch.randn(3, 6, 10), torch.tensor([[3, 1, 3], [3, 3, 0]])
    w = transducer.decoding_weights(predictor, joiner)

    def predict(tokens, state):
        g, state = predictor.step(torch.as_tensor(tokens), state)
        return g.numpy(), state

    def join(a, b):
        return joiner(torch.as_tensor(a), torch.as_tensor(b)).numpy()

    search = GreedyTransducer(predict, join, predictor.init_state, 6, durations, 3)
    state, mine, found = (
        search.init_state(3),
        {m: init_greedy(w, 3) for m in ("off", "interpret")},
        0,
    )
    for i, block in enumerate(x.split(3, 1)):
        wanted, state = search.step(block.numpy(), state, lengths[i].numpy())
        for mode in mine:
            with dispatch.using(mode):
                tokens, _, counts, mine[mode] = dispatch.greedy_decode(
                    joiner.project_encoder(block), lengths[i], w, mine[mode], 3
                )
            for b, labels in enumerate(wanted):
                assert tokens[b, : counts[b]].tolist() == [t.token for t in labels]
        found += sum(map(len, wanted))
    assert 4 < found < 39  # labels and blanks
    assert counted == {"transducer_decode"}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_transducer_loss(activation, close, counted):
    predictor, joiner = heads("stateless", (), activation)
    x, targets = torch.randn(2, 5, 10, requires_grad=True), torch.tensor([[1, 0, 3], [2, 2, 4]])
    leaves = [x, predictor.embed.weight, *joiner.parameters()]

    def run():
        loss = transducer.transducer_loss(
            joiner, x, predictor(targets), targets, torch.tensor([5, 3]), torch.tensor([3, 1])
        )
        return loss, torch.autograd.grad(loss.sum(), leaves)

    plain = run()
    assert not counted
    with dispatch.using("interpret"):
        close(run(), plain, 1e-4)
    assert counted == {"transducer_loss"}


def test_another_activation_is_said():
    with pytest.raises(ValueError, match="relu or tanh"):
        transducer.decoding_weights(*heads("stateless", (), "sigmoid"))
