"""Turn the knobs of a trained decoder: python -m recipes.codec_small.retune CODEC OUT [--sharpen A] [--noise-db D] [--voicing V]
[--gain-db D] [--average CODEC [--share S]].

All of them are folded into its weights, so they cost nothing when it runs.

- sharpen: the decoder hears log-mel spectra whose deviations from their neighbourhood are larger by this share: a formant
  post-filter, as statistical synthesis uses against averaged spectra (Ling et al., 2006; the global variance of Toda and
  Tokuda, 2007).
- sharpen-above: the same share for the bands above 1 kHz, where it may be larger.
- minimum-phase: so much of the phase that a minimum-phase filter of the same gain has (the Hilbert transform of its
  logarithm: Oppenheim and Schafer, 1975) is added to that of the pulses' filter. Spectral distances do not hear phases, so
  training leaves them as they began.
- noise-db: all of the noise so much louder (negative: softer). Spectral distances pay for harmonics beside their places,
  not for noise, so a decoder that is trained by them hedges with noise.
- gain-db: all of the sound so much louder. A loss that compares waveforms pays for silence where it cannot follow, so a decoder
  that is trained by it (`refine.py`) speaks too softly.
- voicing: added to the logit of being voiced. A voice begins some 20 ms before a pitch can be measured in it; filters that
  are trained after this (`train.py --codec`) learn to silence the pulses where there is no voice.
- average: the mean of its weights and of another's that training began with (Wortsman et al., 2022, arXiv:2109.01903): what
  a short further training on little speech gains, with less of what it forgets. share: of its own weights in it; a refiner
  that the other does not have is as much softer.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.codec_small.evaluate import load
from recipes.common.checkpoint import save_tensors
from speechstream.nn.small_codec import SmallCodec
from speechstream.nn.spectral import mel_filters

NEIGHBOURS = 4  # mel bands on either side
LOW_HZ = 1000.0  # where `sharpen_above` begins


def sharpening(mels: int, share: float | Tensor) -> Tensor:
    """The matrix (mels, mels) that multiplies log-mel spectra (..., mels) from the right; `share` may be of each band (mels)."""
    at = torch.arange(mels)
    around = (at[:, None] + torch.arange(-NEIGHBOURS, NEIGHBOURS + 1)).clamp(0, mels - 1)
    mean = torch.zeros(mels, mels)
    mean.index_put_(
        (around.flatten(), at.repeat_interleave(around.shape[1])),
        torch.tensor(1 / around.shape[1]),
        accumulate=True,
    )
    return torch.eye(mels) + share * (torch.eye(mels) - mean)


def minimum_phases(bins: int) -> Tensor:
    """The matrix (bins, bins) that multiplies logarithms of gains (bins, ...) from the left and gives minimum phases."""
    window = 2 * (bins - 1)
    cepstra = np.fft.irfft(np.eye(bins), window, axis=1)
    folded = cepstra * np.sign(np.fft.fftfreq(window)) * (np.arange(window) != window // 2)
    return torch.from_numpy(np.fft.rfft(folded, axis=1).imag.T.copy()).float()


@torch.no_grad()
def retune(
    codec: SmallCodec,
    sharpen: float = 0.0,
    noise_db: float = 0.0,
    voicing: float = 0.0,
    sharpen_above: float | None = None,
    minimum_phase: float = 0.0,
    gain_db: float = 0.0,
) -> None:
    """Turn the knobs of a codec's decoder, in place."""
    c, decoder = codec.config, codec.decoder
    weight = decoder["features"].input.weight
    middle = mel_filters(c.sample_rate, c.window, c.n_mels).argmax(1) * c.sample_rate / c.window
    above = sharpen if sharpen_above is None else sharpen_above
    share = torch.where(middle < LOW_HZ, sharpen, above)
    turn = torch.block_diag(*[sharpening(c.n_mels, share)] * c.stride)
    weight.copy_(weight @ turn.T)
    bins = c.window // 2 + 1
    for rows in (decoder["output"].filter.weight, decoder["output"].filter.bias):
        rows[bins : 2 * bins] += minimum_phase * (minimum_phases(bins) @ rows[:bins])
    decoder["output"].filter.bias[2 * bins :] += noise_db * math.log(10) / 20
    decoder["pitch"].output.bias[0] += voicing
    for part in (slice(bins), slice(2 * bins, None)):
        decoder["output"].filter.bias[part] += gain_db * math.log(10) / 20
    refiner, gain = decoder["output"].refiner, 10 ** (gain_db / 20)
    if refiner is not None:  # which sees both sources as loud as before
        refiner.input.weight[:, : 2 * refiner.row] /= gain
        refiner.output.weight.mul_(gain)
        refiner.output.bias.mul_(gain)


@torch.no_grad()
def average(codec: SmallCodec, other: SmallCodec, share: float = 0.5) -> None:
    """Give a codec the mean of its own weights, which count for this share, and of another's, in place.

    Of a refiner that the other does not have, the output is multiplied by the share.
    """
    theirs = dict(other.named_parameters())
    for name, mine in codec.named_parameters():
        if name in theirs:
            mine.lerp_(theirs[name], 1 - share)
        elif ".refiner.output." in name:
            mine.mul_(share)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("codec", type=Path, help="OUT/codec of train.py")
    parser.add_argument("out", type=Path)
    parser.add_argument("--sharpen", type=float, default=0.0)
    parser.add_argument("--sharpen-above", type=float, default=None)
    parser.add_argument("--minimum-phase", type=float, default=0.0)
    parser.add_argument("--noise-db", type=float, default=0.0)
    parser.add_argument("--voicing", type=float, default=0.0)
    parser.add_argument("--gain-db", type=float, default=0.0)
    parser.add_argument("--average", type=Path, default=None, metavar="CODEC")
    parser.add_argument("--share", type=float, default=0.5)
    args = parser.parse_args(arguments)
    codec = load(args.codec)
    if args.average:
        average(codec, load(args.average), args.share)
    retune(
        codec,
        args.sharpen,
        args.noise_db,
        args.voicing,
        args.sharpen_above,
        args.minimum_phase,
        args.gain_db,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copy(args.codec / "config.json", args.out / "config.json")
    save_tensors(codec.state_dict(), args.out / "model.safetensors")


if __name__ == "__main__":
    main()
