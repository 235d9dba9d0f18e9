"""Chunked attention with a limited left context, offline and as a step over cached keys and values.

Frames are grouped into chunks of `chunk` frames. A query sees its own chunk and the `left` frames before that chunk:

    visible(t, s)  <=>  start(t) - left <= s < start(t) + chunk,     start(t) = chunk * (t // chunk)

Shapes are (B, H, T, Dh) throughout. On a GPU both go to the kernels (`kernels.dispatch`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from speechstream.kernels import dispatch

QUERY_BLOCK = 128  # frames scored at once offline: long enough for fast products, short enough to skip most of the mask


def chunked_attention(
    q: Tensor, k: Tensor, v: Tensor, chunk: int | None, left: int, lengths: Tensor | None = None
) -> Tensor:
    """Attention of a whole utterance under the chunk mask; work grows with T x (left + chunk), not with T squared.

    q, k, v: (B, H, T, Dh). `chunk` None means that every frame sees every other. `lengths` (B,): keys past a
    stream's length are hidden. Returns (B, H, T, Dh).
    """
    if dispatch.uses_kernel(q, k, v, gradient=True):
        return dispatch.chunked_attention(q, k, v, chunk, left, lengths)
    T = q.shape[2]
    valid = (
        None if lengths is None else torch.arange(T, device=q.device) < lengths[:, None]
    )  # (B, T)
    if chunk is None or chunk >= T:
        mask = (
            None if valid is None else _no_empty_rows(valid[:, None, None, :].expand(-1, 1, T, T))
        )
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    block = chunk * max(1, QUERY_BLOCK // chunk)
    out = []
    for t0 in range(0, T, block):
        t1 = min(t0 + block, T)
        s0 = max(0, t0 - left)
        t = torch.arange(t0, t1, device=q.device)[:, None]
        s = torch.arange(s0, t1, device=q.device)[None, :]
        start = t - t % chunk
        mask = (s >= start - left) & (s < start + chunk)
        if valid is not None:
            mask = _no_empty_rows(mask & valid[:, None, None, s0:t1])
        out.append(
            F.scaled_dot_product_attention(
                q[:, :, t0:t1], k[:, :, s0:t1], v[:, :, s0:t1], attn_mask=mask
            )
        )
    return torch.cat(out, dim=2)


def step_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, filled: Tensor
) -> Tensor:
    """Attention of n new positions (B, H, n, Dh) over a cache of `keys`, `values` (B, H, L, Dh) and themselves.

    Of a young stream only the last `filled` (B,) cache rows are real. New positions see all of each other: mask them
    outside where they must not. The two parts are scored apart and share one softmax, so the cache is never copied.
    """
    if dispatch.uses_kernel(q, k, v, keys):
        return dispatch.attention_step(q, k, v, keys, values, filled)[0]
    L = keys.shape[2]
    hidden = torch.arange(L, device=q.device) < L - filled[:, None]  # (B, L)
    q = q * q.shape[-1] ** -0.5
    old = (q @ keys.transpose(-1, -2)).masked_fill(hidden[:, None, None, :], -torch.inf)
    weight = torch.cat([old, q @ k.transpose(-1, -2)], dim=-1).softmax(-1)
    return weight[..., :L] @ values + weight[..., L:] @ v


def causal_step_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, filled: Tensor
) -> Tensor:
    """`step_attention` in which a new position does not see those after it."""
    L, n = keys.shape[2], q.shape[2]
    hidden = torch.arange(L, device=q.device) < L - filled[:, None]
    later = torch.arange(n, device=q.device) > torch.arange(n, device=q.device)[:, None]
    q = q * q.shape[-1] ** -0.5
    old = (q @ keys.transpose(-1, -2)).masked_fill(hidden[:, None, None, :], -torch.inf)
    weight = torch.cat(
        [old, (q @ k.transpose(-1, -2)).masked_fill(later, -torch.inf)], dim=-1
    ).softmax(-1)
    return weight[..., :L] @ values + weight[..., L:] @ v


def _no_empty_rows(mask: Tensor) -> Tensor:
    """Padding frames that see nothing would turn into NaN; let them see everything, their output is never used."""
    return mask | ~mask.any(dim=-1, keepdim=True)
