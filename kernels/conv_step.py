"""A Conformer convolution module's streaming step in one launch: `reference.pooled_conv_step`.

A program owns a stream and BD channels (all of them for a layer norm). It gates the new frames into the ring, waits
for its own writes, and convolves out of the ring, whose rows are then in the cache; so each new element is gated once
and not once for each tap. The ring needs K - 1 + c rows: nothing a program reads is overwritten.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechstream.kernels.launch import tuned

CONFIGS = [
    triton.Config({"BT": t}, num_warps=w) for t, w in ((8, 8), (16, 8), (4, 8), (4, 4), (2, 4))
]


@tuned(CONFIGS, key=["D", "K", "c", "NORM"])
@triton.jit(do_not_specialize=["c", "ring"])
def conv_step_kernel(
    x,
    pool,
    slots,
    frames,
    weight,
    bias,
    norm_weight,
    norm_bias,
    lengths,
    out,
    sxb,
    sxt,
    sob,
    sot,
    swd,
    swk,
    c,
    ring,
    eps,
    D: tl.constexpr,
    K: tl.constexpr,
    BD: tl.constexpr,
    NORM: tl.constexpr,
    BIAS: tl.constexpr,
    LENGTHS: tl.constexpr,
    BT: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + b).to(tl.int64)
    p = tl.load(frames + slot)
    n = c
    if LENGTHS:
        n = tl.minimum(tl.load(lengths + b).to(tl.int32), c)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    channel = d < D
    x += b * sxb
    pool += slot * ring * D
    for t0 in range(0, n, BT):
        t = t0 + tl.arange(0, BT)
        mask = (t < n)[:, None] & channel[None, :]
        a = tl.load(x + t[:, None] * sxt + d[None, :], mask=mask, other=0.0).to(tl.float32)
        gate = tl.load(x + t[:, None] * sxt + D + d[None, :], mask=mask, other=0.0).to(tl.float32)
        row = ((p + t) % ring).to(tl.int32)
        tl.store(
            pool + row[:, None] * D + d[None, :],
            (a * tl.sigmoid(gate)).to(pool.dtype.element_ty),
            mask=mask,
        )
    tl.debug_barrier()  # a program's writes become visible to all its threads
    for t0 in range(0, c, BT):
        t = t0 + tl.arange(0, BT)
        acc = tl.zeros([BT, BD], tl.float32)
        if BIAS:
            acc += tl.load(bias + d, mask=channel, other=0.0).to(tl.float32)[None, :]
        for k in range(K):
            f = p + t - (K - 1) + k
            row = ((f + ring) % ring).to(tl.int32)
            tap = tl.load(
                pool + row[:, None] * D + d[None, :],
                mask=((f >= 0) & (t < n))[:, None] & channel[None, :],
                other=0.0,
            ).to(tl.float32)
            acc += (
                tap
                * tl.load(weight + d * swd + k * swk, mask=channel, other=0.0).to(tl.float32)[
                    None, :
                ]
            )
        if NORM != "none":
            w = tl.load(norm_weight + d, mask=channel, other=0.0).to(tl.float32)[None, :]
            shift = tl.load(norm_bias + d, mask=channel, other=0.0).to(tl.float32)[None, :]
            if NORM == "layer":
                mean = tl.sum(acc, 1) / D
                acc = tl.where(channel[None, :], acc - mean[:, None], 0.0)
                acc = acc * tl.rsqrt(tl.sum(acc * acc, 1) / D + eps)[:, None]
            acc = acc * w + shift
        y = tl.where((t < n)[:, None], acc * tl.sigmoid(acc), 0.0)
        tl.store(
            out + b * sob + t[:, None] * sot + d[None, :],
            y.to(out.dtype.element_ty),
            mask=(t < c)[:, None] & channel[None, :],
        )


@torch.library.custom_op("speechstream::conv_step", mutates_args=("pool", "out"))
def conv_step_op(
    x: Tensor,
    pool: Tensor,
    slots: Tensor,
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: str,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    lengths: Tensor | None,
    out: Tensor,
) -> None:
    """Writes out (B, c, D) and the rings. pool is contiguous (S, R, D)."""
    (B, c, _), (D, K) = x.shape, weight.shape
    block = triton.next_power_of_2(D) if norm == "layer" else min(128, triton.next_power_of_2(D))
    if not out.numel():
        return
    conv_step_kernel[(B, triton.cdiv(D, block))](
        x,
        pool,
        slots,
        frames,
        weight,
        x if bias is None else bias,
        x if norm_weight is None else norm_weight,
        x if norm_bias is None else norm_bias,
        slots if lengths is None else lengths,
        out,
        x.stride(0),
        x.stride(1),
        out.stride(0),
        out.stride(1),
        weight.stride(0),
        weight.stride(1),
        c,
        pool.shape[1],
        eps,
        D=D,
        K=K,
        BD=block,
        NORM=norm,
        BIAS=bias is not None,
        LENGTHS=lengths is not None,
    )


@conv_step_op.register_fake
def _(x, pool, slots, frames, weight, bias, norm, norm_weight, norm_bias, eps, lengths, out):
    return None


def pooled_conv_step(
    x,
    pool,
    slots,
    frames,
    weight,
    bias=None,
    norm="layer",
    norm_weight=None,
    norm_bias=None,
    eps=1e-5,
    lengths=None,
    out=None,
) -> Tensor:
    """`reference.pooled_conv_step` by the kernel above. A weight stored taps first (`w.t().contiguous().t()`) is read
    in whole lines. With `out` given and x of unit last stride nothing is allocated."""
    if out is None:
        out = x.new_empty(x.shape[0], x.shape[1], weight.shape[0])
    conv_step_op(
        x if x.stride(-1) == 1 else x.contiguous(),
        pool,
        slots,
        frames,
        weight,
        bias,
        norm,
        norm_weight,
        norm_bias,
        eps,
        lengths,
        out,
    )
    return out


def conv_step(
    x,
    state,
    weight,
    bias=None,
    norm="layer",
    norm_weight=None,
    norm_bias=None,
    eps=1e-5,
    lengths=None,
) -> tuple[Tensor, Tensor]:
    """`reference.conv_step` (pure) by the same kernel, on rings built for the one step."""
    B, c, past = x.shape[0], x.shape[1], state.shape[2]
    pool = torch.cat([state.transpose(1, 2), state.new_empty(B, c, state.shape[1])], 1)
    slots = torch.arange(B, device=x.device, dtype=torch.int32)
    y = pooled_conv_step(
        x,
        pool,
        slots,
        torch.full_like(slots, past),
        weight,
        bias,
        norm,
        norm_weight,
        norm_bias,
        eps,
        lengths,
    )
    if lengths is None:
        return y, pool[:, c:].transpose(1, 2)
    last = lengths[:, None] + torch.arange(past, device=x.device)
    return y, pool[slots.long()[:, None], last].transpose(1, 2)
