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
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import safetensors
import safetensors.numpy

from speechstream import bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.nn.pocket_config import PocketConfig, PocketSampling
from speechstream.runtime.graph import Graph
from speechstream.runtime.session import open_session
from speechstream.state import cache

ARCHITECTURE = "pocket-tts"
FRAMES, WEIGHTS, CODEC = "frames.onnx", "weights.bin", "codec.onnx"
VOICES, TOKENIZER = "voices.safetensors", "tokenizer.json"
BLOCKS = (1, 2, 4)  # latents of an utterance's first blocks, and of all that follow
GROWTH = 64  # positions: a stream's room is a multiple of it
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


class Home:
    """Where one stream's keys and values lie, with room for C positions, and how many of these some state has."""

    def __init__(self, caches: Caches, room: int) -> None:
        arrays = caches.keys + caches.values
        _, heads, taken, size = arrays[0].shape
        self.memory = np.zeros((len(arrays), 1, heads, room, size), np.float32)
        self.memory[..., :taken, :] = arrays
        self.room, self.taken, self._lock = room, taken, threading.Lock()

    def claim(self, read: int, count: int) -> bool:
        """Whether who has read so many may write the next `count` positions: the first who asks, if there is room."""
        with self._lock:
            mine = self.taken == read and read + count <= self.room
            self.taken += count if mine else 0
            return mine


@dataclass(frozen=True)
class Caches:
    """What a stream has read: keys and values of each layer, (1, kv_heads, S, head_dim) float32. A value.

    They are views of a `Home` where the network has made them. It writes behind what any state has, and nothing twice:
    the newest of a stream's states grows without a copy, and an older one is copied before it grows.
    """

    keys: tuple[Array, ...] = cache()
    values: tuple[Array, ...] = cache()
    home: ClassVar[Home | None] = None  # no part of the value: lost on the way through bytes

    def __len__(self) -> int:
        return int(self.keys[0].shape[2])

    def with_room(self, count: int) -> Home:
        """Where `count` positions may be written behind these."""
        read, home = len(self), self.home
        if home is not None and home.claim(read, count):
            return home
        need = read + count
        home = Home(self, -(-max(need * 3 // 2, need + 1) // GROWTH) * GROWTH)
        home.claim(read, count)
        return home

    @classmethod
    def at(cls, home: Home, read: int) -> Caches:
        """The first positions of a home."""
        views = tuple(m[..., :read, :] for m in home.memory)
        layers = len(views) // 2
        made = cls(views[:layers], views[layers:])
        object.__setattr__(made, "home", home)
        return made


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
        self.session = open_session(model.file(FRAMES), threads, device)
        self.codec = Graph(model.file(CODEC), threads, device)
        about = self.codec.about.get("sample_rate"), self.codec.about.get("frame_size")
        if about != (config.codec.sample_rate, config.codec.frame_size):
            raise SpeechStreamError(
                f"{model.path} is damaged: its codec is of another rate than its model"
            )
        layers = range(config.backbone.layers)
        self._caches = [f"{n}.{i}" for n in ("keys", "values") for i in layers]
        takes = [i.name for i in self.session.get_inputs()]
        if [n for n in self._caches if n not in takes] or len(takes) != 7 + len(self._caches):
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
        read = np.array([len(c) for c in caches])
        cos, sin = b.rope.table((read[:, None] + np.arange(count)).ravel(), b.head_dim)
        feeds = {
            "tokens": ids,
            "latents": latents,
            "noise": noise.astype(np.float32, copy=False),
            "cosines": cos,
            "sines": sin,
            "seen": (read + count - 1).astype(np.int32),
            "total": np.array(read.max() + count, np.int32),
        }
        try:
            if len(caches) == 1:
                home = caches[0].with_room(count)
                made = self._run_in_place(feeds, home)
                new = [Caches.at(home, int(read[0]) + count)]
            else:
                made, new = self._run_together(feeds, caches, read + count)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise SpeechStreamError(
                f"{self.path / FRAMES} cannot be run: {str(error).splitlines()[0][:300]}"
            ) from error
        frames = [Frame(n, latent, float(e[0])) for n, latent, e in zip(*made)]
        return list(zip(frames, new))

    def _run_in_place(self, feeds: dict[str, Array], home: Home) -> list[Array]:
        """One stream: the graph's attention appends keys and values where they lie."""
        binding = self.session.io_binding()
        for name, a in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(a))
        for name in _MADE:
            binding.bind_output(name)
        for name, m in zip(self._caches, home.memory):
            binding.bind_input(name, "cpu", 0, m.dtype, m.shape, m.ctypes.data)
            binding.bind_output(f"new.{name}", "cpu", 0, m.dtype, m.shape, m.ctypes.data)
        self.session.run_with_iobinding(binding)
        return [v.numpy() for v in binding.get_outputs()[: len(_MADE)]]

    def _run_together(
        self, feeds: dict[str, Array], caches: Sequence[Caches], read: Array
    ) -> tuple[list[Array], list[Caches]]:
        """Several streams: their keys and values are joined, and taken apart again."""
        past = zip(*(c.keys + c.values for c in caches))
        joined = {n: _joined(parts) for n, parts in zip(self._caches, past)}
        out = self.session.run([*_MADE, *(f"new.{n}" for n in self._caches)], feeds | joined)
        made, new, layers = out[: len(_MADE)], out[len(_MADE) :], self.config.backbone.layers
        found = []
        for i, n in enumerate(read):
            own = tuple(a[i : i + 1, :, :n].copy() for a in new)
            found.append(Caches(own[:layers], own[layers:]))
        return made, found

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
    arrays = caches.keys + caches.values
    if len(caches.keys) != b.layers or len(caches.values) != b.layers:
        raise ValueError("its keys and values are of another number of layers")
    shape = 1, b.kv_heads, arrays[0].shape[2] if arrays[0].ndim == 4 else -1, b.head_dim
    if any(a.shape != shape or a.dtype != np.float32 for a in arrays) or shape[2] > b.context:
        raise ValueError("its keys and values are of another size")


def read_config(model: bundle.Bundle) -> PocketVoiceConfig:
    """A bundle's configuration. Raises SpeechStreamError where it is of another version."""
    try:
        return read(PocketVoiceConfig, model.config)
    except ValueError as error:
        raise SpeechStreamError(f"the voice {model.path} is of another version: {error}") from error


def _joined(parts: Sequence[Array]) -> Array:
    """Keys (1, H, S, D) of several streams as one array, the shorter ones filled up behind."""
    longest = max(p.shape[2] for p in parts)
    out = np.zeros((len(parts), parts[0].shape[1], longest, parts[0].shape[3]), np.float32)
    for row, p in zip(out, parts):
        row[:, : p.shape[2]] = p[0]
    return out
