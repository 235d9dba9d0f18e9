"""The predictor's step and the joiner as ONNX graphs: `nn.transducer.Predictor.step` and `Joiner.forward`."""

from __future__ import annotations

import onnx

from speechstream.export.conformer import array
from speechstream.export.graph import Writer
from speechstream.export.quantize import FP32, Weights
from speechstream.nn.transducer import Joiner, Predictor


def predictor_graph(model: Predictor, weights: Weights = FP32) -> onnx.ModelProto:
    """tokens (B,) int64 and the state's fields to predicted (B, dim) and the new fields."""
    c, w = model.config, Writer(weights)
    tokens = w.input("tokens", "int64", ["batch"])
    table = w.tensor(array(model.embed.weight), "predictor.embed.weight")
    if c.kind == "stateless":
        past = w.input("state.tokens", "int64", ["batch", c.context - 1])
        history = w.op("Concat", past, w.op("Unsqueeze", tokens, w.const([1])), axis=1)
        weight = array(model.conv.weight)[:, 0].T
        y = w.op(
            "Mul",
            w.op("Gather", table, history, axis=0),
            w.tensor(weight, "predictor.conv.weight.T"),
        )
        y = w.op("Relu", w.op("ReduceSum", y, w.const([1]), keepdims=0))
        w.output("predicted", y, "float32", ["batch", c.dim])
        w.output("new.tokens", w.slice(history, 1, 1 << 40, 1), "int64", ["batch", c.context - 1])
        return w.model()
    shape = ["batch", c.layers, c.dim]
    past = {n: w.input(f"state.{n}", "float32", shape) for n in ("hidden", "cell")}
    y, new = predictor_step(w, model, tokens, past)
    w.output("predicted", y, "float32", ["batch", c.dim])
    for n, value in new.items():
        w.output(f"new.{n}", value, "float32", shape)
    return w.model()


def predictor_step(
    w: Writer, model: Predictor, tokens: str, past: dict[str, str]
) -> tuple[str, dict[str, str]]:
    """Write the step of an LSTM: the output (B, dim) after tokens (B,), and the new hidden and cell (B, layers, dim)."""
    c, new = model.config, {"hidden": [], "cell": []}
    x = w.op(
        "Gather", w.tensor(array(model.embed.weight), "predictor.embed.weight"), tokens, axis=0
    )
    for i in range(c.layers):
        h, cell = (w.op("Gather", past[n], w.const(i), axis=1) for n in ("hidden", "cell"))
        gates = [
            w.linear(
                v,
                f"predictor.lstm.{n}_l{i}",
                array(getattr(model.lstm, f"weight_{n}_l{i}")),
                array(getattr(model.lstm, f"bias_{n}_l{i}")),
            )
            for v, n in ((x, "ih"), (h, "hh"))
        ]
        enter, forget, fresh, leave = w.op(
            "Split", w.op("Add", *gates), axis=1, num_outputs=4, outputs=4
        )
        kept = w.op("Mul", w.op("Sigmoid", forget), cell)
        cell = w.op("Add", kept, w.op("Mul", w.op("Sigmoid", enter), w.op("Tanh", fresh)))
        x = w.op("Mul", w.op("Sigmoid", leave), w.op("Tanh", cell))
        for n, value in (("hidden", x), ("cell", cell)):
            new[n].append(w.op("Unsqueeze", value, w.const([1])))
    return x, {n: w.op("Concat", *parts, axis=1) for n, parts in new.items()}


def joiner_graph(model: Joiner, weights: Weights = FP32) -> onnx.ModelProto:
    """encoded (B, encoder_dim) and predicted (B, predictor_dim) to scores (B, vocab + 1 + durations)."""
    c, w = model.config, Writer(weights)
    encoded = w.input("encoded", "float32", ["batch", c.encoder_dim])
    predicted = w.input("predicted", "float32", ["batch", c.predictor_dim])
    w.output(
        "scores",
        joiner_scores(w, model, encoded, predicted),
        "float32",
        ["batch", model.out.out_features],
    )
    return w.model()


def joiner_scores(w: Writer, model: Joiner, encoded: str, predicted: str) -> str:
    """Write the joiner: scores (B, vocab + 1 + durations) of encoded (B, dim) and predicted (B, dim)."""
    both = w.op(
        "Add",
        *(
            w.linear(x, f"joiner.{n}", array(layer.weight), array(layer.bias))
            for x, n, layer in (
                (encoded, "encoder", model.encoder),
                (predicted, "predictor", model.predictor),
            )
        ),
    )
    hidden = w.op(
        {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[model.config.activation], both
    )
    return w.linear(hidden, "joiner.out", array(model.out.weight), array(model.out.bias))
