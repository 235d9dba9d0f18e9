"""CSM as three graphs and a bundle that `speechstream.tts.csm` runs without torch.

`backbone.onnx`, written node by node on `export.llm`'s layers: one run reads T positions of B streams. Inputs: tokens (B, T)
int64, -1 where a frame of codes (B, T, levels) int64 stands instead; cosines, sines, seen, total, keys.i and values.i as in
`export.pocket`. Outputs, after the last position: logits (B, vocab_size) of the next frame's first code and hidden (B, dim).

`depth.onnx`: one level of a frame. Inputs: codes (B, T) int64, level * vocab_size + code, -1 for hidden (B, dim), which stands first;
level (1,) int64, whose logits (B, vocab_size) are wanted; positions, keys and values as above.

`decoder.onnx`: `export.codec`'s. `voices.safetensors`: the keys and values that each voice's turn leaves.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import save_file

from speechstream import bundle
from speechstream.convert.csm import (
    BACKBONE,
    CODES,
    DEPTH,
    FRAMES,
    HEADS,
    PROJECTOR,
    TEXT,
    CsmCheckpoint,
)
from speechstream.convert.llm import LlmCheckpoint
from speechstream.errors import SpeechStreamError
from speechstream.export import llm
from speechstream.export.codec import decoder_graph
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.csm_config import CsmVoiceConfig
from speechstream.nn.llm_config import FLOATS, LlmConfig
from speechstream.tts.csm import network as files
from speechstream.tts.csm.text import turn

_INLINE = 1024  # bytes; larger tensors go to a file that is mapped into memory rather than read
UNNAMED = "default"  # the speaker of a checkpoint without voices


def write_csm(
    one: CsmCheckpoint,
    folder: str | Path,
    card: dict[str, Any],
    form: str = "fp32",
    language: str = "en",
) -> bundle.Bundle:
    """Write the graphs, the voices and the tokenizer into a folder and make it a bundle.

    form: of the weights of both language models, one of `export.llm.FORMS`; the codec stays in 32 bits.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for graph, name, beside in (
        (backbone_graph(one, form), files.BACKBONE, files.BACKBONE_WEIGHTS),
        (depth_graph(one, form), files.DEPTH, files.DEPTH_WEIGHTS),
    ):
        (folder / beside).unlink(missing_ok=True)  # onnx would append
        onnx.save_model(
            graph,
            folder / name,
            save_as_external_data=True,
            location=beside,
            size_threshold=_INLINE,
        )
    onnx.save(decoder_graph(one.codec), folder / files.DECODER)
    (folder / files.TOKENIZER).write_text(one.tokenizer, encoding="utf-8")
    speakers = tuple(one.voices) or (UNNAMED,)
    config = CsmVoiceConfig(one.config, speakers, language, sampling=one.sampling)
    save_file(_voices(one, folder), folder / files.VOICES)
    (folder / files.VOICES).chmod(0o644)  # safetensors leaves it to its owner alone
    names = [*files.GRAPHS, files.VOICES, files.TOKENIZER]
    written = dataclasses.asdict(config)
    return bundle.write(folder, "tts", files.ARCHITECTURE, written, card, names)


def _voices(one: CsmCheckpoint, folder: Path) -> dict[str, np.ndarray]:
    """Keys and values that each voice's turn leaves. Without voices: one that is empty."""
    graph = files.Backbone(folder / files.BACKBONE, one.config)
    words, found = Tokenizer(one.tokenizer), {}
    for n, voice in enumerate(one.voices.values() or [None]):
        caches = graph.empty()
        if voice is not None:
            ids = turn(voice.text, words, one.config)
            if len(ids) + len(voice.codes) + 1 > one.config.backbone.context // 2:
                raise SpeechStreamError(
                    f"a voice of {len(voice.codes)} frames leaves no room for speech in a context of {one.config.backbone.context}"
                )
            end = np.full((1, one.config.levels), one.config.end)
            caches = graph.read(ids, caches)[2]
            caches = graph.frames(np.concatenate([voice.codes, end]), caches)[2]
        for name in ("keys", "values"):
            for i, a in enumerate(getattr(caches, name)):
                found[f"{n}.{name}.{i}"] = np.ascontiguousarray(a[0])
    return found


def backbone_graph(one: CsmCheckpoint, form: str = "fp32") -> onnx.ModelProto:
    """Text and frames to the first code of the next."""
    return _Backbone(one, one.config.backbone, BACKBONE, form).build()


def depth_graph(one: CsmCheckpoint, form: str = "fp32") -> onnx.ModelProto:
    """A level of a frame to the next one's logits."""
    return _Depth(one, one.config.depth, DEPTH, form).build()


class _Graph(llm._Graph):
    """A graph of `export.llm`'s layers with an input and an output of its own."""

    def __init__(self, one: CsmCheckpoint, config: LlmConfig, prefix: str, form: str) -> None:
        if form not in llm.FORMS:
            raise ValueError(
                f"the form of the weights must be one of {', '.join(llm.FORMS)}; got {form!r}"
            )

        def values(name: str) -> np.ndarray:
            return one.values(
                name if name == "lm_head.weight" else prefix + name.removeprefix("model.")
            )

        biased = [("qkv", config.qkv_bias), ("o", config.out_bias)]
        names = {
            f"model.layers.{i}.self_attn.{n}_proj.bias"
            for i in range(config.layers)
            for letters, there in biased
            for n in letters
            if there
        }
        if config.mlp_bias:
            parts = ("gate", "up", "down")
            names |= {
                f"model.layers.{i}.mlp.{n}_proj.bias" for i in range(config.layers) for n in parts
            }
        form = "fp32" if form == "own" else form
        given = LlmCheckpoint(config, frozenset(names), values, "")
        super().__init__(given, form, FLOATS)
        self.one = one

    def begin(self, tokens: str) -> str:
        """What the layers need to know of the positions. Returns tokens (B T,)."""
        c, w = self.config, self.w
        half = c.head_dim // 2
        self.cos = w.input("cosines", "float32", ["positions", half])
        self.sin = w.input("sines", "float32", ["positions", half])
        seen, total = w.input("seen", "int32", ["batch"]), w.input("total", "int32", [])
        shape = w.op("Shape", tokens)
        self.batched = w.op("Concat", shape, w.const([-1]), axis=0)  # (B, T, -1)
        self.heads = w.op("Concat", shape, w.const([-1, c.head_dim]), axis=0)
        count = w.op("ReduceProd", shape, keepdims=0)
        self.positions = w.op("Reshape", w.op("Range", w.const(0), count, w.const(1)), shape)
        self.memories = [llm._Memory(self, "", seen, total, shape)]
        return w.op("Reshape", tokens, w.const([-1]))

    def last(self, x: str) -> str:
        """Through the layers; the normed features (B, dim) after the last position."""
        for i in range(self.config.layers):
            x = self.layer(i, x)
        x = self.w.op("Gather", self.w.op("Reshape", x, self.batched), self.w.const(-1), axis=1)
        return self.norm(x, "model.norm")

    def table(self, array: np.ndarray, name: str, rows: str) -> str:
        """Rows of an embedding, which is kept in 16 bits where the matrices have fewer than 32."""
        w = self.w
        if self.form == "fp32":
            return w.op("Gather", w.tensor(array, name), rows)
        found = w.op("Gather", w.tensor(array.astype(np.float16), name), rows)
        return w.op("Cast", found, to=onnx.TensorProto.FLOAT)

    def chosen(self, flat: str, first: str, second: str) -> str:
        """Of each position (B T,) the first where it is not negative."""
        w = self.w
        other = w.op("Unsqueeze", w.op("Less", flat, w.const(0)), w.const([1]))
        return w.op("Where", other, second, first)


class _Backbone(_Graph):
    def build(self) -> onnx.ModelProto:
        c, w, one = self.config, self.w, self.one
        levels, size = one.config.levels, one.config.depth.vocab_size
        tokens = w.input("tokens", "int64", ["batch", "read"])
        codes = w.input("codes", "int64", ["batch", "read", levels])
        flat = self.begin(tokens)
        known = w.op("Max", flat, w.const(0))
        words = self.table(one.values(TEXT), "embed_text", known)
        offsets = w.tensor(np.arange(levels, dtype=np.int64) * size, "offsets")
        rows = w.op("Add", w.op("Reshape", codes, w.const([-1, levels])), offsets)
        heard = self.table(one.values(FRAMES), "embed_codes", rows)
        heard = w.op("ReduceSum", heard, w.const([1]), keepdims=0)
        hidden = self.last(self.chosen(flat, words, heard))
        w.output("logits", self.linear(hidden, ["lm_head"]), "float32", ["batch", size])
        w.output("hidden", hidden, "float32", ["batch", c.dim])
        return w.model()


class _Depth(_Graph):
    def build(self) -> onnx.ModelProto:
        w, one = self.w, self.one
        dim, size = one.config.backbone.dim, one.config.depth.vocab_size
        codes = w.input("codes", "int64", ["batch", "read"])
        hidden = w.input("hidden", "float32", ["batch", dim])
        level = w.input("level", "int64", [1])
        flat = self.begin(codes)
        projector = one.values(PROJECTOR).T
        # each row of the table goes through the projector here, once and for all
        table = one.values(CODES) @ projector
        rows = self.table(table, "embed_codes", w.op("Max", flat, w.const(0)))
        first = w.op("MatMul", hidden, w.tensor(projector, "projector"))
        shape = w.op("Shape", codes)
        spread = w.op("Unsqueeze", first, w.const([1]))
        full = w.op("Concat", shape, w.const([self.config.dim]), axis=0)
        first = w.op("Reshape", w.op("Expand", spread, full), w.const([-1, self.config.dim]))
        x = self.last(self.chosen(flat, rows, first))
        heads = one.values(HEADS)  # (levels - 1, dim, vocab_size)
        head = self.table(heads, "heads", w.op("Sub", level, w.const(1)))
        logits = w.op("Reshape", w.op("MatMul", x, head), w.const([-1, size]))
        w.output("logits", logits, "float32", ["batch", size])
        return w.model()
