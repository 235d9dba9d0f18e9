"""Run an exported codec language model with numpy and onnxruntime alone.

    network = CodecLmNetwork(bundle, config)
    encoding = network.encode(ids, speaker)              # one clause
    made, state = network.step([told], state)            # a frame of each stream

The graphs come from `speechstream.export.codec_lm`. What a stream has heard is in its state, so streams and threads may
share a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream import bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.tts.codec_lm.pointer import CANDIDATES
from speechstream.tts.encoded import SpeakerConfig, TextEncoder
from speechstream.tts.graphs import VoiceGraph

ARCHITECTURE = "codec-lm-tts"
TEXT, FRAMES, CODEC = "text.onnx", "frames.onnx", "codec.onnx"
Array = np.ndarray


@dataclass(frozen=True)
class Sampling:
    """temperature: of the codes; 0 takes the likeliest. pace: how much of the spread of durations is drawn, 0 takes the
    median, 1 draws from the model. seed: of all that is drawn."""

    temperature: float = 0.0
    pace: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10 or not 0 <= self.pace <= 1 or self.seed < 0:
            raise ValueError(
                "sampling needs a temperature of 0 to 10, a pace of 0 to 1 and a seed of 0 or more"
            )


@dataclass(frozen=True)
class CodecLmVoiceConfig:
    """The `config` of a bundle. rows: numbers that are told of a phoneme. text_speakers: the text encoder's number of
    each speaker. blocks: codec frames of a stream's first blocks, and of all that follow. model: sizes of the language
    model, to train it further."""

    sample_rate: int  # Hz
    frame_size: int  # samples of a codec frame
    subframes: int  # a codec frame
    rows: int
    levels: int
    codebook_size: int
    symbols: str  # in the order of the text encoder's embedding
    speakers: tuple[SpeakerConfig, ...]
    text_speakers: tuple[int, ...]
    blocks: tuple[int, ...]
    sampling: Sampling = Sampling()
    language: str = "en-US"
    model: Any = None

    def __post_init__(self) -> None:
        sizes = (self.sample_rate, self.frame_size, self.subframes, self.rows, *self.blocks)
        sizes = (*sizes, self.levels, self.codebook_size)
        if min(sizes) < 1 or not self.blocks or not self.symbols or not self.speakers:
            raise ValueError(
                "it has no speakers, symbols or blocks, or sizes that are not positive"
            )
        if len(self.text_speakers) != len(self.speakers):
            raise ValueError("it does not say which of the text encoder's its speakers are")


@dataclass(frozen=True)
class Told:
    """What one frame of one stream is made from, see `speechstream.nn.codec_lm.Frame`: without the axis of streams."""

    text: Array  # (subframes, rows)
    elapsed: Array  # (subframes,)
    before: Array  # (levels,)
    ahead: Array  # (CANDIDATES, rows)
    lasted: int
    noise: Array  # (levels, codebook_size)


@dataclass(frozen=True)
class Made:
    """A frame's codes (levels,) int64, and the hazards (CANDIDATES, subframes) of what follows."""

    codes: Array
    hazards: Array


class CodecLmNetwork(TextEncoder):
    """`text.onnx` and `frames.onnx` of a voice."""

    def __init__(
        self,
        model: bundle.Bundle,
        config: CodecLmVoiceConfig,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        """Raises SpeechStreamError where a graph cannot be used."""
        super().__init__(model.file(TEXT), threads, device)
        self._frames = VoiceGraph(model.file(FRAMES), threads, device)
        shapes = {i.name: i.shape for i in self._frames.session.get_inputs()}
        expected = {
            "text": [config.subframes, config.rows],
            "ahead": [CANDIDATES, config.rows],
            "noise": [config.levels, config.codebook_size],
        }
        found = {n: shapes.get(n, [None])[1:] for n in expected}
        if found != expected or self._frames.init_state() is None:
            raise SpeechStreamError(
                f"{model.path} is damaged: its {FRAMES} takes {found}, not {expected}, with a state"
            )

    def init_state(self, batch: int = 1) -> Any:
        """The state of `batch` streams that have said nothing: a frozen dataclass of arrays."""
        return self._frames.init_state(batch)

    def step(self, told: Sequence[Told], state: Any) -> tuple[list[Made], Any]:
        """A frame of each stream, and their new state."""
        inputs = {
            "text": np.stack([t.text for t in told]),
            "elapsed": np.stack([t.elapsed for t in told]),
            "before": np.stack([t.before for t in told]),
            "ahead": np.stack([t.ahead for t in told]),
            "lasted": np.array([t.lasted for t in told], np.int64),
            "noise": np.stack([t.noise for t in told]),
        }
        out, state = self._frames.step(inputs, state)
        return [Made(*one) for one in zip(out["codes"], out["hazards"])], state


def read_config(model: bundle.Bundle) -> CodecLmVoiceConfig:
    """A bundle's configuration. Raises SpeechStreamError where it is of another version."""
    try:
        return read(CodecLmVoiceConfig, model.config)
    except ValueError as error:
        raise SpeechStreamError(f"the voice {model.path} is of another version: {error}") from error
