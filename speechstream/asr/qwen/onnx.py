"""A Qwen3-ASR's networks as onnxruntime's graphs behind the functions of `asr.qwen.family.Networks`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechstream.asr.redecode.onnx import OnnxReading, fitting, open_graph
from speechstream.bundle import Bundle
from speechstream.nn.growing import TextArrays
from speechstream.nn.qwen_asr_config import TOKENS, QwenAsrBundle, QwenAsrConfig, halved

ARCHITECTURE = "qwen3-asr"


class OnnxNetworks(OnnxReading):
    """The graphs of a bundle. Raises SpeechStreamError where it has none, or where they do not fit it."""

    def __init__(self, b: Bundle, config: QwenAsrConfig, threads: int = 1, device: str = "cpu"):
        self.convolution, self.encoder, text = (
            open_graph(b, name, ARCHITECTURE, threads, device)
            for name in ("convolution", "encoder", "text")
        )
        super().__init__(text, config.text)
        self.network = config
        with fitting(b) as expect:
            e, t = config.encoder, config.text
            frames = self.convolve(np.zeros((1, e.n_mels, e.chunk), np.float32))
            expect(frames.shape, (1, TOKENS, e.dim))
            state = self.listen(frames, [self.start()])[0]
            logits, _ = self.follow(np.zeros((1, 2), np.int64), 2, [state])
            expect(logits.shape, (1, 2, t.vocab_size))
            expect(state.keys.shape, (1, t.layers, t.kv_heads, TOKENS, t.head_dim))

    def convolve(self, mel: np.ndarray) -> np.ndarray:
        count, chunk = mel.shape[2], self.network.encoder.chunk
        filled = np.pad(mel, ((0, 0), (0, 0), (0, chunk - count)))
        out, _ = self.convolution.step({"mel": filled})
        frames: np.ndarray = out["frames"][:, : halved(count)]
        return frames

    def listen(self, frames: np.ndarray, states: Sequence[TextArrays]) -> list[TextArrays]:
        out, _ = self.encoder.step({"frames": np.ascontiguousarray(frames)})
        return self.hear(out["sound"], states)


def read_networks(b: Bundle, about: QwenAsrBundle, device: str, threads: int) -> OnnxNetworks:
    """The networks of a bundle. Raises SpeechStreamError where it has no graphs, or where they do not fit it."""
    return OnnxNetworks(b, about.network, threads, device)
