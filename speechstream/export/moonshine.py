"""The graphs of a streaming Moonshine: `encoder.onnx` and `decoder.onnx`, which run without torch.

encoder: audio (B, n, frame), n a multiple of 4, ends (B,) and the state to the decoder's keys and values of the frames that
are certain now. decoder: tokens (B, T), rows (R,), those of which logits (B, R, vocabulary) are given, what is heard
(heard.keys, heard.values, heard.tokens), and the state of the text.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from speechstream.asr.moonshine.onnx import ARCHITECTURE
from speechstream.asr.moonshine.torch import read_moonshine
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.export.onnx import describe, export_step, save_graphs
from speechstream.nn.llm import LlmState
from speechstream.nn.moonshine import Moonshine, MoonshineDecoder
from speechstream.nn.moonshine_config import MoonshineBundle
from speechstream.nn.moonshine_state import EncoderState


class _Hearing(nn.Module):
    """The encoder, which takes sound in fours of frames."""

    def __init__(self, model: Moonshine) -> None:
        super().__init__()
        self.model = model

    def step(
        self, audio: Tensor, ends: Tensor, state: EncoderState
    ) -> tuple[Tensor, Tensor, EncoderState]:
        return self.model.hear(audio, ends, state)


class _Reading(nn.Module):
    def __init__(self, decoder: MoonshineDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def step(
        self,
        tokens: Tensor,
        rows: Tensor,
        keys: Tensor,
        values: Tensor,
        frames: Tensor,
        state: LlmState,
    ) -> tuple[Tensor, LlmState]:
        x, state = self.decoder.step(tokens, LlmState(keys, values, frames), state)
        return self.decoder.head(x[:, rows]), state


@torch.no_grad()
def export_moonshine(model: Moonshine) -> dict[str, onnx.ModelProto]:
    """Graphs of a model in float32."""
    e, d = model.config.encoder, model.config.decoder
    hearing, reading = _Hearing(model).eval(), _Reading(model.decoder).eval()
    audio, ends = torch.randn(2, 12, e.frame), torch.tensor([5, 9])
    state = model.encoder.init_state(2)
    batched = {f"state.{n}": {0: "batch"} for n in vars(state)}
    encoder = export_step(
        hearing,
        hearing.step,
        {"audio": audio, "ends": ends},
        state,
        ["keys", "values"],
        {"audio": {0: "batch", 1: "count"}, "ends": {0: "batch"}, **batched},
    )
    memory = torch.randn(2, d.layers, d.heads, 7, d.head_dim)
    given = {
        "tokens": torch.ones(2, 3, dtype=torch.int64),
        "rows": torch.tensor([1, 2]),
        "heard.keys": memory,
        "heard.values": memory.clone(),
        "heard.tokens": torch.tensor([7, 4]),
    }
    past = torch.randn(2, d.layers, d.heads, 3, d.head_dim)
    text = LlmState(past, past.clone(), torch.tensor([3, 2]))
    heard, growing = {0: "batch", 3: "heard"}, {0: "batch", 3: "past"}
    decoder = export_step(
        reading,
        reading.step,
        given,
        text,
        ["logits"],
        {
            "tokens": {0: "batch", 1: "count"},
            "rows": {0: "rows"},
            "heard.keys": heard,
            "heard.values": heard,
            "heard.tokens": {0: "batch"},
            "state.keys": growing,
            "state.values": growing,
            "state.tokens": {0: "batch"},
        },
    )
    describe(
        encoder, {"architecture": ARCHITECTURE, "graph": "encoder"}, model.encoder.init_state()
    )
    describe(
        decoder, {"architecture": ARCHITECTURE, "graph": "decoder"}, model.decoder.init_state()
    )
    return {"encoder": encoder, "decoder": decoder}


def add_graphs(b: Bundle) -> Bundle:
    """The bundle with its graphs, their weights beside them."""
    about = read(MoonshineBundle, b.config)
    model = read_moonshine(b, about.network).float().eval().requires_grad_(False)
    return save_graphs(b, export_moonshine(model))
