"""A FastConformer's networks as functions of numpy arrays: `encoder.onnx`, and `predictor.onnx`, `joiner.onnx`.

Shapes: features (B, subsampling * chunk, mels); encoded (B, chunk, dim); ctc (B, chunk, vocab + 1) log probabilities.
`asr.fastconformer.torch` has the same in torch.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.configs import FastConformerConfig
from speechstream.runtime.graph import Graph
from speechstream.runtime.slots import Slots


class Networks(Protocol):
    name: str

    def encoder_state(self, batch: int = 1) -> Any: ...

    def encode(
        self, x: np.ndarray, lengths: np.ndarray, state: Any
    ) -> tuple[dict[str, np.ndarray], Any]:
        """One block of each of B streams, of which lengths (B,) frames count: "encoded", "ctc" where there is such a
        head, and the new state. The state given is not changed."""

    def slots(self) -> Slots:
        """Encoder states that stay in place, stepped with "features" and "lengths"."""

    def encode_whole(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Whole utterances x (B, frames, mels) through an encoder that cannot be streamed."""

    def predictor_state(self, batch: int = 1) -> Any: ...

    def predict(self, tokens: np.ndarray, state: Any) -> tuple[np.ndarray, Any]: ...

    def join(self, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray: ...


class OnnxNetworks:
    """The graphs of a bundle. Raises SpeechStreamError where it has none: an offline-only model runs in torch."""

    name = "onnx"

    def __init__(
        self, b: Bundle, config: FastConformerConfig, threads: int = 1, device: str = "cpu"
    ):
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
        needed = {"encoder": ["encoded", *(["ctc"] if config.ctc else [])]}
        if config.joiner:
            needed |= {"predictor": ["predicted"], "joiner": ["scores"]}
        for name, outputs in needed.items():
            if name not in graphs or not set(outputs) <= set(graphs[name].outputs):
                raise SpeechStreamError(
                    f"the graphs of the bundle {b.path} do not fit together: its {name} is missing, or "
                    f"does not give {' and '.join(outputs)}"
                )
        self.encoder = graphs["encoder"]
        self.predictor, self.joiner = graphs.get("predictor"), graphs.get("joiner")
        self.encoder_state = self.encoder.init_state

    def encode(self, x, lengths, state):
        return self.encoder.step({"features": x, "lengths": lengths}, state)

    def slots(self) -> Slots:
        return self.encoder.slots()

    def encode_whole(self, x):
        raise ValueError("an exported encoder takes a block at a time")

    def predictor_state(self, batch: int = 1) -> Any:
        return self.predictor.init_state(batch)

    def predict(self, tokens, state):
        out, state = self.predictor.step({"tokens": tokens}, state)
        return out["predicted"], state

    def join(self, encoded, predicted):
        return self.joiner.step({"encoded": encoded, "predicted": predicted})[0]["scores"]
