"""What a recogniser hears: the distance of its encoder's features, so that a decoder keeps the words apart.

Deep features of a frozen recogniser as a loss: Germain et al., 2018 (arXiv:1806.10522), with the embedded encoder in place of an
audio classifier. Judges hear what is natural; a burst of the wrong place of articulation is as natural as the right one, but
another word.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.audio.features import LOG_FLOOR, SAMPLE_RATE, mel_filters
from speechstream.nn.whisper import Whisper

WINDOW_S, HOP_S = 0.025, 0.01  # of the recogniser's log-mels
LEAST = 1e-10  # of their energies


class Recogniser(nn.Module):
    """The frozen encoder of a Whisper and its log-mels at another sample rate, through which gradients go."""

    def __init__(self, model: Whisper, sample_rate: int) -> None:
        """Raises ValueError for sound that has not the recogniser's whole band."""
        super().__init__()
        if sample_rate < SAMPLE_RATE:
            raise ValueError(f"the recogniser hears {SAMPLE_RATE} Hz; got {sample_rate} Hz")
        self.encoder = model.encoder.bfloat16().requires_grad_(False)
        self.window, self.hop = round(WINDOW_S * sample_rate), round(HOP_S * sample_rate)
        # a window as long in seconds has its bins at the same frequencies, and larger sums
        self.scale = (SAMPLE_RATE / sample_rate) ** 2
        self.register_buffer("hann", torch.hann_window(self.window))
        self.register_buffer(
            "mel", torch.from_numpy(np.ascontiguousarray(mel_filters(model.config.n_mels)))
        )

    def log_mels(self, x: Tensor) -> Tensor:
        """Samples (B, n) to log-mel frames (B, mels, frames), frame m centred at sample hop * m."""
        s = torch.stft(
            x, self.window, self.hop, window=self.hann, pad_mode="constant", return_complex=True
        )
        power = torch.view_as_real(s)[:, : self.mel.shape[1]].square().sum(-1) * self.scale
        log = torch.log10((self.mel @ power).clamp(min=LEAST))
        return (log.clamp(min=LOG_FLOOR) + 4) / 4

    def features(self, x: Tensor) -> list[Tensor]:
        """Samples (B, n) to what enters each block after the first, and what the encoder gives, normalised: (B, T, dim), frames of
        20 ms of which the last ends with the sound."""
        mel = self.log_mels(x)
        mel = mel[..., 1 - mel.shape[-1] % 2 :].bfloat16()
        encoder = self.encoder
        zero = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        y = encoder.subsample(mel, mel.new_zeros(len(x), mel.shape[1], 2), zero)
        found = []
        for block in encoder.blocks:
            normal = block.attn_ln(y)
            found.append(normal)
            q, k, v = block.attn.qkv(normal)
            y = y + block.attn.merge(F.scaled_dot_product_attention(q, k, v))
            y = y + block.mlp(block.mlp_ln(y))
        return [*found[1:], encoder.ln_post(y)]

    def forward(self, y: Tensor, x: Tensor, before: Tensor) -> Tensor:
        """The distance of the features of generated `y` and original `x` (B, 1, samples) over what there is of the original's, mean
        over the layers. `before` (B, 1, samples): the original's sound before them."""
        count = y.shape[-1] // (2 * self.hop)
        made = self.features(torch.cat([before, y], -1)[:, 0])
        with torch.no_grad():
            heard = self.features(torch.cat([before, x], -1)[:, 0])
        total = y.new_zeros(())
        for a, b in zip(made, heard):
            a, b = a[:, -count:].float(), b[:, -count:].float()
            total = total + (a - b).abs().mean() / b.abs().mean()
        return total / len(made)
