"""Export a codec's two streamed directions as ONNX graphs that `speechstream.tts.codec` runs without torch.

`encoder.onnx` takes `audio` (B, channels, T, frame_size) and the state's fields, and gives `codes` (B, levels, T) and
the new fields; `decoder.onnx` takes `codes` and gives `audio` (B, channels, T * frame_size). Batch and T are free.
What a runner must know stands in the graph's metadata under "speechstream.codec".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from speechstream.export.onnx import export_step
from speechstream.state import flatten


def export_codec(codec: nn.Module, target: str | Path, levels: int | None = None) -> tuple[Path, Path]:
    """Write `encoder.onnx` and `decoder.onnx` of a codec (Mimi or SmallCodec) into the folder `target`.

    `levels` is how many code levels the encoder gives (default all); the decoder takes all levels, absent ones as -1.
    """
    codec, c = codec.eval(), codec.config
    levels = levels or c.levels

    def encode(frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        return codec.encode_step(frames.flatten(2), state, levels)

    audio = torch.zeros(2, codec.channels, 3, c.frame_size)
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    return (_export(target / "encoder.onnx", codec, encode, "audio", audio, "codes", codec.init_encoder_state(2),
                    dict(_about(codec), direction="encode", levels=levels)),
            export_decoder(codec, target / "decoder.onnx"))


def export_decoder(codec: nn.Module, path: str | Path) -> Path:
    """Write a codec's decoder alone to the file `path`: all that a voice needs."""
    codec, levels = codec.eval(), codec.config.levels
    codes = torch.zeros(2, levels, 3, dtype=torch.int64)
    return _export(Path(path), codec, codec.decode_step, "codes", codes, "audio", codec.init_decoder_state(2),
                   dict(_about(codec), direction="decode", levels=levels))


def _about(codec: nn.Module) -> dict[str, Any]:
    c = codec.config
    return {"sample_rate": c.sample_rate, "frame_size": c.frame_size, "channels": codec.channels, "bins": c.bins,
            "delay": c.delay}


def _export(path: Path, codec: nn.Module, step: Any, name: str, x: Tensor, output: str, state: Any,
            about: dict[str, Any]) -> Path:
    fields = flatten(state)
    dynamic = {name: {0: "batch", 2: "frames"}, **{f"state.{n}": {0: "batch"} for n in fields}}
    model = export_step(codec, step, {name: x}, state, [output], dynamic)
    spec = [{"name": n, "shape": list(a.shape[1:]), "dtype": str(a.dtype).removeprefix("torch.")}
            for n, a in fields.items()]
    entry = model.metadata_props.add()
    entry.key, entry.value = "speechstream.codec", json.dumps(dict(about, state=spec))
    onnx.save(model, path)
    return path
