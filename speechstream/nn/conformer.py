"""Cache-aware FastConformer: one set of weights, offline and streaming at any look-ahead, with the same output.

Noroozi et al. 2024, Stateful Conformer with Cache-based Inference for Streaming ASR; Rekesh et al. 2023, Fast
Conformer. Frames are grouped in chunks of look-ahead + 1. A frame attends to its whole chunk and to the `left` frames
before the chunk; every convolution is causal. A step therefore needs only what the state holds: projected keys and
values, the inputs of the convolutions, and one frame for each convolution of the subsampling.

    y = encoder(x, lengths, lookahead=6)          # whole utterances
    y, state = encoder.step(block, state)         # the same numbers, a chunk at a time
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechstream.kernels import dispatch
from speechstream.nn.configs import ConformerConfig
from speechstream.nn.position import relative_embedding, rotary_angles, rotary_cycles, rotate, skew
from speechstream.nn.subsampling import ConvSubsampling

BLOCK = 64  # queries to a window offline: windows of L + BLOCK keys cost little and copy each key about twice


@dataclass(frozen=True)
class EncoderState:
    """What a stream's next step needs. B streams, each at its own place; subN is None past log2(subsampling)."""

    keys: Tensor  # (B, layers, H, L, Dh) the last L keys, oldest first; already rotated where positions are rotary
    values: Tensor  # (B, layers, H, L, Dh)
    conv: Tensor  # (B, layers, D, K - 1) inputs of the depthwise convolutions
    sub0: Tensor  # (B, 1, 1, features) last input frame of the first subsampling convolution
    sub1: Tensor | None  # (B, channels, 1, bins) of the second
    sub2: Tensor | None
    sub3: Tensor | None
    frames: Tensor  # (B,) int64 frames produced so far: keys older than this are void


class FeedForward(nn.Module):
    def __init__(self, c: ConformerConfig):
        super().__init__()
        self.up = nn.Linear(c.dim, c.ff_dim, bias=c.bias)
        self.down = nn.Linear(c.ff_dim, c.dim, bias=c.bias)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.silu(self.up(x))))


class Attention(nn.Module):
    """Multi-head attention of a block of frames over the cache and itself, by windows of L + G keys for G queries."""

    def __init__(self, c: ConformerConfig):
        super().__init__()
        self.heads, self.dim_head, self.left_context = (
            c.heads,
            c.dim // c.heads,
            c.left_context or 0,
        )
        self.qkv = nn.Linear(c.dim, 3 * c.dim, bias=c.bias)
        self.out = nn.Linear(c.dim, c.dim, bias=c.bias)
        self.relative = c.position == "relative"
        if self.relative:
            self.pos = nn.Linear(c.dim, c.dim, bias=False)
            self.bias_u = nn.Parameter(torch.zeros(c.heads, 1, self.dim_head))
            self.bias_v = nn.Parameter(torch.zeros(c.heads, 1, self.dim_head))
        self.register_buffer("table", None, persistent=False)

    def position_table(self, queries: int) -> Tensor:
        """Projected embeddings (H, L + 2 * queries - 1, Dh) of the distances, from last query to oldest key on."""
        width = self.left_context + 2 * queries - 1
        e = relative_embedding(
            self.left_context + queries - 1,
            width,
            self.pos.in_features,
            self.pos.weight.device,
            self.pos.weight.dtype,
        )
        return self.pos(e).view(width, self.heads, self.dim_head).transpose(0, 1)

    def chunk_table(self, queries: int) -> Tensor:
        """`position_table`, cut from the one that is kept where there is one."""
        if self.table is None:
            return self.position_table(queries)
        most = (self.table.shape[1] - self.left_context + 1) // 2
        if not torch.compiler.is_exporting() and queries > most:
            return self.position_table(queries)
        rows = torch.arange(self.left_context + 2 * queries - 1, device=self.table.device) + (
            most - queries
        )
        return self.table.index_select(1, rows)  # not a slice: the exporter must see its length

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, windows: Windows
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, N, D); keys and values (B, H, L, Dh) cached. Returns y (B, N, D) and the new cache."""
        b, n = x.shape[:2]
        q, k, v = (
            self.qkv(x)
            .unflatten(-1, (3, self.heads, self.dim_head))
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        if windows.kernel:
            y, keys, values = self._by_kernel(q, k, v, keys, values, windows)
            return self.out(y.transpose(1, 2).flatten(2)), keys, values
        if not self.relative:
            q, k = rotate(q, *windows.angles), rotate(k, *windows.angles)
        k, v = torch.cat([keys, k], dim=2), torch.cat([values, v], dim=2)
        if self.left_context:
            keys, values = k[:, :, -self.left_context :], v[:, :, -self.left_context :]
        q, k, v = windows.split(q * self.dim_head**-0.5, k, v, self.left_context)
        if self.relative:
            table = self.chunk_table(windows.queries)
            scale = self.dim_head**-0.5
            scores = (q + self.bias_u * scale) @ k.transpose(-1, -2)
            scores = scores + skew((q + self.bias_v * scale) @ table.transpose(-1, -2), k.shape[2])
        else:
            scores = q @ k.transpose(-1, -2)
        scores = scores.masked_fill(~windows.mask, torch.finfo(scores.dtype).min)
        y = windows.join(scores.softmax(-1) @ v, b, n)
        return self.out(y), keys, values

    def _by_kernel(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, w: Windows):
        """The same on a GPU: the output (B, H, N, Dh) and the new cache, which an offline pass does not make."""
        left = self.left_context // w.chunk * w.chunk  # whole chunks, as in the masks of `Windows`
        bias = rope = None
        if self.relative:
            table = self.chunk_table(w.chunk)[:, self.left_context - left :]
            bias = dispatch.RelativeBias(table, self.bias_u[:, 0], self.bias_v[:, 0])
        else:
            rope = tuple(a[:, 0] for a in w.angles)
        if w.offline:
            return (
                dispatch.chunked_attention(q, k, v, w.chunk, left, w.limit, bias, rope),
                keys,
                values,
            )
        return dispatch.attention_step(
            q, k, v, keys, values, w.frames, w.limit, w.chunk, bias, rope, left=left
        )


class Windows:
    """How one block of frames is cut into windows of queries and keys, what each query may see, and its angles.

    A block of one chunk is one window, with no copy. A longer block is cut into windows of about BLOCK queries (a
    whole number of chunks) over the L + G keys that end with them: exact, and linear in the length of the audio.
    offline: the block is the whole utterance, nothing is cached. kernel: `kernels.dispatch` does the cutting.
    """

    def __init__(
        self,
        frames: Tensor,
        limit: Tensor | None,
        n: int,
        chunk: int | None,
        left: int | None,
        cycles: Tensor | None,
        dtype: torch.dtype,
        offline: bool = False,
        kernel: bool = False,
    ):
        device = frames.device
        past = left or 0
        self.whole = chunk is None or left is None or n <= chunk  # one chunk, one window
        self.chunk = c = n if chunk is None or left is None else chunk
        self.frames, self.limit, self.offline, self.kernel = frames, limit, offline, kernel
        self.angles = None
        if cycles is not None:
            self.angles = rotary_angles(
                frames[:, None] + torch.arange(n, device=device), cycles, dtype
            )
        if kernel:
            return
        self.queries = g = n if self.whole else c * max(1, BLOCK // c)
        self.count = 1 if self.whole else -(-n // g)
        key = torch.arange(past + g, device=device) - past  # relative to the window's first query
        place = (
            key + g * torch.arange(self.count, device=device)[:, None]
        )  # relative to the block's first frame
        end = torch.full_like(frames, n) if limit is None else limit
        seen = (place >= -frames[:, None, None]) & (place < end[:, None, None])  # (B, count, keys)
        if self.whole:
            mask = (seen & (key >= -(past // c) * c))[:, :, None, None]
        else:
            age = (torch.arange(g, device=device) // c)[:, None] - torch.div(
                key, c, rounding_mode="floor"
            )  # in chunks
            mask = (seen[:, :, None] & (age >= 0) & (age <= past // c))[:, :, None]
        self.mask = mask.flatten(0, 1)  # (B * count, 1, queries or 1, keys)

    def split(self, q: Tensor, k: Tensor, v: Tensor, past: int) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, N, Dh) and k, v (B, H, L + N, Dh) to windows (B * count, H, queries or keys, Dh)."""
        if self.whole:
            return q, k, v
        g, extra = self.queries, self.count * self.queries - q.shape[2]
        q, k, v = (F.pad(t, (0, 0, 0, extra)) for t in (q, k, v))
        cut = [
            q.unfold(2, g, g),
            k.unfold(2, past + g, g),
            v.unfold(2, past + g, g),
        ]  # (B, H, count, Dh, size)
        return tuple(t.permute(0, 2, 1, 4, 3).flatten(0, 1) for t in cut)

    def join(self, y: Tensor, batch: int, n: int) -> Tensor:
        """(B * count, H, queries, Dh) back to (B, N, D)."""
        y = y.transpose(1, 2).flatten(2)
        return y if self.whole else y.reshape(batch, -1, y.shape[-1])[:, :n]


class Convolution(nn.Module):
    def __init__(self, c: ConformerConfig):
        super().__init__()
        self.causal, self.kernel = c.causal, c.kernel
        self.up = nn.Linear(c.dim, 2 * c.dim, bias=c.bias)
        self.depthwise = nn.Conv1d(c.dim, c.dim, c.kernel, groups=c.dim, bias=c.bias)
        self.norm = nn.LayerNorm(c.dim) if c.conv_norm == "layer_norm" else nn.BatchNorm1d(c.dim)
        self.down = nn.Linear(c.dim, c.dim, bias=c.bias)

    def forward(
        self, x: Tensor, past: Tensor, real: Tensor | None, offline: bool = False
    ) -> tuple[Tensor, Tensor]:
        """x (B, N, D); past (B, D, K - 1); real (B, N) bool, needed by the symmetric form."""
        x = self.up(x)
        if not (offline or self.training) and dispatch.uses_kernel(x, past):
            y, past = dispatch.conv_step(
                x, past, self.depthwise.weight[:, 0], self.depthwise.bias, *self.norm_as_kernel()
            )
            return self.down(y), past
        x = F.glu(x, dim=-1).transpose(1, 2)
        if self.causal:
            x = torch.cat([past, x], dim=2)
            past = x[:, :, -(self.kernel - 1) :]
        else:
            x = F.pad(torch.where(real[:, None], x, 0.0), (self.kernel // 2, self.kernel // 2))
        x = self.depthwise(x)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x.transpose(1, 2))
        else:
            x = self.norm(x).transpose(1, 2)
        return self.down(F.silu(x)), past

    def norm_as_kernel(self) -> tuple[str, Tensor, Tensor, float]:
        """The norm as the kernel takes it: a batch norm with its statistics is a scale and a shift."""
        n = self.norm
        if isinstance(n, nn.LayerNorm):
            return "layer", n.weight, n.bias, n.eps
        scale = n.weight * torch.rsqrt(n.running_var + n.eps)
        return "affine", scale, n.bias - n.running_mean * scale, n.eps


class ConformerLayer(nn.Module):
    def __init__(self, c: ConformerConfig):
        super().__init__()
        self.norm_ff1, self.ff1 = nn.LayerNorm(c.dim), FeedForward(c)
        self.norm_att, self.att = nn.LayerNorm(c.dim), Attention(c)
        self.norm_conv, self.conv = nn.LayerNorm(c.dim), Convolution(c)
        self.norm_ff2, self.ff2 = nn.LayerNorm(c.dim), FeedForward(c)
        self.norm_out = nn.LayerNorm(c.dim)
        self.dropout = nn.Dropout(c.dropout)

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        conv: Tensor,
        windows: Windows,
        real: Tensor | None,
    ):
        x = x + 0.5 * self.dropout(self.ff1(self.norm_ff1(x)))
        y, keys, values = self.att(self.norm_att(x), keys, values, windows)
        x = x + self.dropout(y)
        y, conv = self.conv(self.norm_conv(x), conv, real, windows.offline)
        x = x + self.dropout(y)
        x = x + 0.5 * self.dropout(self.ff2(self.norm_ff2(x)))
        return self.norm_out(x), keys, values, conv


def _refresh(encoder: ConformerEncoder, _keys) -> None:
    encoder.train(encoder.training)  # position tables follow the weights


class ConformerEncoder(nn.Module):
    """FastConformer encoder over log-mel frames, `subsampling` of them to an encoder frame.

    A stream's block for c encoder frames has `subsampling` * c feature frames. The first block of a stream starts
    with `lead` frames that lie before the audio (their content is ignored), so that frame t leaves as soon as feature
    frame `subsampling` * t is there.
    """

    def __init__(self, config: ConformerConfig):
        super().__init__()
        self.config = c = config
        self.subsampling = ConvSubsampling(
            c.n_mels, c.dim, c.subsampling_channels, c.subsampling, c.causal
        )
        self.layers = nn.ModuleList(ConformerLayer(c) for _ in range(c.layers))
        self.lead = self.subsampling.lead
        cycles = rotary_cycles(c.dim // c.heads) if c.position == "rope" else None
        self.register_buffer("cycles", cycles, persistent=False)
        self.register_load_state_dict_post_hook(_refresh)

    def train(self, mode: bool = True) -> ConformerEncoder:
        """Training mode, or with False evaluation, where the relative positions are projected once and kept.

        Call `eval()` again after changing weights in place.
        """
        super().train(mode)
        if self.config.position == "relative" and self.config.streaming:
            for layer in self.layers:
                with torch.no_grad():
                    most = max(self.config.lookaheads) + 1
                    layer.att.table = None if mode else layer.att.position_table(most).contiguous()
        return self

    def output_lengths(self, lengths):
        """Encoder frames of whole utterances of `lengths` feature frames (an int or an integer tensor)."""
        return self.subsampling.output_lengths(lengths)

    def init_state(self, batch: int = 1) -> EncoderState:
        """The state of `batch` streams that have heard nothing. Raises ValueError for an offline-only encoder."""
        c = self.config
        if not c.streaming:
            raise ValueError(
                "this encoder was trained with the whole utterance as context: it runs offline only; "
                "streaming needs a cache-aware checkpoint (limited left context, causal convolutions)"
            )
        return self._state(batch)

    def _state(self, batch: int) -> EncoderState:
        c, like = self.config, self.subsampling.out.weight
        options = {"device": like.device, "dtype": like.dtype}
        cache = torch.zeros(
            batch, c.layers, c.heads, c.left_context or 0, c.dim // c.heads, **options
        )
        history = self.subsampling.init_history(batch, **options)
        return EncoderState(
            keys=cache,
            values=cache.clone(),
            conv=torch.zeros(batch, c.layers, c.dim, c.kernel - 1, **options),
            **{f"sub{i}": history[i] if i < len(history) else None for i in range(4)},
            frames=torch.zeros(batch, dtype=torch.int64, device=like.device),
        )

    def step(
        self,
        x: Tensor,
        state: EncoderState,
        lengths: Tensor | None = None,
        chunk: int | None = None,
    ):
        """One block of each stream: x (B, subsampling * N, features) to (B, N, dim) and the next state.

        The N frames are one chunk, or with `chunk` (frames, look-ahead + 1) several, the last of which may be short.
        lengths (B,): at the end of streams, how many of the block's feature frames are audio (lead included); frames
        past `output_lengths` of the whole stream are then meaningless. Streams need not be at the same place.
        """
        if not self.config.streaming:
            raise ValueError("this encoder runs offline only: call it on whole utterances")
        return self._step(x, state, lengths, chunk)

    def _step(
        self,
        x: Tensor,
        state: EncoderState,
        lengths: Tensor | None,
        chunk: int | None,
        offline: bool = False,
    ):
        if x.ndim != 3 or x.shape[2] != self.config.n_mels:
            raise ValueError(
                f"a block must be (streams, frames, {self.config.n_mels}), got {tuple(x.shape)}"
            )
        if not torch.compiler.is_exporting() and (
            x.shape[1] == 0 or x.shape[1] % self.config.subsampling
        ):
            raise ValueError(
                f"a block must hold a multiple of {self.config.subsampling} feature frames, "
                f"got {x.shape[1]}; pad the last one and pass its lengths"
            )
        history = [h for h in (state.sub0, state.sub1, state.sub2, state.sub3) if h is not None]
        x, history, limit = self.subsampling.step(x, history, state.frames, lengths)
        x, keys, values, conv = self._layers(x, state, limit, chunk, None, offline)
        return x, EncoderState(
            keys,
            values,
            conv,
            *(history[i] if i < len(history) else None for i in range(4)),
            frames=state.frames + x.shape[1],
        )

    def _layers(
        self,
        x: Tensor,
        state: EncoderState,
        limit: Tensor | None,
        chunk: int | None,
        real: Tensor | None,
        offline: bool,
    ):
        if self.config.scale_input:
            x = x * math.sqrt(self.config.dim)
        windows = Windows(
            state.frames,
            limit,
            x.shape[1],
            chunk,
            self.config.left_context,
            self.cycles,
            x.dtype,
            offline,
            dispatch.uses_kernel(x, gradient=offline),
        )
        after = []
        for i, layer in enumerate(self.layers):
            x, *cache = layer(
                x, state.keys[:, i], state.values[:, i], state.conv[:, i], windows, real
            )
            after.append(cache)
        return x, *(torch.stack(c, dim=1) for c in zip(*after))

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, lookahead: int | None = None
    ) -> Tensor:
        """Whole utterances (B, T, features) of `lengths` (B,) feature frames to (B, output_lengths(T), dim).

        lookahead: frames of right context, the configuration's first where None. Frames past an utterance's end are
        zero. Training draws one look-ahead of `config.lookaheads` per batch.
        """
        c = self.config
        if x.ndim != 3 or x.shape[2] != c.n_mels or x.shape[1] == 0:
            raise ValueError(
                f"features must be (utterances, frames, {c.n_mels}), got {tuple(x.shape)}"
            )
        if lookahead is not None and (lookahead < 0 or not c.streaming):
            raise ValueError(
                f"lookahead must be >= 0 frames and needs a cache-aware encoder, got {lookahead}"
            )
        if lengths is None:
            lengths = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
        state, n = self._state(x.shape[0]), self.output_lengths(x.shape[1])
        limit = self.output_lengths(lengths)
        real = torch.arange(n, device=x.device) < limit[:, None]
        if c.streaming:
            x = F.pad(x, (0, 0, self.lead, n * c.subsampling - self.lead - x.shape[1]))
            chunk = (c.lookaheads[0] if lookahead is None else lookahead) + 1
            x, _ = self._step(x, state, lengths + self.lead, chunk, offline=True)
        else:
            x = self._layers(self.subsampling(x, lengths), state, limit, None, real, offline=True)[
                0
            ]
        return torch.where(real[:, :, None], x, 0.0)
