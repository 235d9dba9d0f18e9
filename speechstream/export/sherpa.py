"""A streaming FastConformer in the forms that sherpa-onnx loads: its `nemo_ctc` online models and its NeMo transducers.

sherpa-onnx hands over windows of `window_size` feature frames, `chunk_shift` apart, and three caches that start as
zeros and that it does not look into: the state's fields are packed into two of them, the frame count is the third. Our
block begins with the seven frames before the window, which are remembered in the second cache, so the last seven frames
of a window wait for the next: words come 70 ms later than in our own runtime.

Its frames lie half a hop later than the checkpoint's; with 5 ms of silence before the audio they coincide. Its logarithm
is log max(e, FLOOR) of an energy e, the checkpoint's log(e + guard), and the graph turns the one into the other. Only what
lay below the floor is lost: there it assumes what is usual.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx

from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.errors import SpeechStreamError
from speechstream.export.conformer import RINGS, encoder_step, longest, stream_start
from speechstream.export.fastconformer import describe_model
from speechstream.export.graph import Writer
from speechstream.export.quantize import FP32, Weights
from speechstream.export.transducer import joiner_scores, predictor_step
from speechstream.nn.checkpoints import Checkpoint
from speechstream.nn.fastconformer import FastConformer

FLOOR = 2.0**-23  # of an energy, float32's epsilon
BELOW = 0.3  # log(e + guard) - log guard of energies below the floor: their mean square error in recordings is least


def sherpa_graphs(
    one: Checkpoint, chunk: int | None = None, weights: Weights = FP32
) -> dict[str, onnx.ModelProto]:
    """Graphs by file name, for chunks of so many encoder frames (None: its default), as sherpa-onnx names things.

    `encoder`, `decoder` and `joiner` of a transducer, `model` where there is a CTC head. Raises SpeechStreamError for a
    model that runs offline only, and where neither head is of a kind that sherpa-onnx streams.
    """
    model, c = one.model.eval(), one.model.config
    if not c.encoder.streaming:
        raise SpeechStreamError(
            "sherpa-onnx streams models in this form, and this one hears whole utterances"
        )
    f, usual = one.features, NemoMelConfig()
    own = replace(
        usual,
        n_mels=f.n_mels,
        mean=f.mean,
        deviation=f.deviation,
        high=f.high if f.high == usual.sample_rate / 2 else None,
    )
    if f != own:
        names = [k for k, v in asdict(f).items() if v != getattr(own, k)]
        raise SpeechStreamError(
            f"sherpa-onnx computes the features itself, and this model's differ in "
            f"{', '.join(f'{k} ({getattr(f, k)}, expected {getattr(own, k)})' for k in names)}"
        )
    graphs = {"model": _encoder(one, chunk, weights, "ctc")} if model.ctc is not None else {}
    if c.joiner is not None and c.predictor.kind == "lstm" and not c.joiner.durations:
        graphs |= {
            "encoder": _encoder(one, chunk, weights, "transducer"),
            "decoder": _decoder(model, weights),
            "joiner": _joiner(model, weights),
        }
    if not graphs:
        raise SpeechStreamError(
            "sherpa-onnx streams transducers with an LSTM and without durations, and this one has "
            f"{'durations (TDT)' if c.joiner.durations else 'a stateless predictor'} and no CTC head"
        )
    return graphs


def _encoder(one: Checkpoint, chunk: int | None, weights: Weights, head: str) -> onnx.ModelProto:
    """head: "ctc" for log probabilities (B, c, vocab + 1), "transducer" for what the joiner takes, (B, D, c)."""
    model, c = one.model, one.model.config.encoder
    chunk, lead = chunk or c.lookaheads[0] + 1, model.encoder.lead
    size, start, ring = (
        chunk * c.subsampling,
        stream_start(model.encoder),
        c.left_context + longest(c),
    )
    cached = {n: a for n, a in start.items() if not n.startswith(RINGS) and n != "frames"}
    sizes = [a[0].size for a in cached.values()] + [lead * c.n_mels]
    width, w = c.dim // c.heads, Writer(weights)
    x = w.input("audio_signal", "float32", ["batch", c.n_mels, "feature_frames"])
    w.input("length", "int64", ["batch"])
    pairs = w.input("cache_last_channel", "float32", ["batch", 2 * c.layers, ring, c.dim])
    packed = w.input("cache_last_time", "float32", ["batch", 1, 1, sum(sizes)])
    frames = w.input("cache_last_channel_len", "int64", ["batch"])
    x = w.op("Transpose", x, perm=[0, 2, 1])
    guard, floor = one.features.log_guard, np.log(FLOOR)
    low = w.op("LessOrEqual", x, w.const(floor + 1e-3, np.float32))
    x = w.op(
        "Where",
        low,
        w.const(np.log(guard) + BELOW, np.float32),
        w.op("Log", w.op("Add", w.op("Exp", x), w.const(guard, np.float32))),
    )
    if (one.features.mean, one.features.deviation) != (
        0.0,
        1.0,
    ):  # sherpa-onnx gives plain logarithms
        x = w.op("Sub", x, w.const(one.features.mean, np.float32))
        x = w.op("Mul", x, w.const(1 / one.features.deviation, np.float32))
    parts = w.op("Split", packed, w.const(sizes), axis=3, outputs=len(sizes))
    state = {
        n: w.op("Reshape", part, w.const([-1, *a.shape[1:]]))
        for (n, a), part in zip(cached.items(), parts)
    }
    for name, part in zip(
        ("keys", "values"), w.op("Split", pairs, axis=1, num_outputs=2, outputs=2)
    ):
        whole = w.op("Reshape", part, w.const([-1, c.layers, c.heads, ring, width]))
        state |= {
            f"{name}.layer{i}": w.op("Gather", whole, w.const(i), axis=1) for i in range(c.layers)
        }
    state["frames"] = frames
    heard = w.op("Concat", w.op("Reshape", parts[-1], w.const([-1, lead, c.n_mels])), x, axis=1)
    block = w.slice(heard, 0, size, 1)
    lengths = w.op("Expand", w.const([size]), w.op("Shape", frames))
    encoded, ctc, new = encoder_step(w, model, block, lengths, state, head == "ctc")
    if head == "ctc":
        w.output("logits", ctc, "float32", ["batch", "frames", model.ctc.out_features])
    else:
        w.output(
            "outputs",
            w.op("Transpose", encoded, perm=[0, 2, 1]),
            "float32",
            ["batch", c.dim, "frames"],
        )
    w.output(
        "encoded_lengths",
        w.op("Expand", w.const([chunk]), w.op("Shape", frames)),
        "int64",
        ["batch"],
    )
    shape = w.const([-1, 1, ring, c.dim])
    pairs = w.op(
        "Concat", *(w.op("Reshape", new[n], shape) for n in start if n.startswith(RINGS)), axis=1
    )
    w.output("cache_last_channel_next", pairs, "float32", ["batch", 2 * c.layers, ring, c.dim])
    rest = [new[n] for n in cached] + [w.slice(heard, -lead, 1 << 40, 1)]
    packed = w.op(
        "Concat",
        *(w.op("Reshape", part, w.const([-1, 1, 1, n])) for part, n in zip(rest, sizes)),
        axis=3,
    )
    w.output("cache_last_time_next", packed, "float32", ["batch", 1, 1, sum(sizes)])
    w.output("cache_last_channel_next_len", new["frames"], "int64", ["batch"])
    graph = w.model()
    kind, predictor = "EncDecCTCModelBPE", {}
    if head == "transducer":
        kind, p = "EncDecRNNTBPEModel", model.config.predictor
        predictor = {"pred_rnn_layers": p.layers, "pred_hidden": p.dim}
    about = {
        "model_type": kind,
        **predictor,
        "window_size": size,
        "chunk_shift": size,
        "vocab_size": len(one.tokens),
        "subsampling_factor": c.subsampling,
        "normalize_type": "NA",
        "cache_last_channel_dim1": 2 * c.layers,
        "cache_last_channel_dim2": ring,
        "cache_last_channel_dim3": c.dim,
        "cache_last_time_dim1": 1,
        "cache_last_time_dim2": 1,
        "cache_last_time_dim3": sum(sizes),
        "speechstream": json.dumps(
            {
                "version": 1,
                "architecture": "fastconformer",
                "graph": "sherpa-onnx",
                **describe_model(one),
                "chunks": [chunk],
                "state": [],
            },
            ensure_ascii=False,
        ),
    }
    for key, value in about.items():
        graph.metadata_props.add(key=key, value=str(value))
    return graph


def _decoder(model: FastConformer, weights: Weights) -> onnx.ModelProto:
    """The predictor: targets (B, 1) int32 and the LSTM's states (layers, B, D) to outputs (B, D, 1) and new states."""
    c, w = model.config.predictor, Writer(weights)
    targets = w.input("targets", "int32", ["batch", 1])
    length = w.input("target_length", "int32", ["batch"])
    shape = [c.layers, "batch", c.dim]
    past = {
        n: w.op("Transpose", w.input(f"states.{n}", "float32", shape), perm=[1, 0, 2])
        for n in ("hidden", "cell")
    }
    y, new = predictor_step(
        w, model.predictor, w.op("Cast", w.op("Squeeze", targets, w.const([1])), to=7), past
    )
    w.output("outputs", w.op("Unsqueeze", y, w.const([2])), "float32", ["batch", c.dim, 1])
    w.output("prednet_lengths", w.op("Identity", length), "int32", ["batch"])
    for n, value in new.items():
        w.output(f"new.{n}", w.op("Transpose", value, perm=[1, 0, 2]), "float32", shape)
    return w.model()


def _joiner(model: FastConformer, weights: Weights) -> onnx.ModelProto:
    """encoder_outputs (B, D, 1) and decoder_outputs (B, P, 1) to outputs (B, 1, 1, vocab + 1)."""
    c, w = model.config.joiner, Writer(weights)
    inputs = [
        w.op("Squeeze", w.input(f"{n}_outputs", "float32", ["batch", dim, 1]), w.const([2]))
        for n, dim in (("encoder", c.encoder_dim), ("decoder", c.predictor_dim))
    ]
    w.output(
        "outputs",
        w.op("Unsqueeze", joiner_scores(w, model.joiner, *inputs), w.const([1, 2])),
        "float32",
        ["batch", 1, 1, model.joiner.out.out_features],
    )
    return w.model()


def write_sherpa(
    one: Checkpoint, folder: str | Path, chunk: int | None = None, weights: Weights = FP32
) -> list[Path]:
    """Write the graphs and tokens.txt for sherpa-onnx and return the graphs' paths.

    model.onnx is for `OnlineRecognizer.from_nemo_ctc`; encoder.onnx, decoder.onnx and joiner.onnx for `from_transducer`.
    """
    folder, paths = Path(folder), []
    for name, graph in sherpa_graphs(one, chunk, weights).items():
        onnx.checker.check_model(graph)
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(folder / f"{name}.onnx")
        paths[-1].write_bytes(graph.SerializeToString())
    lines = [
        f"{token.replace(' ', chr(0x2581))} {i}" for i, token in enumerate([*one.tokens, "<blk>"])
    ]
    (folder / "tokens.txt").write_text("\n".join(lines) + "\n")
    return paths
