"""Graphs of voices on the runner of all graphs."""

from __future__ import annotations

from typing import Any

from speechstream.errors import SpeechStreamError
from speechstream.runtime.graph import KEY, VERSION, Graph

_DTYPES = {"float": "float32", "double": "float64"}  # onnxruntime's names


class VoiceGraph(Graph):
    """A graph of a voice. One without the table of `speechstream.export.onnx.describe` is described by its inputs:
    `state.NAME` is remembered, begins as zeros, and has fixed sizes past its streams."""

    def _about(self) -> dict[str, Any]:
        if KEY in self.session.get_modelmeta().custom_metadata_map:
            return super()._about()
        table = []
        for i in self.session.get_inputs():
            if not i.name.startswith("state."):
                continue
            if not all(type(n) is int for n in i.shape[1:]):
                raise SpeechStreamError(f"{self.path} is damaged: its {i.name} is {i.shape}")
            kind = i.type.removeprefix("tensor(").removesuffix(")")
            table.append(
                {
                    "name": i.name.removeprefix("state."),
                    "shape": i.shape[1:],
                    "dtype": _DTYPES.get(kind, kind),
                    "initial": 0,
                }
            )
        return {"version": VERSION, "state": table}
