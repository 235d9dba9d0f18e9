"""Moshi (Défossez et al., 2024, arXiv:2410.00037): a language model that hears and speaks at once, a frame of 80 ms at a time.

Three streams run side by side, a row of them each frame: the text of what it says (a piece of a word, or padding), the
codes of its own speech, and those of the user's. The temporal transformer reads the sum of a row's embeddings and writes
the next text token; the depth transformer then writes the codes of its own speech, level by level. In a row the first code is
that of the frame, and the others, the acoustic ones, are of the frame before: a frame of its speech is whole one step after
its first code. There are no turns: what it says while the user speaks is mostly silence.

    state = model.begin(model.init_state(), draw)
    codes, encoder = model.hear(audio, state.encoder)              # 80 ms of the user
    words, spoken, state = model.step(codes[:, 0], state, draw)    # 80 ms of its own
    audio, decoder = model.say(spoken[:, None], state.decoder)

`follow` reads frames whose text and codes are known, all at once: those of an answer that was heard up to there, or of a
silence that it is made to keep. States are values, no longer than their windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.growing import shortened
from speechstream.nn.llm import Layer, LlmState, attend
from speechstream.nn.mimi import Mimi, MimiDecoderState, MimiEncoderState
from speechstream.nn.moshi_config import DepthConfig, MoshiConfig

# Chooses of logits (B, size) one each (B,); the number is 0 for the text and 1 + level for a code.
Draw = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class MoshiState:
    """What B streams remember."""

    encoder: MimiEncoderState  # of the user's sound
    text: LlmState  # of the temporal transformer
    decoder: MimiDecoderState  # of its own sound
    own: Tensor  # (B, 1 + levels) int64: text and first code of the next frame, further codes of the last
    user: Tensor  # (B, levels) int64: the user's codes of the last frame


def greedy(logits: Tensor, number: int) -> Tensor:
    """The likeliest."""
    return logits.argmax(-1)


class DepthLayer(nn.Module):
    """A layer whose matrices are a stack of one for each level: (levels, out, in)."""

    def __init__(self, config: DepthConfig, levels: int) -> None:
        super().__init__()
        c, d = config, config.head_dim
        self.head_dim = d
        self.input_layernorm = nn.RMSNorm(c.dim, c.norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(c.dim, c.norm_eps)
        for name, shape in (
            ("q_proj", (c.heads * d, c.dim)),
            ("k_proj", (c.kv_heads * d, c.dim)),
            ("v_proj", (c.kv_heads * d, c.dim)),
            ("o_proj", (c.dim, c.heads * d)),
            ("gate_proj", (c.ff_dim, c.dim)),
            ("up_proj", (c.ff_dim, c.dim)),
            ("down_proj", (c.dim, c.ff_dim)),
        ):
            self.register_parameter(
                name, nn.Parameter(torch.randn(levels, *shape) / shape[1] ** 0.5)
            )

    def forward(
        self, x: Tensor, level: int, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, dim) of one level after those of `past`, its keys and values (B, heads, level, head_dim)."""
        h = self.input_layernorm(x)
        q, k, v = (
            F.linear(h, w[level]).unflatten(-1, (-1, 1, self.head_dim))
            for w in (self.q_proj, self.k_proj, self.v_proj)
        )
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        x = x + F.linear(y.flatten(1), self.o_proj[level])
        h = self.post_attention_layernorm(x)
        h = F.silu(F.linear(h, self.gate_proj[level])) * F.linear(h, self.up_proj[level])
        return x + F.linear(h, self.down_proj[level]), (k, v)


class DepthTransformer(nn.Module):
    """Features of a frame (B, input_dim) and its text (B,) to its codes (B, levels), level by level."""

    def __init__(
        self, config: DepthConfig, input_dim: int, words: int, codes: int, levels: int
    ) -> None:
        super().__init__()
        c = config
        self.levels, self.codes = levels, codes
        self.text_embed = nn.Embedding(words + 1, c.dim)
        self.embed = nn.Embedding((levels - 1) * (codes + 1), c.dim)  # the last level is never read
        self.inputs = nn.Parameter(torch.randn(levels, c.dim, input_dim) / input_dim**0.5)
        self.layers = nn.ModuleList(DepthLayer(c, levels) for _ in range(c.layers))
        self.heads = nn.Parameter(torch.randn(levels, codes, c.dim) / c.dim**0.5)

    def forward(self, features: Tensor, words: Tensor, draw: Draw) -> Tensor:
        """draw: is given the logits of each level in turn."""
        past: list[tuple[Tensor, Tensor] | None] = [None] * len(self.layers)
        x, found = self.text_embed(words), []
        for level in range(self.levels):
            x = x + F.linear(features, self.inputs[level])
            for i, layer in enumerate(self.layers):
                x, past[i] = layer(x, level, past[i])
            found.append(draw(F.linear(x, self.heads[level]), 1 + level))
            if level + 1 < self.levels:
                x = self.embed(found[-1] + level * (self.codes + 1))
        return torch.stack(found, 1)


class Moshi(nn.Module):
    def __init__(self, config: MoshiConfig) -> None:
        super().__init__()
        self.config = c = config
        t, rows = c.text, c.begin_code + 1
        self.codec = Mimi(c.codec)
        self.text_embed = nn.Embedding(t.vocab_size + 1, t.dim)
        self.embed = nn.Embedding(2 * c.levels * rows, t.dim)  # its own levels, then the user's
        self.layers = nn.ModuleList(Layer(t) for _ in range(t.layers))
        self.norm = nn.RMSNorm(t.dim, t.norm_eps)
        self.head = nn.Linear(t.dim, t.vocab_size, bias=False)
        self.depth = DepthTransformer(c.depth, t.dim, t.vocab_size, c.begin_code, c.levels)

    def init_state(self, batch: int = 1) -> MoshiState:
        """The state of `batch` streams before anything; `begin` makes them ready for the first frame."""
        c, t, w = self.config, self.config.text, self.norm.weight
        empty = w.new_zeros(batch, t.layers, t.kv_heads, 0, t.head_dim)
        count = torch.zeros(batch, dtype=torch.int64, device=w.device)
        own = torch.full((batch, 1 + c.levels), c.begin_code, device=w.device)
        own[:, 0] = c.begin_text
        return MoshiState(
            self.codec.init_encoder_state(batch),
            LlmState(empty, empty.clone(), count),
            self.codec.init_decoder_state(batch),
            own,
            own[:, 1:].clone(),
        )

    def begin(self, state: MoshiState, draw: Draw = greedy) -> MoshiState:
        """Read the row that begins a stream. The codes of the frame before the first stay what they are."""
        row = torch.cat([state.own, state.user], 1)
        logits, features, text = self.read(row[:, None], state.text)
        word = draw(logits[:, -1], 0)
        first = self.depth(features[:, -1], word, draw)[:, :1]
        own = torch.cat([word[:, None], first, state.own[:, 2:]], 1)
        return replace(state, text=text, own=own)

    def hear(self, audio: Tensor, state: MimiEncoderState) -> tuple[Tensor, MimiEncoderState]:
        """The user's audio (B, 1, T * frame_size) to codes (B, T, levels) and the new state."""
        codes, state = self.codec.encode_step(audio, state, self.config.levels)
        return codes.transpose(1, 2), state

    def say(self, codes: Tensor, state: MimiDecoderState) -> tuple[Tensor, MimiDecoderState]:
        """Its own codes (B, T, levels) to audio (B, 1, T * frame_size) and the new state."""
        return self.codec.decode_step(codes.transpose(1, 2), state)

    def read(self, rows: Tensor, state: LlmState) -> tuple[Tensor, Tensor, LlmState]:
        """Rows (B, T, 1 + 2 * levels) to logits of the next text (B, T, vocab_size), features (B, T, dim), the new state."""
        c = self.config
        level = torch.arange(2 * c.levels, device=rows.device)
        x = self.text_embed(rows[..., 0])
        x = x + self.embed(rows[..., 1:] + level * (c.begin_code + 1)).sum(2)
        x, state = attend(c.text, self.layers, x, state)
        x = self.norm(x)
        return self.head(x), x, shortened(state, c.text.window)

    def step(
        self, user: Tensor, state: MoshiState, draw: Draw = greedy
    ) -> tuple[Tensor, Tensor, MoshiState]:
        """The user's codes of a frame (B, levels) to the text (B,) and the codes (B, levels) of its own in the same one."""
        row = torch.cat([state.own, user[:, :1], state.user[:, 1:]], 1)
        logits, features, text = self.read(row[:, None], state.text)
        word = draw(logits[:, -1], 0)
        codes = self.depth(features[:, -1], word, draw)
        own = torch.cat([word[:, None], codes], 1)
        spoken = torch.cat([state.own[:, 1:2], codes[:, 1:]], 1)
        return state.own[:, 0], spoken, replace(state, text=text, own=own, user=user)

    def follow(
        self, user: Tensor, words: Tensor, codes: Tensor, state: MoshiState, draw: Draw = greedy
    ) -> MoshiState:
        """The state after frames of the user's codes (B, T, levels) in which it said this text (B, T) and these codes.

        draw: of what the frame after them begins with.
        """
        if not user.shape[1]:
            return state
        first = torch.cat([words[..., None], codes[..., :1]], 2)
        later = torch.cat([state.own[:, None, 2:], codes[:, :-1, 1:]], 1)
        lagging = torch.cat([state.user[:, None, 1:], user[:, :-1, 1:]], 1)
        rows = torch.cat([first, later, user[..., :1], lagging], 2)
        logits, features, text = self.read(rows, state.text)
        word = draw(logits[:, -1], 0)
        start = self.depth(features[:, -1], word, draw)[:, :1]
        own = torch.cat([word[:, None], start, codes[:, -1, 1:]], 1)
        return replace(state, text=text, own=own, user=user[:, -1])


def shapes(config: MoshiConfig) -> dict[str, tuple[int, ...]]:
    """Every weight and its shape; nothing is made of them."""
    with torch.device("meta"):
        model = Moshi(config)
    return {n: tuple(t.shape) for n, t in model.state_dict().items()}
