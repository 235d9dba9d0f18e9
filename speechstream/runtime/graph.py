"""One runner for every exported graph: what it takes, gives and remembers stands in the graph itself.

    encoder = Graph("model/encoder.onnx")
    state = encoder.init_state(batch=2)
    out, state = encoder.step({"features": x, "lengths": n}, state)      # out: {"encoded": ..., "ctc": ...}
    out, state = encoder.advance({"features": x, "lengths": n}, state)   # the same, and the old state is used up

The graphs come from `speechstream export`. A state is a frozen dataclass of arrays, streams first, so that
`speechstream.state` stacks, selects and stores it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
import weakref
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from speechstream.asr.whisper.onnx import session
from speechstream.errors import SpeechStreamError
from speechstream.state import flatten, unflatten

KEY, VERSION = "speechstream", 1  # in the graph's metadata, and the version read here
_FIELD = re.compile(r"[A-Za-z]\w*(\.\w+)*")
_TYPES = {"float32": "float", "float64": "double"}  # onnxruntime's names of numpy's types
_LARGEST = 1 << 30  # bytes of one stream's state
_DTYPES = ("float32", "float64", "float16", "int64", "int32", "bool")


class Graph:
    """An ONNX file with the metadata of `speechstream.export.onnx.describe`, run by onnxruntime.

    `about` is that metadata. Raises SpeechStreamError for a file that is damaged or was exported by something else.
    """

    def __init__(self, path: str | Path, threads: int = 1, device: str = "cpu"):
        self.path = Path(path)
        if not self.path.is_file():
            raise SpeechStreamError(f"{path}: no such file")
        self.session = session(path, threads, device)
        try:
            self.about = self._about()
            takes = {i.name: i.shape for i in self.session.get_inputs()}
            kinds = {
                v.name: v.type for v in [*self.session.get_inputs(), *self.session.get_outputs()]
            }
        except UnicodeDecodeError as error:
            raise SpeechStreamError(f"{path} is damaged: its names are no text") from error
        self.inputs = [i.name for i in self.session.get_inputs() if not i.name.startswith("state.")]
        self.outputs = [o.name for o in self.session.get_outputs() if not o.name.startswith("new.")]
        self.in_place = (
            [f["name"] for f in self.about["state"] if f.get("in_place")] if device == "cpu" else []
        )
        self._bound: dict[int, _Bound] = {}  # by the id of a state's first array
        self._start = {f["name"]: f for f in self.about["state"]}
        for name, f in self._start.items():
            axes = takes.get(f"state.{name}")
            kind = f"tensor({_TYPES.get(f['dtype'], f['dtype'])})"
            alike = kinds.get(f"state.{name}") == kinds.get(f"new.{name}") == kind
            if (
                axes is None
                or not alike
                or len(axes) != 1 + len(f["shape"])
                or any(isinstance(n, int) and n != m for n, m in zip(axes[1:], f["shape"]))
            ):
                raise SpeechStreamError(
                    f"{path} is damaged: its table of states does not fit its inputs and outputs, "
                    f"at {reprlib.repr(name)}"
                )
        try:
            self._like = (
                _structure({n: _initial(f) for n, f in self._start.items()})
                if self._start
                else None
            )
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
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
            about = json.loads(found)
            if about["version"] != VERSION:
                raise SpeechStreamError(
                    f"{self.path} is of version {about['version']!r}, and this speechstream reads "
                    f"version {VERSION}; export it again"
                )
            for f in about["state"]:
                if (
                    not _FIELD.fullmatch(f["name"])
                    or f["dtype"] not in _DTYPES
                    or not all(type(n) is int and n >= 0 for n in f["shape"])
                ):
                    raise ValueError(f["name"])
            if (
                sum(math.prod(f["shape"]) * np.dtype(f["dtype"]).itemsize for f in about["state"])
                > _LARGEST
            ):
                raise ValueError("too large")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise SpeechStreamError(
                f"{self.path} is damaged: its metadata is not that of an exported graph"
            ) from error
        return about

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
        self._check(inputs)
        fields = flatten(state) if state is not None else {}
        try:
            out = self.session.run(
                self.outputs + [f"new.{n}" for n in fields],
                {**inputs, **{f"state.{n}": a for n, a in fields.items()}},
            )
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise self._unfit(error) from error
        n = len(self.outputs)
        new = unflatten(state, dict(zip(fields, out[n:]))) if fields else None
        return dict(zip(self.outputs, out[:n])), new

    def advance(
        self, inputs: Mapping[str, np.ndarray], state: Any
    ) -> tuple[dict[str, np.ndarray], Any]:
        """The same numbers as `step`, but the new state lies where `state` did, which must not be used again.

        This saves the copy of all keys and values, and telling onnxruntime of every array anew. It is for graphs that
        read all of a field before they write any of it, marked "in_place" in their metadata; others are stepped.
        Raises ValueError for inputs that do not fit.
        """
        if not self.in_place:
            return self.step(inputs, state)
        self._check(inputs)
        fields = flatten(state)
        shapes = [a.shape for a in inputs.values()]
        bound = self._bound.get(id(fields[self.in_place[0]]))
        if (
            bound is None
            or bound.shapes != shapes
            or any(bound.state.get(n) is not a for n, a in fields.items())
        ):
            try:
                bound = _Bound(self, inputs, fields)
            except Exception as error:  # onnxruntime's own exceptions have no common base
                raise self._unfit(error) from error
            first = bound.state[self.in_place[0]]
            if id(first) not in self._bound:
                weakref.finalize(first, self._bound.pop, id(first), None).atexit = False
            self._bound[id(first)] = bound
            state = unflatten(state, bound.state)
            bound.state = weakref.WeakValueDictionary(bound.state)
        try:
            return bound.run(inputs), state
        except Exception as error:
            raise self._unfit(error) from error

    def _check(self, inputs: Mapping[str, np.ndarray]) -> None:
        if sorted(inputs) != sorted(self.inputs):
            raise ValueError(f"this graph takes {', '.join(self.inputs)}; got {', '.join(inputs)}")

    def _unfit(self, error: Exception) -> ValueError:
        return ValueError(
            f"{self.path.name} cannot be run on these inputs: {str(error).splitlines()[0][:300]}"
        )


class _Bound:
    """A state and what onnxruntime has been told of it: where each field lies, and that its successor goes there too."""

    def __init__(
        self, graph: Graph, inputs: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]
    ):
        self.graph, self.shapes = graph, [a.shape for a in inputs.values()]
        own = {
            n: a if a.flags.c_contiguous and a.flags.writeable else np.array(a, order="C")
            for n, a in state.items()
        }
        self.inputs = {n: np.array(a, order="C") for n, a in inputs.items()}
        self.apart = {n: np.empty_like(a) for n, a in own.items() if n not in graph.in_place}
        self.binding = graph.session.io_binding()
        for n, a in [*self.inputs.items(), *((f"state.{n}", a) for n, a in own.items())]:
            self.binding.bind_input(n, "cpu", 0, a.dtype, a.shape, a.ctypes.data)
        for n in graph.outputs:
            self.binding.bind_output(n)
        for n, a in own.items():
            a = self.apart.get(n, a)
            self.binding.bind_output(f"new.{n}", "cpu", 0, a.dtype, a.shape, a.ctypes.data)
        self.state: Mapping[str, np.ndarray] = own

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        for n, a in inputs.items():
            np.copyto(self.inputs[n], a)
        self.graph.session.run_with_iobinding(self.binding)
        for n, a in self.apart.items():
            self.state[n][:] = a
        values = self.binding.get_outputs()
        return {n: v.numpy().copy() for n, v in zip(self.graph.outputs, values)}


def _initial(field: dict[str, Any]) -> np.ndarray:
    """One stream's first value, (1, ...)."""
    value = np.asarray(field["initial"], field["dtype"])
    return np.broadcast_to(value, field["shape"])[None].copy()


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
