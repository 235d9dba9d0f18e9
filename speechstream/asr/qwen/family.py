"""The family of Qwen3-ASR: a speech LLM whose encoder hears in windows of 8 s, made of chunks of one second.

What was heard in whole windows is read once; of the window that is open the chunks are kept, and heard together whenever
the text is written: see `asr.redecode.family`. So a step costs no more however long a stretch of speech is, but for the keys and
values of what was read before.

The text at the end equals that of transformers on the whole recording. The authors' own streaming gives the model all
sound anew every 2 s, and keeps what it wrote before but for the last five tokens, whatever it would write now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechstream.asr.redecode.family import (
    Reading,
    RedecodingFamily,
    SpeechLlmCache,
    check_arrays,
    check_frames,
    loader,
    text_shapes,
)
from speechstream.audio.block_mel import BlockMel, BlockMelState
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.growing import TextArrays
from speechstream.nn.qwen_asr_config import TOKENS, QwenAsrBundle
from speechstream.runtime.requests import Work

LEAST_SAMPLES = 8000  # to which a shorter recording is filled up


class Networks(Reading, Protocol):
    """One engine."""

    def prefix(self, tokens: Sequence[int]) -> TextArrays:
        """A state, as arrays, that has read these tokens."""

    def convolve(self, mel: np.ndarray) -> np.ndarray:
        """mel (B, n_mels, a chunk or less) to frames (B, n, dim)."""

    def listen(self, frames: np.ndarray, states: Sequence[Any]) -> list[Any]:
        """The states of B streams after frames (B, n, dim) of a window, or of what there is of it."""

    def value(self, state: Any) -> TextArrays:
        """A state as arrays."""

    def native(self, a: TextArrays) -> Any:
        """A state from arrays."""


@dataclass(frozen=True)
class Convolve:
    """A chunk (n_mels, frames) of sound. Answer: frames (n, dim)."""

    networks: Networks
    mel: np.ndarray

    @property
    def key(self) -> Any:
        return self.networks, "convolve", self.mel.shape[1]

    def run(self) -> np.ndarray:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Convolve]) -> list[np.ndarray]:
        return list(self.networks.convolve(np.stack([r.mel for r in requests])))


@dataclass(frozen=True)
class Listen:
    """Read frames (n, dim) of a window. Answer: the state."""

    networks: Networks
    frames: np.ndarray
    state: Any

    @property
    def key(self) -> Any:
        return self.networks, "listen", len(self.frames)

    def run(self) -> Any:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Listen]) -> list[Any]:
        frames = np.stack([r.frames for r in requests])
        return self.networks.listen(frames, [r.state for r in requests])


class QwenFamily(RedecodingFamily):
    """See `asr.family.Family`."""

    architecture = "qwen3-asr"

    def __init__(self, networks: Networks, about: QwenAsrBundle, tokenizer: Tokenizer):
        self.about, self.config = about, about.network
        e = self.config.encoder
        per_window = e.window // e.chunk
        steps = [e.chunk * n for n in range(1, per_window + 1) if per_window % n == 0]
        features = BlockMel(e.n_mels, e.chunk, mirrored=True, least=LEAST_SAMPLES)
        super().__init__(networks, features, tokenizer, steps, about.end, about.stop)
        nothing = np.zeros((1, 0, e.dim), np.float32)
        self._start = SpeechLlmCache(nothing, networks.prefix(about.start))

    def _begin(self) -> SpeechLlmCache:
        return self._start

    def _hear(self, frames: np.ndarray, cache: SpeechLlmCache) -> Work[SpeechLlmCache]:
        size = self.config.encoder.window_tokens
        open_ = yield from self._convolve(frames, cache)
        if open_.shape[1] < size:
            return SpeechLlmCache(open_, cache.text)
        text = self.networks.native(cache.text)
        while open_.shape[1] >= size:
            text = yield Listen(self.networks, open_[0, :size], text)
            open_ = open_[:, size:].copy()
        return SpeechLlmCache(open_, self.networks.value(text))

    def _ended(self, frames: np.ndarray, cache: SpeechLlmCache) -> Work[Any]:
        open_ = yield from self._convolve(frames, cache)
        text, size = self.networks.native(cache.text), self.config.encoder.window_tokens
        for at in range(0, open_.shape[1], size):
            text = yield Listen(self.networks, open_[0, at : at + size], text)
        return text

    def _convolve(self, mel: np.ndarray, cache: SpeechLlmCache) -> Work[np.ndarray]:
        """The frames of the open window, with those of these mel frames."""
        chunk, found = self.config.encoder.chunk, [cache.frames[0]]
        for at in range(0, mel.shape[1], chunk):
            found.append((yield Convolve(self.networks, mel[:, at : at + chunk])))
        whole: np.ndarray = np.concatenate(found)[None]
        return whole

    def _said(self, tokens: Sequence[int]) -> str:
        """What stands behind the mark, before which the model says what language it hears."""
        mark = self.about.mark
        if mark in tokens:
            tokens = tokens[list(tokens).index(mark) + 1 :]
        elif not self.about.language:
            tokens = ()
        return super()._said(tokens)

    def _types(self) -> Mapping[str, Any]:
        return {"cache": SpeechLlmCache, "sound": BlockMelState}

    def _check_cache(self, cache: SpeechLlmCache, frames: int) -> None:
        e = self.config.encoder
        closed = frames // e.window * e.window_tokens
        rows = self._start.text.keys.shape[3] + closed
        check_frames(cache.frames, (1, frames % e.window // e.chunk * TOKENS, e.dim))
        check_arrays(cache.text, text_shapes(self.config.text, rows), rows)


load = loader(QwenAsrBundle, QwenFamily, "speechstream.asr.qwen")
