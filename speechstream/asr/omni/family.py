"""The thinker of a thinker-talker model as a recogniser: a speech LLM that is asked to write down what it hears.

A stretch of speech is read in blocks of 2 s while it lasts: see `asr.redecode.family`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from speechstream.asr.redecode.family import (
    RedecodingFamily,
    SpeechLlmCache,
    check_arrays,
    check_frames,
    loader,
    text_shapes,
)
from speechstream.audio.block_mel import BlockMel, BlockMelState
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.omni_config import OmniBundle
from speechstream.runtime.requests import Work

SYSTEM = "You are a speech recognition model."
ASK = "Transcribe the English audio into text without any punctuation marks."


@dataclass(frozen=True)
class Listen:
    """Read features (mels, frames). Answer: the encoder's frames that are left, the thinker's state."""

    networks: Any
    mel: np.ndarray
    frames: np.ndarray
    text: Any
    last: bool = False
    key = None

    def run(self) -> Any:
        return self.networks.listen(self.mel, self.frames, self.text, self.last)

    def run_many(self, requests: Sequence[Listen]) -> list[Any]:
        return [r.run() for r in requests]


class OmniFamily(RedecodingFamily):
    """See `asr.family.Family`."""

    architecture = "thinker-talker"
    batch_size = 1  # sound is heard stream by stream

    def __init__(self, networks: Any, about: OmniBundle, tokenizer: Tokenizer):
        self.config = about.network
        e = about.network.encoder
        ask = tokenizer.encode(f"{ASK}<|im_end|>\n<|im_start|>assistant\n")
        prompt = (about.audio_end, *ask)
        super().__init__(
            networks, BlockMel(e.n_mels, e.block), tokenizer, (e.block,), prompt, about.stop
        )
        start = tokenizer.encode(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n")
        nothing = np.zeros((1, 0, e.dim), np.float32)
        self._start = SpeechLlmCache(nothing, networks.prefix([*start, about.audio_start]))

    def _begin(self) -> SpeechLlmCache:
        return self._start

    def _hear(self, frames: np.ndarray, cache: SpeechLlmCache) -> Work[SpeechLlmCache]:
        text = self.networks.native(cache.text)
        left, text = yield Listen(self.networks, frames, cache.frames, text)
        return SpeechLlmCache(left, self.networks.value(text))

    def _ended(self, frames: np.ndarray, cache: SpeechLlmCache) -> Work[Any]:
        text = self.networks.native(cache.text)
        if frames.shape[1]:
            _, text = yield Listen(self.networks, frames, cache.frames, text, last=True)
        return text

    def _types(self) -> Mapping[str, Any]:
        return {"cache": SpeechLlmCache, "sound": BlockMelState}

    def _check_cache(self, cache: SpeechLlmCache, frames: int) -> None:
        heard = frames // 2  # of the encoder, two to a token
        rows = self._start.text.keys.shape[3] + heard // 2
        check_frames(cache.frames, (1, heard % 2, self.config.encoder.dim))
        check_arrays(cache.text, text_shapes(self.config.thinker, rows), rows)


load = loader(OmniBundle, OmniFamily, "speechstream.asr.omni", engines=("torch",))
