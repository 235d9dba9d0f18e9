"""Speech tokens to the conditions of a flow, in blocks, with what came before cached.

The encoder of CosyVoice 2 (arXiv:2412.10117): embedded tokens see `lookahead` tokens ahead through a convolution, pass
transformer layers with relative positions (Transformer-XL, arXiv:1901.02860), are doubled by a causal convolution, and
pass more layers at the rate of the frames. CosyVoice 3 (arXiv:2505.17589) keeps the convolutions alone.

    state = encoder.init_state(1)
    mu, state = encoder.step(tokens, state)         # (B, T + lookahead) to (B, T * repeats, n_mels)
    mu = encoder(tokens)                            # the same numbers at once

A frame sees its own block whole and some before it, so the keys, values and inputs of convolutions are all that a
stream has to remember, and a block costs the same however long it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.position import relative_embedding
from speechstream.nn.token_config import TokenEncoderConfig

UP_TAIL = 2  # tokens that the doubling convolution looks back to
SLOPE = 0.01  # of the leaky ReLU


@dataclass(frozen=True)
class TokenEncoderState:
    """What B streams remember."""

    ahead: Tensor  # (B, lookahead_dim, 2) inputs of the second convolution
    up: Tensor  # (B, dim, UP_TAIL) tokens before the doubling
    keys: Tensor  # (B, layers, heads, left, head_dim)
    values: Tensor  # (B, layers, heads, left, head_dim)
    up_keys: Tensor  # (B, up_layers, heads, repeats * left, head_dim)
    up_values: Tensor  # (B, up_layers, heads, repeats * left, head_dim)
    tokens: Tensor  # (B,) int64 tokens so far


class Sight:
    """Where the N frames of a step stand and what they see: the same for all layers of one rate."""

    def __init__(self, begin: Tensor, end: Tensor, count: int, block: int, left: int) -> None:
        """Row b's frames begin at `begin` (B,); those from `end` (B,) on are not there. left: frames kept before."""
        at = torch.arange(-left, count, device=begin.device)
        place = begin[:, None] + at
        mine = torch.div(place[:, left:], block, rounding_mode="floor")[:, :, None]
        its = torch.div(place, block, rounding_mode="floor")[:, None]
        there = ((place >= 0) & (place < end[:, None]))[:, None]
        seen = (its <= mine) & (its >= mine - left // block) & there
        # a row that sees nothing would be NaN, and spread
        self.mask = (seen | ~seen.any(-1, keepdim=True))[:, None]
        self.count, self.keys = count, left + count
        # which column of the scores by distance a key's is: the largest distance comes first
        row = torch.arange(count, device=begin.device)
        self.place = count - 1 - row[:, None] + torch.arange(left + count, device=begin.device)


class Layer(nn.Module):
    """A pre-norm transformer layer; queries and keys meet at their distance."""

    def __init__(self, c: TokenEncoderConfig) -> None:
        super().__init__()
        self.heads = c.heads
        self.norm1, self.norm2 = nn.LayerNorm(c.dim, eps=1e-12), nn.LayerNorm(c.dim, eps=1e-12)
        self.qkv, self.out = nn.Linear(c.dim, 3 * c.dim), nn.Linear(c.dim, c.dim)
        self.position = nn.Linear(c.dim, c.dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(c.heads, c.dim // c.heads))
        self.position_bias = nn.Parameter(torch.zeros(c.heads, c.dim // c.heads))
        self.up, self.down = nn.Linear(c.dim, c.ff_dim), nn.Linear(c.ff_dim, c.dim)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, distances: Tensor, sight: Sight
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, N, dim) after keys and values (B, heads, left, head_dim); returns those that are kept after it.

        distances (left + 2 N - 1, dim): sinusoids from left + N - 1 down to 1 - N.
        """
        parts = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        p = self.position(distances).unflatten(-1, (self.heads, -1)).transpose(0, 1)
        by_place = (q + self.position_bias[:, None]) @ p.transpose(-1, -2)
        bias = by_place.gather(3, sight.place.expand_as(by_place[..., : sight.keys]))
        bias = bias * q.shape[-1] ** -0.5
        bias = bias.masked_fill(~sight.mask, -torch.inf)
        q = q + self.content_bias[:, None]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.down(F.silu(self.up(self.norm2(x))))
        return x, k[:, :, sight.count :], v[:, :, sight.count :]


class TokenEncoder(nn.Module):
    """Speech tokens (B, T) to conditions (B, T * repeats, n_mels), and speakers' vectors to those of the flow."""

    def __init__(self, config: TokenEncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.vocab_size, c.input_dim)
        self.speaker = nn.Linear(c.speaker_dim, c.n_mels)
        dim = c.dim if c.layers else c.input_dim
        self.first = nn.Conv1d(dim, c.lookahead_dim, c.lookahead + 1)
        self.second = nn.Conv1d(c.lookahead_dim, dim, 3)
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.layers))
        self.up_layers = nn.ModuleList(Layer(c) for _ in range(c.up_layers))
        if c.layers:
            self.input, self.up_input = nn.Linear(c.input_dim, dim), nn.Linear(dim, dim)
            self.input_norm, self.up_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.up = nn.Conv1d(dim, dim, UP_TAIL * c.repeats + 1)
            self.norm, self.output = nn.LayerNorm(dim), nn.Linear(dim, c.n_mels)

    def speakers(self, vectors: Tensor) -> Tensor:
        """Vectors (B, speaker_dim) of a speaker encoder to those of the flow (B, n_mels)."""
        return self.speaker(F.normalize(vectors, dim=1))

    def init_state(self, batch: int = 1) -> TokenEncoderState:
        """The state of `batch` streams at their beginning."""
        c, w = self.config, self.embedding.weight
        size = c.dim // c.heads
        keys = w.new_zeros(batch, c.layers, c.heads, c.left, size)
        up_keys = w.new_zeros(batch, c.up_layers, c.heads, c.repeats * c.left, size)
        return TokenEncoderState(
            w.new_zeros(batch, c.lookahead_dim, 2),
            w.new_zeros(batch, c.dim if c.layers else 0, UP_TAIL),
            keys,
            keys.clone(),
            up_keys,
            up_keys.clone(),
            torch.zeros(batch, dtype=torch.int64, device=w.device),
        )

    def step(
        self, tokens: Tensor, state: TokenEncoderState, lengths: Tensor | None = None
    ) -> tuple[Tensor, TokenEncoderState]:
        """tokens (B, T + lookahead), T whole blocks, what is ahead given again next time, to (B, T * repeats, n_mels).

        lengths (B,): how many of the given tokens are real, where a stream ends; it takes no further steps.
        """
        c, given = self.config, tokens.shape[1]
        count = given - c.lookahead
        if not torch.compiler.is_compiling():
            if count < 0 or count % c.block:
                raise ValueError(
                    f"a step takes a multiple of {c.block} tokens and {c.lookahead} to look ahead to; got {given}"
                )
            if (state.tokens % c.block).any():
                raise ValueError("a stream in this batch has ended: its last chunk was short")
            if not count:
                return self.embedding.weight.new_zeros(len(tokens), 0, c.n_mels), state
        if lengths is None:
            lengths = torch.full((len(tokens),), given, dtype=torch.int64, device=tokens.device)
        x = self.embedding(tokens)
        if c.layers:
            x = self.input_norm(self.input(x)) * math.sqrt(c.dim)
        real = torch.arange(given, device=tokens.device) < lengths[:, None]
        x = torch.where(real[..., None], x, 0.0)
        y = F.leaky_relu(self.first(x.transpose(1, 2)), SLOPE)
        y = torch.cat([state.ahead, y], 2)
        ahead = y[:, :, count:]
        x = x[:, :count] + self.second(y).transpose(1, 2)
        end = state.tokens + lengths.clamp(max=count)
        if not c.layers:
            x = x.repeat_interleave(c.repeats, 1)
            return x, TokenEncoderState(
                ahead, state.up, state.keys, state.values, state.up_keys, state.up_values, end
            )
        x, keys, values = self._through(self.layers, x, state.keys, state.values, state, end, 1)
        x = torch.cat([state.up, x.transpose(1, 2)], 2)
        up = x[:, :, count:]
        x = self.up(x.repeat_interleave(c.repeats, 2)).transpose(1, 2)
        x = self.up_norm(self.up_input(x)) * math.sqrt(c.dim)
        x, up_keys, up_values = self._through(
            self.up_layers, x, state.up_keys, state.up_values, state, end, c.repeats
        )
        new = TokenEncoderState(ahead, up, keys, values, up_keys, up_values, end)
        return self.output(self.norm(x)), new

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Conditions (B, T * repeats, n_mels) of whole streams (B, T), of which `lengths` (B,) tokens are real."""
        c, count = self.config, tokens.shape[1]
        if lengths is None:
            lengths = torch.full((len(tokens),), count, dtype=torch.int64, device=tokens.device)
        fill = -count % c.block + c.lookahead
        x = self.step(F.pad(tokens, (0, fill)), self.init_state(len(tokens)), lengths)[0]
        return x[:, : count * c.repeats]

    def _through(
        self,
        layers: nn.ModuleList,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        state: TokenEncoderState,
        end: Tensor,
        rate: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Layers at `rate` frames a token; the keys and values that are kept."""
        c, count = self.config, x.shape[1]
        left = c.left * rate
        sight = Sight(state.tokens * rate, end * rate, count, c.block * rate, left)
        distances = relative_embedding(
            left + count - 1, left + 2 * count - 1, c.dim, x.device, x.dtype
        )
        new_keys, new_values = [], []
        for i, layer in enumerate(layers):
            x, k, v = layer(x, keys[:, i], values[:, i], distances, sight)
            new_keys.append(k)
            new_values.append(v)
        return x, torch.stack(new_keys, 1), torch.stack(new_values, 1)
