"""Export the acoustic model as the two ONNX graphs that `speechstream.tts.blockwise.acoustic` runs without torch.

`text.onnx`: `ids` (B, N) and `speaker` (B,) to `encodings` (B, N, dim) and `prosody` (B, N, 3).
`acoustic.onnx`: `frames` (B, T, subframes, features) and the state's fields to `codes` (B, levels, T) and the new fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from speechstream import bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.export.codec import decoder_graph
from speechstream.export.onnx import describe, export_step
from speechstream.export.quantize import (
    FP32,
    Weights,
    dequantize_channels,
    halve_constants,
    quantize_graph,
)
from speechstream.nn.acoustic import AcousticConfig, AcousticModel
from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig
from speechstream.state import flatten
from speechstream.text.languages import symbols
from speechstream.tts.blockwise.acoustic import ARCHITECTURE, VoiceConfig

SYMBOLS = symbols("en")  # of the voices that are exported
KEPT = "kept.safetensors"  # what training needs and no graph holds
FOLDED = ("depth.level.weight", "depth.log_precision")  # the exporter has calculated with them
GRAPHS = ["text.onnx", "acoustic.onnx", "codec.onnx"]


def acoustic_graphs(
    model: AcousticModel, about: dict[str, Any] | None = None
) -> dict[str, onnx.ModelProto]:
    """The graphs `text` and `acoustic`. about: what their metadata says beside that, such as the symbols by id."""
    model, c, about = model.eval(), model.config, {"architecture": ARCHITECTURE, **(about or {})}

    def text(ids: torch.Tensor, speaker: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model.text(ids, speaker)

    graphs = {}
    graphs["text"] = export_step(
        model,
        text,
        {"ids": torch.ones(2, 7, dtype=torch.int64), "speaker": torch.zeros(2, dtype=torch.int64)},
        None,
        ["encodings", "prosody"],
        {"ids": {0: "batch", 1: "symbols"}, "speaker": {0: "batch"}},
    )
    state = model.init_state(2)
    dynamic = {
        "frames": {0: "batch", 1: "frames"},
        **{f"state.{n}": {0: "batch"} for n in flatten(state)},
    }
    graphs["acoustic"] = export_step(
        model,
        model.step,
        {"frames": torch.zeros(2, 3, c.subframes, c.features)},
        state,
        ["codes"],
        dynamic,
    )
    describe(graphs["text"], {"graph": "text", **about})
    describe(
        graphs["acoustic"],
        {"graph": "acoustic", **about, "subframes": c.subframes},
        model.init_state(1),
    )
    return graphs


def voice_graphs(
    model: AcousticModel, codec: SmallCodec, about: dict[str, Any], weights: Weights = FP32
) -> dict[str, onnx.ModelProto]:
    """The graphs `text`, `acoustic` and `codec`. weights: of the text encoder, which sees a clause at once.

    What rounding does to a sum depends on how many frames are summed at once. In float32 that is never heard; 8-bit
    activations would make other codes and another pitch of it, and the sound depend on how a stream was cut.
    """
    graphs = acoustic_graphs(model, about)
    return {
        **graphs,
        "text": quantize_graph(graphs["text"], weights),
        "codec": decoder_graph(codec),
    }


def export_voice(
    model: AcousticModel,
    codec: Any,
    target: str | Path,
    speakers: list[dict],
    card: dict,
    blocks: tuple[int, ...] = (2, 4, 8),
    weights: Weights = FP32,
) -> bundle.Bundle:
    """Write a bundle that `Synthesizer.load` opens: the acoustic model, the codec's decoder, and what must be known.

    `speakers`: {"name", "description", "pitch_hz"} each, in the order of the model's embedding. `blocks`: codec frames
    of the first blocks of a stream; the last number holds for all that follow. `weights`: of the text encoder's
    matrices; where these are not float32, all others are float16. Raises ValueError where the codec is
    not the one whose codes the model predicts.
    """
    c, k, target = model.config, codec.config, Path(target)
    if (sum(c.groups), c.codebook_size) != (k.n_codebooks, k.codebook_size):
        raise ValueError(
            f"the acoustic model predicts {sum(c.groups)} levels of {c.codebook_size} codes, the codec has "
            f"{k.n_codebooks} of {k.codebook_size}"
        )
    if len(speakers) != c.speakers or c.symbols != len(SYMBOLS):
        raise ValueError(
            f"the model has {c.speakers} speakers and {c.symbols} symbols; given {len(speakers)} and "
            f"{len(SYMBOLS)}"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name, graph in voice_graphs(model, codec, describe_voice(speakers), weights).items():
        onnx.save(graph if weights.bits == 32 else halve_constants(graph), target / f"{name}.onnx")
    kept = {f"codec.{n}": t for n, t in codec.state_dict().items() if n == "mean"}
    kept |= {f"model.{n}": t for n, t in model.state_dict().items() if n in FOLDED}
    save_file({n: t.contiguous() for n, t in kept.items()}, target / KEPT)
    (target / KEPT).chmod(0o644)  # safetensors leaves it to its owner alone
    config = {
        "sample_rate": k.sample_rate,
        "frame_size": k.frame_size,
        "subframes": c.subframes,
        "symbols": "".join(SYMBOLS),
        "speakers": list(speakers),
        "blocks": list(blocks),
        "model": c.to_dict(),
        "codec": k.to_dict(),
    }
    read(VoiceConfig, config)
    return bundle.write(target, "tts", ARCHITECTURE, config, card, [*GRAPHS, KEPT])


def describe_voice(speakers: list[dict]) -> dict[str, Any]:
    """What a runner must know of a voice: the symbols and the speakers, by their numbers."""
    return {"symbols": list(SYMBOLS), "speakers": [s["name"] for s in speakers]}


def read_voice(b: bundle.Bundle) -> tuple[AcousticModel, SmallCodec]:
    """The networks of a bundle that `export_voice` wrote, to train them further; its roundings stay in them.

    Raises SpeechStreamError where the bundle does not say what they are.
    """
    try:
        about = read(VoiceConfig, b.config)
        model, codec = (
            AcousticModel(AcousticConfig.from_dict(about.model)),
            SmallCodec(SmallCodecConfig.from_dict(about.codec)),
        )
        kept = load_file(b.file(KEPT))
        found = {name: _weights(onnx.load(b.file(name))) for name in GRAPHS}
        ours = {**found["text.onnx"], **found["acoustic.onnx"], **_part(kept, "model.")}
        model.load_state_dict({n: _shaped(ours[n], t) for n, t in model.state_dict().items()})
        theirs, state = {**found["codec.onnx"], **_part(kept, "codec.")}, codec.state_dict()
        turned = theirs[
            "quantizer.output_proj.weight"
        ].T  # components of equal length: the other way is their inverse
        theirs["quantizer.input_proj.weight"] = turned / turned.square().sum(1).mean()
        theirs["quantizer.usage"] = torch.ones_like(state["quantizer.usage"])
        theirs["quantizer.initialised"] = torch.ones_like(state["quantizer.initialised"])
        codec.load_state_dict({n: _shaped(theirs[n], t) for n, t in state.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SpeechStreamError(
            f"the bundle {b.path} does not hold the networks of a voice: {error}"
        ) from error
    return model.eval(), codec.eval()


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _shaped(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if tensor.shape != like.shape and tensor.numel() != like.numel():
        raise ValueError(f"a weight is {tuple(tensor.shape)}, expected {tuple(like.shape)}")
    return tensor.reshape(like.shape).to(like.dtype)


def _weights(graph: onnx.ModelProto) -> dict[str, torch.Tensor]:
    """A graph's constants under their parameters' names, in float32 and the right way round."""
    arrays, out = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}, {}
    for name, array in arrays.items():
        name = name.removesuffix(".half")
        if name.endswith(".codes"):
            name = name.removesuffix(".codes")
            scales = arrays.get(f"{name}.scales", arrays.get(f"{name}.scales.half"))
            array = dequantize_channels(array, scales, axis=1 if name.endswith(".T") else 0)
        if name.endswith(".T"):
            name, array = name.removesuffix(".T"), array.T
        out[name] = torch.from_numpy(np.array(array))
    return out
