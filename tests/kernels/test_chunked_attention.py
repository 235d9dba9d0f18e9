"""Chunked attention: the reference against a dense mask, its gradients by finite differences, the kernel against it."""

import math

import pytest
import torch

from speechstream.kernels import dispatch, reference
from speechstream.kernels.reference import RelativeBias


def dense(q, k, v, chunk, left, lengths=None, bias=None, rope=None):
    """The definition, frame by frame: one softmax over the keys that a frame may see."""
    B, H, T, D = q.shape
    out = torch.zeros_like(q)

    def turn(x, b, t):
        if rope is None:
            return x
        cos, sin = (a[t] if a.ndim == 2 else a[b, t] for a in rope)
        z = torch.complex(x[..., : D // 2], x[..., D // 2 :]) * torch.complex(cos, sin)
        return torch.cat([z.real, z.imag], -1)

    for b in range(B):
        end = T if lengths is None else int(lengths[b])
        for h in range(H):
            for t in range(end):
                start = t // chunk * chunk
                seen = range(max(0, start - left), min(start + chunk, end))
                kv = h // (H // k.shape[1])
                scores = []
                for s in seen:
                    score = turn(q[b, h, t] + (0 if bias is None else bias.u[h]), b, t) @ turn(
                        k[b, kv, s], b, s
                    )
                    if bias is not None:
                        distance = t - s
                        score = (
                            score
                            + (q[b, h, t] + bias.v[h])
                            @ bias.positions[h, left + chunk - 1 - distance]
                        )
                    scores.append(score / math.sqrt(D))
                weights = torch.stack(scores).softmax(0)
                out[b, h, t] = sum(w * v[b, kv, s] for w, s in zip(weights, seen))
    return out


def inputs(B, H, Hk, T, D, chunk, left, position, dtype=torch.float32, lengths=True):
    q = torch.randn(B, T, H, D, dtype=dtype).transpose(
        1, 2
    )  # not contiguous, as a projection leaves it
    k, v = (torch.randn(B, Hk, T, D, dtype=dtype) for _ in range(2))
    bias = rope = None
    if position == "relative":
        bias = RelativeBias(
            *(
                torch.randn(s, dtype=dtype) * 0.5
                for s in ((H, left + 2 * chunk - 1, D), (H, D), (H, D))
            )
        )
    elif position == "rope":
        angle = torch.arange(T, dtype=dtype)[:, None] * torch.rand(D // 2, dtype=dtype)
        rope = angle.cos(), angle.sin()
    n = torch.tensor([T, 1, 0, T - 1][:B]) if lengths else None
    return {
        "q": q,
        "k": k,
        "v": v,
        "chunk": chunk,
        "left": left,
        "lengths": n,
        "bias": bias,
        "rope": rope,
    }


CASES = [  # B, H, Hk, T, D, chunk, left, position
    (3, 2, 1, 19, 8, 4, 6, "none"),
    (1, 1, 1, 7, 8, 3, 0, "rope"),
    (2, 2, 2, 5, 8, 9, 4, "relative"),  # a chunk longer than the utterance
    (2, 2, 2, 11, 12, 2, 5, "relative"),
    (1, 2, 1, 9, 8, 1, 3, "rope"),  # causal
    (1, 1, 1, 1, 8, 4, 2, "none"),
]


@pytest.mark.parametrize("case", CASES)
def test_reference_is_the_definition(case, close):
    args = inputs(*case, dtype=torch.float64)
    close(reference.chunked_attention(**args), dense(**args), 1e-10)


@pytest.mark.parametrize("position", ["none", "rope", "relative"])
def test_reference_gradient_by_finite_differences(position):
    args = inputs(2, 2, 1 if position == "none" else 2, 5, 4, 2, 3, position, dtype=torch.float64)
    tensors = [args["q"].contiguous(), args["k"], args["v"], *(args["bias"] or ())]

    def f(q, k, v, *bias):
        return reference.chunked_attention(
            q, k, v, 2, 3, args["lengths"], RelativeBias(*bias) if bias else None, args["rope"]
        )

    assert torch.autograd.gradcheck(f, [t.requires_grad_() for t in tensors])


@pytest.mark.parametrize(
    "case", CASES + [(1, 2, 2, 33, 44, 5, 7, "relative"), (2, 1, 1, 21, 32, 16, 3, "rope")]
)
def test_kernel_and_its_gradients(case, both, close):
    args = inputs(*case)
    leaves = [args[n].requires_grad_() for n in "qkv"] + [
        t.requires_grad_() for t in args["bias"] or ()
    ]
    weight = torch.randn(args["q"].shape)

    def f():
        y = dispatch.chunked_attention(**args)
        return y, torch.autograd.grad((y * weight).sum(), leaves)

    kernel, plain = both(f)
    close(kernel, plain, 2e-5)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
def test_kernel_in_half_precision(dtype, tolerance, both):
    args = inputs(1, 1, 1, 17, 16, 4, 5, "rope")
    exact = reference.chunked_attention(**args)
    args = {n: a.to(dtype) if n in "qkv" else a for n, a in args.items()}
    kernel, _ = both(lambda: dispatch.chunked_attention(**args))
    assert kernel.dtype == dtype
    assert (kernel.float() - exact).norm() / exact.norm() < tolerance


def test_lengths_equal_cutting_the_streams(both, close):
    args = inputs(2, 1, 1, 18, 8, 4, 4, "none", lengths=False)
    lengths = torch.tensor([18, 6])
    kernel, _ = both(lambda: dispatch.chunked_attention(**{**args, "lengths": lengths}))
    cut = {**args, **{n: args[n][1:, :, :6] for n in "qkv"}}
    close(kernel[1:, :, :6], reference.chunked_attention(**cut))
    assert kernel[1, :, 6:].abs().max() == 0


def test_operator_is_well_formed():
    with dispatch.using("interpret"):
        dispatch._kernel("chunked_attention")
    q, k, v = (torch.randn(1, 1, 6, 8, requires_grad=True) for _ in range(3))
    told = torch.library.opcheck(
        torch.ops.speechstream.chunked_attention.default,
        (q, k, v, 2, 3, 0.3, None, None, None, None, None),
    )
    assert set(told.values()) == {"SUCCESS"}


def test_tuning_tries_only_what_fits():
    with dispatch.using("interpret"):
        kernels = dispatch._kernel("chunked_attention")
    prune = kernels.attention_forward.early_config_prune
    half, single = ({"q": torch.zeros(1, dtype=dtype)} for dtype in (torch.bfloat16, torch.float32))
    assert prune(kernels.FORWARD, half, HALF=32, RELATIVE=False) == kernels.FORWARD
    sizes = {
        (c.kwargs["M"], c.kwargs["N"]) for c in prune(kernels.FORWARD, half, HALF=32, RELATIVE=True)
    }
    assert sizes == {(32, 64), (32, 32), (16, 16)}
    backward = prune(kernels.BACKWARD, half | {"dout": None}, HALF=32, RELATIVE=True)
    assert max(c.kwargs["M"] * c.kwargs["N"] for c in backward) == 32 * 32
    assert (
        prune(kernels.FORWARD, single, HALF=128, RELATIVE=True) == kernels.FORWARD[-1:]
    )  # never none


def test_empty_utterance(both, close):
    args = inputs(1, 1, 1, 0, 8, 4, 2, "none", lengths=False)
    kernel, plain = both(lambda: dispatch.chunked_attention(**args))
    assert kernel.shape == plain.shape == (1, 1, 0, 8)
