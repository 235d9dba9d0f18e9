"""The sizes of a thinker-talker model; without torch, so that whoever only reads a bundle can know them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from speechstream.nn.flow_config import FlowConfig
from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.vocoder_config import BigVganConfig

SAMPLE_RATE = 24_000  # of what is spoken; the model's configuration does not say it
LONGEST_SPAN = 1024  # tokens or codes that are interleaved
# What a config may ask for at most: the released models are well below, and a damaged file is not.
LIMITS = {
    "n_mels": 1 << 10,
    "dim": 1 << 15,
    "layers": 256,
    "heads": 512,
    "ff_dim": 1 << 18,
    "window": 1 << 14,
    "out_dim": 1 << 15,
}


@dataclass(frozen=True)
class OmniEncoderConfig:
    """The audio encoder; defaults are those of Qwen2.5-Omni-7B.

    window: frames of 20 ms that attend to each other, a block of sound, of 2 s. Two of them make a token of `out_dim`.
    """

    n_mels: int = 128
    dim: int = 1280
    layers: int = 32
    heads: int = 20
    ff_dim: int = 5120
    window: int = 100
    out_dim: int = 3584

    def __post_init__(self) -> None:
        check_encoder(self, LIMITS)

    @property
    def block(self) -> int:
        """Mel frames to a block."""
        return 2 * self.window


def check_encoder(config: Any, limits: dict[str, int]) -> None:
    """Raises ValueError for sizes of an audio encoder that are no sizes, or go beyond these."""
    for name, most in limits.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(
                f"the audio encoder's {name} must be 1 to {most}; got {str(value)[:30]}"
            )
    dim, heads = config.dim, config.heads
    if dim % heads or dim % 2 or dim < 4:
        raise ValueError(
            f"the audio encoder's dim must be even, 4 or more, and a multiple of heads; got {dim} and {heads}"
        )


@dataclass(frozen=True)
class TalkerConfig:
    """The language model over codes of speech: its `vocab_size` are codes and marks.

    input_dim: of the thinker's features and of the codes' embeddings. start, pad, end, mask: the marks; `pad` ends
    speech as `end` does. mask stands for the text before an answer, where a repeated code is penalised. text_span,
    code_span: the talker reads the features of so many tokens, then writes so many codes, as in OpenS2S
    (`nn.interleaved`); 0: a code for each token, whose features are added to it.
    """

    lm: LlmConfig
    input_dim: int
    start: int
    pad: int
    end: int
    mask: int
    text_span: int = 0
    code_span: int = 0

    def __post_init__(self) -> None:
        if type(self.input_dim) is not int or not 1 <= self.input_dim <= LIMITS["dim"]:
            raise ValueError(f"the talker's input_dim must be 1 to {LIMITS['dim']}")
        for name in ("start", "pad", "end", "mask"):
            if not 0 <= getattr(self, name) < self.lm.vocab_size:
                raise ValueError(
                    f"the talker's mark {name!r} must be below {self.lm.vocab_size}, its codes"
                )
        spans = self.text_span, self.code_span
        if any(not 0 <= n <= LONGEST_SPAN for n in spans) or bool(spans[0]) != bool(spans[1]):
            raise ValueError(
                f"text_span and code_span must be 1 to {LONGEST_SPAN}, or both 0; got {spans[0]} and {spans[1]}"
            )

    @property
    def interleaved(self) -> bool:
        """Whether features and codes take turns."""
        return self.text_span > 0


@dataclass(frozen=True)
class OmniConfig:
    """A thinker-talker model (Qwen2.5-Omni, arXiv:2503.20215): sound and text in, text and sound out."""

    encoder: OmniEncoderConfig
    thinker: LlmConfig
    talker: TalkerConfig
    flow: FlowConfig
    vocoder: BigVganConfig

    def __post_init__(self) -> None:
        dims = (self.encoder.out_dim, self.talker.input_dim)
        if dims != (self.thinker.dim,) * 2:
            raise ValueError(
                f"the encoder gives {dims[0]} and the talker takes {dims[1]} channels; both must be {self.thinker.dim}, "
                "the thinker's"
            )
        if self.flow.n_mels != self.vocoder.n_mels:
            raise ValueError(
                f"the flow decoder makes {self.flow.n_mels} mel channels and the vocoder takes {self.vocoder.n_mels}"
            )
        if not self.flow.tokens or not self.flow.speaker_dim:
            raise ValueError("the flow decoder needs codes and a speaker's vector")

    @property
    def parameters(self) -> int:
        """Numbers in the matrices of encoder, thinker and talker."""
        e, t = self.encoder, self.talker
        layer = 4 * e.dim * e.dim + 2 * e.dim * e.ff_dim
        ends = 3 * e.dim * (e.n_mels + e.dim) + e.dim * e.out_dim
        talker = t.lm.parameters + t.input_dim * (t.lm.vocab_size + t.lm.dim)
        return e.layers * layer + ends + self.thinker.parameters + talker


@dataclass(frozen=True)
class CodeSampling:
    """How the talker's codes are drawn; defaults are those of the released model. temperature 0: the likeliest.

    penalty: what a code that was said before is divided by (or multiplied with, below zero), as in CTRL
    (arXiv:1909.05858). most: codes of an answer.
    """

    temperature: float = 0.9
    top_k: int = 40
    top_p: float = 0.8
    penalty: float = 1.05
    most: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"temperature must be 0 to 100, top_p above 0 and at most 1, top_k not negative; got {self.temperature}, "
                f"{self.top_p}, {self.top_k}"
            )
        if not 0 < self.penalty <= 100 or not 1 <= self.most <= 1 << 20:
            raise ValueError(
                f"penalty must be above 0, most 1 or more; got {self.penalty}, {self.most}"
            )


@dataclass(frozen=True)
class OmniBundle:
    """What a bundle says of a thinker-talker model beside its weights. All marks are ids of the thinker's.

    audio_start, audio_end: around the user's sound. stop: what ends an answer's text. text_end, text_pad: what the
    talker is fed behind it. speakers: the mark that begins a speaker's speech. system: what the model is told first, as
    it was trained. vocoder_ahead: mel frames that the vocoder is given beyond a chunk.
    """

    network: OmniConfig
    audio_start: int
    audio_end: int
    stop: tuple[int, ...]
    text_end: int
    text_pad: int
    speakers: dict[str, int]
    system: str = ""
    vocoder_ahead: int = 16
    sampling: CodeSampling = field(default_factory=CodeSampling)

    def __post_init__(self) -> None:
        size = self.network.thinker.vocab_size
        marks = (self.audio_start, self.audio_end, self.text_end, self.text_pad)
        if any(not 0 <= i < size for i in (*marks, *self.stop, *self.speakers.values())):
            raise ValueError(f"its marks must be ids below {size}")
        if not self.stop or not self.speakers or len(self.speakers) > 1000 or len(self.stop) > 100:
            raise ValueError("it needs marks that end an answer, and speakers")
        if not 0 <= self.vocoder_ahead <= 1024 or len(self.system) > 1 << 16:
            raise ValueError("its vocoder_ahead must be 0 to 1024 frames, its system prompt short")
