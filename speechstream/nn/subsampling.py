"""Depthwise-separable convolutional subsampling with an exact history for each convolution.

Fast Conformer (Rekesh et al. 2023): strided 3 x 3 convolutions over time and frequency, the first one full, the others
depthwise then pointwise, then a linear layer. In the causal form an output frame sees input frames up to its own
position only: frame t of the output needs input frames up to factor * t.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE, KERNEL = 2, 3


class ConvSubsampling(nn.Module):
    """Feature frames (B, T, features) to encoder frames (B, T / factor, dim).

    Block rule of the causal form. Output frame t becomes computable with input frame factor * t, so a block that ends
    with it holds the input frames factor * (t - 1) + 1 ... factor * t. The first block of a stream therefore starts
    with `lead` = factor - 1 frames that lie before the audio; their content is ignored.
    """

    def __init__(
        self, features: int, dim: int, channels: int, factor: int = 8, causal: bool = True
    ):
        super().__init__()
        if factor not in (2, 4, 8, 16):
            raise ValueError(f"subsampling factor must be 2, 4, 8 or 16, got {factor}")
        self.features, self.channels, self.factor, self.causal = features, channels, factor, causal
        self.stages = factor.bit_length() - 1
        self.lead = factor - 1 if causal else 0
        self.pad = (KERNEL - 1, STRIDE - 1) if causal else (1, 1)  # both in time and in frequency
        self.depthwise, self.pointwise = nn.ModuleList(), nn.ModuleList()
        self.depthwise.append(nn.Conv2d(1, channels, KERNEL, STRIDE))
        for _ in range(self.stages - 1):
            self.depthwise.append(nn.Conv2d(channels, channels, KERNEL, STRIDE, groups=channels))
            self.pointwise.append(nn.Conv2d(channels, channels, 1))
        self.bins = [features]  # frequency bins at the input of each convolution, and at the end
        for _ in range(self.stages):
            self.bins.append((self.bins[-1] + sum(self.pad) - KERNEL) // STRIDE + 1)
        self.out = nn.Linear(channels * self.bins[-1], dim)

    def output_lengths(self, lengths):
        """Encoder frames of whole utterances of `lengths` feature frames (an int or an integer tensor)."""
        for _ in range(self.stages):
            lengths = (lengths + sum(self.pad) - KERNEL) // STRIDE + 1
        return lengths

    def init_history(self, batch: int, **options) -> list[Tensor]:
        """What each convolution remembers: its last input frame, (B, channels, 1, bins)."""
        widths = [1] + [self.channels] * (self.stages - 1)
        return [torch.zeros(batch, c, 1, f, **options) for c, f in zip(widths, self.bins)]

    def step(self, x: Tensor, history: list[Tensor], frames: Tensor, lengths: Tensor | None = None):
        """Subsample one block of each stream.

        x (B, factor * c, features); history as from init_history; frames (B,) encoder frames already produced by each
        stream; lengths (B,) where a stream ends inside this block: how many of the block's frames count, the lead
        included. Returns y (B, c, dim), the new history, and how many of the c frames are real (B,), None without
        lengths.
        """
        scale = self.factor  # frames at this level per encoder frame
        total = None if lengths is None else scale * frames - (scale - 1) + lengths
        h, after = x[:, None], []
        for stage, conv in enumerate(self.depthwise):
            position = (
                scale * frames[:, None] - (scale - 1) + torch.arange(h.shape[2], device=x.device)
            )
            real = position >= 0
            if total is not None:
                real = real & (position < total[:, None])
                total = (total // STRIDE) + 1
            h = torch.where(
                real[:, None, :, None], h, 0.0
            )  # outside the audio each level is zero, as its padding is
            h = torch.cat([history[stage], h], dim=2)
            after.append(h[:, :, -1:])
            h = conv(F.pad(h, self.pad))
            h = F.relu(h if stage == 0 else self.pointwise[stage - 1](h))
            scale //= STRIDE
        y = self.out(h.transpose(1, 2).flatten(2))
        return y, after, None if total is None else total - frames

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The symmetric (not causal) form on whole utterances (B, T, features) with lengths (B,)."""
        h = x[:, None]
        for stage, conv in enumerate(self.depthwise):
            real = torch.arange(h.shape[2], device=x.device) < lengths[:, None]
            h = torch.where(real[:, None, :, None], h, 0.0)
            h = conv(F.pad(h, self.pad * 2))
            h = F.relu(h if stage == 0 else self.pointwise[stage - 1](h))
            lengths = (lengths + sum(self.pad) - KERNEL) // STRIDE + 1
        return self.out(h.transpose(1, 2).flatten(2))
