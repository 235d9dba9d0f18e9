"""Write a bundle's graphs of the encoder and of the CTC head anew, as this version exports them, on the weights it has.

    python -m recipes.causal_whisper.rewrite_encoder [--bundle FOLDER]

The weights lie beside the graphs and stay byte for byte.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx

from speechstream import bundle
from speechstream.export.bundle import HEAD, LARGE, WEIGHTS, offsets_of, point
from speechstream.export.quantize import Weights, saturating
from speechstream.export.whisper import export_head
from speechstream.export.whisper_encoder import encoder_graph
from speechstream.nn.checkpoints import read_whisper


def rewrite(b: bundle.Bundle) -> None:
    """Raises ValueError, and writes nothing, where the bundle's weights are not all that the new graphs read."""
    if "ctc.onnx" not in b.files:
        raise ValueError(f"the CTC head of {b.path} lies within its encoder: replace_ctc first")
    model, weights = read_whisper(b), Weights(b.config["bits"], b.config.get("block", 0))
    graphs = (
        ("encoder.onnx", encoder_graph(model, weights), WEIGHTS),
        ("ctc.onnx", export_head(model, weights), HEAD),
    )
    for name, graph, file in graphs:
        check(graph, b.path / file, name)
    for name, graph, file in graphs:
        save(graph, b.path / name, b.path / file)
    bundle.write(b.path, b.task, b.architecture, b.config, b.card, b.files)


def save(graph: onnx.ModelProto, path: Path, weights: Path) -> None:
    """Write a graph whose tensors are those of the same names in the file `weights`, of whatever size: codes that are
    expanded and rounded again may be others."""
    offsets = offsets_of(weights)
    for tensor in graph.graph.initializer:
        if tensor.name in offsets:
            point(tensor, *offsets[tensor.name])
    path.write_bytes(graph.SerializeToString())
    if saturating(onnx.load(path)):  # older codes, whose sums need 32 bits
        graph.producer_name = "speechstream"
        path.write_bytes(graph.SerializeToString())


def check(graph: onnx.ModelProto, weights: Path, name: str) -> None:
    sizes = {tensor: size for tensor, (_, _, size) in offsets_of(weights).items()}
    for tensor in graph.graph.initializer:
        size, known = len(tensor.raw_data), sizes.get(tensor.name)
        if size > LARGE if known is None else size != known:
            raise ValueError(
                f"{name} reads {tensor.name}, {size} bytes, of which {weights.name} has {known or 'none'}"
            )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=bundle.MODELS / bundle.EMBEDDED["asr"])
    rewrite(bundle.load(parser.parse_args(arguments).bundle))


if __name__ == "__main__":
    main()
