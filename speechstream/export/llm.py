"""A causal language model as one graph whose keys and values lie with its caller, and as a bundle.

Written node by node (`export.graph`), without torch. Attention is onnxruntime's `GroupQueryAttention`: it reads keys and
values up to each stream's length and appends the new ones where they lie, if the output is bound to its input's memory
(the operation is made for that), so that a step copies nothing.

Inputs: tokens (B, T) int64; rows (R,) int64, which of the B T positions get logits; cosines and sines (B T, head_dim / 2)
of the positions; seen (B,) int32, tokens in the cache after this step less one; total () int32, the most of them;
keys.i and values.i (B, kv_heads, C, head_dim) with room for the new tokens. Outputs: logits (R, vocab_size), and
new.keys.i, new.values.i.

By `KvConfig`: heads that stream are a second group with memory and lengths of their own, recent.keys.i, recent.seen and so on.
In 8 bits keys and values are int8, with scale.keys.i (heads, 1, head_dim) and scale.values.i. With a shared prefix there
are prefix.keys.i (heads, head_dim, P) and prefix.values.i (heads, P, head_dim), prefix.bias () that is added to its
scores, and prefix.cosines and prefix.sines of the positions as seen from it: its attention is one product for all streams,
joined with that to their own tokens by the sums of both softmaxes. Where queries are asked for, they are one more output:
queries (B T, layers, kv_heads, head_dim), before their rotation, of each head of keys the mean of its heads of queries.

Weights of 4 and 8 bits are `MatMulNBits`. What a GGUF file holds in blocks is kept to the bit: codes and scales go into the
operation, and the offset of a block, which that cannot hold in floats, is a small product with the sums of the input's blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import save_file

from speechstream import bundle
from speechstream.convert.gguf import Blocks
from speechstream.convert.llm import LlmCheckpoint
from speechstream.errors import SpeechStreamError
from speechstream.export.graph import Writer, check_head_dim
from speechstream.export.quantize import four_bits, quantize_blocks
from speechstream.nn.llm_config import FLOATS, KvConfig, kv_to_dict, to_dict

FORMS = ("own", "fp32", "int8", "int4")  # own: as the checkpoint has it, fp32 where it has floats
ARCHITECTURE, TASK = "causal-llm", "lm"
GRAPH, WEIGHTS, TOKENIZER = "model.onnx", "weights.bin", "tokenizer.json"
BLOCK = 32
SCALES = "kv_scales.safetensors"
GROUPS = ("", "recent.")  # the heads that see all, and those that stream
_INLINE = 1024  # bytes; larger tensors go to WEIGHTS, which is mapped into memory rather than read


def write_llm(
    checkpoint: LlmCheckpoint,
    folder: str | Path,
    card: dict[str, Any],
    form: str = "own",
    kv: KvConfig = FLOATS,
    scales: np.ndarray | None = None,
) -> bundle.Bundle:
    """Write the graph, its weights and the tokenizer into a folder and make it a bundle.

    scales (2, layers, kv_heads, head_dim): of keys and values of 8 bits, see `export.kv_scales`.
    """
    folder = Path(folder)
    graph = llm_graph(checkpoint, form, kv)
    folder.mkdir(parents=True, exist_ok=True)
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
    files = [GRAPH, WEIGHTS, TOKENIZER]
    if kv != FLOATS:
        config["cache"] = kv_to_dict(kv)
    if kv.bits == 8:
        if scales is None:
            raise ValueError("keys and values of 8 bits need their scales")
        save_file({"scales": np.asarray(scales, np.float32)}, folder / SCALES)
        files.append(SCALES)
    return bundle.write(folder, TASK, ARCHITECTURE, config, card, files)


def llm_graph(
    checkpoint: LlmCheckpoint, form: str = "own", kv: KvConfig = FLOATS, outputs: int = 0
) -> onnx.ModelProto:
    """The graph of a checkpoint with its weights in a form of FORMS. outputs: logits, where the output layer has other
    tokens than the input; 0: the vocabulary. Raises SpeechStreamError for what does not fit."""
    if form not in FORMS:
        raise ValueError(f"the form of the weights must be one of {', '.join(FORMS)}; got {form!r}")
    if kv.shared and checkpoint.config.window_layers:
        raise ValueError("a prefix cannot be shared in a model with sliding windows")
    return _Graph(checkpoint, form, kv, outputs).build()


class _Graph:
    def __init__(self, checkpoint: LlmCheckpoint, form: str, kv: KvConfig, outputs: int = 0):
        check_head_dim(checkpoint.config.head_dim)
        self.kv, self.groups = kv, kv.groups(checkpoint.config)
        self.checkpoint, self.config, self.form = checkpoint, checkpoint.config, form
        self.outputs = outputs or self.config.vocab_size
        self.w = Writer()
        self.sums: dict[str, str] = {}  # of the blocks of an activation
        self.asked: list[str] = []  # by each layer

    def build(self) -> onnx.ModelProto:
        c, w = self.config, self.w
        tokens = w.input("tokens", "int64", ["batch", "tokens"])
        rows = w.input("rows", "int64", ["rows"])
        half = c.head_dim // 2
        self.cos = w.input("cosines", "float32", ["positions", half])
        self.sin = w.input("sines", "float32", ["positions", half])
        lengths = [
            (w.input(f"{name}seen", "int32", ["batch"]), w.input(f"{name}total", "int32", []))
            for name in GROUPS[: len(self.groups)]
        ]
        shape = w.op("Shape", tokens)
        self.batched = w.op("Concat", shape, w.const([-1]), axis=0)  # (B, T, -1)
        self.heads = w.op("Concat", shape, w.const([-1, c.head_dim]), axis=0)  # (B, T, heads, Dh)
        count = w.op("ReduceProd", shape, keepdims=0)
        self.positions = w.op("Reshape", w.op("Range", w.const(0), count, w.const(1)), shape)
        self.memories = [
            _Memory(self, name, *length, shape) for name, length in zip(GROUPS, lengths)
        ]
        if self.kv.shared:
            self.bias = w.input("prefix.bias", "float32", [])
        flat = w.op("Reshape", tokens, w.const([-1]))
        x = self.embed(flat)
        for i in range(c.layers):
            x = self.layer(i, x)
        x = w.op("Gather", x, rows, axis=0)
        x = self.norm(x, "model.norm")
        head = "model.embed_tokens" if c.tied else "lm_head"
        w.output("logits", self.linear(x, [head]), "float32", ["rows", self.outputs])
        if self.kv.queries:
            axes: list[int | str] = ["positions", c.layers, c.kv_heads, c.head_dim]
            w.output("queries", w.op("Concat", *self.asked, axis=1), "float32", axes)
        return w.model()

    def layer(self, i: int, x: str) -> str:
        """x (B T, dim) through layer i."""
        c, w, at = self.config, self.w, f"model.layers.{i}."
        q_size, kv_size = c.heads * c.head_dim, c.kv_heads * c.head_dim
        h = self.norm(x, at + "input_layernorm")
        h = self.linear(h, [f"{at}self_attn.{n}_proj" for n in "qkv"])
        h = w.op("Reshape", h, self.batched)
        if c.qk_norm:
            raw = self.head_norm(w.slice(h, 0, q_size, 2), at + "self_attn.q_norm")
            k = self.head_norm(w.slice(h, q_size, q_size + kv_size, 2), at + "self_attn.k_norm")
            q, k = self.rotated(raw), self.rotated(k)
        else:
            both = w.slice(h, 0, q_size + kv_size, 2)
            raw = w.slice(both, 0, q_size, 2) if self.kv.shared or self.kv.queries else ""
            both = self.rotated(both)
            q, k = w.slice(both, 0, q_size, 2), w.slice(both, q_size, q_size + kv_size, 2)
        if self.kv.queries:
            each = w.op(
                "Reshape", raw, w.const([-1, 1, c.kv_heads, c.heads // c.kv_heads, c.head_dim])
            )
            self.asked.append(w.op("ReduceMean", each, w.const([3]), keepdims=0))
        v = w.slice(h, q_size + kv_size, q_size + 2 * kv_size, 2)
        attended = self.attention(i, q, k, v, raw)
        attended = w.op("Reshape", attended, w.const([-1, q_size]))
        x = w.op("Add", x, self.linear(attended, [at + "self_attn.o_proj"]))
        h = self.norm(x, at + "post_attention_layernorm")
        h = self.linear(h, [at + "mlp.gate_proj", at + "mlp.up_proj"])
        gate, up = w.slice(h, 0, c.ff_dim, 1), w.slice(h, c.ff_dim, 2 * c.ff_dim, 1)
        h = w.op("Mul", w.op("QuickGelu", gate, alpha=1.0), up)  # x sigmoid(x)
        return w.op("Add", x, self.linear(h, [at + "mlp.down_proj"]))

    def rotated(self, x: str) -> str:
        return self.w.op("RotaryEmbedding", x, self.positions, self.cos, self.sin)

    def attention(self, i: int, q: str, k: str, v: str, raw: str) -> str:
        """What the heads of layer i find (B, T, heads head_dim). raw: queries that are not rotated yet, for the prefix."""
        c, each = self.config, self.config.heads // self.config.kv_heads
        used = [(m, g[i]) for m, g in zip(self.memories, self.groups) if g[i]]
        if len(used) == 1:
            return used[0][0].attention(i, len(used[0][1]), q, k, v, raw)
        found, order = [], []
        for memory, heads in used:
            queries = [h * each + j for h in heads for j in range(each)]
            own = [self.pick(a, n) for a, n in ((q, queries), (k, heads), (v, heads))]
            some = self.pick(raw, queries) if self.kv.shared else ""
            found.append(memory.attention(i, len(heads), own[0], own[1], own[2], some))
            order += queries
        back = [order.index(h) for h in range(c.heads)]
        return self.pick(self.w.op("Concat", *found, axis=2), back)

    def pick(self, x: str, heads: list[int]) -> str:
        """Some heads of (B, T, heads head_dim), in this order."""
        found = self.w.op(
            "Gather", self.w.op("Reshape", x, self.heads), self.w.const(heads), axis=2
        )
        return self.w.op("Reshape", found, self.batched)

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
        codes, scales = quantize_blocks(weight, 8, BLOCK) if bits == 8 else four_bits(weight, BLOCK)
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


class _Memory:
    """The keys and values of one group of heads, and its attention. shape: of the tokens (B, T)."""

    def __init__(self, graph: _Graph, name: str, seen: str, total: str, shape: str):
        self.graph, self.name, self.seen, self.total = graph, name, seen, total
        w, half = graph.w, graph.config.head_dim // 2
        if graph.kv.shared:
            self.cos = w.input(f"{name}prefix.cosines", "float32", ["positions", half])
            self.sin = w.input(f"{name}prefix.sines", "float32", ["positions", half])
            # which of the scores are real: (B, 1, T, total)
            length = w.op("Cast", total, to=onnx.TensorProto.INT64)
            rows = w.op("Range", w.const(0), length, w.const(1))
            steps = w.op("Gather", shape, w.const(1))
            back = w.op("Range", w.op("Sub", w.const(1), steps), w.const(1), w.const(1))
            last = w.op("Cast", seen, to=onnx.TensorProto.INT64)
            last = w.op("Add", w.op("Unsqueeze", last, w.const([1])), back)  # (B, T)
            last = w.op("Unsqueeze", last, w.const([1, 3]))
            self.real = w.op("LessOrEqual", rows, last)

    def attention(self, i: int, heads: int, q: str, k: str, v: str, raw: str) -> str:
        """Of layer i, with `heads` heads of keys in this group; q, k rotated, (B, T, .)."""
        g, w, c, name = self.graph, self.graph.w, self.graph.config, self.name
        axes: list[int | str] = ["batch", heads, f"{name}capacity", c.head_dim]
        each = c.heads // c.kv_heads
        kind = "float32" if g.kv.bits == 32 else "int8"
        past = [w.input(f"{name}{n}.{i}", kind, axes) for n in ("keys", "values")]
        inputs = [self.seen, self.total]
        options: dict[str, Any] = {}
        if g.kv.bits == 8:
            shape = [heads, 1, c.head_dim]
            scales = [w.input(f"{name}scale.{n}.{i}", "float32", shape) for n in ("keys", "values")]
            inputs += ["", "", "", "", "", *scales]
            options = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
            options |= {"kv_cache_bit_width": 8}
        if i in c.window_layers:
            options["local_window_size"] = c.window
        if g.kv.shared:
            options["qk_output"] = 1
        attended, *new = w.op(
            "GroupQueryAttention",
            q,
            k,
            v,
            *past,
            *inputs,
            outputs=4 if g.kv.shared else 3,
            num_heads=heads * each,
            kv_num_heads=heads,
            **options,
        )
        for n, value in zip(("keys", "values"), new):
            w.output(f"new.{name}{n}.{i}", value, kind, axes)
        return self.joined(i, heads, attended, new[2], raw) if g.kv.shared else attended

    def joined(self, i: int, heads: int, attended: str, scores: str, raw: str) -> str:
        """With what the prefix holds: both softmaxes weighted by their sums, of which the scores (B, H, T, total) of the own
        tokens give one."""
        g, w, c, name = self.graph, self.graph.w, self.graph.config, self.name
        d, each = c.head_dim, c.heads // c.kv_heads
        keys = w.input(f"{name}prefix.keys.{i}", "float32", [heads, d, "prefix"])
        values = w.input(f"{name}prefix.values.{i}", "float32", [heads, "prefix", d])
        q = w.op("RotaryEmbedding", raw, g.positions, self.cos, self.sin)
        q = w.op("Mul", q, w.const(d**-0.5, np.float32))
        q = w.op("Transpose", w.op("Reshape", q, w.const([-1, heads, each * d])), perm=[1, 0, 2])
        q = w.op(
            "Reshape", q, w.const([heads, -1, d])
        )  # rows: of all streams, tokens, queries of a head
        there = w.op("Add", w.op("MatMul", q, keys), g.bias)
        most = w.op("ReduceLogSumExp", there, w.const([-1]))
        found = w.op("MatMul", w.op("Exp", w.op("Sub", there, most)), values)
        found, most = (
            w.op(
                "Reshape",
                w.op(
                    "Transpose",
                    w.op("Reshape", a, w.const([heads, -1, each, n])),
                    perm=[1, 0, 2, 3],
                ),
                w.const([-1, heads * each, n]),
            )
            for a, n in ((found, d), (most, 1))
        )
        scores = w.op("Where", self.real, scores, w.const(-1e30, np.float32))
        own = w.op("Transpose", w.op("ReduceLogSumExp", scores, w.const([-1])), perm=[0, 2, 1, 3])
        own = w.op("Reshape", own, w.const([-1, heads * each, 1]))
        share = w.op("Sigmoid", w.op("Sub", own, most))
        attended = w.op("Reshape", attended, w.const([-1, heads * each, d]))
        mixed = w.op("Add", found, w.op("Mul", share, w.op("Sub", attended, found)))
        return w.op("Reshape", mixed, g.batched)
