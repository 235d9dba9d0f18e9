"""The graphs of a Kyutai speech-to-text: `encoder.onnx` and `text.onnx`, which run without torch.

encoder: that of `export.codec`, audio (B, 1, frames, frame_size) and the state to codes (B, levels, frames) and the new
state. text: tokens (B, T), codes (B, T, levels) and the state to the logits (B, out_size) and, where the model has such
heads, pauses (B, heads) after the last, and the new state. What has left the window is cut off by whoever runs it
(`asr.kyutai.onnx`), so that the graph takes any length of the past.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from speechstream.asr.kyutai.torch import read_kyutai
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.export.codec import encoder_graph
from speechstream.export.onnx import MOST_PARAMETERS, describe, save_graphs, trace_step
from speechstream.export.quantize import FP32, Weights, quantize_graph
from speechstream.nn.kyutai import Kyutai
from speechstream.nn.kyutai_config import KyutaiBundle
from speechstream.nn.llm import LlmState

ARCHITECTURE = "kyutai-stt"


class Reading(nn.Module):
    """The step of the language model as its graph takes it."""

    def __init__(self, model: Kyutai) -> None:
        super().__init__()
        self.model = model

    def step(self, tokens: Tensor, codes: Tensor, state: LlmState) -> tuple:
        logits, pauses, state = self.model.extend(tokens, codes, state, last=True)
        heads = (pauses[:, -1],) if self.model.config.pause_heads else ()
        return logits[:, -1], *heads, state


@torch.no_grad()
def export_kyutai(model: Kyutai, weights: Weights = FP32) -> dict[str, onnx.ModelProto]:
    """Graphs `encoder` and `text` of a model in float32. weights: of the language model; those of the codec stay, as its
    codes would be others."""
    c, reading = model.config, Reading(model).eval()
    tokens = torch.ones(2, 3, dtype=torch.int64)
    codes = torch.ones(2, 3, c.levels, dtype=torch.int64)
    *_, said = reading.step(tokens, codes, model.init_text(2))
    text = trace_step(
        reading,
        reading.step,
        {"tokens": tokens, "codes": codes},
        said,
        ["logits", *(["pauses"] if c.pause_heads else [])],
        {
            "tokens": {0: "batch", 1: "count"},
            "codes": {0: "batch", 1: "count"},
            "state.keys": {0: "batch", 3: "past"},
            "state.values": {0: "batch", 3: "past"},
            "state.tokens": {0: "batch"},
        },
        queries=c.text.heads // c.text.kv_heads,
    )
    describe(text, {"architecture": ARCHITECTURE, "graph": "text"}, model.init_text())
    encoder = encoder_graph(model.codec, c.levels)
    return {"encoder": encoder, "text": quantize_graph(text, weights)}


def load_model(b: Bundle) -> Kyutai:
    """The network of a bundle in float32. Raises SpeechStreamError where it is too large to be written as graphs."""
    try:
        network = read(KyutaiBundle, b.config).network
    except ValueError as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    if network.parameters > MOST_PARAMETERS:
        raise SpeechStreamError(
            f"graphs are written up to {MOST_PARAMETERS // 1_000_000} million parameters, and {b.path} has "
            f"{network.parameters / 1e6:.0f}: run it with --engine torch"
        )
    return read_kyutai(b, network).float().eval().requires_grad_(False)


def add_graphs(b: Bundle) -> Bundle:
    """The bundle with its graphs, their weights beside them."""
    model = load_model(b)
    return save_graphs(b, export_kyutai(model))
