"""A causal Whisper as a bundle on disk, and back.

All weights stand once, in `model.safetensors`: matrices as 8-bit codes with their scales, the rest in fp32. The ONNX
graphs beside it hold structure alone; their weights are external data that point into that file, so onnxruntime
and torch read the same bytes.
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

from speechstream import bundle
from speechstream.export.quantize import (
    INT8,
    Weights,
    dequantize_blocks,
    dequantize_channels,
    quantize_graph,
)
from speechstream.export.whisper import export_whisper
from speechstream.nn.whisper import Whisper, WhisperConfig

SMALL = 1024  # bytes; what is smaller stays in the graph
STORED = [f.name for f in dataclasses.fields(Weights)]  # in the configuration of a bundle
LARGE = 1 << 20  # a constant of the graph itself is never this large


def write_whisper(
    model: Whisper, folder: Path, vocabulary: Path, card: dict, weights: Weights = INT8
) -> None:
    """Export `model` to `folder`. vocabulary: the folder that holds vocabulary.json and ctc.json."""
    folder.mkdir(parents=True, exist_ok=True)
    graphs = {name: quantize_graph(g, weights) for name, g in export_whisper(model).items()}
    tensors: dict[str, np.ndarray] = {}
    for graph in graphs.values():
        _share(graph, tensors)
    if model.gate:  # its last layers are in neither graph
        tensors |= {
            f"gate.{n}": p.detach().numpy()
            for n, p in model.gate.named_parameters()
            if n.startswith(("looked", "out"))
        }
    save_file(tensors, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
    offsets = _offsets(folder / "model.safetensors")
    for name, graph in graphs.items():
        for tensor in graph.graph.initializer:
            if tensor.name in offsets and _bytes(tensor) >= SMALL:
                _point(tensor, *offsets[tensor.name])
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
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
        files=["model.safetensors", "encoder.onnx", "decoder.onnx", "vocabulary.json", "ctc.json"],
    )


def read_whisper(b: "bundle.Bundle") -> Whisper:
    """The torch network of a bundle, its codes expanded to fp32."""
    fields = {k: v for k, v in b.config.items() if k not in STORED}
    fields["alignment_heads"] = tuple(tuple(h) for h in fields["alignment_heads"])
    model = Whisper(WhisperConfig(**fields))
    tensors = load_file(b.path / "model.safetensors")
    state = {}
    for name, a in tensors.items():
        if name.endswith(".codes"):
            name = name.removesuffix(".codes")
            a = _expand(name, a, tensors[name + ".scales"], b.config["bits"])
        elif name.endswith(".scales"):
            continue
        if name.endswith(".T"):
            name, a = name.removesuffix(".T"), a.T
        if (
            name == "encoder.conv2.weight" and a.ndim == 2
        ):  # as a matrix, `export.whisper.Downsampling`
            a = a.reshape(len(a), 3, -1).transpose(0, 2, 1)
        state[name] = torch.from_numpy(np.ascontiguousarray(a))
    model.load_state_dict(state)
    return model.eval()


def _expand(name: str, codes: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Codes back to fp32, in the orientation that their name tells."""
    if codes.ndim == 3:  # blocks, stored (N, K / block, bytes) whatever the name
        weight = dequantize_blocks(codes, scales, bits)
        return weight.T if name.endswith(".T") else weight
    return dequantize_channels(codes, scales, axis=1 if name.endswith(".T") else 0)


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


def _offsets(path: Path) -> dict[str, tuple[str, int, int]]:
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


def _point(tensor: onnx.TensorProto, file: str, offset: int, size: int) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", file), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
