"""A causal Whisper as a bundle on disk, and back.

All weights stand once, those of the CTC head in `ctc.safetensors`, all others in `model.safetensors`: matrices as 8-bit
codes with their scales, the rest in fp32. The ONNX graphs beside them hold structure alone; their weights are external
data that point into these files, so onnxruntime and torch read the same bytes. The head is apart because it is small and
can be replaced alone (`write_head`). In bundles of before, `ctc.onnx` is missing: the encoder's graph ends with the head.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from speechstream import bundle
from speechstream.export.quantize import INT8, Weights
from speechstream.export.whisper import export_head, export_whisper
from speechstream.nn.whisper import Whisper

SMALL = 1024  # bytes; what is smaller stays in the graph
LARGE = 1 << 20  # a constant of the graph itself is never this large
WEIGHTS, HEAD = "model.safetensors", "ctc.safetensors"
FILES = (
    WEIGHTS,
    "encoder.onnx",
    "decoder.onnx",
    "vocabulary.json",
    HEAD,
    "ctc.onnx",
    "ctc.json",
)


def write_whisper(
    model: Whisper, folder: Path, vocabulary: Path, card: dict, weights: Weights = INT8
) -> None:
    """Export `model` to `folder`. vocabulary: the folder that holds vocabulary.json and ctc.json."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = export_whisper(model, weights)
    _save_head(graphs.pop("ctc"), folder)
    tensors: dict[str, np.ndarray] = {}
    for graph in graphs.values():
        _share(graph, tensors)
    if model.gate:  # its last layers are in neither graph
        tensors |= {
            f"gate.{n}": p.detach().numpy()
            for n, p in model.gate.named_parameters()
            if n.startswith(("looked", "out"))
        }
    save_tensors(tensors, folder / WEIGHTS)
    for name, graph in graphs.items():
        save_graph(graph, folder / f"{name}.onnx", folder / WEIGHTS)
    for name in ("vocabulary.json", "ctc.json"):
        shutil.copy(vocabulary / name, folder / name)
    content = json.loads((folder / "vocabulary.json").read_text())
    (folder / "vocabulary.json").write_text(
        json.dumps({k: content[k] for k in ("pieces", "end", "prompt")}, ensure_ascii=False)
    )
    config = {**dataclasses.asdict(model.config), **dataclasses.asdict(weights)}
    bundle.write(
        folder,
        task="asr",
        architecture="causal-whisper",
        config=config,
        card=card,
        files=FILES,
    )


def write_head(model: Whisper, folder: Path, weights: Weights = INT8) -> None:
    """Export the CTC head of `model` alone to `folder`: ctc.onnx and ctc.safetensors."""
    _save_head(export_head(model, weights), folder)


def _save_head(graph: onnx.ModelProto, folder: Path) -> None:
    tensors: dict[str, np.ndarray] = {}
    _share(graph, tensors)
    if strange := [n for n in tensors if not n.startswith("ctc.")]:
        raise ValueError(f"the graph of the CTC head reads {', '.join(strange)}")
    save_tensors(tensors, folder / HEAD)
    save_graph(graph, folder / "ctc.onnx", folder / HEAD)


def save_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    save_file(tensors, path)
    path.chmod(0o644)  # safetensors leaves it to its owner alone


def save_graph(graph: onnx.ModelProto, path: Path, weights: Path) -> None:
    """Write a graph whose larger tensors are those of the same names in the file `weights` beside it."""
    offsets = offsets_of(weights)
    for tensor in graph.graph.initializer:
        if tensor.name in offsets and _bytes(tensor) >= SMALL:
            point(tensor, *offsets[tensor.name])
    path.write_bytes(graph.SerializeToString())


def _share(graph: onnx.ModelProto, tensors: dict[str, np.ndarray]) -> None:
    """Move a graph's weights into the common table, under their parameters' names."""
    for tensor in graph.graph.initializer:
        name = tensor.name
        if not name.startswith(("encoder.", "decoder.", "ctc.", "gate.")):
            if _bytes(tensor) > LARGE:
                raise ValueError(
                    f"the graph holds {name} {list(tensor.dims)}, which is no parameter of the network"
                )
            continue
        array = numpy_helper.to_array(tensor)
        if name in tensors and not np.array_equal(tensors[name], array):
            raise ValueError(f"two graphs disagree about {name}")
        tensors[name] = array


def _bytes(tensor: onnx.TensorProto) -> int:
    return (
        int(np.prod(tensor.dims))
        * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    )


def offsets_of(path: Path) -> dict[str, tuple[str, int, int]]:
    """Where each tensor of a safetensors file lies: file name, offset, bytes."""
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(size))
    return {
        name: (
            path.name,
            8 + size + h["data_offsets"][0],
            h["data_offsets"][1] - h["data_offsets"][0],
        )
        for name, h in header.items()
        if name != "__metadata__"
    }


def point(tensor: onnx.TensorProto, file: str, offset: int, size: int) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", file), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
