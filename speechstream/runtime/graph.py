"""One runner for every exported graph: what it takes, gives and remembers stands in the graph itself.

    encoder = Graph("model/encoder.onnx")
    state = encoder.init_state(batch=2)
    out, state = encoder.step({"features": x, "lengths": n}, state)      # out: {"encoded": ..., "ctc": ...}
    slots = encoder.slots()                                             # or states that stay in place:
    out = slots.step([slots.open()], {"features": x, "lengths": n})

The graphs come from `speechstream export`. A state is a frozen dataclass of arrays, streams first, so that
`speechstream.state` stacks, selects and stores it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.runtime.session import open_session
from speechstream.runtime.slots import Rows
from speechstream.state import flatten, unflatten

KEY, VERSION = "speechstream", 1  # in the graph's metadata, and the version read here
_FIELD = re.compile(r"[A-Za-z]\w*(\.\w+)*")
_TYPES = {"float32": "float", "float64": "double"}  # onnxruntime's names of numpy's types
_LARGEST = 1 << 30  # bytes of one stream's state
_DTYPES = ("float32", "float64", "float16", "int64", "int32", "bool")


@dataclass(frozen=True)
class StateField:
    """One line of a graph's table of states. shape: past the batch axis; initial: one number, or all of them."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    initial: Any
    in_place: bool = False

    def __post_init__(self) -> None:
        if (
            not _FIELD.fullmatch(self.name)
            or self.dtype not in _DTYPES
            or min(self.shape, default=0) < 0
        ):
            raise ValueError(f"no state can be {self.name!r} {self.dtype}{list(self.shape)}")

    @property
    def nbytes(self) -> int:
        return int(math.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def start(self) -> np.ndarray:
        """One stream's first value, (1, ...)."""
        first = np.broadcast_to(np.asarray(self.initial, self.dtype), self.shape)
        return np.array(first[None])


class Graph:
    """An ONNX file with the metadata of `speechstream.export.onnx.describe`, run by onnxruntime.

    `about` is that metadata. Raises SpeechStreamError for a file that is damaged or was exported by something else.
    """

    def __init__(self, path: str | Path, threads: int = 1, device: str = "cpu"):
        self.path = Path(path)
        if not self.path.is_file():
            raise SpeechStreamError(f"{path}: no such file")
        self.session = open_session(path, threads, device)
        try:
            self.about = self._about()
            fields = self._fields()
            takes = {i.name: i.shape for i in self.session.get_inputs()}
            kinds = {
                v.name: v.type for v in [*self.session.get_inputs(), *self.session.get_outputs()]
            }
        except UnicodeDecodeError as error:
            raise SpeechStreamError(f"{path} is damaged: its names are no text") from error
        self.inputs = [i.name for i in self.session.get_inputs() if not i.name.startswith("state.")]
        self.outputs = [o.name for o in self.session.get_outputs() if not o.name.startswith("new.")]
        self.in_place = [f.name for f in fields if f.in_place] if device == "cpu" else []
        start = {f.name: f for f in fields}
        for name, f in start.items():
            axes = takes.get(f"state.{name}")
            kind = f"tensor({_TYPES.get(f.dtype, f.dtype)})"
            alike = kinds.get(f"state.{name}") == kinds.get(f"new.{name}") == kind
            if (
                axes is None
                or not alike
                or len(axes) != 1 + len(f.shape)
                or any(isinstance(n, int) and n != m for n, m in zip(axes[1:], f.shape))
            ):
                raise SpeechStreamError(
                    f"{path} is damaged: its table of states does not fit its inputs and outputs, "
                    f"at {reprlib.repr(name)}"
                )
        try:
            self._like = _structure({n: f.start() for n, f in start.items()}) if start else None
        except (ValueError, TypeError, OverflowError) as error:  # of values that are no such array
            raise SpeechStreamError(
                f"{path} is damaged: its table of states does not say how they begin"
            ) from error

    def _about(self) -> dict[str, Any]:
        found = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if found is None:
            raise SpeechStreamError(
                f"{self.path} says nothing of how it is to be run; expected a graph that "
                "'speechstream export' made"
            )
        try:
            about: dict[str, Any] = json.loads(found)
            if not isinstance(about, dict) or not isinstance(about.get("state"), list):
                raise ValueError("no table of states")
            if about.get("version") != VERSION:
                raise SpeechStreamError(
                    f"{self.path} is of version {about.get('version')!r}, and this speechstream reads "
                    f"version {VERSION}; export it again"
                )
        except (ValueError, RecursionError) as error:  # RecursionError: nested without end
            raise SpeechStreamError(
                f"{self.path} is damaged: its metadata is not that of an exported graph"
            ) from error
        return about

    def _fields(self) -> list[StateField]:
        try:
            fields = [read(StateField, f, f"state[{i}]") for i, f in enumerate(self.about["state"])]
            if sum(f.nbytes for f in fields) > _LARGEST:
                raise ValueError("too large")
        except ValueError as error:
            raise SpeechStreamError(
                f"{self.path} is damaged: its metadata is not that of an exported graph"
            ) from error
        return fields

    def init_state(self, batch: int = 1) -> Any:
        """The state of `batch` streams that have heard nothing; None for a graph without state."""
        if self._like is None:
            return None
        return unflatten(
            self._like, {n: np.repeat(a, batch, 0) for n, a in flatten(self._like).items()}
        )

    def step(
        self, inputs: Mapping[str, np.ndarray], state: Any = None
    ) -> tuple[dict[str, np.ndarray], Any]:
        """Run the graph: its outputs by name, and the new state. Raises ValueError for inputs that do not fit."""
        self.check(inputs)
        fields = flatten(state) if state is not None else {}
        try:
            out = self.session.run(
                self.outputs + [f"new.{n}" for n in fields],
                {**inputs, **{f"state.{n}": a for n, a in fields.items()}},
            )
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise self.unfit(error) from error
        n = len(self.outputs)
        new = unflatten(state, dict(zip(fields, out[n:]))) if fields else None
        return dict(zip(self.outputs, out[:n])), new

    def slots(self) -> GraphSlots:
        """States of many streams that stay in place: see `speechstream.runtime.slots`."""
        return GraphSlots(self)

    def check(self, inputs: Mapping[str, np.ndarray]) -> None:
        if sorted(inputs) != sorted(self.inputs):
            raise ValueError(f"this graph takes {', '.join(self.inputs)}; got {', '.join(inputs)}")

    def unfit(self, error: Exception) -> ValueError:
        return ValueError(
            f"{self.path.name} cannot be run on these inputs: {str(error).splitlines()[0][:300]}"
        )


class GraphSlots:
    """`Slots` of a graph. Where it reads all of a field before it writes any of it ("in_place" in its metadata), the
    new state is written where the old one lay; otherwise it is copied there.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._rows = Rows(graph.init_state())
        self._next = 0
        self._bound: dict[tuple[Any, ...], _Bound] = {}  # by rows and shapes of inputs
        self._generation = 0

    def __len__(self) -> int:
        return len(self._rows)

    def open(self) -> int:
        slot, self._next = self._next, self._next + 1
        self._rows.open(slot)
        return slot

    def close(self, slot: int) -> None:
        self._rows.close(slot)

    def read(self, slot: int) -> Any:
        return self._rows.read(slot)

    def write(self, slot: int, state: Any) -> None:
        self._rows.write(slot, state)

    def step(self, slots: Sequence[int], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph for these streams. Raises ValueError for inputs that do not fit."""
        self.graph.check(inputs)
        order, rows = self._rows.gather(slots)
        if order != sorted(order):
            inputs = {n: a[order] for n, a in inputs.items()}
        out = self._run(inputs, rows)
        if order != sorted(order):
            back = np.argsort(order)
            out = {n: a[back] for n, a in out.items()}
        return out

    def _run(self, inputs: Mapping[str, np.ndarray], rows: slice) -> dict[str, np.ndarray]:
        state = self._rows.view(rows)
        if not self.graph.in_place:
            out, new = self.graph.step(inputs, state)
            for a, b in zip(flatten(state).values(), flatten(new).values()):
                a[:] = b
            return out
        if self._generation != self._rows.generation:  # the arrays are others now
            self._bound, self._generation = {}, self._rows.generation
        key = rows.start, rows.stop, *(a.shape for a in inputs.values())
        try:
            if key not in self._bound:
                self._bound[key] = _Bound(self.graph, inputs, flatten(state))
            return self._bound[key].run(inputs)
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise self.graph.unfit(error) from error


class _Bound:
    """Rows of states and what onnxruntime has been told of them: where each field lies, and that its successor goes there."""

    def __init__(
        self, graph: Graph, inputs: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]
    ):
        self.graph, self.state = graph, state
        self.inputs = {n: np.array(a, order="C") for n, a in inputs.items()}
        self.apart = {n: np.empty_like(a) for n, a in state.items() if n not in graph.in_place}
        self.binding = graph.session.io_binding()
        named = {**self.inputs, **{f"state.{n}": a for n, a in state.items()}}
        for n, a in named.items():
            self.binding.bind_input(n, "cpu", 0, a.dtype, a.shape, a.ctypes.data)
        for n in graph.outputs:
            self.binding.bind_output(n)
        for n, a in state.items():
            target = self.apart.get(n, a)
            self.binding.bind_output(
                f"new.{n}", "cpu", 0, target.dtype, target.shape, target.ctypes.data
            )

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for n, a in inputs.items():
            np.copyto(self.inputs[n], a)
        self.graph.session.run_with_iobinding(self.binding)
        for n, a in self.apart.items():
            self.state[n][:] = a
        values = self.binding.get_outputs()
        return {n: v.numpy().copy() for n, v in zip(self.graph.outputs, values)}


def _structure(arrays: dict[str, np.ndarray]) -> Any:
    """Arrays under dotted names as dataclasses in dataclasses."""
    groups: dict[str, Any] = {}
    for name, a in arrays.items():
        head, _, tail = name.partition(".")
        if tail:
            groups.setdefault(head, {})[tail] = a
        else:
            groups[head] = a
    values = {n: _structure(v) if isinstance(v, dict) else v for n, v in groups.items()}
    return dataclasses.make_dataclass("State", list(values), frozen=True)(**values)
