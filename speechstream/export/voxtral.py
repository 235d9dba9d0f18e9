"""The graphs of a Voxtral Realtime: `encoder.onnx` and `text.onnx`, which run without torch.

encoder: mel (B, tokens, mels per token, n_mels) and the state to audio (B, tokens, dim) and the new state. text: tokens
(B, T), audio (B, T, dim), delays (B,) in tokens and the state to the logits (B, vocabulary) after the last, and the new
state. States are those of the network; what has left the window is cut off by whoever runs them
(`asr.voxtral.onnx`), so that the graphs take any length of the past.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from speechstream.asr.voxtral.torch import read_voxtral
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.export.onnx import describe, save_graphs, trace_step
from speechstream.nn.llm import LlmState
from speechstream.nn.voxtral import Voxtral, VoxtralEncoderState
from speechstream.nn.voxtral_config import VoxtralBundle

ARCHITECTURE = "voxtral-realtime"


class _Hearing(nn.Module):
    def __init__(self, model: Voxtral) -> None:
        super().__init__()
        self.encoder, self.projector = model.encoder, model.projector
        self.stacked = model.config.stacked

    def step(self, mel: Tensor, state: VoxtralEncoderState) -> tuple[Tensor, VoxtralEncoderState]:
        x, state = self.encoder.extend(mel.flatten(1, 2).transpose(1, 2), state)
        x = x.reshape(mel.shape[0], mel.shape[1], self.stacked * x.shape[2])
        return self.projector(x), state


class _Reading(nn.Module):
    def __init__(self, model: Voxtral, longest: int) -> None:
        super().__init__()
        self.text = model.text
        table = torch.cat([model.scales(d) for d in range(longest + 1)])
        self.table = nn.Parameter(table, requires_grad=False)  # (delays, layers, dim)

    def step(
        self, tokens: Tensor, audio: Tensor, delays: Tensor, state: LlmState
    ) -> tuple[Tensor, LlmState]:
        x = self.text.model.embed_tokens(tokens) + audio
        x, state = self.text.hidden(x, state, self.table[delays])
        return self.text.lm_head(x[:, -1]), state


@torch.no_grad()
def export_voxtral(model: Voxtral, longest: int) -> dict[str, onnx.ModelProto]:
    """Graphs `encoder` and `text` of a model in float32. longest: the longest delay, in tokens."""
    c = model.config
    hearing, reading = _Hearing(model).eval(), _Reading(model, longest).eval()
    mel = torch.randn(2, 3, c.mels_per_token, c.encoder.n_mels)
    _, heard = hearing.step(mel, model.encoder.init_state(2))
    growing = {"state.keys": {0: "batch", 3: "past"}, "state.values": {0: "batch", 3: "past"}}
    encoder = trace_step(
        hearing,
        hearing.step,
        {"mel": mel},
        heard,
        ["audio"],
        {
            "mel": {0: "batch", 1: "tokens"},
            "state.conv1": {0: "batch"},
            "state.conv2": {0: "batch"},
            "state.frames": {0: "batch"},
            **growing,
        },
        queries=1,
    )
    tokens, delays = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    audio = torch.randn(2, 3, c.text.dim)
    _, said = reading.step(tokens, audio, delays, model.init_text(2))
    text = trace_step(
        reading,
        reading.step,
        {"tokens": tokens, "audio": audio, "delays": delays},
        said,
        ["logits"],
        {
            "tokens": {0: "batch", 1: "count"},
            "audio": {0: "batch", 1: "count"},
            "delays": {0: "batch"},
            "state.tokens": {0: "batch"},
            **growing,
        },
        queries=c.text.heads // c.text.kv_heads,
    )
    for name, graph, state in (
        ("encoder", encoder, model.encoder.init_state()),
        ("text", text, model.init_text()),
    ):
        describe(graph, {"architecture": ARCHITECTURE, "graph": name}, state)
    return {"encoder": encoder, "text": text}


def add_graphs(b: Bundle) -> Bundle:
    """The bundle with its graphs, their weights beside them."""
    about = read(VoxtralBundle, b.config)
    model = read_voxtral(b, about.network).float().eval().requires_grad_(False)
    return save_graphs(b, export_voxtral(model, max(*about.delays, about.delay)))
