"""A FastConformer's networks as functions of numpy arrays: `encoder.onnx`, and `predictor.onnx`, `joiner.onnx`.

Shapes: features (B, subsampling * chunk, mels); encoded (B, chunk, dim); ctc (B, chunk, vocab + 1) log probabilities.
`engines.fastconformer_torch` has the same in torch.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol, Sequence

import numpy as np

from speechstream.bundle import Bundle
from speechstream.runtime.graph import Graph
from speechstream.errors import SpeechStreamError
from speechstream.state import flatten, select, stack, unflatten


class Networks(Protocol):
    name: str

    def encoder_state(self, batch: int = 1) -> Any: ...

    def encode(
        self, x: np.ndarray, lengths: np.ndarray, states: Sequence[Any]
    ) -> tuple[dict[str, np.ndarray], list]:
        """One block of each of B streams, of which lengths (B,) frames count: "encoded", "ctc" where there is such a
        head, and the new states. The states given must not be used again."""

    def encode_whole(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Whole utterances x (B, frames, mels) through an encoder that cannot be streamed."""

    def predictor_state(self, batch: int = 1) -> Any: ...

    def predict(self, tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]: ...

    def join(self, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray: ...


class OnnxNetworks:
    """The graphs of a bundle. Raises SpeechStreamError where it has none: an offline-only model runs in torch."""

    name = "onnx"

    def __init__(self, b: Bundle, threads: int = 1, device: str = "cpu"):
        if "encoder.onnx" not in b.files:
            raise SpeechStreamError(
                f"the bundle {b.path} has no ONNX graphs; run it with the engine 'torch'"
            )
        graphs = {
            n: Graph(b.file(f"{n}.onnx"), threads, device)
            for n in ("encoder", "predictor", "joiner")
            if f"{n}.onnx" in b.files
        }
        for name, graph in graphs.items():
            if (
                graph.about.get("architecture") != "fastconformer"
                or graph.about.get("graph") != name
            ):
                raise SpeechStreamError(f"{graph.path} is no FastConformer's {name}")
        self.encoder = graphs["encoder"]
        self.seats = Seats(self.encoder)
        self.predictor, self.joiner = graphs.get("predictor"), graphs.get("joiner")
        self.encoder_state = self.encoder.init_state

    def encode(self, x, lengths, states):
        inputs = {"features": x, "lengths": lengths}
        if len(states) == 1:
            out, state = self.encoder.advance(inputs, states[0])
            return out, [state]
        return self.seats.advance(inputs, states, x.shape[1] // self.encoder.about["subsampling"])

    def encode_whole(self, x):
        raise ValueError("an exported encoder takes a block at a time")

    def predictor_state(self, batch: int = 1) -> Any:
        return self.predictor.init_state(batch)

    def predict(self, tokens, state):
        out, state = self.predictor.step({"tokens": tokens}, state)
        return out["predicted"], state

    def join(self, encoded, predicted):
        return self.joiner.step({"encoded": encoded, "predicted": predicted})[0]["scores"]


class Seats(threading.local):
    """Where streams that are encoded together have their states side by side, as a batch wants them: of each thread.

    A stream keeps a state of its own and is copied to a seat when it comes; while the same streams come again, only
    what a chunk has changed is copied, back to each stream.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.rings = [n for n in graph.in_place if n.startswith(("keys.", "values."))]
        self.fields: dict[str, np.ndarray] = {}
        self.state: Any = None  # of the first seats, as many as the last batch had
        self.seated: list[
            tuple
        ] = []  # of each seat: a stream's first ring (a weak reference), and its frames so far

    def advance(
        self, inputs: dict[str, np.ndarray], states: Sequence[Any], chunk: int
    ) -> tuple[dict, list]:
        """`Graph.advance` for several streams of one batch, each with a state of its own. chunk: frames of a block."""
        if not self.rings:
            out, state = self.graph.step(inputs, stack(states))
            return out, [select(state, i) for i in range(len(states))]
        own = [flatten(s) for s in states]
        order, begun = self._seat(own), [int(f["frames"][0]) for f in own]
        if self.state is None or len(self.state.frames) != len(states):
            self.state = unflatten(states[0], {n: a[: len(states)] for n, a in self.fields.items()})
        seats = flatten(self.state)
        out, _ = self.graph.advance({n: a[order] for n, a in inputs.items()}, self.state)
        for seat, i in enumerate(order):
            for n, a in own[i].items():
                if n in self.rings:
                    rows = np.arange(begun[i], begun[i] + chunk) % a.shape[2]
                    a[0][:, rows] = seats[n][seat][:, rows]
                else:
                    a[0] = seats[n][seat]
            self.seated[seat] = weakref.ref(own[i][self.rings[0]]), begun[i] + chunk
        back = np.argsort(order)
        return {n: a[back] for n, a in out.items()}, list(states)

    def _seat(self, own: list[dict[str, np.ndarray]]) -> list[int]:
        """Put every stream on one of the first seats: which stream has each of them."""
        count, first = len(own), self.rings[0]
        if count > len(self.seated):  # room to grow: what is not used costs nothing
            self.fields = {
                n: np.zeros((2 * count, *a.shape[1:]), a.dtype) for n, a in own[0].items()
            }
            self.seated, self.state = [(lambda: None, 0)] * (2 * count), None
        waiting = {(id(f[first]), int(f["frames"][0])): i for i, f in enumerate(own)}
        order: list[Any] = [None] * count
        for seat, (stream, frames) in enumerate(self.seated[:count]):
            if stream() is not None:
                order[seat] = waiting.pop((id(stream()), frames), None)
        for seat in range(count):
            if order[seat] is None:
                _, order[seat] = waiting.popitem()
                for n, a in self.fields.items():
                    a[seat] = own[order[seat]][n][0]
        return order
