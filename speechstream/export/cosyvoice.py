"""CosyVoice as graphs and a bundle that `speechstream.tts.cosyvoice` runs without torch.

`lm.onnx`, `export.llm`'s graph: ids of one table (text, speech, markers) to logits of speech tokens and marks.

`tokens.onnx`: tokens (B, T + lookahead) int64, lengths (B,) int64 and the state's fields to mu (B, T * repeats, n_mels) and
the new fields.

`estimator.onnx`, one evaluation of the flow's network: x (R, N, n_mels), what stands beside it, fixed (R, N, ...), time (1,),
frames and lengths (R,) int64, keys and values (R, heads, slots, head_dim), tails (R, n). Outputs: velocity (R, N, n_mels),
new_keys, new_values, new_tails.

`vocoder.onnx`: mel (B, T + given_ahead, n_mels), lengths (B,) int64 and the state's fields to audio (B, T * frame_size).

`voices.safetensors`: NUMBER.text, NUMBER.tokens, NUMBER.mel, NUMBER.speaker (`VoicePrompt`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import save_file
from torch import Tensor

from speechstream import bundle
from speechstream.convert.cosyvoice import CosyVoiceCheckpoint
from speechstream.errors import SpeechStreamError
from speechstream.export.llm import llm_graph
from speechstream.export.onnx import describe, trace_step
from speechstream.nn.flow import FlowDecoder
from speechstream.nn.flow_vocoder import FlowVocoder
from speechstream.nn.hift import HiftVocoder
from speechstream.nn.token_encoder import TokenEncoder
from speechstream.runtime.session import open_session
from speechstream.state import flatten
from speechstream.tts.cosyvoice.network import (
    ARCHITECTURE,
    ESTIMATOR,
    ESTIMATOR_WEIGHTS,
    LM,
    PARTS,
    TOKENIZER,
    TOKENS,
    VOCODER,
    VOICES,
    WEIGHTS,
    check_voice,
)

_INLINE = 1024  # bytes; larger tensors go to a file that is mapped into memory rather than read
TOLERANCE = 1e-3  # of a graph against torch, over the largest number
LOUD = 1e-2  # of a vocoder's: exponentials and sines of large numbers round more, a wrong graph is off by all


def write_cosyvoice(
    one: CosyVoiceCheckpoint, folder: str | Path, card: dict[str, Any], weights: str = "own"
) -> bundle.Bundle:
    """Write the graphs, the voices and the tokenizer into a folder and make it a bundle.

    weights: of the language model, a form of `export.llm`; the flow and the vocoder stay in 32 bits.
    """
    folder, c = Path(folder), one.config
    folder.mkdir(parents=True, exist_ok=True)
    lm = llm_graph(one.lm, weights, outputs=c.lm.outputs)
    for model, name, beside in (
        (lm, LM, WEIGHTS),
        (estimator_graph(one.decoder), ESTIMATOR, ESTIMATOR_WEIGHTS),
    ):
        (folder / beside).unlink(missing_ok=True)  # onnx would append
        onnx.save_model(
            model,
            folder / name,
            save_as_external_data=True,
            location=beside,
            size_threshold=_INLINE,
        )
    onnx.save(tokens_graph(one.encoder), folder / TOKENS)
    onnx.save(vocoder_graph(one.vocoder), folder / VOCODER)
    tensors = {}
    for n, (name, voice) in enumerate(one.voices.items()):
        try:
            check_voice(voice, c)
        except ValueError as error:
            raise SpeechStreamError(f"the voice {name[:40]!r} is not usable: {error}") from error
        for part in PARTS:
            tensors[f"{n}.{part}"] = np.ascontiguousarray(getattr(voice, part))
    save_file(tensors, folder / VOICES)
    (folder / VOICES).chmod(0o644)  # safetensors leaves it to its owner alone
    (folder / TOKENIZER).write_text(one.tokenizer, encoding="utf-8")
    files = [LM, WEIGHTS, TOKENS, ESTIMATOR, ESTIMATOR_WEIGHTS, VOCODER, VOICES, TOKENIZER]
    config = dataclasses.asdict(c)
    return bundle.write(folder, "tts", ARCHITECTURE, config, card, files)


def tokens_graph(encoder: TokenEncoder) -> onnx.ModelProto:
    """Speech tokens to conditions."""
    c = encoder.config

    def given(batch: int, blocks: int) -> dict[str, Tensor]:
        tokens = torch.arange(batch * (blocks * c.block + c.lookahead)) % c.vocab_size
        lengths = torch.full((batch,), tokens.numel() // batch)
        return {"tokens": tokens.reshape(batch, -1), "lengths": lengths}

    return _stateful(encoder, given, "mu", {"graph": "tokens"})


def vocoder_graph(vocoder: FlowVocoder | HiftVocoder) -> onnx.ModelProto:
    """Mel frames to sound."""
    c = vocoder.config

    def given(batch: int, blocks: int) -> dict[str, Tensor]:
        count = 5 * blocks + c.given_ahead
        mel = torch.linspace(-4, 1, batch * count * c.n_mels).reshape(batch, count, -1)
        return {"mel": mel, "lengths": torch.full((batch,), count)}

    about = {
        "graph": "vocoder",
        "sample_rate": c.sample_rate,
        "frame_size": c.frame_size,
        "given_ahead": c.given_ahead,
        "delay": vocoder.delay if isinstance(vocoder, FlowVocoder) else 0,
    }
    return _stateful(vocoder, given, "audio", about)


def estimator_graph(decoder: FlowDecoder) -> onnx.ModelProto:
    """One evaluation of the flow's network."""
    c, n = decoder.config, decoder.config.network
    torch.manual_seed(0)

    def given(rows: int, blocks: int) -> dict[str, Tensor]:
        count, frames = blocks * c.windows.block, rows * c.windows.block
        return {
            "x": torch.randn(rows, count, c.n_mels),
            "fixed": torch.randn(rows, count, c.input_dim - c.n_mels),
            "time": torch.full((1,), 0.1 * rows),
            "frames": torch.full((rows,), frames),
            "lengths": torch.full((rows,), count - 1),
            "keys": torch.randn(rows, n.heads, c.slots, n.head_dim),
            "values": torch.randn(rows, n.heads, c.slots, n.head_dim),
            "tails": torch.randn(rows, c.convolution_numbers),
        }

    outputs = ["velocity", "new_keys", "new_values", "new_tails"]
    dynamic: dict[str, dict[int, str]] = {name: {0: "rows"} for name in given(2, 1)}
    dynamic |= {"x": {0: "rows", 1: "frames"}, "fixed": {0: "rows", 1: "frames"}, "time": {}}
    model = trace_step(decoder, decoder.evaluate, given(2, 1), None, outputs, dynamic)
    _agrees(model, decoder.evaluate, given(4, 2), "estimator")
    describe(model, {"architecture": ARCHITECTURE, "graph": "estimator"})
    return model


def _stateful(
    network: TokenEncoder | FlowVocoder | HiftVocoder,
    given: Callable[[int, int], Mapping[str, Tensor]],
    output: str,
    about: dict[str, Any],
) -> onnx.ModelProto:
    """The graph of `step(x, state, lengths)`, compared with torch at other sizes than it was traced at."""

    advance: Callable[..., Any] = network.step
    first_name = next(iter(given(2, 1)))

    def step(x: Tensor, lengths: Tensor, state: Any) -> Any:
        return advance(x, state, lengths)

    state: Any = network.init_state(2)
    first = given(2, 1)
    dynamic = {
        name: {0: "batch", 1: "given"} if a.ndim > 1 else {0: "batch"} for name, a in first.items()
    }
    fields = {f"state.{n}": {0: "batch"} for n in flatten(state)}
    model = trace_step(network, step, first, state, [output], {**dynamic, **fields})
    for blocks, cut in ((2, 0), (3, 4)):
        other, state = dict(given(3, blocks)), network.init_state(3)
        other["lengths"] = other["lengths"] - cut * torch.arange(3)
        feeds = {**other, **{f"state.{n}": a for n, a in flatten(state).items()}}

        def run(*_: Tensor, x: Any = other, held: Any = state) -> tuple[Tensor, ...]:
            y, new = advance(x[first_name], held, x["lengths"])
            return y, *flatten(new).values()

        _agrees(model, run, feeds, str(about["graph"]))
    describe(model, {"architecture": ARCHITECTURE, **about}, network.init_state(1))
    return model


def _agrees(
    model: onnx.ModelProto, step: Callable[..., Any], feeds: Mapping[str, Tensor], name: str
) -> None:
    """Raises SpeechStreamError where a graph gives other numbers than what it was traced from."""
    with torch.no_grad():
        expected = [a.numpy() for a in step(*feeds.values())]
    if (
        model.ByteSize() > 1 << 30
    ):  # more than a message may hold, about: it is asked at tiny sizes only
        return
    session = open_session(model.SerializeToString())
    found = session.run(None, {n: a.numpy() for n, a in feeds.items()})
    for out, a, b in zip(session.get_outputs(), found, expected):
        off = np.abs(a - b).max(initial=0) if a.shape == b.shape else np.inf
        if not off <= (LOUD if name == "vocoder" else TOLERANCE) * max(np.abs(b).max(initial=0), 1):
            raise SpeechStreamError(
                f"the graph {name!r} gives {out.name} of {a.shape} where torch gives {b.shape}, {off:.2g} apart"
            )
