"""What a causal Whisper carries besides its decoder: a CTC head, and a gate that makes a transducer of the decoder.

Both read pairs of encoder frames, 40 ms each, and neither keeps state: a convolution sees the pairs of its own chunk.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pairs(features: Tensor) -> Tensor:
    """Features (B, T, width) to (B, T // 2, 2 width)."""
    return features[:, : features.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(-2)


class ChunkBlock(nn.Module):
    """A depthwise convolution over the pairs of a chunk, and a feed-forward layer (Liu et al. 2022, ConvNeXt's block)."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, kernel, groups=width)
        self.ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor, real: Tensor | None = None, chunk: int | None = None) -> Tensor:
        """x (B, P, width), of which real (B, P, 1) counts; chunk in pairs, None: all P are one."""
        k, P = self.conv.kernel_size[0], x.shape[1]
        y = x if real is None else x * real
        if chunk is not None:
            y = F.pad(y, (0, 0, 0, -P % chunk)).unflatten(1, (-1, chunk)).flatten(0, 1)
        n = y.shape[1]
        y = self.conv(F.pad(y.transpose(1, 2), (k // 2, k // 2 + 1)))[:, :, :n].transpose(
            1, 2
        )  # one more: n may be 0
        if chunk is not None:
            y = y.unflatten(0, (len(x), -1)).flatten(1, 2)[:, :P]
        return x + self.mlp(self.ln(y))


class CtcHead(nn.Module):
    """Pairs of frames to scores of pieces."""

    def __init__(self, width: int, hidden: int, pieces: int, blocks: int, kernel: int = 9):
        super().__init__()
        self.into = nn.Linear(2 * width, hidden)
        self.blocks = nn.ModuleList(ChunkBlock(hidden, kernel) for _ in range(blocks))
        self.out = nn.Linear(hidden, pieces)

    def forward(self, x: Tensor, real: Tensor | None = None, chunk: int | None = None) -> Tensor:
        """x (B, P, 2 width) to (B, P, pieces); `real` and `chunk` as in `ChunkBlock`."""
        x = self.into(x)
        for block in self.blocks:
            x = block(x, real, chunk)
        return self.out(x)


class Gate(nn.Module):
    """Whether the next token has been said by the end of a pair of frames: what a transducer needs beside a decoder.

    P(blank | t, u) = 1 - g(t, u) and P(y | t, u) = g(t, u) P(y | tokens before u, y is not the end), the second factor being
    the decoder's own (the factorisation is HAT's, Variani et al. 2020; the decoder in the prediction network's place,
    TRADE's). The joint sees the pair, the decoder's last hidden state, and how much of the decoder's attention for this
    token fell on frames up to the pair's end, and on the pair itself.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.audio = nn.Linear(2 * width, hidden)
        self.text = nn.Linear(width, hidden, bias=False)
        self.looked = nn.Linear(2, hidden, bias=False)
        self.out = nn.Linear(hidden, 1)

    def forward(self, audio: Tensor, text: Tensor, looked: Tensor) -> Tensor:
        """Projected pairs and hidden states (..., hidden), and attention (..., 2), to log odds (...)."""
        return self.out(torch.tanh(audio + text + self.looked(looked)))[..., 0]


def looked(alignment: Tensor) -> Tensor:
    """Attention (..., T) to what the gate knows of it, (..., T // 2, 2): up to each pair's end, and within the pair."""
    within = alignment[..., : alignment.shape[-1] // 2 * 2].unflatten(-1, (-1, 2)).sum(-1)
    return torch.stack([within.cumsum(-1), within], -1)
