"""A streaming Moonshine's networks as onnxruntime's graphs behind the functions of `asr.moonshine.family.Networks`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from speechstream.asr.redecode.onnx import fitting, open_graph
from speechstream.bundle import Bundle
from speechstream.nn.growing import TextArrays, join, part, rewound
from speechstream.nn.moonshine_config import STACKED, MoonshineBundle, MoonshineConfig
from speechstream.nn.moonshine_state import EncoderState, ReaderState
from speechstream.state import flatten

ARCHITECTURE = "moonshine-streaming"


class OnnxNetworks:
    """The graphs of a bundle. Raises SpeechStreamError where it has none, or where they do not fit it."""

    name = "onnx"

    def __init__(self, b: Bundle, config: MoonshineConfig, threads: int = 1, device: str = "cpu"):
        self.encoder, self.decoder = (
            open_graph(b, name, ARCHITECTURE, threads, device) for name in ("encoder", "decoder")
        )
        self.config, self.tokens = config, config.decoder.vocab_size
        with fitting(b) as expect:
            e, d = config.encoder, config.decoder
            audio = np.zeros((1, STACKED, e.frame), np.float32)
            keys, values, state = self.hear(audio, np.ones(1, np.int64), self.start())
            expect(keys.shape, (1, d.layers, d.heads, 1, d.head_dim))
            expect(state.keys.shape, (1, e.kv_heads, sum(e.kept), e.head_dim))
            logits, _ = self.follow(np.zeros((1, 2), np.int64), 2, [self.reader(keys, values)])
            expect(logits.shape, (1, 2, d.vocab_size))

    def start(self) -> EncoderState:
        return EncoderState(**flatten(self.encoder.init_state()))

    def hear(
        self, audio: np.ndarray, ends: np.ndarray, state: EncoderState
    ) -> tuple[np.ndarray, np.ndarray, EncoderState]:
        given = {"audio": np.ascontiguousarray(audio), "ends": ends}
        out, new = self.encoder.step(given, state)
        return out["keys"], out["values"], new

    def reader(self, keys: np.ndarray, values: np.ndarray) -> ReaderState:
        memory = TextArrays(keys, values, np.array([keys.shape[3]], np.int64))
        return ReaderState(memory, TextArrays(**flatten(self.decoder.init_state())))

    def follow(
        self, tokens: np.ndarray, rows: int, states: Sequence[ReaderState]
    ) -> tuple[np.ndarray, list[ReaderState]]:
        state, count = join(states), tokens.shape[1]
        inputs = {"tokens": tokens, "rows": np.arange(count - rows, count)}
        inputs |= {f"heard.{n}": a for n, a in flatten(state.memory).items()}
        out, text = self.decoder.step(inputs, state.text)
        many = len(states)
        texts = [text] if many == 1 else [part(text, i) for i in range(many)]
        return out["logits"], [replace(s, text=t) for s, t in zip(states, texts)]

    def rewound(self, state: ReaderState, tokens: int) -> ReaderState:
        return replace(state, text=rewound(state.text, tokens))


def read_networks(b: Bundle, about: MoonshineBundle, device: str, threads: int) -> OnnxNetworks:
    """The networks of a bundle. Raises SpeechStreamError where it has no graphs, or where they do not fit it."""
    return OnnxNetworks(b, about.network, threads, device)
