"""What the codec is trained on: spectral distances, and discriminators of spectra and of periods.

Multi-scale log-mel distance and hinge losses as in DAC (Kumar et al., 2023, arXiv:2306.06546), multi-resolution STFT
loss of Parallel WaveGAN (arXiv:1910.11480), period discriminators of HiFi-GAN (arXiv:2010.05646), a complex STFT
discriminator of EnCodec (arXiv:2210.13438).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from speechstream.nn.spectral import mel_filters

MEL_SCALES = ((2048, 160), (1024, 100), (512, 50), (256, 25), (128, 12))  # window and mel bands
STFT_SCALES = (2048, 1024, 512)
FLOOR = 1e-5
COMPRESSION = 0.4  # the power that a judge sees of a spectrum's magnitudes
PHASE_HZ, PHASE_WINDOW = 1500.0, 1024  # of the loss that compares phases: up to where, and samples
ONSET_HZ, ONSET_BANDS = (
    1500.0,
    16,
)  # of the loss that hears onsets: from where, and of how many mel bands
ONSET_STEP_S, ONSET_STEPS = 0.0025, 3  # windows are four steps long
ONSET_FLOOR = 3e-3  # of their magnitudes: some 50 dB below a loud vowel
QUIET = 1e-6  # of their squares: what is weaker is not raised further


def spectrum(x: Tensor, window: int) -> Tensor:
    """Complex STFT (B, bins, T) of (B, 1, samples), a quarter of a window apart."""
    return torch.stft(
        x[:, 0],
        window,
        window // 4,
        window=torch.hann_window(window, device=x.device),
        return_complex=True,
    )


class SpectralLoss(nn.Module):
    """Mean absolute difference of log-mels at five scales, and the multi-resolution STFT loss."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        for window, mels in MEL_SCALES:
            self.register_buffer(
                f"mel{window}", mel_filters(sample_rate, window, mels), persistent=False
            )

    def forward(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Generated `y` and original `x` (B, 1, samples) to (mel loss, STFT loss)."""
        mel, stft = x.new_zeros(()), x.new_zeros(())
        for window, _ in MEL_SCALES:
            # the floor keeps the gradient finite where there is no sound
            a, b = (
                (torch.view_as_real(spectrum(s, window)).square().sum(-1) + FLOOR**2).sqrt()
                for s in (y, x)
            )
            low, high = (torch.log10(getattr(self, f"mel{window}") @ s) for s in (a, b))
            mel = mel + (low - high).abs().mean() / len(MEL_SCALES)
            if window in STFT_SCALES:
                convergence = (a - b).norm(dim=(1, 2)) / b.norm(dim=(1, 2)).clamp(min=1e-3)
                stft = stft + (
                    convergence.clamp(max=10).mean() + (a.log() - b.log()).abs().mean()
                ) / len(STFT_SCALES)
        return mel, stft


def phase_loss(y: Tensor, x: Tensor, sample_rate: int) -> Tensor:
    """How far complex spectra below PHASE_HZ point in other directions (1 - cos of the angle), and how far their levels are apart in
    nats; both weighted by the original's magnitudes. For sounds whose waveforms can be alike (pulses.py). The distance of
    the spectra themselves would be smallest for silence wherever the angle is above 60 degrees."""
    if not len(y):
        return y.sum()
    top = round(PHASE_HZ / sample_rate * PHASE_WINDOW)
    a, b = (torch.view_as_real(spectrum(s, PHASE_WINDOW)[:, :top]) for s in (y, x))
    size, wanted = ((s.square().sum(-1) + FLOOR).sqrt() for s in (a, b))
    far = 1 - (a * b).sum(-1) / (size * wanted) + (size.log() - wanted.log()).abs()
    return ((wanted * far).sum((1, 2)) / wanted.sum((1, 2))).mean()


class OnsetLoss(nn.Module):
    """Mean absolute difference of the levels of bands above ONSET_HZ, in decades, where the original's change within ONSET_STEPS
    steps: closures, bursts and the beginnings of fricatives, of which there are too few to weigh in a mean over time."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.step = round(ONSET_STEP_S * sample_rate)
        filters = mel_filters(sample_rate, 4 * self.step, ONSET_BANDS)
        centres = filters.argmax(1) * sample_rate / (4 * self.step)
        self.register_buffer("mel", filters[centres > ONSET_HZ], persistent=False)

    def levels(self, x: Tensor) -> Tensor:
        """(B, bands, T) of (B, 1, samples), in decades."""
        s = torch.view_as_real(spectrum(x, 4 * self.step)).square().sum(-1)
        return 0.5 * torch.log10(self.mel @ s + ONSET_FLOOR**2)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        made, wanted = self.levels(y), self.levels(x)
        change = wanted[..., ONSET_STEPS:] - wanted[..., :-ONSET_STEPS]
        weight = F.pad(change.abs(), (0, ONSET_STEPS))  # at the step before a change
        around = 2 * ONSET_STEPS + 1
        weight = F.max_pool1d(weight, around, 1, ONSET_STEPS) + 1e-3
        return ((made - wanted).abs() * weight).sum() / weight.sum()


class SpectrumDiscriminator(nn.Module):
    """Judges the spectra of one resolution with two-dimensional convolutions, the first over patches of bins.

    Magnitudes are compressed, or the judge would see the loud low bands alone: what is wrong with sound at 10 kHz is
    40 dB below the vowels. It sees them beside the complex spectra, and where in the band it is. A quarter of the bins
    after the first layer and few channels: a core of a CPU judges four seconds in 0.03 s.
    """

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.window = window

        def conv(inputs: int, bins: int, stride: int, dilation: int) -> nn.Module:
            return weight_norm(
                nn.Conv2d(
                    inputs,
                    channels,
                    (bins, 3),
                    (stride, 1),
                    padding=(bins // 2, dilation),
                    dilation=(1, dilation),
                )
            )

        self.layers = nn.ModuleList(
            [
                conv(4, 9, 4, 1),
                conv(channels, 5, 2, 1),
                conv(channels, 5, 2, 2),
                conv(channels, 3, 1, 4),
            ]
        )
        self.output = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        s = torch.view_as_real(spectrum(x, self.window)).permute(0, 3, 1, 2)
        power = s.square().sum(1, keepdim=True) + QUIET
        at = torch.linspace(-1, 1, s.shape[2], device=s.device)[:, None]
        s = torch.cat(
            [
                s * power.pow((COMPRESSION - 1) / 2),
                power.pow(COMPRESSION / 2),
                at.expand_as(power),
            ],
            1,
        )
        s = s.contiguous(memory_format=torch.channels_last)  # half the time on a CPU
        return _judge(s, self.layers, self.output)


class PeriodDiscriminator(nn.Module):
    """Judges samples a period apart, laid out as rows."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 2 * channels, 4 * channels, 4 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), padding=(2, 0)))
            for a, b in zip(widths, widths[1:])
        )
        self.output = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.pad(x, (0, -x.shape[-1] % self.period))
        return _judge(x.unflatten(-1, (-1, self.period)), self.layers, self.output)


class Discriminators(nn.Module):
    """All judges together: their verdicts and what they saw on the way."""

    def __init__(
        self, channels: int, ffts: list[int], periods: list[int], period_channels: int | None = None
    ) -> None:
        super().__init__()
        self.judges = nn.ModuleList(
            [
                *(SpectrumDiscriminator(w, channels) for w in ffts),
                *(PeriodDiscriminator(p, period_channels or channels) for p in periods),
            ]
        )

    def forward(self, x: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        return [judge(x) for judge in self.judges]

    def some(self, of_spectra: int, of_periods: int) -> list[nn.Module]:
        """A random choice of judges: with half of them a step costs half, and all are heard in the long run."""
        kinds: dict[type, list[nn.Module]] = {SpectrumDiscriminator: [], PeriodDiscriminator: []}
        for judge in self.judges:
            kinds[type(judge)].append(judge)
        chosen = []
        for judges, count in zip(kinds.values(), (of_spectra, of_periods)):
            chosen += [judges[k] for k in torch.randperm(len(judges))[:count].tolist()]
        return chosen

    def losses(
        self, y: Tensor, x: Tensor, chosen: list[nn.Module] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of generated `y` and original `x` (B, 1, samples): the judges' hinge loss, the codec's, and the relative difference of
        the judges' features of the two. All from one hearing of each: whose gradient is wanted, the caller says. `chosen`: by
        these judges alone."""
        judges, codec, matching = (y.new_zeros(()) for _ in range(3))
        chosen = list(self.judges) if chosen is None else chosen
        for judge in chosen:
            (said, got), (wanted, features) = judge(y), judge(x)
            said, wanted = said.float(), wanted.float()
            judges = judges + F.relu(1 + said).mean() + F.relu(1 - wanted).mean()
            codec = codec + F.relu(1 - said).mean()
            for a, b in zip(got, features):
                b = b.detach()
                far, size = (a - b).abs().mean().float(), b.abs().mean().float()
                matching = matching + far / size / len(got)
        count = len(chosen)
        return judges / count, codec / count, matching / count


def _judge(x: Tensor, layers: nn.ModuleList, output: nn.Module) -> tuple[Tensor, list[Tensor]]:
    features = []
    for layer in layers:
        x = F.leaky_relu(layer(x), 0.1)
        features.append(x)
    return output(x), features
