"""The graphs of a causal Whisper: one encoder chunk with what follows per frame, the CTC head, and some decoder tokens."""

from __future__ import annotations

import copy

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechstream.export.onnx import export_step
from speechstream.nn.whisper import DecoderState, EncoderState, Whisper
from speechstream.nn.whisper_heads import pairs


class Downsampling(nn.Module):
    """A convolution of width 3 and stride 2 as one product with a matrix, which eight bits can hold.

    weight (out, 3 * in): for each of the three taps its inputs. x (B, in, 2c+1) to (B, out, c).
    """

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.weight = nn.Parameter(
            conv.weight.permute(0, 2, 1).flatten(1).contiguous(), requires_grad=False
        )
        self.bias = conv.bias

    def forward(self, x: Tensor) -> Tensor:
        x, c = x.transpose(1, 2), (x.shape[2] - 1) // 2
        first = x[:, : 2 * c].unflatten(1, (c, 2))[:, :, 0]
        others = x[:, 1 : 2 * c + 1].unflatten(1, (c, 2)).flatten(2)
        return F.linear(torch.cat([first, others], 2), self.weight, self.bias).transpose(1, 2)


def cached_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, filled: Tensor
) -> Tensor:
    """`nn.attention.step_attention` over a cache (B, H, L, Dh) whose first `filled` (B,) rows are real.

    The new rows come first, so that rows which are not real are the last of each sum: a longer cache of which no more
    is real, as a stream has it in a batch with older ones, gives the same numbers to the bit.
    """
    n = q.shape[2]
    hidden = torch.arange(keys.shape[2], device=q.device) >= filled[:, None]
    q = q * q.shape[-1] ** -0.5
    old = (q @ keys.transpose(-1, -2)).masked_fill(hidden[:, None, None, :], -torch.inf)
    weight = torch.cat([q @ k.transpose(-1, -2), old], dim=-1).softmax(-1)
    return weight[..., :n] @ v + weight[..., n:] @ values


def encoder_chunk(model: Whisper, mel: Tensor, state: EncoderState) -> tuple[Tensor, ...]:
    """mel (B, mels, 2c+1) to the decoder's memory of these frames, two of (B, layers, H, c, Dh), the features that the
    CTC head reads (B, c, dim), the gate's share of its joint (B, c // 2, D) where the model has one, and the
    chunk's own keys and values for the cache, (B, layers, H, c, Dh).

    The graph leaves the cache to its caller, who keeps the last `left` frames of it: copying megabytes in and out would
    cost more than a short chunk's arithmetic. Positions are in the features, so the cache may be kept in any order, and
    of a young stream no more than what is filled need be given (`speechstream.asr.whisper.onnx` keeps a ring).
    """
    features, keys, values = model.encoder.chunk(mel, state, cached_attention)
    gate = [model.gate.audio(pairs(features))] if model.gate else []
    return *model.decoder.memory(features), features, *gate, keys, values


def layered(name: str, layers: int) -> list[str]:
    """Names of the inputs that hold one layer each: cache and memory are given apart, since to split costs a copy."""
    return [f"{name}.{i}" for i in range(layers)]


def export_whisper(model: Whisper) -> dict[str, onnx.ModelProto]:
    """Graphs `encoder`, `ctc` and `decoder` of a model in fp32. Raises ValueError where it has no CTC head.

    The head is a graph of its own: it is small, and replaced more often than the rest.

    Inputs `state.keys.i`, `state.values.i` (B, H, up to `left`, Dh) of the encoder, those of the decoder (B, H, S, Dh),
    and `memory_keys.i`, `memory_values.i` (B or 1, H, T, Dh) are of layer i. Both graphs return only the keys and
    values that are new.
    """
    c = model.config
    if model.ctc is None:
        raise ValueError(
            "the model has no CTC head, which a bundle needs: set ctc_vocab_size and train it"
        )
    model = copy.deepcopy(model).eval()
    model.encoder.conv2 = Downsampling(model.encoder.conv2)
    return {
        "encoder": _encoder(model, c.encoder_layers),
        "ctc": export_head(model),
        "decoder": _decoder(model, c.decoder_layers),
    }


def _encoder(model: Whisper, layers: int) -> onnx.ModelProto:
    c = model.config
    like = model.encoder.init_state(2)
    names = layered("state.keys", layers) + layered("state.values", layers)
    caches = {n: torch.zeros(2, c.heads, 7, c.dim // c.heads) for n in names}
    inputs = {
        "mel": torch.randn(2, c.n_mels, 33),
        "state.mel": like.mel,
        **caches,
        "state.frames": like.frames,
    }

    def step(mel: Tensor, history: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return encoder_chunk(
            model, mel, EncoderState(history, rest[:layers], rest[layers:-1], rest[-1])
        )

    axes = {
        "mel": {0: "batch", 2: "mel_frames"},
        "state.mel": {0: "batch"},
        "state.frames": {0: "batch"},
        **{n: {0: "batch", 2: "cached"} for n in names},
    }
    heads = ["features", "gate"] if model.gate else ["features"]
    graph = export_step(
        model,
        step,
        inputs,
        None,
        ["memory_keys", "memory_values", *heads, "chunk.keys", "chunk.values"],
        axes,
    )
    graph.metadata_props.add(
        key="left", value=str(c.left_context)
    )  # frames that the cache grows to
    return graph


def export_head(model: Whisper) -> onnx.ModelProto:
    """The graph `ctc` in fp32: features (B, c, dim) to log-probabilities (B, c // 2, pieces)."""
    return export_step(
        model,
        model.ctc_log_probs,
        {"features": torch.randn(2, 16, model.config.dim)},
        None,
        ["ctc"],
        {"features": {0: "batch", 1: "frames"}},
    )


def _decoder(model: Whisper, layers: int) -> onnx.ModelProto:
    c = model.config
    past = layered("state.keys", layers) + layered("state.values", layers)
    memory = layered("memory_keys", layers) + layered("memory_values", layers)
    like = torch.randn(4, c.heads, 12, c.dim // c.heads)
    inputs = {
        "tokens": torch.ones(4, 3, dtype=torch.int64),
        "rows": torch.tensor([1, 2]),
        **{n: like[:2].clone() for n in memory},
        "mask": torch.ones(2, 12, dtype=torch.bool),
        **{n: like[:, :, :5].clone() for n in past},
        "state.tokens": torch.tensor([5, 3, 4, 4]),
    }
    axes = {
        "tokens": {0: "batch", 1: "tokens"},
        "rows": {0: "rows"},
        "mask": {0: "streams", 1: "frames"},
        **{n: {0: "streams", 2: "frames"} for n in memory},
        **{n: {0: "batch", 2: "past"} for n in past},
        "state.tokens": {0: "batch"},
    }

    def step(tokens: Tensor, rows: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        memory, mask, past, read = (
            rest[: 2 * layers],
            rest[2 * layers],
            rest[2 * layers + 1 : -1],
            rest[-1],
        )
        hidden, alignment, *new = model.decoder.chunk(
            tokens,
            DecoderState(past[:layers], past[layers:], read),
            memory[:layers],
            memory[layers:],
            mask,
        )
        gate = [model.gate.text(hidden)] if model.gate else []
        return model.decoder.logits(hidden[:, rows]), alignment, *gate, *new

    return export_step(
        model,
        step,
        inputs,
        None,
        ["logits", "alignment", *(["text"] if model.gate else []), "chunk.keys", "chunk.values"],
        axes,
    )
