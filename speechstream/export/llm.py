"""A causal language model as one graph whose keys and values lie with its caller, and as a bundle.

Written node by node (`export.graph`), without torch. Attention is onnxruntime's `GroupQueryAttention`: it reads keys and
values up to each stream's length and appends the new ones where they lie, if the output is bound to its input's memory
(the operation is made for that), so that a step copies nothing.

Inputs: tokens (B, T) int64; rows (R,) int64, which of the B T positions get logits; cosines and sines (B T, head_dim / 2)
of the positions; seen (B,) int32, tokens in the cache after this step less one; total () int32, the most of them;
keys.i and values.i (B, kv_heads, C, head_dim) with room for the new tokens. Outputs: logits (R, vocab_size), and
new.keys.i, new.values.i.

Weights of 4 and 8 bits are `MatMulNBits`. What a GGUF file holds in blocks is kept to the bit: codes and scales go into the
operation, and the offset of a block, which that cannot hold in floats, is a small product with the sums of the input's blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from speechstream import bundle
from speechstream.convert.gguf import Blocks
from speechstream.convert.llm import LlmCheckpoint
from speechstream.errors import SpeechStreamError
from speechstream.export.graph import Writer
from speechstream.export.quantize import quantize_blocks
from speechstream.nn.llm_config import to_dict

FORMS = ("own", "fp32", "int8", "int4")  # own: as the checkpoint has it, fp32 where it has floats
ARCHITECTURE, TASK = "causal-llm", "lm"
GRAPH, WEIGHTS, TOKENIZER = "model.onnx", "weights.bin", "tokenizer.json"
BLOCK = 32
_INLINE = 1024  # bytes; larger tensors go to WEIGHTS, which is mapped into memory rather than read


def write_llm(
    checkpoint: LlmCheckpoint,
    folder: str | Path,
    card: dict[str, Any],
    form: str = "own",
) -> bundle.Bundle:
    """Write the graph, its weights and the tokenizer into a folder and make it a bundle."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    graph = llm_graph(checkpoint, form)
    (folder / WEIGHTS).unlink(missing_ok=True)  # onnx would append
    onnx.save_model(
        graph,
        folder / GRAPH,
        save_as_external_data=True,
        location=WEIGHTS,
        size_threshold=_INLINE,
    )
    (folder / TOKENIZER).write_text(checkpoint.tokenizer, encoding="utf-8")
    chat = checkpoint.chat
    config = {
        "network": to_dict(checkpoint.config),
        "chat": {
            "template": chat.template,
            "bos": chat.bos,
            "eos": chat.eos,
            "stop": list(chat.stop),
        },
    }
    return bundle.write(folder, TASK, ARCHITECTURE, config, card, [GRAPH, WEIGHTS, TOKENIZER])


def llm_graph(checkpoint: LlmCheckpoint, form: str = "own", outputs: int = 0) -> onnx.ModelProto:
    """The graph of a checkpoint with its weights in a form of FORMS. outputs: logits, where the output layer has other
    tokens than the input; 0: the vocabulary. Raises SpeechStreamError for what does not fit."""
    if form not in FORMS:
        raise ValueError(f"the form of the weights must be one of {', '.join(FORMS)}; got {form!r}")
    return _Graph(checkpoint, form, outputs).build()


class _Graph:
    def __init__(self, checkpoint: LlmCheckpoint, form: str, outputs: int = 0):
        self.checkpoint, self.config, self.form = checkpoint, checkpoint.config, form
        self.outputs = outputs or self.config.vocab_size
        self.w = Writer()
        self.sums: dict[str, str] = {}  # of the blocks of an activation

    def build(self) -> onnx.ModelProto:
        c, w = self.config, self.w
        tokens = w.input("tokens", "int64", ["batch", "tokens"])
        rows = w.input("rows", "int64", ["rows"])
        half = c.head_dim // 2
        self.cos = w.input("cosines", "float32", ["positions", half])
        self.sin = w.input("sines", "float32", ["positions", half])
        self.seen = w.input("seen", "int32", ["batch"])
        self.total = w.input("total", "int32", [])
        shape = w.op("Shape", tokens)
        self.batched = w.op("Concat", shape, w.const([-1]), axis=0)  # (B, T, -1)
        self.heads = w.op("Concat", shape, w.const([-1, c.head_dim]), axis=0)
        count = w.op("ReduceProd", shape, keepdims=0)
        self.positions = w.op("Reshape", w.op("Range", w.const(0), count, w.const(1)), shape)
        flat = w.op("Reshape", tokens, w.const([-1]))
        x = self.embed(flat)
        for i in range(c.layers):
            x = self.layer(i, x)
        x = w.op("Gather", x, rows, axis=0)
        x = self.norm(x, "model.norm")
        head = "model.embed_tokens" if c.tied else "lm_head"
        w.output("logits", self.linear(x, [head]), "float32", ["rows", self.outputs])
        return w.model()

    def layer(self, i: int, x: str) -> str:
        """x (B T, dim) through layer i."""
        c, w, at = self.config, self.w, f"model.layers.{i}."
        q_size, kv_size = c.heads * c.head_dim, c.kv_heads * c.head_dim
        h = self.norm(x, at + "input_layernorm")
        h = self.linear(h, [f"{at}self_attn.{n}_proj" for n in "qkv"])
        h = w.op("Reshape", h, self.batched)
        if c.qk_norm:
            q = self.head_norm(w.slice(h, 0, q_size, 2), at + "self_attn.q_norm")
            k = self.head_norm(w.slice(h, q_size, q_size + kv_size, 2), at + "self_attn.k_norm")
            q, k = (w.op("RotaryEmbedding", a, self.positions, self.cos, self.sin) for a in (q, k))
        else:
            both = w.slice(h, 0, q_size + kv_size, 2)
            both = w.op("RotaryEmbedding", both, self.positions, self.cos, self.sin)
            q, k = w.slice(both, 0, q_size, 2), w.slice(both, q_size, q_size + kv_size, 2)
        v = w.slice(h, q_size + kv_size, q_size + 2 * kv_size, 2)
        axes: list[int | str] = ["batch", c.kv_heads, "capacity", c.head_dim]
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
            **({"local_window_size": c.window} if i in c.window_layers else {}),
        )
        for name, value in zip(("keys", "values"), new):
            w.output(f"new.{name}.{i}", value, "float32", axes)
        attended = w.op("Reshape", attended, w.const([-1, q_size]))
        x = w.op("Add", x, self.linear(attended, [at + "self_attn.o_proj"]))
        h = self.norm(x, at + "post_attention_layernorm")
        h = self.linear(h, [at + "mlp.gate_proj", at + "mlp.up_proj"])
        gate, up = w.slice(h, 0, c.ff_dim, 1), w.slice(h, c.ff_dim, 2 * c.ff_dim, 1)
        h = w.op("Mul", w.op("QuickGelu", gate, alpha=1.0), up)  # x sigmoid(x)
        return w.op("Add", x, self.linear(h, [at + "mlp.down_proj"]))

    def norm(self, x: str, name: str) -> str:
        weight = self.w.tensor(self.checkpoint.values(name + ".weight"), name)
        return self.w.op(
            "SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=self.config.norm_eps
        )

    def head_norm(self, x: str, name: str) -> str:
        """(B, T, H Dh), each head for itself."""
        return self.w.op(
            "Reshape", self.norm(self.w.op("Reshape", x, self.heads), name), self.batched
        )

    def stored(self, name: str) -> Blocks | None:
        """A matrix in blocks, or None where it is to be kept in floats."""
        bits = {"int8": 8, "int4": 4}.get(self.form)
        if self.form == "fp32":
            return None
        if name in ("model.embed_tokens", "lm_head") and bits == 4:
            bits = 8  # of the words themselves, four bits would lose too much
        found = self.checkpoint.blocks(name + ".weight") if bits is None else None
        if found is not None and found.block >= BLOCK:
            return found
        if found is not None:
            bits = 8  # Q6_K, whose blocks of 16 are too small
        if bits is None:
            return None
        weight = self.checkpoint.values(name + ".weight")
        if weight.shape[1] % BLOCK:
            return None
        codes, scales = quantize_blocks(weight, 8, BLOCK) if bits == 8 else _four(weight)
        return Blocks(bits, codes.reshape(weight.shape), scales, None)

    def embed(self, tokens: str) -> str:
        """Ids (B T,) to embeddings (B T, dim); 8-bit codes are those that the output layer reads too."""
        w, name, dim = self.w, "model.embed_tokens", self.config.dim
        b = self.stored(name)
        if b is None:
            return w.op("Gather", w.tensor(self.values(name), name), tokens)
        if b.bits != 8 or b.offsets is not None:
            return w.op("Gather", w.tensor(b.values().astype(np.float16), name), tokens)
        codes, scales = self.tensors(name, b)
        found = w.op("Cast", w.op("Gather", codes, tokens), to=onnx.TensorProto.FLOAT)
        found = w.op("Sub", found, w.const(128, np.float32))
        scale = w.op("Unsqueeze", w.op("Gather", scales, tokens), w.const([2]))
        return w.op("Reshape", w.op("Mul", found, scale), w.const([-1, dim]))

    def values(self, name: str) -> np.ndarray:
        return self.checkpoint.values(name + ".weight")

    def tensors(self, name: str, b: Blocks) -> tuple[str, str]:
        """Codes (N, blocks, bytes) and scales (N, blocks) as weights of the graph."""
        codes = b.codes
        if b.bits == 4:
            codes = codes[:, 0::2] | (codes[:, 1::2] << 4)
        codes = codes.reshape(len(codes), b.scales.shape[1], -1)
        return self.w.tensor(codes, name + ".codes"), self.w.tensor(b.scales, name + ".scales")

    def linear(self, x: str, names: list[str]) -> str:
        """x (rows, K) by the matrices of these names, side by side."""
        w, parts = self.w, [self.stored(n) for n in names]
        blocks = [p for p in parts if p is not None]
        alike = len({(p.bits, p.block, p.offsets is None) for p in blocks}) == 1
        if len(blocks) == len(parts) and alike:
            offsets = [p.offsets for p in blocks if p.offsets is not None]
            whole = Blocks(
                blocks[0].bits,
                np.concatenate([p.codes for p in blocks]),
                np.concatenate([p.scales for p in blocks]),
                np.concatenate(offsets) if offsets else None,
            )
            y = self.product(x, names[0], whole)
        elif not blocks:
            weight = np.concatenate([self.values(n) for n in names])
            y = w.op("MatMul", x, w.tensor(weight.T, names[0] + ".T"))
        elif len(names) > 1:  # as K-quants mix them
            return w.op("Concat", *(self.linear(x, [n]) for n in names), axis=-1)
        else:
            raise SpeechStreamError(f"{names[0]} is stored in a way that is not supported")
        if f"{names[0]}.bias" in self.checkpoint.names:
            bias = np.concatenate([self.checkpoint.values(n + ".bias") for n in names])
            y = w.op("Add", y, w.tensor(bias, names[0] + ".bias"))
        return y

    def product(self, x: str, name: str, b: Blocks) -> str:
        w, (n, k) = self.w, b.codes.shape
        y = w.op(
            "MatMulNBits",
            x,
            *self.tensors(name, b),
            K=k,
            N=n,
            bits=b.bits,
            block_size=b.block,
            accuracy_level=4,
        )
        if b.offsets is None:
            return y
        if x not in self.sums:
            blocks = w.op("Reshape", x, w.const([-1, k // b.block, b.block]))
            self.sums[x] = w.op("ReduceSum", blocks, w.const([2]), keepdims=0)
        return w.op(
            "Add", y, w.op("MatMul", self.sums[x], w.tensor(b.offsets.T, name + ".offsets"))
        )


def _four(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix to 4-bit codes (not packed) and scales: of each block the number of largest size becomes -8 exactly.

    That is Q4_0's way: all 16 codes are used, where a symmetric step uses 15.
    """
    blocks = weight.reshape(len(weight), -1, BLOCK)
    most = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
    scales = np.where(most == 0, 1e-12, most / -8).astype(np.float32)
    codes = np.clip(np.rint(blocks / scales[..., None]) + 8, 0, 15).astype(np.uint8)
    return codes, scales
