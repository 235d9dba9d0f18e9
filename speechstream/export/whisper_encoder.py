"""The chunk of a causal Whisper's encoder as an ONNX graph: `nn.whisper.Encoder.chunk`, written for onnxruntime.

Frames of all streams are rows of one matrix wherever frames do not hear each other. Keys and values of a chunk are put
before those of the cache and go through onnxruntime's fused attention: to copy them costs less than to cut and join the
scores of the two. Where nothing is cached, as in a recording heard at once, it takes the way that never writes all the
scores (Dao et al. 2022, FlashAttention). What nobody asks for is left out: memory and queries of frames that are right
context alone. Streams and frames are (B, c) below, D the width, L the cached frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from speechstream.export.graph import Writer
from speechstream.export.quantize import FP32, Weights
from speechstream.nn.whisper import Block, Whisper

END = 1 << 40  # of a slice that takes the rest


@dataclass(frozen=True)
class _Chunk:
    """Values that all layers share."""

    batch: str  # B, as (1,) int64
    frames: str  # c
    bias: str  # (B, 1, c, c + L) added to the scores: 0, or minus infinity for rows of the cache that are not real
    fresh: str  # whether nothing is cached


def layered(name: str, layers: int) -> list[str]:
    """Names of the inputs that hold one layer each: cache and memory are given apart, since to split costs a copy."""
    return [f"{name}.{i}" for i in range(layers)]


def encoder_graph(model: Whisper, weights: Weights = FP32) -> onnx.ModelProto:
    """The graph `encoder`.

    In: mel (B, mels, 2c + 1); of the state mel (B, mels, 2), keys.i and values.i (B, H, L, Dh), L up to `left` (in the
    metadata), of which the first `frames` (B,) rows are real; keep and heard (1,), of the c frames how many are wanted,
    and how many have features. Out: the decoder's memory of the frames kept, two of (B, layers, H, keep, Dh); features
    (B, heard, D), which the CTC head reads; the gate's share of its joint (B, keep // 2, gate_dim) where the model has
    one; chunk.keys.i and chunk.values.i (B, H, c, Dh) for the cache.

    The cache is its caller's, who keeps the last `left` frames of it: copying megabytes out would cost more than a short
    chunk's arithmetic. Positions are in the features, so the cache may be kept in any order, and of a young stream no
    more than what is filled need be given. The new rows come first, so that rows which are not real are the last of
    each sum: a longer cache of which no more is real, as a stream has it in a batch with older ones, gives the same
    numbers to the bit.
    """
    c, w = model.config, Writer(weights)
    width = c.dim // c.heads
    mel = w.input("mel", "float32", ["batch", c.n_mels, "mel_frames"])
    history = w.input("state.mel", "float32", ["batch", c.n_mels, 2])
    cached = [
        [
            w.input(name, "float32", ["batch", c.heads, "cached", width])
            for name in layered(f"state.{field}", c.encoder_layers)
        ]
        for field in ("keys", "values")
    ]
    frames = w.input("state.frames", "int64", ["batch"])
    keep, heard = (w.input(name, "int64", [1]) for name in ("keep", "heard"))
    with torch.no_grad():
        chunk = _chunk(w, mel, frames, cached[0][0])
        x = _subsample(w, model, mel, history, frames, chunk)
        own = []
        for i, (keys, values) in enumerate(zip(*cached)):
            last = heard if i == c.encoder_layers - 1 else None
            block, name = model.encoder.blocks[i], f"encoder.blocks.{i}"
            x, *new = _layer(w, block, name, x, (keys, values), chunk, last)
            own.append(new)
        x = _norm(w, x, "encoder.ln_post", model.encoder.ln_post)
        features = w.op("Reshape", x, _shape(w, chunk.batch, heard, c.dim))
        _after(w, model, features, keep, chunk.batch)
    w.output("features", features, "float32", ["batch", "heard", c.dim])
    for i, new in enumerate(own):
        for field, value in zip(("keys", "values"), new):
            w.output(f"chunk.{field}.{i}", value, "float32", ["batch", c.heads, "frames", width])
    graph = w.model()
    graph.metadata_props.add(key="left", value=str(c.left_context))
    return graph


def _array(t: Tensor | nn.Module | None) -> np.ndarray:
    if not isinstance(t, Tensor):
        raise TypeError(f"expected a tensor, got {type(t).__name__}")
    array: np.ndarray = t.detach().float().cpu().numpy()
    return array


def _parts(name: str, p: nn.Module) -> tuple[str, np.ndarray, np.ndarray | None]:
    """What `Writer.linear` takes of a layer of this name."""
    if not isinstance(p, nn.Linear):
        raise TypeError(f"{name} is a {type(p).__name__}, expected a linear layer")
    return name, _array(p.weight), None if p.bias is None else _array(p.bias)


def _norm(w: Writer, x: str, name: str, layer: nn.LayerNorm) -> str:
    scale, shift = (
        w.tensor(_array(p), f"{name}.{n}")
        for n, p in (("weight", layer.weight), ("bias", layer.bias))
    )
    return w.op("LayerNormalization", x, scale, shift, axis=-1, epsilon=layer.eps)


def _shape(w: Writer, *sizes: str | int) -> str:
    """A shape of names of (1,) values and of numbers."""
    return w.op("Concat", *(n if isinstance(n, str) else w.const([n]) for n in sizes), axis=0)


def _chunk(w: Writer, mel: str, frames: str, cache: str) -> _Chunk:
    shape = w.op("Shape", mel)
    batch = w.slice(shape, 0, 1, 0)
    c = w.op("Div", w.slice(shape, 2, 3, 0), w.const([2]))
    L = w.slice(w.op("Shape", cache), 2, 3, 0)
    row = w.op("Range", w.const(0), w.op("Squeeze", L), w.const(1))
    void = w.op("GreaterOrEqual", row, w.op("Unsqueeze", frames, w.const([1])))
    bias = w.op("Where", void, w.const(-np.inf, np.float32), w.const(0, np.float32))
    bias = w.op("Unsqueeze", bias, w.const([1, 2]))
    own = w.op("Expand", w.const(0, np.float32), _shape(w, batch, 1, 1, c))
    bias = w.op("Concat", own, bias, axis=3)
    bias = w.op("Expand", bias, _shape(w, batch, 1, c, 1))
    return _Chunk(batch, c, bias, w.op("Squeeze", w.op("Equal", L, w.const([0]))))


def _subsample(
    w: Writer, model: Whisper, mel: str, history: str, frames: str, chunk: _Chunk
) -> str:
    """`nn.whisper.Encoder.subsample`, rows (B * c, D). Both convolutions are products: of three mel frames, and of two
    frames of the first one's with the one before them."""
    encoder, D = model.encoder, model.config.dim
    x = w.op("Transpose", w.op("Concat", history, mel, axis=2), perm=[0, 2, 1])  # (B, 2c + 3, mels)
    n = w.op("Add", w.op("Mul", chunk.frames, w.const([2])), w.const([1]))
    taps = [w.slice(x, i, w.op("Add", n, w.const([i])), 1) for i in range(3)]
    weight = w.tensor(_array(encoder.conv1.weight), "encoder.conv1.weight")
    weight = w.op(
        "Reshape", w.op("Transpose", weight, perm=[2, 1, 0]), w.const([-1, D])
    )  # once, when the graph is opened
    x = w.op("MatMul", w.op("Concat", *taps, axis=2), weight)
    x = w.op("Gelu", w.op("Add", x, w.tensor(_array(encoder.conv1.bias), "encoder.conv1.bias")))
    old = w.op("Cast", w.op("Greater", frames, w.const(0)), to=onnx.TensorProto.FLOAT)
    first = w.op("Mul", w.slice(x, 0, 1, 1), w.op("Unsqueeze", old, w.const([1, 2])))
    pairs = w.op("Reshape", w.slice(x, 1, END, 1), _shape(w, chunk.batch, chunk.frames, 2 * D))
    before = w.op("Slice", pairs, w.const([0, D]), w.const([-1, 2 * D]), w.const([1, 2]))
    x = w.op("Concat", w.op("Concat", first, before, axis=1), pairs, axis=2)
    taps_inputs = encoder.conv2.weight.permute(0, 2, 1).flatten(1)  # for each tap its inputs
    x = w.op("Reshape", x, w.const([-1, 3 * D]))
    x = w.linear(x, "encoder.conv2", _array(taps_inputs), _array(encoder.conv2.bias))
    clock = w.op("Range", w.const(0), w.op("Squeeze", chunk.frames), w.const(1))
    clock = w.op("Add", w.op("Unsqueeze", frames, w.const([1])), clock)
    clock = w.op("Mod", clock, w.const(model.config.positions))
    table = w.tensor(_array(encoder.positional_embedding), "encoder.positional_embedding")
    where = w.op("Gather", table, w.op("Reshape", clock, w.const([-1])))
    return w.op("Add", w.op("Gelu", x), where)


def _layer(
    w: Writer,
    block: nn.Module,
    name: str,
    x: str,
    cache: tuple[str, str],
    chunk: _Chunk,
    heard: str | None,
) -> tuple[str, str, str]:
    """Rows x (B * c, D) through one layer, and this chunk's own keys and values (B, H, c, Dh). heard: of the last layer,
    how many frames of each stream there are from here on."""
    if not isinstance(block, Block):
        raise TypeError(f"{name} is a {type(block).__name__}, expected a block of the encoder")
    a, D = block.attn, block.attn.out.out_features
    y = _norm(w, x, f"{name}.attn_ln", block.attn_ln)
    rows = [
        w.linear(y, *_parts(f"{name}.attn.{n}", p)) for n, p in (("key", a.key), ("value", a.value))
    ]
    frames, bias = chunk.frames, chunk.bias
    if heard is not None:
        frames, bias = heard, w.slice(bias, 0, heard, 2)
        whole = _shape(w, chunk.batch, chunk.frames, D)
        x, y = (
            w.op("Reshape", w.slice(w.op("Reshape", z, whole), 0, heard, 1), w.const([-1, D]))
            for z in (x, y)
        )
        w.new_rows()
    q = w.linear(y, *_parts(f"{name}.attn.query", a.query))
    q = w.op("Reshape", q, _shape(w, chunk.batch, frames, D))
    heads = _shape(w, chunk.batch, chunk.frames, a.heads, D // a.heads)
    k, v = (w.op("Transpose", w.op("Reshape", z, heads), perm=[0, 2, 1, 3]) for z in rows)

    def alone() -> list[str]:
        whole = _shape(w, chunk.batch, chunk.frames, D)
        keys, values = (w.op("Reshape", z, whole) for z in rows)
        return [w.op("MultiHeadAttention", q, keys, values, num_heads=a.heads)]

    def after_others() -> list[str]:
        keys, values = (w.op("Concat", z, old, axis=2) for z, old in zip((k, v), cache))
        said = w.op("MultiHeadAttention", q, keys, values, "", "", bias, num_heads=a.heads)
        return [said]

    y = w.op("If", chunk.fresh, then_branch=w.branch(alone), else_branch=w.branch(after_others))
    y = w.op("Reshape", y, w.const([-1, D]))
    y = w.linear(y, *_parts(f"{name}.attn.out", a.out))
    x = w.op("Add", x, y)
    y = _norm(w, x, f"{name}.mlp_ln", block.mlp_ln)
    y = w.op("Gelu", w.linear(y, *_parts(f"{name}.mlp.0", block.mlp[0])))
    y = w.linear(y, *_parts(f"{name}.mlp.2", block.mlp[2]))
    return w.op("Add", x, y), k, v


def _after(w: Writer, model: Whisper, features: str, keep: str, batch: str) -> None:
    """What follows per frame kept: the decoder's memory, all its layers in two products, and the gate."""
    c = model.config
    kept = w.slice(features, 0, keep, 1)
    rows = w.op("Reshape", kept, w.const([-1, c.dim]))
    w.new_rows()
    shape = _shape(w, batch, keep, c.decoder_layers, c.heads, c.dim // c.heads)
    for field in ("key", "value"):
        parts = [
            _parts(f"decoder.blocks.{i}.cross_attn.{field}", getattr(block.cross_attn, field))
            for i, block in enumerate(model.decoder.blocks)
        ]
        y = w.op("Reshape", w.side_by_side(rows, parts), shape)
        y = w.op("Transpose", y, perm=[0, 2, 3, 1, 4])
        sizes: list[int | str] = ["batch", c.decoder_layers, c.heads, "kept", c.dim // c.heads]
        w.output(f"memory_{field}s", y, "float32", sizes)
    if model.gate:
        p, half = model.gate.audio, w.op("Div", keep, w.const([2]))  # pairs: none of a single frame
        y = w.slice(kept, 0, w.op("Mul", half, w.const([2])), 1)
        y = w.op("Reshape", y, _shape(w, w.op("Mul", batch, half), 2 * c.dim), allowzero=1)
        w.new_rows()
        y = w.linear(y, *_parts("gate.audio", p))
        y = w.op("Reshape", y, _shape(w, batch, half, p.out_features), allowzero=1)
        w.output("gate", y, "float32", ["batch", "pairs", p.out_features])
