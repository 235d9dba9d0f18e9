"""Cut a Piper voice (.onnx + .onnx.json) in two so that it can speak block by block.

A Piper voice is a VITS network (arXiv:2106.06103) in one graph, which gives no sound before all of it is made. Cut
at the latent `z`, one part makes the latents of the sentence and the other turns any window of them into sound.
`speechstream.tts.piper.network` runs both.

    python -m speechstream.tts.piper.split en_US-joe-medium.onnx joe/     # encoder.onnx, decoder.onnx, config.json

Needs the `onnx` package; the voice itself then runs on onnxruntime alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from speechstream.errors import SpeechStreamError

FIRST_DECODER_WEIGHT = "dec.conv_pre.weight"  # the HiFi-GAN decoder begins with this convolution
LATENTS, DURATIONS, AUDIO = "z", "durations", "audio"


def split_graph(model: Any) -> tuple[Any, Any]:
    """Split a Piper graph (an onnx.ModelProto) into (encoder, decoder).

    The encoder keeps the inputs and gives `z` (B, C, T), `durations` (frames of each phoneme id), and whatever else the
    decoder needs (a speaker's conditioning). The decoder takes them and gives `audio`. Raises SpeechStreamError where
    the graph is not a Piper voice.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    first = [n for n in graph.node if n.op_type == "Conv" and FIRST_DECODER_WEIGHT in n.input]
    if len(first) != 1:
        raise SpeechStreamError(f"not a Piper voice: no convolution uses {FIRST_DECODER_WEIGHT!r}")
    z = first[0].input[0]
    durations = _durations(graph)

    after, made = [], {z}  # what depends on z is the decoder
    for node in graph.node:
        if made.intersection(node.input):
            after.append(node)
            made.update(node.output)
    before = [n for n in graph.node if not made.intersection(n.output) or z in n.output]
    constant = {t.name for t in graph.initializer}
    constants = []
    for node in before:  # what depends on no input may stand on both sides
        if node.op_type == "Constant" or (
            node.input
            and "Random" not in node.op_type
            and all(not i or i in constant for i in node.input)
        ):
            constants.append(node)
            constant.update(node.output)
    needed = [i for n in after for i in n.input if i and i not in made and i not in constant]
    extra = list(dict.fromkeys(needed))

    def value(name: str, kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, None)

    rename = helper.make_node("Identity", [z], [LATENTS])
    lengths = helper.make_node("Identity", [durations], [DURATIONS])
    encoder = helper.make_graph(
        [*before, rename, lengths],
        "encoder",
        list(graph.input),
        [value(LATENTS), value(DURATIONS), *map(value, extra)],
    )
    back = helper.make_node("Identity", [LATENTS], [z])
    sound = helper.make_node("Identity", [graph.output[0].name], [AUDIO])
    decoder = helper.make_graph(
        [*constants, back, *after, sound],
        "decoder",
        [value(LATENTS), *map(value, extra)],
        [value(AUDIO)],
    )
    parts = []
    for part in (encoder, decoder):
        used = {i for n in part.node for i in n.input}
        part.initializer.extend(t for t in graph.initializer if t.name in used)
        parts.append(
            helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
        )
    return parts[0], parts[1]


def convert_piper(voice: str | Path, target: str | Path) -> Path:
    """Split the voice at `voice` (its .onnx; the .onnx.json is beside it) into the folder `target`; returns it."""
    try:
        import onnx
    except ImportError:
        raise SpeechStreamError(
            "a Piper voice needs the onnx package to be opened: pip install speechstream[piper]"
        ) from None
    voice, target = Path(voice), Path(target)
    description = Path(f"{voice}.json")
    for file in (voice, description):
        if not file.is_file():
            raise SpeechStreamError(
                f"a Piper voice is two files, NAME.onnx and NAME.onnx.json; {file} is not there"
            )
    encoder, decoder = split_graph(onnx.load(voice))
    config = json.loads(description.read_text(encoding="utf-8"))
    target.mkdir(parents=True, exist_ok=True)
    onnx.save(encoder, target / "encoder.onnx")
    onnx.save(decoder, target / "decoder.onnx")
    (target / "config.json").write_text(
        json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    return target


def _durations(graph: Any) -> str:
    """The tensor of frames per phoneme: the rounded-up one that is summed up into positions."""
    summed = {i for n in graph.node if n.op_type == "CumSum" for i in n.input}
    names = [n.output[0] for n in graph.node if n.op_type == "Ceil" and n.output[0] in summed]
    if len(names) != 1:
        raise SpeechStreamError("not a Piper voice: the durations of its phonemes were not found")
    return names[0]


def main() -> None:
    """Command line: split one voice."""
    parser = argparse.ArgumentParser(description="split a Piper voice for block-wise synthesis")
    parser.add_argument("voice", help="the voice's .onnx file, its .onnx.json beside it")
    parser.add_argument("target", help="the folder to write")
    args = parser.parse_args()
    print(convert_piper(args.voice, args.target))


if __name__ == "__main__":
    main()
