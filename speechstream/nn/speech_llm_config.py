"""The size of a speech LLM with a transducer branch; without torch, so that whoever only runs one can read it."""

from __future__ import annotations

from dataclasses import dataclass

from speechstream.nn.llm_config import LlmConfig

LIMITS = {
    "n_mels": 256,
    "dim": 1 << 13,
    "heads": 256,
    "layers": 128,
    "positions": 1 << 16,
    "left_context": 1 << 16,
}
OWN_LIMITS = {
    "stack": 64,
    "trunk_dim": 1 << 13,
    "trunk_blocks": 64,
    "kernel": 256,
    "look": 1 << 12,
    "look_blocks": 64,
    "text_window": 1 << 16,
}
MOST_SINKS = 1 << 10


@dataclass(frozen=True)
class SoundConfig:
    """The causal Whisper encoder (`nn.whisper.Encoder`); `left_context` and `positions` in frames of 20 ms."""

    n_mels: int = 80
    dim: int = 512
    heads: int = 8
    layers: int = 6
    positions: int = 1500
    left_context: int = 400

    def __post_init__(self) -> None:
        _check(self, LIMITS)
        if self.dim % self.heads or self.dim % 2:
            raise ValueError(f"{self.heads} heads cannot share a width of {self.dim}")


@dataclass(frozen=True)
class SpeechLlmConfig:
    """Encoder, trunk, language model and joint.

    text.vocab_size: the tokens that can be written, of which number 0 begins a text. stack: encoder frames to one of the
    trunk (80 ms). trunk: causal convolutions of `kernel` frames. look: encoder frames that the joint attends to, up to the
    one it is asked about, in `look_blocks` blocks. sound_window: frames of sound that the language model
    sees besides the first `sound_sinks`; 0: it hears nothing and is a prediction network. text_window, text_sinks: the
    same in tokens. ctc_vocab_size: pieces that the CTC head knows, blank among them; 0: nobody asks which it hears.
    """

    sound: SoundConfig
    text: LlmConfig
    stack: int = 4
    trunk_dim: int = 512
    trunk_blocks: int = 3
    kernel: int = 7
    look: int = 96
    look_blocks: int = 3
    ctc_dim: int = 0
    ctc_blocks: int = 0
    ctc_vocab_size: int = 0
    sound_window: int = 128
    sound_sinks: int = 4
    text_window: int = 256
    text_sinks: int = 4

    def __post_init__(self) -> None:
        _check(self, OWN_LIMITS)
        for name, most in (
            ("sound_window", 1 << 16),
            ("sound_sinks", MOST_SINKS),
            ("text_sinks", MOST_SINKS),
        ):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be 0 to {most}; got {getattr(self, name)}")
        if self.text.window or not self.text.tied or self.text.vocab_size < 2:
            raise ValueError(
                "the language model must be tied, without windows of its own, and have two tokens or more"
            )
        if not 0 <= self.ctc_dim <= 1 << 13 or not 0 <= self.ctc_blocks <= 64:
            raise ValueError(
                f"ctc_dim must be 0 to {1 << 13} and ctc_blocks 0 to 64; got {self.ctc_dim}, {self.ctc_blocks}"
            )
        if not 0 <= self.ctc_vocab_size <= 1 << 16 or self.ctc_vocab_size and not self.ctc_dim:
            raise ValueError(
                f"ctc_vocab_size must be 0 to {1 << 16}, and 0 without a CTC head; got {self.ctc_vocab_size}"
            )
        if self.ctc_dim and self.stack % 2:
            raise ValueError(f"the CTC head reads pairs of frames, and {self.stack} are stacked")
        if self.look % self.stack:
            raise ValueError(f"look must be a multiple of {self.stack} frames; got {self.look}")
        if self.kernel < 2:
            raise ValueError(f"kernel must be 2 or more; got {self.kernel}")

    @property
    def hears(self) -> bool:
        """Whether the language model is given the sound."""
        return self.sound_window > 0


@dataclass(frozen=True)
class SpeechLlmBundle:
    """What a bundle says beside its weights.

    chunks: encoder frames that a live stream may take at a time. threshold: log odds of silence from which a frame is
    kept from the language model. max_symbols: tokens of one frame. delay: frames (of `stack`) from the end of a token's
    sound to where it was taught to be said. tail: encoder frames of silence after a segment.
    """

    network: SpeechLlmConfig
    chunks: tuple[int, ...] = (8, 16, 32, 64)
    threshold: float = 2.0
    max_symbols: int = 8
    delay: int = 1
    tail: int = 40

    def __post_init__(self) -> None:
        stack = self.network.stack
        if not self.chunks or any(not 0 < c <= 1500 or c % stack for c in self.chunks):
            raise ValueError(
                f"chunks must be multiples of {stack} frames up to 1500; got {str(self.chunks)[:60]}"
            )
        if not 1 <= self.max_symbols <= 64 or not 0 <= self.delay <= 64:
            raise ValueError(
                f"max_symbols must be 1 to 64 and delay 0 to 64; got {self.max_symbols}, {self.delay}"
            )
        if not 0 <= self.tail <= 500 or not abs(self.threshold) < 1e6:
            raise ValueError(
                f"tail must be 0 to 500 frames and threshold a number; got {self.tail}, {self.threshold}"
            )


def _check(config: object, limits: dict[str, int]) -> None:
    for name, most in limits.items():
        value = getattr(config, name)
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be 1 to {most}; got {str(value)[:30]}")
