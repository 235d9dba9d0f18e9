"""A Kyutai speech-to-text's networks as functions of arrays, and who keeps the states between their steps.

`asr.kyutai.torch` and `asr.kyutai.onnx` are the two engines. Their states may be of their own kind (tensors on a
device); `value` and `native` turn them to arrays and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechstream.asr.kept import Kept
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import join, part
from speechstream.nn.kyutai_state import KyutaiCache
from speechstream.state import select, stack


class Networks(Protocol):
    """One engine. B streams of any age in a batch: the codec's states stacked, the language model's joined."""

    name: str

    def start(self) -> tuple[Any, Any]:
        """The states of codec and language model of one stream that has heard nothing."""

    def hear(self, audio: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """audio (B, frames, frame_size) to codes (B, frames, levels)."""

    def read(
        self, tokens: np.ndarray, codes: np.ndarray, state: Any
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        """tokens (B, T) and codes (B, T, levels) to logits (B, out_size) and pauses (B, heads) after the last."""

    def value(self, codec: Any, text: Any) -> KyutaiCache:
        """The states of one stream as arrays."""

    def native(self, cache: KyutaiCache) -> tuple[Any, Any]:
        """The states of one stream, of this engine."""


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
        return self.networks.native(cache)

    def _stored(self, cache: Any, codec: Any, text: Any) -> Any:
        return self.networks.value(codec, text)

    def hear(self, audio: np.ndarray, caches: Sequence[Any]) -> tuple[np.ndarray, list[Any]]:
        """The same number of frames of each of B streams."""
        states = [self._states(c) for c in caches]
        codes, new = self.networks.hear(audio, stack([s[0] for s in states]))
        rows = [new] if len(caches) == 1 else [select(new, i) for i in range(len(caches))]
        return codes, [self._stored(c, r, s[1]) for c, r, s in zip(caches, rows, states)]

    def read(
        self, tokens: np.ndarray, codes: np.ndarray, caches: Sequence[Any]
    ) -> tuple[np.ndarray, np.ndarray, list[Any]]:
        """The same number of tokens of each of B streams."""
        states = [self._states(c) for c in caches]
        logits, pauses, new = self.networks.read(tokens, codes, join([s[1] for s in states]))
        if not np.isfinite(logits).all() or not np.isfinite(pauses).all():
            raise SpeechStreamError(
                "the language model gives NaN or infinity: its weights are damaged"
            )
        rows = [new] if len(caches) == 1 else [part(new, i) for i in range(len(caches))]
        stored = [self._stored(c, s[0], r) for c, r, s in zip(caches, rows, states)]
        return logits, pauses, stored


class Resident(Kept, Values):
    """Runs them on states that stay where they are, behind slots."""

    def value(self, cache: int) -> KyutaiCache:
        """A slot's state as a value."""
        return self.networks.value(*self._kept[cache])

    def put(self, value: KyutaiCache) -> int:
        """A new slot with this state."""
        slot = self.open()
        self._kept[slot] = self.networks.native(value)
        return slot


@dataclass(frozen=True)
class Hear:
    """Encode audio (frames, frame_size) of a stream. Answer: codes (frames, levels), the cache."""

    runner: Values
    audio: np.ndarray
    cache: Any

    @property
    def key(self) -> Any:
        return self.runner, "hear", len(self.audio)

    def run(self) -> tuple[np.ndarray, Any]:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Hear]) -> list[tuple[np.ndarray, Any]]:
        audio = np.stack([r.audio for r in requests])
        codes, caches = self.runner.hear(audio, [r.cache for r in requests])
        return list(zip(codes, caches))


@dataclass(frozen=True)
class Read:
    """Read a token with the codes (levels,) of its frame. Answer: logits (out_size,), pauses (heads,), the cache."""

    runner: Values
    token: int
    codes: np.ndarray
    cache: Any

    @property
    def key(self) -> Any:
        return self.runner, "read"

    def run(self) -> tuple[np.ndarray, np.ndarray, Any]:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Read]) -> list[tuple[np.ndarray, np.ndarray, Any]]:
        tokens = np.array([[r.token] for r in requests], np.int64)
        codes = np.stack([r.codes[None] for r in requests])
        return list(zip(*self.runner.read(tokens, codes, [r.cache for r in requests])))
