"""Mel frames to samples by a HiFTNet that looks both ways, in windows: exact, at a constant cost.

HiFTNet (arXiv:2309.09493) as CosyVoice 2 has it: a pitch estimator, sines of it and noise, and a network of transposed and
symmetric convolutions that filters them in short-time spectra (`nn.flow_vocoder` is its causal successor). A sample depends
on `reach` mel frames on either side, so a stream computes a window of frames around each chunk and keeps its middle; with
that many frames ahead it equals the whole. The source is not recomputed from nowhere: its phase is remembered.

    state = vocoder.init_state(1)
    samples, state = vocoder.step(mel, state)       # (B, T + given_ahead, n_mels) to (B, T * frame_size)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.flow_vocoder import (
    FINAL_SLOPE,
    MAX_MAGNITUDE,
    NOISE_FRAMES,
    OVERLAP,
    Snake,
    double_conv,
    transforms,
    windows,
)
from speechstream.nn.vocoder_config import HiftConfig


@dataclass(frozen=True)
class HiftState:
    """The past of B streams."""

    mel: Tensor  # (B, reach, n_mels) the last frames; those before a stream's first are void
    phase: Tensor  # (B, harmonics) float64 cycles, after the first `pitch_layers` + 1 of them
    frames: Tensor  # (B,) int64 frames so far


class There:
    """Which frames of a window are there, for each row: [begin, end) of its mel frames."""

    def __init__(self, begin: Tensor, end: Tensor) -> None:
        self.begin, self.end = begin, end

    def silent(self, x: Tensor, rate: int, more: int = 0) -> Tensor:
        """x (B, C, N), `rate` samples a frame and `more` at the end, with zeros where nothing is."""
        return torch.where(self.mask(x.shape[2], rate, more)[:, None], x, 0.0)

    def mask(self, count: int, rate: int, more: int = 0) -> Tensor:
        """(B, count)."""
        at = torch.arange(count, device=self.begin.device)
        return (at >= rate * self.begin[:, None]) & (at < rate * self.end[:, None] + more)


class Block(nn.Module):
    """Pairs of symmetric convolutions, the first of each dilated, with Snake before each."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()

        def conv(d: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, kernel, dilation=d, padding=kernel // 2 * d)

        self.first = nn.ModuleList(conv(d) for d in dilations)
        self.second = nn.ModuleList(conv(1) for _ in dilations)
        self.snakes = nn.ModuleList(Snake(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor, there: There, rate: int, more: int) -> Tensor:
        """(B, C, N) to as many. Snake leaves zeros as they are."""
        for i, (first, second) in enumerate(zip(self.first, self.second)):
            y = first(self.snakes[2 * i](there.silent(x, rate, more)))
            x = x + second(self.snakes[2 * i + 1](there.silent(y, rate, more)))
        return x


class Pitch(nn.Module):
    """Mel frames (B, T, n_mels) to Hz (B, T), in double precision: a phase is its running sum."""

    def __init__(self, c: HiftConfig) -> None:
        super().__init__()
        sizes = [c.n_mels, *[c.pitch_dim] * c.pitch_layers]
        self.layers = nn.ModuleList(nn.Conv1d(a, b, 3) for a, b in zip(sizes, sizes[1:]))
        self.output = nn.Linear(c.pitch_dim, 1)

    def forward(self, mel: Tensor, there: There) -> Tensor:
        x, real = mel.double(), there.mask(mel.shape[1], 1)[..., None]
        for layer in self.layers:
            x = double_conv(layer, F.pad(torch.where(real, x, 0.0), (0, 0, 1, 1)))
        hz = F.linear(x, self.output.weight.double(), self.output.bias.double())
        return hz.squeeze(2).abs()


class HiftVocoder(nn.Module):
    """Logarithmic mel frames (B, T, n_mels) to samples (B, T * frame_size)."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        self.config = c = config
        bins, stages = c.window + 2, range(len(c.rates))
        widths = [c.dim // 2**i for i in range(len(c.rates) + 1)]
        strides = [math.prod(c.rates[i + 1 :]) for i in stages]
        self.pitch, self.source = Pitch(c), nn.Linear(c.harmonics, 1)
        self.first = nn.Conv1d(c.n_mels, c.dim, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(a, b, kernel, rate, padding=(kernel - rate) // 2)
            for a, b, kernel, rate in zip(widths, widths[1:], c.kernels, c.rates)
        )
        self.downs = nn.ModuleList(
            nn.Conv1d(bins, width, 2 * s, s, padding=s // 2) if s > 1 else nn.Conv1d(bins, width, 1)
            for width, s in zip(widths[1:], strides)
        )
        self.source_blocks = nn.ModuleList(
            Block(widths[i + 1], c.source_kernels[i], c.dilations) for i in stages
        )
        self.blocks = nn.ModuleList(
            Block(widths[i + 1], kernel, c.dilations) for i in stages for kernel in c.block_kernels
        )
        self.last = nn.Conv1d(widths[-1], bins, 7, padding=3)
        for name, table in transforms(c.window, c.hop).items():
            self.register_buffer(name, table, persistent=False)
        # RandomState's numbers never change
        noise = np.random.RandomState(0).standard_normal((NOISE_FRAMES * c.frame_size, c.harmonics))
        self.register_buffer("noise", torch.from_numpy(noise).float(), persistent=False)

    def init_state(self, batch: int = 1) -> HiftState:
        """The state of `batch` streams at their beginning."""
        c, w = self.config, self.first.weight
        return HiftState(
            w.new_zeros(batch, c.reach, c.n_mels),
            w.new_zeros(batch, c.harmonics, dtype=torch.float64),
            torch.zeros(batch, dtype=torch.int64, device=w.device),
        )

    def step(
        self, mel: Tensor, state: HiftState, lengths: Tensor | None = None
    ) -> tuple[Tensor, HiftState]:
        """mel (B, T + given_ahead, n_mels), what is ahead given again next time, to samples (B, T * frame_size).

        lengths (B,): how many of the given frames are real, where a stream ends; samples past it are zero.
        """
        c, given = self.config, mel.shape[1]
        count = given - c.given_ahead
        if not torch.compiler.is_compiling():
            if mel.dim() != 3 or mel.shape[2] != c.n_mels or count < 0:
                raise ValueError(
                    f"a step takes mel (B, T + {c.given_ahead}, {c.n_mels}); got {tuple(mel.shape)}"
                )
            if not count:
                return mel.new_zeros(len(mel), 0), state
        if lengths is None:
            lengths = torch.full((len(mel),), given, dtype=torch.int64, device=mel.device)
        lengths = lengths.clamp(0, given)
        window = torch.cat([state.mel, mel], 1)
        there = There((c.reach - state.frames).clamp(min=0), c.reach + lengths)
        hz = torch.where(there.mask(window.shape[1], 1), self.pitch(window, there), 0.0)
        sound, phase = self._excite(hz, state, there, count)
        samples = self._filter(window, sound, there)
        begin = c.reach * c.frame_size
        kept = window[:, count : count + c.reach]
        new = HiftState(kept, phase, state.frames + lengths.clamp(max=count))
        return samples[:, begin : begin + count * c.frame_size], new

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Samples (B, T * frame_size) of whole utterances (B, T, n_mels), of which `lengths` (B,) frames are real."""
        if lengths is None:
            lengths = torch.full((len(mel),), mel.shape[1], dtype=torch.int64, device=mel.device)
        given = F.pad(mel, (0, 0, 0, self.config.given_ahead))
        return self.step(given, self.init_state(len(mel)), lengths)[0]

    def _excite(
        self, hz: Tensor, state: HiftState, there: There, count: int
    ) -> tuple[Tensor, Tensor]:
        """The source's samples (B, N * frame_size) of a window, and the phase that the next window begins with.

        The phase of a frame belongs to its middle, and is drawn in a straight line from one to the next. The first
        frames' pitch is not known here, which only their successors need: their phase was counted before.
        """
        c, (batch, frames), known = self.config, hz.shape, self.config.pitch_layers
        order = torch.arange(1, c.harmonics + 1, device=hz.device)
        turns = hz[..., None] * order / c.sample_rate
        advance = (turns - turns.floor()) * c.frame_size  # cycles a frame
        later = torch.arange(frames, device=hz.device)[:, None] > known
        phase = state.phase[:, None] + torch.where(later, advance, 0.0).cumsum(1)
        after = phase[:, known + count]
        at = torch.arange(frames, device=hz.device)
        first, last = at == there.begin[:, None], at == there.end[:, None] - 1
        back = torch.where(first[..., None], 0.0, advance)
        ahead = torch.where(last[..., None], 0.0, torch.cat([advance[:, 1:], advance[:, :1]], 1))
        place = (torch.arange(c.frame_size, device=hz.device) + 0.5) / c.frame_size - 0.5
        before, behind = place.clamp(max=0).double()[:, None], place.clamp(min=0).double()[:, None]
        cycles = phase[:, :, None] + back[:, :, None] * before + ahead[:, :, None] * behind
        turn = 2 * math.pi * (cycles - cycles.round()).to(self.noise.dtype)
        sines = c.amplitude * torch.sin(turn)
        voiced = (hz > c.voiced_above)[:, :, None, None].to(sines.dtype)
        level = voiced * c.voiced_noise + (1 - voiced) * c.amplitude / 3
        number = (state.frames[:, None] - c.reach + at) % NOISE_FRAMES
        noise = self.noise.view(NOISE_FRAMES, c.frame_size, c.harmonics)[number]
        waves = sines * voiced + level * noise
        return torch.tanh(self.source(waves)).reshape(batch, -1), after - after.floor()

    def _filter(self, mel: Tensor, sound: Tensor, there: There) -> Tensor:
        """Samples (B, N * frame_size) of a window of N mel frames and its source."""
        c, rate, each = self.config, 1, len(self.config.block_kernels)
        spectra = there.silent(self._analyse(sound, there), c.spectra, 1)
        x = self.first(there.silent(mel.transpose(1, 2), 1))
        for i, (up, stride) in enumerate(zip(self.ups, c.rates)):
            x = up(there.silent(F.leaky_relu(x, c.slope), rate))
            rate *= stride
            more = int(i == len(c.rates) - 1)
            if more:  # spectra are centred on samples, so there is one more of them: the first mirrors the second
                at = torch.arange(x.shape[2] + 1, device=x.device) == (rate * there.begin)[:, None]
                mirrored = torch.cat([x[:, :, 1:], x[:, :, -2:]], 2)
                x = torch.where(at[:, None], mirrored, torch.cat([x[:, :, :1], x], 2))
            source = self.source_blocks[i](self.downs[i](spectra), there, rate, more)
            x = x + source
            blocks = self.blocks[i * each : (i + 1) * each]
            x = sum(block(x, there, rate, more) for block in blocks) / each
        x = self.last(there.silent(F.leaky_relu(x, FINAL_SLOPE), rate, 1))
        return self._synthesise(x, there)

    def _analyse(self, sound: Tensor, there: There) -> Tensor:
        """Spectra (B, window + 2, N * spectra + 1) around the hops; the signal is mirrored at its ends."""
        c, half = self.config, self.config.window // 2
        at = torch.arange(-half, sound.shape[1] + half, device=sound.device)
        first, last = (c.frame_size * e[:, None] for e in (there.begin, there.end))
        at = torch.where(at < first, 2 * first - at, torch.where(at < last, at, 2 * last - 2 - at))
        x = sound.gather(1, at.clamp(0, sound.shape[1] - 1))
        return F.linear(windows(x, c.hop), self.analysis).transpose(1, 2)

    def _synthesise(self, x: Tensor, there: There) -> Tensor:
        """Features (B, window + 2, N + 1) to samples (B, N * hop): windows added up, over what they add up to."""
        c = self.config
        magnitude, phase = x.transpose(1, 2).chunk(2, -1)
        magnitude = magnitude.exp().clamp(max=MAX_MAGNITUDE)
        angle = phase.sin()
        spectra = torch.cat([magnitude * angle.cos(), magnitude * angle.sin()], -1)
        parts = F.linear(spectra, self.synthesis).unflatten(-1, (OVERLAP, c.hop))
        both = torch.stack([parts, self.envelope.expand_as(parts)], 1)
        both = both * there.mask(x.shape[2], c.spectra, 1)[:, None, :, None, None]
        total = sum(F.pad(both[:, :, :, k], (0, 0, k, OVERLAP - 1 - k)) for k in range(OVERLAP))
        half = OVERLAP // 2
        total = total[:, :, half : total.shape[2] - half]
        samples = (total[:, 0] / total[:, 1].clamp(min=1e-11)).flatten(1)
        samples = samples.clamp(-c.limit, c.limit)
        return torch.where(there.mask(samples.shape[1], c.frame_size), samples, 0.0)
