"""A small writer of ONNX graphs: nodes in the order they are called, weights in 32, 8 or 4 bits.

The FastConformer's graphs are written with it rather than traced: they then hold no node too many, need no tracing
and use onnxruntime's fused operations (domain com.microsoft).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from speechstream.errors import SpeechStreamError
from speechstream.export.quantize import (
    DOMAIN,
    FP32,
    PRODUCER,
    SMALLEST,
    Weights,
    quantize_blocks,
    quantize_channels,
)

OPSET, IR_VERSION = 20, 9
FUSED = {
    "GroupQueryAttention",
    "MatMulIntegerToFloat",
    "MatMulNBits",
    "MultiHeadAttention",
    "QuickGelu",
    "RotaryEmbedding",
}  # onnxruntime's
TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
    "int8": TensorProto.INT8,
}

HEAD_STEP = 8  # onnxruntime's GroupQueryAttention takes heads of its multiples


def check_head_dim(head_dim: int) -> None:
    """Raises SpeechStreamError for heads that GroupQueryAttention does not take."""
    if head_dim % HEAD_STEP:
        raise SpeechStreamError(
            f"its heads have {head_dim} dimensions, and graphs are written for multiples of {HEAD_STEP} only"
        )


class Writer:
    """Values are names. weights: how those of `linear` are stored."""

    def __init__(self, weights: Weights = FP32):
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.inputs: list = []
        self.outputs: list = []
        self._rows: dict[str, tuple[str, str]] = {}  # activations that are quantised already
        self._zeros: str | None = None  # 128 for each row: activations all have the same rows
        self._count = 0
        self._scope = ""  # before the names of weights

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))
        return name

    def output(self, name: str, value: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Give a value that a node made the name of an output: no copy, as an Identity would be."""
        _rename(self.nodes, value, name)
        self.outputs.append(helper.make_tensor_value_info(name, TYPES[dtype], shape))

    def tensor(self, array: np.ndarray, name: str) -> str:
        """A named weight."""
        name = self._scope + name
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.array(array, order="C"), name)
        return name

    def const(self, value, dtype=np.int64) -> str:
        """A small constant; equal ones are one."""
        a = np.asarray(value, dtype)
        return (
            self.tensor(
                a, f"const.{a.dtype}.{'x'.join(map(str, a.shape))}.{a.tobytes().hex()}"[:80]
            )
            if a.nbytes <= 16
            else self.tensor(a, f"const.{a.dtype}.{'_'.join(map(str, a.ravel().tolist()))}")
        )

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes):
        """Add a node; returns the name of its output, or several."""
        self._count += 1
        names = [f"{kind}.{self._count}" + (f".{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(
            helper.make_node(
                kind,
                list(inputs),
                names,
                name=f"{kind}.{self._count}",
                domain=DOMAIN if kind in FUSED else "",
                **attributes,
            )
        )
        return names[0] if outputs == 1 else names

    def branch(self, build: Callable[[], Sequence[str]]) -> onnx.GraphProto:
        """What `build` writes as a branch of an `If`, with weights of its own; it returns the branch's outputs."""
        outside = self.nodes, self.tensors, self._scope
        self.nodes, self.tensors, self._scope = [], {}, f"branch{self._count}."
        outputs = [helper.make_empty_tensor_value_info(name) for name in build()]
        graph = helper.make_graph(self.nodes, self._scope, [], outputs, list(self.tensors.values()))
        self.nodes, self.tensors, self._scope = outside
        return graph

    def new_rows(self) -> None:
        """Activations from here on have another number of rows than those before."""
        self._rows, self._zeros = {}, None

    def slice(self, x: str, start, stop, axis: int) -> str:
        """start, stop: integers, or names of (1,) int64 values."""
        start, stop = (v if isinstance(v, str) else self.const([v]) for v in (start, stop))
        return self.op("Slice", x, start, stop, self.const([axis]))

    def linear(self, x: str, name: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """x (rows, K) by weight (N, K) of this name, plus bias (N,)."""
        return self.side_by_side(x, [(name, weight, bias)])

    def side_by_side(
        self, x: str, parts: Sequence[tuple[str, np.ndarray, np.ndarray | None]]
    ) -> str:
        """`linear` by several weights of one shape in one product: (rows, N of all), their names, weights and biases.

        Each is stored under its own name. onnxruntime joins them when it opens the graph.
        """
        (n, k), size = parts[0][1].shape, parts[0][1].size
        biases = [(f"{name}.bias", bias) for name, _, bias in parts if bias is not None]
        b = self._joined(biases, 0) if biases else None
        bits, block = self.weights.bits, self.weights.block and self.weights.fits(k)
        if bits == 32 or size < SMALLEST or (self.weights.block and not block):
            w = self._joined([(f"{name}.weight.T", weight.T) for name, weight, _ in parts], 1)
            return self.op("MatMul", x, w) if b is None else self.op("Gemm", x, w, b)
        if block:
            forms = [(name, *quantize_blocks(weight, bits, block)) for name, weight, _ in parts]
            return self.op(
                "MatMulNBits",
                x,
                self._joined([(f"{name}.weight.codes", codes) for name, codes, _ in forms], 0),
                self._joined([(f"{name}.weight.scales", scales) for name, _, scales in forms], 0),
                "",
                "",
                *([b] if b else []),
                K=k,
                N=n * len(parts),
                bits=bits,
                block_size=block,
                accuracy_level=4,
            )
        forms = [(name, *quantize_channels(weight.T, axis=1)) for name, weight, _ in parts]
        rows, step = self._quantise(x)
        y = self.op(
            "MatMulIntegerToFloat",
            rows,
            self._joined([(f"{name}.weight.T.codes", codes) for name, codes, _ in forms], 1),
            self.const(1, np.float32),
            self._joined([(f"{name}.weight.T.scales", scales) for name, _, scales in forms], 0),
            self.const(128, np.uint8),
        )
        y = self.op("Mul", y, step)
        return y if b is None else self.op("Add", y, b)

    def _joined(self, weights: Sequence[tuple[str, np.ndarray]], axis: int) -> str:
        """Named weights, joined along an axis where there are several."""
        names = [self.tensor(a, name) for name, a in weights]
        return names[0] if len(names) == 1 else self.op("Concat", *names, axis=axis)

    def _quantise(self, x: str) -> tuple[str, str]:
        """x (rows, K) as uint8 around 128 with a step a row (rows, 1): a frame depends on no other frame."""
        if x not in self._rows:
            top = self.op("ReduceMax", self.op("Abs", x), self.const([-1]), keepdims=1)
            step = self.op(
                "Mul", top, self.const(1 / 127, np.float32)
            )  # 0 for a row of zeros, and so the product
            line = self.op("Squeeze", step, self.const([1]))
            if self._zeros is None:
                self._zeros = self.op("Expand", self.const([128], np.uint8), self.op("Shape", line))
            self._rows[x] = self.op("QuantizeLinear", x, line, self._zeros, axis=0), step
        return self._rows[x]

    def model(self) -> onnx.ModelProto:
        """All that was written, as a model."""
        graph = helper.make_graph(
            self.nodes, "speechstream", self.inputs, self.outputs, list(self.tensors.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER
        )


def _rename(nodes: Sequence[onnx.NodeProto], old: str, new: str) -> None:
    """Give a value another name, in the branches of an `If` too."""
    for node in nodes:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g.node, old, new)
