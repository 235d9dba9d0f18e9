"""Causal language models in: folders of Hugging Face (config.json, safetensors, tokenizer.json) and GGUF files.

Neither torch nor transformers is needed, and a matrix is read when it is asked for: of a large model no more than one
is in memory.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from speechstream.convert.gguf import Blocks, Gguf
from speechstream.convert.llm_config import from_hugging_face
from speechstream.convert.vocabulary import from_gguf
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.llm_config import LlmConfig, RopeConfig

MOST_JSON = 64 << 20  # bytes of a tokenizer.json or config.json
GGUF_FAMILIES = ("llama", "qwen2", "qwen3")  # llama.cpp writes Mistral and SmolLM2 as "llama"
_FACTORS = "rope_freqs.weight"
_LEFT_OUT = re.compile(
    r"(^lm_head\.weight|^rope_freqs\.weight|\.inv_freq|\.masked_bias)$"
)  # tied, or computed here
_GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True)
class Chat:
    """How a model is talked to. template: a jinja template of its messages, or none. stop: ids that end a reply."""

    template: str | None = None
    bos: str = ""
    eos: str = ""
    stop: tuple[int, ...] = ()


@dataclass(frozen=True)
class LlmCheckpoint:
    """A language model as it was found. Names of tensors are Hugging Face's.

    values(name): a tensor in float32. blocks(name): the same as it is stored in blocks of 4 or 8 bits, or None.
    tokenizer: the text of a tokenizer.json.
    """

    config: LlmConfig
    names: frozenset[str]
    values: Callable[[str], np.ndarray]
    tokenizer: str
    blocks: Callable[[str], Blocks | None] = lambda name: None
    chat: Chat = field(default_factory=Chat)
    name: str = "language model"
    licence: str = ""


def is_llm(path: str | Path) -> bool:
    """Whether a file or folder looks like a language model of this reader (whether it is one, `load_llm` says)."""
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            return file.read(4) == b"GGUF"
    try:
        config = _json(path / "config.json")
    except SpeechStreamError:
        return False
    kinds = config.get("architectures") if isinstance(config, dict) else None
    return isinstance(kinds, list) and any(str(k).endswith("ForCausalLM") for k in kinds)


def load_llm(path: str | Path) -> LlmCheckpoint:
    """Read a GGUF file or a folder of Hugging Face. Raises SpeechStreamError, in one sentence, for all others."""
    path = Path(path)
    checkpoint = _from_folder(path) if path.is_dir() else _from_gguf(path)
    Tokenizer(checkpoint.tokenizer)  # raises where it is none
    expected = shapes(checkpoint.config)
    for name in expected:
        if name not in checkpoint.names:
            raise SpeechStreamError(f"{path} lacks the tensor {name!r}")
    unknown = sorted(n for n in checkpoint.names - expected.keys() if not _LEFT_OUT.search(n))
    if unknown:
        raise SpeechStreamError(
            f"{path} has an unknown tensor {unknown[0][:80]!r}, which a model of its config does not use"
        )
    return checkpoint


def shapes(config: LlmConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model and its shape."""
    c, d = config, config.head_dim
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.vocab_size, c.dim)}
    if not c.tied:
        found["lm_head.weight"] = (c.vocab_size, c.dim)
    for i in range(c.layers):
        at = f"model.layers.{i}."
        linear = {
            "self_attn.q_proj": (c.heads * d, c.dim, c.qkv_bias),
            "self_attn.k_proj": (c.kv_heads * d, c.dim, c.qkv_bias),
            "self_attn.v_proj": (c.kv_heads * d, c.dim, c.qkv_bias),
            "self_attn.o_proj": (c.dim, c.heads * d, c.out_bias),
            "mlp.gate_proj": (c.ff_dim, c.dim, c.mlp_bias),
            "mlp.up_proj": (c.ff_dim, c.dim, c.mlp_bias),
            "mlp.down_proj": (c.dim, c.ff_dim, c.mlp_bias),
        }
        for name, (rows, columns, bias) in linear.items():
            found[f"{at}{name}.weight"] = (rows, columns)
            if bias:
                found[f"{at}{name}.bias"] = (rows,)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{at}{name}.weight"] = (c.dim,)
        if c.qk_norm:
            found |= {f"{at}self_attn.{n}_norm.weight": (d,) for n in "qk"}
    found["model.norm.weight"] = (c.dim,)
    return found


def _checked(
    path: Path, config: LlmConfig, values: Callable[[str], np.ndarray]
) -> Callable[[str], np.ndarray]:
    expected = shapes(config)

    def read(name: str) -> np.ndarray:
        a = values(name)
        if name in expected and a.shape != expected[name]:
            raise SpeechStreamError(
                f"{path}: its tensor {name!r} has the shape {a.shape}, and its config says {expected[name]}"
            )
        _check_finite(path, name, a)
        return a

    return read


def _check_finite(path: Path, name: str, *numbers: np.ndarray | None) -> None:
    if not all(np.isfinite(a).all() for a in numbers if a is not None):
        raise SpeechStreamError(f"{path} is damaged: its tensor {name!r} holds NaN or infinity")


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_JSON:
            raise SpeechStreamError(f"{path} is too long to be what its name says")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is damaged: it is not JSON") from error


def _from_folder(folder: Path) -> LlmCheckpoint:
    values = _json(folder / "config.json")
    config = from_hugging_face(values)
    parts = [
        p for p in sorted(folder.glob("*.safetensors")) if not p.name.startswith("consolidated")
    ]  # which hold the same once more, in another form
    if not parts:
        raise SpeechStreamError(f"{folder} has no *.safetensors; other weights are not read")
    where: dict[str, Any] = {}
    try:
        for part in parts:
            file = safetensors.safe_open(part, framework="np")
            twice = sorted(where.keys() & set(file.keys()))
            if twice:
                raise SpeechStreamError(f"{folder} has the tensor {twice[0][:80]!r} twice")
            where |= dict.fromkeys(file.keys(), part)
    except (OSError, safetensors.SafetensorError) as error:
        raise SpeechStreamError(f"{folder} has damaged weights: {str(error)[:200]}") from error
    if not (folder / "tokenizer.json").is_file():
        raise SpeechStreamError(
            f"{folder} has no tokenizer.json; transformers writes one: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    tokenizer = json.dumps(_json(folder / "tokenizer.json"), ensure_ascii=False)

    def read(name: str) -> np.ndarray:
        if name not in where:
            raise SpeechStreamError(f"{folder} lacks the tensor {name!r}")
        return _tensor(where[name], name)

    if config.tied and "lm_head.weight" in where:  # transformers ties them where they are alike
        alike = np.array_equal(read("lm_head.weight"), read("model.embed_tokens.weight"))
        config = replace(config, tied=alike)
    return LlmCheckpoint(
        config,
        frozenset(where),
        _checked(folder, config, read),
        tokenizer,
        chat=_chat(folder, values),
        name=folder.resolve().name,
    )


def _tensor(path: Path, name: str) -> np.ndarray:
    """One tensor of a safetensors file in float32. numpy has no bfloat16, so that its bytes are read here."""
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(size))[name]
            begin, end = entry["data_offsets"]
            file.seek(8 + size + begin)
            raw = file.read(end - begin)
        kind = entry["dtype"]
        if kind == "BF16":
            flat = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif kind in ("F32", "F16", "F64"):
            flat = np.frombuffer(raw, f"<f{int(kind[1:]) // 8}").astype(np.float32)
        else:
            raise SpeechStreamError(
                f"{path}: its tensor {name!r} is of type {kind}, which is not read"
            )
        return flat.reshape(entry["shape"])
    except (OSError, ValueError, KeyError) as error:
        raise SpeechStreamError(f"{path} is damaged at its tensor {name!r}: {error}") from error


def _chat(folder: Path, config: dict[str, Any]) -> Chat:
    found, generation = {}, {}
    if (folder / "tokenizer_config.json").is_file():
        found = _json(folder / "tokenizer_config.json")
    if (folder / "generation_config.json").is_file():
        generation = _json(folder / "generation_config.json")
    if not isinstance(found, dict) or not isinstance(generation, dict):
        raise SpeechStreamError(f"{folder} has a configuration that is no JSON object")
    template = found.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8", errors="replace")
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    texts = []
    for key in ("bos_token", "eos_token"):
        token = found.get(key) or ""
        token = token.get("content", "") if isinstance(token, dict) else token
        texts.append(token if isinstance(token, str) else "")
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = ends if isinstance(ends, list) else [ends]
    stop = tuple(i for i in ends if type(i) is int and 0 <= i < config["vocab_size"])
    bos, eos = texts
    return Chat(template if isinstance(template, str) else None, bos, eos, stop)


def _from_gguf(path: Path) -> LlmCheckpoint:
    file = Gguf(path)
    meta = file.metadata
    arch = meta.get("general.architecture")
    if arch not in GGUF_FAMILIES:
        raise SpeechStreamError(
            f"{path} holds a model of the architecture {str(arch)[:40]!r}; supported are {', '.join(GGUF_FAMILIES)}"
        )
    names = {_renamed(name): name for name in file.tensors}
    try:
        config = _gguf_config(arch, meta, file, names)
    except (ValueError, TypeError, OverflowError) as error:
        raise SpeechStreamError(
            f"{path} does not describe a usable model: {str(error)[:200]}"
        ) from error
    tokenizer, texts = from_gguf(meta, path)

    # llama.cpp turns neighbouring pairs where Hugging Face turns the halves of a head: its rows of Q and K are reordered
    def order(name: str) -> np.ndarray | None:
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        if arch != "llama" or heads is None:
            return None
        rows = np.arange(heads * config.head_dim).reshape(heads, config.head_dim // 2, 2)
        return rows.transpose(0, 2, 1).ravel()

    def values(name: str) -> np.ndarray:
        a, rows = file.values(names.get(name, name)), order(name)
        return a if rows is None or len(rows) != len(a) else a[rows]

    def blocks(name: str) -> Blocks | None:
        b, rows = file.blocks(names.get(name, name)), order(name)
        if b is not None:
            _check_finite(path, name, b.scales, b.offsets)
        return b if b is None or rows is None or len(rows) != len(b.codes) else b.rows(rows)

    stop = {meta.get(f"tokenizer.ggml.{k}_token_id") for k in ("eos", "eot")}
    template = meta.get("tokenizer.chat_template")

    def text(key: str) -> str:
        i = meta.get(f"tokenizer.ggml.{key}_token_id")
        return texts[i] if type(i) is int and 0 <= i < len(texts) else ""

    chat = Chat(
        template if isinstance(template, str) else None,
        text("bos"),
        text("eos"),
        tuple(sorted(i for i in stop if type(i) is int and 0 <= i < config.vocab_size)),
    )
    return LlmCheckpoint(
        config,
        frozenset(names),
        _checked(path, config, values),
        tokenizer,
        blocks,
        chat,
        name=str(meta.get("general.name", path.stem))[:200],
        licence=str(meta.get("general.license", ""))[:100],
    )


def _renamed(name: str) -> str:
    parts = name.split(".")
    at = ""
    if parts[0] == "blk" and len(parts) > 3:
        at, parts = f"model.layers.{parts[1]}.", parts[2:]
    return at + ".".join([_GGUF_NAMES.get(parts[0], parts[0]), *parts[1:]])


def _gguf_config(arch: str, meta: dict[str, Any], file: Gguf, names: dict[str, str]) -> LlmConfig:
    def get(key: str, kind: type, default: Any = None) -> Any:
        value = meta.get(f"{arch}.{key}", default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(f"its {arch}.{key} is {str(value)[:30]!r}")
        return value

    heads, dim = get("attention.head_count", int), get("embedding_length", int)
    if f"{arch}.expert_count" in meta and meta[f"{arch}.expert_count"]:
        raise ValueError("mixtures of experts are not supported")
    head_dim = get("attention.key_length", int, dim // heads if heads else 0)
    if get("rope.dimension_count", int, head_dim) != head_dim:
        raise ValueError("heads that are rotated in part are not supported")
    rope = _gguf_rope(get)
    if _FACTORS in file.tensors:
        rope = _llama3(rope, head_dim, file.values(_FACTORS))
    embedding = file.tensors.get("token_embd.weight")
    config = LlmConfig(
        vocab_size=embedding.shape[0] if embedding else get("vocab_size", int),
        dim=dim,
        layers=get("block_count", int),
        heads=heads,
        kv_heads=get("attention.head_count_kv", int, heads),
        ff_dim=get("feed_forward_length", int),
        head_dim=head_dim,
        context=get("context_length", int),
        norm_eps=get("attention.layer_norm_rms_epsilon", float),
        rope=rope,
        tied="lm_head.weight" not in names,
        qkv_bias="model.layers.0.self_attn.q_proj.bias" in names,
        out_bias="model.layers.0.self_attn.o_proj.bias" in names,
        mlp_bias="model.layers.0.mlp.gate_proj.bias" in names,
        qk_norm="model.layers.0.self_attn.q_norm.weight" in names,
    )
    window = get("attention.sliding_window", int, 0)
    if window:
        config = replace(config, window=window, window_layers=tuple(range(config.layers)))
    return config


def _llama3(plain: RopeConfig, head_dim: int, factors: np.ndarray) -> RopeConfig:
    """The scaling of Llama 3.1 and 3.2, of which llama.cpp writes only what each frequency is divided by."""
    if plain.kind == "default" and factors.shape == (head_dim // 2,) and head_dim:
        factor = float(factors.max())
        rope = RopeConfig(plain.base, "llama3", factor, 8192, low_factor=1.0, high_factor=4.0)
        expected = plain.frequencies(head_dim) / rope.frequencies(head_dim)
        if np.allclose(factors, expected, rtol=1e-4):
            return rope
    raise ValueError("its rotary factors (rope_freqs) are not those of Llama 3.1 and 3.2")


def _gguf_rope(get: Callable[..., Any]) -> RopeConfig:
    """As llama.cpp reads it: a factor without a type is a linear one, and no factor, or 0, is 1."""
    base, kind = get("rope.freq_base", float, 10_000.0), get("rope.scaling.type", str, "linear")
    factor = get("rope.scaling.factor", float, get("rope.scale_linear", float, 0.0)) or 1.0
    for key, only in (
        ("attn_factor", (1.0,)),
        ("yarn_attn_factor", (1.0,)),
        ("yarn_ext_factor", (1.0, -1.0)),  # -1: as the type says
        ("yarn_log_multiplier", (0.0,)),
    ):
        if get(f"rope.scaling.{key}", float, only[0]) not in only:
            raise ValueError(f"its rope.scaling.{key} is not {only[0]:g}, which is not supported")
    if kind == "none" or (kind == "linear" and factor == 1):
        return RopeConfig(base)
    if kind == "linear":
        return RopeConfig(base, "linear", factor)
    if kind == "yarn":
        original = get("rope.scaling.original_context_length", int, get("context_length", int))
        sharper = 1.0 + 0.1 * math.log(factor) if factor > 1 else 1.0
        return RopeConfig(
            base,
            "yarn",
            factor,
            original,
            beta_fast=get("rope.scaling.yarn_beta_fast", float, 32.0),
            beta_slow=get("rope.scaling.yarn_beta_slow", float, 1.0),
            attention_factor=sharper,
        )
    raise ValueError(f"its rope scaling {kind[:30]!r} is not supported")
