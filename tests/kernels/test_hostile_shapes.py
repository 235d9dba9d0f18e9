"""Every kernel at awkward shapes, in fp32 and fp16, against the reference in fp64 on the same numbers.

Odd lengths, one stream, streams of no and of one frame, no left context, a chunk longer than the utterance, tensors
that are not contiguous, sizes that are no power of two.
"""

import pytest
import torch

from speechstream.kernels import dispatch, reference
from speechstream.kernels.reference import DepthWeights, RelativeBias, TransducerWeights

DTYPES = {
    torch.float32: 3e-5,
    torch.float16: 2e-2,
}  # relative error in the Frobenius norm, of outputs and gradients


def strided(*shape):
    """Random numbers of which no axis but the last has the stride one expects, and each second row is another's."""
    return torch.randn(shape[0], 2 * shape[1], *shape[2:])[:, ::2]


def compare(f, tensors, dtype, gradient=False):
    """f of tensors in dtype by the kernels, and of the same numbers in fp64 by the reference; with gradients."""
    narrow = [t.to(dtype).requires_grad_(gradient) for t in tensors]
    wide = [t.detach().double().requires_grad_(gradient) for t in narrow]
    results = []
    torch.use_deterministic_algorithms(
        True, warn_only=True
    )  # torch then fills what it allocates with NaN
    try:
        for mode, args in (("interpret", narrow), ("off", wide)):
            with dispatch.using(mode):
                out = f(*args)
                out = list(out) if isinstance(out, (tuple, list)) else [out]
                if gradient:
                    torch.manual_seed(1)
                    weight = torch.randn(out[0].shape, dtype=torch.float64)
                    out += torch.autograd.grad((out[0] * weight.to(out[0])).sum(), args)
            results.append(out)
    finally:
        torch.use_deterministic_algorithms(False)
    for got, want in zip(*results):
        assert got.shape == want.shape
        if not got.dtype.is_floating_point:
            assert torch.equal(got, want.to(got.dtype))
        else:
            want = want.detach()
            scale = max(
                float(want.norm()), 0.1 * want.numel() ** 0.5, 1e-3
            )  # a gradient may be zero
            assert (got.double() - want).norm() <= DTYPES[dtype] * scale  # False for NaN


def positions(kind, H, chunk, left, D):
    if kind != "relative":
        return []
    return [torch.randn(s) * 0.5 for s in ((H, left + 2 * chunk - 1, D), (H, D), (H, D))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "B, H, Hk, T, D, chunk, left, kind, lengths",
    [
        (1, 2, 1, 13, 6, 4, 0, "rope", [13]),
        (3, 1, 1, 7, 10, 11, 3, "relative", [0, 1, 7]),
        (2, 3, 3, 1, 4, 2, 5, "relative", [1, 0]),
        (2, 2, 2, 23, 18, 1, 17, "none", [23, 1]),
    ],
)
def test_chunked_attention(B, H, Hk, T, D, chunk, left, kind, lengths, dtype):
    rope = tuple(torch.randn(T, D // 2) for _ in range(2)) if kind == "rope" else None

    def f(q, k, v, *bias):
        return dispatch.chunked_attention(
            q, k, v, chunk, left, torch.tensor(lengths), RelativeBias(*bias) if bias else None, rope
        )

    compare(
        f,
        [
            strided(B, H, T, D),
            strided(B, T, Hk, D).transpose(1, 2),
            strided(B, Hk, T, D),
            *positions(kind, H, chunk, left, D),
        ],
        dtype,
        gradient=True,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "H, Hk, c, D, chunk, left, kind, lengths",
    [
        (2, 1, 3, 6, 5, 0, "rope", [3, 0]),  # a chunk longer than the step, nothing to the left
        (1, 1, 1, 10, None, 7, "relative", [1, 1]),
        (4, 2, 19, 4, 3, 6, "none", [1, 19]),  # several chunks, several programs a head
        (2, 2, 21, 8, 4, 5, "relative", [21, 17]),
    ],
)
def test_attention_step(H, Hk, c, D, chunk, left, kind, lengths, dtype):
    """In place and pure; one stream is young."""
    frames, slots = (
        torch.tensor([2, 50, 3], dtype=torch.int32),
        torch.tensor([2, 1], dtype=torch.int32),
    )
    rope, n = tuple(torch.randn(2, c, D // 2) for _ in range(2)), torch.tensor(lengths)

    def f(q, k, v, keys, values, *bias):
        extra = {
            "lengths": n,
            "chunk": chunk,
            "bias": RelativeBias(*bias) if bias else None,
            "rope": rope if kind == "rope" else None,
        }
        pools = [
            torch.cat([x, x], 2)[:, :, : left + c + 1].repeat(2, 1, 1, 1)[:3].contiguous()
            for x in (keys, values)
        ]
        y = dispatch.pooled_attention_step(q, k, v, *pools, slots, frames, left, **extra)
        pure = dispatch.attention_step(
            q,
            k,
            v,
            keys[:, :, : left + 1],
            values[:, :, : left + 1],
            frames[slots.long()],
            left=left,
            **extra,
        )
        return y, *pools, *pure

    compare(
        f,
        [
            strided(2, H, c, D),
            strided(2, c, Hk, D).transpose(1, 2),
            strided(2, Hk, c, D),
            strided(2, Hk, left + c + 1, D),
            strided(2, Hk, left + c + 1, D),
            *positions(kind, H, chunk or c, left, D),
        ],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "norm, D, K, c, lengths",
    [
        ("layer", 5, 3, 1, [1, 0]),
        ("affine", 7, 10, 5, [1, 5]),
        ("none", 1, 2, 3, [0, 2]),
        ("layer", 130, 2, 2, [2, 1]),
    ],
)
def test_conv_step(norm, D, K, c, lengths, dtype):
    frames, slots, n = (
        torch.tensor([1, 9], dtype=torch.int32),
        torch.tensor([1, 0], dtype=torch.int32),
        torch.tensor(lengths),
    )

    def f(x, pool, state, weight, *vectors):
        pool = pool.contiguous().clone()
        bias, *scale = (v[0] for v in vectors)
        y = dispatch.pooled_conv_step(x, pool, slots, frames, weight, bias, norm, *scale, lengths=n)
        return y, pool, *dispatch.conv_step(x, state, weight, bias, norm, *scale, lengths=n)

    compare(
        f,
        [
            strided(2, c, 2 * D),
            strided(2, K - 1 + c, D),
            strided(2, D, K - 1),
            strided(D, K),
            *(torch.randn(2, D) for _ in range(3)),
        ],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "B, T, U, J, V, lengths, counts",
    [
        (1, 5, 0, 3, 2, [5], [0]),
        (3, 7, 5, 6, 9, [0, 1, 7], [5, 0, 3]),
        (2, 1, 3, 5, 17, [1, 1], [1, 3]),
    ],
)
def test_transducer_loss(B, T, U, J, V, lengths, counts, dtype):
    targets, n, m = torch.randint(1, V, (B, U)), torch.tensor(lengths), torch.tensor(counts)

    def f(encoder, predictor, weight, bias):
        return dispatch.transducer_loss(
            encoder, predictor, weight, bias[0], targets, n, m, reduction="none"
        )

    compare(
        f,
        [strided(B, T, J), strided(B, J, U + 1).transpose(1, 2), strided(V, J), torch.randn(1, V)],
        dtype,
        gradient=True,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "T, U, width, lengths, counts", [(7, 3, 2, [7, 4], [3, 1]), (5, 4, 3, [5, 0], [4, 2])]
)
def test_pruned_transducer_loss(T, U, width, lengths, counts, dtype):
    targets, n, m = torch.randint(1, 6, (2, U)), torch.tensor(lengths), torch.tensor(counts)

    def f(encoder, predictor, weight, bias, f_simple, g_simple):
        simple, pruned = dispatch.pruned_transducer_loss(
            encoder,
            predictor,
            weight,
            bias[0],
            f_simple,
            g_simple,
            targets,
            n,
            m,
            width,
            reduction="none",
        )
        return torch.stack([simple.double(), pruned.double()])

    compare(
        f,
        [
            strided(2, T, 4),
            strided(2, U + 1, 4),
            strided(6, 4),
            torch.randn(1, 6),
            strided(2, T, 6),
            strided(2, U + 1, 6),
        ],
        dtype,
        gradient=True,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "layers, context, durations, c, lengths",
    [
        (1, 0, (), 1, [1]),
        (2, 0, (0, 3), 5, [5, 0, 1]),
        (0, 1, (), 3, [1, 3]),
        (0, 4, (1, 2), 7, [0, 7]),
    ],
)
def test_greedy_decoding(layers, context, durations, c, lengths, dtype):
    C, J, H, B = 5, 7, 3, len(lengths)
    inputs = torch.randn(context, C, H) if context else torch.randn(C, 4 * H)
    tensors = [
        inputs,
        torch.randn(layers, 4 * H, H),
        torch.randn(max(layers - 1, 0), 4 * H, H),
        torch.randn(max(layers - 1, 0), 4 * H),
        torch.randn(J, H),
        torch.randn(J),
        torch.randn(C + len(durations), J),
        torch.randn(C + len(durations)),
    ]

    def f(encoder, *weights):
        w = TransducerWeights(*weights, C - 1, durations, "tanh")
        *found, state = dispatch.greedy_decode(
            encoder, torch.tensor(lengths), w, reference.init_greedy(w, B), 3
        )
        assert int(found[2].sum()) > 0
        return *found, *state

    compare(f, [strided(B, c, J), *tensors], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("B, levels, D, hidden, C", [(1, 1, 3, 5, 2), (3, 4, 9, 17, 7)])
def test_residual_decoding(B, levels, D, hidden, C, dtype):
    shapes = (
        (levels, D),
        (levels, hidden, D),
        (levels, D, hidden),
        (levels, D),
        (levels, C, D),
        (levels, C, D),
    )

    def f(context, noise, *weights):
        return dispatch.residual_decode(context, DepthWeights(*weights), noise, 0.5)

    compare(
        f,
        [
            strided(B, D),
            torch.randn(B, C, levels).transpose(1, 2),
            *(torch.randn(s) for s in shapes),
        ],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "B, levels, T, C, D", [(1, 3, 1, 2, 5), (2, 5, 11, 3, 257), (2, 1, 0, 2, 3)]
)
def test_codebook_sum(B, levels, T, C, D, dtype):
    codes = torch.randint(0, C, (B, T, levels)).transpose(1, 2)
    compare(lambda books: dispatch.rvq_lookup(codes, books), [strided(levels, C, D)], dtype)


def test_reference_gradient_of_the_pruned_loss_by_finite_differences():
    """Where the band does not move: it is chosen from the simple joint, whose gradient is checked apart."""
    leaves = [
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in ((2, 4, 3), (2, 4, 3), (5, 3), (5,))
    ]
    targets, n, m = torch.randint(1, 5, (2, 3)), torch.tensor([4, 3]), torch.tensor([3, 1])
    starts = torch.tensor([[0, 0, 1, 2], [0, 0, 0, 0]])

    def band(*x):
        return reference.lattice_logprob(
            *reference.joint_logprobs(*x, targets, 0, "tanh", starts, 2), n, m, starts
        )

    assert torch.autograd.gradcheck(band, leaves)
    simple = [
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 4, 5), (2, 4, 5))
    ]
    assert torch.autograd.gradcheck(
        lambda f, g: reference.lattice_logprob(*reference.simple_logprobs(f, g, targets, 0), n, m),
        simple,
    )


def test_reference_gradients_of_the_steps_by_finite_differences():
    """The streaming steps have a gradient by the reference, which their calls take where one is needed."""
    make = lambda *s: torch.randn(*s, dtype=torch.float64, requires_grad=True)
    frames, n = torch.tensor([1, 9]), torch.tensor([2, 1])
    assert torch.autograd.gradcheck(
        lambda *x: dispatch.attention_step(*x[:5], frames, n, bias=RelativeBias(*x[5:])),
        [
            make(2, 1, 2, 4),
            make(2, 1, 2, 4),
            make(2, 1, 2, 4),
            make(2, 1, 3, 4),
            make(2, 1, 3, 4),
            make(1, 6, 4),
            make(1, 4),
            make(1, 4),
        ],
    )
    assert torch.autograd.gradcheck(
        lambda x, s, w, *v: dispatch.conv_step(x, s, w, v[0], "layer", v[1], v[2]),
        [make(2, 2, 6), make(2, 3, 2), make(3, 3), make(3), make(3), make(3)],
    )
    codes = torch.randint(0, 3, (1, 2, 4))
    assert torch.autograd.gradcheck(
        lambda books: dispatch.rvq_lookup(codes, books), [make(2, 3, 2)], atol=1e-2, eps=1e-1
    )  # it adds in fp32; it is linear, so a wide step is exact
