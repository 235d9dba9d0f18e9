"""Run an exported pocket-tts with numpy and onnxruntime alone.

    network = PocketNetwork(bundle, config)
    frame, caches = network.read(ids, noise, network.voices[0])    # a text after a voice: the first latent
    frame, caches = network.next(frame.next, noise, caches)        # and every further one
    audio, state = network.decode(latents, state)                  # (1, T, latent_dim) to sound

The graphs come from `speechstream.export.pocket`. What a stream has read is a value, so streams and threads may share a
network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from speechstream import bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.lm.appending import AppendingGraph, Caches
from speechstream.nn.pocket_config import PocketConfig, PocketSampling
from speechstream.runtime.graph import Graph

ARCHITECTURE = "pocket-tts"
FRAMES, WEIGHTS, CODEC = "frames.onnx", "weights.bin", "codec.onnx"
VOICES, TOKENIZER = "voices.safetensors", "tokenizer.json"
BLOCKS = (1, 2, 4)  # latents of an utterance's first blocks, and of all that follow
LATENT = -1  # in the place of a token: this position is a latent
TOKENS_PER_S, SPARE_S = 3.0, 2.0  # an utterance lasts at most tokens / 3 + 2 seconds
Array = np.ndarray
_MADE = ("next", "latent", "ended")  # the graph's outputs beside keys and values


@dataclass(frozen=True)
class PocketVoiceConfig:
    """The `config` of a bundle. speakers: in the order of its voices. blocks: latents of a stream's first blocks, and of
    all that follow."""

    network: PocketConfig
    sampling: PocketSampling
    speakers: tuple[str, ...]
    language: str
    blocks: tuple[int, ...]

    def __post_init__(self) -> None:
        if (
            not self.speakers
            or not self.blocks
            or not 1 <= min(self.blocks) <= max(self.blocks) <= 100
        ):
            raise ValueError("it has no speakers, or blocks that are not 1 to 100 latents long")

    def most_frames(self, tokens: int) -> int:
        """Latents that a text of so many tokens may get."""
        return math.ceil((tokens / TOKENS_PER_S + SPARE_S) * self.network.frame_rate)


@dataclass(frozen=True)
class Frame:
    """next: (latent_dim,) to be read again. latent: (latent_dim,) for the codec. ended: logit of the end of speech."""

    next: Array
    latent: Array
    ended: float


class PocketNetwork:
    """The graphs and the voices of a bundle."""

    def __init__(
        self, model: bundle.Bundle, config: PocketConfig, threads: int = 1, device: str = "cpu"
    ) -> None:
        """Raises SpeechStreamError where a file cannot be used."""
        self.config, self.path = config, model.path
        model.file(WEIGHTS)  # listed, and so checked; the graph opens it
        layers = config.backbone.layers
        self.graph = AppendingGraph(model.file(FRAMES), layers, _MADE, threads, device)
        self.codec = Graph(model.file(CODEC), threads, device)
        about = self.codec.about.get("sample_rate"), self.codec.about.get("frame_size")
        if about != (config.codec.sample_rate, config.codec.frame_size):
            raise SpeechStreamError(
                f"{model.path} is damaged: its codec is of another rate than its model"
            )
        if len(self.graph.inputs) != 7:
            raise SpeechStreamError(f"{model.path} is damaged: its {FRAMES} is of another size")
        self.voices = self._voices(model)

    def read(self, tokens: Sequence[int], noise: Array, caches: Caches) -> tuple[Frame, Caches]:
        """Read tokens after what `caches` hold; the frame that follows the last of them."""
        ids = np.asarray(tokens, np.int64)[None]
        latents = np.zeros((*ids.shape, self.config.latent_dim), np.float32)
        return self._run(ids, latents, noise[None], [caches])[0]

    def next(self, latent: Array, noise: Array, caches: Caches) -> tuple[Frame, Caches]:
        """Read the frame before; the one that follows."""
        return self.next_many([latent], [noise], [caches])[0]

    def next_many(
        self, latents: Sequence[Array], noise: Sequence[Array], caches: Sequence[Caches]
    ) -> list[tuple[Frame, Caches]]:
        """The same of several streams of any length."""
        ids = np.full((len(latents), 1), LATENT, np.int64)
        return self._run(ids, np.stack(latents)[:, None], np.stack(noise), caches)

    def decode(self, latents: Array, state: Any) -> tuple[Array, Any]:
        """Latents (B, T, latent_dim) to sound (B, T * frame_size), and the codec's new state."""
        out, state = self.codec.step({"latents": np.ascontiguousarray(latents)}, state)
        return out["audio"][:, 0], state

    def _run(
        self, ids: Array, latents: Array, noise: Array, caches: Sequence[Caches]
    ) -> list[tuple[Frame, Caches]]:
        """ids (B, T)."""
        b, count = self.config.backbone, ids.shape[1]
        feeds = {
            "tokens": ids,
            "latents": latents,
            "noise": noise.astype(np.float32, copy=False),
            **self.graph.positions(caches, count, b.rope, b.head_dim),
        }
        if len(caches) == 1:
            made, one = self.graph.run(feeds, caches[0], count)
            new = [one]
        else:
            made, new = self.graph.run_together(feeds, caches)
        frames = [Frame(n, latent, float(e[0])) for n, latent, e in zip(*made)]
        return list(zip(frames, new))

    def _voices(self, model: bundle.Bundle) -> list[Caches]:
        b, found = self.config.backbone, list[Caches]()
        try:
            tensors = safetensors.numpy.load_file(model.file(VOICES))
            while f"{len(found)}.keys.0" in tensors:
                n = len(found)
                keys, values = (
                    tuple(tensors[f"{n}.{name}.{i}"][None] for i in range(b.layers))
                    for name in ("keys", "values")
                )
                found.append(Caches(keys, values))
            for one in found:
                check_caches(one, self.config)
        except (KeyError, safetensors.SafetensorError) as error:
            raise SpeechStreamError(
                f"{model.path} is damaged: its voices are incomplete"
            ) from error
        except ValueError as error:
            raise SpeechStreamError(f"{model.path} is damaged, at a voice: {error}") from error
        return found


def check_caches(caches: Caches, config: PocketConfig) -> None:
    """Raises ValueError for keys and values of another network."""
    b = config.backbone
    caches.check(b.layers, b.kv_heads, b.head_dim, b.context)


def read_config(model: bundle.Bundle) -> PocketVoiceConfig:
    """A bundle's configuration. Raises SpeechStreamError where it is of another version."""
    try:
        return read(PocketVoiceConfig, model.config)
    except ValueError as error:
        raise SpeechStreamError(f"the voice {model.path} is of another version: {error}") from error
