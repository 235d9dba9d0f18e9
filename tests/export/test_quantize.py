"""Quantised weights: bounds on their error, integer arithmetic against numpy's, and rows that do not know each other."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from speechstream.export.graph import Writer
from speechstream.export.quantize import (
    FP32,
    INT4,
    INT8,
    INT8_BLOCKS,
    PRODUCER,
    SMALLEST,
    Weights,
    dequantize_blocks,
    dequantize_channels,
    halve_constants,
    pair_sums,
    quantize_blocks,
    quantize_channels,
    quantize_graph,
    saturating,
)
from speechstream.runtime.session import _is_exact, open_session

K, N = 128, 160  # a weight of 20 480 elements: large enough to be quantised


def weights(seed=0, shape=(K, N)):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal(shape[1]))).astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_round_to_the_nearest_step(axis):
    w = weights()
    w[(3, slice(None)) if axis == 0 else (slice(None), 3)] = 0
    codes, scales = quantize_channels(w, axis)
    assert codes.shape == w.shape and codes.dtype == np.int8 and codes.min() >= -127
    assert scales.shape == (w.shape[axis],) and scales.dtype == np.float32
    error = np.abs(dequantize_channels(codes, scales, axis) - w)
    assert (error <= np.expand_dims(scales, 1 - axis) * 0.5001).all() and error.max() > 0
    largest = np.abs(w).max(1 - axis)
    assert (largest <= scales * 127.001).all() and (pair_sums(codes.astype(int), axis) <= 128).all()
    single = w.copy()  # where the neighbours are zero, nothing is wider than need be
    single[(slice(None), slice(1, None, 2)) if axis == 0 else slice(1, None, 2)] = 0
    codes, scales = quantize_channels(single, axis)
    np.testing.assert_allclose(
        scales, np.maximum(np.abs(single).max(1 - axis), 1e-12) / 127, rtol=1e-6
    )


@pytest.mark.parametrize("bits, block, steps", [(8, 128, 127), (8, 32, 127), (4, 64, 7)])
def test_blocks_round_to_the_nearest_step(bits, block, steps):
    w = weights(1).T.copy()
    w[0, :block] = 0
    w[1, 0] = 1000  # harms its own block alone
    codes, scales = quantize_blocks(w, bits, block)
    assert codes.shape == (N, K // block, block * bits // 8) and codes.dtype == np.uint8
    assert scales.shape == (N, K // block)
    blocks = w.reshape(N, K // block, block)
    np.testing.assert_allclose(scales, np.abs(blocks).max(-1) / steps, rtol=1e-6, atol=1e-12)
    error = np.abs(dequantize_blocks(codes, scales, bits) - w).reshape(blocks.shape)
    assert (error <= scales[..., None] * 0.5001).all()
    if block < K:
        assert error[1, 1].max() < error[1, 0].max()
    with pytest.raises(ValueError, match=f"multiple of {block}"):
        quantize_blocks(w[:, :100], bits, block)


def graph(nodes, arrays, inputs, outputs):
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs],
            [numpy_helper.from_array(a, n) for n, a in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )


def run(model, **inputs):
    onnx.checker.check_model(model)
    # by onnxruntime as it is: the graphs must be right wherever they are opened
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model.SerializeToString(), providers=providers).run(None, inputs)


@pytest.fixture(scope="module")
def product():
    return graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": weights()},
        [("x", TensorProto.FLOAT, ["b", "t", K])],
        [("y", ["b", "t", N])],
    )


def activations(seed=2):
    x = np.random.default_rng(seed).standard_normal((3, 5, K)).astype(np.float32)
    x[0, 1] *= 1000  # a loud row
    x[1, 2] = 0
    x[2, 4, 7] = 300  # a row with an outlier
    return x


def by_hand(x, w):
    """Row-wise integers: the definition, in 64 bits."""
    codes, scales = quantize_channels(w, axis=1)
    top = np.maximum(np.abs(x).max(-1, keepdims=True), np.float32(1e-9))
    rows = np.rint(x * (np.float32(127) / top)).astype(np.int64)
    return (rows @ codes.astype(np.int64)) * (top.astype(np.float64) / 127) * scales


def test_eight_bits_equal_integer_arithmetic(product):
    x, w = activations(), weights()
    kept = product.SerializeToString()
    small = quantize_graph(product)
    assert product.SerializeToString() == kept  # a copy was changed
    assert small.ByteSize() < 0.35 * product.ByteSize()
    y = run(small, x=x)[0]
    np.testing.assert_allclose(
        y, by_hand(x, w), rtol=1e-5, atol=1e-5 * np.abs(x).max(-1, keepdims=True).max()
    )
    # each product errs by at most half a step of x on |w| and half a step of w on |x|
    _, scales = quantize_channels(w, axis=1)
    step = np.abs(x).max(-1, keepdims=True) / 127
    bound = step / 2 * np.abs(w).sum(0) + scales / 2 * (np.abs(x) + step).sum(-1, keepdims=True)
    assert (np.abs(y - x @ w) <= bound * 1.01 + 1e-6).all()
    assert not y[1, 2].any()


def extremes():
    """Weights (K, N), a column each: the worst that 16 bits can meet, one sign or two, neighbours or one apart."""
    w = np.zeros((K, N), np.float32)
    signs = np.random.default_rng(8).integers(-1, 2, (K, N - 6))
    w[:, 6:] = signs * np.exp(np.random.default_rng(9).standard_normal(N - 6))
    w[:, 0], w[:, 1] = 1, -1
    w[0::2, 2], w[1::2, 2] = 1, -1
    w[0::2, 3] = w[1::2, 4] = 1
    w[:2, 5] = 1
    return w


LOUD = np.concatenate(
    [np.ones((1, K)), -np.ones((1, K)), np.sign(np.random.default_rng(7).standard_normal((14, K)))]
).astype(np.float32)  # all codes 255, all 1, and both mixed


def test_the_worst_sums_are_exact():
    w = extremes()
    small = quantize_graph(
        graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            {"w": w},
            [("x", TensorProto.FLOAT, ["b", K])],
            [("y", ["b", N])],
        )
    )
    assert small.producer_name == PRODUCER and not saturating(small)
    codes = numpy_helper.to_array(next(t for t in small.graph.initializer if t.name == "w.codes"))
    # what 16 bits hold of each pair, whichever processor runs this test
    pairs = 255 * np.maximum(codes, 0).astype(int).reshape(-1, 2, N).sum(1)
    assert pairs.max() == 255 * 128 < 1 << 15 and np.abs(codes.astype(int)).max() == 127
    for rows in (1, 2, 3, 16):
        np.testing.assert_allclose(run(small, x=LOUD[:rows])[0], by_hand(LOUD[:rows], w), rtol=1e-5)


def without_pairs(model):
    """A quantised graph of one product `w` with the codes of older exports, all 255 of them."""
    w, older = weights(), onnx.ModelProto.FromString(model.SerializeToString())
    scales = np.abs(w).max(0) / np.float32(127)
    arrays = {"w.codes": np.rint(w / scales).astype(np.int8), "w.scales": scales}
    for t in older.graph.initializer:
        if t.name in arrays:
            t.CopyFrom(numpy_helper.from_array(arrays[t.name], t.name))
    older.producer_name = "pytorch"
    return older, arrays["w.codes"].astype(np.int64), scales


@pytest.mark.skipif(
    tuple(int(n) for n in ort.__version__.split(".")[:2]) < (1, 24),
    reason="onnxruntime before 1.24 aborts on the option that makes them exact",
)
def test_older_graphs_are_exact_in_our_runtime(product, tmp_path):
    older, codes, scales = without_pairs(quantize_graph(product))
    assert saturating(older) == ["y.columns"]
    (tmp_path / "older.onnx").write_bytes(older.SerializeToString())
    (tmp_path / "newer.onnx").write_bytes(quantize_graph(product).SerializeToString())
    assert _is_exact(tmp_path / "newer.onnx") and not _is_exact(tmp_path / "older.onnx")
    x = LOUD[None]
    y = open_session(tmp_path / "older.onnx").run(None, {"x": x})[0]
    expected = (x.astype(np.int64) * 127 @ codes) * (scales.astype(np.float64) / 127)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_what_may_saturate_is_told_from_the_weights_alone(product):
    small = quantize_graph(product)
    older, codes, _ = without_pairs(small)
    unsigned = onnx.ModelProto.FromString(older.SerializeToString())
    for t in unsigned.graph.initializer:
        if t.name == "w.codes":
            t.CopyFrom(numpy_helper.from_array((codes + 128).astype(np.uint8), t.name))
    unknown = onnx.ModelProto.FromString(small.SerializeToString())
    del unknown.graph.initializer[:]
    branch = graph([], {}, [], [])
    branch.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=older.graph))
    told = [len(saturating(m)) for m in (small, older, unsigned, unknown, branch, product)]
    assert told == [0, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("form", [FP32, INT8, INT8_BLOCKS])
def test_weights_side_by_side_are_one_product(form):
    parts = [(f"p{i}", weights(i).T, weights(9, (1, N))[0] * i) for i in (1, 2)]
    w = Writer(form)
    x = w.input("x", "float32", ["rows", K])
    together = w.side_by_side(x, parts)
    apart = w.op("Concat", *(w.linear(x, *part) for part in parts), axis=1)
    w.output("together", together, "float32", ["rows", 2 * N])
    w.output("apart", apart, "float32", ["rows", 2 * N])
    model = w.model()
    assert not saturating(model)
    one, other = run(model, x=LOUD[:3])
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6 * np.abs(other).max())
    for t in model.graph.initializer:
        if form is INT8 and t.name == "p2.weight.T.codes":
            t.CopyFrom(numpy_helper.from_array(np.full((K, N), 127, np.int8), t.name))
    assert len(saturating(model)) == (2 if form is INT8 else 0)


@pytest.mark.parametrize("form", [INT8_BLOCKS, INT4])
def test_the_worst_sums_of_blocks_are_within_a_step(form):
    """Activations may be rounded in another way on each processor; a sum that saturates is off by half."""
    w = extremes()
    model = graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": w},
        [("x", TensorProto.FLOAT, ["b", K])],
        [("y", ["b", N])],
    )
    stored = dequantize_blocks(
        *quantize_blocks(np.ascontiguousarray(w.T), form.bits, form.fits(K)), form.bits
    ).T
    bound = np.abs(LOUD) @ np.abs(stored) / 127 + 1e-4
    for rows in (1, 2, 3, 16):
        y = run(quantize_graph(model, form), x=LOUD[:rows])[0]
        assert (np.abs(y - LOUD[:rows] @ stored) <= bound[:rows]).all()


@pytest.mark.parametrize("form", [INT8, INT8_BLOCKS, INT4])
def test_a_row_depends_on_itself_alone(product, form):
    x = activations()
    small = quantize_graph(product, form)
    together = run(small, x=x)[0]
    rounding = (
        1e-5 if form.block else 0
    )  # MatMulNBits adds its blocks up in an order that depends on a row's place
    for b in range(3):
        for t in range(5):
            alone, expected = run(small, x=x[b : b + 1, t : t + 1])[0][0, 0], together[b, t]
            np.testing.assert_allclose(
                alone, expected, rtol=0, atol=rounding * np.abs(expected).max()
            )
    turned = run(small, x=x[::-1].copy())[0][::-1]
    assert (np.abs(turned - together) <= rounding * np.abs(together).max(-1, keepdims=True)).all()


@pytest.mark.parametrize("form", [INT8_BLOCKS, INT4, Weights(4, 16)])
def test_blocks_stay_within_their_steps(product, form):
    x, w = activations(3)[:, :1], weights()
    bits, block = form.bits, form.fits(K)
    stored = dequantize_blocks(*quantize_blocks(np.ascontiguousarray(w.T), bits, block), bits).T
    y = run(quantize_graph(product, form), x=x)[0]
    blocks = (
        np.abs(x.reshape(3, 1, -1, block)).max(-1) / 127
    )  # activations are rounded block by block
    bound = np.einsum("btk,kn->btn", np.repeat(blocks, block, -1), np.abs(stored))
    assert (np.abs(y - x @ stored) <= bound + 1e-4).all()
    step = np.abs(w).max() / (127 if bits == 8 else 7)
    assert (np.abs(y - x @ w) <= bound + step / 2 * np.abs(x).sum(-1, keepdims=True) + 1e-4).all()


def test_inputs_in_common_are_quantised_once():
    names = ["query", "key", "value"]
    model = graph(
        [helper.make_node("MatMul", ["x", n], [n + ".y"]) for n in names],
        {n: weights(i) for i, n in enumerate(names)},
        [("x", TensorProto.FLOAT, ["b", "t", K])],
        [(n + ".y", ["b", "t", N]) for n in names],
    )
    small = quantize_graph(model)
    kinds = [n.op_type for n in small.graph.node]
    assert kinds.count("MatMulIntegerToFloat") == 3 and kinds.count("ReduceMax") == 1
    x = activations()
    for y, i in zip(run(small, x=x), range(3)):
        np.testing.assert_allclose(y, by_hand(x, weights(i)), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("form", [INT8, INT8_BLOCKS, INT4])
def test_a_tied_embedding_is_stored_once(form):
    table = weights(5, (300, 64))
    model = graph(
        [
            helper.make_node("Gather", ["e", "ids"], ["rows"]),
            helper.make_node("Transpose", ["e"], ["turned"], perm=[1, 0]),
            helper.make_node("MatMul", ["rows", "turned"], ["logits"]),
        ],
        {"e": table},
        [("ids", TensorProto.INT64, ["b", "t"])],
        [("rows", ["b", "t", 64]), ("logits", ["b", "t", 300])],
    )
    small = quantize_graph(model, form)
    sizes = {t.name: int(np.prod(t.dims)) for t in small.graph.initializer}
    assert sizes["e.codes"] == table.size and sizes["e.scales"] == 300
    assert sum(sizes.values()) < table.size + 400
    ids = np.array([[0, 299, 7], [7, 1, 0]])
    rows, logits = run(small, ids=ids)
    expected = dequantize_channels(*quantize_channels(table, axis=0), axis=0)
    np.testing.assert_allclose(rows, expected[ids], rtol=1e-6)
    top = np.abs(rows).max(-1, keepdims=True)
    integers = np.rint(rows * (127 / top)) * top / 127
    np.testing.assert_allclose(logits, integers @ expected.T, rtol=1e-4, atol=1e-3)


def test_what_is_small_or_not_constant_stays():
    small = weights(6, (64, SMALLEST // 64 - 1))
    model = graph(
        [
            helper.make_node("MatMul", ["x", "small"], ["y"]),
            helper.make_node("MatMul", ["x", "z"], ["v"]),
        ],
        {"small": small},
        [("x", TensorProto.FLOAT, [2, 64]), ("z", TensorProto.FLOAT, [64, 300])],
        [("y", [2, SMALLEST // 64 - 1]), ("v", [2, 300])],
    )
    after = quantize_graph(model)
    assert [n.op_type for n in after.graph.node] == ["MatMul", "MatMul"]
    assert [t.name for t in after.graph.initializer] == ["small"]


@pytest.mark.parametrize(
    "bits, block", [(2, 0), (16, 0), (None, 0), (4, 0), (8, 8), (8, 100), (32, 64)]
)
def test_weights_that_nothing_can_store_are_refused(bits, block):
    with pytest.raises(ValueError, match="got|none"):
        Weights(bits, block)


def test_a_block_is_halved_until_it_fits():
    assert [INT8_BLOCKS.fits(n) for n in (512, 768, 192, 80, 100)] == [256, 256, 64, 16, 0]
    assert INT4.fits(96) == 32 and INT4.fits(24) == 0


def test_what_is_kept_by_name_and_what_is_halved():
    model = graph(
        [
            helper.make_node("MatMul", ["x", "the.basis"], ["y"]),
            helper.make_node("MatMul", ["x", "w"], ["z"]),
        ],
        {"the.basis": weights(3), "w": weights(4)},
        [("x", TensorProto.FLOAT, ["b", K])],
        [("y", ["b", N]), ("z", ["b", N])],
    )
    x = activations()[0]
    exact, coarse = run(model, x=x)
    small = quantize_graph(model, keep=".basis")
    y, z = run(small, x=x)
    assert np.array_equal(y, exact) and not np.allclose(z, coarse, rtol=1e-4)
    half = halve_constants(small)
    assert half.ByteSize() < 0.8 * small.ByteSize()
    np.testing.assert_allclose(
        run(half, x=x)[0],
        x @ weights(3).astype(np.float16).astype(np.float32),
        rtol=1e-4,
        atol=1e-3,
    )
    assert np.array_equal(run(half, x=x)[1], z)
