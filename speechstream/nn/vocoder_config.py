"""The sizes of vocoders for mel frames, as data: no torch here, so that a bundle can be read where it is not installed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from speechstream.config import read

LARGEST = 1 << 14  # of any size: the published ones are far below, and a damaged file is not
MOST_WINDOW = 2048  # samples of a short-time spectrum: its tables have the square of them
MOST_NOISE = 1 << 18  # numbers of a mel frame's noise, of which a table is kept


@dataclass(frozen=True)
class VocoderConfig:
    """A causal HiFTNet (arXiv:2309.09493). The defaults are those of CosyVoice 3.

    rates: of the upsampling convolutions; a mel frame makes their product of spectra of `window` samples, `hop` apart.
    lookahead: mel frames that the first convolution sees ahead; the pitch estimator always sees 3.
    """

    n_mels: int = 80
    dim: int = 512  # channels of the first convolution, halved at each rate
    sample_rate: int = 24_000
    rates: tuple[int, ...] = (8, 5, 3)
    kernels: tuple[int, ...] = (16, 11, 7)
    window: int = 16
    hop: int = 4
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    source_kernels: tuple[int, ...] = (7, 7, 11)
    harmonics: int = 9  # the fundamental included
    amplitude: float = 0.1  # of a harmonic
    voiced_noise: float = 0.003
    voiced_above: float = 10.0  # Hz
    slope: float = 0.1  # of the leaky ReLU
    limit: float = 0.99  # of the samples
    lookahead: int = 4
    pitch_dim: int = 512
    pitch_layers: int = 4  # after the first

    def __post_init__(self) -> None:
        _check_hift(self)
        if not 0 <= self.lookahead <= 64:
            raise ValueError(f"the vocoder's lookahead must be 0 to 64; got {self.lookahead}")

    @property
    def spectra(self) -> int:
        """Short-time spectra to a mel frame."""
        return math.prod(self.rates)

    @property
    def frame_size(self) -> int:
        """Samples to a mel frame."""
        return self.spectra * self.hop

    @property
    def given_ahead(self) -> int:
        """Mel frames after a chunk that a step needs: the pitch's 3, one frame later, or the first convolution's."""
        return max(self.lookahead, 4)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any) -> VocoderConfig:
        """What `to_dict` gave, also after a round through JSON. Raises ValueError for unknown or wrong entries."""
        return read(cls, d)


@dataclass(frozen=True)
class HiftConfig:
    """A HiFTNet (arXiv:2309.09493) whose convolutions look both ways. The defaults are those of CosyVoice 2.

    rates: of the transposed convolutions; a mel frame makes their product of spectra of `window` samples, `hop` apart.
    """

    n_mels: int = 80
    dim: int = 512  # channels of the first convolution, halved at each rate
    sample_rate: int = 24_000
    rates: tuple[int, ...] = (8, 5, 3)
    kernels: tuple[int, ...] = (16, 11, 7)
    window: int = 16
    hop: int = 4
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[int, ...] = (1, 3, 5)
    source_kernels: tuple[int, ...] = (7, 7, 11)
    harmonics: int = 9  # the fundamental included
    amplitude: float = 0.1  # of a harmonic
    voiced_noise: float = 0.003
    voiced_above: float = 10.0  # Hz
    slope: float = 0.1  # of the leaky ReLU
    limit: float = 0.99  # of the samples
    pitch_dim: int = 512
    pitch_layers: int = 5

    def __post_init__(self) -> None:
        _check_hift(self)
        odd = (*self.block_kernels, *self.source_kernels)
        if any(k % 2 == 0 for k in odd) or any(
            (k - r) % 2 or k < r for k, r in zip(self.kernels, self.rates)
        ):
            raise ValueError(
                "kernels must look as far back as ahead: odd ones, and of the rates those of the same parity and "
                f"not shorter; got {self.kernels}, {odd}"
            )

    @property
    def spectra(self) -> int:
        """Short-time spectra to a mel frame."""
        return math.prod(self.rates)

    @property
    def frame_size(self) -> int:
        """Samples to a mel frame."""
        return self.spectra * self.hop

    @property
    def reach(self) -> int:
        """Mel frames on either side on which a sample can depend, rounded up at each rate."""
        span = sum(d + 1 for d in self.dilations)
        blocks = max(k // 2 for k in self.block_kernels) * span
        mel, source, rate = 3.0, 0.0, 1
        for stride, kernel, own in zip(self.rates, self.kernels, self.source_kernels):
            step = (-(-kernel // (2 * stride)) + 1) / rate
            rate *= stride
            mel += step + blocks / rate
            # the source joins at each rate: a window that is twice the stride, its own blocks, then those of both
            source = max(source + step, (own // 2 * span + 2) / rate) + blocks / rate
        frames = max(
            mel, source + self.pitch_layers + 2
        )  # its pitch, and the phase that is drawn between frames
        return math.ceil(frames + (3 + 4) / rate)

    @property
    def given_ahead(self) -> int:
        """Mel frames after a chunk that a step needs."""
        return self.reach

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any) -> HiftConfig:
        """What `to_dict` gave, also after a round through JSON. Raises ValueError for unknown or wrong entries."""
        return read(cls, d)


def _check_hift(c: VocoderConfig | HiftConfig) -> None:
    """Raises ValueError for sizes that make no network."""
    sizes = (c.n_mels, c.dim, c.hop, c.harmonics, c.pitch_dim, c.pitch_layers)
    many = (*c.rates, *c.kernels, *c.block_kernels, *c.dilations, *c.source_kernels)
    if not all(1 <= n <= LARGEST for n in (*sizes, *many)):
        raise ValueError(f"the vocoder's sizes must be 1 to {LARGEST}; got {c}"[:400])
    if not all(1 <= len(a) <= 16 for a in (c.block_kernels, c.dilations)):
        raise ValueError(
            f"block_kernels and dilations must be 1 to 16 each; got {len(c.block_kernels)}, {len(c.dilations)}"
        )
    if not 1 <= len(c.rates) == len(c.kernels) == len(c.source_kernels) <= 8:
        raise ValueError(
            f"rates, kernels and source_kernels must be equally many, 1 to 8; got {len(c.rates)}, "
            f"{len(c.kernels)} and {len(c.source_kernels)}"
        )
    if c.window != 4 * c.hop:
        raise ValueError(
            f"the window must be 4 hops; got a window of {c.window} and a hop of {c.hop}"
        )
    if c.dim % 2 ** len(c.rates):
        raise ValueError(f"dim must be a multiple of {2 ** len(c.rates)}; got {c.dim}")
    if c.window > MOST_WINDOW or c.frame_size * c.harmonics > MOST_NOISE:
        raise ValueError(
            f"the window must be {MOST_WINDOW} samples at most, a mel frame's samples times the harmonics {MOST_NOISE}; "
            f"got {c.window}, {c.frame_size} and {c.harmonics}"
        )
    if c.spectra > LARGEST or not 1000 <= c.sample_rate <= 768_000:
        raise ValueError(
            f"rates must make {LARGEST} at most and sample_rate be 1000 to 768000; got {c.rates}, {c.sample_rate}"
        )


@dataclass(frozen=True)
class BigVganConfig:
    """A BigVGAN (arXiv:2206.04658). The defaults are those of Qwen2.5-Omni's token2wav: 50 mel frames to 12,000 samples."""

    n_mels: int = 80
    dim: int = 1536  # channels of the first convolution, halved at each rate
    rates: tuple[int, ...] = (5, 3, 2, 2, 2, 2)
    kernels: tuple[int, ...] = (11, 7, 4, 4, 4, 4)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))

    def __post_init__(self) -> None:
        many = (
            *self.rates,
            *self.kernels,
            *self.block_kernels,
            *(d for ds in self.dilations for d in ds),
        )
        if not all(1 <= n <= LARGEST for n in (self.n_mels, self.dim, self.frame_size, *many)):
            raise ValueError(f"the vocoder's sizes must be 1 to {LARGEST}; got {self}"[:400])
        if not 1 <= len(self.rates) == len(self.kernels) <= 12:
            raise ValueError(
                f"rates and kernels must be equally many, 1 to 12; got {len(self.rates)} and {len(self.kernels)}"
            )
        if any(k < u or (k - u) % 2 for k, u in zip(self.kernels, self.rates)):
            raise ValueError(
                f"each of kernels must exceed its rate by an even number; got {self.kernels} for {self.rates}"[
                    :300
                ]
            )
        if len(self.dilations) != len(self.block_kernels) or any(
            k % 2 == 0 for k in self.block_kernels
        ):
            raise ValueError(
                f"block_kernels must be odd, with a list of dilations for each; got {self.block_kernels} and "
                f"{self.dilations}"[:300]
            )
        if self.dim % 2 ** len(self.rates):
            raise ValueError(f"dim must be a multiple of {2 ** len(self.rates)}; got {self.dim}")

    @property
    def frame_size(self) -> int:
        """Samples to a mel frame."""
        return math.prod(self.rates)

    @property
    def reach(self) -> int:
        """Mel frames on either side on which a sample can depend, rounded up at each rate."""
        activation = 6  # of its samples on either side, through its two filters
        blocks = max(
            sum((k // 2) * (d + 1) + 2 * activation for d in dilations)
            for k, dilations in zip(self.block_kernels, self.dilations)
        )
        frames, rate = 3.0, 1  # the first convolution
        for stride, kernel in zip(self.rates, self.kernels):
            frames += (-(-kernel // (2 * stride)) + 1) / rate
            rate *= stride
            frames += blocks / rate
        return math.ceil(frames + (activation + 3) / rate)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any) -> BigVganConfig:
        """What `to_dict` gave, also after a round through JSON. Raises ValueError for unknown or wrong entries."""
        return read(cls, d)
