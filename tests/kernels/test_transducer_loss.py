"""The transducer loss against the enumeration of all alignments, a textbook recursion, and finite differences."""

import itertools
import math

import pytest
import torch

from speechstream.kernels import dispatch, reference


def enumerated(logp, target, T, blank):
    """log of the summed probability of every order of T blanks and U labels that ends with a blank."""
    U, total = len(target), 0.0
    for labels in itertools.combinations(
        range(T + U - 1), U
    ):  # which of the steps before the last emit
        t = u = 0
        log = 0.0
        for step in range(T + U):
            if step in labels:
                log, u = log + float(logp[t, u, target[u]]), u + 1
            else:
                log, t = log + float(logp[t, u, blank]), t + 1
        total += math.exp(log)
    return math.log(total)


def recursion(logp, target, T, blank):
    """Graves (2012), equation 16, cell by cell."""
    U = len(target)
    alpha = torch.full((T, U + 1), -math.inf, dtype=logp.dtype)
    alpha[0, 0] = 0.0
    for t in range(T):
        for u in range(U + 1):
            ways = [alpha[t, u]]
            if t:
                ways.append(alpha[t - 1, u] + logp[t - 1, u, blank])
            if u:
                ways.append(alpha[t, u - 1] + logp[t, u - 1, target[u - 1]])
            alpha[t, u] = torch.logsumexp(torch.stack(ways), 0)
    return alpha[T - 1, U] + logp[T - 1, U, blank]


def problem(B, T, U, J, V, dtype=torch.float32):
    make = lambda *s: torch.randn(*s, dtype=dtype, requires_grad=True)
    lengths, target_lengths = torch.tensor([T, 1, 0][:B]), torch.tensor([U, 1, U][:B])
    return (
        (make(B, T, J), make(B, U + 1, J), make(V, J), make(V)),
        torch.randint(0, V - 1, (B, U)),
        lengths,
        target_lengths,
    )


@pytest.mark.parametrize("mode", ["off", "interpret"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_loss_is_the_sum_over_alignments(mode, activation):
    (f, g, w, b), targets, n, m = problem(3, 5, 3, 4, 6)
    with dispatch.using(mode):
        loss = dispatch.transducer_loss(
            f, g, w, b, targets, n, m, 5, activation, reduction="none"
        ).detach()
    act = torch.tanh if activation == "tanh" else torch.relu
    for i in range(2):
        logp = (act(f[i][:, None] + g[i]) @ w.T + b).log_softmax(-1).detach()
        target = targets[i, : m[i]].tolist()
        assert float(loss[i]) == pytest.approx(-enumerated(logp, target, int(n[i]), 5), rel=1e-5)
        assert float(loss[i]) == pytest.approx(
            -float(recursion(logp, target, int(n[i]), 5)), rel=1e-5
        )
    assert float(loss[2]) == 0.0  # no frames


def test_reference_gradient_by_finite_differences():
    leaves, targets, n, m = problem(3, 4, 2, 3, 4, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *x: reference.lattice_logprob(*reference.joint_logprobs(*x, targets, 0), n, m),
        leaves,
    )


@pytest.mark.parametrize("B, T, U, J, V", [(2, 7, 3, 5, 6), (1, 1, 1, 3, 19), (3, 9, 0, 4, 5)])
def test_kernel_gradients(B, T, U, J, V, both, close):
    leaves, targets, n, m = problem(B, T, U, J, V)
    m = m.clamp(max=U)

    def f():
        loss = dispatch.transducer_loss(*leaves, targets, n, m, reduction="sum")
        return loss, torch.autograd.grad(loss, leaves)

    close(*both(f), 2e-5)


def test_backward_in_several_blocks_is_the_same(close, monkeypatch):
    leaves, targets, n, m = problem(2, 6, 2, 4, 5)
    with dispatch.using("interpret"):
        loss = lambda: dispatch.transducer_loss(*leaves, targets, n, m)
        whole = torch.autograd.grad(loss(), leaves)
        monkeypatch.setattr(
            dispatch._kernel("transducer_loss"), "GRADIENT_BYTES", 1
        )  # a frame at a time
        close(torch.autograd.grad(loss(), leaves), whole)


def test_simple_joint_is_an_additive_joint(close):
    f, g, targets = torch.randn(2, 4, 6), torch.randn(2, 4, 6), torch.randint(1, 6, (2, 3))
    blank, label = reference.simple_logprobs(f, g, targets, 0)
    logp = (f[:, :, None] + g[:, None]).log_softmax(-1)
    close(blank, logp[..., 0])
    close(
        label[:, :, :3],
        logp[:, :, :3].gather(-1, targets[:, None, :, None].expand(-1, 4, -1, 1))[..., 0],
    )


def test_bounds_move_as_a_band_must():
    width, n, m = 3, torch.tensor([9, 7, 5]), torch.tensor([8, 2, 5])
    use = torch.rand(3, 9, 9)
    starts = reference.prune_bounds(use, use, n, m, width)
    assert (starts[:, 0] == 0).all()
    for b in range(3):
        rise = starts[b, 1 : n[b]] - starts[b, : n[b] - 1]
        assert rise.min() >= 0 and rise.max() <= width - 1
        assert starts[b, n[b] - 1] == max(0, int(m[b]) + 1 - width)


def test_a_band_follows_the_likely_path():
    """Where all alignments but one are made unlikely, the band's loss is the whole loss."""
    T, U, V, width = 8, 5, 7, 2
    targets = torch.randint(1, V, (1, U))
    emit_at = [0, 2, 3, 5, 6]
    f, g = torch.zeros(1, T, V), torch.zeros(1, U + 1, V)
    for u, t in enumerate(emit_at):
        f[0, t, targets[0, u]] = 12.0
    for t in range(T):
        f[0, t, 0] = 6.0
    n, m = torch.tensor([T]), torch.tensor([U])
    w, b = torch.eye(V), torch.zeros(V)
    with dispatch.using("off"):
        simple, pruned = dispatch.pruned_transducer_loss(
            f, g, w, b, f, g, targets, n, m, width, activation="relu"
        )
    assert float(pruned) == pytest.approx(float(simple), abs=0.05)


@pytest.mark.parametrize("width", [2, 3, 9])
def test_pruned_kernel(width, both, close):
    (f, g, w, b), targets, n, m = problem(3, 7, 4, 4, 6)
    sf, sg = torch.randn(3, 7, 6, requires_grad=True), torch.randn(3, 5, 6, requires_grad=True)
    n = torch.tensor([7, 5, 0])

    def run():
        simple, pruned = dispatch.pruned_transducer_loss(
            f, g, w, b, sf, sg, targets, n, m, width, reduction="sum"
        )
        return simple, pruned, torch.autograd.grad(simple + pruned, (f, g, w, b, sf, sg))

    kernel, plain = both(run)
    close(kernel, plain, 5e-5)
    if width > 4:  # a band as wide as the lattice is the lattice
        with dispatch.using("off"):
            close(kernel[1], dispatch.transducer_loss(f, g, w, b, targets, n, m, reduction="sum"))


def test_operators_are_well_formed():
    with dispatch.using("interpret"):
        dispatch._kernel("transducer_loss")
    (f, g, w, b), targets, n, m = problem(1, 2, 1, 3, 4)
    ops = torch.ops.speechstream
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        ops.joint_logprobs.default, (f, g, w, b, targets, 0, "tanh", None, 2), test_utils=tests
    )
    torch.library.opcheck(
        ops.lattice_logprob.default,
        (
            torch.randn(1, 2, 2, requires_grad=True),
            torch.randn(1, 2, 2, requires_grad=True),
            n,
            m,
            None,
            2,
        ),
        test_utils=tests,
    )
