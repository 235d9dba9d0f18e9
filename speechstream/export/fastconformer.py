"""The graphs of a FastConformer: encoder step, with CTC where there is such a head, predictor step and joiner."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from speechstream.export.onnx import export_step
from speechstream.nn.conformer import EncoderState
from speechstream.nn.fastconformer import FastConformer
from speechstream.state import flatten


def export_fastconformer(model: FastConformer) -> dict[str, onnx.ModelProto]:
    """fp32 graphs `encoder` and, of a transducer, `predictor` and `joiner`; batch and chunk are dynamic.

    encoder: features (B, subsampling * chunk, mels), lengths (B,) int64 how many of them count, and the state, to
    encoded (B, chunk, dim), ctc (B, chunk, vocab + 1) log probabilities where the model has them, and the new state.
    Raises ValueError for an encoder that runs offline only.
    """
    model, graphs = model.eval(), {}

    def step(x: Tensor, lengths: Tensor, state: EncoderState):
        y, state = model.encoder.step(x, state, lengths)
        return (y, state) if model.ctc is None else (y, model.ctc(y).log_softmax(-1), state)

    c, state = model.config, model.encoder.init_state(2)
    frames = 3 * c.encoder.subsampling
    inputs = {"features": torch.randn(2, frames, c.encoder.features), "lengths": torch.full((2,), frames)}
    axes = {"features": {0: "batch", 1: "feature_frames"}, "lengths": {0: "batch"}}
    outputs = ["encoded"] + ["ctc"] * (model.ctc is not None)
    graphs["encoder"] = export_step(model, step, inputs, state, outputs, axes | _batch(state))
    if model.joiner is not None:
        start = model.predictor.init_state(2)
        graphs["predictor"] = export_step(model, model.predictor.step, {"tokens": torch.tensor([0, 1])}, start,
                                          ["predicted"], {"tokens": {0: "batch"}} | _batch(start))
        vectors = {"encoded": torch.randn(2, c.joiner.encoder_dim), "predicted": torch.randn(2, c.joiner.predictor_dim)}
        graphs["joiner"] = export_step(model, model.joiner, vectors, None, ["scores"],
                                       {name: {0: "batch"} for name in vectors})
    return graphs


def _batch(state) -> dict[str, dict[int, str]]:
    return {f"state.{name}": {0: "batch"} for name in flatten(state)}
