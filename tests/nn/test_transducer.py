import itertools

import pytest
import torch
import torch.nn.functional as F

from speechstream.nn.transducer import (
    Joiner,
    JoinerConfig,
    Predictor,
    PredictorConfig,
    transducer_loss,
)
from speechstream.state import put, select, stack

VOCAB, WIDTH = 5, 6


def joiner(durations=(), seed=0):
    torch.manual_seed(seed)
    return (
        Joiner(JoinerConfig(VOCAB, encoder_dim=7, predictor_dim=WIDTH, dim=8, durations=durations))
        .eval()
        .double()
    )


def brute_force(joiner, x, g, targets, durations):
    """-log of the summed probability of every alignment, each walked on its own."""
    scores = joiner(x[:, None], g[None, :])  # (T, U + 1, K)
    token = scores[..., : VOCAB + 1].log_softmax(-1)
    jump = scores[..., VOCAB + 1 :].log_softmax(-1) if durations else None
    frames, paths = x.shape[0], []

    def walk(t, u, score):
        if t == frames:
            return
        for k, d in enumerate(durations or (1,)):
            if d == 0:
                continue
            s = score + token[t, u, VOCAB] + (jump[t, u, k] if durations else 0)
            if t + d == frames and u == len(targets):
                paths.append(s)
            elif t + d < frames:
                walk(t + d, u, s)
        if u < len(targets):
            for k, d in enumerate(durations or (0,)):
                if t + d < frames:
                    walk(
                        t + d,
                        u + 1,
                        score + token[t, u, targets[u]] + (jump[t, u, k] if durations else 0),
                    )

    walk(0, 0, torch.zeros((), dtype=x.dtype))
    return -torch.stack(paths).logsumexp(0)


@pytest.mark.parametrize("durations", [(), (0, 1, 2), (1, 3)])
@pytest.mark.parametrize("block", [2, 16])
def test_loss_and_gradient_equal_the_sum_over_all_alignments(durations, block):
    net = joiner(durations)
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 0, 3], [2, 2, 4], [4, 0, 0]])
    lengths, counts = torch.tensor([5, 4, 3]), torch.tensor([3, 2, 0])
    loss = transducer_loss(net, x, g, targets, lengths, counts, block)
    expected = torch.stack(
        [
            brute_force(
                net,
                x[i, : lengths[i]],
                g[i, : counts[i] + 1],
                targets[i, : counts[i]].tolist(),
                durations,
            )
            for i in range(3)
        ]
    )
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([1.0, 2.0, 0.5])
    ours = torch.autograd.grad((loss * weights).sum(), [x, g, net.out.weight])
    theirs = torch.autograd.grad((expected * weights).sum(), [x, g, net.out.weight])
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_loss_of_one_alignment_is_closed_form():
    net = joiner()
    x, g = torch.randn(1, 4, 7, dtype=torch.float64), torch.randn(1, 1, WIDTH, dtype=torch.float64)
    blank = net(x[0], g[0].expand(4, -1)).log_softmax(-1)[:, VOCAB]
    loss = transducer_loss(
        net, x, g, torch.zeros(1, 0, dtype=torch.long), torch.tensor([4]), torch.tensor([0])
    )
    torch.testing.assert_close(loss.double(), -blank.sum()[None], rtol=1e-5, atol=1e-5)


def test_loss_rejects_what_cannot_be_aligned():
    net = joiner((2,))
    x, g = torch.randn(1, 3, 7, dtype=torch.float64), torch.randn(1, 2, WIDTH, dtype=torch.float64)
    with pytest.raises(ValueError, match="no alignment"):
        transducer_loss(net, x, g, torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1]))
    with pytest.raises(ValueError, match="lengths must be"):
        transducer_loss(net, x, g, torch.tensor([[1]]), torch.tensor([4]), torch.tensor([1]))
    with pytest.raises(ValueError, match="expected g"):
        transducer_loss(net, x, g[:, :1], torch.tensor([[1]]), torch.tensor([3]), torch.tensor([1]))


@pytest.mark.parametrize(
    "config",
    [
        PredictorConfig(VOCAB, WIDTH, layers=2),
        PredictorConfig(VOCAB, WIDTH, "stateless"),
        PredictorConfig(VOCAB, WIDTH, "stateless", context=3),
        PredictorConfig(VOCAB, WIDTH, "stateless", context=1),
    ],
)
def test_predictor_step_equals_the_whole_sequence(config):
    torch.manual_seed(1)
    net = Predictor(config).eval()
    targets = torch.randint(0, VOCAB, (3, 6))
    whole = net(targets)
    steps, state = [], net.init_state(3)
    for token in F.pad(targets, (1, 0), value=VOCAB).T:
        y, state = net.step(token, state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-5, atol=1e-6)


def test_predictor_rows_are_independent():
    torch.manual_seed(2)
    net = Predictor(PredictorConfig(VOCAB, WIDTH)).eval()
    a, b = net.step(torch.tensor([1]), net.init_state(1))[1], net.init_state(1)
    both = stack([b, a])
    y, after = net.step(torch.tensor([2, 3]), both)
    alone, one = net.step(torch.tensor([3]), a)
    torch.testing.assert_close(y[1:], alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(select(after, 1).cell, one.cell, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(select(put(both, 0, one), 0).hidden, one.hidden)


def test_stateless_predictor_forgets_older_tokens():
    torch.manual_seed(3)
    net = Predictor(PredictorConfig(VOCAB, WIDTH, "stateless", context=2)).eval()
    endings = [net(torch.tensor([[a, 4, 1]]))[:, -1] for a in range(VOCAB)]
    for other in endings[1:]:
        torch.testing.assert_close(other, endings[0])


def test_config_errors_name_the_value():
    for make in (
        lambda: PredictorConfig(5, kind="gru"),
        lambda: PredictorConfig(0),
        lambda: JoinerConfig(5, 4, activation="swish"),
        lambda: JoinerConfig(5, 4, durations=(0,)),
    ):
        with pytest.raises(ValueError, match="got|must"):
            make()


def test_many_alignments_are_counted_exactly():
    """With uniform scores each of the C(T + U - 1, U) alignments has the same probability."""
    net = joiner()
    with torch.no_grad():
        net.out.weight.zero_(), net.out.bias.zero_()
    x, g = torch.randn(1, 6, 7, dtype=torch.float64), torch.randn(1, 4, WIDTH, dtype=torch.float64)
    loss = transducer_loss(
        net, x, g, torch.tensor([[1, 2, 3]]), torch.tensor([6]), torch.tensor([3])
    )
    count = sum(1 for _ in itertools.combinations(range(6 + 3 - 1), 3))
    expected = (6 + 3) * torch.tensor(VOCAB + 1.0).log() - torch.tensor(float(count)).log()
    torch.testing.assert_close(loss[0].float(), expected)
