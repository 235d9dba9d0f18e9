"""What a source-filter decoder cannot make, added in the time domain.

Filters that stand still for a window of 40 ms, a pulse train and stationary noise leave out what changes within a period of a
voice. So a gated causal network (WaveNet: van den Oord et al., 2016, arXiv:1609.03499) sees the filtered pulses, the filtered
noise and the pulses themselves at 1200 rows a second of 20 samples each, where a pulse has a place in time, under the
features of the decoder, and its rows are added to the sound. The last layer gives samples, as in WaveNeXt (Okamoto et
al., 2023), and begins at zero: a new refiner changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from speechstream.nn.seanet import Tails

KERNEL = 3  # rows that a block sees, `dilation` apart
DILATIONS = (1, 2, 4, 8)  # of the blocks, over and over
LEVEL = (
    16.0  # speech has a root mean square of some 0.05; the network sees and makes one of about 1
)


class RowConv(nn.Linear):
    """A causal convolution over rows (B, R, dim) as a product of matrices, which a CPU runs faster at such widths."""

    def __init__(self, dim: int, outputs: int, dilation: int) -> None:
        super().__init__(KERNEL * dim, outputs)
        self.shape = ((KERNEL - 1) * dilation, dim)
        self.tail_size, self.dilation = self.shape[0] * dim, dilation

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        count = x.shape[1]
        x = torch.cat([tails.take(*self.shape), x], 1)
        tails.leave(x[:, -self.shape[0] :])
        return super().forward(
            torch.cat([x[:, k * self.dilation :][:, :count] for k in range(KERNEL)], -1)
        )


class GatedBlock(nn.Module):
    """A convolution under a condition, a gate, and a sum with the input."""

    def __init__(self, dim: int, features: int, dilation: int) -> None:
        super().__init__()
        self.conv = RowConv(dim, 2 * dim, dilation)
        self.condition = nn.Linear(features, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim)
        with torch.no_grad():
            self.output.weight.mul_(0.5)

    def step(self, x: Tensor, features: Tensor, tails: Tails) -> Tensor:
        y, condition = self.conv.step(x, tails), self.condition(features)
        y = y.unflatten(1, (features.shape[1], -1)) + condition.unsqueeze(2)
        value, gate = y.flatten(1, 2).chunk(2, -1)
        return x + self.output(value * gate.sigmoid())


class Refiner(nn.Module):
    """Two sources' sound and their pulses to what is to be added to the sound."""

    def __init__(self, features: int, hop: int, dim: int, blocks: int, row: int) -> None:
        """`features`: their width; `row`: samples of a row, a divisor of `hop`."""
        super().__init__()
        if hop % row:
            raise ValueError(f"a hop of {hop} samples is no multiple of a row of {row}")
        self.row = row
        self.input = nn.Linear(4 * row, dim)
        self.spread = nn.Linear(features, hop // row * dim, bias=False)
        self.blocks = nn.ModuleList(
            GatedBlock(dim, features, DILATIONS[k % len(DILATIONS)]) for k in range(blocks)
        )
        self.output = nn.Linear(dim, row)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def step(
        self, voiced: Tensor, noise: Tensor, pulses: Tensor, features: Tensor, tails: Tails
    ) -> Tensor:
        """`voiced`, `noise`: (B, T * hop) of the two sources; `pulses`: (B, T, 2 * hop), of the same hop and the one after;
        `features`: (B, T, F). Returns (B, T * hop)."""
        size = len(voiced)
        here, next_ = pulses.chunk(2, -1)
        rows = (LEVEL * voiced, LEVEL * noise, here, next_)
        x = torch.cat([r.reshape(size, -1, self.row) for r in rows], -1)
        spread = self.spread(features).reshape(size, x.shape[1], -1)
        x = self.input(x) + spread
        for block in self.blocks:
            x = block.step(x, features, tails)
        return self.output(x).flatten(1) / LEVEL
