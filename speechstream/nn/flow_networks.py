"""The networks of a flow-matching decoder: a diffusion transformer, and a causal U-Net with transformer layers.

Both map noisy mel frames (R, N, n_mels), their conditions and a time to a velocity, and neither knows whether the frames
are a whole utterance or a chunk of a stream. What is remembered, what may be seen and where a frame stands is the
business of the context they are given: `Whole` holds all frames at once, `Chunk` deals out the caches of a stream.

A frame's attention sees whole blocks (`WindowConfig`): some before its own, in some layers the one after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.flow_config import DiTConfig, FlowConfig, UNetConfig, WindowConfig
from speechstream.nn.position import rotate
from speechstream.nn.seanet import CausalConv1d, Tails

ROPE_BASE = 10_000.0
TIME_SCALE = 1000.0  # the time 0 to 1 as the sinusoids take it
QUERY_FRAMES = 256  # scored at once offline: long enough for fast products, short enough to skip most of the mask


def rotary(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., 1, N, head_dim / 2) at positions (..., N); angles in float64: no stream is too long."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    angle = positions.double()[..., None, :, None] * ROPE_BASE**-exponent
    return angle.cos().to(dtype), angle.sin().to(dtype)


def visible(query: Tensor, key: Tensor, windows: WindowConfig, layer: int) -> Tensor:
    """Whether a layer's query at frame (..., N, 1) sees the key at (..., 1, K)."""
    mine, its = (
        torch.div(p, windows.block, rounding_mode="floor") for p in (query, key)
    )  # their blocks
    left, ahead = windows.left(layer), windows.ahead(layer)
    seen = (its >= mine - left) & (its <= mine + ahead)
    if left and windows.sinks:
        seen = seen | ((key < windows.sinks) & (its <= mine))
    return seen


@dataclass(frozen=True)
class Layout:
    """Where the frames of an offline call stand. N frames, grouped in windows of `width` consecutive frames.

    A stream computes a block together with the blocks it looks ahead to, and those anew with the block after it: a
    window is a block and its provisional copies of the next ones. Without look-ahead windows are the blocks.
    """

    positions: Tensor  # (N,) int64 frame
    window: Tensor  # (N,) int64
    provisional: Tensor  # (N,) bool
    width: int  # frames of a window
    by_window: bool  # whether a later block is seen through the window's copy of it only

    @classmethod
    def make(cls, config: FlowConfig, count: int, full: bool, device: torch.device) -> Layout:
        """For `count` frames, filled up to whole blocks. full: all see the one true block ahead (no copies)."""
        block, ahead = config.windows.block, 0 if full else config.lookahead
        blocks = -(-count // block)
        offset = torch.arange(block + ahead, device=device).expand(blocks, -1)
        window = torch.arange(blocks, device=device)[:, None].expand_as(offset)
        return cls(
            (window * block + offset).flatten(),
            window.flatten(),
            (offset >= block).flatten(),
            block + ahead,
            ahead > 0,
        )


class Whole:
    """All frames of a batch at once: attention under the mask, by bands, and convolutions over silence."""

    def __init__(
        self, config: FlowConfig, layout: Layout, lengths: Tensor, dtype: torch.dtype
    ) -> None:
        """`lengths` (R,): keys past a row's length are hidden."""
        self.config, self.layout, self.lengths = config, layout, lengths
        self.angles = rotary(layout.positions, config.network.head_dim, dtype)
        silence = torch.zeros(
            len(lengths), config.convolution_numbers, dtype=dtype, device=lengths.device
        )
        self.tails = Tails(silence)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of all frames, (R, H, N, Dh) each."""
        at, windows = self.layout, self.config.windows
        left = windows.left(layer) * at.width
        ahead = 0 if at.by_window else windows.ahead(layer) * at.width
        sinks = windows.sinks if left else 0
        sink_end = -(-sinks // windows.block) * at.width
        count, out = q.shape[2], []
        group = max(1, QUERY_FRAMES // at.width) * at.width
        for begin in range(0, count, group):
            end = min(begin + group, count)
            first = max(0, begin - left)
            keys = torch.arange(first, min(end + ahead, count), device=q.device)
            if sink_end and first:
                keys = torch.cat([torch.arange(min(sink_end, first), device=q.device), keys])
            mask = self._mask(layer, slice(begin, end), keys)
            out.append(
                F.scaled_dot_product_attention(
                    q[:, :, begin:end], k[:, :, keys], v[:, :, keys], attn_mask=mask
                )
            )
        return torch.cat(out, 2)

    def _mask(self, layer: int, queries: slice, keys: Tensor) -> Tensor:
        """(R, 1, queries, keys), none of whose rows is empty: a NaN of a padding frame would spread."""
        at = self.layout
        position = at.positions[keys]
        seen = visible(at.positions[queries, None], position, self.config.windows, layer)
        if at.by_window:
            mine, its = at.window[queries, None], at.window[keys]
            seen &= (its == mine) | ((its < mine) & ~at.provisional[keys])
        mask = seen & (position < self.lengths[:, None])[:, None, None]
        return mask | ~mask.any(-1, keepdim=True)

    def convolve(self, layer: CausalConv1d, x: Tensor) -> Tensor:
        """(R, C, N) to as many frames."""
        return layer.step(x, self.tails)


class Geometry:
    """Where a chunk of N frames stands in each of R rows, and what its frames see; the same for all evaluations."""

    def __init__(
        self, config: FlowConfig, frames: Tensor, count: int, lengths: Tensor, dtype: torch.dtype
    ) -> None:
        """`frames` (R,) came before; `lengths` (R,) of the chunk's `count` are real; the last `lookahead` come again."""
        self.config, self.count = config, count
        self.keep = count - config.lookahead
        w, device = config.windows, frames.device
        new = frames[:, None] + torch.arange(count, device=device)
        self.angles = rotary(new, config.network.head_dim, dtype)
        end = (frames + lengths)[:, None]
        sink = torch.arange(w.sinks, device=device).expand(frames.shape[0], -1)
        self.masks: dict[tuple[int, int], Tensor] = {}
        for layer in range(config.layers):
            kind = w.left(layer), w.ahead(layer)
            if kind in self.masks:
                continue
            place, real = [new], [new < end]
            if w.slots(layer):
                past = w.left(layer) * w.block
                old = frames[:, None] - past + torch.arange(past, device=device)
                # what is among the sinks is seen there
                place = [sink, old, new]
                real = [sink < frames[:, None], old >= w.sinks, new < end]
            seen = visible(new[..., None], torch.cat(place, 1)[:, None], w, layer)
            mask = seen & torch.cat(real, 1)[:, None]
            self.masks[kind] = (mask | ~mask.any(-1, keepdim=True))[:, None]
        fill = sink - frames[:, None]  # which new frame a sink is
        self.sink_is_new = ((fill >= 0) & (fill < self.keep))[:, None, :, None]
        self.sink_source = fill.clamp(min=0).clamp(max=self.keep - 1).clamp(min=0)[:, None, :, None]

    def mask(self, layer: int) -> Tensor:
        """(R, 1, N, kept + N)."""
        w = self.config.windows
        return self.masks[w.left(layer), w.ahead(layer)]


class Chunk:
    """A chunk of a stream in one evaluation: deals out its caches in network order and takes down the new ones."""

    def __init__(self, geometry: Geometry, keys: Tensor, values: Tensor, tails: Tensor) -> None:
        """keys, values (R, H, slots, Dh); tails (R, n). They are read only; `new_keys`, `new_values` are theirs after."""
        self.geometry, self.angles = geometry, geometry.angles
        self.keys, self.values, self.used = keys, values, 0
        self._kept: tuple[list[Tensor], list[Tensor]] = ([], [])
        self.tails = Tails(tails)

    @property
    def new_keys(self) -> Tensor:
        """(R, H, slots, Dh), once the network has run."""
        return torch.cat(self._kept[0], 2) if self._kept[0] else self.keys

    @property
    def new_values(self) -> Tensor:
        """(R, H, slots, Dh), once the network has run."""
        return torch.cat(self._kept[1], 2) if self._kept[1] else self.values

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the new frames (R, H, N, Dh) over the layer's cache and themselves."""
        g = self.geometry
        size = g.config.windows.slots(layer)
        if size:
            mine = slice(self.used, self.used + size)
            self.used += size
            k = self._push(k, self.keys[:, :, mine], size, self._kept[0])
            v = self._push(v, self.values[:, :, mine], size, self._kept[1])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=g.mask(layer))

    def _push(self, new: Tensor, cache: Tensor, size: int, kept: list[Tensor]) -> Tensor:
        """The cache of `size` frames and the new ones; what is to be remembered of them goes to `kept`."""
        g, sinks = self.geometry, self.geometry.config.windows.sinks
        joined = torch.cat([cache, new], 2)
        ahead = g.config.lookahead
        window = joined[:, :, -(size - sinks + ahead) : -ahead or None]
        if sinks:
            source = g.sink_source.expand(-1, new.shape[1], -1, new.shape[3])
            first = torch.where(g.sink_is_new, new.gather(2, source), cache[:, :, :sinks])
            kept.append(first)
        kept.append(window)
        return joined

    def convolve(self, layer: CausalConv1d, x: Tensor) -> Tensor:
        """(R, C, N) after what the stream has seen, to as many frames."""
        return layer.step(x, self.tails)


class TimeEmbedding(nn.Module):
    """Times (E,) from 0 to 1 to vectors (E, dim): sinusoids, then two linear layers."""

    def __init__(self, frequencies: int, dim: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.first, self.second = nn.Linear(frequencies, dim), nn.Linear(dim, dim)

    def forward(self, times: Tensor) -> Tensor:
        half = self.frequencies // 2
        step = -math.log(10_000) / (half - 1)
        waves = torch.exp(torch.arange(half, device=times.device, dtype=torch.float32) * step)
        angle = TIME_SCALE * times.float()[:, None] * waves
        x = torch.cat([angle.sin(), angle.cos()], -1).to(self.first.weight.dtype)
        return self.second(F.silu(self.first(x)))


class DiTLayer(nn.Module):
    """Attention and feed-forward, each shifted, scaled and gated by the time (adaLN-zero)."""

    def __init__(self, c: DiTConfig) -> None:
        super().__init__()
        inner = c.heads * c.head_dim
        self.heads, self.rotary = c.heads, c.rotary_heads or c.heads
        self.modulation = nn.Linear(c.dim, 6 * c.dim)
        self.norm = nn.LayerNorm(c.dim, eps=1e-6, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(c.dim, 3 * inner), nn.Linear(inner, c.dim)
        self.up, self.down = nn.Linear(c.dim, c.ff_dim), nn.Linear(c.ff_dim, c.dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, modulation: Tensor, index: int, context: Whole | Chunk) -> Tensor:
        """x (R, N, dim); modulation (R or 1, 1, 6 * dim)."""
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulation.chunk(6, -1)
        y = self.norm(x) * (1 + scale) + shift
        q, k, v = (
            p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(y).chunk(3, -1)
        )
        q, k = self._rotate(q, context.angles), self._rotate(k, context.angles)
        y = context.attend(index, q, k, v)
        x = x + gate * self.out(y.transpose(1, 2).flatten(2))
        y = self.norm(x) * (1 + ff_scale) + ff_shift
        return x + ff_gate * self.down(F.gelu(self.up(y), approximate="tanh"))

    def _rotate(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        if self.rotary == self.heads:
            return rotate(x, *angles)
        return torch.cat([rotate(x[:, : self.rotary], *angles), x[:, self.rotary :]], 1)


class DiT(nn.Module):
    """Noisy mel and conditions, one after another, through DiT layers. The velocity is its last linear layer's."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        c = config.dit
        self.time = TimeEmbedding(c.frequencies, c.dim)
        self.input = nn.Linear(config.input_dim, c.dim)
        self.position = nn.ModuleList(
            CausalConv1d(c.dim, c.dim, c.position_kernel, groups=c.position_groups)
            for _ in range(2 if c.position_kernel else 0)
        )
        self.layers = nn.ModuleList(DiTLayer(c) for _ in range(c.layers))
        self.modulation = nn.Linear(c.dim, 2 * c.dim)
        self.norm = nn.LayerNorm(c.dim, eps=1e-6, elementwise_affine=False)
        self.output = nn.Linear(c.dim, config.n_mels)

    def modulations(self, times: Tensor) -> list[Tensor]:
        """What the times (E,) make of each layer, (E, 1, ...) each: all at once, so that weights are read once."""
        x = F.silu(self.time(times))[:, None]
        return [layer.modulation(x) for layer in self.layers] + [self.modulation(x)]

    def forward(self, x: Tensor, modulations: list[Tensor], context: Whole | Chunk) -> Tensor:
        """x (R, N, input_dim) to the velocity (R, N, n_mels). The modulations have R rows, or one for all."""
        x = self.input(x)
        if self.position:
            y = x.transpose(1, 2)
            for layer in self.position:
                y = F.mish(context.convolve(layer, y))
            x = x + y.transpose(1, 2)
        for i, layer in enumerate(self.layers):
            x = layer(x, modulations[i], i, context)
        scale, shift = modulations[-1].chunk(2, -1)
        return self.output(self.norm(x) * (1 + scale) + shift)


class ConvBlock(nn.Module):
    """A causal convolution, a layer norm over the channels, Mish."""

    def __init__(self, inputs: int, dim: int, kernel: int) -> None:
        super().__init__()
        self.conv, self.norm = CausalConv1d(inputs, dim, kernel), nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Whole | Chunk) -> Tensor:
        """(R, inputs, N) to (R, dim, N)."""
        x = context.convolve(self.conv, x)
        return F.mish(self.norm(x.transpose(1, 2))).transpose(1, 2)


class ResnetBlock(nn.Module):
    """Two convolution blocks with the time added between them, around a 1 x 1 convolution."""

    def __init__(self, inputs: int, c: UNetConfig) -> None:
        super().__init__()
        self.first, self.second = (
            ConvBlock(inputs, c.dim, c.kernel),
            ConvBlock(c.dim, c.dim, c.kernel),
        )
        self.modulation = nn.Linear(c.time_dim, c.dim)
        self.skip = nn.Conv1d(inputs, c.dim, 1)

    def forward(self, x: Tensor, modulation: Tensor, context: Whole | Chunk) -> Tensor:
        """x (R, inputs, N); modulation (R or 1, dim, 1)."""
        return self.second(self.first(x, context) + modulation, context) + self.skip(x)


class UNetLayer(nn.Module):
    """A pre-norm transformer layer without positions: the convolutions around it know the order."""

    def __init__(self, c: UNetConfig) -> None:
        super().__init__()
        inner = c.heads * c.head_dim
        self.heads = c.heads
        self.norm1, self.norm2 = nn.LayerNorm(c.dim), nn.LayerNorm(c.dim)
        self.qkv, self.out = nn.Linear(c.dim, 3 * inner, bias=False), nn.Linear(inner, c.dim)
        self.up, self.down = nn.Linear(c.dim, c.ff_dim), nn.Linear(c.ff_dim, c.dim)

    def forward(self, x: Tensor, index: int, context: Whole | Chunk) -> Tensor:
        """x (R, N, dim)."""
        qkv = self.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in qkv)
        y = context.attend(index, q, k, v)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class UNetBlock(nn.Module):
    """A residual block and its transformer layers."""

    def __init__(self, inputs: int, c: UNetConfig) -> None:
        super().__init__()
        self.resnet = ResnetBlock(inputs, c)
        self.layers = nn.ModuleList(UNetLayer(c) for _ in range(c.layers_per_block))

    def forward(self, x: Tensor, modulation: Tensor, first: int, context: Whole | Chunk) -> Tensor:
        """x (R, inputs, N) to (R, dim, N); `first` is the number of its first transformer layer."""
        x = self.resnet(x, modulation, context).transpose(1, 2)
        for i, layer in enumerate(self.layers):
            x = layer(x, first + i, context)
        return x.transpose(1, 2)


class UNet(nn.Module):
    """CosyVoice 2's estimator: a block down, blocks in the middle, a block up with the skip, all causal."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        c = config.unet
        self.time = TimeEmbedding(c.frequencies, c.time_dim)
        self.down = UNetBlock(config.input_dim, c)
        self.after_down = CausalConv1d(c.dim, c.dim, c.kernel)
        self.middle = nn.ModuleList(UNetBlock(c.dim, c) for _ in range(c.mid_blocks))
        self.up = UNetBlock(2 * c.dim, c)
        self.after_up = CausalConv1d(c.dim, c.dim, c.kernel)
        self.last = ConvBlock(c.dim, c.dim, c.kernel)
        self.output = nn.Conv1d(c.dim, config.n_mels, 1)

    @property
    def blocks(self) -> list[UNetBlock]:
        """In network order."""
        return [self.down, *self.middle, self.up]

    def modulations(self, times: Tensor) -> list[Tensor]:
        """What the times (E,) add in each residual block, (E, dim, 1) each."""
        x = F.mish(self.time(times))
        return [block.resnet.modulation(x)[..., None] for block in self.blocks]

    def forward(self, x: Tensor, modulations: list[Tensor], context: Whole | Chunk) -> Tensor:
        """x (R, N, input_dim) to the velocity (R, N, n_mels). The modulations have R rows, or one for all."""
        each = len(self.down.layers)
        x = skip = self.down(x.transpose(1, 2), modulations[0], 0, context)
        x = context.convolve(self.after_down, x)
        for i, block in enumerate(self.middle, 1):
            x = block(x, modulations[i], i * each, context)
        x = torch.cat([x, skip], 1)
        x = self.up(x, modulations[-1], (len(self.middle) + 1) * each, context)
        x = self.last(context.convolve(self.after_up, x), context)
        return self.output(x).transpose(1, 2)
