"""Export a codec's two streamed directions as ONNX graphs that `speechstream.tts.codec` runs without torch.

`encoder.onnx` takes `audio` (B, channels, T, frame_size) and the state's fields, and gives `codes` (B, levels, T) and
the new fields; `decoder.onnx` takes `codes` and gives `audio` (B, channels, T * frame_size). Batch and T are free.
What a runner must know stands in the graph's metadata under "speechstream".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from speechstream.export.onnx import describe, export_step, trace_step
from speechstream.nn.mimi import MimiEncoder
from speechstream.state import flatten

BASIS = ".basis"  # in the names of Fourier transforms: in 8 bits their noise would be heard


def export_codec(
    codec: nn.Module, target: str | Path, levels: int | None = None
) -> tuple[Path, Path]:
    """Write `encoder.onnx` and `decoder.onnx` of a codec (Mimi or SmallCodec) into the folder `target`.

    `levels` is how many code levels the encoder gives (default all); the decoder takes all levels, absent ones as -1.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, model in codec_graphs(codec, levels).items():
        paths.append(target / f"{name}.onnx")
        onnx.save(model, paths[-1])
    return tuple(paths)


def codec_graphs(codec: nn.Module, levels: int | None = None) -> dict[str, onnx.ModelProto]:
    """The graphs `encoder` and `decoder` themselves."""
    return {"encoder": encoder_graph(codec, levels), "decoder": decoder_graph(codec)}


def encoder_graph(codec: nn.Module, levels: int | None = None) -> onnx.ModelProto:
    """audio to the codes of so many levels (default: all)."""
    codec, c = codec.eval(), codec.config
    levels = levels or c.n_codebooks

    def encode(frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        return codec.encode_step(frames.flatten(2), state, levels)

    audio = torch.zeros(2, codec.channels, 3, c.frame_size)
    return _export(
        codec,
        encode,
        "audio",
        audio,
        "codes",
        codec.init_encoder_state,
        {"graph": "encoder", **_about(codec), "direction": "encode", "levels": levels},
    )


def decoder_graph(codec: nn.Module) -> onnx.ModelProto:
    """codes of all levels to audio."""
    codec, c = codec.eval(), codec.config
    codes = torch.zeros(2, c.n_codebooks, 3, dtype=torch.int64)
    return _export(
        codec,
        codec.decode_step,
        "codes",
        codes,
        "audio",
        codec.init_decoder_state,
        {"graph": "decoder", **_about(codec), "direction": "decode", "levels": c.n_codebooks},
    )


def _about(codec: nn.Module) -> dict[str, Any]:
    c = codec.config
    return {
        "architecture": "codec",
        "sample_rate": c.sample_rate,
        "frame_size": c.frame_size,
        "channels": codec.channels,
        "bins": c.codebook_size,
        "delay": c.delay,
    }


def _export(
    codec: nn.Module,
    step: Any,
    name: str,
    x: Tensor,
    output: str,
    init_state: Any,
    about: dict[str, Any],
) -> onnx.ModelProto:
    state = init_state(2)
    dynamic = {
        name: {0: "batch", 2: "frames"},
        **{f"state.{n}": {0: "batch"} for n in flatten(state)},
    }
    # Mimi's graph is written in a sixth of the time so, and runs as fast; the small codec's can not be
    write = trace_step if isinstance(codec, MimiEncoder) else export_step
    model = write(codec, step, {name: x}, state, [output], dynamic)
    describe(model, about, init_state(1))
    return model
