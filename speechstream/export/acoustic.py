"""Export the acoustic model as the two ONNX graphs that `speechstream.tts.acoustic` runs without torch.

`text.onnx`: `ids` (B, N) and `speaker` (B,) to `encodings` (B, N, dim) and `prosody` (B, N, 3).
`acoustic.onnx`: `frames` (B, T, sub, features) and the state's fields to `codes` (B, levels, T) and the new fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch

from speechstream import bundle
from speechstream.export.codec import codec_graphs
from speechstream.export.onnx import export_step
from speechstream.export.quantize import halve_constants, quantize_graph
from speechstream.nn.acoustic import AcousticModel
from speechstream.state import flatten
from speechstream.tts.acoustic import ARCHITECTURE, FORMAT_KEYS
from speechstream.tts.phonemes import SYMBOLS

GRAPHS = ["text.onnx", "acoustic.onnx", "codec.onnx"]


def export_acoustic(model: AcousticModel, target: str | Path) -> tuple[Path, Path]:
    """Write `text.onnx` and `acoustic.onnx` into the folder `target`."""
    model, c, target = model.eval(), model.config, Path(target)
    target.mkdir(parents=True, exist_ok=True)

    def text(ids: torch.Tensor, speaker: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model.text(ids, speaker)

    graph = export_step(model, text, {"ids": torch.ones(2, 7, dtype=torch.int64),
                                      "speaker": torch.zeros(2, dtype=torch.int64)}, None, ["encodings", "prosody"],
                        {"ids": {0: "batch", 1: "symbols"}, "speaker": {0: "batch"}})
    onnx.save(graph, target / "text.onnx")
    state = model.init_state(2)
    dynamic = {"frames": {0: "batch", 1: "frames"}, **{f"state.{n}": {0: "batch"} for n in flatten(state)}}
    graph = export_step(model, model.step, {"frames": torch.zeros(2, 3, c.sub, c.features)}, state, ["codes"], dynamic)
    onnx.save(graph, target / "acoustic.onnx")
    return target / "text.onnx", target / "acoustic.onnx"


def export_voice(model: AcousticModel, codec: Any, target: str | Path, speakers: list[dict], card: dict,
                 blocks: tuple[int, ...] = (2, 4, 8), bits: int | None = None) -> bundle.Bundle:
    """Write a bundle that `Synthesizer.load` opens: the acoustic model, the codec's decoder, and what must be known.

    `speakers`: {"name", "description", "pitch_hz"} each, in the order of the model's embedding. `blocks`: codec frames
    of the first blocks of a stream; the last number holds for all that follow. `bits`: 8 stores the text encoder's
    matrices as int8 and all others as float16; None leaves everything in float32. Raises ValueError where the codec is
    not the one whose codes the model predicts.
    """
    c, k, target = model.config, codec.config, Path(target)
    if (sum(c.groups), c.bins) != (k.levels, k.bins):
        raise ValueError(f"the acoustic model predicts {sum(c.groups)} levels of {c.bins} codes, the codec has "
                         f"{k.levels} of {k.bins}")
    if len(speakers) != c.speakers or c.symbols != len(SYMBOLS):
        raise ValueError(f"the model has {c.speakers} speakers and {c.symbols} symbols; given {len(speakers)} and "
                         f"{len(SYMBOLS)}")
    export_acoustic(model, target)
    onnx.save(codec_graphs(codec)["decoder"], target / "codec.onnx")
    if bits is not None:
        onnx.save(quantize_graph(onnx.load(target / "text.onnx"), bits), target / "text.onnx")
        # What rounding does to a sum depends on how many frames are summed at once. In float32 that is never heard; 8-bit
        # activations would make other codes and another pitch of it, and the sound depend on how a stream was cut.
        for name in GRAPHS:
            onnx.save(halve_constants(onnx.load(target / name)), target / name)
    values = (k.sample_rate, k.frame_size, c.sub, "".join(SYMBOLS), list(speakers), list(blocks))
    return bundle.write(target, "tts", ARCHITECTURE, dict(zip(FORMAT_KEYS, values)), card,
                        GRAPHS)
