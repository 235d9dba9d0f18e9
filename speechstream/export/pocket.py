"""pocket-tts as two graphs and a bundle that `speechstream.tts.pocket` runs without torch.

`frames.onnx`, written node by node (`export.graph`): one run reads T positions of B streams and makes the latent that
follows the last of them. Inputs: tokens (B, T) int64, -1 where a row of latents (B, T, latent_dim) stands instead; noise
(B, latent_dim); cosines and sines (B T, head_dim / 2) of the positions; seen (B,) int32, positions in the cache after this
run less one; total () int32, the most of them; keys.i and values.i (B, kv_heads, S, head_dim). Outputs: next (B,
latent_dim) to be read again, latent (B, latent_dim) for the codec, ended (B, 1), the logit of the end of speech, and
new.keys.i, new.values.i, longer by T. The flow's steps and their times are constants of the graph.

`codec.onnx`: latents (B, T, latent_dim) and the state's fields to audio (B, 1, T * frame_size) and the new fields. Its
weights stay in 32 bits: what rounding does to a codec is heard.

`voices.safetensors`: keys and values of each voice's beginning, NUMBER.keys.i and NUMBER.values.i.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.numpy import save_file
from torch import Tensor

from speechstream import bundle
from speechstream.convert.pocket import PocketCheckpoint
from speechstream.errors import SpeechStreamError
from speechstream.export.graph import Writer, check_head_dim
from speechstream.export.onnx import describe, trace_step
from speechstream.export.quantize import FP32, Weights
from speechstream.nn.pocket import Pocket
from speechstream.nn.pocket_codec import LatentDecoder
from speechstream.state import flatten
from speechstream.tts.pocket.network import (
    ARCHITECTURE,
    BLOCKS,
    CODEC,
    FRAMES,
    TOKENIZER,
    VOICES,
    WEIGHTS,
)

_INLINE = 1024  # bytes; larger tensors go to WEIGHTS, which is mapped into memory rather than read
UNNAMED = "default"  # the speaker of a checkpoint without voices


def write_pocket(
    checkpoint: PocketCheckpoint,
    folder: str | Path,
    card: dict[str, Any],
    weights: Weights = FP32,
    language: str = "en",
) -> bundle.Bundle:
    """Write the graphs, the voices and the tokenizer into a folder and make it a bundle.

    weights: of the language model and its flow head. language: of its texts, a tag such as "en-US".
    """
    one, folder = checkpoint, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)  # onnx would append
    onnx.save_model(
        frames_graph(one.model, one.sampling.steps, weights),
        folder / FRAMES,
        save_as_external_data=True,
        location=WEIGHTS,
        size_threshold=_INLINE,
    )
    onnx.save(codec_graph(one.decoder), folder / CODEC)
    save_file(voice_states(one.model, list(one.voices.values())), folder / VOICES)
    (folder / VOICES).chmod(0o644)  # safetensors leaves it to its owner alone
    (folder / TOKENIZER).write_text(one.tokenizer, encoding="utf-8")
    config = {
        "network": dataclasses.asdict(one.config),
        "sampling": dataclasses.asdict(one.sampling),
        "speakers": list(one.voices) or [UNNAMED],
        "language": language,
        "blocks": list(BLOCKS),
    }
    files = [FRAMES, WEIGHTS, CODEC, VOICES, TOKENIZER]
    return bundle.write(folder, "tts", ARCHITECTURE, config, card, files)


def voice_states(model: Pocket, voices: list[Tensor]) -> dict[str, np.ndarray]:
    """Keys and values that each voice, latents (frames, latent_dim), leaves. Without voices: one that is empty."""
    found = {}
    for n, latents in enumerate(voices or [None]):
        state = model.init_state()
        if latents is not None:
            if len(latents) + 1 > model.config.backbone.context // 2:
                raise SpeechStreamError(
                    f"a voice of {len(latents)} frames leaves no room for speech in a context of "
                    f"{model.config.backbone.context}"
                )
            with torch.no_grad():
                state = model.read_voice(latents[None], state)
        for name in ("keys", "values"):
            for i, a in enumerate(getattr(state, name)[0]):
                found[f"{n}.{name}.{i}"] = np.ascontiguousarray(a.numpy())
    return found


def codec_graph(decoder: LatentDecoder) -> onnx.ModelProto:
    """Latents to sound."""
    c, state = decoder.config, decoder.init_state(2)
    model = trace_step(  # as that of a Mimi, whose decoder it is: a small part of the time for the same graph
        decoder,
        decoder.step,
        {"latents": torch.zeros(2, 3, decoder.latent_dim)},
        state,
        ["audio"],
        {
            "latents": {0: "batch", 1: "frames"},
            **{f"state.{n}": {0: "batch"} for n in flatten(state)},
        },
    )
    about = {
        "architecture": ARCHITECTURE,
        "graph": "codec",
        "sample_rate": c.sample_rate,
        "frame_size": c.frame_size,
    }
    describe(model, about, decoder.init_state(1))
    return model


def frames_graph(model: Pocket, steps: int = 1, weights: Weights = FP32) -> onnx.ModelProto:
    """Positions to the latent that follows them, in `steps` of the flow."""
    check_head_dim(model.config.backbone.head_dim)
    return _Graph(model, steps, weights).build()


class _Graph:
    def __init__(self, model: Pocket, steps: int, weights: Weights) -> None:
        self.model, self.config, self.steps = model, model.config.backbone, steps
        self.w = Writer(weights)
        self.count = 0

    def build(self) -> onnx.ModelProto:
        c, w, m, d = self.config, self.w, self.model, self.model.config.latent_dim
        tokens = w.input("tokens", "int64", ["batch", "positions"])
        latents = w.input("latents", "float32", ["batch", "positions", d])
        noise = w.input("noise", "float32", ["batch", d])
        half = c.head_dim // 2
        self.cos = w.input("cosines", "float32", ["rows", half])
        self.sin = w.input("sines", "float32", ["rows", half])
        self.seen = w.input("seen", "int32", ["batch"])
        self.total = w.input("total", "int32", [])
        shape = w.op("Shape", tokens)
        self.batched = w.op("Concat", shape, w.const([-1]), axis=0)  # (B, T, -1)
        rows = w.op("ReduceProd", shape, keepdims=0)
        self.positions = w.op("Reshape", w.op("Range", w.const(0), rows, w.const(1)), shape)
        x = self.embed(tokens, latents)
        for i, layer in enumerate(m.layers):
            x = self.layer(i, x, layer)
        x = w.op("Reshape", x, self.batched)
        last = w.op("Gather", x, w.const(-1), axis=1)  # (B, dim)
        w.new_rows()
        last = self.norm(last, "norm", m.norm)
        w.output("ended", self.linear(last, "eos_head", m.eos_head), "float32", ["batch", 1])
        found = self.flow(noise, last)
        std, mean = (self.array(t, n) for t, n in ((m.latent_std, "std"), (m.latent_mean, "mean")))
        scaled = w.op("Add", w.op("Mul", found, std), mean)
        w.output("latent", scaled, "float32", ["batch", d])
        w.output("next", found, "float32", ["batch", d])
        return w.model()

    def embed(self, tokens: str, latents: str) -> str:
        """(B T, dim)."""
        w, m = self.w, self.model
        table = m.embed_tokens.weight.detach().clone()
        table[m.config.bos] = m.audio_latent_proj.weight.detach() @ m.bos_latent.detach()
        flat = w.op("Reshape", tokens, w.const([-1]))
        known = w.op("Max", flat, w.const(0))
        words = w.op("Gather", self.array(table, "embed_tokens.weight"), known)
        rows = w.op("Reshape", latents, w.const([-1, m.config.latent_dim]))
        projection = self.array(m.audio_latent_proj.weight.T, "audio_latent_proj.weight.T")
        heard = w.op("MatMul", rows, projection)
        is_latent = w.op("Unsqueeze", w.op("Less", flat, w.const(0)), w.const([1]))
        return w.op("Where", is_latent, heard, words)

    def layer(self, i: int, x: str, layer: Any) -> str:
        """x (B T, dim) through layer i."""
        c, w, a, at = self.config, self.w, layer.self_attn, f"layers.{i}"
        q_size, kv_size = c.heads * c.head_dim, c.kv_heads * c.head_dim
        h = self.norm(x, f"{at}.input_layernorm", layer.input_layernorm)
        parts = (a.q_proj, a.k_proj, a.v_proj)
        h = self.linear(h, f"{at}.self_attn.qkv", *parts)
        h = w.op("Reshape", h, self.batched)
        both = w.slice(h, 0, q_size + kv_size, 2)
        both = w.op("RotaryEmbedding", both, self.positions, self.cos, self.sin)
        q, k = w.slice(both, 0, q_size, 2), w.slice(both, q_size, q_size + kv_size, 2)
        v = w.slice(h, q_size + kv_size, q_size + 2 * kv_size, 2)
        axes: list[int | str] = ["batch", c.kv_heads, "past", c.head_dim]
        longer: list[int | str] = ["batch", c.kv_heads, "read", c.head_dim]
        past = [w.input(f"{n}.{i}", "float32", axes) for n in ("keys", "values")]
        attended, *new = w.op(
            "GroupQueryAttention",
            q,
            k,
            v,
            *past,
            self.seen,
            self.total,
            outputs=3,
            num_heads=c.heads,
            kv_num_heads=c.kv_heads,
        )
        for name, value in zip(("keys", "values"), new):
            w.output(f"new.{name}.{i}", value, "float32", longer)
        attended = w.op("Reshape", attended, w.const([-1, q_size]))
        x = w.op("Add", x, self.linear(attended, f"{at}.self_attn.o_proj", a.o_proj))
        h = self.norm(x, f"{at}.post_attention_layernorm", layer.post_attention_layernorm)
        h = self.linear(h, f"{at}.mlp.fc1", layer.mlp.fc1)
        tanh = self.model.config.activation == "gelu_tanh"
        h = w.op("Gelu", h, approximate="tanh" if tanh else "none")
        return w.op("Add", x, self.linear(h, f"{at}.mlp.fc2", layer.mlp.fc2))

    def flow(self, noise: str, condition: str) -> str:
        """Noise to a latent (B, latent_dim)."""
        w, head = self.w, self.model.flow_head
        drifting = head.config.kind == "drifting"
        steps = 1 if drifting else self.steps
        known = self.linear(condition, "flow_head.cond_proj", head.cond_proj)
        x = noise
        for i in range(steps):
            timed = known
            if not drifting:
                with torch.no_grad():
                    time = self.array(head.time(i, steps), f"flow_head.time.{i}")
                timed = w.op("Add", known, time)
            velocity = self.velocity(x, timed)
            if drifting:
                return velocity
            step = velocity if steps == 1 else w.op("Mul", velocity, w.const(1 / steps, np.float32))
            x = w.op("Add", x, step)
        return x

    def velocity(self, x: str, condition: str) -> str:
        w, head, d = self.w, self.model.flow_head, self.model.flow_head.config.dim
        bright = self.silu(condition)
        x = self.linear(x, "flow_head.input_proj", head.input_proj)
        for i, block in enumerate(head.layers):
            at = f"flow_head.layers.{i}"
            moves = self.linear(bright, f"{at}.adaln_proj", block.adaln_proj)
            shift, scale, gate = (w.slice(moves, j * d, (j + 1) * d, 1) for j in range(3))
            h = self.moved(self.norm(x, f"{at}.norm", block.norm), shift, scale)
            h = self.silu(self.linear(h, f"{at}.fc1", block.fc1))
            h = self.linear(h, f"{at}.fc2", block.fc2)
            x = w.op("Add", x, w.op("Mul", gate, h))
        final, at = head.final_layer, "flow_head.final_layer"
        moves = self.linear(bright, f"{at}.adaln_proj", final.adaln_proj)
        shift, scale = (w.slice(moves, j * d, (j + 1) * d, 1) for j in range(2))
        x = self.moved(self.norm(x, f"{at}.norm", final.norm), shift, scale)
        return self.linear(x, f"{at}.proj", final.proj)

    def moved(self, x: str, shift: str, scale: str) -> str:
        w = self.w
        return w.op("Add", w.op("Mul", x, w.op("Add", scale, w.const(1, np.float32))), shift)

    def silu(self, x: str) -> str:
        return self.w.op("QuickGelu", x, alpha=1.0)  # x sigmoid(x)

    def norm(self, x: str, name: str, norm: Any) -> str:
        size = norm.normalized_shape[0]
        weight = torch.ones(size) if norm.weight is None else norm.weight
        bias = torch.zeros(size) if norm.bias is None else norm.bias
        parts = [self.array(weight, f"{name}.weight"), self.array(bias, f"{name}.bias")]
        return self.w.op("LayerNormalization", x, *parts, axis=-1, epsilon=norm.eps)

    def linear(self, x: str, name: str, *layers: Any) -> str:
        """x (rows, K) by the matrices of these layers, side by side."""
        weight = torch.cat([one.weight for one in layers]).detach().numpy()
        biases = [one.bias for one in layers if one.bias is not None]
        bias = torch.cat(biases).detach().numpy() if biases else None
        return self.w.linear(x, name, weight, bias)

    def array(self, tensor: Any, name: str) -> str:
        return self.w.tensor(tensor.detach().numpy(), name)
