"""Sizes of a pocket-tts: backbone, flow head and codec; without torch, so that whoever only runs one can read them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from speechstream.nn.llm_config import LlmConfig

ACTIVATIONS = ("gelu", "gelu_tanh")
FLOWS = ("lsd", "drifting")
# What a config may ask for at most: the published models are well below, and a damaged file is not.
MOST_DIM, MOST_LAYERS, MOST_STEPS, MOST_HOP = 1 << 15, 256, 64, 1 << 16


@dataclass(frozen=True)
class FlowConfig:
    """The flow head: an MLP with adaptive layer norm that turns noise into a latent.

    kind: "lsd" (Lagrangian self-distillation, conditioned on the two times of a step) or "drifting" (one call, no
    times). freq_dim: size of the sinusoidal embedding of a time.
    """

    dim: int = 512
    layers: int = 6
    freq_dim: int = 256
    norm_eps: float = 1e-6
    time_eps: float = 1e-5
    max_period: float = 10_000.0
    kind: str = "lsd"

    def __post_init__(self) -> None:
        if self.kind not in FLOWS:
            raise ValueError(f"kind must be one of {', '.join(FLOWS)}; got {self.kind!r}")
        _within("the flow head's dim", self.dim, MOST_DIM)
        _within("the flow head's layers", self.layers, MOST_LAYERS)
        _within("the flow head's freq_dim", self.freq_dim, MOST_DIM)
        if self.freq_dim % 2:
            raise ValueError(f"freq_dim must be even; got {self.freq_dim}")
        _small("norm_eps", self.norm_eps)
        _small("time_eps", self.time_eps)
        if not self.max_period > 1:
            raise ValueError(f"max_period must be above 1; got {self.max_period}")

    @property
    def times(self) -> int:
        """Flow times that it is conditioned on."""
        return 2 if self.kind == "lsd" else 0


@dataclass(frozen=True)
class PocketCodecConfig:
    """The codec: Mimi's architecture, with continuous latents in place of codes. Fields as in `nn.seanet`,
    `nn.transformer` and `nn.mimi`; stride: transformer frames a latent."""

    sample_rate: int = 24_000  # Hz
    dim: int = 512
    filters: int = 64
    ratios: tuple[int, ...] = (6, 5, 4)
    kernel: int = 7
    last_kernel: int = 3
    residual_kernel: int = 3
    residual_layers: int = 1
    dilation_base: int = 2
    compress: int = 2
    stride: int = 16
    layers: int = 2
    heads: int = 8
    ff_dim: int = 2048
    left_context: int = 250
    max_period: float = 10_000.0
    activation: str = "gelu_tanh"

    def __post_init__(self) -> None:
        for name in ("dim", "filters", "ff_dim", "left_context"):
            _within(f"the codec's {name}", getattr(self, name), MOST_DIM)
        for name in ("layers", "heads", "residual_layers", "dilation_base", "compress"):
            _within(f"the codec's {name}", getattr(self, name), MOST_LAYERS)
        for name in ("kernel", "last_kernel", "residual_kernel", "stride"):
            _within(f"the codec's {name}", getattr(self, name), 1024)
        _within("sample_rate", self.sample_rate, 1 << 20)
        if self.compress > self.filters:
            raise ValueError(
                f"the codec's compress must be at most its filters; got {self.compress}, {self.filters}"
            )
        if self.stride < 2:
            raise ValueError("the codec's stride must be 2 or more; got 1")
        if not 0 < len(self.ratios) <= 10 or min(self.ratios) < 1 or self.frame_size > MOST_HOP:
            raise ValueError(
                f"the codec's ratios must be up to 10 positive strides and a frame at most {MOST_HOP} "
                f"samples; got {str(self.ratios)[:60]}"
            )
        if self.dim % (2 * self.heads) or self.left_context < 2:
            raise ValueError(
                f"the codec's dim must be a multiple of twice its heads, and left_context 2 or more; got "
                f"{self.dim}, {self.heads}, {self.left_context}"
            )
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}")
        if not self.max_period > 1:
            raise ValueError(f"max_period must be above 1; got {self.max_period}")

    @property
    def frame_size(self) -> int:
        """Samples a latent: 1920 (80 ms)."""
        return math.prod(self.ratios) * self.stride


@dataclass(frozen=True)
class PocketConfig:
    """A pocket-tts. backbone: its sizes; of what an `LlmConfig` describes, the norms are LayerNorms and the
    feed-forward has one matrix in and one out. bos: the token that holds the learnt first latent. prompt_bos: the
    token before a voice, where the vocabulary has one."""

    backbone: LlmConfig
    flow: FlowConfig
    codec: PocketCodecConfig
    latent_dim: int = 32
    activation: str = "gelu_tanh"
    bos: int = 4003
    prompt_bos: int | None = 4002

    def __post_init__(self) -> None:
        _within("latent_dim", self.latent_dim, 4096)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}")
        for name in ("bos", "prompt_bos"):
            token = getattr(self, name)
            if token is not None and not 0 <= token < self.backbone.vocab_size:
                raise ValueError(
                    f"{name} must be a token of the vocabulary, 0 to {self.backbone.vocab_size - 1}; got {token}"
                )

    @property
    def frame_rate(self) -> float:
        """Latents a second: 12.5."""
        return self.codec.sample_rate / self.codec.frame_size


def _within(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be 1 to {most}; got {str(value)[:30]}")


def _small(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1; got {value}")


@dataclass(frozen=True)
class PocketSampling:
    """How latents are drawn, and when speech ends.

    temperature: variance of the noise, 0 for none. steps: Euler steps of the flow. A frame whose logit is above
    `eos_threshold`, from frame `min_frames` on, is the last but `tail_frames`; of a text of at most `short_words` words
    the last but `short_tail_frames`. fade_in: seconds.
    """

    temperature: float = 0.7
    steps: int = 1
    eos_threshold: float = -4.0
    min_frames: int = 6
    tail_frames: int = 2
    short_words: int = 4
    short_tail_frames: int = 4
    fade_in: float = 0.005

    def __post_init__(self) -> None:
        _within("steps", self.steps, MOST_STEPS)
        if not 0 <= self.temperature <= 100 or not abs(self.eos_threshold) <= 1e6:
            raise ValueError(
                f"temperature must be 0 to 100 and eos_threshold a moderate number; got {self.temperature}, "
                f"{self.eos_threshold}"
            )
        for name in ("min_frames", "tail_frames", "short_words", "short_tail_frames"):
            if not 0 <= getattr(self, name) <= 1000:
                raise ValueError(f"{name} must be 0 to 1000; got {getattr(self, name)}")
        if not 0 <= self.fade_in <= 1:
            raise ValueError(f"fade_in must be 0 to 1 seconds; got {self.fade_in}")

    def tail(self, words: int) -> int:
        """Frames after the end of speech of a text of so many words."""
        return self.short_tail_frames if words <= self.short_words else self.tail_frames
