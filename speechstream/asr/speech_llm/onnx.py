"""A speech LLM's networks as onnxruntime's graphs behind the functions of `asr.speech_llm.networks`."""

from __future__ import annotations

import numpy as np

from speechstream.asr.speech_llm.networks import example, looking
from speechstream.bundle import Bundle
from speechstream.errors import SpeechStreamError
from speechstream.nn.speech_llm_config import SpeechLlmConfig
from speechstream.nn.speech_llm_state import HearingArrays
from speechstream.runtime.graph import Graph
from speechstream.state import flatten

ARCHITECTURE = "speech-llm"
GRAPHS = ("hearing", "reader", "joint")
HEARD = ("audio", "sound", "quiet", "look_keys", "look_values", "best")


class OnnxNetworks:
    """The graphs of a bundle. Raises SpeechStreamError where it has none, or where they do not fit it."""

    name = "onnx"

    def __init__(self, b: Bundle, config: SpeechLlmConfig, threads: int = 1, device: str = "cpu"):
        if any(f"{name}.onnx" not in b.files for name in GRAPHS):
            raise SpeechStreamError(
                f"the bundle {b.path} has no ONNX graphs; run it with the engine 'torch'"
            )
        self.config = config
        self.hearing, self.reader, self.joint = (
            Graph(b.file(f"{name}.onnx"), threads, device) for name in GRAPHS
        )
        for name, graph in zip(GRAPHS, (self.hearing, self.reader, self.joint)):
            if graph.about.get("architecture") != ARCHITECTURE or graph.about.get("graph") != name:
                raise SpeechStreamError(f"{graph.path} is not the {name} of a speech LLM")
        self._try(b)

    def _try(self, b: Bundle) -> None:
        """Hear and read something. Raises SpeechStreamError where the graphs are not those of this configuration."""
        c = self.config
        t = c.text
        try:
            mel = np.zeros((1, c.sound.n_mels, 2 * c.stack + 1), np.float32)
            (audio, sound, quiet, k, v, best), state = self.hear(mel, self.start())
            odds, scores = self.look(looking(c))
            said, prior, keys, values = self.read(example(c))
        except (ValueError, IndexError, TypeError, KeyError, MemoryError) as error:
            what = (str(error) or type(error).__name__).splitlines()[0][:300]
            raise SpeechStreamError(
                f"the graphs of the bundle {b.path} do not fit together: {what}"
            ) from error
        own = (2, t.layers, t.kv_heads, 4, t.head_dim)
        s = c.sound
        seen = (1, c.look_blocks, s.heads, c.look, s.dim // s.heads)
        expected = [
            (audio.shape, (1, 1, s.dim)),
            (sound.shape, (1, 1, t.dim)),
            (quiet.shape, (1, 1)),
            (state.keys.shape, (1, s.layers, s.heads, s.left_context, s.dim // s.heads)),
            (state.trunk.shape, (1, c.trunk_blocks, c.kernel - 1, c.trunk_dim)),
            (k.shape, seen),
            (v.shape, seen),
            (state.look_keys.shape, (*seen[:3], c.look - c.stack, seen[4])),
            (odds.shape, (2, 3)),
            (scores.shape, (2, 3, t.vocab_size)),
            (best.shape, (1, c.stack // 2 if c.ctc_vocab_size else 0, 2)),
            (said.shape, (2, 4, s.dim)),
            (prior.shape, (2, 4, t.vocab_size)),
            (keys.shape, own),
            (values.shape, own),
        ]
        for found, wanted in expected:
            if found != wanted:
                raise SpeechStreamError(
                    f"the graphs of the bundle {b.path} do not fit together: {found} where {wanted} is expected"
                )

    def start(self) -> HearingArrays:
        try:
            return HearingArrays(**flatten(self.hearing.init_state()))
        except TypeError as error:
            raise SpeechStreamError(
                f"{self.hearing.path} has the state of another model"
            ) from error

    def hear(self, mel: np.ndarray, state: HearingArrays) -> tuple[list[np.ndarray], HearingArrays]:
        out, new = self.hearing.step({"mel": np.ascontiguousarray(mel)}, state)
        return [out[n] for n in HEARD], new

    def look(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        out, _ = self.joint.step({n: np.ascontiguousarray(a) for n, a in inputs.items()})
        return out["odds"], out["scores"]

    def read(
        self, inputs: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        out, _ = self.reader.step({n: np.ascontiguousarray(a) for n, a in inputs.items()})
        return out["said"], out["prior"], out["new_keys"], out["new_values"]
