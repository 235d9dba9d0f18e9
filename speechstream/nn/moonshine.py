"""Streaming Moonshine (Useful Sensors; arXiv:2410.15608 and its successor): raw sound, a windowed encoder, a decoder.

Frames of 5 ms are centred, scaled and bent (asinh), two causal convolutions make 20 ms of them. The encoder's layers see a
window before and, most of them, a few frames after; there are no positions in it. So each layer runs as far behind its
input as it looks ahead, and a step costs the same however long a stream is. The decoder hears the frames with positions of
their own, all of them.

    keys, values, state = model.hear(audio, ends, state)     # of the frames that are certain now
    h, state = model.decoder.step(tokens, memory, state)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.llm import LlmState
from speechstream.nn.moonshine_config import (
    KERNEL,
    STACKED,
    MoonshineConfig,
    MoonshineDecoderConfig,
    MoonshineEncoderConfig,
)
from speechstream.nn.moonshine_state import EncoderState

EPS = 1e-6  # of a frame's loudness
PAST = KERNEL - 1


class UnitNorm(nn.Module):
    """A layer norm whose weight is stored less one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * (self.gamma + 1.0)


def heads(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, H Dh) to (B, H, T, Dh)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


class EncoderLayer(nn.Module):
    def __init__(self, c: MoonshineEncoderConfig) -> None:
        super().__init__()
        self.head_dim, inner = c.head_dim, c.heads * c.head_dim
        self.att_norm, self.ff_norm = UnitNorm(c.dim), UnitNorm(c.dim)
        self.q_proj = nn.Linear(c.dim, inner, bias=c.bias)
        self.k_proj, self.v_proj = (
            nn.Linear(c.dim, c.kv_heads * c.head_dim, bias=c.bias) for _ in range(2)
        )
        self.o_proj = nn.Linear(inner, c.dim, bias=c.bias)
        self.up_proj, self.down_proj = nn.Linear(c.dim, c.ff_dim), nn.Linear(c.ff_dim, c.dim)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, kv_heads, T, Dh)."""
        h = self.att_norm(x)
        return heads(self.k_proj(h), self.head_dim), heads(self.v_proj(h), self.head_dim)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        """Frames (B, T, dim) that see some of the keys (B, kv_heads, S, Dh): `seen` (B, 1, T, S)."""
        q = heads(self.q_proj(self.att_norm(x)), self.head_dim)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen, enable_gqa=True)
        x = x + self.o_proj(y.transpose(1, 2).flatten(2))
        return x + self.down_proj(F.gelu(self.up_proj(self.ff_norm(x))))


class MoonshineEncoder(nn.Module):
    """Frames of samples (B, n, frame), n a multiple of 4, to frames (B, n / 4, dim), as many as it looks ahead late."""

    def __init__(self, config: MoonshineEncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.bend = nn.Parameter(torch.tensor(math.log(0.75)))
        self.entry = nn.Linear(c.frame, c.dim, bias=False)
        self.conv1 = nn.Conv1d(c.dim, 2 * c.dim, KERNEL, 2)
        self.conv2 = nn.Conv1d(2 * c.dim, c.dim, KERNEL, 2)
        self.layers = nn.ModuleList(EncoderLayer(c) for _ in range(c.layers))
        self.norm = UnitNorm(c.dim)

    def init_state(self, batch: int = 1) -> EncoderState:
        """The state of `batch` streams that have heard nothing."""
        c, w = self.config, self.norm.gamma
        past = w.new_zeros(batch, c.kv_heads, sum(c.kept), c.head_dim)
        return EncoderState(
            w.new_zeros(batch, c.dim, PAST),
            w.new_zeros(batch, 2 * c.dim, PAST),
            w.new_zeros(batch, c.ahead, c.dim),
            past,
            past.clone(),
            torch.zeros(batch, dtype=torch.int64, device=w.device),
        )

    def front(self, audio: Tensor, conv1: Tensor, conv2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, n / 4, dim), and what the convolutions remember."""
        x = audio - audio.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt()
        x = F.silu(self.entry(torch.asinh(self.bend.exp() * x))).transpose(1, 2)
        x = torch.cat([conv1, x], 2)
        y = torch.cat([conv2, F.silu(self.conv1(x))], 2)
        return self.conv2(y).transpose(1, 2), x[:, :, -PAST:], y[:, :, -PAST:]

    def step(self, audio: Tensor, ends: Tensor, state: EncoderState) -> tuple[Tensor, EncoderState]:
        """Hear frames of samples; `ends` (B,): the encoder's frames that there are in all, beyond which all is silence."""
        c, s = self.config, state
        x, conv1, conv2 = self.front(audio, s.conv1, s.conv2)
        count = x.shape[1]
        begin, end = s.frames[:, None, None, None], ends[:, None, None, None]
        new = torch.arange(count, device=x.device)
        sizes, aheads = list(c.kept), [after for _, after in c.windows]
        pasts = zip(s.keys.split(sizes, 2), s.values.split(sizes, 2), s.waiting.split(aheads, 1))
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for layer, (before, after), size, past in zip(self.layers, c.windows, sizes, pasts):
            k, v = (torch.cat(pair, 2) for pair in zip(past[:2], layer.project(x)))
            x = torch.cat([past[2], x], 1)
            # of keys as of queries: how far behind the layer's first new input, which is frame `begin`
            place = torch.arange(size + count, device=x.device) - size
            back = (new - after)[:, None] - place
            real = (begin + place >= 0) & (begin + place < end)
            near = (back < before) & (back >= -after)
            seen = (real & near) | (back == 0)  # what is not real must be finite all the same
            kept = (k[:, :, count:], v[:, :, count:], x[:, count:])
            x = layer(x[:, :count], k, v, seen)
            begin = begin - after
            for whole, one in zip(found, kept):
                whole.append(one)
        keys, values, waiting = (torch.cat(f, a) for f, a in zip(found, (2, 2, 1)))
        return self.norm(x), EncoderState(conv1, conv2, waiting, keys, values, s.frames + count)


class DecoderLayer(nn.Module):
    def __init__(self, c: MoonshineDecoderConfig) -> None:
        super().__init__()
        self.head_dim, inner = c.head_dim, c.heads * c.head_dim
        self.norm, self.cross_norm, self.ff_norm = (
            nn.LayerNorm(c.dim, bias=False) for _ in range(3)
        )
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(c.dim, inner, bias=c.bias) for _ in range(3)
        )
        self.cross_q_proj, self.cross_k_proj, self.cross_v_proj = (
            nn.Linear(c.dim, inner, bias=c.bias) for _ in range(3)
        )
        self.o_proj, self.cross_o_proj = (nn.Linear(inner, c.dim, bias=False) for _ in range(2))
        self.up_proj, self.down_proj = nn.Linear(c.dim, 2 * c.ff_dim), nn.Linear(c.ff_dim, c.dim)

    def remember(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is heard (B, T, dim) as keys and values."""
        return (
            heads(self.cross_k_proj(x), self.head_dim),
            heads(self.cross_v_proj(x), self.head_dim),
        )

    def feed(self, x: Tensor) -> Tensor:
        h, gate = self.up_proj(self.ff_norm(x)).chunk(2, -1)
        return x + self.down_proj(F.silu(gate) * h)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first numbers of each head (B, H, T, Dh), neighbours by pairs; the others stay."""
    size = 2 * cos.shape[-1]
    a, b = x[..., 0:size:2], x[..., 1:size:2]
    pairs = torch.stack([a * cos - b * sin, b * cos + a * sin], -1)
    return torch.cat([pairs.flatten(-2), x[..., size:]], -1)


class MoonshineDecoder(nn.Module):
    def __init__(self, config: MoonshineDecoderConfig, heard_dim: int) -> None:
        super().__init__()
        self.config = c = config
        self.positions = nn.Embedding(c.positions, heard_dim)
        self.entry = nn.Linear(heard_dim, c.dim, bias=False) if heard_dim != c.dim else None
        self.embed_tokens = nn.Embedding(c.vocab_size, c.dim)
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim, bias=False)
        self.head = nn.Linear(c.dim, c.vocab_size, bias=False)
        if c.tied:
            self.head.weight = self.embed_tokens.weight

    def init_state(self, batch: int = 1) -> LlmState:
        """The state of `batch` texts of which nothing was read."""
        c, w = self.config, self.norm.weight
        empty = w.new_zeros(batch, c.layers, c.heads, 0, c.head_dim)
        return LlmState(
            empty, empty.clone(), torch.zeros(batch, dtype=torch.int64, device=w.device)
        )

    def remember(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, dim) of these places (B, T) as keys and values (B, layers, heads, T, head_dim)."""
        x = x + self.positions(places.clamp(0, self.config.positions - 1))
        x = x if self.entry is None else self.entry(x)
        pairs = [layer.remember(x) for layer in self.layers]
        return torch.stack([k for k, _ in pairs], 1), torch.stack([v for _, v in pairs], 1)

    def step(self, tokens: Tensor, memory: LlmState, state: LlmState) -> tuple[Tensor, LlmState]:
        """Read tokens (B, T); normed features (B, T, dim). Younger streams of a batch are padded on the left."""
        x, past, count = self.embed_tokens(tokens), state.keys.shape[3], tokens.shape[1]
        offset = torch.arange(count, device=x.device)
        cos, sin = self._rotary(state.tokens[:, None] + offset, x)
        places = torch.arange(past + count, device=x.device)
        seen = (places <= past + offset[:, None]) & _last(places, past, state.tokens)
        length = memory.keys.shape[3]
        heard = _last(torch.arange(length, device=x.device), length, memory.tokens)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            h = layer.norm(x)
            q, k, v = (
                heads(p(h), layer.head_dim) for p in (layer.q_proj, layer.k_proj, layer.v_proj)
            )
            k = torch.cat([state.keys[:, i], turned(k, cos, sin)], 2)
            v = torch.cat([state.values[:, i], v], 2)
            y = F.scaled_dot_product_attention(turned(q, cos, sin), k, v, attn_mask=seen)
            x = x + layer.o_proj(y.transpose(1, 2).flatten(2))
            q = heads(layer.cross_q_proj(layer.cross_norm(x)), layer.head_dim)
            y = F.scaled_dot_product_attention(
                q, memory.keys[:, i], memory.values[:, i], attn_mask=heard
            )
            x = layer.feed(x + layer.cross_o_proj(y.transpose(1, 2).flatten(2)))
            keys.append(k)
            values.append(v)
        state = LlmState(torch.stack(keys, 1), torch.stack(values, 1), state.tokens + count)
        return self.norm(x), state

    def _rotary(self, places: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, 1, T, rotary_dim / 2)."""
        size = self.config.rotary_dim
        turns = torch.arange(0, size, 2, device=like.device, dtype=torch.float64) / size
        angle = places[:, None, :, None].double() * self.config.rope_base**-turns
        return angle.cos().to(like.dtype), angle.sin().to(like.dtype)


def _last(places: Tensor, length: int, counts: Tensor) -> Tensor:
    """(B, 1, 1, S): which places are real of streams that have so many (B,) before `length`."""
    return (places >= length - counts[:, None])[:, None, None]


class Moonshine(nn.Module):
    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = MoonshineEncoder(config.encoder)
        self.decoder = MoonshineDecoder(config.decoder, config.encoder.dim)

    def hear(
        self, audio: Tensor, ends: Tensor, state: EncoderState
    ) -> tuple[Tensor, Tensor, EncoderState]:
        """Keys and values of frames of the encoder, the first of which is the state's `frames` less those ahead."""
        x, new = self.encoder.step(audio, ends, state)
        first = state.frames - self.config.encoder.ahead
        places = first[:, None] + torch.arange(x.shape[1], device=x.device)
        keys, values = self.decoder.remember(x, places)
        return keys, values, new

    def forward(self, audio: Tensor, tokens: Tensor) -> Tensor:
        """Logits (B, T, vocab_size) of texts (B, T) for recordings (B, frames, frame) of one length."""
        count, ahead = -(-audio.shape[1] // STACKED), self.config.encoder.ahead
        batch = audio.shape[0]
        ends = torch.full((batch,), count, device=audio.device)
        filled = F.pad(audio, (0, 0, 0, STACKED * (count + ahead) - audio.shape[1]))
        keys, values, _ = self.hear(filled, ends, self.encoder.init_state(batch))
        memory = LlmState(keys[:, :, :, ahead:], values[:, :, :, ahead:], ends)
        x, _ = self.decoder.step(tokens, memory, self.decoder.init_state(batch))
        return self.decoder.head(x)


def tied(config: MoonshineConfig) -> dict[str, str]:
    """Layers that have the weight of another."""
    return {"decoder.head": "decoder.embed_tokens"} if config.decoder.tied else {}
