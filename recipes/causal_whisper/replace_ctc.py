"""Put a CTC head that `train_ctc.py` trained into a bundle, and leave all other weights as they are to the bit.

    python -m recipes.causal_whisper.replace_ctc work/ctc/run/head.safetensors --pieces work/ctc/pieces/ctc.json --bundle FOLDER

The head may have other layers and know other pieces than the one it replaces. It is a graph and a file of weights of its own, ctc.onnx
and ctc.safetensors; no other weights are written. Of a bundle whose encoder's graph still ends with the head, that graph is cut before
it, and what stays of the old head in model.safetensors is not read any more. Snapshots of streams are taken up by the same bundle
only: those of before are refused.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.numpy import load_file

from recipes.common.args import parser
from speechstream import bundle
from speechstream.asr.guess import read_pieces
from speechstream.bundle import Bundle
from speechstream.export.bundle import FILES, write_head
from speechstream.export.quantize import INT8
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.whisper import Whisper

HEAD = "ctc."


def with_head(old: Whisper, weights: dict[str, np.ndarray]) -> Whisper:
    """The same network with another head, whose size is that of its weights."""
    config = dataclasses.replace(
        old.config,
        ctc_vocab_size=len(weights[HEAD + "out.bias"]),
        ctc_dim=len(weights[HEAD + "into.bias"]),
        ctc_blocks=sum(n.endswith(".conv.weight") for n in weights),
    )
    new = Whisper(config)
    rest = {n: w for n, w in old.state_dict().items() if not n.startswith(HEAD)}
    new.load_state_dict(rest | {n: torch.from_numpy(a) for n, a in weights.items()})
    return new.eval()


def headless(graph: onnx.ModelProto) -> onnx.ModelProto:
    """An encoder's graph that gives `features` (B, c, dim), from which its CTC head began, in place of what that says.

    Raises ValueError for a graph in which it does not end.
    """
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    g = graph.graph
    given = {o.name: o for o in g.output}
    norms = [n for n in g.node if "encoder.ln_post.weight" in n.input]
    if "ctc" not in given or len(norms) != 1:
        raise ValueError(f"the encoder's graph gives {', '.join(given)}: it has no CTC head")
    named = any("features" in n.output for n in g.node)  # it has them, if not as an output
    old = "features" if named else norms[0].output[0]
    for node in g.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = "features" if name == old else name
    shape = given["memory_keys"].type.tensor_type.shape.dim
    sizes = [shape[0].dim_param, shape[3].dim_param, shape[2].dim_value * shape[4].dim_value]
    features = onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, sizes)
    outputs = [features if o.name == "ctc" else o for o in g.output]
    wanted, nodes = {o.name for o in outputs}, []
    for node in reversed(g.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= _read(node)
    tensors = [t for t in g.initializer if t.name in wanted]
    for field, kept in ((g.node, nodes[::-1]), (g.initializer, tensors), (g.output, outputs)):
        del field[:]
        field.extend(kept)
    return graph


def _read(node: onnx.NodeProto) -> set[str]:
    """The values that a node reads, in the branches of an `If` too."""
    branches = [n for a in node.attribute for n in a.g.node]
    return set(node.input).union(*map(_read, branches))


def write(b: Bundle, weights: dict[str, np.ndarray], pieces: Path) -> None:
    """Write `b` anew with this head, which knows these pieces."""
    if len(weights[HEAD + "out.bias"]) != (count := len(read_pieces(pieces))):
        raise ValueError(
            f"the head knows {len(weights[HEAD + 'out.bias'])} pieces, {pieces} {count}"
        )
    if b.config["bits"] != INT8.bits:
        raise ValueError(f"only a bundle in 8 bits can be given a head, got {b.config['bits']}")
    model = with_head(read_whisper(b), weights)
    if "ctc.onnx" not in b.files:
        encoder = onnx.load(b.file("encoder.onnx"), load_external_data=False)
        (b.path / "encoder.onnx").write_bytes(headless(encoder).SerializeToString())
    write_head(model, b.path, INT8)
    kept = load_file(b.path / "ctc.safetensors")  # as they are, turned, or as codes and scales
    if lost := [n for n in weights if not any(f"{t}.".startswith(f"{n}.") for t in kept)]:
        raise ValueError(f"the graph has not kept {', '.join(lost)}: is the head trained?")
    if pieces != b.file("ctc.json"):
        shutil.copyfile(pieces, b.path / "ctc.json")
    sizes = json.loads(json.dumps(dataclasses.asdict(model.config)))
    config = {n: sizes.get(n, value) for n, value in b.config.items()}
    files = [*b.files, *(n for n in FILES if n not in b.files)]
    bundle.write(b.path, b.task, b.architecture, config, b.card, files)


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("head", type=Path)
    p.add_argument("--pieces", type=Path, help="ctc.json, where it is not the bundle's")
    p.add_argument("--bundle", type=Path, default=bundle.MODELS / bundle.EMBEDDED["asr"])
    args = p.parse_args(arguments)
    b = bundle.load(args.bundle)
    write(b, load_file(args.head), args.pieces or b.file("ctc.json"))


if __name__ == "__main__":
    main()
