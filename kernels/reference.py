"""What every kernel computes, in plain torch that reads like the formula: definition, fallback and test oracle.

Attention gathers, for each chunk, the window of keys it may see (T x (L + c) work, never a dense T x T mask); it is
exact and differentiable, and on a CPU it is the fast way too. The transducer is in `transducer_reference`. Shapes use
B streams, H heads, T frames, D head size, c frames a chunk, L frames of left context, S slots of a pool and R rows of
a ring.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechstream.kernels.transducer_reference import (  # noqa: F401  one place for all references
    ACTIVATIONS,
    GreedyState,
    TransducerWeights,
    greedy_decode,
    init_greedy,
    joint_logprobs,
    lattice_logprob,
    predict,
    prune_bounds,
    simple_logprobs,
)


class RelativeBias(NamedTuple):
    """Transformer-XL relative position (Dai et al. 2019): scores gain (q + v) . positions[i - j], and u is added to q.

    positions: (H, left + 2 * chunk - 1, D), the projected table; row 0 is the farthest past, distance
    left + chunk - 1, and the last row distance -(chunk - 1) (a key ahead of its query in the same chunk).
    u, v: (H, D), the content and the position bias.
    """

    positions: Tensor
    u: Tensor
    v: Tensor


# ---------------------------------------------------------------------------------------------- attention


def rotate(x: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """RoPE (Su et al. 2021) in halves: (x1, x2) -> (x1 cos - x2 sin, x1 sin + x2 cos).

    x: (B, H, T, D); cos, sin: (T, D/2) or (B, T, D/2).
    """
    if rope is None:
        return x
    cos, sin = (a.unsqueeze(-3).to(x.dtype) for a in rope)
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)


def chunked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk: int,
    left: int,
    lengths: Tensor | None = None,
    bias: RelativeBias | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
) -> Tensor:
    """Block-causal attention: frame t of chunk n = t // chunk sees the keys n * chunk - left .. (n + 1) * chunk - 1.

    q: (B, H, T, D); k, v: (B, Hk, T, D), H a multiple of Hk; lengths: (B,) valid frames. Returns (B, H, T, D), zero
    at the frames past a stream's length.
    """
    B, H, T, D = q.shape
    scale = D**-0.5 if scale is None else scale
    q, k = rotate(q, rope), rotate(k, rope)
    k, v = (a.repeat_interleave(H // a.shape[1], dim=1) for a in (k, v))
    c = max(1, min(chunk, T))  # a chunk longer than the utterance is the whole of it
    n = -(-T // c)
    past = min(left, (n - 1) * c) if n else 0  # nothing is further back than the first frame

    def windows(x: Tensor) -> Tensor:  # (B, H, T, D) -> (B, H, n, past + c, D)
        return F.pad(x, (0, 0, past, n * c - T)).unfold(2, past + c, c).transpose(-1, -2)

    def chunks(x: Tensor) -> Tensor:  # (B, H, T, D) -> (B, H, n, c, D)
        return F.pad(x, (0, 0, 0, n * c - T)).unflatten(2, (n, c))

    if T == 0:
        return torch.zeros_like(q)
    query = chunks(q if bias is None else q + bias.u.unsqueeze(1))
    scores = query @ windows(k).transpose(-1, -2)
    i, j = (
        torch.arange(c, device=q.device)[:, None],
        torch.arange(past + c, device=q.device)[None, :] - past,
    )
    if bias is not None:
        table = chunks(q + bias.v.unsqueeze(1)) @ bias.positions.transpose(-1, -2).unsqueeze(1)
        row = (left + chunk - 1) - (i - j)  # the skew: one row of the table for each distance i - j
        scores = scores + table.gather(-1, row.expand(B, H, n, -1, -1))
    frame = torch.arange(n, device=q.device)[:, None, None] * c + j  # (n, 1, past + c)
    end = torch.full((B,), T, device=q.device) if lengths is None else lengths.to(q.device)
    seen = (frame >= 0) & (frame < end[:, None, None, None, None])  # (B, 1, n, 1, past + c)
    weights = (scores * scale).masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1)
    out = (weights @ windows(v)).flatten(2, 3)[:, :, :T]
    return out * (torch.arange(T, device=q.device)[:, None] < end[:, None, None, None])


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    frames: Tensor,
    lengths: Tensor | None = None,
    chunk: int | None = None,
    bias: RelativeBias | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    left: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One streaming step of `chunked_attention`: pure, the state goes in and a new one comes out.

    q: (B, H, c, D), k, v: (B, Hk, c, D), the new frames; keys, values: (B, Hk, L, D), the last L (keys already
    rotated), oldest first; frames: (B,) frames consumed before this step; lengths: (B,) how many of the c frames are
    valid; chunk: frames in a chunk, None for the whole step; rope: cos, sin (B, c, D/2) at the new frames; left: how
    many of the L a chunk sees, None for all.
    Returns the output (B, H, c, D), zero past `lengths`, and the new keys and values.
    """
    B, H, c, D = q.shape
    L, chunk = keys.shape[2], chunk or c
    left = L if left is None else left
    scale = D**-0.5 if scale is None else scale
    q = rotate(q, rope)
    keys = torch.cat([keys, rotate(k, rope).to(keys.dtype)], dim=2)  # (B, Hk, L + c, D)
    values = torch.cat([values, v.to(values.dtype)], dim=2)
    n = torch.full_like(frames, c) if lengths is None else lengths.to(frames.device)
    K, V = (a.to(q.dtype).repeat_interleave(H // a.shape[1], dim=1) for a in (keys, values))
    scores = (q if bias is None else q + bias.u.unsqueeze(1)) @ K.transpose(-1, -2)
    i, j = (
        torch.arange(c, device=q.device)[:, None],
        torch.arange(L + c, device=q.device)[None, :] - L,
    )
    start = i // chunk * chunk
    seen = (j >= start - left) & (j < start + chunk)  # (c, L + c)
    if bias is not None:
        table = (q + bias.v.unsqueeze(1)) @ bias.positions.transpose(-1, -2)
        row = ((left + chunk - 1) - (i - j)).clamp(0, table.shape[-1] - 1)
        scores = scores + table.gather(-1, row.expand(B, H, -1, -1))
    seen = seen & (j >= -frames[:, None, None]) & (j < n[:, None, None])  # (B, c, L + c)
    weights = (
        (scores * scale).masked_fill(~seen[:, None], torch.finfo(scores.dtype).min).softmax(-1)
    )
    out = (weights @ V) * (i < n[:, None, None])[:, None]
    if lengths is None:
        return out, keys[:, :, c:], values[:, :, c:]
    last = (n[:, None] + torch.arange(L, device=q.device))[:, None, :, None].expand(
        -1, keys.shape[1], -1, D
    )
    return out, keys.gather(2, last), values.gather(2, last)


def quantize(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Rows of x (..., D) as int8 or float8_e4m3fn and their scales (...): x is about rows * scale."""
    top = 127.0 if dtype == torch.int8 else 448.0
    scale = x.float().abs().amax(-1).clamp(min=1e-8) / top
    y = x.float() / scale[..., None]
    return ((y + 0.5).floor() if dtype == torch.int8 else y).to(dtype), scale


def pooled_attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_pool: Tensor,
    value_pool: Tensor,
    slots: Tensor,
    frames: Tensor,
    left: int,
    lengths: Tensor | None = None,
    chunk: int | None = None,
    bias: RelativeBias | None = None,
    rope: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    key_scale: Tensor | None = None,
    value_scale: Tensor | None = None,
) -> Tensor:
    """`attention_step` in place on a pool of rings: frame f of the stream in slot s lies in row f % R of pool[s].

    key_pool, value_pool: (S, Hk, R, D) with R >= left + c, of the working dtype, int8 or float8_e4m3fn (then
    key_scale, value_scale: (S, Hk, R) fp32); slots: (B,) all different; frames: (S,) frames consumed, by slot; the
    caller advances them once all layers have run. New frames are attended to as they come and stored quantised.
    """
    B, _, c, D = q.shape
    R, past, p = key_pool.shape[2], min(left, key_pool.shape[2]), frames[slots].long()
    rows = (p[:, None] - past + torch.arange(past, device=q.device)) % R  # (B, past) oldest first

    def read(pool: Tensor, pool_scale: Tensor | None) -> Tensor:
        x = pool[slots[:, None].long(), :, rows].to(q.dtype)  # (B, past, Hk, D)
        if pool_scale is not None:
            x = x * pool_scale[slots[:, None].long(), :, rows][..., None].to(q.dtype)
        return x.transpose(1, 2)

    old_k, old_v = read(key_pool, key_scale), read(value_pool, value_scale)
    out, _, _ = attention_step(q, k, v, old_k, old_v, p, lengths, chunk, bias, rope, scale)
    n = torch.full_like(p, c) if lengths is None else lengths.to(p)
    b, i = (torch.arange(c, device=q.device) < n[:, None]).nonzero(as_tuple=True)
    slot, row = slots.long()[b], (p[b] + i) % R
    for pool, pool_scale, new in (
        (key_pool, key_scale, rotate(k, rope)),
        (value_pool, value_scale, v),
    ):
        new = new.transpose(1, 2)[b, i]  # (valid frames, Hk, D)
        if pool_scale is not None:
            new, pool_scale[slot, :, row] = quantize(new, pool.dtype)
        pool[slot, :, row] = new.to(pool.dtype)
    return out


# -------------------------------------------------------------------------------------------- convolution


def convolution(
    ext: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm: str,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Depthwise convolution of ext (B, D, K - 1 + c), then the norm and SiLU. Returns (B, c, D)."""
    y = F.conv1d(ext, weight.unsqueeze(1), bias, groups=weight.shape[0]).transpose(1, 2)
    if norm == "layer":
        y = F.layer_norm(y, y.shape[-1:], norm_weight, norm_bias, eps)
    elif norm == "affine":  # a batch norm with its statistics folded in
        y = y * norm_weight + norm_bias
    return F.silu(y)


def conv_step(
    x: Tensor,
    state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: str = "layer",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """GLU, causal depthwise convolution, norm and SiLU of a Conformer's convolution module, one step, pure.

    x: (B, c, 2D) with the gate in the second half; state: (B, D, K - 1), the last gated frames; weight: (D, K);
    norm: "layer", "affine" or "none"; lengths: (B,) valid frames. Returns (B, c, D), zero past `lengths`, and the
    new state.
    """
    c, past = x.shape[1], state.shape[2]
    ext = torch.cat([state, F.glu(x, dim=-1).transpose(1, 2).to(state.dtype)], dim=2)
    y = convolution(ext.to(x.dtype), weight.to(x.dtype), bias, norm, norm_weight, norm_bias, eps)
    if lengths is None:
        return y, ext[:, :, c:]
    last = (lengths[:, None] + torch.arange(past, device=x.device))[:, None].expand(
        -1, ext.shape[1], -1
    )
    return y * (torch.arange(c, device=x.device)[:, None] < lengths[:, None, None]), ext.gather(
        2, last
    )


def pooled_conv_step(
    x: Tensor,
    pool: Tensor,
    slots: Tensor,
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: str = "layer",
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    lengths: Tensor | None = None,
) -> Tensor:
    """`conv_step` in place on a pool (S, R, D) of rings, R >= K - 1 + c, frame f of a stream in row f % R.

    slots: (B,) all different; frames: (S,) frames consumed, by slot. Rows of frames before the first count as zero.
    """
    (_, c, _), (_, R, _), past = x.shape, pool.shape, weight.shape[1] - 1
    p, slot = frames[slots].long(), slots.long()
    old = p[:, None] - past + torch.arange(past, device=x.device)  # frame numbers
    state = (pool[slot[:, None], old % R] * (old >= 0)[..., None]).transpose(1, 2)
    y, _ = conv_step(x, state, weight, bias, norm, norm_weight, norm_bias, eps, lengths)
    n = torch.full_like(p, c) if lengths is None else lengths.to(p)
    b, i = (torch.arange(c, device=x.device) < n[:, None]).nonzero(as_tuple=True)
    pool[slot[b], (p[b] + i) % R] = F.glu(x, dim=-1)[b, i].to(pool.dtype)
    return y


# ------------------------------------------------------------------------------------- residual codebooks


class DepthWeights(NamedTuple):
    """A residual MLP over the levels of a residual vector quantiser; each level has its own weights.

    norm: (levels, D); up: (levels, F, D); down: (levels, D, F); head_norm: (levels, D); head: (levels, C, D);
    embedding: (levels, C, D), what a chosen code adds to the vector that the next level reads.
    """

    norm: Tensor
    up: Tensor
    down: Tensor
    head_norm: Tensor
    head: Tensor
    embedding: Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def residual_decode(
    context: Tensor, w: DepthWeights, noise: Tensor | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Choose a code at each level in turn, each given those before it. context: (B, D).

    noise: (B, levels, C) Gumbel noise makes the argmax a sample at `temperature`; None is greedy. Returns codes
    (B, levels) int32 and the final vector (B, D).
    """
    x, codes = context.float(), []
    for n in range(w.head.shape[0]):
        x = x + F.silu(rms_norm(x, w.norm[n].float()) @ w.up[n].float().T) @ w.down[n].float().T
        logits = rms_norm(x, w.head_norm[n].float()) @ w.head[n].float().T
        code = (logits if noise is None else logits + temperature * noise[:, n].float()).argmax(-1)
        codes.append(code.int())
        x = x + w.embedding[n].float()[code]
    return torch.stack(codes, 1), x


def rvq_lookup(codes: Tensor, codebooks: Tensor) -> Tensor:
    """Sum over levels of codebooks[level, code]. codes: (B, levels, T) int, codebooks: (levels, C, D) -> (B, T, D)."""
    return sum(codebooks[n].float()[codes[:, n].long()] for n in range(codebooks.shape[0])).to(
        codebooks.dtype
    )
