"""Kyutai's speech-to-text in: a folder of transformers, or one of moshi, as a bundle.

transformers: config.json, generation_config.json, preprocessor_config.json, *.safetensors (with the codec in them),
tokenizer.json. moshi: config.json, which names the other three: the language model's safetensors, the codec's, and
the SentencePiece model. Matrices of the language model are copied as they are stored, one at a time; the codec's
encoder is kept in float32.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechstream import bundle
from speechstream.bundle import Bundle
from speechstream.config import Section
from speechstream.convert.kyutai_config import KIND, from_moshi, from_transformers
from speechstream.convert.mimi import convert_weights
from speechstream.convert.pieces import from_sentencepiece, from_tokenizer_json
from speechstream.convert.stored import (
    BOOL,
    Made,
    Stored,
    check_shapes,
    first_line,
    header,
    read_json,
    write,
)
from speechstream.errors import SpeechStreamError
from speechstream.nn.kyutai import shapes
from speechstream.nn.kyutai_config import KyutaiBundle, KyutaiConfig
from speechstream.nn.mimi_config import MimiConfig

ARCHITECTURE = "kyutai-stt"
WEIGHTS, TOKENS = "model.safetensors", "tokens.json"
SPECIAL = 4  # tokens that write nothing: the unknown, which marks words, two that are not used, and the padding
CODEC = "codec_model."  # before the codec's tensors in transformers' files
_WAY_OUT = re.compile(r"^(decoder|decoder_transformer|upsample)\.")  # of the codec: not needed
_NAMES = (  # transformers' name of a tensor, ours
    (r"^model\.(layers\.|norm\.)", r"\1"),
    (r"_proj\.linear\.", "_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    (r"^lm_head\.", "head."),
)
_MOSHI_NAMES = (
    (r"^transformer\.", ""),
    (r"\.gating\.linear_out\.", ".mlp.down_proj."),
    (r"\.self_attn\.out_projs?(\.0)?\.weight$", ".self_attn.o_proj.weight"),
    (r"\.norm1\.alpha$", ".input_layernorm.weight"),
    (r"\.norm2\.alpha$", ".post_attention_layernorm.weight"),
    (r"^out_norm\.alpha$", "norm.weight"),
    (r"^text_linear\.", "head."),
    (r"^extra_heads\.", "pauses."),
)
_MOSHI_QKV = re.compile(r"\.self_attn\.in_proj(_weight|\.weight|s\.0\.weight)$")
Tensors = dict[str, Stored | Made]


def is_kyutai(path: str | Path) -> bool:
    """Whether a folder looks like a Kyutai speech-to-text (whether it is one, `convert_kyutai` says)."""
    try:
        config = read_json(Path(path) / "config.json")
    except SpeechStreamError:
        return False
    if not isinstance(config, dict):
        return False
    return config.get("model_type") == KIND or (
        "mimi_name" in config and ("stt_config" in config or config.get("model_type") == "stt")
    )


def convert_kyutai(source: str | Path, target: str | Path, card: dict[str, Any]) -> Bundle:
    """Write a checkpoint's folder as a bundle. Raises SpeechStreamError, in one sentence, for what is not supported."""
    source, target = Path(source), Path(target)
    try:
        config = Section(read_json(source / "config.json"))
        read_layout = _transformers if config.raw("model_type") == KIND else _moshi
        about, tensors, codec, pieces = read_layout(source, config)
    except (ValueError, OverflowError, RecursionError) as error:
        raise SpeechStreamError(f"{source} is not supported: {first_line(error)}") from error
    network = about.network
    expected = shapes(network)
    tensors |= codec_tensors(source, codec, network.codec, decoder=False)
    check_shapes(source, {n: t.shape for n, t in tensors.items()}, expected)
    tokens = token_table(source, pieces, network.out_size)
    target.mkdir(parents=True, exist_ok=True)
    write(target / WEIGHTS, {n: tensors[n] for n in expected})
    (target / TOKENS).write_text(json.dumps(tokens), encoding="utf-8")
    config_of = dataclasses.asdict(about)
    return bundle.write(target, "asr", ARCHITECTURE, config_of, card, [WEIGHTS, TOKENS])


Layout = tuple[KyutaiBundle, Tensors, dict[str, Stored], list[bytes]]


def _transformers(folder: Path, config: Section) -> Layout:
    generation: Any = {}
    if (folder / "generation_config.json").is_file():
        generation = read_json(folder / "generation_config.json")
    about = from_transformers(
        config, Section(generation, "generation_config.json"), _features(folder)
    )
    parts = sorted(folder.glob("*.safetensors"))
    if not parts:
        raise SpeechStreamError(f"{folder} has no *.safetensors; other weights are not read")
    found = headers(parts)
    codec = {n.removeprefix(CODEC): t for n, t in found.items() if n.startswith(CODEC)}
    tensors: Tensors = {}
    inner, rows = about.network.text.ff_dim, about.network.rows
    for name, t in found.items():
        if name in ("model.embed_tokens.embed_tokens.weight", "model.embed_tokens.weight"):
            # the last row is what a code that is absent would be: none is
            tensors["embed.weight"] = cut(folder, t, rows + 1, 0, rows)
        elif name.endswith(".mlp.fc1.weight") and not name.startswith(CODEC):
            for n, half in enumerate(("gate_proj", "up_proj")):
                new = renamed(name, _NAMES).replace("fc1", half)
                tensors[new] = cut(folder, t, 2 * inner, n * inner, (n + 1) * inner)
        elif not name.startswith(CODEC):
            tensors[renamed(name, _NAMES)] = t
    return about, tensors, codec, from_tokenizer_json(folder / "tokenizer.json")


def _features(folder: Path) -> Section:
    """What the processor is told of the sound: in a file of its own, or in that of the whole processor."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found = Section(read_json(folder / name), name)
            return found.section("feature_extractor") if "feature_extractor" in found else found
    raise SpeechStreamError(
        f"{folder} has no preprocessor_config.json, which says how late its text is"
    )


def _moshi(folder: Path, config: Section) -> Layout:
    lm = headers([named(folder, config, "moshi_name", "model.safetensors")])
    codec = headers([named(folder, config, "mimi_name")])
    described = None
    if "mimi_config_name" in config:
        described = read_json(named(folder, config, "mimi_config_name"))
    heads = [t for n, t in lm.items() if re.fullmatch(r"extra_heads\.\d+\.weight", n)]
    classes = heads[0].shape[0] if heads and heads[0].shape else 0
    about = from_moshi(config, described, (len(heads), classes))
    network = about.network
    dim, inner = network.text.dim, network.text.ff_dim
    tensors: Tensors = {}
    tables: dict[str, Stored] = {}
    for name, t in lm.items():
        new = renamed(name, _MOSHI_NAMES)
        if name.startswith("depformer_in."):
            continue  # into a depth transformer, which such a model does not have
        if name == "text_emb.weight" or re.fullmatch(r"emb\.\d+\.weight", name):
            tables[name] = t
        elif found := _MOSHI_QKV.search(new):
            for n, part in enumerate("qkv"):
                piece = cut(folder, t, 3 * dim, n * dim, (n + 1) * dim)
                if part != "v":
                    piece = dataclasses.replace(piece, make=halves(piece.make, network.text.heads))
                tensors[f"{new[: found.start()]}.self_attn.{part}_proj.weight"] = piece
        elif new.endswith(".gating.linear_in.weight"):
            at = new.removesuffix("gating.linear_in.weight")
            for n, half in enumerate(("gate_proj", "up_proj")):
                tensors[f"{at}mlp.{half}.weight"] = cut(
                    folder, t, 2 * inner, n * inner, (n + 1) * inner
                )
        elif name.endswith(".alpha") and t.shape == (1, 1, dim):
            tensors[new] = flat(t)
        else:
            tensors[new] = t
    tensors["embed.weight"] = _joined(folder, tables, network)
    pieces = from_sentencepiece(named(folder, config, "tokenizer_name"))
    return about, tensors, codec, pieces


def named(folder: Path, config: Section, key: str, *default: str) -> Path:
    """A file of the folder that its config names."""
    name = config.text(key, *default)
    if Path(name).name != name or not (folder / name).is_file():
        raise SpeechStreamError(f"{folder} has no file {name[:80]!r}, which its config.json names")
    return folder / name


def headers(paths: list[Path]) -> dict[str, Stored]:
    """The tensors of several files. Raises SpeechStreamError where one stands in two."""
    found: dict[str, Stored] = {}
    for path in paths:
        for t in header(path):
            if t.name in found:
                raise SpeechStreamError(f"{path.parent} has the tensor {t.name!r} twice")
            found[t.name] = t
    return found


def renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    """A name with each pattern replaced."""
    for pattern, new in names:
        name = re.sub(pattern, new, name)
    return name


def cut(folder: Path, t: Stored | Made, rows: int, begin: int, end: int) -> Made:
    """Some rows of a matrix, which must have so many in all."""
    if len(t.shape) != 2 or t.shape[0] != rows:
        name = t.name[:80] if isinstance(t, Stored) else "of one level"
        raise SpeechStreamError(
            f"{folder}: its tensor {name!r} has the shape {t.shape}, and its config says {rows} rows"
        )
    return Made(t.dtype, (end - begin, t.shape[1]), lambda: t.read()[begin:end])


def flat(t: Stored) -> Made:
    """Of one axis."""
    return Made(t.dtype, (int(np.prod(t.shape)),), lambda: t.read().reshape(-1))


def halves(make: Callable[[], np.ndarray], heads: int) -> Callable[[], np.ndarray]:
    """Rows from pairs side by side, as moshi rotates them, to all first and then all second ones, in each head."""

    def made() -> np.ndarray:
        a = make()
        return a.reshape(heads, -1, 2, a.shape[1]).swapaxes(1, 2).reshape(a.shape)

    return made


def _joined(folder: Path, tables: Mapping[str, Stored], network: KyutaiConfig) -> Made:
    """The embeddings of text and of each level as one."""
    dim = network.text.dim
    names = ["text_emb.weight", *(f"emb.{i}.weight" for i in range(network.levels))]
    rows = [network.text.vocab_size, *([network.audio_vocab] * network.levels)]
    check_shapes(
        folder,
        {n: t.shape for n, t in tables.items()},
        {n: (count, dim) for n, count in zip(names, rows)},
    )
    kinds = {tables[n].dtype for n in names}
    if len(kinds) > 1:
        raise SpeechStreamError(f"{folder}: its embeddings are of the types {', '.join(kinds)}")
    return Made(
        kinds.pop(),
        (sum(rows), dim),
        lambda: np.concatenate([tables[n].read() for n in names]),
    )


def codec_tensors(
    folder: Path, stored: Mapping[str, Stored], config: MimiConfig, decoder: bool
) -> Tensors:
    """The codec under our names, in float32. decoder: both ways, else the way in alone."""
    if not stored:
        raise SpeechStreamError(f"{folder} has no weights of the codec")
    wanted = {n: t for n, t in stored.items() if decoder or not _WAY_OUT.match(n)}
    try:
        weights = convert_weights(
            {n: torch.from_numpy(floats(t)) for n, t in wanted.items()}, config, decoder
        )
    except (RuntimeError, ValueError, IndexError) as error:  # of tensors that have other shapes
        raise SpeechStreamError(
            f"{folder}: its codec does not fit its config: {first_line(error)}"
        ) from error
    return {f"codec.{n}": of_torch(t) for n, t in weights.items()}


def floats(t: Stored) -> np.ndarray:
    """Its numbers in float32."""
    raw = t.read()
    if t.dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.float16 if t.dtype == "F16" else np.float32).astype(np.float32)


def of_torch(t: torch.Tensor) -> Made:
    """A tensor of torch, to be written."""
    if t.dtype == torch.bool:
        return Made(BOOL, tuple(t.shape), lambda: t.numpy().view(np.uint8))
    return Made("F32", tuple(t.shape), lambda: t.contiguous().numpy().view(np.uint32))


def token_table(folder: Path, pieces: list[bytes], size: int) -> dict[str, Any]:
    """The bytes that tokens write, in base64. What a stream begins with has no piece, and writes nothing."""
    if len(pieces) not in (size, size - 1) or size <= SPECIAL:
        raise SpeechStreamError(
            f"{folder}: its tokenizer has {len(pieces)} tokens, and its network writes {size}"
        )
    pieces = [*pieces, b""][:size]
    return {
        "special": SPECIAL,
        "pieces": [base64.b64encode(p).decode() for p in pieces[SPECIAL:]],
    }
