"""The graphs of a speech LLM: `hearing.onnx`, `reader.onnx` and `joint.onnx`, which run without torch.

hearing: mel (B, n_mels, 2c + 1) and the state to audio, sound, quiet, the keys and values that the joint looks at, and
the new state. reader, joint: what `nn.speech_llm.SpeechLlm.read` and `looked` take to what they give; the rows are kept
by whoever runs them (`nn.speech_llm_state`), so that the graph takes any of them.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from speechstream import bundle
from speechstream.asr.speech_llm.networks import example, looking
from speechstream.asr.speech_llm.onnx import ARCHITECTURE, HEARD
from speechstream.asr.speech_llm.torch import read_speech_llm
from speechstream.bundle import Bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.export.onnx import describe, save_beside, trace_step
from speechstream.export.quantize import FP32, INT8, INT8_BLOCKS, Weights, quantize_graph
from speechstream.nn.speech_llm import SpeechLlm
from speechstream.nn.speech_llm_config import SpeechLlmBundle


class Reading(nn.Module):
    """`SpeechLlm.read` as its graph takes it."""

    def __init__(self, model: SpeechLlm) -> None:
        super().__init__()
        self.model = model

    def step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.model.read(*inputs)


class Looking(nn.Module):
    """`SpeechLlm.looked` as its graph takes it."""

    def __init__(self, model: SpeechLlm) -> None:
        super().__init__()
        self.model = model

    def step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.model.looked(*inputs)


@torch.no_grad()
def export_speech_llm(model: SpeechLlm, weights: Weights = FP32) -> dict[str, onnx.ModelProto]:
    """Graphs `hearing`, `reader` and `joint` of a model in float32. weights: how their matrices are stored.

    In 8 bits the language model's are so in blocks: a few of its activations are hundreds of times as large as the others, and
    with one scale a row those are lost.
    """
    c, hearing, reading = model.config, model.hearing, Reading(model).eval()
    mel = torch.randn(2, c.sound.n_mels, 2 * 2 * c.stack + 1)
    state = hearing.init_state(2)
    batch = {0: "batch"}
    heard = trace_step(
        hearing,
        hearing.step,
        {"mel": mel},
        state,
        list(HEARD),
        {
            "mel": {0: "batch", 2: "mel_frames"},
            **{f"state.{n}": batch for n in vars(state)},
        },
    )
    describe(heard, {"architecture": ARCHITECTURE, "graph": "hearing"}, hearing.init_state())
    rows, past = {0: "batch", 1: "rows"}, {0: "batch", 1: "past"}
    grown = {0: "batch", 3: "past"}
    told = trace_step(
        reading,
        reading.step,
        {n: torch.from_numpy(a) for n, a in example(c).items()},
        None,
        ["said", "prior", "new_keys", "new_values"],
        {
            **dict.fromkeys(("tokens", "sound", "places", "heard"), rows),
            "keys": grown,
            "values": grown,
            "kinds": past,
            "past": past,
        },
    )
    describe(told, {"architecture": ARCHITECTURE, "graph": "reader"})
    looking_at = Looking(model).eval()
    seen = {0: "batch", 3: "rows"}
    asked = trace_step(
        looking_at,
        looking_at.step,
        {n: torch.from_numpy(a) for n, a in looking(c).items()},
        None,
        ["odds", "scores"],
        {
            "audio": {0: "batch", 1: "frames"},
            **dict.fromkeys(("said", "since", "blank"), batch),
            "keys": seen,
            "values": seen,
        },
    )
    describe(asked, {"architecture": ARCHITECTURE, "graph": "joint"})
    graphs = {"hearing": heard, "reader": told, "joint": asked}
    stored = {"reader": INT8_BLOCKS} if weights == INT8 else {}
    return {n: quantize_graph(g, stored.get(n, weights)) for n, g in graphs.items()}


def load_model(b: Bundle) -> tuple[SpeechLlm, SpeechLlmBundle]:
    """The network of a bundle in float32, and what the bundle says of it."""
    try:
        about = read(SpeechLlmBundle, b.config)
    except ValueError as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error
    return read_speech_llm(b, about.network), about


def add_graphs(b: Bundle, weights: Weights = FP32) -> Bundle:
    """The bundle with its graphs, their weights beside them."""
    model, _ = load_model(b)
    files = [n for n in b.files if not n.endswith((".onnx", ".bin"))]
    for name, graph in export_speech_llm(model, weights).items():
        files += save_beside(graph, b.path, name)
    return bundle.write(b.path, b.task, b.architecture, b.config, b.card, files)
