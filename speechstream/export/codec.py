"""Export a codec's two streamed directions as ONNX graphs that `speechstream.tts.codec` runs without torch.

`encoder.onnx` takes `audio` (B, channels, T * frame_size) and the state's fields, and gives `codes` (B, levels, T) and
the new fields; `decoder.onnx` the other way round. Batch and T are free. A state field goes in under its dotted name
and comes out with "new." before it. What a runner must know stands in the graph's metadata under "speechstream.codec".
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor, nn

from speechstream.state import flatten, unflatten

OPSET = 20


class _Step(nn.Module):
    """A step as a function of flat arrays, the form in which it is exported."""

    def __init__(self, codec: nn.Module, step: Callable, state: Any) -> None:
        super().__init__()
        self.codec, self.run, self.like, self.names = codec, step, state, list(flatten(state))

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y, new = self.run(x, unflatten(self.like, dict(zip(self.names, state))))
        return (y, *flatten(new).values())


def export_codec(codec: nn.Module, target: str | Path, levels: int | None = None) -> tuple[Path, Path]:
    """Write `encoder.onnx` and `decoder.onnx` of a codec (Mimi or SmallCodec) into the folder `target`.

    `levels` is how many code levels the encoder gives (default all); the decoder takes all levels, absent ones as -1.
    """
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    codec = codec.eval()
    config = codec.config
    channels, levels = codec.channels, levels or config.levels
    audio = torch.zeros(2, channels, 3 * config.frame_size)
    codes = torch.zeros(2, config.levels, 3, dtype=torch.int64)

    def encode(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return codec.encode_step(x, state, levels)

    about = {"sample_rate": config.sample_rate, "frame_size": config.frame_size, "channels": channels,
             "bins": config.bins, "levels": levels}
    encoder, decoder = target / "encoder.onnx", target / "decoder.onnx"
    _export(encoder, _Step(codec, encode, codec.init_encoder_state(2)), "audio", audio, "codes",
            config.frame_size, dict(about, direction="encode"))
    _export(decoder, _Step(codec, codec.decode_step, codec.init_decoder_state(2)), "codes", codes, "audio",
            1, dict(about, direction="decode", levels=config.levels))
    return encoder, decoder


def _export(path: Path, step: _Step, name: str, x: Tensor, output: str, unit: int, about: dict[str, Any]) -> None:
    import onnx

    # a fresh state, and one that is not all zeros so that nothing of it is taken for a constant
    state = tuple(torch.randn_like(a) if a.is_floating_point() else a + 3 for a in flatten(step.like).values())
    batch, frames = torch.export.Dim("batch", min=1, max=4096), torch.export.Dim("frames", min=1, max=4096)
    names = [name, *step.names]
    shapes = ({0: batch, 2: unit * frames if unit > 1 else frames}, tuple({0: batch} for _ in state))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(step, (x, state), dynamo=True, opset_version=OPSET, dynamic_shapes=shapes,
                                    input_names=names, output_names=[output, *(f"new.{n}" for n in step.names)],
                                    verbose=False)
    model = program.model_proto
    fields = [{"name": n, "shape": list(a.shape[1:]), "dtype": str(a.dtype).removeprefix("torch.")}
              for n, a in flatten(step.like).items()]
    entry = model.metadata_props.add()
    entry.key, entry.value = "speechstream.codec", json.dumps(dict(about, state=fields))
    onnx.save(model, path)
