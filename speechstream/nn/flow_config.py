"""The sizes of a flow-matching decoder, as data: no torch here, so that a bundle can be read where it is not installed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from speechstream.config import read

SCHEDULES = ("linear", "cosine")
# Explicit Runge-Kutta methods: rows of stage weights, weights of the result, times of the stages.
SOLVERS: dict[str, tuple[tuple[tuple[float, ...], ...], tuple[float, ...], tuple[float, ...]]] = {
    "euler": (((),), (1.0,), (0.0,)),
    "midpoint": (((), (0.5,)), (0.0, 1.0), (0.0, 0.5)),
    "rk4": (  # Kutta's 3/8 rule
        ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        (1 / 8, 3 / 8, 3 / 8, 1 / 8),
        (0.0, 1 / 3, 2 / 3, 1.0),
    ),
}
MAX_SLOTS = 1 << 16  # frames of keys that one layer may keep
MAX_STREAM_BYTES = 32 << 30  # of one stream's caches
# What a config may ask for at most: models of this kind are well below, and a damaged file is not.
LIMITS = {
    "n_mels": 1024,
    "condition_dim": 1 << 14,
    "speaker_dim": 1 << 14,
    "tokens": 1 << 20,
    "repeats": 64,
    "steps": 100,
    "dim": 1 << 14,
    "layers": 256,
    "heads": 256,
    "head_dim": 1024,
    "ff_dim": 1 << 17,
    "frequencies": 1 << 14,
    "time_dim": 1 << 14,
    "kernel": 1024,
    "position_kernel": 1024,
    "position_groups": 1 << 14,
    "mid_blocks": 128,
    "block": 4096,
    "left_blocks": 4096,
    "sinks": 4096,
    "rotary_heads": 256,
}
MAY_BE_ZERO = (
    "condition_dim",
    "speaker_dim",
    "tokens",
    "position_kernel",
    "mid_blocks",
    "left_blocks",
    "sinks",
    "rotary_heads",
)


@dataclass(frozen=True)
class WindowConfig:
    """What a frame's attention sees, in blocks of `block` frames: its own block whole, and what is said here.

    left_layers see `left_blocks` blocks before (None: all layers do); ahead_layers see the next block; the layers that
    look back see the first `sinks` frames of the stream for ever (attention sinks, arXiv:2309.17453).
    """

    block: int = 24
    left_blocks: int = 1
    left_layers: tuple[int, ...] | None = None
    ahead_layers: tuple[int, ...] = ()
    sinks: int = 0

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.left_blocks * self.block + self.sinks > MAX_SLOTS:
            raise ValueError(
                f"a layer can keep {MAX_SLOTS} frames at most; got left_blocks {self.left_blocks} of {self.block} "
                f"frames and {self.sinks} sinks"
            )

    def left(self, layer: int) -> int:
        """Blocks before its own that a layer sees."""
        looks = self.left_layers is None or layer in self.left_layers
        return self.left_blocks if looks else 0

    def ahead(self, layer: int) -> int:
        """Blocks after its own that a layer sees: 0 or 1."""
        return int(layer in self.ahead_layers)

    def slots(self, layer: int) -> int:
        """Frames of keys and values that a stream keeps for a layer: its sinks first, then its window."""
        left = self.left(layer)
        return left * self.block + self.sinks if left else 0


@dataclass(frozen=True)
class DiTConfig:
    """A diffusion transformer with adaLN-zero (arXiv:2212.09748). The defaults are those of Qwen2.5-Omni's token2wav.

    rotary_heads: the first so many heads have rotary positions, 0: all. position_kernel: two grouped causal convolutions
    over the input, as in F5-TTS (arXiv:2410.06885) and CosyVoice 3; 0: none.
    """

    dim: int = 1024
    layers: int = 22
    heads: int = 16
    head_dim: int = 64
    ff_dim: int = 2048
    frequencies: int = 256  # sinusoids of the time embedding
    rotary_heads: int = 0
    position_kernel: int = 0
    position_groups: int = 16

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions; got {self.head_dim}")
        if self.rotary_heads > self.heads:
            raise ValueError(
                f"rotary_heads must be 0 to {self.heads}, the heads; got {self.rotary_heads}"
            )
        if self.position_kernel and self.dim % self.position_groups:
            raise ValueError(
                f"dim must be a multiple of position_groups; got {self.dim} and {self.position_groups}"
            )
        _check_frequencies(self.frequencies)

    @property
    def convolution_numbers(self) -> int:
        """Numbers that the convolutions remember of a stream, for one evaluation of one row."""
        return 2 * self.dim * max(self.position_kernel - 1, 0)


@dataclass(frozen=True)
class UNetConfig:
    """Causal residual convolutions with transformer layers between them. The defaults are CosyVoice 2's (arXiv:2412.10117).

    One block down, `mid_blocks`, one up with a skip, no change of the rate; `layers_per_block` transformer layers each.
    """

    dim: int = 256
    mid_blocks: int = 12
    layers_per_block: int = 4
    heads: int = 8
    head_dim: int = 64
    ff_dim: int = 1024
    frequencies: int = 320  # sinusoids of the time embedding
    time_dim: int = 1024
    kernel: int = 3

    def __post_init__(self) -> None:
        _check_sizes(self)
        if self.layers > LIMITS["layers"]:
            raise ValueError(f"{LIMITS['layers']} transformer layers at most; got {self.layers}")
        _check_frequencies(self.frequencies)

    @property
    def layers(self) -> int:
        """Transformer layers altogether."""
        return (self.mid_blocks + 2) * self.layers_per_block

    def convolution_channels(self, inputs: int) -> tuple[int, ...]:
        """Input channels of every causal convolution, in network order."""
        resnet = (self.dim, self.dim)
        return (
            (inputs, self.dim)  # down
            + (self.dim,)
            + resnet * self.mid_blocks
            + (2 * self.dim, self.dim)  # up, with the skip
            + (self.dim, self.dim)  # after it, and the last block
        )


@dataclass(frozen=True)
class FlowConfig:
    """What rebuilds a flow-matching decoder. Exactly one of `dit` and `unet` is its network.

    Each frame is conditioned on `condition_dim` channels (embeddings of speech tokens, at the rate of the frames), with
    `prompt` also on n_mels channels of a recording that is to be continued (zero after it), and each stream on a vector
    of `speaker_dim`. tokens: the decoder embeds ids below `tokens` itself, `repeats` frames each; `null_token` is what
    the unconditional half of guidance is given. times: the solver's own times from 0 to 1 in place of a schedule.
    """

    n_mels: int = 80
    condition_dim: int = 512
    speaker_dim: int = 0
    prompt: bool = False
    tokens: int = 0
    repeats: int = 2
    null_token: int = 0
    windows: WindowConfig = field(default_factory=WindowConfig)
    dit: DiTConfig | None = None
    unet: UNetConfig | None = None
    solver: str = "euler"
    steps: int = 10
    schedule: str = "cosine"
    times: tuple[float, ...] | None = None
    guidance: float = (
        0.0  # v + guidance * (v - v of no conditions); 0: the second half is not computed
    )

    def __post_init__(self) -> None:
        _check_sizes(self)
        if (self.dit is None) == (self.unet is None):
            raise ValueError("a flow decoder needs one network, either `dit` or `unet`")
        if self.solver not in SOLVERS:
            raise ValueError(f"solver must be one of {', '.join(SOLVERS)}; got {self.solver!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"schedule must be one of {', '.join(SCHEDULES)}; got {self.schedule!r}"
            )
        if self.times is not None and not _rises_from_0_to_1(self.times):
            raise ValueError(
                f"times must rise from 0 to 1, 2 to 101 of them; got {self.times}"[:200]
            )
        if not 0 <= self.guidance <= 100:
            raise ValueError(f"guidance must be 0 to 100; got {self.guidance}")
        if self.tokens and not 0 <= self.null_token < self.tokens:
            raise ValueError(f"null_token must be 0 to {self.tokens - 1}; got {self.null_token}")
        for name in ("left_layers", "ahead_layers"):
            layers = getattr(self.windows, name) or ()
            if len(set(layers)) != len(layers) or any(not 0 <= i < self.layers for i in layers):
                raise ValueError(
                    f"{name} must be different numbers from 0 to {self.layers - 1}; got {layers}"[
                        :200
                    ]
                )
        if self.windows.ahead_layers and self.convolution_numbers:
            raise ValueError(
                "layers that look ahead need a network without convolutions: ahead_layers must be empty here"
            )

        if self.stream_bytes() > MAX_STREAM_BYTES:
            raise ValueError(
                f"a stream's caches would take {self.stream_bytes() >> 20} MiB, {MAX_STREAM_BYTES >> 20} at most; "
                "take fewer steps, blocks to look back to or layers"
            )

    @property
    def network(self) -> DiTConfig | UNetConfig:
        """The network's sizes, of either kind."""
        return self.dit if self.dit is not None else self.unet

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return self.network.layers

    @property
    def input_dim(self) -> int:
        """Channels of a frame as the network takes it: the mel, its conditions and the speaker."""
        return self.n_mels * (2 if self.prompt else 1) + self.condition_dim + self.speaker_dim

    @property
    def lookahead(self) -> int:
        """Frames after a chunk that are needed to compute it."""
        return self.windows.block * len(self.windows.ahead_layers)

    @property
    def solver_times(self) -> tuple[float, ...]:
        """The times, from noise at 0 to the mel at 1, between which the solver steps."""
        if self.times is not None:
            return self.times
        even = [i / self.steps for i in range(self.steps + 1)]
        if self.schedule == "linear":
            return tuple(even)
        return (*(1 - math.cos(0.5 * math.pi * t) for t in even[:-1]), 1.0)

    @property
    def evaluations(self) -> int:
        """How often the network runs for one frame; a stream has caches for each."""
        return (len(self.solver_times) - 1) * len(SOLVERS[self.solver][1])

    @property
    def rows(self) -> int:
        """Rows of a batch to a stream: 2 with guidance."""
        return 2 if self.guidance else 1

    @property
    def slots(self) -> int:
        """Frames of keys that a stream keeps, over all layers."""
        return sum(self.windows.slots(i) for i in range(self.layers))

    @property
    def convolution_numbers(self) -> int:
        """Numbers that the convolutions remember of a stream, for one evaluation of one row."""
        if self.unet is None:
            return self.dit.convolution_numbers
        return (self.unet.kernel - 1) * sum(self.unet.convolution_channels(self.input_dim))

    def stream_bytes(self, number: int = 4) -> int:
        """Bytes of a stream's state, with numbers of so many bytes, however long the stream is.

        rows * evaluations * (2 * slots * heads * head_dim + convolutions) + rows * speaker_dim numbers, and the place
        and the seed, 8 bytes each.
        """
        n = self.network
        each = 2 * self.slots * n.heads * n.head_dim + self.convolution_numbers
        return number * self.rows * (self.evaluations * each + self.speaker_dim) + 16

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: Any) -> FlowConfig:
        """What `to_dict` gave, also after a round through JSON. Raises ValueError for unknown or wrong entries."""
        return read(cls, d)


@dataclass(frozen=True)
class EcapaConfig:
    """A speaker encoder (ECAPA-TDNN, arXiv:2005.07143). The defaults are those of Qwen2.5-Omni's token2wav.

    channels, kernels, dilations: of the first convolution, of the residual blocks, and of the last one over all of them.
    """

    n_mels: int = 80
    dim: int = 128  # of the vector
    channels: tuple[int, ...] = (256, 256, 256, 256, 768)
    kernels: tuple[int, ...] = (5, 3, 3, 3, 1)
    dilations: tuple[int, ...] = (1, 2, 3, 4, 1)
    groups: int = (
        2  # of channels that a block's convolutions take one after another (Res2Net's scale)
    )
    squeeze_dim: int = 64
    attention_dim: int = 64

    def __post_init__(self) -> None:
        sizes = (self.n_mels, self.dim, self.groups, self.squeeze_dim, self.attention_dim)
        if not all(
            1 <= n <= 1 << 14 for n in (*sizes, *self.channels, *self.kernels, *self.dilations)
        ):
            raise ValueError(f"the speaker encoder's sizes must be 1 to 16384; got {self}"[:400])
        if not 3 <= len(self.channels) == len(self.kernels) == len(self.dilations) <= 32:
            raise ValueError(
                "channels, kernels and dilations of the speaker encoder must be equally many, 3 to 32; got "
                f"{len(self.channels)}, {len(self.kernels)} and {len(self.dilations)}"
            )
        if len(set(self.channels[:-1])) != 1 or self.channels[0] % self.groups:
            raise ValueError(
                f"all channels but the last must be one multiple of {self.groups} groups; got {self.channels}"[
                    :300
                ]
            )
        if sum(self.channels[1:-1]) != self.channels[-1]:
            raise ValueError(
                f"the last of channels must be the sum of the blocks'; got {self.channels}"[:300]
            )

    @property
    def least_frames(self) -> int:
        """Mel frames that a recording must have, for its ends are mirrored."""
        return 1 + max((k - 1) * d for k, d in zip(self.kernels, self.dilations))


def _check_sizes(config: Any) -> None:
    for size in fields(config):
        name, value = size.name, getattr(config, size.name)
        if name not in LIMITS:
            continue
        most, least = LIMITS[name], 0 if name in MAY_BE_ZERO else 1
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{name} must be {least} to {most}; got {str(value)[:30]}")


def _check_frequencies(frequencies: int) -> None:
    if frequencies % 2 or frequencies < 4:
        raise ValueError(f"frequencies must be even and at least 4; got {frequencies}")


def _rises_from_0_to_1(times: tuple[float, ...]) -> bool:
    return (
        2 <= len(times) <= 101
        and times[0] == 0
        and times[-1] == 1
        and all(a < b for a, b in zip(times, times[1:]))
    )
