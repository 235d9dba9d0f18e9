"""A small causal codec for embedded voices: residual codes of log-mel spectra, and a source-filter decoder.

Of Mimi's family in its interface (`encode_step`, `decode_step`, states, codes). Nothing in the encoder is learnt by
gradients: a frame is a block of log-mel spectra, its principal components are coded by residual k-means
(recipes/codec_small), so the codes are known in minutes and a decoded block is itself a spectrogram. The decoder hears
those blocks and makes sound of them: ConvNeXt blocks (arXiv:2201.03545) at 100 Hz and an inverse Fourier transform, as in
Vocos (Siuzdak, 2023, arXiv:2306.00814), but it filters pulses and noise (`speechstream.nn.harmonic`), which is learnt in hours of a laptop's time. What such
sources cannot make, a refiner may add (`speechstream.nn.refiner`). The pitch of the pulses comes from a network of its own,
which sees some frames more: a window says most about its middle. Causal throughout; written for this project.

Audio is (B, 1, samples), codes int64 (B, levels, T), everything between channels-last (B, T, C). The decoded sound lags
the original by `delay` samples: a spectrum's window ends with the hop that the encoder saw last, a sample is done
when the last window over it is, and the pitch looks `lookahead` hops ahead.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.config import read
from speechstream.nn.harmonic import PitchTrack, SourceFilter
from speechstream.nn.quantizer import ResidualVectorQuantizer
from speechstream.nn.refiner import Refiner
from speechstream.nn.seanet import CausalConv1d, Tails
from speechstream.nn.spectral import LogMel


@dataclass(frozen=True)
class SmallCodecConfig:
    """Sizes of a small codec. The defaults: 24 kHz, 25 frames a second, 8 levels of 1024 codes (2 kbit/s)."""

    sample_rate: int = 24_000
    hop: int = 240  # samples of a fine frame (10 ms)
    overlap: int = 4  # hops a Fourier window covers
    stride: int = 4  # fine frames a codec frame (40 ms)
    n_mels: int = 100
    fine_dim: int = 256  # channels of the decoder's blocks, at the fine rate
    expansion: int = 3  # a block's inner width over its outer one
    kernel: int = 7
    decoder_blocks: int = 6
    pitch_dim: int = 128  # channels of the blocks that find the pitch
    pitch_blocks: int = 4
    lookahead: int = 2  # fine frames that they see beyond the one whose pitch they tell
    refiner_dim: int = 0  # channels of what refines the sound; 0: nothing does
    refiner_blocks: int = 8
    refiner_row: int = 20  # samples
    n_codebooks: int = 8
    codebook_size: int = 1024
    code_dim: int = 64
    lowest_hz: float = 55.0  # of the pitch's scale
    octaves: float = 3.3  # from there to the highest

    def __post_init__(self) -> None:
        if self.overlap < 2 or self.hop % 2 or self.n_codebooks < 1 or self.lookahead < 1:
            raise ValueError(
                f"expected overlap >= 2, an even hop, levels >= 1, lookahead >= 1; got {self.overlap}, "
                f"{self.hop}, {self.n_codebooks}, {self.lookahead}"
            )

    @property
    def frame_size(self) -> int:
        """Samples of one codec frame."""
        return self.hop * self.stride

    @property
    def block_dim(self) -> int:
        """Numbers of one codec frame's log-mel spectra."""
        return self.stride * self.n_mels

    @property
    def window(self) -> int:
        """Samples of a Fourier window."""
        return self.hop * self.overlap

    @property
    def delay(self) -> int:
        """Samples by which decoded sound lags the original."""
        return self.window - self.hop + self.lookahead * self.hop

    def to_dict(self) -> dict[str, Any]:
        """As plain data for a JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> SmallCodecConfig:
        """From what `to_dict` gave. Raises ValueError for unknown or missing entries and wrong types."""
        return read(cls, data)


@dataclass(frozen=True)
class SmallCodecState:
    """What one direction of the codec remembers of each stream."""

    tails: Tensor  # (B, n) packed tails of its layers, in network order
    frames: Tensor  # (B,) int64 codec frames so far


@dataclass(frozen=True)
class SmallCodecDecoderState(SmallCodecState):
    """What the decoder remembers of each stream."""

    phase: Tensor  # (B,) float64 of the pulses, in cycles


class ConvNeXtBlock(nn.Module):
    """Causal depth-wise convolution, norm, and a two-layer perceptron, added to the input under a learnt scale."""

    def __init__(self, dim: int, kernel: int, expansion: int, scale: float) -> None:
        super().__init__()
        self.conv = CausalConv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, dim * expansion)
        self.down = nn.Linear(dim * expansion, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        y = self.conv.step(x.transpose(1, 2), tails).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(y))))


class Features(nn.Module):
    """Log-mel blocks (B, T, block_dim) to features of fine frames (B, T * stride, dim)."""

    def __init__(self, config: SmallCodecConfig, dim: int, blocks: int) -> None:
        super().__init__()
        self.dim = dim
        self.input = nn.Linear(
            config.block_dim, config.stride * dim
        )  # each fine frame sees the whole block
        self.fine = nn.ModuleList(
            ConvNeXtBlock(dim, config.kernel, config.expansion, 1 / blocks) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        x = self.input(x).reshape(x.shape[0], -1, self.dim)
        for block in self.fine:
            x = block.step(x, tails)
        return self.norm(x)


class Delay(nn.Module):
    """Holds frames (B, T, dim) back by a number of them; what comes out first is zero."""

    def __init__(self, frames: int, dim: int) -> None:
        super().__init__()
        self.shape, self.tail_size = (frames, dim), frames * dim

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        x = torch.cat([tails.take(*self.shape), x], 1)
        tails.leave(x[:, -self.shape[0] :])
        return x[:, : -self.shape[0]]


class SmallCodec(nn.Module):
    """The codec as a network, with the interface of `speechstream.nn.mimi.Mimi`."""

    channels = 1

    def __init__(self, config: SmallCodecConfig = SmallCodecConfig()) -> None:
        super().__init__()
        c = self.config = config
        self.encoder = nn.ModuleDict({"mel": LogMel(c.sample_rate, c.hop, c.overlap, c.n_mels)})
        self.register_buffer("mean", torch.zeros(c.n_mels))
        self.quantizer = ResidualVectorQuantizer(
            c.n_codebooks, c.codebook_size, c.code_dim, c.block_dim
        )
        refiner = (
            Refiner(c.fine_dim, c.hop, c.refiner_dim, c.refiner_blocks, c.refiner_row)
            if c.refiner_dim
            else None
        )
        self.decoder = nn.ModuleDict(
            {
                "features": Features(c, c.fine_dim, c.decoder_blocks),
                "delay": Delay(c.lookahead, c.fine_dim),
                "pitch_features": Features(c, c.pitch_dim, c.pitch_blocks),
                "pitch": PitchTrack(c.pitch_dim, c.lowest_hz, c.octaves),
                "output": SourceFilter(c.fine_dim, c.sample_rate, c.hop, c.overlap, refiner),
            }
        )

    def init_encoder_state(self, batch: int = 1) -> SmallCodecState:
        """The encoder's state of `batch` new streams."""
        return SmallCodecState(*self._state(self.encoder, batch))

    def init_decoder_state(self, batch: int = 1) -> SmallCodecDecoderState:
        """The decoder's state of `batch` new streams."""
        tails, frames = self._state(self.decoder, batch)
        return SmallCodecDecoderState(
            tails, frames, torch.zeros(batch, dtype=torch.float64, device=tails.device)
        )

    def latent_step(self, audio: Tensor, state: SmallCodecState) -> tuple[Tensor, SmallCodecState]:
        """Audio (B, 1, T * frame_size) to log-mel blocks less their mean (B, T, block_dim), and the new state."""
        self._check_audio(audio)
        t = Tails(state.tails)
        x = self.encoder["mel"].step(audio[:, 0], t) - self.mean
        x = x.reshape(x.shape[0], -1, self.config.block_dim)
        return x, SmallCodecState(t.pack(), state.frames + x.shape[1])

    def encode_step(
        self, audio: Tensor, state: SmallCodecState, levels: int | None = None
    ) -> tuple[Tensor, SmallCodecState]:
        """The next whole frames (B, 1, T * frame_size) to codes (B, levels, T), and the new state."""
        if audio.shape[-1] == 0:
            return self._no_codes(audio, levels), state
        x, state = self.latent_step(audio, state)
        return self.quantizer.encode(x, levels), state

    def latent(self, audio: Tensor) -> Tensor:
        """Log-mel blocks (B, T, block_dim) of whole recordings (B, 1, T * frame_size)."""
        return self.latent_step(audio, self.init_encoder_state(audio.shape[0]))[0]

    def encode(self, audio: Tensor, levels: int | None = None) -> Tensor:
        """Whole recordings (B, 1, samples) to codes (B, levels, T), the end filled up with silence to a whole frame."""
        audio = F.pad(audio, (0, -audio.shape[-1] % self.config.frame_size))
        return self.encode_step(audio, self.init_encoder_state(audio.shape[0]), levels)[0]

    def sound_step(
        self, x: Tensor, state: SmallCodecDecoderState
    ) -> tuple[Tensor, SmallCodecDecoderState]:
        """Log-mel blocks (B, T, block_dim) to audio (B, 1, T * frame_size), and the new state."""
        d, t, count = self.decoder, Tails(state.tails), x.shape[1]
        features = d["delay"].step(d["features"].step(x, t), t)
        pitch = d["pitch"].pitch(*d["pitch"](d["pitch_features"].step(x, t)))
        audio, phase = d["output"].step(
            features, pitch, state.frames * self.config.stride, state.phase, t
        )
        return audio.unsqueeze(1), SmallCodecDecoderState(t.pack(), state.frames + count, phase)

    def pitch(self, x: Tensor) -> Tensor:
        """Log-mel blocks (B, T, block_dim) of new streams to their pitch in Hz (B, T * stride - lookahead), 0 where
        unvoiced."""
        d = self.decoder
        features = d["pitch_features"].step(x, self.tails("pitch_features", x.shape[0]))
        return d["pitch"].pitch(*d["pitch"](features[:, self.config.lookahead :]))

    def tails(self, part: str, batch: int) -> Tails:
        """The tails of one part of the decoder in new streams."""
        size = sum(m.tail_size for m in self.decoder[part].modules() if hasattr(m, "tail_size"))
        return Tails(self.mean.new_zeros(batch, size))

    def sound(self, x: Tensor) -> Tensor:
        """Log-mel blocks (B, T, block_dim) of new streams to audio (B, 1, T * frame_size)."""
        return self.sound_step(x, self.init_decoder_state(x.shape[0]))[0]

    def decode_step(
        self, codes: Tensor, state: SmallCodecDecoderState
    ) -> tuple[Tensor, SmallCodecDecoderState]:
        """The next codes (B, levels or fewer, T) to audio (B, 1, T * frame_size), and the new state."""
        self._check_codes(codes)
        if codes.shape[-1] == 0:
            return codes.new_zeros(codes.shape[0], 1, 0, dtype=torch.float32), state
        return self.sound_step(self.quantizer.decode(codes), state)

    def decode(self, codes: Tensor) -> Tensor:
        """All codes (B, levels or fewer, T) of new streams to audio (B, 1, T * frame_size), `delay` samples late."""
        return self.decode_step(codes, self.init_decoder_state(codes.shape[0]))[0]

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (B, 1, samples) through the codec and back: of the same length, the delay taken out."""
        count, delay = audio.shape[-1], self.config.delay
        return self.decode(self.encode(F.pad(audio, (0, delay))))[..., delay : delay + count]

    def _state(self, side: nn.ModuleDict, batch: int) -> tuple[Tensor, Tensor]:
        size = sum(m.tail_size for m in side.modules() if hasattr(m, "tail_size"))
        weight = self.mean
        return (
            weight.new_zeros(batch, size),
            torch.zeros(batch, dtype=torch.int64, device=weight.device),
        )

    def _no_codes(self, audio: Tensor, levels: int | None) -> Tensor:
        return torch.zeros(
            audio.shape[0],
            levels or self.config.n_codebooks,
            0,
            dtype=torch.int64,
            device=audio.device,
        )

    def _check_audio(self, audio: Tensor) -> None:
        if audio.ndim != 3 or audio.shape[1] != 1 or audio.shape[-1] % self.config.frame_size:
            raise ValueError(
                f"expected audio (B, 1, a multiple of {self.config.frame_size} samples); got "
                f"{tuple(audio.shape)}; hold back the rest, or fill it up with silence at the end"
            )

    def _check_codes(self, codes: Tensor) -> None:
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= self.config.n_codebooks:
            raise ValueError(
                f"expected codes (B, 1 to {self.config.n_codebooks} levels, T); got {tuple(codes.shape)}"
            )
