"""Voxtral Realtime (Mistral, arXiv:2602.11298): speech to text as two streams, sound in and text out, a token each 80 ms.

A causal encoder (rotary positions, a window of frames) gives 50 frames a second; four of them make a token of
audio, which is added to the embedding of the token that was written last. A Mistral-like language model reads the
sum and writes the next token, or none. How late it writes is said to each layer: the delay scales what its
feed-forward hears. All of it is causal, so that steps of any size give what the whole gives:

    audio, state = model.hear(mel, model.encoder.init_state())        # mel frames, whole tokens of them
    logits, text = model.read(tokens, audio, model.scales(6), model.init_text())

States are values, no longer than their windows. Streams of different age share a batch: `nn.growing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.growing import shortened
from speechstream.nn.llm import Llm, LlmState, rotate
from speechstream.nn.voxtral_config import VoxtralConfig, VoxtralEncoderConfig

THETA = 10_000.0  # of the sinusoids that write the delay


@dataclass(frozen=True)
class VoxtralEncoderState:
    """What the next frames need of those before. S is at most window - 1; a younger stream is padded on the left."""

    conv1: Tensor  # (B, n_mels, 2) the last inputs of the convolutions
    conv2: Tensor  # (B, dim, 1)
    keys: Tensor  # (B, layers, heads, S, head_dim), rotated
    values: Tensor  # (B, layers, heads, S, head_dim)
    frames: Tensor  # (B,) int64: encoded so far


class EncoderLayer(nn.Module):
    def __init__(self, c: VoxtralEncoderConfig) -> None:
        super().__init__()
        inner = c.heads * c.head_dim
        self.head_dim = c.head_dim
        self.q_proj = nn.Linear(c.dim, inner)
        self.k_proj = nn.Linear(c.dim, inner, bias=False)
        self.v_proj = nn.Linear(c.dim, inner)
        self.o_proj = nn.Linear(inner, c.dim)
        self.att_norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.ff_norm = nn.RMSNorm(c.dim, c.norm_eps)
        self.gate_proj = nn.Linear(c.dim, c.ff_dim, bias=False)
        self.up_proj = nn.Linear(c.dim, c.ff_dim, bias=False)
        self.down_proj = nn.Linear(c.ff_dim, c.dim)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor], seen: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, dim) after past keys and values (B, H, S, Dh); also all keys and values (B, H, S + T, Dh)."""
        h = self.att_norm(x)
        q, k, v = (
            p(h).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        k, v = torch.cat([past[0], rotate(k, cos, sin)], 2), torch.cat([past[1], v], 2)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, attn_mask=seen)
        x = x + self.o_proj(y.transpose(1, 2).flatten(2))
        h = self.ff_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h)), k, v


class VoxtralEncoder(nn.Module):
    """Mel frames (B, n_mels, 2 T) to frames (B, T, dim), each of 20 ms."""

    def __init__(self, config: VoxtralEncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.conv1 = nn.Conv1d(c.n_mels, c.dim, 3)
        self.conv2 = nn.Conv1d(c.dim, c.dim, 3, stride=2)
        self.layers = nn.ModuleList(EncoderLayer(c) for _ in range(c.layers))
        self.norm = nn.RMSNorm(c.dim, c.norm_eps)

    def init_state(self, batch: int = 1) -> VoxtralEncoderState:
        """The state of `batch` streams that have heard nothing."""
        c, w = self.config, self.norm.weight
        empty = w.new_zeros(batch, c.layers, c.heads, 0, c.head_dim)
        return VoxtralEncoderState(
            w.new_zeros(batch, c.n_mels, 2),
            w.new_zeros(batch, c.dim, 1),
            empty,
            empty.clone(),
            torch.zeros(batch, dtype=torch.int64, device=w.device),
        )

    def step(self, mel: Tensor, state: VoxtralEncoderState) -> tuple[Tensor, VoxtralEncoderState]:
        """Hear an even number of mel frames after what `state` has heard. Raises ValueError for another shape."""
        c = self.config
        if mel.ndim != 3 or mel.shape[1] != c.n_mels or mel.shape[2] % 2:
            raise ValueError(
                f"expected mel frames (B, {c.n_mels}, an even number), got {tuple(mel.shape)}"
            )
        x, new = self.extend(mel, state)
        return x, shortened(new, c.window)

    def extend(self, mel: Tensor, state: VoxtralEncoderState) -> tuple[Tensor, VoxtralEncoderState]:
        """The same with all keys and values that there were, beyond the window too."""
        c = self.config
        mel = torch.cat([state.conv1, mel], -1)
        wide = torch.cat([state.conv2, F.gelu(self.conv1(mel))], -1)
        x = F.gelu(self.conv2(wide)).transpose(1, 2)
        past, count = state.keys.shape[3], x.shape[1]
        cos, sin = self._rotary(state.frames[:, None] + torch.arange(count, device=x.device), x)
        seen = visible(past, count, state.frames, c.window)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, (state.keys[:, i], state.values[:, i]), seen, cos, sin)
            keys.append(k)
            values.append(v)
        new = VoxtralEncoderState(
            mel[..., -2:],
            wide[..., -1:],
            torch.stack(keys, 1),
            torch.stack(values, 1),
            state.frames + count,
        )
        return self.norm(x), new

    def forward(self, mel: Tensor) -> Tensor:
        """Whole recordings."""
        return self.step(mel, self.init_state(mel.shape[0]))[0]

    def _rotary(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, 1, T, head_dim / 2); angles in float64, so that no stream is too long."""
        rope = self.config.rope
        freqs = torch.from_numpy(rope.frequencies(self.config.head_dim)).to(positions.device)
        angle = positions[:, None, :, None].double() * freqs
        scale = rope.attention_factor
        return (angle.cos() * scale).to(like.dtype), (angle.sin() * scale).to(like.dtype)


def visible(past: int, count: int, before: Tensor, window: int) -> Tensor:
    """Which of past + count rows each of the new ones sees, (B, 1, count, past + count). before: (B,) rows that came earlier."""
    rows = torch.arange(past + count, device=before.device)
    back = past + torch.arange(count, device=before.device)[:, None] - rows
    real = rows >= past - before[:, None]
    return ((back >= 0) & (back < window)) & real[:, None, None, :]


class Voxtral(nn.Module):
    """The encoder, the projector, and the language model with its layers for the delay."""

    def __init__(self, config: VoxtralConfig) -> None:
        super().__init__()
        self.config = config
        e, t, d = config.encoder, config.text, config.delay_dim
        self.encoder = VoxtralEncoder(e)
        self.projector = nn.Sequential(
            nn.Linear(e.dim * config.stacked, t.dim, bias=False),
            nn.GELU(),
            nn.Linear(t.dim, t.dim, bias=False),
        )
        self.delays = nn.ModuleList(
            nn.Sequential(
                nn.Linear(t.dim, d, bias=False), nn.GELU(), nn.Linear(d, t.dim, bias=False)
            )
            for _ in range(t.layers)
        )
        self.text = Llm(t)

    def hear(self, mel: Tensor, state: VoxtralEncoderState) -> tuple[Tensor, VoxtralEncoderState]:
        """Mel frames (B, n_mels, mels_per_token n) to tokens of audio (B, n, text dim)."""
        if mel.shape[-1] % self.config.mels_per_token:
            raise ValueError(
                f"expected whole tokens of {self.config.mels_per_token} mel frames, got {mel.shape[-1]}"
            )
        x, state = self.encoder.step(mel, state)
        return self.projector(x.unflatten(1, (-1, self.config.stacked)).flatten(2)), state

    def scales(self, delay: float) -> Tensor:
        """What a delay, in tokens, multiplies each feed-forward's input by: (1, layers, text dim)."""
        w, half = self.text.model.norm.weight, self.config.text.dim // 2
        turns = torch.exp(-math.log(THETA) * torch.arange(half).float() / half).to(w)
        angle = w.new_tensor([delay]) * turns
        written = torch.cat([angle.cos(), angle.sin()])
        return torch.stack([1 + layer(written) for layer in self.delays])[None]

    def init_text(self, batch: int = 1) -> LlmState:
        """The language model's state of `batch` streams that have read nothing."""
        return self.text.init_state(batch)

    def read(
        self, tokens: Tensor, audio: Tensor, scales: Tensor, state: LlmState, last: bool = False
    ) -> tuple[Tensor, LlmState]:
        """Read tokens (B, T) with the audio (B, T, text dim) of the same places: logits (B, T, vocab_size).

        scales: (B or 1, layers, text dim) of `scales`. last: only the logits after the last, (B, 1, vocab_size).
        """
        x = self.text.model.embed_tokens(tokens) + audio
        x, state = self.text.hidden(x, state, scales)
        logits = self.text.lm_head(x[:, -1:] if last else x)
        return logits, shortened(state, self.config.text.window)

    @torch.no_grad()
    def generate(
        self, mel: Tensor, prompt: Sequence[int], delay: float, eos: Sequence[int] = ()
    ) -> list[int]:
        """The greedy tokens after the prompt, of whole mel frames (n_mels, frames): one less than there are tokens of
        audio in all, or up to the first of `eos`, which is among them."""
        audio = self.hear(mel[None], self.encoder.init_state())[0]
        scales, state, at = self.scales(delay), self.init_text(), len(prompt)
        known = torch.tensor([list(prompt)], device=mel.device)
        logits, state = self.read(known, audio[:, :at], scales, state)
        out = [int(logits[0, -1].argmax())]
        while at + len(out) < audio.shape[1] and out[-1] not in eos:
            place = at + len(out) - 1
            last = torch.tensor([out[-1:]], device=mel.device)
            logits, state = self.read(last, audio[:, place : place + 1], scales, state)
            out.append(int(logits[0, -1].argmax()))
        return out
