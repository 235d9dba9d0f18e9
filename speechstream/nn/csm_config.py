"""The sizes of a CSM; without torch, so that whoever only runs one can read them."""

from __future__ import annotations

from dataclasses import dataclass, field

from speechstream.nn.llm_config import LlmConfig


@dataclass(frozen=True)
class CsmConfig:
    """A conversational speech model (Sesame's CSM): a language model over text and frames of codes, and one over a frame's levels.

    backbone: its vocab_size is that of the text. depth: its vocab_size is that of each level's codes, as the backbone's
    first code. levels: codes of a frame. end: the code whose frame ends the speech. sample_rate, frame_size, bins: of the
    codec, whose codes are below `bins`; what lies above them are marks, which are not drawn. text_begin, text_end: tokens
    around a text.
    """

    backbone: LlmConfig
    depth: LlmConfig
    levels: int
    sample_rate: int
    frame_size: int
    bins: int
    text_begin: int
    text_end: int
    end: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 256:
            raise ValueError(f"its frames must have 2 to 256 codes; got {self.levels}")
        if not 2 <= self.bins <= self.depth.vocab_size or not 0 <= self.end < self.bins:
            raise ValueError(
                f"its codec has {self.bins} codes a level and it knows {self.depth.vocab_size}; its end is {self.end}"
            )
        if not 8000 <= self.sample_rate <= 192_000 or not 1 <= self.frame_size <= self.sample_rate:
            raise ValueError(
                f"its codec has frames of {self.frame_size} samples at {self.sample_rate} Hz"
            )
        if any(not 0 <= i < self.backbone.vocab_size for i in (self.text_begin, self.text_end)):
            raise ValueError(f"its marks must be ids below {self.backbone.vocab_size}")
        if self.backbone.window or self.depth.window:
            raise ValueError("sliding windows are not supported")

    @property
    def frame_rate(self) -> float:
        """Frames a second: 12.5."""
        return self.sample_rate / self.frame_size


@dataclass(frozen=True)
class CsmSampling:
    """How codes are drawn, the first of a frame and the others. temperature 0: the likeliest. top_k 0: among all."""

    temperature: float = 0.9
    top_k: int = 50
    depth_temperature: float = 0.9
    depth_top_k: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100 or not 0 <= self.depth_temperature <= 100:
            raise ValueError(
                f"temperatures must be 0 to 100; got {self.temperature}, {self.depth_temperature}"
            )
        if self.top_k < 0 or self.depth_top_k < 0:
            raise ValueError(f"top_k must not be negative; got {self.top_k}, {self.depth_top_k}")


@dataclass(frozen=True)
class CsmVoiceConfig:
    """The `config` of a bundle. speakers: in the order of its voices. blocks: frames of a stream's first blocks, and of
    all that follow."""

    network: CsmConfig
    speakers: tuple[str, ...]
    language: str
    blocks: tuple[int, ...] = (1, 2, 4)
    sampling: CsmSampling = field(default_factory=CsmSampling)

    def __post_init__(self) -> None:
        if (
            not self.speakers
            or not self.blocks
            or not 1 <= min(self.blocks) <= max(self.blocks) <= 100
        ):
            raise ValueError("it has no speakers, or blocks that are not 1 to 100 frames long")
