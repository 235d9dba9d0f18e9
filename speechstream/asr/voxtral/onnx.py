"""A Voxtral Realtime's networks as onnxruntime's graphs behind the functions of `asr.voxtral.networks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import TextArrays, shortened
from speechstream.nn.voxtral_config import VoxtralConfig
from speechstream.nn.voxtral_state import EncoderArrays
from speechstream.runtime.graph import Graph
from speechstream.state import flatten


class OnnxNetworks:
    """The graphs of a bundle. Raises SpeechStreamError where it has none, or where they do not fit it."""

    name = "onnx"

    def __init__(self, b: Bundle, config: VoxtralConfig, threads: int = 1, device: str = "cpu"):
        if "encoder.onnx" not in b.files or "text.onnx" not in b.files:
            raise SpeechStreamError(
                f"the bundle {b.path} has no ONNX graphs; run it with the engine 'torch'"
            )
        self.config = config
        self.encoder = Graph(b.file("encoder.onnx"), threads, device)
        self.text = Graph(b.file("text.onnx"), threads, device)
        for name, graph in (("encoder", self.encoder), ("text", self.text)):
            about = graph.about
            if about.get("architecture") != "voxtral-realtime" or about.get("graph") != name:
                raise SpeechStreamError(f"{graph.path} is not the {name} of a Voxtral Realtime")
        self._try(b)

    def _try(self, b: Bundle) -> None:
        """Hear and read one token. Raises SpeechStreamError where the graphs are not those of this configuration."""
        c, (heard, said) = self.config, self.start()
        try:
            mel = np.zeros((1, c.encoder.n_mels, c.mels_per_token), np.float32)
            audio, heard = self.hear(mel, heard)
            logits, said = self.read(np.zeros((1, 1), np.int64), audio, [1], said)
        except (ValueError, IndexError, TypeError, KeyError, MemoryError) as error:
            what = (str(error) or type(error).__name__).splitlines()[0][:300]
            raise SpeechStreamError(
                f"the graphs of the bundle {b.path} do not fit together: {what}"
            ) from error
        rows = min(c.stacked, c.encoder.window - 1)
        expected = [
            (audio.shape, (1, 1, c.text.dim)),
            (logits.shape, (1, c.text.vocab_size)),
            (heard.keys.shape, (1, c.encoder.layers, c.encoder.heads, rows, c.encoder.head_dim)),
            (said.keys.shape[1:3], (c.text.layers, c.text.kv_heads)),
        ]
        for found, wanted in expected:
            if found != wanted:
                raise SpeechStreamError(
                    f"the graphs of the bundle {b.path} do not fit together: {found} where {wanted} is expected"
                )

    def start(self) -> tuple[Any, Any]:
        heard, said = flatten(self.encoder.init_state()), flatten(self.text.init_state())
        try:
            return EncoderArrays(**heard), TextArrays(**said)
        except TypeError as error:
            raise SpeechStreamError(
                f"{self.encoder.path} and {self.text.path} have states of another model"
            ) from error

    def hear(self, mel: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        batch, mels, frames = mel.shape
        per_token = self.config.mels_per_token
        tokens = mel.transpose(0, 2, 1).reshape(batch, frames // per_token, per_token, mels)
        out, new = self.encoder.step({"mel": np.ascontiguousarray(tokens)}, state)
        return out["audio"], shortened(new, self.config.encoder.window)

    def read(
        self, tokens: np.ndarray, audio: np.ndarray, delays: Sequence[int], state: Any
    ) -> tuple[np.ndarray, Any]:
        inputs = {"tokens": tokens, "audio": audio, "delays": np.array(delays, np.int64)}
        out, new = self.text.step(inputs, state)
        return out["logits"], shortened(new, self.config.text.window)

    def value(self, state: Any) -> dict[str, np.ndarray]:
        return {n: a.copy() for n, a in flatten(state).items()}

    def native(self, state: Any) -> Any:
        return state
