"""The two graphs of a causal Whisper: one encoder chunk with all that follows per frame, and one decoder step."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from speechstream.export.onnx import export_step
from speechstream.nn.whisper import DecoderState, EncoderState, Whisper


def encoder_chunk(model: Whisper, mel: Tensor, state: EncoderState) -> tuple[Tensor, ...]:
    """mel (B, mels, 2c+1) to the decoder's memory of these frames, two of (B, layers, H, c, Dh), the CTC head's
    log-probabilities (B, c // 2, pieces), and the chunk's own keys and values for the cache, (B, layers, H, c, Dh).

    The graph leaves the cache to its caller, who keeps the last `left` frames of it: copying megabytes in and out would
    cost more than a short chunk's arithmetic. Positions are in the features, so the cache may be kept in any order, if
    only the rows not yet filled are the first ones (`speechstream.engines.onnx` keeps a ring).
    """
    features, keys, values = model.encoder.chunk(mel, state)
    return *model.decoder.memory(features), model.ctc_log_probs(features), keys, values


def export_whisper(model: Whisper) -> dict[str, onnx.ModelProto]:
    """Graphs `encoder` and `decoder` of a model in fp32. Raises ValueError where it has no CTC head."""
    c = model.config
    if model.ctc is None:
        raise ValueError("the model has no CTC head, which the encoder's graph ends with: set ctc_vocabulary and train it")
    model = model.eval()
    state = model.encoder.init_state(2)
    batch = {f"state.{n}": {0: "batch"} for n in ("mel", "keys", "values", "frames")}
    encoder = export_step(model, lambda mel, s: (*encoder_chunk(model, mel, s), None), {"mel": torch.randn(2, c.mels, 33)},
                          state, ["memory_keys", "memory_values", "ctc", "chunk.keys", "chunk.values"],
                          {"mel": {0: "batch", 2: "mel_frames"}, **batch})
    memory = torch.randn(2, c.decoder_layers, c.heads, 12, c.width // c.heads)
    past = torch.randn(2, c.decoder_layers, c.heads, 5, c.width // c.heads)
    like = DecoderState(past, past.clone(), torch.tensor([5, 3]))
    inputs = {"tokens": torch.ones(2, 3, dtype=torch.int64), "memory_keys": memory, "memory_values": memory.clone(),
              "mask": torch.ones(2, 12, dtype=torch.bool)}
    axes = {"tokens": {0: "batch", 1: "tokens"}, "memory_keys": {0: "batch", 3: "frames"},
            "memory_values": {0: "batch", 3: "frames"}, "mask": {0: "batch", 1: "frames"},
            "state.keys": {0: "batch", 3: "past"}, "state.values": {0: "batch", 3: "past"}, "state.tokens": {0: "batch"}}
    decoder = export_step(model, lambda t, k, v, m, s: model.decoder.step(t, s, k, v, m), inputs, like,
                          ["logits", "alignment"], axes)
    return {"encoder": encoder, "decoder": decoder}
