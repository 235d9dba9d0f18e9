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

from speechstream.export.graph import TYPES, Writer
from speechstream.export.quantize import FP32, Weights
from speechstream.nn.conformer import ConformerConfig, ConformerEncoder, ConformerLayer
from speechstream.nn.fastconformer import FastConformer
from speechstream.nn.position import PERIOD
from speechstream.nn.subsampling import ConvSubsampling
from speechstream.state import flatten

VOID = -1e30  # added to the scores of what must not be seen
RINGS = ("keys.", "values.")
# Each is read by one node, of whose output the new one is made: they may share memory. `frames` is read everywhere.
IN_PLACE = (*RINGS, "conv.", "sub")


@dataclass(frozen=True)
class _Chunk:
    """Values that all layers share."""

    rows_of: dict[str, str]  # shapes: "bcd" (B, c, D), "rows" (B * c, D) ...
    frames: str  # c, as (1,) int64
    rows: str  # (B, H, c, 3) where the chunk's keys and values go in the rings
    mask: str  # of RoPE: (B, 1, c, R) float, 0 or VOID
    angles: tuple[str, ...]  # of RoPE: position ids, cosines, sines
    columns: str  # of relative positions: (B, H, c, R) which score each query and key have
    half: bool  # the rings hold 16 bits


def array(t: torch.Tensor | None) -> np.ndarray | None:
    return None if t is None else t.detach().float().cpu().numpy()


def stream_start(encoder: ConformerEncoder, half: bool = False) -> dict[str, np.ndarray]:
    """The state of one stream that has heard nothing, as the graph keeps it: its fields by name, with a batch of one.

    Keys and values are rings of R = left + the longest chunk frames, one for each layer: frame t lies in row t % R. half:
    they are kept in 16 bits.
    The convolutions' inputs have the channels last. A chunk writes its own rows, and nothing is moved.
    """
    c, torch_state = encoder.config, flatten(encoder.init_state(1))
    ring = np.zeros(
        (1, c.heads, c.left_context + longest(c), c.dim // c.heads),
        np.float16 if half else np.float32,
    )
    start = {f"{n}.layer{i}": ring for n in ("keys", "values") for i in range(c.layers)}
    start |= {
        f"conv.layer{i}": np.zeros((1, c.kernel - 1, c.dim), np.float32) for i in range(c.layers)
    }
    return start | {
        n: a.numpy() for n, a in torch_state.items() if n not in ("keys", "values", "conv")
    }


def in_order(state: dict[str, np.ndarray], c: ConformerConfig) -> dict[str, np.ndarray]:
    """A graph's state as the network has it (`nn.conformer.EncoderState`): all layers together, oldest frames first."""
    out = {}
    place = state["frames"][:, None] - c.left_context + np.arange(c.left_context)
    rows = (place % (c.left_context + longest(c)))[:, None, :, None]
    for name in ("keys", "values"):
        layers = [np.take_along_axis(state[f"{name}.layer{i}"], rows, 2) for i in range(c.layers)]
        out[name] = np.stack(layers, 1)
    out["conv"] = np.stack([state[f"conv.layer{i}"].transpose(0, 2, 1) for i in range(c.layers)], 1)
    return out | {n: a for n, a in state.items() if "." not in n}


def longest(c: ConformerConfig) -> int:
    """Frames of the longest chunk."""
    return max(c.lookaheads) + 1


def encoder_graph(
    model: FastConformer, weights: Weights = FP32, half: bool = False
) -> onnx.ModelProto:
    """features (B, subsampling * c, mels), lengths (B,) and the state, to encoded, ctc (log probabilities), new state.

    half: keys and values are kept in 16 bits. Raises ValueError for an encoder that runs offline only.
    """
    c, start, w = model.encoder.config, stream_start(model.encoder, half), Writer(weights)
    features = w.input("features", "float32", ["batch", "feature_frames", c.n_mels])
    lengths = w.input("lengths", "int64", ["batch"])
    state = {
        n: w.input(f"state.{n}", str(a.dtype), ["batch", *a.shape[1:]]) for n, a in start.items()
    }
    encoded, ctc, new = encoder_step(w, model, features, lengths, state, half=half)
    w.output("encoded", encoded, "float32", ["batch", "frames", c.dim])
    if ctc:
        w.output("ctc", ctc, "float32", ["batch", "frames", model.ctc.out_features])
    for name, a in start.items():
        w.output(f"new.{name}", new[name], str(a.dtype), ["batch", *a.shape[1:]])
    return w.model()


def encoder_step(
    w: Writer,
    model: FastConformer,
    features: str,
    lengths: str,
    state: dict[str, str],
    ctc: bool = True,
    half: bool = False,
) -> tuple[str, str, dict[str, str]]:
    """Write the step: encoded (B, c, D), CTC log probabilities ("" without that head), and the new state's fields."""
    encoder, c = model.encoder.eval(), model.encoder.config
    shape = w.op("Shape", features)
    batch = w.slice(shape, 0, 1, 0)
    frames = w.op("Div", w.slice(shape, 1, 2, 0), w.const([c.subsampling]))
    # a chunk that is longer than the rings have room for is an index out of this table, and fails
    frames = w.op(
        "Gather", w.const(np.arange(1, longest(c) + 1)), w.op("Sub", frames, w.const([1]))
    )
    x, new, limit = _subsample(w, model, features, lengths, state, frames)
    chunk = _chunk(w, model, state["frames"], limit, batch, frames, half)
    if c.scale_input:
        x = w.op("Mul", x, w.const(c.dim**0.5, np.float32))
    for i, layer in enumerate(encoder.layers):
        names = [f"{n}.layer{i}" for n in ("keys", "values", "conv")]
        x, *after = _layer(w, c, layer, f"encoder.layers.{i}", x, [state[n] for n in names], chunk)
        new |= zip(names, after)
    new["frames"] = w.op("Add", state["frames"], frames)
    scores = ""
    if ctc and model.ctc is not None:
        scores = w.linear(x, "ctc", array(model.ctc.weight), array(model.ctc.bias))
        scores = w.op(
            "Reshape",
            scores,
            w.op("Concat", batch, frames, w.const([model.ctc.out_features]), axis=0),
        )
        scores = w.op("LogSoftmax", scores, axis=-1)
    return w.op("Reshape", x, chunk.rows_of["bcd"]), scores, new


def _range(w: Writer, n: str) -> str:
    """0, 1 ... n - 1 for n (1,)."""
    return w.op("Range", w.const(0), w.op("Squeeze", n), w.const(1))


def _subsample(
    w: Writer, model: FastConformer, x: str, lengths: str, state: dict[str, str], frames: str
):
    """Rows (B * c, D), the histories, and how many of the c frames are real, (B, 1)."""
    s = model.encoder.subsampling
    first = w.op("Unsqueeze", state["frames"], w.const([1]))  # (B, 1)
    total = w.op(
        "Add",
        w.op("Add", w.op("Mul", first, w.const(s.factor)), w.const(1 - s.factor)),
        w.op("Unsqueeze", lengths, w.const([1])),
    )
    reals, scale, each = (
        [],
        s.factor,
        total,
    )  # for each stage, which of its frames are audio, (B, T)
    for _ in s.depthwise:
        place = _range(w, w.op("Mul", frames, w.const([scale])))
        place = w.op(
            "Add", w.op("Add", w.op("Mul", first, w.const(scale)), w.const(1 - scale)), place
        )
        reals.append(
            w.op("And", w.op("GreaterOrEqual", place, w.const(0)), w.op("Less", place, each))
        )
        each = w.op("Add", w.op("Div", each, w.const(2)), w.const(1))
        scale //= 2
    ends = w.op(
        "Less",
        w.op("ReduceMin", lengths, keepdims=0),
        w.op("Squeeze", w.op("Mul", frames, w.const([s.factor]))),
    )
    begins = w.op("Equal", w.op("ReduceMin", state["frames"], keepdims=0), w.const(0))
    histories = [state[f"sub{i}"] for i in range(len(s.depthwise))]
    h, *after = w.op(
        "If",
        w.op("Or", ends, begins),
        outputs=1 + len(histories),
        then_branch=w.branch(lambda: _stages(w, s, x, histories, reals)),
        else_branch=w.branch(lambda: _stages(w, s, x, histories, None)),
    )
    y = w.linear(h, "encoder.subsampling.out", array(s.out.weight), array(s.out.bias))
    return y, {f"sub{i}": a for i, a in enumerate(after)}, w.op("Sub", each, first)


def _stages(
    w: Writer, s: ConvSubsampling, x: str, histories: list[str], reals: list[str] | None
) -> list[str]:
    """Rows (B * c, channels * bins) and the histories. reals: which frames to hear, None where all of them are audio."""
    h, after = w.op("Unsqueeze", x, w.const([1])), []
    low, high = s.pad  # in frequency; in time the history stands before the block
    for stage, conv in enumerate(s.depthwise):
        if reals is not None:
            h = w.op(
                "Where", w.op("Unsqueeze", reals[stage], w.const([1, 3])), h, w.const(0, np.float32)
            )
        h = w.op("Concat", histories[stage], h, axis=2)
        after.append(w.slice(h, -1, 1 << 40, 2))
        name = f"encoder.subsampling.depthwise.{stage}"
        h = w.op(
            "Conv",
            h,
            w.tensor(array(conv.weight), f"{name}.weight"),
            w.tensor(array(conv.bias), f"{name}.bias"),
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[0, low, 0, high],
            group=conv.groups,
        )
        if stage:
            point, name = s.pointwise[stage - 1], f"encoder.subsampling.pointwise.{stage - 1}"
            h = w.op(
                "Conv",
                h,
                w.tensor(array(point.weight), f"{name}.weight"),
                w.tensor(array(point.bias), f"{name}.bias"),
                kernel_shape=[1, 1],
            )
        h = w.op("Relu", h)
    return [
        w.op(
            "Reshape",
            w.op("Transpose", h, perm=[0, 2, 1, 3]),
            w.const([-1, s.channels * s.bins[-1]]),
        ),
        *after,
    ]


def _chunk(
    w: Writer, model: FastConformer, before: str, limit: str, batch: str, frames: str, half: bool
) -> _Chunk:
    c, left, most = (
        model.encoder.config,
        model.encoder.config.left_context,
        longest(model.encoder.config),
    )
    ring = left + most
    first = w.op("Unsqueeze", before, w.const([1]))
    rows_of = {
        "bcd": w.op("Concat", batch, frames, w.const([c.dim]), axis=0),
        "heads": w.op("Concat", batch, frames, w.const([c.heads, c.dim // c.heads]), axis=0),
        "qk": w.op("Concat", batch, frames, w.const([2 * c.dim]), axis=0),
    }
    place = _range(w, frames)
    streams = w.op("Unsqueeze", _range(w, batch), w.const([1, 2]))
    heads = w.op("Unsqueeze", w.const(np.arange(c.heads)), w.const([0, 2]))
    row = w.op("Unsqueeze", w.op("Mod", w.op("Add", first, place), w.const(ring)), w.const([1]))
    whole = w.op("Concat", batch, w.const([c.heads]), frames, axis=0)
    rows = w.op(
        "Concat",
        *(w.op("Unsqueeze", w.op("Expand", n, whole), w.const([3])) for n in (streams, heads, row)),
        axis=3,
    )
    # which frame lies in each row of the ring once the chunk is written, relative to the chunk's first: (B, R)
    last = w.op("Add", first, w.op("Sub", frames, w.const([1])))
    age = w.op("Mod", w.op("Sub", last, w.const(np.arange(ring))), w.const(ring))
    key = w.op("Sub", w.op("Sub", frames, w.const([1])), age)
    oldest = w.op(
        "Mul", w.op("Div", w.const([left]), frames), frames
    )  # whole chunks of the past are seen
    seen = w.op(
        "And",
        w.op("GreaterOrEqual", key, w.op("Neg", w.op("Min", first, oldest))),
        w.op("Less", key, limit),
    )
    if c.position == "rope":
        pairs = c.dim // c.heads // 2
        turns = w.op("Unsqueeze", w.op("Add", first, place), w.const([2]))
        turns = w.op(
            "Mod",
            w.op("Mul", turns, w.tensor(model.encoder.cycles.cpu().numpy(), "encoder.cycles")),
            w.const(PERIOD),
        )
        angle = w.op("Mul", w.op("Cast", turns, to=1), w.const(2 * np.pi / PERIOD, np.float32))
        angle = w.op("Reshape", angle, w.const([-1, pairs]))
        ids = w.op(
            "Reshape", _range(w, w.op("Mul", batch, frames)), w.op("Concat", batch, frames, axis=0)
        )
        mask = w.op("Where", seen, w.const(0, np.float32), w.const(VOID, np.float32))
        mask = w.op(
            "Expand",
            w.op("Unsqueeze", mask, w.const([1, 2])),
            w.op("Concat", w.const([1, 1]), frames, w.const([1]), axis=0),
        )
        return _Chunk(
            rows_of, frames, rows, mask, (ids, w.op("Cos", angle), w.op("Sin", angle)), "", half
        )
    distance = w.op(
        "Sub", w.op("Unsqueeze", place, w.const([1])), w.op("Unsqueeze", key, w.const([1]))
    )  # (B, c, R)
    column = w.op("Sub", w.const(left + most - 1), distance)
    column = w.op(
        "Where", w.op("Unsqueeze", seen, w.const([1])), column, w.const(left + 2 * most - 1)
    )
    columns = w.op("Expand", w.op("Unsqueeze", column, w.const([1])), w.const([1, c.heads, 1, 1]))
    return _Chunk(rows_of, frames, rows, "", (), columns, half)


def _norm(w: Writer, x: str, name: str, norm: nn.LayerNorm) -> str:
    return w.op(
        "LayerNormalization",
        x,
        w.tensor(array(norm.weight), f"{name}.weight"),
        w.tensor(array(norm.bias), f"{name}.bias"),
        axis=-1,
        epsilon=norm.eps,
    )


def _layer(
    w: Writer,
    c: ConformerConfig,
    layer: ConformerLayer,
    name: str,
    x: str,
    cache: list[str],
    chunk: _Chunk,
):
    # a sum and a norm are faster than onnxruntime's SkipLayerNormalization from two rows on
    keys, values, past = cache
    x = w.op(
        "Add",
        x,
        _feed_forward(w, layer.ff1, f"{name}.ff1", _norm(w, x, f"{name}.norm_ff1", layer.norm_ff1)),
    )
    h = _norm(w, x, f"{name}.norm_att", layer.norm_att)
    y, keys, values = _attention(w, c, layer.att, f"{name}.att", h, keys, values, chunk)
    x = w.op("Add", x, y)
    h = _norm(w, x, f"{name}.norm_conv", layer.norm_conv)
    y, past = _convolution(w, c, layer.conv, f"{name}.conv", h, past, chunk)
    x = w.op("Add", x, y)
    x = w.op(
        "Add",
        x,
        _feed_forward(w, layer.ff2, f"{name}.ff2", _norm(w, x, f"{name}.norm_ff2", layer.norm_ff2)),
    )
    return _norm(w, x, f"{name}.norm_out", layer.norm_out), keys, values, past


def _feed_forward(w: Writer, ff: nn.Module, name: str, x: str) -> str:
    """Half of what the network gives: the residual is half a step."""
    h = w.op(
        "QuickGelu", w.linear(x, f"{name}.up", array(ff.up.weight), array(ff.up.bias)), alpha=1.0
    )
    bias = None if ff.down.bias is None else 0.5 * array(ff.down.bias)
    return w.linear(h, f"{name}.down.half", 0.5 * array(ff.down.weight), bias)


def _attention(
    w: Writer,
    c: ConformerConfig,
    att: nn.Module,
    name: str,
    x: str,
    keys: str,
    values: str,
    chunk: _Chunk,
):
    """Rows, and the rings of keys and values (B, H, R, Dh) with the chunk in them."""
    qkv = w.linear(x, f"{name}.qkv", array(att.qkv.weight), array(att.qkv.bias))
    if att.relative:
        q, k, v = w.op("Split", qkv, axis=1, num_outputs=3, outputs=3)
        q = w.op("Reshape", q, chunk.rows_of["bcd"])
        near = w.tensor(
            np.concatenate([array(att.bias_u).ravel(), np.zeros(2 * c.dim, np.float32)]),
            f"{name}.bias_u",
        )
        bias = _positions(w, c, att, name, q, chunk)
    else:
        qk, v = w.op("Split", qkv, w.const([2 * c.dim, c.dim]), axis=1, outputs=2)
        qk = w.op("RotaryEmbedding", w.op("Reshape", qk, chunk.rows_of["qk"]), *chunk.angles)
        q, k = w.op("Split", qk, axis=2, num_outputs=2, outputs=2)
        near, bias = "", chunk.mask
    keys, values = (_remember(w, ring, t, chunk) for ring, t in ((keys, k), (values, v)))
    seen = [
        w.op("Cast", ring, to=TYPES["float32"]) if chunk.half else ring for ring in (keys, values)
    ]
    y = w.op("MultiHeadAttention", q, *seen, near, "", bias, num_heads=c.heads)
    y = w.op("Reshape", y, w.const([-1, c.dim]))
    return w.linear(y, f"{name}.out", array(att.out.weight), array(att.out.bias)), keys, values


def _remember(w: Writer, ring: str, x: str, chunk: _Chunk) -> str:
    """The ring with the chunk's keys or values in it."""
    x = _heads(w, x, chunk)
    return w.op(
        "ScatterND", ring, chunk.rows, w.op("Cast", x, to=TYPES["float16"]) if chunk.half else x
    )


def _heads(w: Writer, x: str, chunk: _Chunk) -> str:
    """(B, H, c, Dh) of rows or of (B, c, D)."""
    return w.op("Transpose", w.op("Reshape", x, chunk.rows_of["heads"]), perm=[0, 2, 1, 3])


def _positions(
    w: Writer, c: ConformerConfig, att: nn.Module, name: str, q: str, chunk: _Chunk
) -> str:
    """The scores by relative position, (B, H, c, R), for q (B, c, D); VOID where a key must not be seen.

    The table has a column a distance, from the farthest past on. `chunk.columns` puts the scores in the order of the
    rings, and takes the last column for what must not be seen.
    """
    table = (
        array(att.position_table(longest(c))).transpose(0, 2, 1) * att.dim_head**-0.5
    )  # (H, Dh, distances)
    offset = array(att.bias_v) @ table  # (H, 1, distances)
    table = np.concatenate([table, np.zeros_like(table[:, :, :1])], axis=2)
    offset = np.concatenate([offset, np.full_like(offset[:, :, :1], VOID)], axis=2)
    far = w.op("MatMul", _heads(w, q, chunk), w.tensor(table, f"{name}.positions"))
    far = w.op("Add", far, w.tensor(offset, f"{name}.positions.bias_v"))
    return w.op("GatherElements", far, chunk.columns, axis=3)


def _convolution(
    w: Writer, c: ConformerConfig, conv: nn.Module, name: str, x: str, past: str, chunk: _Chunk
):
    """Rows, and the depthwise convolution's last inputs (B, K - 1, D)."""
    h = w.linear(x, f"{name}.up", array(conv.up.weight), array(conv.up.bias))
    a, b = w.op("Split", h, axis=1, num_outputs=2, outputs=2)
    h = w.op(
        "Concat",
        past,
        w.op("Reshape", w.op("Mul", a, w.op("Sigmoid", b)), chunk.rows_of["bcd"]),
        axis=1,
    )
    past = w.slice(h, 1 - c.kernel, 1 << 40, 1)
    weight, bias = array(conv.depthwise.weight), array(conv.depthwise.bias)  # (D, 1, K)
    if not isinstance(conv.norm, nn.LayerNorm):
        norm = conv.norm
        gain = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
        bias = (
            (0 if bias is None else bias) * gain
            + array(norm.bias)
            - array(norm.running_mean) * gain
        )
        weight = weight * gain[:, None, None]
    # onnxruntime's blocked kernel wants an image: one line of c + K - 1 pixels, its channels last on both sides
    h = w.op("Transpose", w.op("Unsqueeze", h, w.const([1])), perm=[0, 3, 1, 2])
    h = w.op(
        "Conv",
        h,
        w.tensor(weight[:, :, None], f"{name}.depthwise.weight"),
        *(
            [w.tensor(bias.astype(np.float32), f"{name}.depthwise.bias")]
            if bias is not None
            else []
        ),
        kernel_shape=[1, c.kernel],
        group=c.dim,
    )
    h = w.op("Reshape", w.op("Transpose", h, perm=[0, 2, 3, 1]), w.const([-1, c.dim]))
    if isinstance(conv.norm, nn.LayerNorm):
        h = _norm(w, h, f"{name}.norm", conv.norm)
    return w.linear(
        w.op("QuickGelu", h, alpha=1.0),
        f"{name}.down",
        array(conv.down.weight),
        array(conv.down.bias),
    ), past
