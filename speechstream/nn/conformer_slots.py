"""A FastConformer encoder on streams whose caches stay on its device, behind slot numbers.

Keys, values and the inputs of convolutions are rings in pools of slots; a step hands the pools to the kernels
(`speechstream.kernels.dispatch.pooled_attention_step`, `pooled_conv_step`), which write the new frames in place.
On a CPU the same runs on their references. Equal to `ConformerEncoder.step` on states as values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechstream.kernels import dispatch
from speechstream.nn.conformer import Attention, ConformerEncoder, ConformerLayer, EncoderState
from speechstream.nn.position import rotary_angles

SUBSAMPLED = ("sub0", "sub1", "sub2", "sub3")


class EncoderSlots:
    """See `speechstream.runtime.slots.Slots`; inputs "features" (B, frames, mels) and "lengths" (B,).

    heads: from encoded frames (B, N, dim) to what a step gives.
    """

    def __init__(self, encoder: ConformerEncoder, heads: Callable[[Tensor], dict[str, Any]]):
        self.encoder, self._heads = encoder.eval(), heads
        c = encoder.config
        self._like = encoder.init_state(1)
        self._left: int = self._like.keys.shape[3]
        self._past: int = self._like.conv.shape[3]  # inputs that a convolution reads again
        longest = max(c.lookaheads) + 1
        self._key_ring, self._conv_ring = self._left + longest, self._past + longest
        like = self._like.keys
        self._device = like.device
        shape = (0, c.heads, self._key_ring, like.shape[4])
        self._keys = [like.new_zeros(shape) for _ in encoder.layers]
        self._values = [like.new_zeros(shape) for _ in encoder.layers]
        self._conv = [like.new_zeros((0, self._conv_ring, c.dim)) for _ in encoder.layers]
        self._sub = {
            n: a.new_zeros((0, *a.shape[1:]))
            for n in SUBSAMPLED
            if (a := getattr(self._like, n)) is not None
        }
        self._frames = self._like.frames.new_zeros(0)
        self._row: dict[int, int] = {}
        self._free: list[int] = []
        self._next = 0

    def __len__(self) -> int:
        return len(self._row)

    def open(self) -> int:
        slot, self._next = self._next, self._next + 1
        if not self._free:
            self._grow()
        self._row[slot] = self._free.pop()
        self.write(slot, self._like)
        return slot

    def close(self, slot: int) -> None:
        self._free.append(self._row.pop(slot))

    @torch.inference_mode()
    def step(self, slots: Sequence[int], inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Raises ValueError for a chunk longer than the longest look-ahead allows."""
        x = self._in(inputs["features"])
        lengths = self._in(inputs["lengths"])
        rows = torch.tensor([self._row[s] for s in slots], device=self._device)
        c, frames = self.encoder.config, self._frames[rows]
        if x.shape[1] // c.subsampling > self._key_ring - self._left:
            raise ValueError(
                f"a block of {x.shape[1]} feature frames is longer than a chunk of this model"
            )
        history = [a[rows] for a in self._sub.values()]
        x, history, limit = self.encoder.subsampling.step(x, history, frames, lengths)
        if c.scale_input:
            x = x * math.sqrt(c.dim)
        angles = None
        if self.encoder.cycles is not None:
            places = frames[:, None] + torch.arange(x.shape[1], device=self._device)
            angles = rotary_angles(places, self.encoder.cycles, x.dtype)
        for i, layer in enumerate(self.encoder.layers):
            x = self._layer(i, layer, x, rows, limit, angles)
        for a, new in zip(self._sub.values(), history):
            a[rows] = new
        self._frames[rows] = frames + x.shape[1]
        return self._heads(x)

    def read(self, slot: int) -> EncoderState:
        """A copy of a stream's state, numpy arrays (1, ...)."""
        row, frames = self._row[slot], int(self._frames[self._row[slot]])
        keys = torch.stack([_oldest_first(a[row], 1, frames, self._left) for a in self._keys])
        values = torch.stack([_oldest_first(a[row], 1, frames, self._left) for a in self._values])
        conv = torch.stack([_oldest_first(a[row], 0, frames, self._past).T for a in self._conv])
        sub = {n: self._sub[n][row : row + 1] if n in self._sub else None for n in SUBSAMPLED}
        counted = torch.tensor([frames])
        state = EncoderState(keys[None], values[None], conv[None], **sub, frames=counted)
        return EncoderState(
            **{n: None if a is None else a.cpu().numpy().copy() for n, a in vars(state).items()}
        )

    def write(self, slot: int, state: Any) -> None:
        row = self._row[slot]
        frames = int(state.frames[0])
        for i in range(len(self.encoder.layers)):
            for pool, a in ((self._keys, state.keys), (self._values, state.values)):
                _to_ring(pool[i][row], 1, frames, self._in(a[0, i]))
            _to_ring(self._conv[i][row], 0, frames, self._in(state.conv[0, i]).T)
        for n, a in self._sub.items():
            a[row] = self._in(getattr(state, n))[0]
        self._frames[row] = frames

    def _layer(
        self,
        i: int,
        layer: ConformerLayer,
        x: Tensor,
        rows: Tensor,
        limit: Tensor | None,
        angles: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """`ConformerLayer.forward` with attention and convolution on the pools."""
        x = x + 0.5 * layer.ff1(layer.norm_ff1(x))
        x = x + self._attend(i, layer.att, layer.norm_att(x), rows, limit, angles)
        up = layer.conv.up(layer.norm_conv(x))
        depthwise = layer.conv.depthwise
        y = dispatch.pooled_conv_step(
            up,
            self._conv[i],
            rows,
            self._frames,
            depthwise.weight[:, 0],
            depthwise.bias,
            *layer.conv.norm_as_kernel(),
        )
        x = x + layer.conv.down(y)
        x = x + 0.5 * layer.ff2(layer.norm_ff2(x))
        return layer.norm_out(x)

    def _attend(
        self,
        i: int,
        att: Attention,
        x: Tensor,
        rows: Tensor,
        limit: Tensor | None,
        angles: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        q, k, v = (
            att.qkv(x).unflatten(-1, (3, att.heads, att.dim_head)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        chunk = x.shape[1]
        left = self._left // chunk * chunk  # whole chunks, as in the masks of the pure step
        bias = rope = None
        if att.relative:
            table = att.chunk_table(chunk)[:, self._left - left :]
            bias = dispatch.RelativeBias(table, att.bias_u[:, 0], att.bias_v[:, 0])
        elif angles is not None:
            rope = (angles[0][:, 0], angles[1][:, 0])
        y = dispatch.pooled_attention_step(
            q,
            k,
            v,
            self._keys[i],
            self._values[i],
            rows,
            self._frames,
            left,
            lengths=limit,
            chunk=chunk,
            bias=bias,
            rope=rope,
        )
        return att.out(y.transpose(1, 2).flatten(2))

    def _grow(self) -> None:
        size = len(self._frames)
        more = max(size, 1)

        def longer(a: Tensor) -> Tensor:
            return torch.cat([a, a.new_zeros((more, *a.shape[1:]))])

        self._keys = [longer(a) for a in self._keys]
        self._values = [longer(a) for a in self._values]
        self._conv = [longer(a) for a in self._conv]
        self._sub = {n: longer(a) for n, a in self._sub.items()}
        self._frames = longer(self._frames)
        self._free = list(range(size + more - 1, size - 1, -1))

    def _in(self, a: Any) -> Tensor:
        if isinstance(a, np.ndarray):
            a = torch.from_numpy(np.ascontiguousarray(a))
        return a.to(self._device)


def _oldest_first(ring: Tensor, axis: int, frames: int, past: int) -> Tensor:
    """The last `past` of a stream's frames, from its ring along `axis`; zero before the first."""
    numbers = torch.arange(frames - past, frames, device=ring.device)
    out = ring.index_select(axis, numbers % ring.shape[axis])
    shape = [1] * ring.ndim
    shape[axis] = -1
    return out * (numbers >= 0).view(shape)


def _to_ring(ring: Tensor, axis: int, frames: int, past: Tensor) -> None:
    """The inverse of `_oldest_first`."""
    numbers = torch.arange(frames - past.shape[axis], frames, device=ring.device)
    ring.zero_()
    ring.index_copy_(axis, numbers % ring.shape[axis], past)
