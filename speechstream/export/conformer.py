"""The step of a FastConformer encoder as an ONNX graph: `nn.conformer.ConformerEncoder.step`, written for onnxruntime.

Frames of all streams are rows of one matrix wherever frames are independent of each other, so that every product is one
GEMM with its weights packed once. What tracing would leave to run time is folded into the weights: the half step of the
feed-forwards, attention's scale, a batch norm, the projected positions. Streams and frames are (B, c) below, D the
width, L the cached frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import nn

from speechstream.export.graph import Writer
from speechstream.nn.conformer import ConformerConfig, ConformerLayer
from speechstream.nn.fastconformer import FastConformer
from speechstream.nn.position import PERIOD
from speechstream.state import flatten

VOID = -1e30  # added to the scores of what must not be seen
APART = ("keys", "values")  # given a layer an input, `state.keys.0` ...: to take them apart costs a copy


@dataclass(frozen=True)
class _Chunk:
    """Values that all layers share."""

    rows_of: dict[str, str]  # shapes: "bcd" (B, c, D), "rows" (B * c, D) ...
    frames: str              # c, as (1,) int64
    mask: str                # (B, 1, c, L + c) float, 0 or VOID
    angles: tuple[str, ...]  # of RoPE: position ids, cosines, sines
    windows: str             # (c, K) indices of the depthwise convolution's inputs
    columns: tuple[str, ...]    # of the relative positions: first, end, the two shapes of the skew, how many keys


def array(t: torch.Tensor | None) -> np.ndarray | None:
    return None if t is None else t.detach().float().cpu().numpy()


def encoder_graph(model: FastConformer, bits: int = 32) -> onnx.ModelProto:
    """features (B, subsampling * c, mels), lengths (B,) and the state, to encoded, ctc (log probabilities), new state.

    Raises ValueError for an encoder that runs offline only.
    """
    c, start, w = model.encoder.config, flatten(model.encoder.init_state(1)), Writer(bits)
    features = w.input("features", "float32", ["batch", "feature_frames", c.features])
    lengths = w.input("lengths", "int64", ["batch"])
    state: dict[str, str | list[str]] = {}
    for n, a in start.items():
        if n in APART:
            state[n] = [w.input(f"state.{n}.{i}", _dtype(a), ["batch", *a.shape[2:]]) for i in range(c.layers)]
        else:
            state[n] = w.input(f"state.{n}", _dtype(a), ["batch", *a.shape[1:]])
    encoded, ctc, new = encoder_step(w, model, features, lengths, state)
    w.output("encoded", encoded, "float32", ["batch", "frames", c.dim])
    if ctc:
        w.output("ctc", ctc, "float32", ["batch", "frames", model.ctc.out_features])
    for name, a in start.items():
        w.output(f"new.{name}", new[name], _dtype(a), ["batch", *a.shape[1:]])
    return w.model()


def encoder_step(w: Writer, model: FastConformer, features: str, lengths: str,
                 state: dict[str, str | list[str]]) -> tuple[str, str, dict[str, str]]:
    """Write the step: encoded (B, c, D), CTC log probabilities ("" without that head), and the new state's fields.

    `state` has the fields APART as lists, one value a layer.
    """
    encoder, c = model.encoder.eval(), model.encoder.config
    shape = w.op("Shape", features)
    batch = w.slice(shape, 0, 1, 0)
    frames = w.op("Div", w.slice(shape, 1, 2, 0), w.const([c.subsampling]))
    x, new, limit = _subsample(w, model, features, lengths, state, batch, frames)
    chunk = _chunk(w, model, state["frames"], limit, batch, frames)
    if c.scale_input:
        x = w.op("Mul", x, w.const(c.dim ** 0.5, np.float32))
    past = w.op("Transpose", state["conv"], perm=[0, 1, 3, 2])  # (B, layers, K - 1, D)
    fresh: tuple[list[str], ...] = [], [], []
    for i, layer in enumerate(encoder.layers):
        cache = [state["keys"][i], state["values"][i], w.op("Gather", past, w.const(i), axis=1)]
        x, *parts = _layer(w, c, layer, f"encoder.layers.{i}", x, cache, chunk)
        for all_parts, part in zip(fresh, parts):
            all_parts.append(part)  # (B, H, L + c, Dh), and (B, c, D) of the convolution
    keys, values, tails = (w.op("Concat", *parts, axis=1) if c.layers > 1 else parts[0] for parts in fresh)
    for name, parts in (("keys", keys), ("values", values)):
        new[name] = w.slice(w.op("Reshape", parts, chunk.rows_of["cache"]), frames, 1 << 40, 3)
    tails = w.op("Concat", past, w.op("Reshape", tails, chunk.rows_of["tails"]), axis=2)
    new["conv"] = w.op("Transpose", w.slice(tails, frames, 1 << 40, 2), perm=[0, 1, 3, 2])
    new["frames"] = w.op("Add", state["frames"], frames)
    ctc = ""
    if model.ctc is not None:
        scores = w.linear(x, "ctc", array(model.ctc.weight), array(model.ctc.bias))
        scores = w.op("Reshape", scores, w.op("Concat", batch, frames, w.const([model.ctc.out_features]), axis=0))
        ctc = w.op("LogSoftmax", scores, axis=-1)
    return w.op("Reshape", x, chunk.rows_of["bcd"]), ctc, new


def _dtype(a: torch.Tensor) -> str:
    return str(a.dtype).removeprefix("torch.")


def _range(w: Writer, n: str) -> str:
    """0, 1 ... n - 1 for n (1,)."""
    return w.op("Range", w.const(0), w.op("Squeeze", n), w.const(1))


def _subsample(w: Writer, model: FastConformer, x: str, lengths: str, state: dict[str, str], batch: str, frames: str):
    """Rows (B * c, D), the histories, and how many of the c frames are real, (B, 1)."""
    s = model.encoder.subsampling
    scale, new = s.factor, {}
    first = w.op("Unsqueeze", state["frames"], w.const([1]))  # (B, 1)
    total = w.op("Add", w.op("Add", w.op("Mul", first, w.const(scale)), w.const(1 - scale)),
                 w.op("Unsqueeze", lengths, w.const([1])))
    h = w.op("Unsqueeze", x, w.const([1]))
    for stage, conv in enumerate(s.depthwise):
        place = _range(w, w.op("Mul", frames, w.const([scale])))
        place = w.op("Add", w.op("Add", w.op("Mul", first, w.const(scale)), w.const(1 - scale)), place)  # (B, T)
        real = w.op("And", w.op("GreaterOrEqual", place, w.const(0)), w.op("Less", place, total))
        h = w.op("Where", w.op("Unsqueeze", real, w.const([1, 3])), h, w.const(0, np.float32))
        h = w.op("Concat", state[f"sub{stage}"], h, axis=2)
        new[f"sub{stage}"] = w.slice(h, -1, 1 << 40, 2)
        name = f"encoder.subsampling.depthwise.{stage}"
        low, high = s.pad  # in frequency; in time the history stands before the block
        h = w.op("Conv", h, w.tensor(array(conv.weight), f"{name}.weight"), w.tensor(array(conv.bias), f"{name}.bias"),
                 kernel_shape=[3, 3], strides=[2, 2], pads=[0, low, 0, high], group=conv.groups)
        if stage:
            point, name = s.pointwise[stage - 1], f"encoder.subsampling.pointwise.{stage - 1}"
            h = w.op("Conv", h, w.tensor(array(point.weight), f"{name}.weight"),
                     w.tensor(array(point.bias), f"{name}.bias"), kernel_shape=[1, 1])
        h = w.op("Relu", h)
        total = w.op("Add", w.op("Div", total, w.const(2)), w.const(1))
        scale //= 2
    h = w.op("Reshape", w.op("Transpose", h, perm=[0, 2, 1, 3]), w.const([-1, s.channels * s.bins[-1]]))
    y = w.linear(h, "encoder.subsampling.out", array(s.out.weight), array(s.out.bias))
    return y, new, w.op("Sub", total, first)


def _chunk(w: Writer, model: FastConformer, before: str, limit: str, batch: str, frames: str) -> _Chunk:
    c, left = model.encoder.config, model.encoder.config.left
    first = w.op("Unsqueeze", before, w.const([1]))
    rows_of = {"bcd": w.op("Concat", batch, frames, w.const([c.dim]), axis=0),
               "heads": w.op("Concat", batch, frames, w.const([c.heads, c.dim // c.heads]), axis=0),
               "qk": w.op("Concat", batch, frames, w.const([2 * c.dim]), axis=0),
               "cache": w.op("Concat", batch, w.const([c.layers, c.heads, -1, c.dim // c.heads]), axis=0),
               "tails": w.op("Concat", batch, w.const([c.layers]), frames, w.const([c.dim]), axis=0)}
    total = w.op("Add", frames, w.const([left]))  # keys
    key = w.op("Sub", _range(w, total), w.const(left))
    oldest = w.op("Mul", w.op("Div", w.const([left]), frames), frames)  # whole chunks of the past are seen
    seen = w.op("And", w.op("GreaterOrEqual", key, w.op("Neg", w.op("Min", first, oldest))), w.op("Less", key, limit))
    mask = w.op("Where", seen, w.const(0, np.float32), w.const(VOID, np.float32))
    mask = w.op("Expand", w.op("Unsqueeze", mask, w.const([1, 2])),
                w.op("Concat", w.const([1, 1]), frames, w.const([1]), axis=0))
    place = _range(w, frames)
    angles, columns = (), ()
    if c.position == "rope":
        half = c.dim // c.heads // 2
        turns = w.op("Unsqueeze", w.op("Add", first, place), w.const([2]))
        turns = w.op("Mod", w.op("Mul", turns, w.tensor(model.encoder.cycles.cpu().numpy(), "encoder.cycles")),
                     w.const(PERIOD))
        angle = w.op("Mul", w.op("Cast", turns, to=1), w.const(2 * np.pi / PERIOD, np.float32))
        angle = w.op("Reshape", angle, w.const([-1, half]))
        ids = w.op("Reshape", _range(w, w.op("Mul", batch, frames)), w.op("Concat", batch, frames, axis=0))
        angles = ids, w.op("Cos", angle), w.op("Sin", angle)
    else:
        most = max(c.lookaheads) + 1
        begin = w.op("Sub", w.const([most]), frames)
        width = w.op("Sub", w.op("Add", total, frames), w.const([1]))
        lead = w.op("Concat", batch, w.const([c.heads]), axis=0)
        columns = (begin, w.op("Add", begin, w.op("Add", width, w.const([1]))),
                   w.op("Concat", lead, w.op("Add", width, w.const([1])), frames, axis=0),
                   w.op("Concat", lead, frames, width, axis=0), total)
    windows = w.op("Add", w.op("Unsqueeze", place, w.const([1])), w.const(np.arange(c.kernel)))
    return _Chunk(rows_of, frames, mask, angles, windows, columns)


def _norm(w: Writer, x: str, name: str, norm: nn.LayerNorm) -> str:
    return w.op("LayerNormalization", x, w.tensor(array(norm.weight), f"{name}.weight"),
                w.tensor(array(norm.bias), f"{name}.bias"), axis=-1, epsilon=norm.eps)


def _layer(w: Writer, c: ConformerConfig, layer: ConformerLayer, name: str, x: str, cache: list[str], chunk: _Chunk):
    # a sum and a norm are faster than onnxruntime's SkipLayerNormalization from two rows on
    keys, values, past = cache
    x = w.op("Add", x, _feed_forward(w, layer.ff1, f"{name}.ff1", _norm(w, x, f"{name}.norm_ff1", layer.norm_ff1)))
    h = _norm(w, x, f"{name}.norm_att", layer.norm_att)
    y, keys, values = _attention(w, c, layer.att, f"{name}.att", h, keys, values, chunk)
    x = w.op("Add", x, y)
    h = _norm(w, x, f"{name}.norm_conv", layer.norm_conv)
    y, tail = _convolution(w, c, layer.conv, f"{name}.conv", h, past, chunk)
    x = w.op("Add", x, y)
    x = w.op("Add", x, _feed_forward(w, layer.ff2, f"{name}.ff2", _norm(w, x, f"{name}.norm_ff2", layer.norm_ff2)))
    return _norm(w, x, f"{name}.norm_out", layer.norm_out), keys, values, tail


def _feed_forward(w: Writer, ff: nn.Module, name: str, x: str) -> str:
    """Half of what the network gives: the residual is half a step."""
    h = w.op("QuickGelu", w.linear(x, f"{name}.up", array(ff.up.weight), array(ff.up.bias)), alpha=1.0)
    bias = None if ff.down.bias is None else 0.5 * array(ff.down.bias)
    return w.linear(h, f"{name}.down.half", 0.5 * array(ff.down.weight), bias)


def _attention(w: Writer, c: ConformerConfig, att: nn.Module, name: str, x: str, keys: str, values: str, chunk: _Chunk):
    """Rows, and the keys and values of cache and chunk (B, H, L + c, Dh)."""
    qkv = w.linear(x, f"{name}.qkv", array(att.qkv.weight), array(att.qkv.bias))
    if att.relative:
        q, k, v = w.op("Split", qkv, axis=1, num_outputs=3, outputs=3)
        q, k, v = (w.op("Reshape", t, chunk.rows_of["bcd"]) for t in (q, k, v))
        near = w.tensor(np.concatenate([array(att.bias_u).ravel(), np.zeros(2 * c.dim, np.float32)]), f"{name}.bias_u")
        bias = _positions(w, c, att, name, q, chunk)
    else:
        qk, v = w.op("Split", qkv, w.const([2 * c.dim, c.dim]), axis=1, outputs=2)
        qk = w.op("RotaryEmbedding", w.op("Reshape", qk, chunk.rows_of["qk"]), *chunk.angles)
        q, k = w.op("Split", qk, axis=2, num_outputs=2, outputs=2)
        v, near, bias = w.op("Reshape", v, chunk.rows_of["bcd"]), "", chunk.mask
    y, keys, values = w.op("MultiHeadAttention", q, k, v, near, "", bias, keys, values, outputs=3, num_heads=c.heads)
    y = w.op("Reshape", y, w.const([-1, c.dim]))
    return w.linear(y, f"{name}.out", array(att.out.weight), array(att.out.bias)), keys, values


def _positions(w: Writer, c: ConformerConfig, att: nn.Module, name: str, q: str, chunk: _Chunk) -> str:
    """The scores by relative position and the mask, (B, H, c, L + c), for q (B, c, D)."""
    table = array(att.position_table(max(c.lookaheads) + 1)).transpose(0, 2, 1) * att.dim_head ** -0.5
    table = np.concatenate([np.zeros_like(table[:, :, :1]), table], axis=2)  # a column for the skew to begin with
    q = w.op("Add", w.op("Reshape", q, chunk.rows_of["heads"]), w.tensor(array(att.bias_v)[:, 0], f"{name}.bias_v"))
    far = w.op("MatMul", w.op("Transpose", q, perm=[0, 2, 1, 3]), w.tensor(table, f"{name}.positions"))
    first, end, tall, wide, keys = chunk.columns
    far = w.op("Reshape", w.slice(far, first, end, 3), tall)  # the skew of nn.position, the first column its padding
    far = w.op("Reshape", w.slice(far, 1, 1 << 40, 2), wide)
    return w.op("Add", w.slice(far, 0, keys, 3), chunk.mask)


def _convolution(w: Writer, c: ConformerConfig, conv: nn.Module, name: str, x: str, past: str, chunk: _Chunk):
    """Rows, and the depthwise convolution's inputs (B, c, D)."""
    h = w.linear(x, f"{name}.up", array(conv.up.weight), array(conv.up.bias))
    a, b = w.op("Split", h, axis=1, num_outputs=2, outputs=2)
    tail = w.op("Reshape", w.op("Mul", a, w.op("Sigmoid", b)), chunk.rows_of["bcd"])
    h = w.op("Concat", past, tail, axis=1)
    weight, bias = array(conv.depthwise.weight)[:, 0].T, array(conv.depthwise.bias)  # (K, D)
    if not isinstance(conv.norm, nn.LayerNorm):
        norm = conv.norm
        gain = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
        bias = (0 if bias is None else bias) * gain + array(norm.bias) - array(norm.running_mean) * gain
        weight = weight * gain
    h = w.op("Mul", w.op("Gather", h, chunk.windows, axis=1), w.tensor(weight, f"{name}.depthwise.weight.T"))
    h = w.op("ReduceSum", h, w.const([2]), keepdims=0)
    if bias is not None:
        h = w.op("Add", h, w.tensor(bias.astype(np.float32), f"{name}.depthwise.bias"))
    h = w.op("Reshape", h, w.const([-1, c.dim]))
    if isinstance(conv.norm, nn.LayerNorm):
        h = _norm(w, h, f"{name}.norm", conv.norm)
    return w.linear(w.op("QuickGelu", h, alpha=1.0), f"{name}.down", array(conv.down.weight),
                    array(conv.down.bias)), tail
