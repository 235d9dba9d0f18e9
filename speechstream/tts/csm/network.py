"""Run an exported CSM with numpy and onnxruntime alone.

    network = CsmNetwork(bundle, config)
    logits, hidden, caches = network.backbone.read(ids, network.voices[0])     # a text after a voice
    codes = network.levels(hidden, first, noise)                               # the frame whose first code is that
    logits, hidden, caches = network.backbone.frames(codes[None], caches)      # read it, and go on

The graphs come from `speechstream.export.csm`. What a stream has read is a value, so streams and threads may share a network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from speechstream import bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.lm.appending import AppendingGraph, Caches
from speechstream.nn.csm_config import CsmConfig, CsmVoiceConfig
from speechstream.tts.codec import CodecDecoder

ARCHITECTURE = "csm"
BACKBONE, BACKBONE_WEIGHTS = "backbone.onnx", "backbone.bin"
DEPTH, DEPTH_WEIGHTS, DECODER = "depth.onnx", "depth.bin", "decoder.onnx"
VOICES, TOKENIZER = "voices.safetensors", "tokenizer.json"
GRAPHS = (BACKBONE, BACKBONE_WEIGHTS, DEPTH, DEPTH_WEIGHTS, DECODER)
FRAME = -1  # in the place of a token: this position is a frame of codes
Array = np.ndarray
Read = tuple[Array, Array, Caches]  # logits (vocab_size,), hidden (dim,), what has been read


class Backbone:
    """The language model over text and frames."""

    def __init__(
        self, path: Path, config: CsmConfig, threads: int = 1, device: str = "cpu"
    ) -> None:
        self.config = config
        made = ("logits", "hidden")
        self.graph = AppendingGraph(path, config.backbone.layers, made, threads, device)

    def empty(self) -> Caches:
        """A stream that has read nothing."""
        b = self.config.backbone
        return Caches.empty(b.layers, b.kv_heads, b.head_dim)

    def read(self, tokens: Sequence[int], caches: Caches) -> Read:
        """A text's tokens, after what `caches` hold."""
        ids = np.asarray(tokens, np.int64)[None]
        codes = np.zeros((*ids.shape, self.config.levels), np.int64)
        return self._run(ids, codes, [caches])[0]

    def frames(self, codes: Array, caches: Caches) -> Read:
        """Frames of codes (T, levels)."""
        ids = np.full((1, len(codes)), FRAME, np.int64)
        return self._run(ids, np.asarray(codes, np.int64)[None], [caches])[0]

    def next_many(self, codes: Sequence[Array], caches: Sequence[Caches]) -> list[Read]:
        """A frame (levels,) each, of several streams of any length."""
        ids = np.full((len(codes), 1), FRAME, np.int64)
        return self._run(ids, np.stack(codes)[:, None], caches)

    def _run(self, ids: Array, codes: Array, caches: Sequence[Caches]) -> list[Read]:
        b, count = self.config.backbone, ids.shape[1]
        feeds = {
            "tokens": ids,
            "codes": codes,
            **self.graph.positions(caches, count, b.rope, b.head_dim),
        }
        if len(caches) == 1:
            (logits, hidden), one = self.graph.run(feeds, caches[0], count)
            new = [one]
        else:
            (logits, hidden), new = self.graph.run_together(feeds, caches)
        return list(zip(logits, hidden, new))


class CsmNetwork:
    """The graphs and the voices of a bundle."""

    def __init__(
        self, model: bundle.Bundle, config: CsmConfig, threads: int = 1, device: str = "cpu"
    ) -> None:
        """Raises SpeechStreamError where a file cannot be used."""
        self.config, self.path = config, model.path
        for name in GRAPHS:
            model.file(name)  # listed, and so checked; the graphs open their weights themselves
        self.backbone = Backbone(model.file(BACKBONE), config, threads, device)
        self.depth = AppendingGraph(
            model.file(DEPTH), config.depth.layers, ("logits",), threads, device
        )
        self.codec = CodecDecoder(model.file(DECODER), threads, device)
        found = self.codec.sample_rate, self.codec.frame_size, self.codec.bins
        if found != (config.sample_rate, config.frame_size, config.bins):
            raise SpeechStreamError(
                f"{model.path} is damaged: its codec is of another rate or size than its model"
            )
        self.voices = self._voices(model)

    def levels(self, hidden: Array, first: int, noise: Array, top_k: int) -> Array:
        """The codes (levels,) of a frame whose first is known. noise: (levels - 1, bins), added to the logits."""
        return self.levels_many([hidden], [first], [noise], top_k)[0]

    def levels_many(
        self, hidden: Sequence[Array], first: Sequence[int], noise: Sequence[Array], top_k: int
    ) -> list[Array]:
        """The same of several frames."""
        c, rows = self.config, len(hidden)
        d = c.depth
        caches = [Caches.empty(d.layers, d.kv_heads, d.head_dim)] * rows
        features = np.stack(hidden)
        found = [np.asarray(first, np.int64)]
        _, caches = self._level(np.full(rows, FRAME, np.int64), features, 1, caches)
        for level in range(1, c.levels):
            at = (level - 1) * d.vocab_size + found[-1]
            logits, caches = self._level(at, features, level, caches)
            drawn = [choose(x, n[level - 1], top_k, c.bins) for x, n in zip(logits, noise)]
            found.append(np.array(drawn, np.int64))
        return list(np.stack(found, 1))

    def _level(
        self, codes: Array, hidden: Array, level: int, caches: Sequence[Caches]
    ) -> tuple[Array, list[Caches]]:
        d = self.config.depth
        feeds = {
            "codes": codes[:, None],
            "hidden": hidden,
            "level": np.array([level]),
            **self.depth.positions(caches, 1, d.rope, d.head_dim),
        }
        if len(caches) == 1:
            (logits,), one = self.depth.run(feeds, caches[0], 1)
            return logits, [one]
        (logits,), new = self.depth.run_together(feeds, caches)
        return logits, new

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
        except (KeyError, ValueError, safetensors.SafetensorError) as error:
            raise SpeechStreamError(f"{model.path} is damaged, at its voices") from error
        return found


def choose(logits: Array, noise: Array, top_k: int, bins: int) -> int:
    """The likeliest code with noise (bins,) added, among the `top_k` likeliest; 0: among all. Marks are no codes."""
    x = logits[:bins]
    if not np.isfinite(x).all():
        raise SpeechStreamError("the model gives NaN or infinity: its weights are damaged")
    if 0 < top_k < len(x):
        x = np.where(x < np.partition(x, -top_k)[-top_k], -np.inf, x)
    return int((x + noise).argmax())


def check_caches(caches: Caches, config: CsmConfig) -> None:
    """Raises ValueError for keys and values of another network."""
    b = config.backbone
    caches.check(b.layers, b.kv_heads, b.head_dim, b.context)


def read_config(model: bundle.Bundle) -> CsmVoiceConfig:
    """A bundle's configuration. Raises SpeechStreamError where it is of another version."""
    try:
        return read(CsmVoiceConfig, model.config)
    except ValueError as error:
        raise SpeechStreamError(f"the voice {model.path} is of another version: {error}") from error
