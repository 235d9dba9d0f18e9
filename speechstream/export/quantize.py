"""Weights in 8 or 4 bits, so that a frame's output depends on that frame alone.

Eight bits: int8 weights with a scale an output channel, uint8 activations with a scale a row, quantised as they come
(`MatMulIntegerToFloat`, which runs on VNNI). onnxruntime's own dynamic quantisation has one activation scale for the whole
tensor: then a frame depends on the others in its chunk and batch, streaming differs from offline, and one outlier
coarsens all.

x86 processors without VNNI add the products of two neighbours along the input axis in 16 bits, and what is too large stays
at 32 767: silently wrong. So codes of one sign that stand in such a pair add up to 128 at most (255 x 128 = 32 640), which
makes the steps a quarter wider than those of all 255 codes, where 7-bit codes would double them, and the sums are exact
on every processor. Graphs with such codes bear the producer's name `PRODUCER`; `saturating` proves it of any graph.

Blocks: `MatMulNBits`, weights of 4 or 8 bits in blocks along the input axis with a scale each; activations are quantised
block by block as well, inside. It reads weights as fast as memory gives them, so that it is the faster one for up to some
seven rows, and the slower one from there on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from speechstream.codes import dequantize_blocks, dequantize_channels  # noqa: F401  the inverses, of readers

DOMAIN = "com.microsoft"
SMALLEST = 16_384  # weights below this many elements stay as they are
SMALLEST_BLOCK = 16  # of MatMulNBits
PRODUCER = "speechstream exact"  # of graphs whose sums no processor saturates
MOST = 128  # that two neighbouring codes of one sign add up to: 255 x 128 is less than 2^15


@dataclass(frozen=True)
class Weights:
    """How matrices are stored. bits: 32, 8 or 4. block: how many weights along the input axis share a scale, a power of
    two; 0: all of an output channel, which is for 8 bits."""

    bits: int = 32
    block: int = 0

    def __post_init__(self):
        if self.bits not in (4, 8, 32):
            raise ValueError(f"bits must be 4, 8 or 32, got {self.bits}")
        if self.block and (
            self.bits == 32 or self.block < SMALLEST_BLOCK or self.block & (self.block - 1)
        ):
            raise ValueError(
                f"blocks of 4 or 8 bits have a power of two of weights, {SMALLEST_BLOCK} or more; "
                f"got {self.block} of {self.bits} bits"
            )
        if self.bits == 4 and not self.block:
            raise ValueError("weights of 4 bits are stored in blocks, got none")

    def fits(self, inputs: int) -> int:
        """The block of a matrix with so many inputs: this one, or the largest half of it that divides them; 0: none."""
        block = self.block
        while inputs % block and block >= SMALLEST_BLOCK:
            block //= 2
        return block if block >= SMALLEST_BLOCK else 0


FP32, INT8, INT8_BLOCKS, INT4 = Weights(), Weights(8), Weights(8, 256), Weights(4, 64)
FORMS = {"fp32": FP32, "int8": INT8, "int8-blocks": INT8_BLOCKS, "int4": INT4}


def quantize_channels(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix to int8 codes of its shape and float32 scales, one for each index of `axis`: value = code x scale.

    Neither a code nor, but for their rounding, two of one sign that are added in 16 bits are beyond 127.
    """
    largest = np.maximum(np.abs(weight).max(1 - axis), pair_sums(weight, axis))
    scales = np.maximum(largest, 1e-12).astype(np.float32) / 127
    return np.rint(weight / np.expand_dims(scales, 1 - axis)).astype(np.int8), scales


def pair_sums(weight: np.ndarray, axis: int) -> np.ndarray:
    """Of each index of `axis`, the largest sum that weights 2i and 2i + 1 come to where those of the other sign count 0."""
    rows = weight if axis == 0 else weight.T
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
    sums = [np.maximum(r[:, 0::2], 0) + np.maximum(r[:, 1::2], 0) for r in (rows, -rows)]
    return np.maximum(*sums).max(1)


def four_bits(weight: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """A matrix to 4-bit codes (not packed) and scales: of each block the number of largest size becomes -8 exactly.

    That is Q4_0's way: all 16 codes are used, where a symmetric step uses 15.
    """
    blocks = weight.reshape(len(weight), -1, block)
    most = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    scales = np.where(most == 0, 1e-12, most / -8).astype(np.float32)
    codes = np.clip(np.rint(blocks / scales[..., None]) + 8, 0, 15).astype(np.uint8)
    return codes, scales


def quantize_blocks(weight: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """weight (N, K), K a multiple of block, to codes (N, K / block, block * bits / 8) uint8 and scales (N, K / block) float32.

    Symmetric: value = (code - 2^(bits-1)) x scale. Four-bit codes are packed in pairs, the first in the low half.
    """
    N, K = weight.shape
    if K % block:
        raise ValueError(
            f"the input axis of a quantised weight must be a multiple of {block}, got {K}"
        )
    zero = 1 << (bits - 1)
    blocks = weight.reshape(N, K // block, block).astype(np.float32)
    scales = np.maximum(np.abs(blocks).max(-1), 1e-12) / (zero - 1)
    codes = np.clip(np.rint(blocks / scales[..., None]) + zero, 0, 2 * zero - 1).astype(np.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return codes, scales.astype(np.float32)


def quantize_graph(
    model: onnx.ModelProto, weights: Weights = INT8, keep: str | None = None
) -> onnx.ModelProto:
    """A copy of `model` whose products with constant matrices read codes, and so do gathers of rows of such a matrix; in
    32 bits the model itself.

    Matrices with `keep` in their names stay as they are. A matrix that is both gathered from (NAME) and multiplied by
    (NAME.T), a tied embedding, is stored once, in 8 bits with a scale a row. Codes and scales are named NAME.codes and
    NAME.scales.
    """
    if weights.bits == 32:
        return model
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    _fold_transposes(graph, keep)
    arrays = {
        t.name: numpy_helper.to_array(t)
        for t in graph.initializer
        if keep is None or keep not in t.name
    }
    tables = {
        n.input[0] for n in graph.node if n.op_type == "Gather" and n.input[0] + ".T" in arrays
    }
    add = _Additions()
    if not weights.block:
        add.constants(_ACTIVATION)
    for node in graph.node:
        weight = arrays.get(node.input[1]) if node.op_type == "MatMul" else None
        if node.op_type == "Gather" and node.input[0] in tables:
            add.rows(node, arrays[node.input[0]])
        elif (
            weight is None
            or weight.ndim != 2
            or weight.size < SMALLEST
            or weight.dtype != np.float32
        ):
            add.nodes.append(node)
        elif node.input[1].removesuffix(".T") in tables:
            add.tied(node, arrays[node.input[1].removesuffix(".T")])
        elif not weights.block:
            add.product(node, weight)
        elif weights.fits(len(weight)):
            add.blocks(node, weight, weights.bits, weights.fits(len(weight)))
        else:
            add.nodes.append(node)
    used = {i for n in add.nodes for i in n.input}
    kept = [t for t in [*graph.initializer, *add.tensors.values()] if t.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(add.nodes)
    graph.initializer.extend(kept)
    if not any(o.domain == DOMAIN for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    if not saturating(model):
        model.producer_name = PRODUCER
    return model


def saturating(model: onnx.ModelProto) -> list[str]:
    """The integer products of a graph, by their outputs, that a processor without VNNI may get wrong, by arithmetic over
    their weights: those with int8 weights of which two neighbours exceed `MOST`, or whose weights are not known.
    Products of uint8 with uint8 weights are added in 32 bits everywhere."""
    return _saturating(model.graph, {})


def _saturating(graph: onnx.GraphProto, outer: dict[str, onnx.TensorProto]) -> list[str]:
    tensors = outer | {t.name: t for t in graph.initializer}
    made = {o: n for n in graph.node for o in n.output}
    found = []
    for node in graph.node:
        for attribute in node.attribute:  # branches of an If
            if attribute.type == onnx.AttributeProto.GRAPH:
                found += _saturating(attribute.g, tensors)
        if node.op_type not in _INTEGER_PRODUCTS:
            continue
        name, axis = node.input[_INTEGER_PRODUCTS[node.op_type]], 1
        parts = [name]
        if name in made and made[name].op_type == "Transpose":
            parts, axis = [made[name].input[0]], 0
        elif name in made and made[name].op_type == "Concat" and _axis(made[name]) == 1:
            parts = list(made[name].input)  # columns of their own
        if any(_exceeds(tensors.get(part), axis) for part in parts):
            found.append(node.output[0])
    return found


def _axis(node: onnx.NodeProto) -> int:
    return next(a.i for a in node.attribute if a.name == "axis")


def _exceeds(tensor: onnx.TensorProto | None, axis: int) -> bool:
    """Whether weights are not known, or int8 with too large neighbours."""
    if tensor is not None and tensor.data_type == TensorProto.UINT8:
        return False
    if tensor is None or len(tensor.dims) != 2:
        return True
    codes = numpy_helper.to_array(tensor).astype(np.int16)
    return bool(pair_sums(codes, axis).max(initial=0) > MOST)


def halve_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` that stores what large float32 constants it has in 16 bits. onnxruntime widens them once, when it
    opens the graph."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    casts = []
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size >= SMALLEST:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _fold_transposes(graph: onnx.GraphProto, keep: str | None) -> None:
    """Turn the large weights that the exporter left to be transposed at run time."""
    arrays = {t.name: t for t in graph.initializer if keep is None or keep not in t.name}
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in arrays]:
        turned = numpy_helper.to_array(arrays[node.input[0]]).T
        if turned.ndim == 2:
            graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(turned), node.input[0] + ".T")
            )
            for other in graph.node:
                for i, name in enumerate(other.input):
                    if name == node.output[0]:
                        other.input[i] = node.input[0] + ".T"
            graph.node.remove(node)


_ACTIVATION = {
    "quant.127": np.array(127, np.float32),
    "quant.one": np.array(1, np.float32),
    "quant.half": np.array(
        128.5, np.float32
    ),  # a cast truncates: this rounds, and moves zero to 128
    "quant.zero": np.array(128, np.uint8),
    "quant.tiny": np.array(1e-9, np.float32),
    "quant.last": np.array([-1], np.int64),
}


_INTEGER_PRODUCTS = {  # and which of their inputs are the weights
    "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
    "ConvInteger": 1,
    "QLinearMatMul": 3,
    "QLinearConv": 3,
    "QGemm": 3,
}


class _Additions:
    """The nodes and tensors of the new graph, in order."""

    def __init__(self):
        self.nodes: list = []
        self.tensors: dict[str, onnx.TensorProto] = {}

    def constants(self, arrays: dict[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            self.tensors.setdefault(
                name, numpy_helper.from_array(np.ascontiguousarray(array), name)
            )

    def op(self, kind: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def product(self, node, weight: np.ndarray) -> None:
        """x @ W for W (K, N)."""
        name = node.input[1]
        codes, scales = quantize_channels(weight, axis=1)
        self.constants({f"{name}.codes": codes, f"{name}.scales": scales})
        self._integer(node, f"{name}.codes", f"{name}.scales")

    def tied(self, node, table: np.ndarray) -> None:
        """x @ W.T for an embedding W (N, K) that rows are gathered from too. The turned codes are folded at load time."""
        name = node.input[1].removesuffix(".T")
        codes, scales = quantize_channels(table, axis=0)
        self.constants({**_ACTIVATION, f"{name}.codes": codes, f"{name}.scales": scales})
        turned = self.op("Transpose", [f"{name}.codes"], f"{node.output[0]}.turned", perm=[1, 0])
        self._integer(node, turned, f"{name}.scales")

    def rows(self, node, table: np.ndarray) -> None:
        """Rows of an embedding."""
        name, out = node.input[0], node.output[0]
        codes, scales = quantize_channels(table, axis=0)
        self.constants({**_ACTIVATION, f"{name}.codes": codes, f"{name}.scales": scales})
        row = self.op(
            "Cast",
            [self.op("Gather", [f"{name}.codes", node.input[1]], f"{out}.codes")],
            f"{out}.float",
            to=TensorProto.FLOAT,
        )
        scale = self.op("Gather", [f"{name}.scales", node.input[1]], f"{out}.scales")
        self.op("Mul", [row, self.op("Unsqueeze", [scale, "quant.last"], f"{out}.column")], out)

    def blocks(self, node, weight: np.ndarray, bits: int, block: int) -> None:
        """x @ W for W (K, N), by blocks of K."""
        name = node.input[1]
        codes, scales = quantize_blocks(np.ascontiguousarray(weight.T), bits, block)
        self.constants({f"{name}.codes": codes, f"{name}.scales": scales})
        self.op(
            "MatMulNBits",
            [node.input[0], f"{name}.codes", f"{name}.scales"],
            node.output[0],
            domain=DOMAIN,
            K=weight.shape[0],
            N=weight.shape[1],
            bits=bits,
            block_size=block,
            accuracy_level=4,
        )

    def _integer(self, node, codes: str, scales: str) -> None:
        """Quantise the rows of x, multiply in integers, scale back."""
        x, out = node.input[0], node.output[0]
        at = f"{x}.quantised"
        if not any(at in n.output for n in self.nodes):  # query, key and value share their input
            top = self.op(
                "ReduceMax", [self.op("Abs", [x], f"{x}.abs"), "quant.last"], f"{x}.top", keepdims=1
            )
            top = self.op("Max", [top, "quant.tiny"], f"{x}.range")
            scaled = self.op(
                "Mul", [x, self.op("Div", ["quant.127", top], f"{x}.gain")], f"{x}.scaled"
            )
            self.op(
                "Cast",
                [self.op("Add", [scaled, "quant.half"], f"{x}.shifted")],
                at,
                to=TensorProto.UINT8,
            )
            self.op("Div", [top, "quant.127"], f"{x}.step")
        product = self.op(
            "MatMulIntegerToFloat",
            [at, codes, "quant.one", scales, "quant.zero"],
            f"{out}.columns",
            domain=DOMAIN,
        )
        self.op("Mul", [product, f"{x}.step"], out)
