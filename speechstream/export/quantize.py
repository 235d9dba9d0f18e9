"""Weights in 8 or 4 bits, in blocks along the input axis, each block with its own scale.

`MatMulNBits` (onnxruntime) quantises activations row by row and block by block as it goes, so a frame's output does not
depend on which other frames or streams share its batch: streaming stays equal to offline, which per-tensor dynamic
quantisation would break, and outlying activations harm only their own block.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BLOCK = 64
DOMAIN = "com.microsoft"


def quantize_blocks(weight: np.ndarray, bits: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """weight (N, K), K a multiple of 64, to codes (N, K / 64, 64 * bits / 8) uint8 and scales (N, K / 64) float32.

    Symmetric: value = (code - 2^(bits-1)) x scale. Four-bit codes are packed in pairs, the first in the low half.
    """
    N, K = weight.shape
    if K % BLOCK:
        raise ValueError(f"the input axis of a quantised weight must be a multiple of {BLOCK}, got {K}")
    zero = 1 << (bits - 1)
    blocks = weight.reshape(N, K // BLOCK, BLOCK).astype(np.float32)
    scales = np.maximum(np.abs(blocks).max(-1), 1e-12) / (zero - 1)
    codes = np.clip(np.rint(blocks / scales[..., None]) + zero, 0, 2 * zero - 1).astype(np.uint8)
    if bits == 4:
        codes = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return codes, scales.astype(np.float32)


def dequantize_blocks(codes: np.ndarray, scales: np.ndarray, bits: int = 8) -> np.ndarray:
    """The inverse of `quantize_blocks`: (N, K) float32."""
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:-1], -1)
    blocks = (codes.astype(np.float32) - (1 << (bits - 1))) * scales[..., None]
    return blocks.reshape(blocks.shape[0], -1)


def quantize_graph(model: onnx.ModelProto, bits: int = 8) -> onnx.ModelProto:
    """A copy of `model` whose products with constant matrices, and gathers of rows of such a matrix, read codes.

    A matrix that is both gathered from and multiplied by (a tied embedding) is stored once.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    made: dict[str, tuple[str, str]] = {}
    new_nodes, extra = [], []

    def codes_of(name: str, transposed: bool) -> tuple[str, str, int, int] | None:
        array = numpy_helper.to_array(weights[name])
        array = array.T if transposed else array  # to (N, K)
        if array.ndim != 2 or array.shape[1] % BLOCK or array.size < 16_384 or array.dtype != np.float32:
            return None
        base = name.removesuffix(".T")
        if base not in made:
            codes, scales = quantize_blocks(np.ascontiguousarray(array), bits)
            made[base] = (f"{base}.codes", f"{base}.scales")
            extra.extend([numpy_helper.from_array(codes, made[base][0]), numpy_helper.from_array(scales, made[base][1])])
        return *made[base], *array.shape

    transposes = {n.output[0]: n for n in graph.node if n.op_type == "Transpose" and n.input[0] in weights}
    gathered = {n.input[0] for n in graph.node if n.op_type == "Gather" and n.input[0] in weights}
    for node in graph.node:
        source = node.input[1] if node.op_type == "MatMul" else node.input[0] if node.op_type == "Gather" else None
        turned = source in transposes
        name = transposes[source].input[0] if turned else source
        found = codes_of(name, node.op_type == "MatMul" and not turned) if name in weights else None
        if found and node.op_type == "MatMul":
            codes, scales, N, K = found
            new_nodes.append(helper.make_node("MatMulNBits", [node.input[0], codes, scales], node.output, node.name,
                                              domain=DOMAIN, K=K, N=N, bits=bits, block_size=BLOCK, accuracy_level=4))
        elif found and bits == 8 and name in gathered and weights[name].dims[0] > 4096:  # small tables stay as they are
            new_nodes.extend(_gather(node, *found))
            extra.extend(_constants(node.output[0], found[3]))
        else:
            new_nodes.append(node)
    used = {i for n in new_nodes for i in n.input}
    new_nodes = [n for n in new_nodes if not (n.op_type == "Transpose" and n.output[0] in transposes and n.output[0] not in used)]
    used = {i for n in new_nodes for i in n.input}
    initializers = [t for t in [*graph.initializer, *extra] if t.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(new_nodes)
    graph.initializer.extend(initializers)
    del graph.value_info[:]
    if not any(o.domain == DOMAIN for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return model


def _gather(node, codes: str, scales: str, N: int, K: int) -> list:
    """Rows of a quantised table: (code - 128) x scale."""
    out = node.output[0]
    return [
        helper.make_node("Gather", [codes, node.input[1]], [f"{out}.codes"]),
        helper.make_node("Gather", [scales, node.input[1]], [f"{out}.scales"]),
        helper.make_node("Cast", [f"{out}.codes"], [f"{out}.float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [f"{out}.float", f"{out}.zero"], [f"{out}.centred"]),
        helper.make_node("Unsqueeze", [f"{out}.scales", f"{out}.last"], [f"{out}.column"]),
        helper.make_node("Mul", [f"{out}.centred", f"{out}.column"], [f"{out}.blocks"]),
        helper.make_node("Reshape", [f"{out}.blocks", f"{out}.shape"], [out]),
    ]


def _constants(out: str, width: int) -> list:
    return [numpy_helper.from_array(np.array(128, np.float32), f"{out}.zero"),
            numpy_helper.from_array(np.array([-1], np.int64), f"{out}.last"),
            numpy_helper.from_array(np.array([0, 0, width], np.int64), f"{out}.shape")]
