"""Whisper (Radford et al. 2022) with a chunk-causal, cached encoder and an incremental decoder.

Parameter names are those of openai/whisper, so that its checkpoints load as they are. What differs:

- The encoder runs offline under a chunk mask with limited left context, or chunk by chunk with cached keys and values,
  with equal numbers (CarelessWhisper, Krichli et al. 2025, is the setting; chunks and state are our own).
- Its sinusoidal positions run round a clock of `positions` frames (30 s), so that a stream has no end: within the left
  context, shorter than the clock, order stays unambiguous.
- The decoder reads any window of encoder frames through keys and values projected once per frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechstream.nn.attention import causal_step_attention, chunked_attention, step_attention
from speechstream.nn.whisper_heads import CtcHead, Gate, pairs

FRAME_MS = 20  # one encoder frame: two mel frames of 10 ms


@dataclass(frozen=True)
class WhisperConfig:
    """The size of a network. Defaults are those of `base`; `left_context` and `positions` count encoder frames of 20 ms."""

    n_mels: int = 80
    dim: int = 512
    heads: int = 8
    encoder_layers: int = 6
    decoder_layers: int = 6
    vocab_size: int = 51865
    text_context: int = 448
    positions: int = 1500  # the clock: 30 s
    left_context: int = 400  # frames of left context before a chunk: 8 s
    ctc_vocab_size: int = 0  # pieces of the CTC head, blank included; 0 for none
    ctc_dim: int = 0  # of the CTC head's hidden layers; 0 for a single linear layer
    ctc_blocks: int = (
        0  # of the CTC head that look at neighbouring pairs of frames; 0 for a plain hidden layer
    )
    gate_dim: int = 0  # of the transducer's gate; 0 for none
    alignment_heads: tuple[
        tuple[int, int], ...
    ] = ()  # (layer, head) of the decoder whose cross-attention tells time


@dataclass(frozen=True)
class EncoderState:
    """What a stream's encoder remembers: fixed size, whatever the stream's length."""

    mel: Tensor  # (B, mels, 2): the last two mel frames consumed
    keys: Tensor  # (B, layers, H, left, Dh)
    values: Tensor  # (B, layers, H, left, Dh)
    frames: Tensor  # (B,) int64: encoder frames produced so far


@dataclass(frozen=True)
class DecoderState:
    """Keys and values of the tokens read so far. S grows; a stream that has read fewer is padded on the left."""

    keys: Tensor  # (B, layers, H, S, Dh)
    values: Tensor  # (B, layers, H, S, Dh)
    tokens: Tensor  # (B,) int64: tokens read, the last of the S rows


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> Tensor:  # (B, T, D) -> (B, H, T, Dh)
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:  # (B, H, T, Dh) -> (B, T, D), projected
        return self.out(x.transpose(1, 2).flatten(-2))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, cross: bool = False):
        super().__init__()
        self.attn = Attention(dim, heads)
        self.attn_ln = nn.LayerNorm(dim)
        if cross:
            self.cross_attn = Attention(dim, heads)
            self.cross_attn_ln = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp_ln = nn.LayerNorm(dim)


def sinusoids(length: int, channels: int) -> Tensor:
    """Whisper's position table (length, channels): sines, then cosines, periods from 2 pi to 20000 pi."""
    scale = torch.exp(-math.log(10000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angle = torch.arange(length)[:, None] * scale[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def by_layer(a: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """(B, layers, ...) as a tensor for each layer; an exported graph is given them apart, since to split costs a copy."""
    return a.unbind(1) if isinstance(a, Tensor) else a


class Encoder(nn.Module):
    """Log-mel frames (B, mels, M) at 10 ms to features (B, T, dim) at 20 ms.

    Frame t reads mel frames 2t-2 .. 2t+2, so T frames need M = 2T + 1 mel frames: one of look-ahead (10 ms).
    """

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv1d(config.n_mels, config.dim, 3)
        self.conv2 = nn.Conv1d(config.dim, config.dim, 3, stride=2)
        self.register_buffer("positional_embedding", sinusoids(config.positions, config.dim))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads) for _ in range(config.encoder_layers)
        )
        self.ln_post = nn.LayerNorm(config.dim)

    def init_state(self, batch: int = 1) -> EncoderState:
        c, w = self.config, self.conv1.weight
        cache = w.new_zeros(batch, c.encoder_layers, c.heads, c.left_context, c.dim // c.heads)
        return EncoderState(
            mel=w.new_zeros(batch, c.n_mels, 2),
            keys=cache,
            values=cache.clone(),
            frames=torch.zeros(batch, dtype=torch.int64, device=w.device),
        )

    def subsample(self, mel: Tensor, history: Tensor, frames: Tensor) -> Tensor:
        """Convolutions and positions: mel (B, mels, 2c+1) after two frames of history, to (B, c, dim)."""
        x = F.gelu(
            self.conv1(torch.cat([history, mel], dim=2))
        )  # (B, D, 2c+1): conv1 frames -1 .. 2c-1
        young = (frames == 0).to(x.dtype)[
            :, None, None
        ]  # Whisper pads its second convolution with zeros
        x = torch.cat([x[:, :, :1] * (1 - young), x[:, :, 1:]], dim=2)
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        clock = (
            frames[:, None] + torch.arange(x.shape[1], device=x.device)
        ) % self.config.positions
        return x + self.positional_embedding[clock].to(x.dtype)

    def chunk(
        self, mel: Tensor, state: EncoderState, attend: Callable = step_attention
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`step` without the new cache: features (B, c, dim) and this chunk's own keys and values, (B, layers, H, c, Dh).

        attend: `step_attention`, or one that knows the cache in another order.
        """
        x = self.subsample(mel, state.mel, state.frames)
        keys, values = [], []
        for block, old_keys, old_values in zip(
            self.blocks, by_layer(state.keys), by_layer(state.values)
        ):
            q, k, v = block.attn.qkv(block.attn_ln(x))
            keys.append(k)
            values.append(v)
            x = x + block.attn.merge(attend(q, k, v, old_keys, old_values, state.frames))
            x = x + block.mlp(block.mlp_ln(x))
        return self.ln_post(x), torch.stack(keys, 1), torch.stack(values, 1)

    def step(
        self, mel: Tensor, state: EncoderState, keep: int | None = None
    ) -> tuple[Tensor, EncoderState]:
        """One chunk: mel (B, mels, 2c+1), c >= 0, the last frame being look-ahead that the next chunk begins with again.

        keep: how many of the c frames the chunk has (None: all); those after them are look-ahead as well, heard by the
        chunk and encoded again with the next. Returns features (B, keep, dim) and the new state. Pure. Raises
        ValueError for another shape.
        """
        self._check(mel, state.frames.shape[0])
        if mel.shape[2] == 1:  # nothing yet
            return mel.new_zeros(mel.shape[0], 0, self.config.dim), state
        x, keys, values = self.chunk(mel, state)
        c = x.shape[1] if keep is None else keep
        return x[:, :c], self.after(mel, state, keys, values, c)

    @staticmethod
    def after(
        mel: Tensor, state: EncoderState, keys: Tensor, values: Tensor, c: int
    ) -> EncoderState:
        """The state after the first c frames of a chunk with these keys and values."""
        cached = (
            torch.cat([old, new[:, :, :, :c]], dim=3)[:, :, :, c:]
            for old, new in ((state.keys, keys), (state.values, values))
        )
        return EncoderState(
            torch.cat([state.mel, mel[:, :, : 2 * c]], dim=2)[:, :, -2:], *cached, state.frames + c
        )

    def forward(
        self,
        mel: Tensor,
        lengths: Tensor | None = None,
        chunk: int | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The whole utterance under the mask of `chunk` frames (None: full attention, Whisper itself).

        mel (B, mels, 2T+1); lengths (B,) in frames; start (B,): clock position of the first frame. Returns (B, T, dim).
        """
        B = mel.shape[0]
        self._check(mel, B)
        zero = torch.zeros(B, dtype=torch.int64, device=mel.device)
        x = self.subsample(mel, mel.new_zeros(B, mel.shape[1], 2), zero)
        if start is not None:
            clock = torch.arange(x.shape[1], device=x.device)
            table = self.positional_embedding.to(x.dtype)
            x = (
                x
                - table[clock % self.config.positions]
                + table[(start[:, None] + clock) % self.config.positions]
            )
        for block in self.blocks:
            q, k, v = block.attn.qkv(block.attn_ln(x))
            x = x + block.attn.merge(
                chunked_attention(q, k, v, chunk, self.config.left_context, lengths)
            )
            x = x + block.mlp(block.mlp_ln(x))
        return self.ln_post(x)

    def _check(self, mel: Tensor, batch: int) -> None:
        if mel.ndim != 3 or mel.shape[:2] != (batch, self.config.n_mels) or mel.shape[2] % 2 == 0:
            raise ValueError(
                f"mel must be ({batch}, {self.config.n_mels}, 2c + 1) for c frames of features and one mel "
                f"frame of look-ahead, got {tuple(mel.shape)}"
            )


class Decoder(nn.Module):
    """Text tokens (B, S) to hidden states and logits, reading encoder frames through cross-attention."""

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.dim)
        self.positional_embedding = nn.Parameter(torch.zeros(config.text_context, config.dim))
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, cross=True) for _ in range(config.decoder_layers)
        )
        self.ln = nn.LayerNorm(config.dim)

    def init_state(self, batch: int = 1) -> DecoderState:
        c = self.config
        empty = self.ln.weight.new_zeros(batch, c.decoder_layers, c.heads, 0, c.dim // c.heads)
        return DecoderState(
            empty, empty, torch.zeros(batch, dtype=torch.int64, device=empty.device)
        )

    def memory(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-attention keys and values of features (B, T, dim): two of (B, layers, H, T, Dh), each frame its own."""
        k = [b.cross_attn.split(b.cross_attn.key(features)) for b in self.blocks]
        v = [b.cross_attn.split(b.cross_attn.value(features)) for b in self.blocks]
        return torch.stack(k, 1), torch.stack(v, 1)

    def step(
        self,
        tokens: Tensor,
        state: DecoderState,
        keys: Tensor | Sequence[Tensor],
        values: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, DecoderState]:
        """`read` with logits (B, n, vocabulary) in the hidden states' place."""
        hidden, alignment, state = self.read(tokens, state, keys, values, mask)
        return self.logits(hidden), alignment, state

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.token_embedding.weight.T

    def read(
        self,
        tokens: Tensor,
        state: DecoderState,
        keys: Tensor | Sequence[Tensor],
        values: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, DecoderState]:
        """Read `tokens` (B, n) after those in `state`, over a memory of `keys`, `values` (B, layers, H, T, Dh).

        mask (B, T): True where a memory frame may be read. Returns the last hidden states (B, n, dim), the mean
        cross-attention of the alignment heads (B, n, T) and the new state. Pure.
        """
        hidden, average, new_keys, new_values = self.chunk(tokens, state, keys, values, mask)
        return (
            hidden,
            average,
            DecoderState(
                torch.cat([state.keys, new_keys], 3),
                torch.cat([state.values, new_values], 3),
                state.tokens + tokens.shape[1],
            ),
        )

    def chunk(
        self,
        tokens: Tensor,
        state: DecoderState,
        keys: Tensor | Sequence[Tensor],
        values: Tensor | Sequence[Tensor],
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`read` with these tokens' own keys and values, (B, layers, H, n, Dh), in the new state's place.

        State and memory may also be given layer by layer, (B, H, S, Dh) and (B, H, T, Dh) each. A memory of one stream
        serves all B hypotheses about it.
        """
        B, n = tokens.shape
        positions = state.tokens[:, None] + torch.arange(n, device=tokens.device)
        x = self.token_embedding(tokens) + self.positional_embedding[positions]
        hidden = None if mask is None else ~mask[:, None, None, :]
        past_keys, past_values = by_layer(state.keys), by_layer(state.values)
        memory_keys, memory_values = by_layer(keys), by_layer(values)
        streams, frames = memory_keys[0].shape[0], memory_keys[0].shape[2]
        new_keys, new_values, alignment = [], [], []
        for i, block in enumerate(self.blocks):
            q, k, v = block.attn.qkv(block.attn_ln(x))
            new_keys.append(k)
            new_values.append(v)
            y = causal_step_attention(q, k, v, past_keys[i], past_values[i], state.tokens)
            x = x + block.attn.merge(y)
            cross = (
                block.cross_attn
            )  # the hypotheses of a stream are so many more queries to its memory
            q = cross.split(cross.query(block.cross_attn_ln(x)).reshape(streams, -1, x.shape[2]))
            score = (q * q.shape[-1] ** -0.5) @ memory_keys[i].transpose(-1, -2)
            weight = (score if hidden is None else score.masked_fill(hidden, -torch.inf)).softmax(
                -1
            )
            alignment += [weight[:, h] for layer, h in self.config.alignment_heads if layer == i]
            x = x + cross.merge(weight @ memory_values[i]).reshape(B, n, x.shape[2])
            x = x + block.mlp(block.mlp_ln(x))
        average = (
            torch.stack(alignment, 1).mean(1).reshape(B, n, frames)
            if alignment
            else x.new_zeros(B, n, frames)
        )
        return self.ln(x), average, torch.stack(new_keys, 1), torch.stack(new_values, 1)

    def forward(self, tokens: Tensor, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, S, vocabulary) of a whole token sequence over features (B, T, dim): training and scoring."""
        return self.logits(self.hidden(tokens, features, mask)[0])

    def hidden(
        self, tokens: Tensor, features: Tensor, mask: Tensor | None = None, align: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What `forward` takes the logits of, (B, S, dim); with `align`, the alignment heads' mean attention (B, S, T),
        without gradient."""
        alignment = []
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        bias = None if mask is None else mask[:, None, None, :]
        for i, block in enumerate(self.blocks):
            q, k, v = block.attn.qkv(block.attn_ln(x))
            x = x + block.attn.merge(F.scaled_dot_product_attention(q, k, v, is_causal=True))
            cross = block.cross_attn
            q = cross.split(cross.query(block.cross_attn_ln(x)))
            k, v = cross.split(cross.key(features)), cross.split(cross.value(features))
            for h in [h for layer, h in self.config.alignment_heads if align and layer == i]:
                with torch.no_grad():
                    score = (q[:, h] * q.shape[-1] ** -0.5) @ k[:, h].transpose(-1, -2)
                    alignment.append(
                        (
                            score if mask is None else score.masked_fill(~mask[:, None], -torch.inf)
                        ).softmax(-1)
                    )
            x = x + cross.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
            x = x + block.mlp(block.mlp_ln(x))
        return self.ln(x), torch.stack(alignment, 1).float().mean(1) if alignment else None


class Whisper(nn.Module):
    """Encoder, decoder and, on the same features, an optional CTC head and an optional gate (a transducer's blank)."""

    def __init__(self, config: WhisperConfig):
        super().__init__()
        self.config = c = config
        self.encoder = Encoder(c)
        self.decoder = Decoder(c)
        self.ctc = None
        if c.ctc_blocks:
            self.ctc = CtcHead(c.dim, c.ctc_dim, c.ctc_vocab_size, c.ctc_blocks)
        elif c.ctc_dim:
            self.ctc = nn.Sequential(
                nn.Linear(2 * c.dim, c.ctc_dim),
                nn.GELU(),
                nn.Linear(c.ctc_dim, c.ctc_vocab_size),
            )
        elif c.ctc_vocab_size:
            self.ctc = nn.Linear(2 * c.dim, c.ctc_vocab_size)
        self.gate = Gate(c.dim, c.gate_dim) if c.gate_dim else None

    def ctc_log_probs(
        self, features: Tensor, lengths: Tensor | None = None, chunk: int | None = None
    ) -> Tensor:
        """Features (B, T, dim) to CTC log-probabilities (B, T // 2, pieces): pairs of frames, 40 ms each.

        lengths (B,) in frames, and the chunk that they were encoded in (None: all at once): the head's convolutions
        end where it ends.
        """
        x = pairs(features)
        if not self.config.ctc_blocks:
            return self.ctc(x).log_softmax(-1)
        real = None
        if lengths is not None:
            real = (torch.arange(x.shape[1], device=x.device) < (lengths // 2)[:, None])[
                ..., None
            ].to(x.dtype)
        return self.ctc(x, real, chunk and chunk // 2).log_softmax(-1)
