"""The graphs of a Qwen3-ASR: `convolution.onnx`, `encoder.onnx` and `text.onnx`, which run without torch.

convolution: mel (B, n_mels, chunk) to frames (B, 13, dim). encoder: frames (B, n, dim) of a window to sound
(B, n, text's dim). text: see `asr.redecode.onnx`.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from speechstream.asr.qwen.onnx import ARCHITECTURE
from speechstream.asr.qwen.torch import read_qwen_asr
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.export.onnx import describe, export_step, save_graphs
from speechstream.nn.llm import Llm, LlmState
from speechstream.nn.qwen_asr import QwenAsr
from speechstream.nn.qwen_asr_config import QwenAsrBundle


class Reading(nn.Module):
    """A language model that reads tokens, and sound where a token is -1."""

    def __init__(self, text: Llm) -> None:
        super().__init__()
        self.text = text

    def step(
        self, tokens: Tensor, sound: Tensor, rows: Tensor, state: LlmState
    ) -> tuple[Tensor, LlmState]:
        words = self.text.model.embed_tokens(tokens.clamp(min=0))
        x, state = self.text.hidden(torch.where(tokens[..., None] < 0, sound, words), state)
        return self.text.lm_head(x[:, rows]), state


@torch.no_grad()
def export_qwen_asr(model: QwenAsr) -> dict[str, onnx.ModelProto]:
    """Graphs of a model in float32."""
    e, t, encoder = model.config.encoder, model.config.text, model.encoder
    both = {0: "batch", 1: "count"}
    mel, frames = torch.randn(2, e.n_mels, e.chunk), torch.randn(2, 5, e.dim)
    graphs = {
        "convolution": export_step(
            encoder, encoder.whole, {"mel": mel}, None, ["frames"], {"mel": {0: "batch"}}
        ),
        "encoder": export_step(
            encoder, encoder.attend, {"frames": frames}, None, ["sound"], {"frames": both}
        ),
    }
    reading = Reading(model.text).eval()
    given = {
        "tokens": torch.ones(2, 3, dtype=torch.int64),
        "sound": torch.randn(2, 3, t.dim),
        "rows": torch.tensor([1, 2]),
    }
    state = model.text.step(given["tokens"], model.text.init_state(2))[1]
    growing = {0: "batch", 3: "past"}
    graphs["text"] = export_step(
        reading,
        reading.step,
        given,
        state,
        ["logits"],
        {
            "tokens": both,
            "sound": both,
            "rows": {0: "rows"},
            "state.keys": growing,
            "state.values": growing,
            "state.tokens": {0: "batch"},
        },
    )
    for name, graph in graphs.items():
        about = {"architecture": ARCHITECTURE, "graph": name}
        describe(graph, about, model.text.init_state() if name == "text" else None)
    return graphs


def add_graphs(b: Bundle) -> Bundle:
    """The bundle with its graphs, their weights beside them."""
    about = read(QwenAsrBundle, b.config)
    model = read_qwen_asr(b, about.network).float().eval().requires_grad_(False)
    return save_graphs(b, export_qwen_asr(model))
