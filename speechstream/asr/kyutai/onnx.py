"""A Kyutai speech-to-text's networks as onnxruntime's graphs behind the functions of `asr.kyutai.networks`."""

from __future__ import annotations

from typing import Any

import numpy as np

from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.growing import TextArrays, shortened
from speechstream.nn.kyutai_config import KyutaiConfig
from speechstream.nn.kyutai_state import KyutaiCache, codec_arrays
from speechstream.runtime.graph import Graph
from speechstream.state import flatten

GRAPHS = ("encoder", "text")


class OnnxNetworks:
    """The graphs of a bundle. Raises SpeechStreamError where it has none, or where they do not fit it."""

    name = "onnx"

    def __init__(self, b: Bundle, config: KyutaiConfig, threads: int = 1, device: str = "cpu"):
        if any(f"{name}.onnx" not in b.files for name in GRAPHS):
            raise SpeechStreamError(
                f"the bundle {b.path} has no ONNX graphs; run it with the engine 'torch'"
            )
        self.config = config
        self.encoder, self.text = (
            Graph(b.file(f"{name}.onnx"), threads, device) for name in GRAPHS
        )
        for name, graph, kind in (
            ("encoder", self.encoder, "codec"),
            ("text", self.text, "kyutai-stt"),
        ):
            if graph.about.get("architecture") != kind or graph.about.get("graph") != name:
                raise SpeechStreamError(
                    f"{graph.path} is not the {name} of a Kyutai speech-to-text"
                )
        self._try(b)

    def _try(self, b: Bundle) -> None:
        """Hear and read one frame. Raises SpeechStreamError where the graphs are not those of this configuration."""
        c, (heard, said) = self.config, self.start()
        t = c.text
        try:
            codes, heard = self.hear(np.zeros((1, 1, c.codec.frame_size), np.float32), heard)
            logits, pauses, said = self.read(np.zeros((1, 1), np.int64), codes, said)
        except (ValueError, IndexError, TypeError, KeyError, MemoryError) as error:
            what = (str(error) or type(error).__name__).splitlines()[0][:300]
            raise SpeechStreamError(
                f"the graphs of the bundle {b.path} do not fit together: {what}"
            ) from error
        of, dim = c.codec.transformer, c.codec.seanet.dim
        expected = [
            (codes.shape, (1, 1, c.levels)),
            (logits.shape, (1, c.out_size)),
            (pauses.shape, (1, c.pause_heads)),
            (heard.downsample.shape, (1, c.codec.stride, dim)),
            (
                heard.transformer.keys.shape,
                (1, of.layers, of.heads, of.left_context - 1, of.dim // of.heads),
            ),
            (said.keys.shape, (1, t.layers, t.kv_heads, 0 if t.window == 1 else 1, t.head_dim)),
        ]
        for found, wanted in expected:
            if found != wanted:
                raise SpeechStreamError(
                    f"the graphs of the bundle {b.path} do not fit together: {found} where {wanted} is expected"
                )

    def start(self) -> tuple[Any, Any]:
        heard, said = flatten(self.encoder.init_state()), flatten(self.text.init_state())
        try:
            return codec_arrays(heard), TextArrays(**said)
        except (TypeError, KeyError) as error:
            raise SpeechStreamError(
                f"{self.encoder.path} and {self.text.path} have states of another model"
            ) from error

    def hear(self, audio: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        out, new = self.encoder.step({"audio": np.ascontiguousarray(audio[:, None])}, state)
        return out["codes"].transpose(0, 2, 1), new

    def read(
        self, tokens: np.ndarray, codes: np.ndarray, state: Any
    ) -> tuple[np.ndarray, np.ndarray, Any]:
        inputs = {"tokens": tokens, "codes": np.ascontiguousarray(codes)}
        out, new = self.text.step(inputs, state)
        pauses = out.get("pauses", np.zeros((len(tokens), 0), np.float32))
        return out["logits"], pauses, shortened(new, self.config.text.window)

    def value(self, codec: Any, text: Any) -> KyutaiCache:
        return KyutaiCache(codec, text)  # a step never writes into what it is given

    def native(self, cache: KyutaiCache) -> tuple[Any, Any]:
        return cache.codec, cache.text
