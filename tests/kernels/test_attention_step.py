"""The streaming attention step: equal to offline attention for unsynchronised streams, in place equal to pure."""

import pytest
import torch

from speechstream.kernels import dispatch, reference
from speechstream.kernels.reference import RelativeBias

B, D, CHUNK, LEFT = 3, 8, 4, 6


def utterance(T, H, Hk, position):
    q, k, v = torch.randn(B, H, T, D), torch.randn(B, Hk, T, D), torch.randn(B, Hk, T, D)
    bias = rope = None
    if position == "relative":
        bias = RelativeBias(
            *(torch.randn(s) for s in ((H, LEFT + 2 * CHUNK - 1, D), (H, D), (H, D)))
        )
    if position == "rope":
        angle = torch.arange(T)[:, None] * torch.rand(D // 2)
        rope = angle.cos(), angle.sin()
    return q, k, v, bias, rope


@pytest.mark.parametrize("mode", ["off", "interpret"])
@pytest.mark.parametrize("position, H, Hk", [("rope", 2, 1), ("relative", 1, 1)])
def test_steps_equal_offline(mode, position, H, Hk, close):
    """Streams start at different steps, idle in between and end with a part of a chunk."""
    T, ends = 12, torch.tensor([12, 10, 5])
    q, k, v, bias, rope = utterance(T, H, Hk, position)
    expected = reference.chunked_attention(q, k, v, CHUNK, LEFT, ends, bias, rope)
    keys, values = torch.zeros(B, Hk, LEFT, D), torch.zeros(B, Hk, LEFT, D)
    pool_k, pool_v = (
        torch.full((5, Hk, LEFT + CHUNK + 1, D), 9.0),
        torch.full((5, Hk, LEFT + CHUNK + 1, D), 9.0),
    )
    slots, pool_frames = (
        torch.tensor([4, 0, 2], dtype=torch.int32),
        torch.zeros(5, dtype=torch.int32),
    )
    frames = torch.zeros(B, dtype=torch.long)
    got, got_pool = torch.zeros_like(expected), torch.zeros_like(expected)
    for step in range(5):
        active = torch.tensor([step != 1, step >= 1, step in (0, 4)])  # who has audio in this step
        n = torch.where(active, (ends - frames).clamp(max=CHUNK), 0)
        at = (frames[:, None] + torch.arange(CHUNK)).clamp(max=T - 1)
        take = lambda x: torch.stack([x[b, :, at[b]] for b in range(B)])
        turn = rope and (rope[0][at], rope[1][at])
        new = take(q), take(k), take(v)
        with dispatch.using(mode):
            y, keys, values = dispatch.attention_step(
                *new, keys, values, frames, n, bias=bias, rope=turn
            )
            y_pool = dispatch.pooled_attention_step(
                *new, pool_k, pool_v, slots, pool_frames, LEFT, n, bias=bias, rope=turn
            )
        for b in range(B):
            f, m = int(frames[b]), int(n[b])
            got[b, :, f : f + m], got_pool[b, :, f : f + m] = y[b, :, :m], y_pool[b, :, :m]
            assert y[b, :, m:].abs().sum() == 0
        frames = frames + n
        pool_frames[slots.long()] += n.int()
    assert frames.tolist() == ends.tolist()
    close(got, expected)
    close(got_pool, expected)
    untouched = [1, 3]
    assert (pool_k[untouched] == 9).all() and (pool_v[untouched] == 9).all()


@pytest.mark.parametrize(
    "H, Hk, c, left, chunk, position",
    [
        (4, 2, 5, 7, None, "rope"),
        (1, 1, 1, 0, None, "none"),
        (2, 2, 6, 5, 2, "relative"),
        (2, 1, 18, 3, 1, "none"),
    ],
)
def test_kernel_in_place_equals_reference(H, Hk, c, left, chunk, position, both, close):
    head, slots = 12, torch.tensor([3, 1], dtype=torch.int32)
    frames = torch.tensor([5, 100, 2, 0], dtype=torch.int32)
    q = torch.randn(2, c, H, head).transpose(1, 2)
    k, v = torch.randn(2, c, Hk, head).transpose(1, 2), torch.randn(2, Hk, c, head)
    width = left + 2 * (chunk or c) - 1
    bias = RelativeBias(torch.randn(H, width, head), torch.randn(H, head), torch.randn(H, head))
    pools = torch.randn(2, 4, Hk, left + c, head)
    rope = tuple(torch.randn(2, c, head // 2) for _ in range(2))

    def f():
        pk, pv = pools.clone()
        y = dispatch.pooled_attention_step(
            q,
            k,
            v,
            pk,
            pv,
            slots,
            frames,
            left,
            torch.tensor([c, max(c - 1, 0)]),
            chunk,
            bias if position == "relative" else None,
            rope if position == "rope" else None,
        )
        return y, pk, pv

    close(*both(f))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_rings(dtype, both, close):
    """Old rows are read with their scales; new rows are stored as the reference stores them.

    New vectors are multiples of a power of two with their largest element at the format's top, so that rounding is
    exact: the interpreter's own rounding to fp8 drops carries.
    """
    c, left, top = 3, 5, 127 if dtype == torch.int8 else 448
    q = torch.randn(1, 2, c, 8)
    k, v = (torch.randint(-8, 9, (1, 1, c, 8)).float() for _ in range(2))
    k[..., 0], v[..., 3] = top, -top
    pools = (torch.randn(2, 2, 1, left + c, 8) * 20).to(dtype)
    scales = torch.rand(2, 2, 1, left + c) * 0.1
    slots, frames = torch.tensor([1], dtype=torch.int32), torch.tensor([0, 7], dtype=torch.int32)

    def f():
        (pk, pv), (sk, sv) = pools.clone(), scales.clone()
        y = dispatch.pooled_attention_step(
            q / 100, k, v, pk, pv, slots, frames, left, key_scale=sk, value_scale=sv
        )
        return y, pk.float(), pv.float(), sk, sv

    kernel, plain = both(f)
    close(kernel, plain, 1e-4)
    row = 7 % (left + c)
    close(kernel[1][1, 0, row], k[0, 0, 0])


def test_quantisation_error_is_small():
    x = torch.randn(50, 64)
    for dtype, bound in ((torch.int8, 0.01), (torch.float8_e4m3fn, 0.04)):
        y, scale = reference.quantize(x, dtype)
        assert ((y.float() * scale[:, None] - x).norm() / x.norm()) < bound


def test_operator_is_well_formed():
    with dispatch.using("interpret"):
        dispatch._kernel("attention_step")
    q, pool, out = torch.randn(1, 1, 2, 8), torch.randn(1, 1, 6, 8), torch.zeros(1, 1, 2, 8)
    slots = torch.zeros(1, dtype=torch.int32)
    told = torch.library.opcheck(
        torch.ops.speechstream.attention_step.default,
        (
            q,
            q.clone(),
            q.clone(),
            pool,
            pool.clone(),
            slots,
            slots.clone(),
            3,
            2,
            0.3,
            out,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
        ),
        test_utils=("test_schema", "test_faketensor"),
    )
    assert set(told.values()) == {"SUCCESS"}
