"""A causal transformer with a bounded context: rotary positions, layer scale, cached keys and values.

The one of Mimi (Moshi, arXiv:2410.00037): pre-norm layers, GELU, no biases in the linear layers, residual
branches scaled by a learnt vector (layer scale, arXiv:2103.17239), rotary positions (RoPE, arXiv:2104.09864).

Frames are (B, T, dim). A query sees itself and the `context - 1` frames before it. Keys are rotated by their position
before they are cached, so nothing is ever computed twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.mimi_config import TransformerConfig

ROPE_BLOCK = 256  # positions are split into blocks of this size, see rotary_table


@dataclass(frozen=True)
class TransformerState:
    """The past of each stream: L = left_context - 1 keys and values a layer, and how many frames it has consumed.

    Slot j holds position frames - L + j; slots of negative position are empty.
    """

    keys: Tensor  # (B, layers, H, L, Dh), rotated
    values: Tensor  # (B, layers, H, L, Dh)
    frames: Tensor  # (B,) int64


def rotary_table(positions: Tensor, head_dim: int, max_period: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine (*positions.shape, head_dim / 2) of position times frequency, max_period ** (-2 i / head_dim).

    A position is split as 256 a + b and the angle of 256 is reduced modulo 2 pi in double precision beforehand, so the
    rotation of an hour-old stream is still good to about 1e-4 rad in fp32, where the plain product is off by 4e-3.
    """
    freqs = [max_period ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    fine = torch.tensor(freqs, dtype=torch.float32, device=positions.device)
    coarse = torch.tensor(
        [math.remainder(f * ROPE_BLOCK, 2 * math.pi) for f in freqs],
        dtype=torch.float32,
        device=positions.device,
    )
    high = torch.div(positions, ROPE_BLOCK, rounding_mode="floor")
    low = positions - high * ROPE_BLOCK
    angle = (
        high.to(torch.float32).unsqueeze(-1) * coarse + low.to(torch.float32).unsqueeze(-1) * fine
    )
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, H, T, Dh): component i of the first half pairs with component i of the second."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class TransformerLayer(nn.Module):
    """Attention and feed-forward, both pre-normed and layer-scaled. The attention itself is given by the caller."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-5)
        self.qkv = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.out = nn.Linear(config.dim, config.dim, bias=False)
        self.scale1 = nn.Parameter(torch.full((config.dim,), config.layer_scale))
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-5)
        self.up = nn.Linear(config.dim, config.ff_dim, bias=False)
        self.down = nn.Linear(config.ff_dim, config.dim, bias=False)
        self.scale2 = nn.Parameter(torch.full((config.dim,), config.layer_scale))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, dim) to rotated queries, rotated keys and values, each (B, H, T, Dh)."""
        q, k, v = (
            p.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for p in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the attention's result (B, H, T, Dh) to the stream, then the feed-forward."""
        x = x + self.scale1 * self.out(attended.transpose(1, 2).flatten(2))
        return x + self.scale2 * self.down(
            F.gelu(self.up(self.norm2(x)), approximate=self.approximate)
        )


class CausalTransformer(nn.Module):
    """`layers` transformer layers over frames (B, T, dim), with `init_state`, `step` and an equal offline call."""

    def __init__(self, config: TransformerConfig | None = None) -> None:
        super().__init__()
        config = self.config = config or TransformerConfig()
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))

    def init_state(self, batch: int = 1) -> TransformerState:
        """The state of `batch` streams that have heard nothing."""
        c, p = self.config, self.layers[0].qkv.weight
        cache = torch.zeros(
            batch,
            c.layers,
            c.heads,
            c.left_context - 1,
            c.dim // c.heads,
            dtype=p.dtype,
            device=p.device,
        )
        return TransformerState(
            cache, cache.clone(), torch.zeros(batch, dtype=torch.int64, device=p.device)
        )

    def step(self, x: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Take (B, T, dim) after what `state` has seen; return as many frames and the new state."""
        c, past, count = self.config, self.config.left_context - 1, x.shape[1]
        offset = torch.arange(count, device=x.device)
        slot = torch.arange(past, device=x.device)
        cos, sin = rotary_table(state.frames.unsqueeze(1) + offset, c.dim // c.heads, c.max_period)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        # query t is at frames + t, slot j at frames - past + j: far enough back it leaves the context
        in_reach = slot.unsqueeze(0) >= offset.unsqueeze(1)
        filled = slot >= past - state.frames.unsqueeze(1)
        seen = (in_reach & filled.unsqueeze(1)).unsqueeze(1)  # (B, 1, T, L)
        back = offset.unsqueeze(1) - offset.unsqueeze(0)
        recent = (back >= 0) & (back < c.left_context)  # (T, T)
        bias = torch.cat([_bias(seen, x), _bias(recent, x).expand(x.shape[0], 1, count, count)], -1)
        new_keys, new_values = [], []
        for i, layer in enumerate(self.layers):
            q, k, v = layer.project(x, cos, sin)
            q = q * (c.dim // c.heads) ** -0.5
            # the cache is used where it lies: joining it with the new keys would copy it once more for each layer
            scores = torch.cat(
                [q @ state.keys[:, i].transpose(-1, -2), q @ k.transpose(-1, -2)], -1
            )
            weights = torch.softmax(scores + bias, -1)
            x = layer.finish(x, weights[..., :past] @ state.values[:, i] + weights[..., past:] @ v)
            new_keys.append(k)
            new_values.append(v)
        return x, TransformerState(
            _push(state.keys, torch.stack(new_keys, 1)),
            _push(state.values, torch.stack(new_values, 1)),
            state.frames + count,
        )

    def forward(self, x: Tensor) -> Tensor:
        """All frames (B, T, dim) of new streams at once: attention over gathered windows, linear in T."""
        c, (_, count, _) = self.config, x.shape
        if count == 0:
            return x
        block, past = min(count, c.left_context), c.left_context - 1
        blocks = -(-count // block)
        cos, sin = rotary_table(
            torch.arange(count, device=x.device), c.dim // c.heads, c.max_period
        )
        query = torch.arange(blocks * block, device=x.device).view(blocks, block, 1)
        key = (torch.arange(blocks, device=x.device) * block - past).view(-1, 1, 1) + torch.arange(
            past + block, device=x.device
        )
        visible = (
            (key >= 0) & (key <= query) & (query - key < c.left_context)
        )  # (blocks, block, past + block)
        for layer in self.layers:
            q, k, v = layer.project(x, cos, sin)
            tail = blocks * block - count
            q = F.pad(q, (0, 0, 0, tail)).unflatten(2, (blocks, block))
            k, v = (
                F.pad(p, (0, 0, past, tail)).unfold(2, past + block, block).transpose(-1, -2)
                for p in (k, v)
            )
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
            x = layer.finish(x, attended.flatten(2, 3)[:, :, :count])
        return x


def _bias(visible: Tensor, like: Tensor) -> Tensor:
    return torch.where(visible, 0.0, -1e9).to(like.dtype)


def _push(cache: Tensor, new: Tensor) -> Tensor:
    """The last L frames of the cache (..., L, Dh) followed by the new ones (..., T, Dh)."""
    past = cache.shape[-2]
    if torch.jit.is_tracing():  # which would take the count of this run for that of all
        return torch.cat([cache, new], -2)[..., -past:, :]
    return torch.cat([cache[..., new.shape[-2] :, :], new[..., -past:, :]], -2)
