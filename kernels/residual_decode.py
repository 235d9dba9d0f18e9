"""Depth-wise decoding of a block's residual codes in one launch, and the sum of their codebook vectors.

`residual_decode`: the levels depend on each other, so a step by step loop costs several launches a level; here a
program owns a stream and loops over the levels itself, its vectors in registers or in a scratch row, with barriers of
its own threads. The weights of a level are read once from the L2 cache by each stream's program.
`rvq_lookup`: levels are added in registers, so each output is written once and no (B, levels, T, D) tensor appears.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechstream.kernels.launch import tuned
from speechstream.kernels.reference import DepthWeights

CONFIGS = [triton.Config({"BO": o}, num_warps=w) for o, w in ((16, 8), (32, 16), (16, 4), (8, 4))]
LOOKUP = [triton.Config({"BT": t}, num_warps=w) for t, w in ((16, 4), (4, 4), (8, 8), (2, 2))]


@triton.jit
def normed(x, weight, d, D, eps):
    """RMS norm of a vector in registers."""
    w = tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
    return x * tl.rsqrt(tl.sum(x * x, 0) / D + eps) * w


@triton.jit
def times(matrix, x, row, column, rows, columns):
    """Rows of matrix (rows, columns) times the vector x in registers."""
    w = tl.load(
        matrix + row[:, None] * columns + column[None, :],
        mask=(row < rows)[:, None] & (column < columns)[None, :],
        other=0.0,
    )
    return tl.sum(w.to(tl.float32) * x[None, :], 1)


@tuned(CONFIGS, key=["D", "F", "C"])
@triton.jit
def residual_decode_kernel(
    context,
    norm,
    up,
    down,
    head_norm,
    head,
    embedding,
    noise,
    scratch,
    codes,
    out,
    levels,
    temperature,
    eps,
    D,
    F,
    C,
    NOISE: tl.constexpr,
    BD: tl.constexpr,
    BF: tl.constexpr,
    BO: tl.constexpr,
):
    b = tl.program_id(0).to(tl.int64)
    d, f = tl.arange(0, BD), tl.arange(0, BF)
    wide, narrow = scratch + b * (F + D), scratch + b * (F + D) + F
    x = tl.load(context + b * D + d, mask=d < D, other=0.0).to(tl.float32)
    for n in range(levels):
        z = normed(x, norm + n * D, d, D, eps)
        for o0 in range(0, F, BO):
            o = o0 + tl.arange(0, BO)
            y = times(up + n * F * D, z, o, d, F, D)
            tl.store(wide + o, y * tl.sigmoid(y), mask=o < F)
        tl.debug_barrier()
        hidden = tl.load(wide + f, mask=f < F, other=0.0)
        for o0 in range(0, D, BO):
            o = o0 + tl.arange(0, BO)
            tl.store(narrow + o, times(down + n * D * F, hidden, o, f, D, F), mask=o < D)
        tl.debug_barrier()
        x += tl.load(narrow + d, mask=d < D, other=0.0)
        z = normed(x, head_norm + n * D, d, D, eps)
        best, code = -1e30, 0
        for o0 in range(0, C, BO):
            o = o0 + tl.arange(0, BO)
            logits = times(head + n * C * D, z, o, d, C, D)
            if NOISE:
                logits += temperature * tl.load(
                    noise + (b * levels + n) * C + o, mask=o < C, other=0.0
                ).to(tl.float32)
            logits = tl.where(o < C, logits, -1e30)
            top = tl.max(logits, 0)
            code = tl.where(top > best, tl.min(tl.where(logits == top, o, C), 0), code)
            best = tl.maximum(best, top)
        tl.store(codes + b * levels + n, code)
        x += tl.load(embedding + (n * C + code) * D + d, mask=d < D, other=0.0).to(tl.float32)
    tl.store(out + b * D + d, x, mask=d < D)


@tuned(LOOKUP, key=["D", "levels"])
@triton.jit(do_not_specialize=["T"])
def rvq_lookup_kernel(codes, codebooks, out, T, levels, C, D, BT: tl.constexpr, BD: tl.constexpr):
    b = tl.program_id(1).to(tl.int64)
    t, d = tl.program_id(0) * BT + tl.arange(0, BT), tl.program_id(2) * BD + tl.arange(0, BD)
    mask = (t < T)[:, None] & (d < D)[None, :]
    acc = tl.zeros([BT, BD], tl.float32)
    for n in range(levels):
        code = tl.load(codes + (b * levels + n) * T + t, mask=t < T, other=0).to(tl.int64)
        acc += tl.load(
            codebooks + ((n * C + code) * D)[:, None] + d[None, :], mask=mask, other=0.0
        ).to(tl.float32)
    tl.store(out + (b * T + t)[:, None] * D + d[None, :], acc.to(out.dtype.element_ty), mask=mask)


@torch.library.custom_op("speechstream::residual_decode", mutates_args=("scratch", "codes", "out"))
def residual_decode_op(
    context: Tensor,
    norm: Tensor,
    up: Tensor,
    down: Tensor,
    head_norm: Tensor,
    head: Tensor,
    embedding: Tensor,
    noise: Tensor | None,
    temperature: float,
    scratch: Tensor,
    codes: Tensor,
    out: Tensor,
) -> None:
    """Writes codes (B, levels) int32 and out (B, D) fp32; scratch: (B, F + D) fp32."""
    levels, F, D = up.shape
    if codes.numel():
        residual_decode_kernel[(context.shape[0],)](
            context,
            norm,
            up,
            down,
            head_norm,
            head,
            embedding,
            context if noise is None else noise,
            scratch,
            codes,
            out,
            levels,
            temperature,
            1e-5,
            D,
            F,
            head.shape[1],
            NOISE=noise is not None,
            BD=triton.next_power_of_2(D),
            BF=triton.next_power_of_2(F),
        )


@residual_decode_op.register_fake
def _(context, norm, up, down, head_norm, head, embedding, noise, temperature, scratch, codes, out):
    return None


@torch.library.custom_op("speechstream::rvq_lookup", mutates_args=())
def rvq_lookup_op(codes: Tensor, codebooks: Tensor) -> Tensor:
    """codes (B, levels, T) int, codebooks (levels, C, D) -> (B, T, D)."""
    (B, levels, T), (_, C, D) = codes.shape, codebooks.shape
    out = codebooks.new_empty(B, T, D)
    if out.numel():
        block = min(256, triton.next_power_of_2(D))
        rvq_lookup_kernel[lambda m: (triton.cdiv(T, m["BT"]), B, triton.cdiv(D, block))](
            codes, codebooks, out, T, levels, C, D, BD=block
        )
    return out


@rvq_lookup_op.register_fake
def _(codes, codebooks):
    return codebooks.new_empty(codes.shape[0], codes.shape[2], codebooks.shape[2])


def residual_decode(
    context: Tensor,
    w: DepthWeights,
    noise: Tensor | None = None,
    temperature: float = 1.0,
    out: tuple | None = None,
) -> tuple[Tensor, Tensor]:
    """`reference.residual_decode` by the kernel above. out: (scratch, codes, final vector), else allocated."""
    (B, D), (levels, F, _) = context.shape, w.up.shape
    if out is None:
        like = dict(device=context.device, dtype=torch.float32)
        out = (
            torch.empty(B, F + D, **like),
            torch.empty(B, levels, device=context.device, dtype=torch.int32),
            torch.empty(B, D, **like),
        )
    noise = None if noise is None else noise.contiguous()
    residual_decode_op(context.contiguous(), *w, noise, temperature, *out)
    return out[1], out[2]


def rvq_lookup(codes: Tensor, codebooks: Tensor) -> Tensor:
    """`reference.rvq_lookup` by the kernel above."""
    return rvq_lookup_op(codes.contiguous(), codebooks.contiguous())
