"""The size of a Voxtral Realtime; without torch, so that whoever only runs one can read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from speechstream.nn.llm_config import LlmConfig, RopeConfig

MEL_MS = 10  # of each mel frame
# What a config may ask for at most: the released model is well below, and a damaged file is not.
LIMITS = {
    "n_mels": 1 << 10,
    "dim": 1 << 15,
    "layers": 256,
    "heads": 512,
    "head_dim": 1024,
    "ff_dim": 1 << 18,
    "window": 1 << 20,
}


@dataclass(frozen=True)
class VoxtralEncoderConfig:
    """The causal audio encoder; defaults are those of Voxtral-Mini-4B-Realtime. window: frames that a frame sees, its own included."""

    n_mels: int = 128
    dim: int = 1280
    layers: int = 32
    heads: int = 32
    head_dim: int = 64
    ff_dim: int = 5120
    window: int = 750
    norm_eps: float = 1e-5
    rope: RopeConfig = field(default_factory=lambda: RopeConfig(1e6))

    def __post_init__(self) -> None:
        _within(self, LIMITS)
        if self.head_dim % 2:
            raise ValueError(f"the encoder's head_dim must be even; got {self.head_dim}")
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps must be between 0 and 1; got {self.norm_eps}")


@dataclass(frozen=True)
class VoxtralConfig:
    """A Voxtral Realtime (arXiv:2602.11298): encoder, projector, and a language model that is told the delay.

    stacked: encoder frames to a token of audio. delay_dim: of the layers by which the delay scales each
    feed-forward's input.
    """

    encoder: VoxtralEncoderConfig
    text: LlmConfig
    stacked: int = 4
    delay_dim: int = 32

    def __post_init__(self) -> None:
        _within(self, {"stacked": 64, "delay_dim": 1 << 12})
        if self.text.dim % 2:
            raise ValueError(f"the language model's dim must be even; got {self.text.dim}")
        if self.text.window and not self.text.all_windowed:
            raise ValueError("the language model's layers must all have the same window")

    @property
    def mels_per_token(self) -> int:
        """Mel frames to a token: the encoder halves them."""
        return 2 * self.stacked

    @property
    def parameters(self) -> int:
        """Numbers in its matrices."""
        e, t = self.encoder, self.text
        layer = 4 * e.dim * e.heads * e.head_dim + 3 * e.dim * e.ff_dim
        ends = 3 * e.dim * (e.n_mels + e.dim) + t.dim * (self.stacked * e.dim + t.dim)
        return e.layers * layer + ends + t.parameters + 2 * t.layers * t.dim * self.delay_dim


@dataclass(frozen=True)
class VoxtralBundle:
    """What a bundle says of a Voxtral Realtime beside its weights.

    left_pad: tokens of silence before the sound. end_pad: tokens after it, beyond the delay and one. delay: tokens,
    where files are heard. delays: tokens that a stream may ask for. floor: of the log-mel energies.
    """

    network: VoxtralConfig
    bos: int
    eos: tuple[int, ...]
    pad: int
    left_pad: int = 32
    end_pad: int = 10
    delay: int = 6
    delays: tuple[int, ...] = tuple(range(1, 31))
    floor: float = -6.5

    def __post_init__(self) -> None:
        size = self.network.text.vocab_size
        if any(not 0 <= i < size for i in (self.bos, self.pad, *self.eos)):
            raise ValueError(f"its special tokens must be ids below {size}")
        if not 0 < self.left_pad <= 1000 or not 0 <= self.end_pad <= 1000:
            raise ValueError(
                f"its padding must be 1 to 1000 tokens before and 0 to 1000 after; got {self.left_pad}, {self.end_pad}"
            )
        known = self.delays and len(self.delays) <= 1000
        if not known or any(not 1 <= d <= 1000 for d in (self.delay, *self.delays)):
            raise ValueError("its delays must be a short list of 1 to 1000 tokens")
        if not -100 < self.floor < 100:
            raise ValueError(f"the floor of its features is {self.floor}")

    @property
    def token_ms(self) -> int:
        """Milliseconds of sound to a token: 80."""
        return self.network.mels_per_token * MEL_MS


def shapes(config: VoxtralConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of `nn.voxtral.Voxtral` and its shape; of a tied output layer only the embedding."""
    e, t, inner = config.encoder, config.text, config.encoder.heads * config.encoder.head_dim
    found: dict[str, tuple[int, ...]] = {}
    for name, width in (("conv1", e.n_mels), ("conv2", e.dim)):
        found |= {f"encoder.{name}.weight": (e.dim, width, 3), f"encoder.{name}.bias": (e.dim,)}
    for i in range(e.layers):
        at = f"encoder.layers.{i}."
        found |= {f"{at}{n}_proj.weight": (inner, e.dim) for n in "qkv"}
        found |= {f"{at}{n}_proj.bias": (inner,) for n in "qv"}
        found |= {f"{at}o_proj.weight": (e.dim, inner), f"{at}o_proj.bias": (e.dim,)}
        found |= {f"{at}{n}_norm.weight": (e.dim,) for n in ("att", "ff")}
        found |= {f"{at}{n}_proj.weight": (e.ff_dim, e.dim) for n in ("gate", "up")}
        found |= {f"{at}down_proj.weight": (e.dim, e.ff_dim), f"{at}down_proj.bias": (e.dim,)}
    found["encoder.norm.weight"] = (e.dim,)
    found["projector.0.weight"] = (t.dim, e.dim * config.stacked)
    found["projector.2.weight"] = (t.dim, t.dim)
    for i in range(t.layers):
        found[f"delays.{i}.0.weight"] = (config.delay_dim, t.dim)
        found[f"delays.{i}.2.weight"] = (t.dim, config.delay_dim)
    return found | {f"text.{n}": s for n, s in _text_shapes(t).items()}


def _text_shapes(c: LlmConfig) -> dict[str, tuple[int, ...]]:
    """Of a language model without biases, as Mistral's are."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab_size, c.dim)}
    if not c.tied:
        found["lm_head.weight"] = (c.vocab_size, c.dim)
    for i in range(c.layers):
        at, inner, kv = f"model.layers.{i}.", c.heads * c.head_dim, c.kv_heads * c.head_dim
        found |= {
            f"{at}self_attn.q_proj.weight": (inner, c.dim),
            f"{at}self_attn.k_proj.weight": (kv, c.dim),
            f"{at}self_attn.v_proj.weight": (kv, c.dim),
            f"{at}self_attn.o_proj.weight": (c.dim, inner),
            f"{at}mlp.gate_proj.weight": (c.ff_dim, c.dim),
            f"{at}mlp.up_proj.weight": (c.ff_dim, c.dim),
            f"{at}mlp.down_proj.weight": (c.dim, c.ff_dim),
            f"{at}input_layernorm.weight": (c.dim,),
            f"{at}post_attention_layernorm.weight": (c.dim,),
        }
    found["model.norm.weight"] = (c.dim,)
    return found


def _within(config: object, limits: dict[str, int]) -> None:
    for name, most in limits.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name} must be 1 to {most}; got {str(value)[:30]}")


def prompt(about: VoxtralBundle, delay: int) -> Sequence[int]:
    """The tokens that a stream of this delay begins with: nothing is written over the silence before the sound."""
    return (about.bos, *([about.pad] * (about.left_pad + delay)))
