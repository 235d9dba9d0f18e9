"""The two graphs of a causal Whisper: one encoder chunk with all that follows per frame, and one decoder step."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from speechstream.export.onnx import export_step
from speechstream.nn.whisper import DecoderState, EncoderState, Whisper
from speechstream.nn.whisper_heads import pairs


def encoder_chunk(model: Whisper, mel: Tensor, state: EncoderState) -> tuple[Tensor, ...]:
    """mel (B, mels, 2c+1) to the decoder's memory of these frames, two of (B, layers, H, c, Dh), the CTC head's
    log-probabilities (B, c // 2, pieces), the gate's share of its joint (B, c // 2, D) where the model has one, and the
    chunk's own keys and values for the cache, (B, layers, H, c, Dh).

    The graph leaves the cache to its caller, who keeps the last `left` frames of it: copying megabytes in and out would
    cost more than a short chunk's arithmetic. Positions are in the features, so the cache may be kept in any order, if
    only the rows not yet filled are the first ones (`speechstream.engines.onnx` keeps a ring).
    """
    features, keys, values = model.encoder.chunk(mel, state)
    gate = [model.gate.audio(pairs(features))] if model.gate else []
    return *model.decoder.memory(features), model.ctc_log_probs(features), *gate, keys, values


def layered(name: str, layers: int) -> list[str]:
    """Names of the inputs that hold one layer each: cache and memory are given apart, since to split costs a copy."""
    return [f"{name}.{i}" for i in range(layers)]


def export_whisper(model: Whisper) -> dict[str, onnx.ModelProto]:
    """Graphs `encoder` and `decoder` of a model in fp32. Raises ValueError where it has no CTC head.

    Inputs `state.keys.i`, `state.values.i` (B, H, left, Dh) of the encoder and `memory_keys.i`, `memory_values.i`
    (B, H, T, Dh) of the decoder are those of layer i.
    """
    c = model.config
    if model.ctc is None:
        raise ValueError("the model has no CTC head, which the encoder's graph ends with: set ctc_vocabulary and train it")
    model = model.eval()
    return {"encoder": _encoder(model, c.encoder_layers), "decoder": _decoder(model, c.decoder_layers)}


def _encoder(model: Whisper, layers: int) -> onnx.ModelProto:
    c = model.config
    like = model.encoder.init_state(2)
    names = layered("state.keys", layers) + layered("state.values", layers)
    caches = {n: a.clone() for n, a in zip(names, [*like.keys.unbind(1), *like.values.unbind(1)])}
    inputs = {"mel": torch.randn(2, c.mels, 33), "state.mel": like.mel, **caches, "state.frames": like.frames}

    def step(mel: Tensor, history: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return encoder_chunk(model, mel, EncoderState(history, rest[:layers], rest[layers: -1], rest[-1]))

    return export_step(model, step, inputs, None, ["memory_keys", "memory_values", "ctc", *(["gate"] if model.gate else []), "chunk.keys", "chunk.values"],
                       {"mel": {0: "batch", 2: "mel_frames"}, **{n: {0: "batch"} for n in inputs if n != "mel"}})


def _decoder(model: Whisper, layers: int) -> onnx.ModelProto:
    c = model.config
    memory = torch.randn(2, c.heads, 12, c.width // c.heads)
    past = torch.randn(2, layers, c.heads, 5, c.width // c.heads)
    names = layered("memory_keys", layers) + layered("memory_values", layers)
    inputs = {"tokens": torch.ones(2, 3, dtype=torch.int64), **{n: memory.clone() for n in names},
              "mask": torch.ones(2, 12, dtype=torch.bool)}
    axes = {"tokens": {0: "batch", 1: "tokens"}, **{n: {0: "batch", 2: "frames"} for n in names},
            "mask": {0: "batch", 1: "frames"}, "state.keys": {0: "batch", 3: "past"},
            "state.values": {0: "batch", 3: "past"}, "state.tokens": {0: "batch"}}

    def step(tokens: Tensor, *rest: Tensor | DecoderState) -> tuple:
        *memory, mask, state = rest
        hidden, alignment, new = model.decoder.read(tokens, state, memory[:layers], memory[layers:], mask)
        gate = [model.gate.text(hidden)] if model.gate else []
        return model.decoder.logits(hidden), alignment, *gate, new

    return export_step(model, step, inputs, DecoderState(past, past.clone(), torch.tensor([5, 3])),
                       ["logits", "alignment", *(["text"] if model.gate else [])], axes)
