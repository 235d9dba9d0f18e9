"""A streaming CTC FastConformer in the form that sherpa-onnx loads (its `nemo_ctc` online models).

sherpa-onnx hands over windows of `window_size` feature frames, `chunk_shift` apart, and three caches that start as
zeros and that it does not look into: the state's fields are packed into two of them, the frame count is the third. Our
block begins with the seven frames before the window, which are remembered in the second cache, so the last seven frames
of a window wait for the next: words come 70 ms later than in our own runtime.

Its frames lie half a hop later than the checkpoint's. With 5 ms of silence before the audio they coincide, and the
text is that of our own runtime, but for what its logarithm's floor changes in digital silence.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from speechstream.convert.nemo import Imported
from speechstream.errors import SpeechStreamError
from speechstream.export.conformer import encoder_step
from speechstream.export.fastconformer import describe_model
from speechstream.export.graph import Writer
from speechstream.state import flatten


def sherpa_graph(one: Imported, chunk: int | None = None, bits: int = 32) -> onnx.ModelProto:
    """The model for chunks of so many encoder frames (None: its default), with sherpa-onnx's names and metadata.

    Raises SpeechStreamError for a model without CTC head or that runs offline only.
    """
    model, c = one.model.eval(), one.model.config.encoder
    if model.ctc is None or not c.streaming:
        raise SpeechStreamError("sherpa-onnx runs streaming models with a CTC head in this form, and this one "
                                f"{'is a transducer' if model.ctc is None else 'hears whole utterances'}")
    chunk, lead = chunk or c.lookaheads[0] + 1, model.encoder.lead
    size, start = chunk * c.subsampling, flatten(model.encoder.init_state(1))
    cached = {n: a for n, a in start.items() if n not in ("keys", "values", "frames")}
    sizes = [int(a[0].numel()) for a in cached.values()] + [lead * c.features]
    width, w = c.dim // c.heads, Writer(bits)
    x = w.input("audio_signal", "float32", ["batch", c.features, "feature_frames"])
    w.input("length", "int64", ["batch"])
    pairs = w.input("cache_last_channel", "float32", ["batch", 2 * c.layers, c.left, c.dim])
    packed = w.input("cache_last_time", "float32", ["batch", 1, 1, sum(sizes)])
    frames = w.input("cache_last_channel_len", "int64", ["batch"])
    x = w.op("Transpose", x, perm=[0, 2, 1])
    parts = w.op("Split", packed, w.const(sizes), axis=3, outputs=len(sizes))
    state = {n: w.op("Reshape", part, w.const([-1, *a.shape[1:]])) for (n, a), part in zip(cached.items(), parts)}
    for name, part in zip(("keys", "values"), w.op("Split", pairs, axis=1, num_outputs=2, outputs=2)):
        whole = w.op("Reshape", part, w.const([-1, c.layers, c.heads, c.left, width]))
        state[name] = [w.op("Gather", whole, w.const(i), axis=1) for i in range(c.layers)]
    state["frames"] = frames
    heard = w.op("Concat", w.op("Reshape", parts[-1], w.const([-1, lead, c.features])), x, axis=1)
    block = w.slice(heard, 0, size, 1)
    lengths = w.op("Expand", w.const([size]), w.op("Shape", frames))
    _, ctc, new = encoder_step(w, model, block, lengths, state)
    w.output("logits", ctc, "float32", ["batch", "frames", model.ctc.out_features])
    w.output("encoded_lengths", w.op("Expand", w.const([chunk]), w.op("Shape", frames)), "int64", ["batch"])
    shape = w.const([-1, c.layers, c.left, c.dim])
    pairs = w.op("Concat", *(w.op("Reshape", new[n], shape) for n in ("keys", "values")), axis=1)
    w.output("cache_last_channel_next", pairs, "float32", ["batch", 2 * c.layers, c.left, c.dim])
    rest = [new[n] for n in cached] + [w.slice(heard, -lead, 1 << 40, 1)]
    packed = w.op("Concat", *(w.op("Reshape", part, w.const([-1, 1, 1, n])) for part, n in zip(rest, sizes)), axis=3)
    w.output("cache_last_time_next", packed, "float32", ["batch", 1, 1, sum(sizes)])
    w.output("cache_last_channel_next_len", new["frames"], "int64", ["batch"])
    graph = w.model()
    about = {"model_type": "EncDecCTCModelBPE", "window_size": size, "chunk_shift": size, "vocab_size": len(one.tokens),
             "subsampling_factor": c.subsampling, "normalize_type": "NA",
             "cache_last_channel_dim1": 2 * c.layers, "cache_last_channel_dim2": c.left,
             "cache_last_channel_dim3": c.dim,
             "cache_last_time_dim1": 1, "cache_last_time_dim2": 1, "cache_last_time_dim3": sum(sizes),
             "speechstream": json.dumps({"version": 1, "architecture": "fastconformer", "graph": "sherpa-onnx",
                                         **describe_model(one), "chunks": [chunk], "state": []}, ensure_ascii=False)}
    for key, value in about.items():
        graph.metadata_props.add(key=key, value=str(value))
    return graph


def write_sherpa(one: Imported, folder: str | Path, chunk: int | None = None, bits: int = 32) -> Path:
    """Write model.onnx and tokens.txt for sherpa-onnx's `OnlineRecognizer.from_nemo_ctc`; returns the model's path."""
    folder = Path(folder)
    graph = sherpa_graph(one, chunk, bits)
    onnx.checker.check_model(graph)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    lines = [f"{token.replace(' ', chr(0x2581))} {i}" for i, token in enumerate([*one.tokens, "<blk>"])]
    (folder / "tokens.txt").write_text("\n".join(lines) + "\n")
    return folder / "model.onnx"
