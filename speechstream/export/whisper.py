"""The graphs of a causal Whisper: one encoder chunk with what follows per frame, the CTC head, and some decoder tokens."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from speechstream.export.onnx import export_step
from speechstream.export.quantize import FP32, Weights, quantize_graph
from speechstream.export.whisper_encoder import encoder_graph, layered
from speechstream.nn.whisper import DecoderState, Whisper


def export_whisper(model: Whisper, weights: Weights = FP32) -> dict[str, onnx.ModelProto]:
    """Graphs `encoder` (`export.whisper_encoder`), `ctc` and `decoder` of a model. Raises ValueError where it has no CTC head.

    The head is a graph of its own: it is small, and replaced more often than the rest.

    Inputs `state.keys.i`, `state.values.i` (B, H, S, Dh) of the decoder and `memory_keys.i`, `memory_values.i` (B or 1,
    H, T, Dh) are of layer i. Encoder and decoder return only the keys and values that are new.
    """
    c = model.config
    if model.ctc is None:
        raise ValueError(
            "the model has no CTC head, which a bundle needs: set ctc_vocab_size and train it"
        )
    model = model.eval()
    return {
        "encoder": encoder_graph(model, weights),
        "ctc": export_head(model, weights),
        "decoder": quantize_graph(_decoder(model, c.decoder_layers), weights),
    }


def export_head(model: Whisper, weights: Weights = FP32) -> onnx.ModelProto:
    """The graph `ctc`: features (B, c, dim) to log-probabilities (B, c // 2, pieces).

    Its metadata say how many frames after a pair the head hears (`reach`): what is further need not be encoded for it.
    """
    graph = export_step(
        model,
        model.ctc_log_probs,
        {"features": torch.randn(2, 16, model.config.dim)},
        None,
        ["ctc"],
        {"features": {0: "batch", 1: "frames"}},
    )
    graph = quantize_graph(graph, weights)
    reach = sum(2 * (b.conv.kernel_size[0] // 2) for b in getattr(model.ctc, "blocks", ()))
    graph.metadata_props.add(key="reach", value=str(reach))
    return graph


def _decoder(model: Whisper, layers: int) -> onnx.ModelProto:
    c = model.config
    past = layered("state.keys", layers) + layered("state.values", layers)
    memory = layered("memory_keys", layers) + layered("memory_values", layers)
    like = torch.randn(4, c.heads, 12, c.dim // c.heads)
    inputs = {
        "tokens": torch.ones(4, 3, dtype=torch.int64),
        "rows": torch.tensor([1, 2]),
        **{n: like[:2].clone() for n in memory},
        "mask": torch.ones(2, 12, dtype=torch.bool),
        **{n: like[:, :, :5].clone() for n in past},
        "state.tokens": torch.tensor([5, 3, 4, 4]),
    }
    axes = {
        "tokens": {0: "batch", 1: "tokens"},
        "rows": {0: "rows"},
        "mask": {0: "streams", 1: "frames"},
        **{n: {0: "streams", 2: "frames"} for n in memory},
        **{n: {0: "batch", 2: "past"} for n in past},
        "state.tokens": {0: "batch"},
    }

    def step(tokens: Tensor, rows: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        memory, mask, past, read = (
            rest[: 2 * layers],
            rest[2 * layers],
            rest[2 * layers + 1 : -1],
            rest[-1],
        )
        hidden, alignment, *new = model.decoder.chunk(
            tokens,
            DecoderState(past[:layers], past[layers:], read),
            memory[:layers],
            memory[layers:],
            mask,
        )
        gate = [model.gate.text(hidden)] if model.gate else []
        return model.decoder.logits(hidden[:, rows]), alignment, *gate, *new

    return export_step(
        model,
        step,
        inputs,
        None,
        ["logits", "alignment", *(["text"] if model.gate else []), "chunk.keys", "chunk.values"],
        axes,
    )
