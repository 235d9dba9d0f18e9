"""Sound from a pitch and a filter: a pulse train and noise, shaped in the short-time spectrum.

The source-filter model, as neural source-filter vocoders use it (Wang et al., 2019, arXiv:1904.12088; DDSP, Engel et
al., 2020, arXiv:2001.04643): a network need not invent the phase of a voice, which takes adversaries and days of
training; it predicts the pitch, and how the spectra of a pulse train of that pitch and of white noise are to be
filtered. Both sources are causal and deterministic, and what they remember is a value.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.refiner import Refiner
from speechstream.nn.seanet import Tails
from speechstream.nn.spectral import OverlapAdd, windows

NOISE_HOPS = 128  # the noise repeats after so many hops
HARMONICS_TO = 0.49  # of the sampling rate: no harmonic above
MAX_LOG_GAIN = 6.0  # exp(6) is far above full scale
STEPS_AN_OCTAVE = 24  # of the pitch scale: half a semitone each
NEAR_STEPS = 2  # around the best step: what its mean is taken over
FAR = -1e4  # the score of all other steps
QUIET = -4.0  # of a new network's filters: the logarithm of their gain
DOUBLINGS = 16  # of the span that a running maximum covers: 2 ** 16 hops in one call


class PulseTrain(nn.Module):
    """Pitch (B, T) in Hz of each hop, 0 where unvoiced, to band-limited pulses (B, T * hop) of power one.

    All harmonics up to half the sampling rate have the same amplitude. Within a hop the pitch glides from the last one's;
    each voiced stretch begins with a pulse, so rounding errors of the phase do not outlive it.
    """

    tail_size = 1  # the last hop's pitch

    def __init__(self, sample_rate: int, hop: int) -> None:
        super().__init__()
        self.sample_rate, self.hop = sample_rate, hop

    def step(self, pitch: Tensor, phase: Tensor, tails: Tails) -> tuple[Tensor, Tensor]:
        """`phase` (B,) float64 is in cycles, at the beginning of the first hop; the new one is returned too."""
        before = torch.cat([tails.take(1), pitch[:, :-1]], 1)
        tails.leave(pitch[:, -1:])
        voiced = pitch > 0
        start = torch.where(before > 0, before, pitch)
        cycles_a_hop = self.hop / self.sample_rate
        advance = 0.5 * cycles_a_hop * (start + pitch).double() * voiced
        total = torch.cat([phase.unsqueeze(1), phase.unsqueeze(1) + advance.cumsum(1)], 1)
        silent = F.pad(voiced.logical_not().double(), (1, 0))
        total = total - _running_max(
            total * silent
        )  # it never falls, so the largest is the last unvoiced hop's
        begin, end = total[:, :-1], total[:, -1]
        u = torch.arange(self.hop, device=pitch.device, dtype=torch.float64) / self.hop
        glide = start.double().unsqueeze(-1) * u + (pitch - start).double().unsqueeze(-1) * (
            0.5 * u * u
        )
        x = begin.unsqueeze(-1) + cycles_a_hop * glide
        x = (x - x.round()).float()  # cycles from the nearest pulse
        highest = torch.maximum(start, pitch).clamp(min=1.0).unsqueeze(-1)
        count = (HARMONICS_TO * self.sample_rate / highest).floor().clamp(min=1.0)
        # sum of cos(2 pi k x) over k = 1 ... count, in closed form, and its limit at a pulse
        below, near = torch.sin(math.pi * x), x.abs() < 1e-5
        ratio = torch.sin(math.pi * (2 * count + 1) * x) / torch.where(
            near, torch.ones_like(x), below
        )
        pulses = (torch.where(near, 2 * count + 1, ratio) - 1) * (2 * count).rsqrt()
        return (pulses * voiced.unsqueeze(-1)).flatten(1), end - end.floor()


class PitchTrack(nn.Module):
    """The last layer of a pitch estimator: features (B, T, dim) to the voicing and to scores of steps of pitch.

    Scores instead of a number, as in CREPE (Kim et al., 2018, arXiv:1802.06182): between two candidates an octave apart a
    number would settle in the middle, where nothing is.
    """

    def __init__(self, dim: int, lowest_hz: float, octaves: float) -> None:
        super().__init__()
        self.lowest_hz = lowest_hz
        self.output = nn.Linear(dim, 1 + math.ceil(octaves * STEPS_AN_OCTAVE))
        steps = torch.arange(self.output.out_features - 1, dtype=torch.float32)
        self.register_buffer("steps", steps, persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logit of being voiced (B, T), and the scores (B, T, steps)."""
        y = self.output(x)
        return y[..., 0], y[..., 1:]

    def pitch(self, voicing: Tensor, scores: Tensor) -> Tensor:
        """Hz (B, T), 0 where unvoiced: the mean of the steps around the best one."""
        near = (self.steps - scores.argmax(-1, keepdim=True)).abs() <= NEAR_STEPS
        mean = (scores.masked_fill(near.logical_not(), FAR).softmax(-1) * self.steps).sum(-1)
        return self.lowest_hz * torch.exp2(mean / STEPS_AN_OCTAVE) * (voicing > 0)

    def loss(self, voicing: Tensor, scores: Tensor, pitch: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies of the voicing and, where there is a voice, of the step. `pitch` (B, T): Hz, 0 where unvoiced."""
        voiced = pitch > 0
        at = torch.log2(pitch.clamp(min=self.lowest_hz) / self.lowest_hz) * STEPS_AN_OCTAVE
        wanted = (
            -0.5 * (self.steps - at.clamp(max=float(len(self.steps) - 1)).unsqueeze(-1)).square()
        ).softmax(-1)
        off = -(wanted * scores.log_softmax(-1)).sum(-1) * voiced
        return (
            F.binary_cross_entropy_with_logits(voicing, voiced.float()),
            off.sum() / voiced.sum().clamp(min=1),
        )


class SourceFilter(nn.Module):
    """Features (B, T, dim) and pitch of each hop to samples (B, T * hop), window - hop samples late."""

    def __init__(
        self, dim: int, sample_rate: int, hop: int, overlap: int, refiner: Refiner | None = None
    ) -> None:
        super().__init__()
        self.hop, self.overlap, self.refiner = hop, overlap, refiner
        self.tail_size = hop * (overlap - 1)  # of the pulses
        bins = hop * overlap // 2 + 1
        self.filter = nn.Linear(dim, 3 * bins)
        with torch.no_grad():
            self.filter.weight.mul_(0.3)
            self.filter.bias.zero_()
            self.filter.bias[:bins] = QUIET
            self.filter.bias[2 * bins :] = QUIET
        self.pulses, self.output = (
            PulseTrain(sample_rate, hop),
            OverlapAdd(hop, overlap, sources=1 if refiner is None else 2),
        )
        # so that filters of gain one give a source back: the basis has a Hann window times 4 / (overlap * window), and
        # Hann windows applied twice, at analysis and at synthesis, add up to 3/4 of those applied once
        self.scale = hop * overlap * overlap / 4 / 0.75
        noise = np.random.RandomState(0).standard_normal(
            NOISE_HOPS * hop
        )  # RandomState's numbers never change
        turned = np.concatenate([noise[-self.tail_size :], noise])
        frames = np.stack([turned[t * hop :][: hop * overlap] for t in range(NOISE_HOPS)])
        spectra = torch.from_numpy(frames).float() @ self.output.basis * self.scale
        self.register_buffer("noise", spectra, persistent=False)  # (NOISE_HOPS, 2 * bins)

    def step(
        self, x: Tensor, pitch: Tensor, frames: Tensor, phase: Tensor, tails: Tails
    ) -> tuple[Tensor, Tensor]:
        """`pitch` (B, T) is in Hz, 0 where unvoiced; `frames` (B,) is how many hops came before, `phase` that of the
        pulses. Returns the samples and the new phase."""
        pulses, phase = self.pulses.step(pitch, phase, tails)
        return self.shape(x, pulses, frames, tails), phase

    def shape(self, x: Tensor, pulses: Tensor, frames: Tensor, tails: Tails) -> Tensor:
        """`step` from the pulses on (B, T * hop)."""
        gain, angle, noise_gain = self.filter(x).float().chunk(3, -1)
        heard = windows(pulses, self.hop, self.tail_size, tails)
        real, imag = (heard @ self.output.basis * self.scale).chunk(2, -1)
        gain, noise_gain = (
            gain.clamp(max=MAX_LOG_GAIN).exp(),
            noise_gain.clamp(max=MAX_LOG_GAIN).exp(),
        )
        cos, sin = gain * angle.cos(), gain * angle.sin()
        at = (frames.unsqueeze(1) + torch.arange(x.shape[1], device=x.device)) % NOISE_HOPS
        noise_real, noise_imag = self.noise[at].chunk(2, -1)
        voiced = torch.cat([real * cos - imag * sin, real * sin + imag * cos], -1)
        noise = torch.cat([noise_real * noise_gain, noise_imag * noise_gain], -1)
        if self.refiner is None:
            return self.output.step(voiced + noise, tails)
        # the windows begin with the hop that is done now, and the one after is known too
        both = self.output.step(torch.stack([voiced, noise], 1).flatten(0, 1), tails)
        voiced, noise = both.unflatten(0, (-1, 2)).unbind(1)
        pulses = heard[..., : 2 * self.hop]
        return voiced + noise + self.refiner.step(voiced, noise, pulses, x, tails)


def _running_max(x: Tensor) -> Tensor:
    """The largest of x (B, T) so far. By doubling, because ONNX has no operator for it."""
    at = torch.arange(x.shape[1], device=x.device)
    for k in range(DOUBLINGS):
        x = torch.maximum(x, x.index_select(1, (at - 2**k).clamp(min=0)))
    return x
