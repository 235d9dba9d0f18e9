"""Put a CTC head that `train_ctc.py` trained into the bundle, and leave all other weights as they are to the bit.

    python -m recipes.causal_whisper.replace_ctc work/ctc/run/head.safetensors --pieces work/ctc/pieces/ctc.json --bundle FOLDER

The head may have other layers and know other pieces than the one it replaces. The encoder's graph, which ends with it, is exported
again; of the other graphs only where their weights lie is written anew. Snapshots of streams are taken up by the same
bundle only: those of before are refused.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from recipes.common.args import parser
from speechstream import bundle
from speechstream.asr.whisper.ctc import read_pieces
from speechstream.bundle import Bundle
from speechstream.export.bundle import SMALL, offsets_of, point
from speechstream.export.quantize import INT8, quantize_graph
from speechstream.export.whisper import export_whisper
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.whisper import Whisper

HEAD = "ctc."
WEIGHTS = "model.safetensors"


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


def merged(graph: onnx.ModelProto, old: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A bundle's tensors with the head that an encoder's graph holds. Raises ValueError where it needs others as well."""
    found = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    tensors = {n: a for n, a in old.items() if not n.startswith(HEAD)}
    for name, a in found.items():
        if name.startswith(HEAD):
            tensors[name] = np.ascontiguousarray(a)
        elif name in tensors and (a.shape, a.dtype) != (tensors[name].shape, tensors[name].dtype):
            raise ValueError(
                f"{name} is {a.dtype} {a.shape} now, the bundle's is {tensors[name].shape}"
            )
        elif name not in tensors and name.startswith(("encoder.", "decoder.", "gate.")):
            raise ValueError(f"the bundle was exported in another form: it has no {name}")
    return tensors


def write(b: Bundle, weights: dict[str, np.ndarray], pieces: Path) -> None:
    """Write `b` anew with this head, which knows these pieces."""
    if len(weights[HEAD + "out.bias"]) != (count := len(read_pieces(pieces))):
        raise ValueError(
            f"the head knows {len(weights[HEAD + 'out.bias'])} pieces, {pieces} {count}"
        )
    if b.config["bits"] != INT8.bits:
        raise ValueError(f"only a bundle in 8 bits can be given a head, got {b.config['bits']}")
    model = with_head(read_whisper(b), weights)
    encoder = quantize_graph(export_whisper(model)["encoder"], INT8)
    tensors = merged(encoder, load_file(b.file(WEIGHTS)))
    kept = [t for t in tensors if t.startswith(HEAD)]  # as they are, turned, or as codes and scales
    if lost := [n for n in weights if not any(f"{t}.".startswith(f"{n}.") for t in kept)]:
        raise ValueError(f"the graph has not kept {', '.join(lost)}: is the head trained?")
    save_file(tensors, b.path / WEIGHTS)
    (b.path / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone
    places = offsets_of(b.path / WEIGHTS)
    for name in (n for n in b.files if n.endswith(".onnx")):
        graph = onnx.load(b.path / name, load_external_data=False)
        graph = encoder if name == "encoder.onnx" else graph
        for t in graph.graph.initializer:
            if t.name in places:
                t.CopyFrom(numpy_helper.from_array(tensors[t.name], t.name))
            if t.name in places and places[t.name][2] >= SMALL:
                point(t, *places[t.name])
        (b.path / name).write_bytes(graph.SerializeToString())
    if pieces != b.file("ctc.json"):
        shutil.copyfile(pieces, b.path / "ctc.json")
    sizes = json.loads(json.dumps(dataclasses.asdict(model.config)))
    config = {n: sizes.get(n, value) for n, value in b.config.items()}
    bundle.write(b.path, b.task, b.architecture, config, b.card, list(b.files))


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
