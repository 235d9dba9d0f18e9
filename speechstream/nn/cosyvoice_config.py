"""CosyVoice 2 and 3 (arXiv:2412.10117, 2505.17589) as data: no torch here, so that a bundle can be read where it is not
installed."""

from __future__ import annotations

from dataclasses import dataclass, field

from speechstream.nn.flow_config import FlowConfig
from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.token_config import TokenEncoderConfig
from speechstream.nn.vocoder_config import HiftConfig, VocoderConfig

MODES = ("sentences", "interleaved")
MOST_SPEECH = 1 << 16  # tokens of one utterance


@dataclass(frozen=True)
class SpeechLmConfig:
    """A language model that reads text and writes speech tokens.

    What it reads is one table: text, then speech, then the markers where they have rows of their own. Ids of that table:
    `speech` is the first speech token, `begin` begins, `task` ends the text. What it writes is another, which begins with
    the speech tokens: `end` and `fill` (more text, please) stand in it. Text and speech come in turn, `text_group` and
    `speech_group` at a time, where the text is still being written. least, most: speech tokens to a token of text.
    """

    network: LlmConfig
    outputs: int
    speech: int
    speech_tokens: int
    begin: int
    task: int
    end: int
    fill: int
    text_group: int = 5
    speech_group: int = 15
    least: float = 2.0
    most: float = 20.0

    def __post_init__(self) -> None:
        rows = self.network.vocab_size
        if not 0 < self.speech_tokens <= self.outputs <= 1 << 20:
            raise ValueError(
                f"of {self.outputs} outputs {self.speech_tokens} cannot be speech tokens"
            )
        for name in ("begin", "task", "speech"):
            if not 0 <= getattr(self, name) < rows:
                raise ValueError(f"{name} must be 0 to {rows - 1}; got {getattr(self, name)}")
        if self.speech + self.speech_tokens > rows:
            raise ValueError(f"speech tokens from {self.speech} on do not fit a table of {rows}")
        for name in ("end", "fill"):
            if not self.speech_tokens <= getattr(self, name) < self.outputs:
                raise ValueError(
                    f"{name} must be {self.speech_tokens} to {self.outputs - 1}; got {getattr(self, name)}"
                )
        if self.end == self.fill or self.begin == self.task:
            raise ValueError("begin and task, end and fill must differ")
        if not (1 <= self.text_group <= 1000 and 1 <= self.speech_group <= 1000):
            raise ValueError(
                f"groups must be 1 to 1000; got {self.text_group} and {self.speech_group}"
            )
        if not 0 <= self.least <= self.most <= 1000 or self.most < 1:
            raise ValueError(
                f"least and most must rise from 0 to 1000; got {self.least}, {self.most}"
            )


@dataclass(frozen=True)
class SpeechSampling:
    """Nucleus sampling that notices repetition (VALL-E 2, arXiv:2406.05370).

    A token that stands `repeats` times or more among the last `window` ones is drawn anew, from all others.
    temperature 0: always the likeliest token. The draws follow from the seed, the utterance and the place in it.
    """

    top_p: float = 0.8
    top_k: int = 25
    window: int = 10
    repeats: int = 1
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1 or not 1 <= self.top_k <= 1 << 20:
            raise ValueError(
                f"top_p must be 0 to 1, top_k 1 or more; got {self.top_p}, {self.top_k}"
            )
        if not 0 <= self.window <= 10_000 or not 1 <= self.repeats <= 10_000:
            raise ValueError(
                f"window must be 0 to 10000 and repeats 1 to 10000; got {self.window}, {self.repeats}"
            )
        if not 0 <= self.temperature <= 100 or not 0 <= self.seed < 1 << 40:
            raise ValueError(
                f"temperature must be 0 to 100 and seed not negative; got {self.temperature}, {self.seed}"
            )


@dataclass(frozen=True)
class CosyVoiceConfig:
    """The `config` of a bundle. speakers: in the order of its voices.

    mode: "sentences" reads a clause whole, after the voice's prompt; "interleaved" reads text while it is written, as one
    stream. vocoder: one of the two.
    """

    version: int
    lm: SpeechLmConfig
    encoder: TokenEncoderConfig
    flow: FlowConfig
    speakers: tuple[str, ...]
    sampling: SpeechSampling = field(default_factory=SpeechSampling)
    vocoder: VocoderConfig | None = None
    hift: HiftConfig | None = None
    language: str = "en"
    mode: str = "sentences"

    def __post_init__(self) -> None:
        e, f = self.encoder, self.flow
        if self.version not in (2, 3):
            raise ValueError(f"version must be 2 or 3; got {self.version}")
        if (self.vocoder is None) == (self.hift is None):
            raise ValueError("it needs one vocoder, either `vocoder` or `hift`")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}; got {self.mode!r}")
        if not self.speakers or len(set(self.speakers)) != len(self.speakers):
            raise ValueError("it has no speakers, or two of one name")
        mels = {e.n_mels, f.n_mels, f.condition_dim, f.speaker_dim, self.sound.n_mels}
        if len(mels) != 1 or not f.prompt or f.tokens or f.lookahead:
            raise ValueError("its encoder, flow and vocoder do not fit each other")
        if f.windows.block != e.block * e.repeats:
            raise ValueError(
                f"a block of {e.block} tokens is {e.block * e.repeats} frames; the flow has blocks of {f.windows.block}"
            )
        if self.lm.speech_tokens > e.vocab_size:
            raise ValueError("its language model writes tokens that its encoder does not know")

    @property
    def sound(self) -> VocoderConfig | HiftConfig:
        """The vocoder, of either kind."""
        if self.hift is not None:
            return self.hift
        if self.vocoder is not None:
            return self.vocoder
        raise ValueError("it has no vocoder")
