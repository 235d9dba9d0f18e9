"""Mel frames to samples by BigVGAN, in windows: exact where the look-ahead suffices, at a constant cost.

BigVGAN (arXiv:2206.04658) as Qwen2.5-Omni's token2wav has it: transposed convolutions, residual blocks with periodic
activations between filters against aliasing. Its convolutions are symmetric, so a stream computes a window of mel frames
around each chunk and keeps its middle: what a stream remembers is the mel before the chunk. A sample depends on `reach`
frames on either side; with that many ahead the stream equals the whole. With fewer, a chunk is computed as though the
signal ended after them: at random weights of the published shape, 16 of its 39 frames are exact to rounding, 12 to 1e-4
and 4 to 4e-3 of full scale, for the filters' long tails weigh little.

    state = vocoder.init_state(1)
    samples, state = vocoder.step(mel, state, ahead)      # (B, T + ahead, n_mels) to (B, T * frame_size)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.vocoder_config import BigVganConfig

TAPS = 12  # of the filters around an activation, which runs at twice the rate
LOWEST_DB, REFERENCE_DB = -115.0, 20.0  # of the mel, as the network takes it


@dataclass(frozen=True)
class BigVganState:
    """The past of B streams."""

    mel: Tensor  # (B, reach, n_mels) the last frames; those before a stream's first are void
    frames: Tensor  # (B,) int64 frames so far


class Span:
    """Which frames of a window are there, for each row: [begin, end) of its mel frames; nothing where all are."""

    def __init__(self, begin: Tensor, end: Tensor, count: int) -> None:
        self.begin, self.end, self.whole = begin, end, False
        if not torch.compiler.is_compiling():
            self.whole = bool((begin <= 0).all() and (end >= count).all())

    def silent(self, x: Tensor, rate: int) -> Tensor:
        """x (B, C, N), `rate` samples a frame, with zeros where nothing is: what convolutions see beyond a signal."""
        if self.whole:
            return x
        at = torch.arange(x.shape[2], device=x.device)
        there = (at >= rate * self.begin[:, None]) & (at < rate * self.end[:, None])
        return torch.where(there[:, None], x, 0.0)

    def held(self, x: Tensor, rate: int) -> Tensor:
        """The same with the first and the last sample that are there held: what filters see beyond a signal."""
        if self.whole:
            return x
        at = torch.arange(x.shape[2], device=x.device)
        first, last = rate * self.begin[:, None], rate * self.end[:, None] - 1
        at = torch.minimum(torch.maximum(at, first), last).clamp(0, x.shape[2] - 1)
        return x.gather(2, at[:, None].expand_as(x))


def low_pass() -> Tensor:
    """A Kaiser-windowed sinc (TAPS,) at half the band, as alias-free networks (arXiv:2106.12423) have it."""
    cutoff, width = 0.25, 0.3  # of the doubled rate
    attenuation = 2.285 * (TAPS / 2 - 1) * math.pi * 4 * width + 7.95
    beta = 0.1102 * (attenuation - 8.7)  # Kaiser's formula above 50 dB
    window = torch.kaiser_window(TAPS, periodic=False, beta=beta, dtype=torch.float64)
    time = torch.arange(TAPS, dtype=torch.float64) - TAPS / 2 + 0.5
    taps = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
    return (taps / taps.sum()).float()


class Activation(nn.Module):
    """x + sin(a x)**2 / b (SnakeBeta) at twice the rate, so that the overtones it makes do not fold back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha, self.beta = (nn.Parameter(torch.zeros(channels)) for _ in range(2))
        self.register_buffer("filter", low_pass(), persistent=False)

    def forward(self, x: Tensor, rate: int, span: Span) -> Tensor:
        """(B, C, N) to as many."""
        channels, taps = x.shape[1], self.filter.expand(x.shape[1], 1, -1)
        x = F.pad(span.held(x, rate), (5, 5), mode="replicate")
        x = 2 * F.conv_transpose1d(x, taps, stride=2, groups=channels)[..., 15:-15]
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        x = x + torch.sin(alpha * x).square() / (beta + 1e-9)
        x = F.pad(span.held(x, 2 * rate), (5, 6), mode="replicate")
        return F.conv1d(x, taps, stride=2, groups=channels)


class Block(nn.Module):
    """Pairs of symmetric convolutions, the first of each dilated, with an activation before each."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(d: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, kernel, dilation=d, padding=kernel // 2 * d)

        self.first = nn.ModuleList(conv(d) for d in dilations)
        self.second = nn.ModuleList(conv(1) for _ in dilations)
        self.activations = nn.ModuleList(Activation(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor, rate: int, span: Span) -> Tensor:
        for i, (first, second) in enumerate(zip(self.first, self.second)):
            y = first(span.silent(self.activations[2 * i](x, rate, span), rate))
            x = x + second(span.silent(self.activations[2 * i + 1](y, rate, span), rate))
        return x


class BigVgan(nn.Module):
    """Logarithmic mel frames (B, T, n_mels) to samples (B, T * frame_size)."""

    def __init__(self, config: BigVganConfig) -> None:
        super().__init__()
        self.config = c = config
        widths = [c.dim // 2**i for i in range(len(c.rates) + 1)]
        self.first = nn.Conv1d(c.n_mels, c.dim, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(a, b, kernel, rate, padding=(kernel - rate) // 2)
            for a, b, kernel, rate in zip(widths, widths[1:], c.kernels, c.rates)
        )
        self.blocks = nn.ModuleList(
            Block(width, kernel, dilations)
            for width in widths[1:]
            for kernel, dilations in zip(c.block_kernels, c.dilations)
        )
        self.activation = Activation(widths[-1])
        self.last = nn.Conv1d(widths[-1], 1, 7, padding=3, bias=False)

    def init_state(self, batch: int = 1) -> BigVganState:
        """The state of `batch` streams at their beginning."""
        c, w = self.config, self.first.weight
        past = w.new_zeros(batch, c.reach, c.n_mels)
        return BigVganState(past, torch.zeros(batch, dtype=torch.int64, device=w.device))

    def step(
        self,
        mel: Tensor,
        state: BigVganState,
        ahead: int | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, BigVganState]:
        """mel (B, T + ahead, n_mels), what is ahead given again next time, to samples (B, T * frame_size).

        ahead: frames, by default `reach`, with which the stream equals the whole. lengths (B,): how many of the given
        frames are real, where a stream ends; samples past it are zero.
        """
        c, given = self.config, mel.shape[1]
        ahead = c.reach if ahead is None else ahead
        count = given - ahead
        if mel.dim() != 3 or mel.shape[2] != c.n_mels or count < 0 or ahead < 0:
            raise ValueError(
                f"a step takes mel (B, T + {ahead}, {c.n_mels}); got {tuple(mel.shape)}"
            )
        if not count:
            return mel.new_zeros(len(mel), 0), state
        if lengths is None:
            lengths = torch.full((len(mel),), given, dtype=torch.int64, device=mel.device)
        lengths = lengths.clamp(0, given)
        window = torch.cat([state.mel, mel], 1)
        sound = self._samples(window, (c.reach - state.frames).clamp(min=0), c.reach + lengths)
        begin = c.reach * c.frame_size
        kept = window[:, count : count + c.reach]
        new = BigVganState(kept, state.frames + lengths.clamp(max=count))
        return sound[:, begin : begin + count * c.frame_size], new

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Samples (B, T * frame_size) of whole utterances (B, T, n_mels), of which `lengths` (B,) frames are real."""
        if not mel.shape[1]:
            return mel.new_zeros(len(mel), 0)
        begin = torch.zeros(len(mel), dtype=torch.int64, device=mel.device)
        return self._samples(mel, begin, begin + mel.shape[1] if lengths is None else lengths)

    def _samples(self, mel: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        """Samples of a window, of whose frames [begin, end) (B,) are there."""
        c, span, rate = self.config, Span(begin, end, mel.shape[1]), 1
        decibels = (20 / math.log(10)) * mel  # the logarithm of magnitudes
        level = (decibels.clamp(min=LOWEST_DB) - REFERENCE_DB - LOWEST_DB) / -LOWEST_DB
        x = (2 * level - 1).clamp(-1, 1).transpose(1, 2)
        x = self.first(span.silent(x, 1))
        each = len(c.block_kernels)
        for i, (up, stride) in enumerate(zip(self.ups, c.rates)):
            x = up(span.silent(x, rate))
            rate *= stride
            blocks = self.blocks[i * each : (i + 1) * each]
            x = sum(block(x, rate, span) for block in blocks) / each
        x = self.last(span.silent(self.activation(x, rate, span), rate))
        return span.silent(x, rate).squeeze(1).clamp(-1, 1)
