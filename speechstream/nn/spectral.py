"""Short-time spectra in causal steps: log-mel magnitudes, and overlap-add back to samples.

A window covers `overlap` hops. Those of the analysis look back: the window of hop t ends with hop t. Both directions
carry their unfinished part from step to step (`speechstream.nn.seanet.Tails`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechstream.nn.seanet import Tails

LOG_FLOOR = 1e-5  # of mel magnitudes before the logarithm
ROUNDING = 1 / 12 / 32768**2  # the power of what rounding to 16 bits adds to a signal


class LogMel(nn.Module):
    """Log-mel magnitudes of windows that look back: (B, T * hop) samples to (B, T, mels).

    Where there is nothing at all, as above the band of a recording of a lower rate, there is what rounding to 16 bits
    would have put there: recordings that differ in nothing audible must not differ in their spectra.
    """

    def __init__(self, sample_rate: int, hop: int, overlap: int, mels: int) -> None:
        super().__init__()
        window = hop * overlap
        self.hop, self.tail_size = hop, window - hop
        cos, sin = fourier(window)
        hann = torch.hann_window(window, periodic=True, dtype=torch.float64)
        self.least = ROUNDING * float(hann.square().sum())
        self.register_buffer("basis", (torch.cat([cos, sin]) * hann).float(), persistent=False)
        self.register_buffer("mel", mel_filters(sample_rate, window, mels), persistent=False)

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        real, imag = F.linear(windows(x, self.hop, self.tail_size, tails), self.basis).chunk(2, -1)
        return torch.log(
            F.linear((real.square() + imag.square() + self.least).sqrt(), self.mel) + LOG_FLOOR
        )


class OverlapAdd(nn.Module):
    """Spectra (B, T, 2 * bins), real parts first, to samples (B, T * hop): Hann windows, each a hop after the other.

    Spectra of rectangular windows of a signal give the signal back, window - hop samples late. A stream's signals lie
    one after the other in the batch: (B * sources, T, 2 * bins).
    """

    def __init__(self, hop: int, overlap: int, sources: int = 1) -> None:
        super().__init__()
        self.hop, self.overlap, self.sources, window = hop, overlap, sources, hop * overlap
        self.tail_size = sources * (window - hop)
        cos, sin = fourier(window)
        weight = torch.full((len(cos), 1), 2.0, dtype=torch.float64)
        weight[[0, -1]] = 1.0  # the first and the last bin have no mirror image
        hann = torch.hann_window(window, periodic=True, dtype=torch.float64) * 2 / overlap
        basis = torch.cat([cos * weight, sin * weight]) * hann / window
        self.register_buffer(
            "basis", basis.T.contiguous().float(), persistent=False
        )  # (window, 2 * bins)

    def step(self, x: Tensor, tails: Tails) -> Tensor:
        parts = F.linear(x, self.basis).reshape(x.shape[0], -1, self.overlap, self.hop)
        # the running sum: what earlier windows have left for the hops to come, the nearest hop first
        left = tails.take(self.sources, self.overlap - 1, self.hop).flatten(0, 1)
        total = F.pad(left, (0, 0, 0, x.shape[1]))
        for k in range(self.overlap):
            total = total + F.pad(parts[:, :, k], (0, 0, k, self.overlap - 1 - k))
        tails.leave(total[:, -(self.overlap - 1) :].unflatten(0, (-1, self.sources)))
        return total[:, : x.shape[1]].flatten(1)


def windows(x: Tensor, hop: int, reach: int, tails: Tails) -> Tensor:
    """The windows (B, T, reach + hop) that end with each hop of samples (B, T * hop)."""
    hops = torch.cat([tails.take(1, reach).squeeze(1), x], 1).reshape(x.shape[0], -1, hop)
    overlap, count = reach // hop + 1, x.shape[1] // hop
    tails.leave(hops[:, -(overlap - 1) :].flatten(1))
    return torch.cat([hops[:, k : k + count] for k in range(overlap)], -1)


def mel_filters(sample_rate: int, window: int, mels: int) -> Tensor:
    """Triangular filters (mels, window / 2 + 1), evenly spaced on the HTK mel scale from 0 to half the sampling rate,
    each summing to one, and never narrower than a bin."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, mels + 2, dtype=torch.float64) / 2595) - 1)
    low, mid, high = (edges[i : i + mels, None] for i in range(3))
    spacing = sample_rate / window
    bins = torch.arange(window // 2 + 1, dtype=torch.float64) * spacing
    rise = (bins - low.minimum(mid - spacing)) / (mid - low).clamp(min=spacing)
    fall = (high.maximum(mid + spacing) - bins) / (high - mid).clamp(min=spacing)
    weights = torch.minimum(rise, fall).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


def fourier(window: int) -> tuple[Tensor, Tensor]:
    """Cosines and negative sines (window / 2 + 1, window) of the real Fourier transform, in double precision."""
    angle = (
        2
        * math.pi
        * torch.outer(
            torch.arange(window // 2 + 1, dtype=torch.float64),
            torch.arange(window, dtype=torch.float64),
        )
        / window
    )
    return angle.cos(), -angle.sin()
