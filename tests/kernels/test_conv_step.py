"""The convolution step: equal to the whole utterance's convolution, and the kernel equal to the reference."""

import pytest
import torch
import torch.nn.functional as F

from speechstream.kernels import dispatch


@pytest.mark.parametrize("mode", ["off", "interpret"])
def test_steps_equal_offline(mode, close):
    B, D, K, T = 2, 6, 5, 11
    x, norm = torch.randn(B, T, 2 * D), torch.nn.LayerNorm(D)
    conv = torch.nn.Conv1d(D, D, K, groups=D)
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
        expected = F.silu(
            norm(conv(F.pad(F.glu(x, -1).transpose(1, 2), (K - 1, 0))).transpose(1, 2))
        )
        weight, args = conv.weight[:, 0], (conv.bias, "layer", norm.weight, norm.bias)
        state, pool = torch.zeros(B, D, K - 1), torch.full((4, K + 2, D), 7.0)
        slots, frames = torch.tensor([2, 0], dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
        at, got, got_pool = [0, 0], torch.zeros(B, T, D), torch.zeros(B, T, D)
        for counts in ((3, 0), (1, 2), (3, 3), (0, 3), (3, 3), (1, 0)):
            n = torch.tensor(counts)
            new = torch.stack(
                [F.pad(x[b, at[b] : at[b] + counts[b]], (0, 0, 0, 3 - counts[b])) for b in range(B)]
            )
            with dispatch.using(mode):
                y, state = dispatch.conv_step(new, state, weight, *args, lengths=n)
                y_pool = dispatch.pooled_conv_step(
                    new, pool, slots, frames, weight, *args, lengths=n
                )
            for b, m in enumerate(counts):
                got[b, at[b] : at[b] + m], got_pool[b, at[b] : at[b] + m] = y[b, :m], y_pool[b, :m]
                at[b] += m
            frames[slots.long()] += n.int()
    assert at == [T, T]
    close(got, expected)
    close(got_pool, expected)
    assert (pool[[1, 3]] == 7).all()


@pytest.mark.parametrize(
    "norm, D, K, c, dtype",
    [
        ("layer", 20, 9, 5, torch.float32),
        ("affine", 33, 31, 1, torch.float32),
        ("none", 8, 3, 2, torch.float32),
        ("layer", 8, 9, 3, torch.bfloat16),
    ],
)
def test_kernel_equals_reference(norm, D, K, c, dtype, both, close):
    x = torch.randn(2, 2 * D, c).to(dtype).transpose(1, 2)  # not contiguous
    weight, a, b = torch.randn(K, D).t(), torch.randn(D), torch.randn(D)
    start, slots = torch.randn(3, K - 1 + c, D).to(dtype), torch.tensor([2, 0], dtype=torch.int32)
    frames = torch.tensor([3, 0, 90], dtype=torch.int32)

    def f():
        pool = start.clone()
        with torch.no_grad():
            cast = [p.to(dtype) for p in (weight, a, a, b)]
            return dispatch.pooled_conv_step(
                x,
                pool,
                slots,
                frames,
                cast[0],
                cast[1],
                norm,
                *cast[2:],
                lengths=torch.tensor([c, 1]),
            ), pool

    close(*both(f), 1e-5 if dtype == torch.float32 else 6e-2)


def test_operator_is_well_formed():
    with dispatch.using("interpret"):
        dispatch._kernel("conv_step")
    slots = torch.zeros(1, dtype=torch.int32)
    told = torch.library.opcheck(
        torch.ops.speechstream.conv_step.default,
        (
            torch.randn(1, 2, 8),
            torch.randn(1, 6, 4),
            slots,
            slots.clone(),
            torch.randn(4, 3),
            None,
            "none",
            None,
            None,
            1e-5,
            None,
            torch.zeros(1, 2, 4),
        ),
        test_utils=("test_schema", "test_faketensor"),
    )
    assert set(told.values()) == {"SUCCESS"}
