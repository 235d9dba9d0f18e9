"""Mimi: a causal neural codec, 24 kHz audio to 12.5 frames a second of up to 32 codes each, and back.

The architecture of Moshi's codec (Défossez et al., 2024, arXiv:2410.00037): a SEANet encoder to 25 Hz, a causal
transformer, a stride-2 convolution to 12.5 Hz, a split residual quantiser (one semantic level, the others acoustic),
and the mirror image back. Every part looks back only, so both directions stream frame by frame at no loss.

`encode` and `decode` are the offline calls, `encode_step` and `decode_step` the streamed ones. A state is a value;
every stream of a batch may have its own history.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.mimi_config import MimiConfig
from speechstream.nn.quantizer import SplitResidualVectorQuantizer
from speechstream.nn.seanet import DownConv1d, SEANetDecoder, SEANetEncoder, Tails
from speechstream.nn.transformer import CausalTransformer, TransformerState


@dataclass(frozen=True)
class MimiEncoderState:
    """What the encoder remembers of each stream."""

    seanet: Tensor  # (B, n) packed tails of the SEANet encoder
    transformer: TransformerState  # at 25 Hz
    downsample: Tensor  # (B, stride, dim) last 25 Hz frames
    frames: Tensor  # (B,) int64 codec frames made so far


@dataclass(frozen=True)
class MimiDecoderState:
    """What the decoder remembers of each stream."""

    upsample: Tensor  # (B, stride, dim) unfinished 25 Hz frames
    transformer: TransformerState  # at 25 Hz
    seanet: Tensor  # (B, n) packed tails of the SEANet decoder
    frames: Tensor  # (B,) int64 codec frames decoded so far


class MimiEncoder(nn.Module):
    """The way in, for whoever only hears. Audio is (B, channels, samples) within [-1, 1], codes are int64 (B, levels, frames)."""

    def __init__(self, config: MimiConfig | None = None) -> None:
        super().__init__()
        c = self.config = config or MimiConfig()
        dim = c.seanet.dim
        self.encoder = SEANetEncoder(c.seanet)
        self.encoder_transformer = CausalTransformer(c.transformer)
        self.downsample = DownConv1d(dim, dim, c.stride, bias=False)
        self.quantizer = SplitResidualVectorQuantizer(
            c.n_codebooks, c.codebook_size, c.code_dim, dim, c.n_semantic_codebooks
        )

    @property
    def channels(self) -> int:
        """Audio channels."""
        return self.config.seanet.channels

    def init_encoder_state(self, batch: int = 1) -> MimiEncoderState:
        """The encoder's state of `batch` new streams."""
        return MimiEncoderState(
            self.encoder.init_tails(batch),
            self.encoder_transformer.init_state(batch),
            self.downsample.weight.new_zeros(batch, self.config.stride, self.config.seanet.dim),
            self._frames(batch),
        )

    def latent_step(
        self, audio: Tensor, state: MimiEncoderState
    ) -> tuple[Tensor, MimiEncoderState]:
        """Audio (B, channels, T * frame_size) to latents before quantisation (B, T, dim), and the new state."""
        self._check_audio(audio)
        x, tails = self.encoder.step(audio, state.seanet)
        x, transformer = self.encoder_transformer.step(x.transpose(1, 2), state.transformer)
        # before its first frame a stream looks as if that frame had always been there
        past = torch.where((state.frames == 0).view(-1, 1, 1), x[:, :1], state.downsample)
        down = Tails(past.flatten(1))
        x = self.downsample.step(x, down)
        return x, MimiEncoderState(
            tails, transformer, down.pack().unflatten(1, past.shape[1:]), state.frames + x.shape[1]
        )

    def encode_step(
        self, audio: Tensor, state: MimiEncoderState, levels: int | None = None
    ) -> tuple[Tensor, MimiEncoderState]:
        """The next whole frames (B, channels, T * frame_size) to codes (B, levels, T), and the new state."""
        if audio.shape[-1] == 0:
            return self._no_codes(audio, levels), state
        x, state = self.latent_step(audio, state)
        return self.quantizer.encode(x, levels), state

    def latent(self, audio: Tensor) -> Tensor:
        """Latents (B, T, dim) of whole recordings (B, channels, T * frame_size)."""
        self._check_audio(audio)
        x = self.encoder_transformer(self.encoder(audio).transpose(1, 2))
        past = x[:, :1].expand(-1, self.config.stride, -1)
        return self.downsample.step(x, Tails(past.flatten(1)))

    def encode(self, audio: Tensor, levels: int | None = None) -> Tensor:
        """Whole recordings (B, channels, samples) to codes (B, levels, T). The end is filled up with silence to a
        whole frame, so T is samples / frame_size rounded up."""
        audio = F.pad(audio, (0, -audio.shape[-1] % self.config.frame_size))
        if audio.shape[-1] == 0:
            return self._no_codes(audio, levels)
        return self.quantizer.encode(self.latent(audio), levels)

    def _frames(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.int64, device=self.downsample.weight.device)

    def _no_codes(self, audio: Tensor, levels: int | None) -> Tensor:
        return torch.zeros(
            audio.shape[0],
            levels or self.config.n_codebooks,
            0,
            dtype=torch.int64,
            device=audio.device,
        )

    def _check_audio(self, audio: Tensor) -> None:
        c = self.config
        if audio.ndim != 3 or audio.shape[1] != c.seanet.channels or audio.shape[-1] % c.frame_size:
            raise ValueError(
                f"expected audio (B, {c.seanet.channels}, a multiple of {c.frame_size} samples); got "
                f"{tuple(audio.shape)}; hold back the rest, or fill it up with silence at the end"
            )


class Mimi(MimiEncoder):
    """The codec as a network: both ways."""

    def __init__(self, config: MimiConfig | None = None) -> None:
        super().__init__(config)
        c = self.config
        # a transposed convolution of each channel by itself, kernel 2 * stride: (stretch 0 or 1, sample, channel)
        self.upsample = nn.Parameter(torch.full((2, c.stride, c.seanet.dim), 0.5))
        self.decoder_transformer = CausalTransformer(c.transformer)
        self.decoder = SEANetDecoder(c.seanet)

    def init_decoder_state(self, batch: int = 1) -> MimiDecoderState:
        """The decoder's state of `batch` new streams."""
        return MimiDecoderState(
            self.upsample.new_zeros(batch, self.config.stride, self.config.seanet.dim),
            self.decoder_transformer.init_state(batch),
            self.decoder.init_tails(batch),
            self._frames(batch),
        )

    def decode_step(
        self, codes: Tensor, state: MimiDecoderState
    ) -> tuple[Tensor, MimiDecoderState]:
        """The next codes (B, levels or fewer, T) to audio (B, channels, T * frame_size), and the new state."""
        self._check_codes(codes)
        if codes.shape[-1] == 0:
            return self._no_audio(codes), state
        x, upsample = overlap_add(self.quantizer.decode(codes), self.upsample, state.upsample)
        x, transformer = self.decoder_transformer.step(x, state.transformer)
        audio, tails = self.decoder.step(x.transpose(1, 2), state.seanet)
        return audio, MimiDecoderState(upsample, transformer, tails, state.frames + codes.shape[-1])

    def decode(self, codes: Tensor) -> Tensor:
        """All codes (B, levels or fewer, T) of new streams to audio (B, channels, T * frame_size)."""
        self._check_codes(codes)
        if codes.shape[-1] == 0:
            return self._no_audio(codes)
        tail = self.upsample.new_zeros(codes.shape[0], self.config.stride, self.config.seanet.dim)
        x, _ = overlap_add(self.quantizer.decode(codes), self.upsample, tail)
        return self.decoder(self.decoder_transformer(x).transpose(1, 2))

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (B, channels, samples) through the codec and back, of the same length."""
        return self.decode(self.encode(audio))[..., : audio.shape[-1]]

    def _no_audio(self, codes: Tensor) -> Tensor:
        return self.upsample.new_zeros(codes.shape[0], self.config.seanet.channels, 0)

    def _check_codes(self, codes: Tensor) -> None:
        c = self.config
        if codes.ndim != 3 or not c.n_semantic_codebooks <= codes.shape[1] <= c.n_codebooks:
            raise ValueError(
                f"expected codes (B, {c.n_semantic_codebooks} to {c.n_codebooks} levels, T); got "
                f"{tuple(codes.shape)}"
            )


def overlap_add(x: Tensor, weight: Tensor, tail: Tensor) -> tuple[Tensor, Tensor]:
    """A transposed convolution of each channel by itself, kernel 2 * stride: (B, T, dim) to (B, T * stride, dim).

    weight: (2, stride, dim); tail: (B, stride, dim), what the frames before have left. Returns the new one too.
    """
    now = x.unsqueeze(2) * weight[0]
    late = torch.cat([tail.unsqueeze(1), x.unsqueeze(2) * weight[1]], 1)
    return (now + late[:, :-1]).flatten(1, 2), late[:, -1]
