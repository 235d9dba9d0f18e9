"""Qwen3-ASR (arXiv:2601.21337): seconds of sound are convolved each by itself, windows of 8 s attend within themselves.

    frames = model.encoder.convolve(mel)                    # a second, or what there is of it
    sound = model.encoder.attend(frames)                    # a window, or what there is of it
    h, state = model.text.hidden(sound, state)              # sound and text are read alike

So what was heard in whole windows is read once and for all, and of the last one no more than 8 s are read anew.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.llm import Llm
from speechstream.nn.omni import EncoderLayer, sinusoids
from speechstream.nn.qwen_asr_config import QwenAsrConfig, QwenEncoderConfig, halved


class QwenEncoder(nn.Module):
    """Mel frames (B, n_mels, T) of 10 ms to tokens (B, about T / 8, out_dim)."""

    def __init__(self, config: QwenEncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(n, c.channels, 3, 2, padding=1) for n in (1, c.channels, c.channels)
        )
        self.conv_out = nn.Linear(c.conv_dim, c.dim, bias=False)
        self.layers = nn.ModuleList(
            EncoderLayer(c.dim, c.heads, c.ff_dim, key_bias=True) for _ in range(c.layers)
        )
        self.norm = nn.LayerNorm(c.dim)
        self.proj = nn.Sequential(nn.Linear(c.dim, c.dim), nn.GELU(), nn.Linear(c.dim, c.out_dim))

    def convolve(self, mel: Tensor) -> Tensor:
        """A chunk (B, n_mels, T), or what there is of the last one, to frames (B, frames, dim)."""
        frames = halved(mel.shape[2])
        # as in the reference, where a short chunk is filled up: its edge is not that of the convolutions
        return self.whole(F.pad(mel, (0, self.config.chunk - mel.shape[2])))[:, :frames]

    def whole(self, mel: Tensor) -> Tensor:
        """The same of a chunk that is filled up."""
        x = mel[:, None]
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.gelu(conv(x))
        x = self.conv_out(x.permute(0, 3, 1, 2).flatten(2))
        return x + sinusoids(x)

    def attend(self, x: Tensor) -> Tensor:
        """Frames (B, n, dim) of one window, each of which sees all, to tokens (B, n, out_dim)."""
        for layer in self.layers:
            x = layer(x)
        return self.proj(self.norm(x))

    def forward(self, mel: Tensor) -> Tensor:
        """Whole recordings."""
        frames = torch.cat([self.convolve(m) for m in mel.split(self.config.chunk, 2)], 1)
        windows = frames.split(self.config.window_tokens, 1)
        return torch.cat([self.attend(w) for w in windows], 1)


class QwenAsr(nn.Module):
    """The encoder and the language model."""

    def __init__(self, config: QwenAsrConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = QwenEncoder(config.encoder)
        self.text = Llm(config.text)


def tied(config: QwenAsrConfig) -> dict[str, str]:
    """Layers that have the weight of another."""
    return {"text.lm_head": "text.model.embed_tokens"} if config.text.tied else {}
