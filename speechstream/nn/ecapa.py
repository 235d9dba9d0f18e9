"""A recording's mel frames to a speaker's vector: ECAPA-TDNN (arXiv:2005.07143), as Qwen2.5-Omni's token2wav has it.

Without batch norms, and mirrored at both ends. It runs once a speaker, over the whole recording.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.flow_config import EcapaConfig

LEAST_VARIANCE = 1e-12


def conv(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Conv1d:
    """A convolution over a signal that is mirrored at its ends."""
    return nn.Conv1d(
        inputs, outputs, kernel, dilation=dilation, padding="same", padding_mode="reflect"
    )


class Block(nn.Module):
    """Groups of channels, each convolved after the one before was added to it; then a gain for each channel."""

    def __init__(self, c: EcapaConfig, kernel: int, dilation: int) -> None:
        super().__init__()
        dim, part = c.channels[0], c.channels[0] // c.groups
        self.first, self.last = conv(dim, dim), conv(dim, dim)
        self.groups = nn.ModuleList(conv(part, part, kernel, dilation) for _ in range(c.groups - 1))
        self.squeeze, self.excite = conv(dim, c.squeeze_dim), conv(c.squeeze_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T) to the same."""
        first, *others = F.relu(self.first(x)).chunk(len(self.groups) + 1, 1)
        parts, before = [first], 0
        for layer, part in zip(self.groups, others):
            before = F.relu(layer(part + before))
            parts.append(before)
        y = F.relu(self.last(torch.cat(parts, 1)))
        gain = self.excite(F.relu(self.squeeze(y.mean(2, keepdim=True)))).sigmoid()
        return x + y * gain


class Ecapa(nn.Module):
    """Mel frames (B, T, n_mels) to vectors (B, dim)."""

    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        self.config = c = config
        last = c.channels[-1]
        self.first = conv(c.n_mels, c.channels[0], c.kernels[0], c.dilations[0])
        self.blocks = nn.ModuleList(
            Block(c, kernel, dilation)
            for kernel, dilation in zip(c.kernels[1:-1], c.dilations[1:-1])
        )
        self.join = conv(last, last, c.kernels[-1], c.dilations[-1])
        self.attention, self.score = conv(3 * last, c.attention_dim), conv(c.attention_dim, last)
        self.output = conv(2 * last, c.dim)

    def forward(self, mel: Tensor) -> Tensor:
        """Raises ValueError for another shape, or a recording that is too short to be mirrored."""
        c = self.config
        if mel.dim() != 3 or mel.shape[2] != c.n_mels or mel.shape[1] < c.least_frames:
            raise ValueError(
                f"a recording's mel must be (B, {c.least_frames} or more, {c.n_mels}); got {tuple(mel.shape)}"
            )
        x, found = F.relu(self.first(mel.transpose(1, 2))), []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        x = F.relu(self.join(torch.cat(found, 1)))
        mean, spread = _statistics(x, torch.full_like(x[:, :1], 1 / x.shape[2]))
        known = torch.cat([x, mean.expand_as(x), spread.expand_as(x)], 1)
        weight = self.score(F.relu(self.attention(known)).tanh()).softmax(2)
        return self.output(torch.cat(_statistics(x, weight), 1)).squeeze(2)


def _statistics(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation (B, C, 1) of x (B, C, T)."""
    mean = (weight * x).sum(2, keepdim=True)
    variance = (weight * (x - mean).square()).sum(2, keepdim=True)
    return mean, variance.clamp(LEAST_VARIANCE).sqrt()
