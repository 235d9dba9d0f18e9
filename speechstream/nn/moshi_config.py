"""The sizes of a Moshi; without torch, so that whoever only reads a bundle can know them."""

from __future__ import annotations

from dataclasses import dataclass, field

from speechstream.nn.kyutai_config import check_codec
from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.mimi_config import MimiConfig

# What a config may ask of the depth transformer at most: the released one is well below, and a damaged file is not.
LIMITS = {
    "dim": 1 << 15,
    "layers": 128,
    "heads": 512,
    "kv_heads": 512,
    "head_dim": 1024,
    "ff_dim": 1 << 18,
}


@dataclass(frozen=True)
class DepthConfig:
    """The depth transformer, which writes the codes of one frame level by level, with weights of their own for each level."""

    dim: int = 1024
    layers: int = 6
    heads: int = 16
    kv_heads: int = 16
    head_dim: int = 64
    ff_dim: int = 2816
    norm_eps: float = 1e-8

    def __post_init__(self) -> None:
        for name, most in LIMITS.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ValueError(f"the depth transformer's {name} must be 1 to {most}; got {value}")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"the depth transformer's heads must be a multiple of its kv_heads; got {self.heads} and {self.kv_heads}"
            )
        if not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps must be between 0 and 1; got {self.norm_eps}")


@dataclass(frozen=True)
class MoshiConfig:
    """A Moshi (arXiv:2410.00037).

    text: the temporal transformer; its vocab_size is that of the text it writes, and one row more begins a stream. levels:
    codes of a frame, as many of the user's as of its own, each of `codec.codebook_size`, and one row more that begins.
    """

    codec: MimiConfig
    text: LlmConfig
    depth: DepthConfig
    levels: int = 8

    def __post_init__(self) -> None:
        check_codec(self.codec)
        if not 2 <= self.levels <= self.codec.n_codebooks:
            raise ValueError(
                f"it speaks in {self.levels} codes a frame, expected 2 to {self.codec.n_codebooks}, those of its codec"
            )
        if self.codec.n_semantic_codebooks != 1:
            raise ValueError(
                f"its codec has {self.codec.n_semantic_codebooks} semantic codebooks, expected 1: the others lag it by a frame"
            )
        if self.text.tied:
            raise ValueError("its output layer cannot be the embedding, which has a row more")
        if not self.text.all_windowed:
            raise ValueError("the temporal transformer's layers must all have the same window")

    @property
    def begin_text(self) -> int:
        """What a stream's text begins with."""
        return self.text.vocab_size

    @property
    def begin_code(self) -> int:
        """What a stream's codes begin with."""
        return self.codec.codebook_size

    @property
    def parameters(self) -> int:
        """Numbers in the matrices of both transformers; the codec's, of about 80 million, are not among them."""
        t, d = self.text, self.depth
        layer = t.dim * t.head_dim * 2 * (t.heads + t.kv_heads) + 3 * t.dim * t.ff_dim
        deep = d.dim * d.head_dim * 2 * (d.heads + d.kv_heads) + 3 * d.dim * d.ff_dim
        rows = 2 * t.vocab_size + 2 * self.levels * (self.begin_code + 1)
        level = d.layers * deep + (t.dim + 2 * self.begin_code) * d.dim
        return t.layers * layer + rows * t.dim + self.levels * level + t.vocab_size * d.dim


@dataclass(frozen=True)
class FrameSampling:
    """How the text and the codes of a frame are drawn; defaults are Kyutai's. temperature 0: the likeliest."""

    text_temperature: float = 0.7
    text_top_k: int = 25
    temperature: float = 0.8
    top_k: int = 250

    def __post_init__(self) -> None:
        if not 0 <= self.text_temperature <= 100 or not 0 <= self.temperature <= 100:
            raise ValueError(
                f"temperatures must be 0 to 100; got {self.text_temperature}, {self.temperature}"
            )
        if self.text_top_k < 0 or self.top_k < 0:
            raise ValueError(f"top_k must not be negative; got {self.text_top_k}, {self.top_k}")


@dataclass(frozen=True)
class MoshiBundle:
    """What a bundle says of a Moshi beside its weights. pad: the token of a frame in which no text is written; word: the one
    before a word begins."""

    network: MoshiConfig
    pad: int = 3
    word: int = 0
    sampling: FrameSampling = field(default_factory=FrameSampling)

    def __post_init__(self) -> None:
        size = self.network.text.vocab_size
        if not 0 <= self.pad < size or not 0 <= self.word < size:
            raise ValueError(
                f"its special tokens must be ids below {size}; got {self.pad}, {self.word}"
            )

    @property
    def frame_s(self) -> float:
        """Seconds of a frame: 0.08."""
        return self.network.codec.frame_size / self.network.codec.sample_rate
