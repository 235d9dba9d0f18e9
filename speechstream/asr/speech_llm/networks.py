"""A speech LLM's networks as functions of arrays, and the requests that run them for several streams at once.

`asr.speech_llm.torch` and `asr.speech_llm.onnx` are the two engines; their states are arrays in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.nn.speech_llm_config import SpeechLlmConfig
from speechstream.nn.speech_llm_state import (
    NONE,
    SOUND,
    TEXT,
    HearingArrays,
    TextRows,
    appended,
    batched,
    empty,
    numbered,
)
from speechstream.state import cache, select, stack

DAMAGED = "the model gives NaN or infinity: its weights are damaged"


class Networks(Protocol):
    """One engine."""

    name: str
    config: SpeechLlmConfig

    def start(self) -> HearingArrays:
        """Of a stream that has heard nothing."""

    def hear(self, mel: np.ndarray, state: HearingArrays) -> tuple[list[np.ndarray], HearingArrays]:
        """What `nn.speech_llm.Hearing.step` takes and gives."""

    def look(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What `nn.speech_llm.SpeechLlm.looked` takes, by name, to what it gives."""

    def read(
        self, inputs: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What `nn.speech_llm.SpeechLlm.read` takes, by name, to what it gives."""


@dataclass(frozen=True)
class Heard:
    """n frames of one stream, and the encoder frames that are looked at from them."""

    audio: np.ndarray  # (n, dim)
    sound: np.ndarray  # (n, text.dim)
    quiet: np.ndarray  # (n,)
    keys: np.ndarray  # (blocks, H, look - stack + n stack, Dh)
    values: np.ndarray
    best: np.ndarray  # (pairs, 2): what the CTC head hears in all of them, whichever part this is

    def part(self, first: int, end: int, c: SpeechLlmConfig) -> Heard:
        """From the first-th frame up to the end-th."""
        n, rows = slice(first, end), slice(first * c.stack, end * c.stack + c.look - c.stack)
        k, v = self.keys[:, :, rows], self.values[:, :, rows]
        return Heard(self.audio[n], self.sound[n], self.quiet[n], k, v, self.best)


@dataclass(frozen=True)
class Hear:
    """Encode mel (mels, 2c + 1). Answer: what is heard, and the state."""

    networks: Networks
    mel: np.ndarray
    state: HearingArrays

    @property
    def key(self) -> Any:
        return self.networks, "hear", self.mel.shape[1]

    def run(self) -> Any:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Hear]) -> list[tuple[Heard, HearingArrays]]:
        mel = np.stack([r.mel for r in requests])
        out, state = self.networks.hear(mel, stack([r.state for r in requests]))
        if not all(np.isfinite(a).all() for a in out):
            raise SpeechStreamError(DAMAGED)
        return [(Heard(*(a[i] for a in out)), select(state, i)) for i in range(len(requests))]


@dataclass(frozen=True)
class Look:
    """Ask the joint of frames in a row. Answer: log odds (n,) that more is said, scores (n, vocab_size) of what, no prior.

    said (dim,): what the joint reads of the text. since: frames from the last token to the first of these. before: frames
    of the stream before them.
    """

    networks: Networks
    heard: Heard
    said: np.ndarray
    since: int
    before: int

    @property
    def key(self) -> Any:
        return self.networks, "look"

    def run(self) -> Any:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Look]) -> list[tuple[np.ndarray, np.ndarray]]:
        c = self.networks.config
        counts = [len(r.heard.audio) for r in requests]
        rows = c.look - c.stack + max(counts) * c.stack
        blank = [max(c.look - c.stack - r.before * c.stack, 0) for r in requests]
        odds, scores = self.networks.look(
            {
                "audio": np.stack([_longer(r.heard.audio, max(counts), 0) for r in requests]),
                "said": np.stack([r.said for r in requests]),
                "since": np.array([r.since for r in requests], np.int64),
                "blank": np.array(blank, np.int64),
                "keys": np.stack([_longer(r.heard.keys, rows, 2) for r in requests]),
                "values": np.stack([_longer(r.heard.values, rows, 2) for r in requests]),
            }
        )
        found = [(o[:n], s[:n]) for o, s, n in zip(odds, scores, counts)]
        if not all(np.isfinite(a).all() for pair in found for a in pair):
            raise SpeechStreamError(DAMAGED)
        return found


def _longer(a: np.ndarray, count: int, axis: int) -> np.ndarray:
    """With zeros behind."""
    widths = [(0, 0)] * a.ndim
    widths[axis] = (0, count - a.shape[axis])
    return np.pad(a, widths)


@dataclass(frozen=True)
class Reading:
    """What n rows came to: of each what the joint reads, the prior, and its own keys and values."""

    said: np.ndarray  # (n, sound.dim)
    prior: np.ndarray  # (n, vocab_size)
    keys: np.ndarray = cache()  # (layers, kv_heads, n, head_dim)
    values: np.ndarray = cache()

    def part(self, first: int, end: int) -> Reading:
        """From the first-th row up to the end-th."""
        n = slice(first, end)
        return Reading(self.said[n], self.prior[n], self.keys[:, :, n], self.values[:, :, n])

    def behind(self, rows: TextRows, kinds: np.ndarray, c: SpeechLlmConfig) -> TextRows:
        """These rows, which are of such kinds (n,), behind those that were there when they were read."""
        return appended(rows, kinds, self.keys, self.values, c)


@dataclass(frozen=True)
class Read:
    """Read frames of sound (n, dim), then tokens, which later ones of them know. Answer: `Reading` of all."""

    networks: Networks
    sound: np.ndarray
    tokens: tuple[int, ...]
    rows: TextRows

    @property
    def key(self) -> Any:
        # one token apart from several: a product with one row is computed in another order
        return self.networks, "read", len(self.sound) + len(self.tokens) > 1

    def run(self) -> Any:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Read]) -> list[Reading]:
        c = self.networks.config
        kinds = [np.repeat([SOUND, TEXT], (len(r.sound), len(r.tokens))) for r in requests]
        T, B = max(map(len, kinds)), len(requests)
        tokens, sound = np.full((B, T), -2, np.int64), np.zeros((B, T, c.text.dim), np.float32)
        places, heard = np.zeros((B, T), np.int64), np.zeros((B, T), np.int64)
        for b, (r, kind) in enumerate(zip(requests, kinds)):
            at = T - len(kind)
            tokens[b, at:] = [-1] * len(r.sound) + list(r.tokens)
            sound[b, at : at + len(r.sound)] = r.sound
            places[b, at:] = numbered(r.rows, kind)
            heard[b, at:] = r.rows.heard + np.cumsum(kind == SOUND)
        past = batched([r.rows for r in requests])
        given: dict[str, np.ndarray] = {"tokens": tokens, "sound": sound}
        given |= {"places": places, "heard": heard}
        given |= {"keys": past["keys"], "values": past["values"], "kinds": past["kinds"]}
        said, prior, keys, values = self.networks.read(given | {"past": past["places"]})
        if not (np.isfinite(said).all() and np.isfinite(prior).all()):
            raise SpeechStreamError(DAMAGED)
        return [
            Reading(said[b, at:], prior[b, at:], keys[b, :, :, at:], values[b, :, :, at:])
            for b, at in enumerate(T - len(k) for k in kinds)
        ]


def example(c: SpeechLlmConfig) -> dict[str, np.ndarray]:
    """Inputs of `Networks.read` for two streams, with lengths that are not 0 or 1: for tracing, and for a first try."""
    rng, t = np.random.default_rng(0), c.text
    past = rng.standard_normal((2, t.layers, t.kv_heads, 3, t.head_dim)).astype(np.float32)
    return {
        "tokens": np.array([[-1, -1, 0, 1], [-2, -1, -1, 1]], np.int64),
        "sound": rng.standard_normal((2, 4, t.dim)).astype(np.float32),
        "places": np.array([[2, 3, 1, 2], [0, 0, 1, 1]], np.int64),
        "heard": np.array([[3, 4, 4, 4], [0, 1, 2, 2]], np.int64),
        "keys": past,
        "values": past[:, :, :, ::-1].copy(),
        "kinds": np.array([[SOUND, SOUND, TEXT], [NONE, NONE, TEXT]], np.int64),
        "past": np.array([[0, 1, 0], [0, 0, 0]], np.int64),
    }


def looking(c: SpeechLlmConfig) -> dict[str, np.ndarray]:
    """The same for `Networks.look`."""
    rng, dim, n = np.random.default_rng(0), c.sound.dim, 3
    rows = (2, c.look_blocks, c.sound.heads, c.look - c.stack + n * c.stack, dim // c.sound.heads)
    return {
        "audio": rng.standard_normal((2, n, dim)).astype(np.float32),
        "said": rng.standard_normal((2, dim)).astype(np.float32),
        "since": np.array([0, 5], np.int64),
        "blank": np.array([c.look - c.stack, 1], np.int64),
        "keys": rng.standard_normal(rows).astype(np.float32),
        "values": rng.standard_normal(rows).astype(np.float32),
    }


__all__ = ["Hear", "Heard", "Look", "Networks", "Read", "Reading", "empty", "example", "looking"]
