"""The graphs of a FastConformer (encoder step, predictor step, joiner), and a FastConformer as a bundle and back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import onnx
from safetensors.torch import save_file

from speechstream import bundle
from speechstream.export.conformer import IN_PLACE, encoder_graph, stream_start
from speechstream.export.onnx import describe
from speechstream.export.quantize import FP32, Weights
from speechstream.export.transducer import joiner_graph, predictor_graph
from speechstream.nn.checkpoints import Checkpoint
from speechstream.nn.fastconformer import FastConformer

ARCHITECTURE = "fastconformer"


def export_fastconformer(
    model: FastConformer,
    about: dict[str, Any] | None = None,
    weights: Weights = FP32,
    half: bool = False,
) -> dict[str, onnx.ModelProto]:
    """Graphs `encoder` and, of a transducer, `predictor` and `joiner`; batch and chunk are dynamic.

    encoder: features (B, subsampling * chunk, mels), lengths (B,) int64 how many of them count, and the state, to
    encoded (B, chunk, dim), ctc (B, chunk, vocab + 1) log probabilities where the model has them, and the new state.
    predictor: tokens (B,) and the state to predicted (B, dim). joiner: encoded (B, dim) and predicted (B, dim) to
    scores (B, vocab + 1 + durations). about: what the metadata says of features and tokens, see `describe_model`.
    half: streams keep keys and values in 16 bits. Raises ValueError for an encoder that runs offline only.
    """
    model, about = (
        model.eval(),
        {"architecture": ARCHITECTURE, **dataclasses.asdict(weights), **(about or {})},
    )
    states, graphs = (
        {"encoder": stream_start(model.encoder, half)},
        {"encoder": encoder_graph(model, weights, half)},
    )
    if model.joiner is not None:
        graphs |= {
            "predictor": predictor_graph(model.predictor, weights),
            "joiner": joiner_graph(model.joiner, weights),
        }
        states["predictor"] = model.predictor.init_state(1)
    for name, graph in graphs.items():
        describe(
            graph, {"graph": name, **about}, states.get(name), IN_PLACE if name == "encoder" else ()
        )
    return graphs


def describe_model(one: Checkpoint) -> dict[str, Any]:
    """What a runner must know of a model: features, chunks (encoder frames), blank, durations (TDT), tokens by id."""
    e, joiner = one.model.config.encoder, one.model.config.joiner
    return {
        "features": dataclasses.asdict(one.features),
        "subsampling": e.subsampling,
        "lead": one.model.encoder.lead,
        "chunks": [r + 1 for r in e.lookaheads],
        "blank": one.model.config.vocab_size,
        "durations": list(joiner.durations) if joiner else [],
        "tokens": list(one.tokens),
    }


def write_fastconformer(
    one: Checkpoint, folder: Path, card: dict, graphs: bool = True
) -> bundle.Bundle:
    """Write weights, tokens, tokenizer and, of a streaming model, fp32 graphs as a bundle. card: name and licence."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in one.model.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "tokens.json").write_text(json.dumps(one.tokens, ensure_ascii=False))
    files = ["model.safetensors", "tokens.json"]
    if one.tokenizer is not None:
        (folder / "tokenizer.model").write_bytes(one.tokenizer)
        files.append("tokenizer.model")
    if graphs and one.model.config.encoder.streaming:
        for name, graph in export_fastconformer(one.model, describe_model(one)).items():
            (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
            files.append(f"{name}.onnx")
    config = {"network": one.model.config.to_dict(), "features": dataclasses.asdict(one.features)}
    return bundle.write(folder, "asr", ARCHITECTURE, config, card, files)
