"""A speech LLM's networks as functions of arrays, and the requests that run them for several streams at once.

`asr.speech_llm.torch` and `asr.speech_llm.onnx` are the two engines; their states are arrays in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors

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
from speechstream.state import select, stack

DAMAGED = "the model gives NaN or infinity: its weights are damaged"


@dataclass(frozen=True)
class Joint:
    """`nn.speech_llm.Joint` from where sound and text meet, as arrays."""

    gate: np.ndarray  # (joint_dim,)
    gate_bias: float
    out: np.ndarray  # (vocab_size, joint_dim)
    out_bias: np.ndarray

    def odds(self, audio: np.ndarray, said: np.ndarray) -> np.ndarray:
        """audio (n, joint_dim) and what has been said (joint_dim,) to the log odds (n,) that more is said."""
        found: np.ndarray = np.tanh(audio + said) @ self.gate + self.gate_bias
        return found

    def scores(self, audio: np.ndarray, said: np.ndarray) -> np.ndarray:
        """A frame's scores (vocab_size,) of what is said, without the prior."""
        found: np.ndarray = self.out @ np.tanh(audio + said) + self.out_bias
        return found


class Networks(Protocol):
    """One engine."""

    name: str
    config: SpeechLlmConfig
    joint: Joint

    def start(self) -> HearingArrays:
        """Of a stream that has heard nothing."""

    def hear(
        self, mel: np.ndarray, state: HearingArrays
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, HearingArrays]:
        """mel (B, mels, 2c + 1) to audio (B, n, joint_dim), sound (B, n, dim), quiet (B, n), the state."""

    def read(
        self, inputs: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What `nn.speech_llm.SpeechLlm.read` takes, by name, to what it gives."""


@dataclass(frozen=True)
class Hear:
    """Encode mel (mels, 2c + 1). Answer: audio (n, joint_dim), sound (n, dim), quiet (n,), the state."""

    networks: Networks
    mel: np.ndarray
    state: HearingArrays

    @property
    def key(self) -> Any:
        return self.networks, "hear", self.mel.shape[1]

    def run(self) -> Any:
        return self.run_many([self])[0]

    def run_many(self, requests: Sequence[Hear]) -> list[Any]:
        mel = np.stack([r.mel for r in requests])
        *out, state = self.networks.hear(mel, stack([r.state for r in requests]))
        if not all(np.isfinite(a).all() for a in out):
            raise SpeechStreamError(DAMAGED)
        return [(*(a[i] for a in out), select(state, i)) for i in range(len(requests))]


@dataclass(frozen=True)
class Read:
    """Read frames of sound (n, dim), then tokens. Answer: said (joint_dim,), prior (vocab_size,), the rows."""

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

    def run_many(self, requests: Sequence[Read]) -> list[Any]:
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
            (
                said[b],
                prior[b],
                appended(r.rows, k, keys[b, :, :, T - len(k) :], values[b, :, :, T - len(k) :], c),
            )
            for b, (r, k) in enumerate(zip(requests, kinds))
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


def read_joint(path: Path, c: SpeechLlmConfig) -> Joint:
    """The last layers of the joint from a bundle's weights. Raises SpeechStreamError where they do not fit."""
    shapes = {
        "gate.weight": (1, c.joint_dim),
        "gate.bias": (1,),
        "out.weight": (c.text.vocab_size, c.joint_dim),
        "out.bias": (c.text.vocab_size,),
    }
    found = {}
    try:
        with safetensors.safe_open(path, framework="numpy") as f:
            for name, shape in shapes.items():
                if tuple(f.get_slice(f"joint.{name}").get_shape()) != shape:
                    raise SpeechStreamError(f"{path} does not fit its configuration: joint.{name}")
                found[name] = f.get_tensor(f"joint.{name}").astype(np.float32)
    except (safetensors.SafetensorError, OSError) as error:
        raise SpeechStreamError(f"the weights {path} are damaged: {str(error)[:200]}") from error
    bias = float(found["gate.bias"][0])
    return Joint(found["gate.weight"][0], bias, found["out.weight"], found["out.bias"])


__all__ = ["Hear", "Joint", "Networks", "Read", "empty", "example", "read_joint"]
