"""The size of a Kyutai speech-to-text; without torch, so that whoever only runs one can read it."""

from __future__ import annotations

from dataclasses import dataclass

from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.mimi_config import MimiConfig

# What a config may ask of the codec at most: the released one is well below, and a damaged file is not.
CODEC_LIMITS = {
    "n_codebooks": 256,
    "codebook_size": 1 << 16,
    "code_dim": 1 << 13,
    "stride": 64,
    "sample_rate": 192_000,
    "transformer.dim": 1 << 13,
    "transformer.layers": 128,
    "transformer.heads": 256,
    "transformer.ff_dim": 1 << 15,
    "transformer.left_context": 1 << 16,
    "seanet.dim": 1 << 13,
    "seanet.filters": 1 << 10,
    "seanet.kernel": 64,
    "seanet.last_kernel": 64,
    "seanet.residual_kernel": 64,
    "seanet.residual_layers": 16,
    "seanet.dilation_base": 16,
    "seanet.compress": 64,
}
LIMITS = {"levels": 256, "audio_vocab": 1 << 17, "out_size": 1 << 20}


@dataclass(frozen=True)
class KyutaiConfig:
    """A Kyutai speech-to-text (delayed streams, arXiv:2509.08753): Mimi's encoder and a language model over its codes.

    text.vocab_size: text tokens that can be read; out_size: those that can be written. levels: codes of a frame that
    are read, each of a table of `audio_vocab`, the first frame as `audio_bos`. pause_heads: heads that say, for growing
    stretches of time, how likely nobody speaks, each among `pause_classes`.
    """

    codec: MimiConfig
    text: LlmConfig
    levels: int = 32
    audio_vocab: int = 2049
    audio_bos: int = 2048
    out_size: int = 4001
    pause_heads: int = 0
    pause_classes: int = 6

    def __post_init__(self) -> None:
        check_codec(self.codec)
        for name, most in LIMITS.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be 1 to {most}; got {value}")
        if not 0 <= self.pause_heads <= 64 or not 1 <= self.pause_classes <= 1024:
            raise ValueError(
                f"pause_heads must be 0 to 64 of 1 to 1024 classes; got {self.pause_heads} of {self.pause_classes}"
            )
        if not self.codec.n_semantic_codebooks <= self.levels <= self.codec.n_codebooks:
            raise ValueError(
                f"the language model hears {self.levels} codes of a frame, and the codec makes {self.codec.n_codebooks}"
            )
        if max(self.codec.codebook_size - 1, self.audio_bos) >= self.audio_vocab:
            raise ValueError(
                f"the language model knows {self.audio_vocab} codes, and the codec makes {self.codec.codebook_size} "
                f"beside the first frame's {self.audio_bos}"
            )
        if self.audio_bos < 0 or self.out_size > self.text.vocab_size:
            raise ValueError(
                f"audio_bos must be 0 or more and out_size at most {self.text.vocab_size}; got {self.audio_bos}, {self.out_size}"
            )
        if self.text.tied:
            raise ValueError("the output layer cannot be the embedding, which holds codes as well")
        if self.text.window and not self.text.all_windowed:
            raise ValueError("the language model's layers must all have the same window")

    @property
    def rows(self) -> int:
        """Rows of the embedding: text tokens, then the codes of each level."""
        return self.text.vocab_size + self.levels * self.audio_vocab

    @property
    def parameters(self) -> int:
        """Numbers in the language model's matrices; the codec's encoder, of about 50 million, is not among them."""
        t = self.text
        attention = t.dim * t.head_dim * 2 * (t.heads + t.kv_heads)
        heads = self.pause_heads * self.pause_classes
        return (
            t.layers * (attention + 3 * t.dim * t.ff_dim)
            + (self.rows + self.out_size + heads) * t.dim
        )


@dataclass(frozen=True)
class KyutaiBundle:
    """What a bundle says of a Kyutai speech-to-text beside its weights.

    bos: the row of the embedding that a stream begins with. word: the token that stands where a word begins or ends.
    delay, prefix: samples of the codec's, by which text lags its sound, and of silence before it. suffix: samples of
    silence after it.
    """

    network: KyutaiConfig
    bos: int
    word: int = 0
    delay: int = 60_000
    prefix: int = 24_000
    suffix: int = 84_000

    def __post_init__(self) -> None:
        if not 0 <= self.bos < self.network.rows or not 0 <= self.word < self.network.out_size:
            raise ValueError(
                f"its special tokens must be ids below {self.network.rows} and {self.network.out_size}; "
                f"got {self.bos}, {self.word}"
            )
        rate = self.network.codec.sample_rate
        for name in ("delay", "prefix", "suffix"):
            if not 0 <= getattr(self, name) <= 60 * rate:
                raise ValueError(f"its {name} must be 0 to 60 seconds; got {getattr(self, name)}")
        if self.delay < rate // 1000:
            raise ValueError(f"its delay is {self.delay} samples, expected a millisecond or more")

    @property
    def token_s(self) -> float:
        """Seconds of sound to a token: 0.08."""
        return self.network.codec.frame_size / self.network.codec.sample_rate


def check_codec(codec: MimiConfig) -> None:
    """Raises ValueError for a codec whose sizes no released one comes near."""
    for name, most in CODEC_LIMITS.items():
        part, _, last = name.rpartition(".")
        value = getattr(getattr(codec, part) if part else codec, last)
        if not 1 <= value <= most:
            raise ValueError(f"the codec's {last} must be 1 to {most}; got {str(value)[:30]}")
    ratios = codec.seanet.ratios
    if len(ratios) > 8 or max(ratios) > 64 or codec.frame_size > codec.sample_rate:
        raise ValueError(f"the codec's ratios are {str(ratios)[:60]}")
    if codec.seanet.channels != 1:
        raise ValueError(
            f"the codec hears {codec.seanet.channels} channels, and only 1 is supported"
        )
    if codec.sample_rate < 8000 or not 1 < codec.transformer.max_period < 1e12:
        raise ValueError(
            f"the codec's sample_rate is {codec.sample_rate} and its max_period {codec.transformer.max_period}"
        )
    if not 0 < codec.n_semantic_codebooks < codec.n_codebooks or codec.codebook_size < 2:
        raise ValueError(
            f"the codec has {codec.n_codebooks} codebooks of {codec.codebook_size}, {codec.n_semantic_codebooks} semantic"
        )
