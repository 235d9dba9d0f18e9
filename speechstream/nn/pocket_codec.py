"""pocket-tts' codec: 24 kHz sound to 12.5 continuous latents a second, and back.

Mimi's architecture (Moshi, arXiv:2410.00037) with a bottleneck of a few continuous numbers in place of codes: SEANet
to 200 Hz, a causal transformer, a strided convolution to 12.5 Hz, and the mirror image back. Every part looks back only,
so latents are decoded one by one at no loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.mimi import MimiDecoderState, overlap_add
from speechstream.nn.pocket_config import PocketCodecConfig
from speechstream.nn.seanet import DownConv1d, SEANetConfig, SEANetDecoder, SEANetEncoder, Tails
from speechstream.nn.transformer import CausalTransformer, TransformerConfig


def seanet_config(config: PocketCodecConfig) -> SEANetConfig:
    """Its convolutions' sizes."""
    c = config
    return SEANetConfig(
        1,
        c.dim,
        c.filters,
        c.ratios,
        c.kernel,
        c.last_kernel,
        c.residual_kernel,
        c.residual_layers,
        c.dilation_base,
        c.compress,
    )


def transformer_config(config: PocketCodecConfig) -> TransformerConfig:
    """Its transformers' sizes."""
    c = config
    return TransformerConfig(
        c.dim,
        c.layers,
        c.heads,
        c.ff_dim,
        c.left_context,
        c.max_period,
        activation=c.activation,
    )


class LatentDecoder(nn.Module):
    """Latents (B, T, latent_dim) to sound (B, 1, T * frame_size)."""

    def __init__(self, config: PocketCodecConfig, latent_dim: int) -> None:
        super().__init__()
        self.config, self.latent_dim = config, latent_dim
        self.latent_proj = nn.Linear(latent_dim, config.dim, bias=False)
        # a transposed convolution of each channel by itself, kernel 2 * stride: (stretch 0 or 1, sample, channel)
        self.upsample = nn.Parameter(torch.full((2, config.stride, config.dim), 0.5))
        self.transformer = CausalTransformer(transformer_config(config))
        self.seanet = SEANetDecoder(seanet_config(config))

    def init_state(self, batch: int = 1) -> MimiDecoderState:
        """The state of `batch` streams that have decoded nothing."""
        return MimiDecoderState(
            self.upsample.new_zeros(batch, self.config.stride, self.config.dim),
            self.transformer.init_state(batch),
            self.seanet.init_tails(batch),
            torch.zeros(batch, dtype=torch.int64, device=self.upsample.device),
        )

    def step(self, latents: Tensor, state: MimiDecoderState) -> tuple[Tensor, MimiDecoderState]:
        """The next latents to sound, and the new state."""
        x, upsample = overlap_add(self.latent_proj(latents), self.upsample, state.upsample)
        x, transformer = self.transformer.step(x, state.transformer)
        audio, tails = self.seanet.step(x.transpose(1, 2), state.seanet)
        frames = state.frames + latents.shape[1]
        return audio, MimiDecoderState(upsample, transformer, tails, frames)

    def forward(self, latents: Tensor) -> Tensor:
        """All latents of new streams at once."""
        tail = self.upsample.new_zeros(len(latents), self.config.stride, self.config.dim)
        x, _ = overlap_add(self.latent_proj(latents), self.upsample, tail)
        return self.seanet(self.transformer(x).transpose(1, 2))


class LatentEncoder(nn.Module):
    """Recordings (B, 1, samples) to latents (B, T, latent_dim): how a voice is taken from a recording."""

    def __init__(self, config: PocketCodecConfig, latent_dim: int) -> None:
        super().__init__()
        self.config = config
        self.seanet = SEANetEncoder(seanet_config(config))
        self.transformer = CausalTransformer(transformer_config(config))
        self.downsample = DownConv1d(config.dim, latent_dim, config.stride, bias=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Whole recordings, filled up with silence to whole frames."""
        audio = F.pad(audio, (0, -audio.shape[-1] % self.config.frame_size))
        x = self.transformer(self.seanet(audio).transpose(1, 2))
        # before its first frame a stream looks as if that frame had always been there
        past = x[:, :1].expand(-1, self.config.stride, -1)
        return self.downsample.step(x, Tails(past.flatten(1)))
