"""Causal language models of the Llama family, with their keys and values as an explicit state.

One network for Llama (arXiv:2302.13971), Mistral (2310.06825), Qwen2 (2407.10671), Qwen3 (2505.09388) and SmolLM2
(2502.02737): pre-norm layers, grouped query heads, rotary positions, SwiGLU; biases, norms of queries and keys, sliding
windows and a tied output layer by configuration. Parameter names are those of Hugging Face's checkpoints.

    logits, state = model.step(tokens, model.init_state())
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.llm_config import LlmConfig


@dataclass(frozen=True)
class LlmState:
    """Keys and values of the tokens read so far. S grows; a stream that has read fewer is padded on the left."""

    keys: Tensor  # (B, layers, kv_heads, S, head_dim), rotated
    values: Tensor  # (B, layers, kv_heads, S, head_dim)
    tokens: Tensor  # (B,) int64: tokens read, the last of the S rows


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (B, H, T, Dh): component i of the first half pairs with component i of the second."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        c, d = config, config.head_dim
        self.head_dim = d
        self.q_proj = nn.Linear(c.dim, c.heads * d, bias=c.qkv_bias)
        self.k_proj = nn.Linear(c.dim, c.kv_heads * d, bias=c.qkv_bias)
        self.v_proj = nn.Linear(c.dim, c.kv_heads * d, bias=c.qkv_bias)
        self.o_proj = nn.Linear(c.heads * d, c.dim, bias=c.out_bias)
        self.q_norm = nn.RMSNorm(d, c.norm_eps) if c.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(d, c.norm_eps) if c.qk_norm else nn.Identity()

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, dim) to rotated queries (B, H, T, Dh), rotated keys and values (B, kv_heads, T, Dh)."""
        q, k, v = (
            p(x).unflatten(-1, (-1, self.head_dim)) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2)
        return rotate(q, cos, sin), rotate(k, cos, sin), v.transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        c = config
        self.gate_proj = nn.Linear(c.dim, c.ff_dim, bias=c.mlp_bias)
        self.up_proj = nn.Linear(c.dim, c.ff_dim, bias=c.mlp_bias)
        self.down_proj = nn.Linear(c.ff_dim, c.dim, bias=c.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, config.norm_eps)
        self.mlp = FeedForward(config)

    def finish(self, x: Tensor, attended: Tensor, scale: Tensor | None = None) -> Tensor:
        """Add the attention's result (B, H, T, Dh) to the stream, then the feed-forward.

        scale: (B, 1, dim) of the feed-forward's normed input, where a model is told something by it.
        """
        x = x + self.self_attn.o_proj(attended.transpose(1, 2).flatten(2))
        h = self.post_attention_layernorm(x)
        return x + self.mlp(h if scale is None else h * scale)


class Decoder(nn.Module):
    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, config.norm_eps)


class Llm(nn.Module):
    """Token ids (B, T) to logits (B, T, vocab_size), step by step or all at once."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def init_state(self, batch: int = 1) -> LlmState:
        """The state of `batch` streams that have read nothing."""
        c, w = self.config, self.model.norm.weight
        empty = w.new_zeros(batch, c.layers, c.kv_heads, 0, c.head_dim)
        return LlmState(
            empty, empty.clone(), torch.zeros(batch, dtype=torch.int64, device=w.device)
        )

    def step(self, tokens: Tensor, state: LlmState) -> tuple[Tensor, LlmState]:
        """Read (B, T) ids after what `state` has read; return the logits of each next token and the new state."""
        x, state = self.hidden(self.model.embed_tokens(tokens), state)
        return self.lm_head(x), state

    def hidden(
        self, x: Tensor, state: LlmState, scales: Tensor | None = None
    ) -> tuple[Tensor, LlmState]:
        """The same from embeddings (B, T, dim) to the last layer's normed features (B, T, dim).

        scales: (B, layers, dim) of the feed-forwards' normed inputs; None: they are taken as they are.
        """
        x, state = attend(self.config, self.model.layers, x, state, scales)
        return self.model.norm(x), state

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, T, vocab_size) of whole texts (B, T)."""
        return self.step(tokens, self.init_state(tokens.shape[0]))[0]


def attend(
    config: LlmConfig,
    layers: nn.ModuleList,
    x: Tensor,
    state: LlmState,
    scales: Tensor | None = None,
) -> tuple[Tensor, LlmState]:
    """x (B, T, dim) after what `state` has read, through layers with `input_layernorm`, `self_attn` and `finish`.

    scales: (B, layers, dim), given to each layer's `finish`.
    """
    c, past, count = config, state.keys.shape[3], x.shape[1]
    offset = torch.arange(count, device=x.device)
    cos, sin = _rotary(c, state.tokens[:, None] + offset, x)
    back = past + offset[:, None] - torch.arange(past + count, device=x.device)  # (T, S + T)
    real = torch.arange(past + count, device=x.device) >= past - state.tokens[:, None]
    full = (back >= 0) & real[:, None, None, :]  # (B, 1, T, S + T)
    windowed = full & (back < c.window)
    keys, values = [], []
    for i, layer in enumerate(layers):
        q, k, v = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
        k, v = torch.cat([state.keys[:, i], k], 2), torch.cat([state.values[:, i], v], 2)
        seen = windowed if i in c.window_layers else full
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        scaled = () if scales is None else (scales[:, i, None],)
        x = layer.finish(x, attended, *scaled)
        keys.append(k)
        values.append(v)
    return x, LlmState(torch.stack(keys, 1), torch.stack(values, 1), state.tokens + count)


def _rotary(config: LlmConfig, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, T, head_dim / 2); angles in float64, so that no stream is too long."""
    freqs = torch.from_numpy(config.rope.frequencies(config.head_dim)).to(positions.device)
    angle = positions[:, None, :, None].double() * freqs
    scale = config.rope.attention_factor
    return (angle.cos() * scale).to(like.dtype), (angle.sin() * scale).to(like.dtype)
