import dataclasses

import pytest
import torch
import torch.nn.functional as F

from speechstream.nn.conformer import ConformerConfig, ConformerEncoder
from speechstream.nn.position import (
    PERIOD,
    relative_embedding,
    rotary_angles,
    rotary_cycles,
    rotate,
    skew,
)
from speechstream.nn.subsampling import ConvSubsampling
from speechstream.state import fields, put, select, stack

CONFIG = ConformerConfig(
    n_mels=16,
    dim=16,
    layers=2,
    heads=2,
    ff_dim=32,
    kernel=5,
    subsampling_channels=4,
    left_context=14,
    lookaheads=(13, 6, 1, 0),
)
VARIANTS = {
    "rope": CONFIG,
    "relative": dataclasses.replace(CONFIG, position="relative", scale_input=True),
    "batch_norm": dataclasses.replace(
        CONFIG, position="relative", conv_norm="batch_norm", bias=False, subsampling=4
    ),
    "uneven": dataclasses.replace(
        CONFIG, left_context=5, lookaheads=(2, 3)
    ),  # left is no multiple of a chunk
}


def encoder(config, seed=0):
    torch.manual_seed(seed)
    net = ConformerEncoder(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return net.eval()


def reference(net, x, chunk):
    """The definition, written out: one utterance (T, features), a dense mask, loops over heads and positions."""
    c, f = net.config, net.subsampling
    h = x[None, None]
    for i, conv in enumerate(
        f.depthwise
    ):  # causal in time and frequency: two zeros before, one after
        h = conv(F.pad(h, (2, 1, 2, 1)))
        h = F.relu(h if i == 0 else f.pointwise[i - 1](h))
    x = f.out(h[0].permute(1, 0, 2).flatten(1))
    if c.scale_input:
        x = x * c.dim**0.5
    n, width = len(x), c.dim // c.heads
    index = torch.arange(n)
    age = index[:, None] // chunk - index // chunk
    mask = (age >= 0) & (age <= c.left_context // chunk)
    for layer in net.layers:
        x = x + layer.ff1(layer.norm_ff1(x)) / 2
        q, k, v = layer.att.qkv(layer.norm_att(x)).split(c.dim, dim=-1)
        heads = []
        for head in range(c.heads):
            part = slice(head * width, (head + 1) * width)
            qh, kh, vh = q[:, part], k[:, part], v[:, part]
            if c.position == "rope":
                cos, sin = rotary_angles(index[None], net.cycles, torch.float32)
                turned = [rotate(t[None, None], cos, sin)[0, 0] for t in (qh, kh)]
                scores = turned[0] @ turned[1].T
            else:
                scores = (qh + layer.att.bias_u[head]) @ kh.T
                for i in range(n):
                    e = layer.att.pos(relative_embedding(i, n, c.dim))[
                        :, part
                    ]  # distances i, i - 1, ...
                    scores[i] += e @ (qh[i] + layer.att.bias_v[head, 0])
            heads.append((scores / width**0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ vh)
        x = x + layer.att.out(torch.cat(heads, dim=-1))
        conv = layer.conv
        y = F.glu(conv.up(layer.norm_conv(x)), dim=-1).T[None]
        y = conv.depthwise(F.pad(y, (c.kernel - 1, 0)))
        y = (
            conv.norm(y.transpose(1, 2))
            if c.conv_norm == "layer_norm"
            else conv.norm(y).transpose(1, 2)
        )
        x = x + conv.down(F.silu(y[0]))
        x = layer.norm_out(x + layer.ff2(layer.norm_ff2(x)) / 2)
    return x


@pytest.mark.parametrize("name", list(VARIANTS))
@torch.no_grad()
def test_offline_equals_a_dense_mask(name):
    net = encoder(VARIANTS[name])
    x = torch.randn(8 * 75 + 1, 16)  # more frames than one window of queries
    for lookahead in net.config.lookaheads:
        torch.testing.assert_close(
            net(x[None], lookahead=lookahead)[0],
            reference(net, x, lookahead + 1),
            rtol=1e-4,
            atol=1e-4,
        )


def blocks(encoder, x, frames, seed):
    """An utterance (T, features) as blocks for random numbers of chunks of `frames`: (block, how much of it counts)."""
    generator, size = torch.Generator().manual_seed(seed), encoder.config.subsampling * frames
    x = torch.cat([torch.full((encoder.lead, x.shape[1]), torch.nan), x])
    while len(x):
        n = int(torch.randint(1, 4, (1,), generator=generator)) * size
        block, x = x[:n], x[n:]
        padded = -(-len(block) // size) * size
        yield F.pad(block, (0, 0, 0, padded - len(block)))[None], torch.tensor([len(block)])


@pytest.mark.parametrize("name", list(VARIANTS))
@torch.no_grad()
def test_stream_equals_offline_for_any_blocks(name):
    net = encoder(VARIANTS[name])
    for length in (1, 2, 8, 9, 161, 200, 207):
        x = torch.randn(length, 16)
        for lookahead in net.config.lookaheads:
            whole = net(x[None], lookahead=lookahead)
            state, out = net.init_state(1), []
            for block, count in blocks(net, x, lookahead + 1, seed=length):
                y, state = net.step(block, state, count, chunk=lookahead + 1)
                out.append(y)
            y = torch.cat(out, dim=1)[:, : whole.shape[1]]
            torch.testing.assert_close(y, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["rope", "relative"])
@torch.no_grad()
def test_unsynchronised_streams_share_a_batch(name):
    """Streams are served at random moments; each must get what it gets alone, to 1e-5."""
    net, chunk = encoder(VARIANTS[name]), 2
    lengths = [40, 133, 77, 160, 9]
    utterances = [torch.randn(n, 16) for n in lengths]
    whole = [net(x[None], lookahead=chunk - 1)[0] for x in utterances]
    queues = [list(torch.cat([torch.randn(net.lead, 16), x]).split(8 * chunk)) for x in utterances]
    states, outputs = [net.init_state(1) for _ in lengths], [[] for _ in lengths]
    generator = torch.Generator().manual_seed(3)
    while any(queues):
        ready = [i for i, q in enumerate(queues) if q and torch.rand((), generator=generator) < 0.6]
        if not ready:
            continue
        parts = [queues[i].pop(0) for i in ready]
        batch = stack([states[i] for i in ready])
        before = {k: v.clone() for k, v in fields(batch)}
        x = torch.stack([F.pad(p, (0, 0, 0, 8 * chunk - len(p))) for p in parts])
        y, after = net.step(x, batch, torch.tensor([len(p) for p in parts]))
        for k, v in fields(batch):  # the step changed nothing it was given
            torch.testing.assert_close(v, before[k], rtol=0, atol=0)
        for row, i in enumerate(ready):
            states[i] = select(after, row)
            outputs[i].append(y[row])
    for got, expected in zip(outputs, whole):
        torch.testing.assert_close(torch.cat(got)[: len(expected)], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_state_is_a_value():
    """A kept state can be resumed, forked and put into a batch."""
    net = encoder(CONFIG)
    x = torch.randn(1, 48, 16)
    _, kept = net.step(x[:, :16], net.init_state(1))
    first, _ = net.step(x[:, 16:32], kept)
    again, _ = net.step(x[:, 16:32], kept)
    other, _ = net.step(x[:, 32:48], kept)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert (first - other).abs().max() > 1e-3
    batch = put(net.init_state(3), 1, kept)
    y, _ = net.step(x[:, 16:32].expand(3, -1, -1), batch)
    torch.testing.assert_close(y[1:2], first, rtol=1e-5, atol=1e-5)
    assert (y[0] - y[1]).abs().max() > 1e-3


@torch.no_grad()
def test_lookahead_is_what_a_frame_hears():
    """A change of feature frame t reaches no encoder frame whose chunk ends before t."""
    net = encoder(VARIANTS["relative"])
    x = torch.randn(1, 8 * 30 + 1, 16)
    for lookahead in (0, 1, 6):
        changed = x.clone()
        changed[:, 8 * 14 + 1 :] += 1  # everything after encoder frame 14
        moved = (net(x, lookahead=lookahead) - net(changed, lookahead=lookahead)).abs().amax(-1)[
            0
        ] > 1e-6
        end = (
            15 // (lookahead + 1) * (lookahead + 1)
        )  # first frame whose chunk reaches past frame 14
        assert not moved[:end].any() and moved[end:].all()


@torch.no_grad()
def test_batch_with_lengths_equals_each_alone():
    for config in (
        CONFIG,
        dataclasses.replace(
            CONFIG, left_context=None, causal=False, lookaheads=(0,), position="relative"
        ),
    ):
        net = encoder(config)
        x, lengths = torch.randn(3, 150, 16), torch.tensor([150, 73, 8])
        y = net(x, lengths)
        for i, n in enumerate(lengths.tolist()):
            alone = net(x[i : i + 1, :n])[0]
            torch.testing.assert_close(y[i, : len(alone)], alone, rtol=1e-5, atol=1e-5)
            assert not y[i, len(alone) :].any()
            assert len(alone) == net.output_lengths(n) == net.output_lengths(lengths)[i]


def test_gradients_flow_through_the_windows():
    net = encoder(VARIANTS["relative"]).train()
    x = torch.randn(2, 8 * 70, 16, requires_grad=True)
    net(x, torch.tensor([560, 300]), lookahead=1).square().sum().backward()
    assert x.grad[0].abs().sum(-1).min() > 0 and not x.grad[1, 300:].any()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_position_table_follows_the_weights():
    net, x = encoder(VARIANTS["relative"]), torch.randn(1, 16, 16)
    other = encoder(VARIANTS["relative"], seed=5)
    net.load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(
            net.step(x, net.init_state(1))[0], other.step(x, other.init_state(1))[0]
        )
        assert other.layers[0].att.table is not None and other.train().layers[0].att.table is None
        assert not any("table" in k for k in net.state_dict())


def test_subsampling_counts_frames():
    net = ConvSubsampling(16, 8, 4)
    for n in range(1, 40):
        assert net.output_lengths(n) == (n + 6) // 8 + 1  # three times n // 2 + 1


def test_skew_reads_distance_by_position():
    for c, past in ((3, 4), (1, 5), (4, 0)):
        table = torch.arange(past + 2 * c - 1.0).expand(
            c, -1
        )  # entry = index of the distance past + c - 1 - entry
        got = skew(table, past + c)
        for i in range(c):
            for j in range(past + c):
                assert past + c - 1 - got[i, j] == past + i - j


def test_rotary_positions_stay_exact():
    """Scores depend on the distance only, as much at the millionth frame as at the first."""
    cycles, q, k = rotary_cycles(8), torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(a, b):
        turn = [
            rotate(t, *rotary_angles(torch.tensor([[p]]), cycles, torch.float32))
            for t, p in ((q, a), (k, b))
        ]
        return (turn[0] * turn[1]).sum()

    for offset in (0, 1000, PERIOD - 5, 10 * PERIOD + 3):
        torch.testing.assert_close(score(offset + 9, offset), score(9, 0), rtol=1e-5, atol=1e-5)
    exact = 10000.0 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    torch.testing.assert_close(cycles.double() * 2 * torch.pi / PERIOD, exact, rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 15},
        {"kernel": 4},
        {"position": "absolute"},
        {"conv_norm": "none"},
        {"left_context": None},
        {"causal": False},
        {"lookaheads": ()},
        {"left_context": -1},
    ],
)
def test_config_errors(change):
    with pytest.raises(ValueError, match="got|must"):
        dataclasses.replace(CONFIG, **change)


def test_wrong_blocks_are_refused():
    net = encoder(CONFIG)
    state = net.init_state(1)
    for x in (
        torch.zeros(1, 12, 16),
        torch.zeros(1, 0, 16),
        torch.zeros(1, 16, 15),
        torch.zeros(16, 16),
    ):
        with pytest.raises(ValueError, match="block must"):
            net.step(x, state)
    with pytest.raises(ValueError, match="features must"):
        net(torch.zeros(1, 0, 16))
    with pytest.raises(ValueError, match="lookahead"):
        net(torch.zeros(1, 16, 16), lookahead=-1)
