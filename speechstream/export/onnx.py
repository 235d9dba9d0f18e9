"""Networks with state as ONNX graphs: the inputs and outputs of a graph are the fields of its state.

A step `f(*inputs, state) -> (*outputs, state)` becomes a graph with inputs `name...`, `state.field...` and outputs
`name...`, `new.field...`. Batch, chunk and cache lengths are dynamic axes: one graph for all latencies and batches.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from speechstream import bundle
from speechstream.bundle import Bundle
from speechstream.state import flatten, unflatten

OPSET = 20
MOST_PARAMETERS = 500_000_000  # of a model whose graphs come with its bundle: 2 GB in float32
_INLINE = 1024  # bytes; larger tensors lie beside a graph
METADATA, METADATA_VERSION = (
    "speechstream",
    1,
)  # key in metadata_props, and version of the JSON there


def _rms_norm(g: Any, x: Any, shape: Any, weight: Any, eps: Any) -> Any:
    """`torch.rms_norm` over the last axis, which the tracer does not know."""
    last = g.op("Constant", value_t=torch.tensor([-1]))
    power = g.op("ReduceMean", g.op("Mul", x, x), last, keepdims_i=1)
    return g.op("Mul", g.op("Div", x, g.op("Sqrt", g.op("Add", power, eps))), weight)


@contextmanager
def _grouped_attention(queries: int) -> Iterator[None]:
    """While this lasts, the tracer writes `scaled_dot_product_attention` with so many queries to a key, which its own does
    not know; for a mask of booleans in which every query sees something."""

    def attention(g: Any, q: Any, k: Any, v: Any, mask: Any, *_: Any) -> Any:
        def constant(value: Any) -> Any:
            return g.op("Constant", value_t=torch.as_tensor(value))

        def sizes(x: Any, start: int, end: int) -> Any:
            return g.op("Slice", g.op("Shape", x), constant([start]), constant([end]))

        def repeated(x: Any) -> Any:  # (B, key heads, S, width) -> (B, heads, S, width)
            new = g.op("Concat", sizes(x, 0, 1), constant([-1]), sizes(x, 2, 4), axis_i=0)
            x = g.op("Expand", g.op("Unsqueeze", x, constant([2])), constant([1, 1, queries, 1, 1]))
            return g.op("Reshape", x, new)

        if queries > 1:
            k, v = repeated(k), repeated(v)
        width = g.op("Cast", sizes(q, 3, 4), to_i=onnx.TensorProto.FLOAT)
        scores = g.op("MatMul", q, g.op("Transpose", k, perm_i=[0, 1, 3, 2]))
        scores = g.op("Div", scores, g.op("Sqrt", width))
        hidden = g.op("Where", mask, constant(0.0), constant(float("-inf")))
        return g.op("MatMul", g.op("Softmax", g.op("Add", scores, hidden), axis_i=-1), v)

    name = "aten::scaled_dot_product_attention"
    torch.onnx.register_custom_op_symbolic(name, attention, OPSET)
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(name, OPSET)


torch.onnx.register_custom_op_symbolic("aten::rms_norm", _rms_norm, OPSET)


class _Flat(nn.Module):
    """A step as a function of plain tensors, which is what an exported graph takes."""

    def __init__(self, owner: nn.Module, step: Callable, inputs: int, state: Any):
        super().__init__()
        self.owner = owner  # its parameters become the graph's weights
        self.step, self.inputs, self.like = step, inputs, state
        self.names = list(flatten(state)) if state is not None else []

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        if self.like is None:
            out = self.step(*tensors)
            return out if isinstance(out, tuple) else (out,)
        state = unflatten(self.like, dict(zip(self.names, tensors[self.inputs :])))
        *outputs, new = self.step(*tensors[: self.inputs], state)
        return *outputs, *(flatten(new).values() if new is not None else ())


def export_step(
    owner: nn.Module,
    step: Callable,
    inputs: Mapping[str, Tensor],
    state: Any,
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
) -> onnx.ModelProto:
    """Trace `step(*inputs, state)` of `owner` into a graph.

    A step that returns None for the new state leaves its keeping to the caller. `inputs`: example tensors by name, with
    a batch of two and lengths that are not 0 or 1. `outputs`: names of what the step returns before the state.
    `dynamic`: named axes of each input and of each `state.FIELD`, such as {0: "batch"}.
    """
    fields = {f"state.{n}": a for n, a in flatten(state).items()} if state is not None else {}
    examples = {**inputs, **fields}
    dims = {n: torch.export.Dim.DYNAMIC for axes in dynamic.values() for n in axes.values()}
    shapes = tuple({i: dims[n] for i, n in dynamic.get(name, {}).items()} for name in examples)
    module = _Flat(owner, step, len(inputs), state).eval()
    with torch.no_grad():
        kept = len(module(*examples.values())) > len(outputs)
    new_names = [f"new.{n.removeprefix('state.')}" for n in fields] if kept else []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            tuple(examples.values()),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(shapes,),
            input_names=list(examples),
            output_names=[*outputs, *new_names],
            verbose=False,
            optimize=True,
        )
    model = program.model_proto
    _name_weights(model, owner)
    for value in [
        *model.graph.input,
        *model.graph.output,
    ]:  # the author's axis names, not the tracer's
        axes = dynamic.get(value.name) or dynamic.get(
            "state." + value.name.removeprefix("new."), {}
        )
        for i, name in axes.items() if value.name in examples else ():
            value.type.tensor_type.shape.dim[i].dim_param = name
    clean(model)
    return model


def trace_step(
    owner: nn.Module,
    step: Callable,
    inputs: Mapping[str, Tensor],
    state: Any,
    outputs: Sequence[str],
    dynamic: Mapping[str, Mapping[int, str]],
    queries: int = 0,
) -> onnx.ModelProto:
    """`export_step` by following one run of the step: thirty times faster, for deep networks.

    What the run decided is fixed in the graph, so a step may not choose by sizes or values; `agrees` asks whether it has.
    queries: to a key of its attention, where all masks are of booleans and let every query see something.
    """
    fields = {f"state.{n}": a for n, a in flatten(state).items()} if state is not None else {}
    examples = {**inputs, **fields}
    module, file = _Flat(owner, step, len(inputs), state).eval(), io.BytesIO()
    with torch.no_grad():
        kept = len(module(*examples.values())) > len(outputs)
    new = [f"new.{n.removeprefix('state.')}" for n in fields] if kept else []
    axes = {n: dict(a) for n, a in dynamic.items()}
    axes |= {n: {0: "batch"} for n in (*outputs, *new)}
    writing = _grouped_attention(queries) if queries else nullcontext()
    with warnings.catch_warnings(), torch.no_grad(), writing:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(examples.values()),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(examples),
            output_names=[*outputs, *new],
            dynamic_axes=axes,
        )
    model = onnx.load_from_string(file.getvalue())
    taken = {i.name for i in model.graph.input}
    for name, a in examples.items():  # what the step does not read is an input all the same
        if name not in taken:
            kind = onnx.helper.np_dtype_to_tensor_dtype(a.numpy().dtype)
            shape = [axes.get(name, {}).get(i, n) for i, n in enumerate(a.shape)]
            model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    for value in model.graph.output:  # of which only the batch is known for certain
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if i and not dim.dim_param and value.name in outputs:
                dim.dim_param = f"{value.name}.{i}"
    _name_weights(model, owner)
    clean(model)
    return model


def clean(model: onnx.ModelProto) -> None:
    """Remove what the exporter notes on its way, in place: source lines it came through, with this machine's paths."""
    graph = model.graph
    for item in [
        model,
        graph,
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *model.functions,
        *(n for f in model.functions for n in f.node),
    ]:
        item.ClearField("doc_string")
        del item.metadata_props[:]


def describe(
    model: onnx.ModelProto, about: dict[str, Any], state: Any = None, in_place: Sequence[str] = ()
) -> None:
    """Write what a runner must know as JSON into `metadata_props["speechstream"]`, in place.

    `about`: architecture, name of the graph, features, chunks, tokens ... as JSON types. `state`: that of one stream
    that has heard nothing (a dataclass, or arrays by dotted names), from which the table follows: name, shape past the
    batch axis (a dynamic axis has its length at the start, 0), dtype, and the initial value, one number where all
    elements are alike. Fields whose names begin with one of `in_place` are marked so: the graph reads all of such a
    field before it writes any of the new one, whose output may therefore be bound to the same memory.
    """
    table = []
    fields = state if isinstance(state, dict) else flatten(state) if state is not None else {}
    for name, a in fields.items():
        a = np.asarray(a.detach().cpu() if isinstance(a, Tensor) else a)[0]
        same = a.size == 0 or (a == a.flat[0]).all()
        table.append(
            {
                "name": name,
                "shape": list(a.shape),
                "dtype": str(a.dtype),
                "initial": (a.flat[0].item() if a.size else 0) if same else a.tolist(),
            }
            | ({"in_place": True} if name.startswith(tuple(in_place)) else {})
        )
    entries = [p for p in model.metadata_props if p.key != METADATA]
    del model.metadata_props[:]
    model.metadata_props.extend(entries)
    text = json.dumps(
        {"version": METADATA_VERSION, **about, "state": table}, ensure_ascii=False, allow_nan=False
    )
    model.metadata_props.add(key=METADATA, value=text)


def save_beside(model: onnx.ModelProto, folder: Path, name: str) -> list[str]:
    """Write NAME.onnx, its larger tensors beside it in NAME.bin, from where they are mapped into memory: the files' names."""
    weights = folder / f"{name}.bin"
    weights.unlink(missing_ok=True)  # onnx would append
    options: dict[str, Any] = {"save_as_external_data": True, "location": weights.name}
    onnx.save_model(copy.copy(model), folder / f"{name}.onnx", size_threshold=_INLINE, **options)
    return [f"{name}.onnx", *([weights.name] if weights.exists() else [])]


def save_graphs(b: Bundle, graphs: Mapping[str, onnx.ModelProto]) -> Bundle:
    """The bundle with these graphs in place of those it had, their weights beside them."""
    files = [n for n in b.files if not n.endswith((".onnx", ".bin"))]
    for name, graph in graphs.items():
        files += save_beside(graph, b.path, name)
    return bundle.write(b.path, b.task, b.architecture, b.config, b.card, files)


def _name_weights(model: onnx.ModelProto, owner: nn.Module) -> None:
    """Give weights the names of the parameters they are; NAME.T for one that the exporter has transposed."""
    known = {
        n: t.detach().cpu().numpy() for n, t in [*owner.named_parameters(), *owner.named_buffers()]
    }
    content = {}
    for name, a in known.items():
        if a.ndim == 2:
            content.setdefault((a.T.shape, a.T.tobytes()), name + ".T")
        content[a.shape, a.tobytes()] = name
    renames = {}
    for tensor in model.graph.initializer:
        name = tensor.name.removeprefix("owner.")
        if name not in known:
            a = numpy_helper.to_array(tensor)
            name = content.get((a.shape, a.tobytes()), tensor.name) if a.size > 64 else tensor.name
        if name in renames.values():  # stored twice: both stay
            name = tensor.name
        renames[tensor.name] = tensor.name = name
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renames.get(name, name)
