"""The size of a causal language model and its rotary frequencies; without torch, so that whoever only runs one can read it."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
# What a config may ask for at most: the largest models of these families are well below, and a damaged file is not.
LIMITS = {
    "vocab_size": 1 << 20,
    "dim": 1 << 15,
    "layers": 256,
    "heads": 512,
    "kv_heads": 512,
    "head_dim": 1024,
    "ff_dim": 1 << 18,
    "context": 1 << 26,
    "window": 1 << 26,
}


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions (RoPE, arXiv:2104.09864) and how they are stretched beyond the length of training.

    kind: "linear" (positions divided by factor), "llama3" (long waves divided, short ones kept, between them a ramp),
    "yarn" (arXiv:2309.00071: the same by dimensions, and attention sharpened by `attention_factor`), "dynamic" (as
    "default" up to the context, which `lm.model` never leaves: it drops old tokens instead).
    """

    base: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    original_context: int = 0  # tokens of training: llama3 and yarn
    low_factor: float = 1.0  # llama3
    high_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn: of cosines and sines
    truncate: bool = True  # yarn: the ramp begins and ends at whole dimensions

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise ValueError(f"rope kind must be one of {', '.join(ROPE_KINDS)}; got {self.kind!r}")
        if not 1 < self.base < 1e12 or not 1 <= self.factor <= 1e6:
            raise ValueError(
                f"rope base must be above 1 and its factor 1 or more; got {self.base}, {self.factor}"
            )
        if self.kind in ("llama3", "yarn") and self.original_context < 1:
            raise ValueError(f"rope of kind {self.kind!r} needs original_context")
        if self.kind == "llama3" and not 0 < self.low_factor < self.high_factor:
            raise ValueError(
                f"rope of kind 'llama3' needs 0 < low_factor < high_factor; got {self.low_factor}, {self.high_factor}"
            )
        if not 0 < self.beta_slow <= self.beta_fast or not 0 < self.attention_factor < 100:
            raise ValueError(
                "rope needs 0 < beta_slow <= beta_fast and an attention_factor below 100"
            )

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Radians a position, (head_dim / 2) float64."""
        freqs = self.base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        if self.kind == "linear":
            return freqs / self.factor
        if self.kind == "llama3":
            waves = self.original_context * freqs / (2 * math.pi)  # how often it turns in training
            smooth = (waves - self.low_factor) / (self.high_factor - self.low_factor)
            smooth = smooth.clip(0, 1)
            return freqs * (smooth + (1 - smooth) / self.factor)
        if self.kind == "yarn":
            low, high = (
                head_dim
                * math.log(self.original_context / (turns * 2 * math.pi))
                / (2 * math.log(self.base))
                for turns in (self.beta_fast, self.beta_slow)
            )
            if self.truncate:
                low, high = math.floor(low), math.ceil(high)
            low, high = max(low, 0), min(high, head_dim - 1)
            ramp = (np.arange(head_dim // 2) - low) / (high - low if high != low else 0.001)
            ramp = ramp.clip(0, 1)
            return freqs * (1 - ramp + ramp / self.factor)
        return freqs

    def table(self, positions: np.ndarray, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines and sines (*positions.shape, head_dim / 2) float32; angles in float64, so that no stream is too long."""
        angle = np.asarray(positions, np.float64)[..., None] * self.frequencies(head_dim)
        scale = self.attention_factor
        return (np.cos(angle) * scale).astype(np.float32), (np.sin(angle) * scale).astype(
            np.float32
        )


@dataclass(frozen=True)
class LlmConfig:
    """Sizes and options of one model of the family; defaults are those of SmolLM2-135M.

    head_dim 0: dim / heads. window: tokens that a layer of `window_layers` sees, the own included; 0: all.
    context: tokens that the model was trained for.
    """

    vocab_size: int = 49152
    dim: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    ff_dim: int = 1536
    head_dim: int = 0
    context: int = 8192
    norm_eps: float = 1e-5
    rope: RopeConfig = field(default_factory=RopeConfig)
    tied: bool = True  # the output layer is the embedding
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm of each head's queries and keys (Qwen3)
    window: int = 0
    window_layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.head_dim and self.heads > 0:
            object.__setattr__(self, "head_dim", self.dim // self.heads)
        for name, most in LIMITS.items():
            value = getattr(self, name)
            least = 0 if name == "window" else 1
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least} to {most}; got {str(value)[:30]}")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads must be a multiple of kv_heads; got {self.heads} and {self.kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even; got {self.head_dim}")
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps must be between 0 and 1; got {self.norm_eps}")
        if any(not 0 <= i < self.layers for i in self.window_layers):
            raise ValueError(
                f"window_layers must be 0 to {self.layers - 1}; got {self.window_layers}"
            )
        if bool(self.window) != bool(self.window_layers):
            raise ValueError("window and window_layers go together")

    @property
    def parameters(self) -> int:
        """Numbers in its matrices."""
        attention = self.dim * self.head_dim * 2 * (self.heads + self.kv_heads)
        layer = attention + 3 * self.dim * self.ff_dim
        return self.layers * layer + self.vocab_size * self.dim * (1 if self.tied else 2)

    @property
    def all_windowed(self) -> bool:
        """Whether nothing further back than the window is ever seen."""
        return len(set(self.window_layers)) == self.layers


@dataclass(frozen=True)
class KvConfig:
    """How a graph keeps keys and values.

    bits: 32 (floats), or 8: whole numbers with a scale for each channel of each head. streaming: of each layer those heads
    of keys that see the first tokens and the recent ones only, the others seeing all (DuoAttention, arXiv:2410.10819);
    empty: none. recent: tokens that these remember at most, `sinks` among them. shared: whether many streams can
    go on from one prefix that is kept once. queries: whether the graph also gives each token's queries before their rotation,
    the mean of those of a head of keys.
    """

    bits: int = 32
    streaming: tuple[tuple[int, ...], ...] = ()
    recent: int = 512
    sinks: int = 4
    shared: bool = False
    queries: bool = False

    def __post_init__(self) -> None:
        if self.bits not in (8, 32):
            raise ValueError(f"keys and values have 8 or 32 bits; got {self.bits}")
        if not 8 <= self.recent <= LIMITS["window"] or not 0 <= self.sinks <= self.recent // 2:
            raise ValueError(
                f"recent must be 8 or more and sinks at most half of it; got {self.recent}, {self.sinks}"
            )

    def groups(self, config: LlmConfig) -> list[list[list[int]]]:
        """Heads of keys by group and layer: those that see all, and those that stream, if there are any.

        Raises ValueError for heads that the model does not have.
        """
        every = [list(range(config.kv_heads)) for _ in range(config.layers)]
        if not any(self.streaming):
            return [every]
        if len(self.streaming) != config.layers or any(
            list(heads) != sorted(set(heads) & set(range(config.kv_heads)))
            for heads in self.streaming
        ):
            raise ValueError(
                f"streaming heads are given for each of {config.layers} layers, ascending, from 0 to {config.kv_heads - 1}"
            )
        whole = [[h for h in e if h not in s] for e, s in zip(every, self.streaming)]
        if not any(whole):
            raise ValueError("of all heads one at least must see the whole text")
        return [whole, [list(s) for s in self.streaming]]


FLOATS = KvConfig()  # of all heads all tokens, in floats


def from_dict(values: Any) -> LlmConfig:
    """The config that `to_dict` wrote. Raises ValueError for an unknown key, a wrong type or size: one sentence."""
    return _read(LlmConfig, values, "the config of the language model")


def kv_from_dict(values: Any) -> KvConfig:
    """The same for how keys and values are kept; None: as in bundles that do not say."""
    return FLOATS if values is None else _read(KvConfig, values, "the config of the cache")


def to_dict(config: LlmConfig) -> dict[str, Any]:
    """A config as JSON."""
    found = dataclasses.asdict(config)
    found["window_layers"] = list(config.window_layers)
    return found


def kv_to_dict(config: KvConfig) -> dict[str, Any]:
    """The same for how keys and values are kept."""
    return dataclasses.asdict(config) | {"streaming": [list(s) for s in config.streaming]}


def _read(kind: Any, values: Any, what: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{what} is no JSON object")
    hints = typing.get_type_hints(kind)
    unknown = sorted(str(k)[:40] for k in values if k not in hints)
    if unknown:
        raise ValueError(f"{what} has {unknown[0]!r}, which is not known here")
    found = {}
    for name, value in values.items():
        want = hints[name]
        if want is RopeConfig:
            value = _read(RopeConfig, value, "the config's rope")
        elif typing.get_origin(want) is tuple:
            value = _numbers(value, want, f"{what}: {name}")
        elif want is float and type(value) is int:
            value = float(value)
        elif type(value) is not want:
            raise ValueError(f"{what}: {name} is {str(value)[:30]!r}, expected {want.__name__}")
        if want is float and not math.isfinite(value):
            raise ValueError(f"{what}: {name} is {value}, expected a finite number")
        found[name] = value
    return kind(**found)


def _numbers(value: Any, want: Any, what: str) -> Any:
    """A list of numbers, or of such lists, as a tuple."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list of numbers")
    if len(value) > LIMITS["heads"]:
        raise ValueError(f"{what} is too long")
    inner = typing.get_args(want)[0]
    if typing.get_origin(inner) is tuple:
        return tuple(_numbers(v, inner, what) for v in value)
    if any(type(v) is not int for v in value):
        raise ValueError(f"{what} must be a list of numbers")
    return tuple(value)
