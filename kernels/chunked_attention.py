"""Chunked attention, forward and backward: `reference.chunked_attention` in T x (L + c) work, as a flash kernel.

A program owns M queries of one head and walks the keys from the start of its first chunk minus `left` to the end of
its last chunk. With RoPE vectors are kept in halves, so that it is four multiplications on the way in. The relative
bias of Transformer-XL is a product with the M + N rows of the table that a block of M x N distances spans, then a
skew: one `tl.gather` along the rows. No (T, L + 2c - 1) score table is written. chunk, left and T are ordinary run-time
numbers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechstream.kernels.launch import INTERPRETED, precision, put_tile, rows, tile, tuned, turn

LOG2E = 1.4426950408889634
FREE = ["T", "chunk", "left", "base"]  # numbers that must never cause a recompilation

FORWARD = [
    triton.Config({"M": m, "N": n}, num_warps=w, num_stages=s)
    for m, n, w, s in (
        (128, 64, 8, 3),
        (64, 64, 4, 3),
        (32, 64, 4, 2),
        (32, 32, 4, 2),
        (16, 16, 2, 2),
    )
]
BACKWARD = [
    triton.Config({"M": m, "N": n}, num_warps=w, num_stages=s)
    for m, n, w, s in (
        (64, 64, 8, 2),
        (64, 64, 4, 2),
        (64, 32, 4, 2),
        (32, 32, 4, 2),
        (32, 32, 8, 1),
        (16, 16, 2, 1),
    )
]


SHARED = 160 << 10  # bytes of shared memory a block has on every GPU that is meant here


def fits(config: triton.Config, given: dict) -> bool:
    """Whether a configuration's tiles fit in shared memory, and in registers as far as the compile report has shown."""
    M, N, stages = config.kwargs["M"], config.kwargs["N"], config.num_stages
    row, skewed_rows = given["q"].element_size() * 2 * given["HALF"], 0
    if given["q"].element_size() == 4 and M * N > 64 * 32:
        return False
    if given["RELATIVE"]:
        if M * N > (32 * 32 if "dout" in given else 32 * 64):
            return False
        skewed_rows = 2 * max(M, N)
    return row * (2 * M + (2 * N + skewed_rows) * stages) + 4 * M * skewed_rows <= SHARED


@triton.jit
def load_halves(
    x,
    cos,
    sin,
    row,
    stride,
    mask,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROPE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Rows of vectors: with RoPE their two halves, turned by their position; without, the whole and nothing of use."""
    if ROPE:
        d = tl.arange(0, HALF)
        x1 = tile(x, row, d, stride, mask, D // 2, HALF, UPCAST)
        x2 = tile(x + D // 2, row, d, stride, mask, D // 2, HALF, UPCAST)
        c = tile(cos, row, d, D // 2, mask, D // 2, HALF, True)
        s = tile(sin, row, d, D // 2, mask, D // 2, HALF, True)
        x1, x2 = turn(x1, x2, c, s)
    else:
        x1 = tile(x, row, tl.arange(0, 2 * HALF), stride, mask, D, 2 * HALF, UPCAST)
        x2 = x1
    return x1, x2


@triton.jit
def dot_halves(q1, q2, k1, k2, ROPE: tl.constexpr, PRECISION: tl.constexpr):
    """All products of two sets of vectors as `load_halves` gives them."""
    s = tl.dot(q1, tl.trans(k1), input_precision=PRECISION)
    if ROPE:
        s = tl.dot(q2, tl.trans(k2), acc=s, input_precision=PRECISION)
    return s


@triton.jit
def zero_halves(R: tl.constexpr, HALF: tl.constexpr, ROPE: tl.constexpr):
    """Accumulators for gradients of what `load_halves` gives."""
    if ROPE:
        x1 = tl.zeros([R, HALF], tl.float32)
        x2 = tl.zeros([R, HALF], tl.float32)
    else:
        x1 = tl.zeros([R, 2 * HALF], tl.float32)
        x2 = 0.0
    return x1, x2


@triton.jit
def add_product(x1, x2, weights, k1, k2, ROPE: tl.constexpr, PRECISION: tl.constexpr):
    """x += weights @ k, in halves as above."""
    x1 = tl.dot(weights, k1, acc=x1, input_precision=PRECISION)
    if ROPE:
        x2 = tl.dot(weights, k2, acc=x2, input_precision=PRECISION)
    return x1, x2


@triton.jit
def put_halves(
    pointer, x1, x2, cos, sin, row, mask, D: tl.constexpr, HALF: tl.constexpr, ROPE: tl.constexpr
):
    """Store gradients of turned vectors, turned back, as rows of a contiguous matrix."""
    if ROPE:
        d = tl.arange(0, HALF)
        c = tile(cos, row, d, D // 2, mask, D // 2, HALF, True)
        s = tile(sin, row, d, D // 2, mask, D // 2, HALF, True)
        x1, x2 = turn(x1, x2, c, -s)
        put_tile(pointer, x1, row, d, D, mask, D // 2, HALF)
        put_tile(pointer + D // 2, x2, row, d, D, mask, D // 2, HALF)
    else:
        put_tile(pointer, x1, row, tl.arange(0, 2 * HALF), D, mask, D, 2 * HALF)


@triton.jit
def skewed(
    q_pos,
    table,
    h,
    t0,
    n0,
    base,
    count,
    D: tl.constexpr,
    HALF: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    W: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Relative scores of queries t0 .. and keys n0 ..; with them the table's rows for their distances."""
    rel, r = relative_rows(table, h, t0, n0, base, D, HALF, M, W, count, UPCAST)
    by_row = tl.dot(q_pos, tl.trans(rel), input_precision=PRECISION)
    skew = (M - 1) - tl.arange(0, M)[:, None] + tl.arange(0, N)[None, :]
    return tl.gather(by_row, skew, axis=1), rel, r


@triton.jit
def relative_rows(
    table,
    h,
    t0,
    n0,
    base,
    D: tl.constexpr,
    HALF: tl.constexpr,
    M: tl.constexpr,
    W: tl.constexpr,
    count,
    UPCAST: tl.constexpr,
):
    """The table rows of the distances between queries t0 .. and keys n0 .., and their numbers."""
    r = base - (t0 + M - 1 - n0) + tl.arange(0, W)
    rel = tile(
        table + h * count * D,
        r,
        tl.arange(0, 2 * HALF),
        D,
        (r >= 0) & (r < count),
        D,
        2 * HALF,
        UPCAST,
    )
    return rel, r


@triton.jit
def visible(i, j, chunk, left, end):
    """Which of the queries i see which of the keys j."""
    start = (i // chunk * chunk)[:, None]
    return (
        (j[None, :] >= start - left)
        & (j[None, :] < start + chunk)
        & (j[None, :] < end)
        & (i[:, None] < end)
    )


@triton.jit
def stream(lengths, T, H, LENGTHS: tl.constexpr):
    """This program's stream and head, and where the stream ends."""
    b, h = (tl.program_id(1) // H).to(tl.int64), tl.program_id(1) % H
    end = T
    if LENGTHS:
        end = tl.minimum(tl.load(lengths + b).to(tl.int32), T)
    return b, h, end


@triton.jit
def keys_of(t0, chunk, left, end, M: tl.constexpr):
    """First and last of the keys that M queries see."""
    low = tl.maximum(t0 // chunk * chunk - left, 0)
    return low, tl.where(t0 >= end, low, tl.minimum(((t0 + M - 1) // chunk + 1) * chunk, end))


@tuned(FORWARD, key=["D", "RELATIVE", "ROPE"], fits=fits)
@triton.jit(do_not_specialize=FREE)
def attention_forward(
    q,
    q_pos,
    k,
    v,
    table,
    cos,
    sin,
    lengths,
    out,
    lse,
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
    T,
    chunk,
    left,
    base,
    scale,
    H,
    group,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROPE: tl.constexpr,
    RELATIVE: tl.constexpr,
    LENGTHS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    t0 = tl.program_id(0) * M
    b, h, end = stream(lengths, T, H, LENGTHS)
    q += b * sqb + h * sqh
    k += b * skb + h // group * skh
    v += b * svb + h // group * svh
    cos += b * s_rope
    sin += b * s_rope
    W: tl.constexpr = 2 * M if M > N else 2 * N
    i, full = t0 + tl.arange(0, M), tl.arange(0, 2 * HALF)
    q1, q2 = load_halves(q, cos, sin, i, sqt, i < T, D, HALF, ROPE, UPCAST)
    if RELATIVE:
        qp = tile(q_pos + b * spb + h * sph, i, full, spt, i < T, D, 2 * HALF, UPCAST)
    m, l = tl.full([M], -1e30, tl.float32), tl.zeros([M], tl.float32)
    acc = tl.zeros([M, 2 * HALF], tl.float32)
    low, high = keys_of(t0, chunk, left, end, M)
    for n0 in range(low, high, N):
        j = n0 + tl.arange(0, N)
        k1, k2 = load_halves(k, cos, sin, j, skt, j < end, D, HALF, ROPE, UPCAST)
        s = dot_halves(q1, q2, k1, k2, ROPE, PRECISION)
        if RELATIVE:
            extra, _, _ = skewed(
                qp, table, h, t0, n0, base, base + chunk, D, HALF, M, N, W, UPCAST, PRECISION
            )
            s += extra
        seen = visible(i, j, chunk, left, end)
        s = tl.where(seen, s * (scale * 1.4426950408889634), -1e30)
        top = tl.maximum(m, tl.max(s, 1))
        p = tl.where(seen, tl.exp2(s - top[:, None]), 0.0)
        shrink = tl.exp2(m - top)
        l = l * shrink + tl.sum(p, 1)
        value = tile(v, j, full, svt, j < end, D, 2 * HALF, UPCAST)
        acc = tl.dot(p.to(value.dtype), value, acc=acc * shrink[:, None], input_precision=PRECISION)
        m = top
    alive = l > 0
    acc = acc / tl.where(alive, l, 1.0)[:, None]
    put_tile(out + b * sob + h * soh, acc, i, full, sot, i < T, D, 2 * HALF)
    tl.store(
        lse + (b * H + h) * T + i,
        tl.where(alive, m + tl.log2(tl.where(alive, l, 1.0)), 0.0),
        mask=i < T,
    )


@triton.jit
def weights_and_gradient(s, seen, top, dot_o, do, value, scale, PRECISION: tl.constexpr):
    """The softmax weights again from the scores, and the gradient of the scores."""
    p = tl.where(seen, tl.exp2(s * (scale * 1.4426950408889634) - top[:, None]), 0.0)
    dp = tl.dot(do, tl.trans(value), input_precision=PRECISION)
    return p, p * (dp - dot_o[:, None]) * scale


@tuned(BACKWARD, key=["D", "RELATIVE", "ROPE"], fits=fits, reset_to_zero=["dtable"])
@triton.jit(do_not_specialize=FREE)
def attention_backward_q(
    q,
    q_pos,
    k,
    v,
    table,
    cos,
    sin,
    lengths,
    out,
    dout,
    lse,
    delta,
    dq,
    dq_pos,
    dtable,
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
    sdb,
    sdh,
    sdt,
    s_rope,
    T,
    chunk,
    left,
    base,
    scale,
    H,
    group,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROPE: tl.constexpr,
    RELATIVE: tl.constexpr,
    LENGTHS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    """Gradients of queries and of the relative table, and delta = sum(out * dout) for the kernel below.

    dq and dq_pos are contiguous (B, H, T, D); dtable (H, rows, D) fp32 is summed with atomics.
    """
    t0 = tl.program_id(0) * M
    b, h, end = stream(lengths, T, H, LENGTHS)
    q += b * sqb + h * sqh
    k += b * skb + h // group * skh
    v += b * svb + h // group * svh
    cos += b * s_rope
    sin += b * s_rope
    W: tl.constexpr = 2 * M if M > N else 2 * N
    i, full = t0 + tl.arange(0, M), tl.arange(0, 2 * HALF)
    q1, q2 = load_halves(q, cos, sin, i, sqt, i < T, D, HALF, ROPE, UPCAST)
    o = tile(out + b * sob + h * soh, i, full, sot, i < T, D, 2 * HALF, True)
    do = tile(dout + b * sdb + h * sdh, i, full, sdt, i < T, D, 2 * HALF, UPCAST)
    dot_o = tl.sum(o * do.to(tl.float32), 1)
    row = (b * H + h) * T + i
    tl.store(delta + row, dot_o, mask=i < T)
    top = tl.load(lse + row, mask=i < T, other=0.0)
    dq1, dq2 = zero_halves(M, HALF, ROPE)
    if RELATIVE:
        qp = tile(q_pos + b * spb + h * sph, i, full, spt, i < T, D, 2 * HALF, UPCAST)
        dqp = tl.zeros([M, 2 * HALF], tl.float32)
    low, high = keys_of(t0, chunk, left, end, M)
    for n0 in range(low, high, N):
        j = n0 + tl.arange(0, N)
        k1, k2 = load_halves(k, cos, sin, j, skt, j < end, D, HALF, ROPE, UPCAST)
        s = dot_halves(q1, q2, k1, k2, ROPE, PRECISION)
        if RELATIVE:
            extra, rel, r = skewed(
                qp, table, h, t0, n0, base, base + chunk, D, HALF, M, N, W, UPCAST, PRECISION
            )
            s += extra
        value = tile(v, j, full, svt, j < end, D, 2 * HALF, UPCAST)
        _, ds = weights_and_gradient(
            s, visible(i, j, chunk, left, end), top, dot_o, do, value, scale, PRECISION
        )
        ds = ds.to(k1.dtype)
        dq1, dq2 = add_product(dq1, dq2, ds, k1, k2, ROPE, PRECISION)
        if RELATIVE:  # undo the skew: from keys back to distances
            local = tl.arange(0, W)[None, :] - (M - 1) + tl.arange(0, M)[:, None]
            inside = (local >= 0) & (local < N)
            flat = tl.where(inside, tl.gather(ds, tl.where(inside, local, 0), axis=1), 0.0).to(
                ds.dtype
            )
            dqp = tl.dot(flat, rel, acc=dqp, input_precision=PRECISION)
            drel = tl.dot(tl.trans(flat), qp, input_precision=PRECISION)
            at = dtable + h * (base + chunk) * D + r[:, None] * D + full[None, :]
            tl.atomic_add(
                at,
                drel,
                mask=((r >= 0) & (r < base + chunk))[:, None] & (full < D)[None, :],
                sem="relaxed",
            )
    here = (b * H + h) * T * D
    put_halves(dq + here, dq1, dq2, cos, sin, i, i < T, D, HALF, ROPE)
    if RELATIVE:
        put_tile(dq_pos + here, dqp, i, full, D, i < T, D, 2 * HALF)


@tuned(BACKWARD, key=["D", "RELATIVE", "ROPE"], fits=fits)
@triton.jit(do_not_specialize=FREE)
def attention_backward_kv(
    q,
    q_pos,
    k,
    v,
    table,
    cos,
    sin,
    lengths,
    dout,
    lse,
    delta,
    dk,
    dv,
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
    sdb,
    sdh,
    sdt,
    s_rope,
    T,
    chunk,
    left,
    base,
    scale,
    H,
    group,
    D: tl.constexpr,
    HALF: tl.constexpr,
    ROPE: tl.constexpr,
    RELATIVE: tl.constexpr,
    LENGTHS: tl.constexpr,
    UPCAST: tl.constexpr,
    PRECISION: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
):
    """Gradients of N keys and values: the queries that see them, over all heads of the group. (B, Hk, T, D) out."""
    n0, heads = tl.program_id(0) * N, H // group
    b, hk, end = stream(lengths, T, heads, LENGTHS)
    cos += b * s_rope
    sin += b * s_rope
    W: tl.constexpr = 2 * M if M > N else 2 * N
    j, full = n0 + tl.arange(0, N), tl.arange(0, 2 * HALF)
    k1, k2 = load_halves(k + b * skb + hk * skh, cos, sin, j, skt, j < end, D, HALF, ROPE, UPCAST)
    value = tile(v + b * svb + hk * svh, j, full, svt, j < end, D, 2 * HALF, UPCAST)
    dk1, dk2 = zero_halves(N, HALF, ROPE)
    dvalue = tl.zeros([N, 2 * HALF], tl.float32)
    low = n0 // chunk * chunk
    high = tl.where(n0 >= end, low, tl.minimum(((n0 + N - 1 + left) // chunk + 1) * chunk, end))
    for g in range(group):
        h = hk * group + g
        for t0 in range(low, high, M):
            i = t0 + tl.arange(0, M)
            q1, q2 = load_halves(
                q + b * sqb + h * sqh, cos, sin, i, sqt, i < end, D, HALF, ROPE, UPCAST
            )
            s = dot_halves(q1, q2, k1, k2, ROPE, PRECISION)
            if RELATIVE:
                qp = tile(q_pos + b * spb + h * sph, i, full, spt, i < end, D, 2 * HALF, UPCAST)
                extra, _, _ = skewed(
                    qp, table, h, t0, n0, base, base + chunk, D, HALF, M, N, W, UPCAST, PRECISION
                )
                s += extra
            row = (b * H + h) * T + i
            top = tl.load(lse + row, mask=i < end, other=0.0)
            dot_o = tl.load(delta + row, mask=i < end, other=0.0)
            do = tile(dout + b * sdb + h * sdh, i, full, sdt, i < end, D, 2 * HALF, UPCAST)
            p, ds = weights_and_gradient(
                s, visible(i, j, chunk, left, end), top, dot_o, do, value, scale, PRECISION
            )
            dvalue = tl.dot(tl.trans(p.to(do.dtype)), do, acc=dvalue, input_precision=PRECISION)
            dk1, dk2 = add_product(dk1, dk2, tl.trans(ds.to(q1.dtype)), q1, q2, ROPE, PRECISION)
    here = (b * heads + hk) * T * D
    put_halves(dk + here, dk1, dk2, cos, sin, j, j < T, D, HALF, ROPE)
    put_tile(dv + here, dvalue, j, full, D, j < T, D, 2 * HALF)


def _arguments(q, k, v, chunk, left, scale, lengths, q_pos, table, cos, sin):
    """What the three launches share: tensors, strides and numbers. Placeholders stand for what is absent."""
    B, H, T, D = q.shape
    none = q.new_empty(0)
    q_pos_ = q if q_pos is None else q_pos
    tensors = {
        "q": q,
        "q_pos": q_pos_,
        "k": k,
        "v": v,
        "table": none if table is None else table,
        "cos": none if cos is None else cos,
        "sin": none if sin is None else sin,
        "lengths": none if lengths is None else lengths,
    }
    strides = dict(
        zip(
            ("sqb", "sqh", "sqt", "spb", "sph", "spt", "skb", "skh", "skt", "svb", "svh", "svt"),
            q.stride()[:3] + q_pos_.stride()[:3] + k.stride()[:3] + v.stride()[:3],
        )
    )
    base = left + chunk - 1  # the table row of distance 0
    c = max(1, min(chunk, T)) if table is None else chunk
    L = min(left, T) if table is None else left
    numbers = dict(
        s_rope=0 if cos is None or cos.shape[0] == 1 else cos.stride(0),
        T=T,
        chunk=c,
        left=L,
        base=base,
        scale=scale,
        H=H,
        group=H // k.shape[1],
    )
    choices = dict(
        D=D,
        HALF=max(16, triton.next_power_of_2(D // 2)),
        ROPE=cos is not None,
        RELATIVE=table is not None,
        LENGTHS=lengths is not None,
        UPCAST=INTERPRETED and q.dtype == torch.bfloat16,
        PRECISION=precision(),
    )
    return tensors, strides, numbers | choices


@torch.library.custom_op("speechstream::chunked_attention", mutates_args=())
def chunked_attention_op(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk: int,
    left: int,
    scale: float,
    lengths: Tensor | None,
    q_pos: Tensor | None,
    table: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, D) and log2-sum-exp of the scores (B, H, T). q already holds u, q_pos holds q + v."""
    B, H, T, D = q.shape
    out = q.new_empty(B, T, H, D).transpose(1, 2)  # as the projection that follows wants it
    lse = torch.empty(B, H, T, device=q.device, dtype=torch.float32)
    if out.numel():
        tensors, strides, rest = _arguments(
            q, k, v, chunk, left, scale, lengths, q_pos, table, cos, sin
        )
        strides |= dict(zip(("sob", "soh", "sot"), out.stride()[:3]))
        attention_forward[lambda m: (triton.cdiv(T, m["M"]), B * H)](
            **tensors, out=out, lse=lse, **strides, **rest
        )
    return out, lse


@chunked_attention_op.register_fake
def _(q, k, v, chunk, left, scale, lengths, q_pos, table, cos, sin):
    B, H, T, D = q.shape
    return q.new_empty(B, T, H, D).transpose(1, 2), q.new_empty(B, H, T, dtype=torch.float32)


@torch.library.custom_op("speechstream::chunked_attention_backward", mutates_args=())
def chunked_attention_backward_op(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    chunk: int,
    left: int,
    scale: float,
    lengths: Tensor | None,
    q_pos: Tensor | None,
    table: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, q_pos and table; the last two are empty without a relative bias."""
    B, H, T, D = q.shape
    dout, heads = rows(dout), k.shape[1]
    dq, dk, dv = q.new_empty(B, H, T, D), k.new_empty(B, heads, T, D), v.new_empty(B, heads, T, D)
    dq_pos = q.new_empty(q.shape if q_pos is not None else 0)
    dtable = torch.zeros(
        table.shape if table is not None else 0, device=q.device, dtype=torch.float32
    )
    if dq.numel():
        delta = torch.empty_like(lse)
        tensors, strides, rest = _arguments(
            q, k, v, chunk, left, scale, lengths, q_pos, table, cos, sin
        )
        strides |= dict(zip(("sdb", "sdh", "sdt"), dout.stride()[:3]))
        attention_backward_q[lambda m: (triton.cdiv(T, m["M"]), B * H)](
            **tensors,
            out=out,
            dout=dout,
            lse=lse,
            delta=delta,
            dq=dq,
            dq_pos=dq_pos,
            dtable=dtable,
            **strides,
            **dict(zip(("sob", "soh", "sot"), out.stride()[:3])),
            **rest,
        )
        attention_backward_kv[lambda m: (triton.cdiv(T, m["N"]), B * heads)](
            **tensors, dout=dout, lse=lse, delta=delta, dk=dk, dv=dv, **strides, **rest
        )
    return dq, dk, dv, dq_pos, dtable.to(q.dtype)


@chunked_attention_backward_op.register_fake
def _(dout, q, k, v, out, lse, chunk, left, scale, lengths, q_pos, table, cos, sin):
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        q.new_empty(q.shape if q_pos is not None else (0,)),
        q.new_empty(table.shape if table is not None else (0,)),
    )


def _setup(ctx, inputs, output):
    q, k, v, ctx.chunk, ctx.left, ctx.scale, lengths, q_pos, table, cos, sin = inputs
    ctx.save_for_backward(q, k, v, *output, lengths, q_pos, table, cos, sin)
    ctx.set_materialize_grads(False)


def _backward(ctx, dout, _dlse):
    q, k, v, out, lse, lengths, q_pos, table, cos, sin = ctx.saved_tensors
    if dout is None:
        return (None,) * 11
    dq, dk, dv, dq_pos, dtable = chunked_attention_backward_op(
        dout, q, k, v, out, lse, ctx.chunk, ctx.left, ctx.scale, lengths, q_pos, table, cos, sin
    )
    relative = table is not None
    return (
        dq,
        dk,
        dv,
        None,
        None,
        None,
        None,
        dq_pos if relative else None,
        dtable if relative else None,
        None,
        None,
    )


chunked_attention_op.register_autograd(_backward, setup_context=_setup)


def chunked_attention(
    q, k, v, chunk, left, lengths=None, bias=None, rope=None, scale=None
) -> Tensor:
    """`reference.chunked_attention` by the kernels above, with gradients for q, k, v and the relative bias."""
    q_pos = table = cos = sin = None
    if bias is not None:
        q_pos, table = q + bias.v[:, None].to(q.dtype), bias.positions.to(q.dtype).contiguous()
        q = q + bias.u[:, None].to(q.dtype)
    if rope is not None:
        cos, sin = (a.contiguous().reshape(-1, *a.shape[-2:]) for a in rope)
    q, k, v = rows(q), rows(k), rows(v)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return chunked_attention_op(q, k, v, chunk, left, scale, lengths, q_pos, table, cos, sin)[0]
