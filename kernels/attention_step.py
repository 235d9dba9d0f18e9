"""The streaming attention step on a pool of rings: `reference.pooled_attention_step` in one launch.

A program owns one stream's key head and M of its query rows (the heads of a group and the new frames, packed). It
rotates the new queries and keys, walks the ring's `left` rows in place, then the new frames, and the first program of
a head writes the new frames into the ring. The ring has at least left + c rows, so the rows written are never among
those read: no program waits for another. Nothing is allocated and the host reads nothing, so a CUDA graph can hold it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechstream.kernels.chunked_attention import dot_halves, fits, load_halves, skewed
from speechstream.kernels.launch import INTERPRETED, precision, put_tile, rows, tile, tuned, turn

CONFIGS = [
    triton.Config({"M": m, "N": n}, num_warps=w, num_stages=s)
    for m, n, w, s in (
        (16, 64, 4, 3),
        (16, 128, 4, 2),
        (16, 64, 2, 4),
        (16, 32, 1, 4),
        (32, 64, 4, 3),
        (64, 64, 4, 3),
        (16, 16, 2, 2),
    )
]


@triton.jit
def attend(
    s, seen, value, value_scale, m, l, acc, scale, SCALED: tl.constexpr, PRECISION: tl.constexpr
):
    """One block of the online softmax."""
    s = tl.where(seen, s * (scale * 1.4426950408889634), -1e30)
    top = tl.maximum(m, tl.max(s, 1))
    p = tl.where(seen, tl.exp2(s - top[:, None]), 0.0)
    shrink = tl.exp2(m - top)
    l = l * shrink + tl.sum(p, 1)
    if SCALED:
        p = p * value_scale[None, :]
    acc = tl.dot(p.to(value.dtype), value, acc=acc * shrink[:, None], input_precision=PRECISION)
    return top, l, acc


@triton.jit
def ring_halves(
    pool,
    scales,
    row,
    mask,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROPE: tl.constexpr,
    SCALED: tl.constexpr,
    like,
):
    """Rows of the key ring, as `load_halves` gives new ones, in the dtype of `like`, and their scales."""
    if ROPE:
        d = tl.arange(0, HALF)
        x1 = tile(pool, row, d, D, mask, D // 2, HALF, False).to(like.dtype)
        x2 = tile(pool + D // 2, row, d, D, mask, D // 2, HALF, False).to(like.dtype)
    else:
        x1 = tile(pool, row, tl.arange(0, 2 * HALF), D, mask, D, 2 * HALF, False).to(like.dtype)
        x2 = x1
    if SCALED:
        scale = tl.load(scales + row, mask=mask, other=0.0)
    else:
        scale = mask.to(tl.float32)
    return x1, x2, scale


@triton.jit
def quantized(x, scale, dtype: tl.constexpr):
    y = x.to(tl.float32) / scale[:, None]
    if dtype == tl.int8:
        y = tl.floor(y + 0.5)
    return y.to(dtype)


@triton.jit
def append(
    key_ring,
    value_ring,
    key_scale,
    value_scale,
    k1,
    k2,
    value,
    row,
    mask,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROPE: tl.constexpr,
    SCALED: tl.constexpr,
    TOP: tl.constexpr,
):
    """Store new keys and values as rows of the rings, quantised where these have scales."""
    half, full = tl.arange(0, HALF), tl.arange(0, 2 * HALF)
    if SCALED:
        largest = tl.max(tl.abs(k1.to(tl.float32)), 1)
        if ROPE:
            largest = tl.maximum(largest, tl.max(tl.abs(k2.to(tl.float32)), 1))
        ks = tl.maximum(largest, 1e-8) / TOP
        vs = tl.maximum(tl.max(tl.abs(value.to(tl.float32)), 1), 1e-8) / TOP
        tl.store(key_scale + row, ks, mask=mask)
        tl.store(value_scale + row, vs, mask=mask)
        dtype: tl.constexpr = key_ring.dtype.element_ty
        k1, k2, value = (
            quantized(k1, ks, dtype),
            quantized(k2, ks, dtype),
            quantized(value, vs, dtype),
        )
    if ROPE:
        put_tile(key_ring, k1, row, half, D, mask, D // 2, HALF)
        put_tile(key_ring + D // 2, k2, row, half, D, mask, D // 2, HALF)
    else:
        put_tile(key_ring, k1, row, full, D, mask, D, 2 * HALF)
    put_tile(value_ring, value, row, full, D, mask, D, 2 * HALF)


@tuned(CONFIGS, key=["D", "c", "group", "RELATIVE", "SCALED"], fits=fits)
@triton.jit(do_not_specialize=["c", "chunk", "left", "ring", "base"])
def attention_step_kernel(
    q,
    q_pos,
    k,
    v,
    table,
    cos,
    sin,
    key_pool,
    value_pool,
    key_scale,
    value_scale,
    slots,
    frames,
    lengths,
    out,
    sqb,
    sqh,
    sqt,
    spb,
    sph,
    spt,
    skb,
    skh,
    skt,
    svb,
    svh,
    svt,
    sob,
    soh,
    sot,
    s_rope,
    c,
    chunk,
    left,
    ring,
    base,
    scale,
    H,
    group,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROPE: tl.constexpr,
    RELATIVE: tl.constexpr,
    SCALED: tl.constexpr,
    LENGTHS: tl.constexpr,
    LINEAR: tl.constexpr,
    TOP: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    heads = H // group
    b, hk = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    slot = tl.load(slots + b).to(tl.int64)
    p = tl.load(frames + slot)
    n = c
    if LENGTHS:
        n = tl.minimum(tl.load(lengths + b).to(tl.int32), c)
    W: tl.constexpr = 2 * M if M > N else 2 * N
    r0 = tl.program_id(1) * M
    r = r0 + tl.arange(0, M)
    h, i, inside = hk * group + r // c, r % c, r < group * c
    full = tl.arange(0, 2 * HALF)
    cos += b * s_rope
    sin += b * s_rope
    # A row's head and frame give its place: two strides, so the tile's row stride is 1.
    q1, q2 = load_rows(q + b * sqb, h * sqh + i * sqt, i, cos, sin, inside, D, HALF, ROPE, UPCAST)
    if RELATIVE:  # one head a group: h is the same for all rows and i is r
        qp = tile(q_pos + b * spb + hk * sph, i, full, spt, inside, D, 2 * HALF, UPCAST)
    start = i // chunk * chunk
    m, l = tl.full([M], -1e30, tl.float32), tl.zeros([M], tl.float32)
    acc = tl.zeros([M, 2 * HALF], tl.float32)
    place = p  # the row of the first new frame, and of j frames after it (place + j) % ring
    if LINEAR:
        place = ring - c
    key_ring = key_pool + (slot * heads + hk) * ring * D
    value_ring = value_pool + (slot * heads + hk) * ring * D
    key_scale += (slot * heads + hk) * ring
    value_scale += (slot * heads + hk) * ring

    # The first and last chunk among these rows; they hold frames 0 .. c - 1 where they run on into another head.
    first, last = r0 % c, r0 % c + M
    first = tl.where((last > c) & (r0 - first + c < group * c), 0, first)
    low, high = (
        first // chunk * chunk - left,
        tl.minimum(((tl.minimum(last, c) - 1) // chunk + 1) * chunk, n),
    )
    past = tl.minimum(p, left).to(tl.int32)
    if first >= n:
        past, high = 0, 0
    for n0 in range(
        tl.maximum(low, -past), 0, N
    ):  # the ring, oldest first; j counts frames from the first new one
        j = n0 + tl.arange(0, N)
        row = ((place + j) % ring).to(tl.int32)
        k1, k2, ks = ring_halves(key_ring, key_scale, row, j < 0, D, HALF, ROPE, SCALED, q1)
        s = dot_halves(q1, q2, k1, k2, ROPE, PRECISION)
        value = tile(value_ring, row, full, D, j < 0, D, 2 * HALF, False).to(q1.dtype)
        vs = ks
        if SCALED:
            s = s * ks[None, :]
            vs = tl.load(value_scale + row, mask=j < 0, other=0.0)
        if RELATIVE:
            extra, _, _ = skewed(
                qp, table, hk, r0, n0, base, base + chunk, D, HALF, M, N, W, UPCAST, PRECISION
            )
            s += extra
        seen = (j[None, :] >= start[:, None] - left) & (j < 0)[None, :] & (i < n)[:, None]
        m, l, acc = attend(s, seen, value, vs, m, l, acc, scale, SCALED, PRECISION)

    for n0 in range(tl.maximum(low, 0), high, N):  # the new frames
        j = n0 + tl.arange(0, N)
        k1, k2 = load_halves(k + b * skb + hk * skh, cos, sin, j, skt, j < n, D, HALF, ROPE, UPCAST)
        value = tile(v + b * svb + hk * svh, j, full, svt, j < n, D, 2 * HALF, UPCAST)
        s = dot_halves(q1, q2, k1, k2, ROPE, PRECISION)
        if RELATIVE:
            extra, _, _ = skewed(
                qp, table, hk, r0, n0, base, base + chunk, D, HALF, M, N, W, UPCAST, PRECISION
            )
            s += extra
        seen = (j[None, :] >= start[:, None] - left) & (j[None, :] < (start + chunk)[:, None])
        seen = seen & (j < n)[None, :] & (i < n)[:, None]
        m, l, acc = attend(s, seen, value, m, m, l, acc, scale, False, PRECISION)

    if r0 < n:  # this program's share of the new frames goes into the ring
        k1, k2 = load_halves(k + b * skb + hk * skh, cos, sin, r, skt, r < n, D, HALF, ROPE, UPCAST)
        value = tile(v + b * svb + hk * svh, r, full, svt, r < n, D, 2 * HALF, UPCAST)
        row = ((place + r) % ring).to(tl.int32)
        append(
            key_ring,
            value_ring,
            key_scale,
            value_scale,
            k1,
            k2,
            value,
            row,
            r < n,
            D,
            HALF,
            ROPE,
            SCALED,
            TOP,
        )

    acc = acc / tl.where(l > 0, l, 1.0)[:, None]
    put_tile(out + b * sob, acc, h * soh + i * sot, full, 1, inside, D, 2 * HALF)


@triton.jit
def load_rows(
    q,
    at,
    i,
    cos,
    sin,
    mask,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROPE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Queries at element offsets `at`, turned by the position of frame i, as `load_halves` gives vectors."""
    if ROPE:
        d = tl.arange(0, HALF)
        x1 = tile(q, at, d, 1, mask, D // 2, HALF, UPCAST)
        x2 = tile(q + D // 2, at, d, 1, mask, D // 2, HALF, UPCAST)
        cs = tile(cos, i, d, D // 2, mask, D // 2, HALF, True)
        sn = tile(sin, i, d, D // 2, mask, D // 2, HALF, True)
        x1, x2 = turn(x1, x2, cs, sn)
    else:
        x1 = tile(q, at, tl.arange(0, 2 * HALF), 1, mask, D, 2 * HALF, UPCAST)
        x2 = x1
    return x1, x2


@torch.library.custom_op(
    "speechstream::attention_step",
    mutates_args=("key_pool", "value_pool", "key_scale", "value_scale", "out"),
)
def attention_step_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_pool: Tensor,
    value_pool: Tensor,
    slots: Tensor,
    frames: Tensor,
    left: int,
    chunk: int,
    scale: float,
    out: Tensor,
    lengths: Tensor | None,
    q_pos: Tensor | None,
    table: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    linear: bool = False,
) -> None:
    """Writes out and the rings. Pools are contiguous (S, Hk, R, D); the rest as in `pooled_attention_step`.

    linear: the rows lie oldest first and the new frames come last, as in a pure state with room at its end.
    """
    B, H, c, D = q.shape
    heads, ring = key_pool.shape[1:3]
    group = H // heads
    if not out.numel():
        return
    q_pos_ = q if q_pos is None else q_pos
    attention_step_kernel[lambda m: (B * heads, triton.cdiv(group * c, m["M"]))](
        q,
        q_pos_,
        k,
        v,
        q if table is None else table,
        q if cos is None else cos,
        q if sin is None else sin,
        key_pool,
        value_pool,
        q if key_scale is None else key_scale,
        q if value_scale is None else value_scale,
        slots,
        frames,
        slots if lengths is None else lengths,
        out,
        *q.stride()[:3],
        *q_pos_.stride()[:3],
        *k.stride()[:3],
        *v.stride()[:3],
        *out.stride()[:3],
        0 if cos is None or cos.shape[0] == 1 else cos.stride(0),
        c,
        chunk,
        left,
        ring,
        left + chunk - 1,
        scale,
        H,
        group,
        D=D,
        HALF=max(16, triton.next_power_of_2(D // 2)),
        ROPE=cos is not None,
        RELATIVE=table is not None,
        SCALED=key_scale is not None,
        LENGTHS=lengths is not None,
        LINEAR=linear,
        TOP=127.0 if key_pool.dtype == torch.int8 else 448.0,
        UPCAST=INTERPRETED and q.dtype == torch.bfloat16,
        PRECISION=precision(),
    )


@attention_step_op.register_fake
def _(
    q,
    k,
    v,
    key_pool,
    value_pool,
    slots,
    frames,
    left,
    chunk,
    scale,
    out,
    lengths,
    q_pos,
    table,
    cos,
    sin,
    key_scale,
    value_scale,
    linear=False,
):
    return None


def pooled_attention_step(
    q,
    k,
    v,
    key_pool,
    value_pool,
    slots,
    frames,
    left,
    lengths=None,
    chunk=None,
    bias=None,
    rope=None,
    scale=None,
    key_scale=None,
    value_scale=None,
    out=None,
    linear=False,
) -> Tensor:
    """`reference.pooled_attention_step` by the kernel above. With `out` given and q, k, v of unit last stride and no
    bias, nothing is allocated."""
    B, H, c, D = q.shape
    q_pos = table = cos = sin = None
    if bias is not None:
        q_pos, table = q + bias.v[:, None].to(q.dtype), bias.positions.to(q.dtype).contiguous()
        q = q + bias.u[:, None].to(q.dtype)
    if rope is not None:
        cos, sin = (a.contiguous().reshape(-1, *a.shape[-2:]) for a in rope)
    if out is None:
        out = q.new_empty(B, c, H, D).transpose(1, 2)
    attention_step_op(
        rows(q),
        rows(k),
        rows(v),
        key_pool,
        value_pool,
        slots,
        frames,
        left,
        chunk or max(c, 1),
        D**-0.5 if scale is None else scale,
        out,
        lengths,
        q_pos,
        table,
        cos,
        sin,
        key_scale,
        value_scale,
        linear,
    )
    return out


def attention_step(
    q,
    k,
    v,
    keys,
    values,
    frames,
    lengths=None,
    chunk=None,
    bias=None,
    rope=None,
    scale=None,
    left=None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.attention_step` (pure) by the same kernel, on a copy of the state with room for the new frames."""
    L, c = keys.shape[2], q.shape[2]
    slots = torch.arange(keys.shape[0], device=keys.device, dtype=torch.int32)
    pools = [
        torch.cat([x, torch.zeros_like(new, dtype=x.dtype)], 2).contiguous()
        for x, new in ((keys, k), (values, v))
    ]
    out = pooled_attention_step(
        q,
        k,
        v,
        *pools,
        slots,
        frames,
        L if left is None else left,
        lengths,
        chunk,
        bias,
        rope,
        scale,
        linear=True,
    )
    if lengths is None:
        return out, pools[0][:, :, c:], pools[1][:, :, c:]
    last = lengths[:, None].clamp(max=c) + torch.arange(L, device=keys.device)
    at = last[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3])
    return out, pools[0].gather(2, at), pools[1].gather(2, at)
