"""The sizes of a Qwen3-ASR; without torch, so that whoever only runs one can read it."""

from __future__ import annotations

from dataclasses import dataclass

from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.omni_config import LIMITS as OMNI_LIMITS, check_encoder

LIMITS = OMNI_LIMITS | {"channels": 1 << 13, "chunk": 1 << 10}
TOKENS = 13  # of a chunk; the reference counts on it


def halved(size: int) -> int:
    """What three convolutions of stride 2 leave of a size."""
    for _ in range(3):
        size = (size + 1) // 2
    return size


@dataclass(frozen=True)
class QwenEncoderConfig:
    """The audio encoder; defaults are those of Qwen3-ASR-1.7B.

    chunk: mel frames that are convolved by themselves, one second. window: mel frames that see each other, 8 s; a multiple
    of the chunk. channels: of the convolutions.
    """

    n_mels: int = 128
    dim: int = 1024
    layers: int = 24
    heads: int = 16
    ff_dim: int = 4096
    channels: int = 480
    chunk: int = 100
    window: int = 800
    out_dim: int = 2048

    def __post_init__(self) -> None:
        check_encoder(self, LIMITS)
        if halved(self.chunk) != TOKENS:
            raise ValueError(
                f"the audio encoder's chunk must be 97 to 104 mel frames, of which the reference makes {TOKENS} tokens; "
                f"got {self.chunk}"
            )
        if self.window % self.chunk:
            raise ValueError(
                f"the audio encoder's window must be a multiple of its chunk; got {self.window} and {self.chunk}"
            )

    @property
    def window_tokens(self) -> int:
        """Tokens that see each other."""
        return self.window // self.chunk * TOKENS

    @property
    def conv_dim(self) -> int:
        """Numbers that the convolutions leave of a token."""
        return self.channels * halved(self.n_mels)


@dataclass(frozen=True)
class QwenAsrConfig:
    """A Qwen3-ASR (arXiv:2601.21337): an encoder that hears in windows, and a Qwen3."""

    encoder: QwenEncoderConfig
    text: LlmConfig

    def __post_init__(self) -> None:
        if self.encoder.out_dim != self.text.dim:
            raise ValueError(
                f"the encoder gives {self.encoder.out_dim} channels and the language model takes {self.text.dim}"
            )

    @property
    def parameters(self) -> int:
        """Numbers in its matrices."""
        e = self.encoder
        layer = 4 * e.dim * e.dim + 2 * e.dim * e.ff_dim
        ends = 9 * e.channels * (1 + 2 * e.channels) + e.dim * (e.conv_dim + e.dim + e.out_dim)
        return e.layers * layer + ends + self.text.parameters


@dataclass(frozen=True)
class QwenAsrBundle:
    """What a bundle says of a Qwen3-ASR beside its weights.

    start, end: ids of the prompt before and behind the sound. stop: what ends a text. mark: stands between the language
    that the model has heard and the text. language: that it was told, "" for none.
    """

    network: QwenAsrConfig
    start: tuple[int, ...]
    end: tuple[int, ...]
    stop: tuple[int, ...]
    mark: int
    language: str = ""

    def __post_init__(self) -> None:
        size = self.network.text.vocab_size
        ids = (*self.start, *self.end, *self.stop, self.mark)
        if any(not 0 <= i < size for i in ids):
            raise ValueError(f"its marks must be ids below {size}")
        if not self.start or not self.end or not self.stop or len(ids) > 10_000:
            raise ValueError("it needs a short prompt, and marks that end a text")
