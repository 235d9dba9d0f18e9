"""Mel frames to samples, causally: a pitch, its harmonics, and a network that filters them in the short-time spectrum.

HiFTNet (arXiv:2309.09493) in the causal form of CosyVoice 3: a small network reads the pitch off the mel; sines of it and
noise are the source; convolutions bring mel and source together at a rising rate and end in short-time spectra. All
convolutions look back, except the first of each network, which sees a few mel frames ahead.

    state = vocoder.init_state(1)
    samples, state = vocoder.step(mel, state)       # (B, T + ahead, n_mels) to (B, T * frame_size), 8 samples late
    last = vocoder.finish(state)                    # (B, 8)

What a convolution must remember are its tails (`nn.seanet.Tails`): nothing is computed twice, and a chunk costs the same
however long the stream is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.seanet import Tails
from speechstream.nn.spectral import fourier
from speechstream.nn.vocoder_config import VocoderConfig

NOISE_FRAMES = 64  # the noise repeats after so many mel frames
OVERLAP = 4  # hops to a window
PITCH_AHEAD = 3  # mel frames that the pitch estimator sees ahead
MAX_MAGNITUDE = 100.0  # of a spectrum
FINAL_SLOPE = 0.01  # of the last leaky ReLU


@dataclass(frozen=True)
class VocoderState:
    """What a stream's next step needs, B streams."""

    tails: Tensor  # (B, n) of the convolutions, in network order
    pitch: Tensor  # (B, m) float64, tails of the pitch estimator
    phase: Tensor  # (B, harmonics) float64 cycles
    source: Tensor  # (B, window / 2) its last samples
    spectrum: Tensor  # (B, window + 2) of the source around the last sample
    pending: Tensor  # (B, channels) the last features, one spectrum late
    sound: (
        Tensor  # (B, 2, OVERLAP - 1, hop) unfinished samples, and the windows that add up to them
    )
    frames: Tensor  # (B,) int64 mel frames so far
    short: Tensor  # (B,) int64: 1 where the stream ended within a chunk


def convolve(conv: nn.Conv1d, x: Tensor, tails: Tails, left: int, ahead: int = 0) -> Tensor:
    """A convolution of (B, C, N) after `left` remembered inputs; the last `ahead` inputs come again with the next chunk."""
    if left:
        x = torch.cat([tails.take(x.shape[1], left), x], 2)
        tails.leave(x[:, :, -left - ahead : -ahead or None])
    return conv(x)


def transforms(window: int, hop: int) -> dict[str, Tensor]:
    """Tables of short-time spectra of Hann windows, real parts first: `analysis` (window + 2, window) of samples,
    `synthesis` (window, window + 2) of spectra, and the squared window as `envelope` (OVERLAP, hop)."""
    cos, sin = fourier(window)
    hann = torch.hann_window(window, periodic=True, dtype=torch.float64)
    once = torch.full((len(cos), 1), 2.0, dtype=torch.float64)
    once[[0, -1]] = 1.0  # the first and the last bin have no mirror image
    analysis = torch.cat([cos, sin]) * hann
    synthesis = torch.cat([cos, sin]) * once.repeat(2, 1) * hann / window
    envelope = hann.square().view(OVERLAP, hop)
    found = {"analysis": analysis, "synthesis": synthesis.T.contiguous(), "envelope": envelope}
    return {name: table.float() for name, table in found.items()}


def windows(x: Tensor, hop: int) -> Tensor:
    """The windows (B, T, OVERLAP * hop) of samples (B, (T + OVERLAP - 1) * hop), a hop after each other."""
    hops = x.reshape(x.shape[0], -1, hop)
    return torch.cat([hops[:, k : k + 1 - OVERLAP or None] for k in range(OVERLAP)], -1)


class Snake(nn.Module):
    """x + sin(a x)**2 / a (arXiv:2006.08195), an `a` for each channel of (B, C, N)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class ResidualBlock(nn.Module):
    """Pairs of causal convolutions, the first of each dilated, with Snake before each."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=d) for d in dilations
        )
        self.second = nn.ModuleList(nn.Conv1d(channels, channels, kernel) for _ in dilations)
        self.snakes = nn.ModuleList(Snake(channels) for _ in range(2 * len(dilations)))

    @property
    def tail_size(self) -> int:
        """Numbers remembered for one stream."""
        convs = (*self.first, *self.second)
        return sum(c.in_channels * (c.kernel_size[0] - 1) * c.dilation[0] for c in convs)

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        """(B, C, N) to as many."""
        for i, (first, second) in enumerate(zip(self.first, self.second)):
            left = (first.kernel_size[0] - 1) * first.dilation[0]
            y = convolve(first, self.snakes[2 * i](x), tails, left)
            y = convolve(second, self.snakes[2 * i + 1](y), tails, second.kernel_size[0] - 1)
            x = x + y
        return x


def double_conv(layer: nn.Conv1d, x: Tensor) -> Tensor:
    """ELU of a convolution of (B, N, C) in double precision, as products: graphs have neither in it."""
    kernel = layer.kernel_size[0]
    near = torch.cat([x[:, k : k + 1 - kernel or None] for k in range(kernel)], 2)
    weight = layer.weight.double().transpose(1, 2).flatten(1)
    x = F.linear(near, weight, layer.bias.double())
    return torch.where(x > 0, x, x.clamp(max=0).exp() - 1)


class PitchEstimator(nn.Module):
    """Mel frames (B, T + 1 + PITCH_AHEAD, n_mels) to Hz (B, T + 1), in double precision: a phase is its running sum."""

    def __init__(self, c: VocoderConfig) -> None:
        super().__init__()
        first = nn.Conv1d(c.n_mels, c.pitch_dim, PITCH_AHEAD + 1)
        rest = (nn.Conv1d(c.pitch_dim, c.pitch_dim, 3) for _ in range(c.pitch_layers))
        self.layers = nn.ModuleList([first, *rest])
        self.output = nn.Linear(c.pitch_dim, 1)
        self.tail_size = c.pitch_layers * c.pitch_dim * 2

    def step(self, mel: Tensor, tails: Tails) -> Tensor:
        """The last frame's pitch is needed for its first samples only; it comes again."""
        x = mel.double()
        for i, layer in enumerate(self.layers):
            if i:
                x = torch.cat([tails.take(x.shape[2], 2).transpose(1, 2), x], 1)
                tails.leave(x[:, -3:-1].transpose(1, 2))
            x = double_conv(layer, x)
        hz = F.linear(x, self.output.weight.double(), self.output.bias.double())
        return hz.squeeze(2).abs()


class FlowVocoder(nn.Module):
    """Mel frames (B, T, n_mels) to samples (B, T * frame_size)."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = c = config
        bins, stages = c.window + 2, range(len(c.rates))
        widths = [c.dim // 2**i for i in range(len(c.rates) + 1)]
        # how many spectra of the source there are to a feature after each stage
        self.strides = [math.prod(c.rates[i + 1 :]) for i in stages]
        self.pitch = PitchEstimator(c)
        self.source = nn.Linear(c.harmonics, 1)
        self.first = nn.Conv1d(c.n_mels, c.dim, c.lookahead + 1)
        self.ups = nn.ModuleList(nn.Conv1d(widths[i], widths[i + 1], c.kernels[i]) for i in stages)
        self.downs = nn.ModuleList(
            nn.Conv1d(bins, width, 2 * s if s > 1 else 1, stride=s)
            for width, s in zip(widths[1:], self.strides)
        )
        self.source_blocks = nn.ModuleList(
            ResidualBlock(widths[i + 1], c.source_kernels[i], c.dilations) for i in stages
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(widths[i + 1], kernel, c.dilations)
            for i in stages
            for kernel in c.block_kernels
        )
        self.last = nn.Conv1d(widths[-1], bins, 7)
        noise = np.random.RandomState(0).random_sample((NOISE_FRAMES * c.frame_size, c.harmonics))
        # RandomState's numbers never change
        tables = {**transforms(c.window, c.hop), "noise": torch.from_numpy(noise).float()}
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    @property
    def delay(self) -> int:
        """Samples by which the stream lags behind its mel."""
        return self.config.window // 2

    @property
    def tail_size(self) -> int:
        """Numbers the convolutions remember of a stream."""
        ups = sum(u.in_channels * (u.kernel_size[0] - 1) for u in self.ups)
        downs = sum(d.in_channels * (s - 1) for d, s in zip(self.downs, self.strides))
        blocks = sum(b.tail_size for b in (*self.source_blocks, *self.blocks))
        return ups + downs + blocks + self.last.in_channels * (self.last.kernel_size[0] - 1)

    def init_state(self, batch: int = 1) -> VocoderState:
        """The state of `batch` streams at their beginning."""
        c, w = self.config, self.first.weight
        whole = torch.zeros(batch, dtype=torch.int64, device=w.device)
        double = w.new_zeros(batch, self.pitch.tail_size, dtype=torch.float64)
        return VocoderState(
            w.new_zeros(batch, self.tail_size),
            double,
            double.new_zeros(batch, c.harmonics),
            w.new_zeros(batch, c.window // 2),
            w.new_zeros(batch, c.window + 2),
            w.new_zeros(batch, c.dim // 2 ** len(c.rates)),
            w.new_zeros(batch, 2, OVERLAP - 1, c.hop),
            whole,
            whole.clone(),
        )

    def step(
        self, mel: Tensor, state: VocoderState, lengths: Tensor | None = None
    ) -> tuple[Tensor, VocoderState]:
        """mel (B, T + given_ahead, n_mels), what is ahead given again next time, to samples (B, T * frame_size).

        They lag by `delay`: the first `delay` samples of a stream are void, its last ones come from `finish`. lengths
        (B,): how many of the given frames are real, where a stream ends; it takes no further steps.
        """
        c, given = self.config, mel.shape[1]
        count = given - c.given_ahead
        if mel.dim() != 3 or mel.shape[2] != c.n_mels or count < 0:
            raise ValueError(
                f"a step takes mel (B, T + {c.given_ahead}, {c.n_mels}); got {tuple(mel.shape)}"
            )
        if not torch.compiler.is_compiling() and state.short.any():
            raise ValueError("a stream in this batch has ended: its last chunk was short")
        if not count:
            return mel.new_zeros(len(mel), 0), state
        if lengths is None:
            lengths = torch.full((len(mel),), given, dtype=torch.int64, device=mel.device)
        real = torch.arange(given, device=mel.device) < lengths[:, None]
        mel = torch.where(real[..., None], mel, 0.0)
        pitch_tails = Tails(state.pitch)
        hz = self.pitch.step(mel[:, : count + 1 + PITCH_AHEAD], pitch_tails)
        sound, phase = self._excite(hz, state)
        spectra, source = self._analyse(sound, state, lengths.clamp(max=count + 1))
        tails = Tails(state.tails)
        x = self.first(mel[:, : count + c.lookahead].transpose(1, 2))
        for i in range(len(c.rates)):
            x = self._up(i, x, tails)
            if i < len(c.rates) - 1:
                x = self._stage(i, x, spectra, tails, ahead=1)
        # spectra are centred on samples, so there is one more of them: the first has the second's features
        first = torch.where((state.frames == 0)[:, None], x[:, :, 1], state.pending)
        pending, x = x[:, :, -1], torch.cat([first[..., None], x[:, :, :-1]], 2)
        x = self._stage(len(c.rates) - 1, x, spectra[:, :, :-1], tails)
        at = torch.arange(x.shape[2], device=x.device)
        samples, unfinished = self._synthesise(
            x, at <= c.spectra * lengths[:, None], state.sound, tails
        )
        new = VocoderState(
            tails.pack(),
            pitch_tails.pack(),
            phase,
            source,
            spectra[:, :, -1],
            pending,
            unfinished,
            state.frames + lengths.clamp(max=count),
            (lengths < count).long(),
        )
        return samples, new

    def finish(self, state: VocoderState) -> Tensor:
        """The last samples (B, delay) of streams that end here; zeros for those that had a short chunk."""
        tails = Tails(state.tails)
        skip = sum(
            u.in_channels * (u.kernel_size[0] - 1) for u in self.ups
        )  # what the stages before the last remember is not needed any more
        n = len(self.config.rates)
        each = len(self.config.block_kernels)
        for i in range(n - 1):
            skip += self.downs[i].in_channels * (self.strides[i] - 1)
            skip += sum(
                b.tail_size
                for b in (self.source_blocks[i], *self.blocks[i * each : (i + 1) * each])
            )
        tails.take(skip)
        x, spectra = (F.pad(t[..., None], (0, 1)) for t in (state.pending, state.spectrum))
        x = self._stage(n - 1, x, spectra, tails)
        there = torch.stack([state.short == 0, torch.zeros_like(state.short, dtype=torch.bool)], 1)
        return self._synthesise(x, there, state.sound, tails)[0]

    def forward(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Samples (B, T * frame_size) of whole utterances (B, T, n_mels), of which `lengths` (B,) frames are real."""
        c, count = self.config, mel.shape[1]
        if lengths is None:
            lengths = torch.full((len(mel),), count, dtype=torch.int64, device=mel.device)
        given = F.pad(mel, (0, 0, 0, c.given_ahead))
        samples, state = self.step(given, self.init_state(len(mel)), lengths)
        if not count:
            return samples
        samples = torch.cat([samples, self.finish(state)], 1)[:, self.delay :]
        real = torch.arange(samples.shape[1], device=mel.device) < c.frame_size * lengths[:, None]
        return torch.where(real, samples, 0.0)

    def _excite(self, hz: Tensor, state: VocoderState) -> tuple[Tensor, Tensor]:
        """The source's samples (B, (T + 1) * frame_size) and the phase after T frames.

        The phase stands still within a mel frame, as in CosyVoice 3: the network was trained on that.
        """
        c, (batch, frames) = self.config, hz.shape
        order = torch.arange(1, c.harmonics + 1, device=hz.device)
        advance = (hz[..., None] * order / c.sample_rate) * c.frame_size
        phase = state.phase[:, None] + advance.cumsum(1)
        sines = c.amplitude * torch.sin(2 * math.pi * (phase - phase.round())).to(self.noise.dtype)
        voiced = (hz > c.voiced_above)[..., None].to(sines.dtype)
        level = voiced * c.voiced_noise + (1 - voiced) * c.amplitude / 3
        at = (state.frames[:, None] + torch.arange(frames, device=hz.device)) % NOISE_FRAMES
        noise = self.noise.view(NOISE_FRAMES, c.frame_size, c.harmonics)[at]
        waves = (sines * voiced)[:, :, None] + level[:, :, None] * noise
        after = phase[:, -2]
        return torch.tanh(self.source(waves)).reshape(batch, -1), after - after.floor()

    def _analyse(self, sound: Tensor, state: VocoderState, ends: Tensor) -> tuple[Tensor, Tensor]:
        """Spectra (B, window + 2, T * spectra + 1) around the hops, and the source's last samples.

        The signal is mirrored at its beginning and at its end, `ends` (B,) frames into `sound`.
        """
        c, half = self.config, self.config.window // 2
        wanted = sound.shape[1] - c.frame_size + half
        at, end = torch.arange(wanted, device=sound.device), c.frame_size * ends[:, None]
        x = sound.gather(1, torch.where(at < end, at, 2 * (end - 1) - at).clamp(min=0))
        before = torch.where((state.frames == 0)[:, None], x[:, 1 : half + 1].flip(1), state.source)
        frames = windows(torch.cat([before, x], 1), c.hop)
        return F.linear(frames, self.analysis).transpose(1, 2), x[
            :, wanted - 2 * half : wanted - half
        ]

    def _up(self, i: int, x: Tensor, tails: Tails) -> Tensor:
        """(B, C, N) to (B, C / 2, N * rate)."""
        c = self.config
        x = F.leaky_relu(x, c.slope).repeat_interleave(c.rates[i], 2)
        return convolve(self.ups[i], x, tails, c.kernels[i] - 1)

    def _stage(self, i: int, x: Tensor, spectra: Tensor, tails: Tails, ahead: int = 0) -> Tensor:
        """The source's features join, then the residual blocks."""
        source = convolve(self.downs[i], spectra, tails, self.strides[i] - 1, ahead)
        x = x + self.source_blocks[i].step(source, tails)
        each = len(self.config.block_kernels)
        return sum(b.step(x, tails) for b in self.blocks[i * each : (i + 1) * each]) / each

    def _synthesise(
        self, x: Tensor, there: Tensor, unfinished: Tensor, tails: Tails
    ) -> tuple[Tensor, Tensor]:
        """Features (B, C, N) to samples (B, N * hop), windows added up; spectra that are not `there` (B, N) are silent."""
        c = self.config
        x = convolve(self.last, F.leaky_relu(x, FINAL_SLOPE), tails, self.last.kernel_size[0] - 1)
        magnitude, phase = x.transpose(1, 2).chunk(2, -1)
        magnitude = magnitude.exp().clamp(max=MAX_MAGNITUDE)
        angle = phase.sin()
        spectra = torch.cat([magnitude * angle.cos(), magnitude * angle.sin()], -1)
        parts = F.linear(spectra, self.synthesis).unflatten(-1, (OVERLAP, c.hop))
        # the windows that were added up to each sample: fewer at both ends
        both = (
            torch.stack([parts, self.envelope.expand_as(parts)], 1) * there[:, None, :, None, None]
        )
        total = F.pad(unfinished, (0, 0, 0, x.shape[2]))
        for k in range(OVERLAP):
            total = total + F.pad(both[:, :, :, k], (0, 0, k, OVERLAP - 1 - k))
        done, left = total[:, :, : x.shape[2]], total[:, :, x.shape[2] :]
        samples = (done[:, 0] / done[:, 1].clamp(min=1e-11)).flatten(1)
        return samples.clamp(-c.limit, c.limit), left
