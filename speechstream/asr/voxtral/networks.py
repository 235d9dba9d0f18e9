"""A Voxtral Realtime's networks as functions of arrays, and who keeps the states between their steps.

`asr.voxtral.torch` and `asr.voxtral.onnx` are the two engines. Their states may be of their own kind (tensors on a
device); `value` and `native` turn them to arrays and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechstream.asr.kept import Kept
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import TextArrays, join, part
from speechstream.nn.voxtral_state import EncoderArrays, VoxtralCache


class Networks(Protocol):
    """One engine. B streams of any age in a batch, joined by `nn.growing.join`."""

    name: str

    def start(self) -> tuple[Any, Any]:
        """The states of encoder and language model of one stream that has heard nothing."""

    def hear(self, mel: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """mel (B, mels, whole tokens of frames) to audio (B, tokens, dim)."""

    def read(
        self, tokens: np.ndarray, audio: np.ndarray, delays: Sequence[int], state: Any
    ) -> tuple[np.ndarray, Any]:
        """tokens (B, T) and audio (B, T, dim) to the logits (B, vocabulary) after the last."""

    def value(self, state: Any) -> dict[str, np.ndarray]:
        """The fields of a state as arrays."""

    def native(self, state: Any) -> Any:
        """A state of this engine from `EncoderArrays` or `TextArrays`."""


class Values:
    """Runs them on states that are values."""

    def __init__(self, networks: Networks):
        self.networks = networks

    def open(self) -> Any:
        return self._stored(None, *self.networks.start())

    def close(self, cache: Any) -> None:
        """Nothing is held."""

    def kept(self, cache: Any) -> Any:
        """What `again` starts from; it never changes."""
        return cache

    def again(self, cache: Any, kept: Any) -> Any:
        """An open cache as it was when something was kept."""
        return kept

    def _states(self, cache: Any) -> tuple[Any, Any]:
        return self.networks.native(cache.encoder), self.networks.native(cache.text)

    def _stored(self, cache: Any, encoder: Any, text: Any) -> Any:
        value = self.networks.value
        return VoxtralCache(EncoderArrays(**value(encoder)), TextArrays(**value(text)))

    def hear(self, mel: np.ndarray, caches: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
        """One block of each of B streams."""
        states = [self._states(c) for c in caches]
        audio, new = self.networks.hear(mel, join([s[0] for s in states]))
        if not np.isfinite(audio).all():
            raise SpeechStreamError(
                "the model's encoder gives NaN or infinity: its weights are damaged"
            )
        rows = [new] if len(caches) == 1 else [part(new, i) for i in range(len(caches))]
        return audio, [self._stored(c, r, s[1]) for c, r, s in zip(caches, rows, states)]

    def read(
        self, tokens: np.ndarray, audio: np.ndarray, delays: Sequence[int], caches: Sequence[Any]
    ) -> tuple[np.ndarray, list[Any]]:
        """The same number of tokens of each of B streams."""
        states = [self._states(c) for c in caches]
        logits, new = self.networks.read(tokens, audio, delays, join([s[1] for s in states]))
        if not np.isfinite(logits).all():
            raise SpeechStreamError(
                "the language model gives NaN or infinity: its weights are damaged"
            )
        rows = [new] if len(caches) == 1 else [part(new, i) for i in range(len(caches))]
        return logits, [self._stored(c, s[0], r) for c, r, s in zip(caches, rows, states)]


class Resident(Kept, Values):
    """Runs them on states that stay where they are, behind slots."""

    def value(self, cache: int) -> VoxtralCache:
        """A slot's state as a value."""
        found: VoxtralCache = Values._stored(self, None, *self._kept[cache])
        return found

    def put(self, value: VoxtralCache) -> int:
        """A new slot with this state."""
        slot = self.open()
        self._kept[slot] = Values._states(self, value)
        return slot


@dataclass(frozen=True)
class Hear:
    """Encode mel (mels, frames) of a stream. Answer: audio (tokens, dim), the cache."""

    runner: Values
    mel: np.ndarray
    cache: Any

    @property
    def key(self) -> Any:
        return self.runner, "hear", self.mel.shape[1]

    def run(self) -> tuple[np.ndarray, Any]:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Hear]) -> list[tuple[np.ndarray, Any]]:
        audio, caches = self.runner.hear(
            np.stack([r.mel for r in requests]), [r.cache for r in requests]
        )
        return list(zip(audio, caches))


@dataclass(frozen=True)
class Read:
    """Read tokens with the audio (n, dim) of their places. Answer: logits (vocabulary,) after the last, the cache."""

    runner: Values
    tokens: tuple[int, ...]
    audio: np.ndarray
    delay: int
    cache: Any

    @property
    def key(self) -> Any:
        return self.runner, "read", len(self.tokens)

    def run(self) -> tuple[np.ndarray, Any]:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Read]) -> list[tuple[np.ndarray, Any]]:
        logits, caches = self.runner.read(
            np.array([r.tokens for r in requests], np.int64),
            np.stack([r.audio for r in requests]),
            [r.delay for r in requests],
            [r.cache for r in requests],
        )
        return list(zip(logits, caches))
