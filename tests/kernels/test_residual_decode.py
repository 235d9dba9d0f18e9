"""Depth-wise decoding and codebook sums: kernel equal to the reference, reference equal to the parts by hand."""

import pytest
import torch
import torch.nn.functional as F

from speechstream.kernels import dispatch, reference
from speechstream.kernels.reference import DepthWeights


def weights(levels, D, hidden, C, dtype=torch.float32):
    shapes = (
        (levels, D),
        (levels, hidden, D),
        (levels, D, hidden),
        (levels, D),
        (levels, C, D),
        (levels, C, D),
    )
    return DepthWeights(*(torch.randn(s).to(dtype) for s in shapes))


@pytest.mark.parametrize(
    "levels, D, hidden, C, noisy",
    [(3, 12, 20, 11, False), (4, 8, 8, 33, True), (1, 16, 4, 5, False)],
)
def test_kernel_equals_reference(levels, D, hidden, C, noisy, both, close):
    w, context = weights(levels, D, hidden, C), torch.randn(2, D)
    noise = -torch.rand(2, levels, C).log().neg().log() if noisy else None
    (codes, x), (codes_, x_) = both(lambda: dispatch.residual_decode(context, w, noise, 0.7))
    assert torch.equal(codes, codes_) and codes.dtype == torch.int32
    close(x, x_, 1e-4)


def test_reference_is_torch_layers(close):
    w, x = weights(2, 6, 10, 7), torch.randn(3, 6)
    codes, last = reference.residual_decode(x, w)
    for n in range(2):
        x = x + F.linear(F.silu(F.linear(F.rms_norm(x, (6,), w.norm[n], 1e-5), w.up[n])), w.down[n])
        logits = F.linear(F.rms_norm(x, (6,), w.head_norm[n], 1e-5), w.head[n])
        assert codes[:, n].tolist() == logits.argmax(1).tolist()
        x = x + F.embedding(codes[:, n], w.embedding[n])
    close(last, x)


def test_noise_samples_from_the_softmax():
    """Gumbel noise: the frequency of a code is its probability."""
    w, n = weights(1, 4, 4, 3), 4000
    x = torch.randn(1, 4).expand(n, -1)
    y = x[:1] + F.silu(reference.rms_norm(x[:1], w.norm[0]) @ w.up[0].T) @ w.down[0].T
    p = (0.5 * reference.rms_norm(y, w.head_norm[0]) @ w.head[0].T).softmax(-1)[0]
    codes, _ = reference.residual_decode(
        x, w, -torch.rand(n, 1, 3).log().neg().log(), temperature=2.0
    )
    assert (codes[:, 0].long().bincount(minlength=3) / n - p).abs().max() < 0.03


@pytest.mark.parametrize(
    "B, levels, T, C, D, dtype", [(2, 3, 5, 7, 12, torch.float32), (1, 1, 1, 2, 5, torch.float16)]
)
def test_lookup(B, levels, T, C, D, dtype, both, close):
    codes, books = (
        torch.randint(0, C, (B, T, levels)).transpose(1, 2),
        torch.randn(levels, C, D).to(dtype),
    )
    kernel, plain = both(lambda: dispatch.rvq_lookup(codes, books))
    close(kernel, plain)
    one = sum(F.embedding(codes[:, n], books[n].double()) for n in range(levels))
    close(kernel.double(), one, 1e-6 if dtype == torch.float32 else 2e-3)


def test_lookup_is_differentiable():
    codes, books = torch.tensor([[[0, 1, 1]]]), torch.randn(1, 2, 3, requires_grad=True)
    with dispatch.using("interpret"):
        dispatch.rvq_lookup(codes, books).sum().backward()
    assert books.grad[0].tolist() == [[1.0] * 3, [2.0] * 3]
