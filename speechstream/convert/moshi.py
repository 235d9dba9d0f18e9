"""Moshi in: a folder of transformers, or one of Kyutai's package, as a bundle of a model that hears and speaks at once.

transformers: config.json, *.safetensors (with the codec in them), tokenizer.json. Kyutai: the language model's safetensors,
the codec's and the SentencePiece model, which config.json names; the first release has no config.json, and the names and
sizes that are usual hold. Matrices of the language model are copied as they are stored, one at a time, the codec in float32.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from speechstream import bundle
from speechstream.bundle import Bundle
from speechstream.config import Section
from speechstream.convert.kyutai import (
    Tensors,
    codec_tensors,
    cut,
    flat,
    halves,
    headers,
    named,
    renamed,
    token_table,
)
from speechstream.convert.moshi_config import KIND, from_kyutai, from_transformers
from speechstream.convert.pieces import from_sentencepiece, from_tokenizer_json
from speechstream.convert.stored import Made, Stored, check_shapes, first_line, read_json, write
from speechstream.errors import SpeechStreamError
from speechstream.nn.moshi import shapes
from speechstream.nn.moshi_config import MoshiBundle, MoshiConfig

ARCHITECTURE = "moshi"
WEIGHTS, TOKENS = "model.safetensors", "tokens.json"
CODEC = "audio_encoder."  # before the codec's tensors in transformers' files
MIMI = "tokenizer-e351c8d8-checkpoint125.safetensors"  # the codec and the vocabulary of the first release
PIECES = "tokenizer_spm_32k_3.model"
_NAMES = (  # transformers' name of a tensor, ours
    (r"^decoder\.model\.(layers\.|norm\.)", r"\1"),
    (r"^decoder\.model\.embed_tokens\.", "text_embed."),
    (r"^decoder\.lm_head\.", "head."),
    (r"^(layers\..*_proj)\.linear\.", r"\1."),
    (r"^(layers\..*\.mlp)\.fc2\.", r"\1.down_proj."),
    (r"^depth_decoder\.text_embed_tokens\.", "depth.text_embed."),
    (r"^depth_decoder\.input_projections\.weight$", "depth.inputs"),
    (r"^depth_decoder\.lm_heads\.weight$", "depth.heads"),
    (r"^depth_decoder\.(layers\.\d+\.)self_attn\.(\w+_proj)\.linear\.weight$", r"depth.\1\2"),
    (r"^depth_decoder\.(layers\.\d+\.)mlp\.fc2\.weight$", r"depth.\1down_proj"),
    (r"^depth_decoder\.layers\.", "depth.layers."),
)
_TABLE = re.compile(r"(depth_decoder\.)?embed_tokens\.\d+\.weight")
Layout = tuple[MoshiBundle, Tensors, dict[str, Stored], list[bytes]]


def is_moshi(path: str | Path) -> bool:
    """Whether a folder looks like a Moshi (whether it is one, `convert_moshi` says)."""
    path = Path(path)
    if path.is_dir() and not (path / "config.json").exists():
        return (path / MIMI).is_file() and (path / PIECES).is_file()
    try:
        config = read_json(path / "config.json")
    except SpeechStreamError:
        return False
    if not isinstance(config, dict):
        return False
    return config.get("model_type") == KIND or (
        "depformer_dim" in config and bool(config.get("dep_q"))
    )


def convert_moshi(source: str | Path, target: str | Path, card: dict[str, Any]) -> Bundle:
    """Write a checkpoint's folder as a bundle. Raises SpeechStreamError, in one sentence, for what is not supported."""
    source, target = Path(source), Path(target)
    try:
        has = (source / "config.json").exists()
        config = Section(read_json(source / "config.json") if has else {})
        theirs = config.raw("model_type") == KIND and "depth_decoder_config" in config
        about, tensors, codec, pieces = (_transformers if theirs else _kyutai)(source, config)
    except (ValueError, OverflowError, RecursionError) as error:
        raise SpeechStreamError(f"{source} is not supported: {first_line(error)}") from error
    network = about.network
    expected = shapes(network)
    tensors |= codec_tensors(source, codec, network.codec, decoder=True)
    check_shapes(source, {n: t.shape for n, t in tensors.items()}, expected)
    table = token_table(source, pieces, network.text.vocab_size)
    target.mkdir(parents=True, exist_ok=True)
    write(target / WEIGHTS, {n: tensors[n] for n in expected})
    (target / TOKENS).write_text(json.dumps(table), encoding="utf-8")
    files = [WEIGHTS, TOKENS]
    return bundle.write(target, "talk", ARCHITECTURE, dataclasses.asdict(about), card, files)


def _transformers(folder: Path, config: Section) -> Layout:
    about = from_transformers(config)
    parts = sorted(folder.glob("*.safetensors"))
    if not parts:
        raise SpeechStreamError(f"{folder} has no *.safetensors; other weights are not read")
    found = headers(parts)
    codec = {n.removeprefix(CODEC): t for n, t in found.items() if n.startswith(CODEC)}
    c = about.network
    tables = {n: t for n, t in found.items() if _TABLE.fullmatch(n)}
    tensors = _tables(
        folder, tables, c, ("embed_tokens.{}.weight", "depth_decoder.embed_tokens.{}.weight")
    )
    for name, t in found.items():
        if name.startswith(CODEC) or name in tables:
            continue
        new = renamed(name, _NAMES)
        if name.endswith(".mlp.fc1.weight") and name.startswith("depth_decoder."):
            at = new.removesuffix("mlp.fc1.weight")
            for n, half in enumerate(("gate_proj", "up_proj")):
                tensors[f"{at}{half}"] = _middle(folder, t, c.depth.ff_dim, n)
        elif name.endswith(".mlp.fc1.weight"):
            inner = c.text.ff_dim
            for n, half in enumerate(("gate_proj", "up_proj")):
                piece = cut(folder, t, 2 * inner, n * inner, (n + 1) * inner)
                tensors[new.replace("fc1", half)] = piece
        else:
            tensors[new] = t
    return about, tensors, codec, from_tokenizer_json(folder / "tokenizer.json")


def _kyutai(folder: Path, config: Section) -> Layout:
    codec = headers([named(folder, config, "mimi_name", MIMI)])
    described = None
    if "mimi_config_name" in config:
        described = read_json(named(folder, config, "mimi_config_name"))
    about = from_kyutai(config, described)
    left: dict[str, Stored] = headers([named(folder, config, "moshi_name", "model.safetensors")])
    c = about.network
    names = [f"emb.{i}.weight" for i in range(2 * c.levels)]
    names += [f"depformer_emb.{i}.weight" for i in range(c.levels - 1)]
    tables = {n: left.pop(n) for n in names if n in left}
    tensors = _tables(folder, tables, c, ("emb.{}.weight", "depformer_emb.{}.weight"))
    taken = _Taken(folder, left)
    for new, name in (
        ("text_embed.weight", "text_emb.weight"),
        ("head.weight", "text_linear.weight"),
        ("depth.text_embed.weight", "depformer_text_emb.weight"),
    ):
        tensors[new] = taken(name)
    tensors["norm.weight"] = taken.norm("out_norm.alpha")
    tensors["depth.inputs"] = taken.stack("depformer_in.{}.weight", c.levels)
    tensors["depth.heads"] = taken.stack("linears.{}.weight", c.levels)
    for i in range(c.text.layers):
        a, b = f"transformer.layers.{i}.", f"layers.{i}."
        tensors |= {b + n: t for n, t in taken.norms(a).items()}
        t, dim = taken.any(f"{a}self_attn.in_proj", 1)[0], c.text.dim
        for n, part in enumerate("qkv"):
            piece = cut(folder, t, 3 * dim, n * dim, (n + 1) * dim)
            if part != "v":
                piece = dataclasses.replace(piece, make=halves(piece.make, c.text.heads))
            tensors[f"{b}self_attn.{part}_proj.weight"] = piece
        tensors[f"{b}self_attn.o_proj.weight"] = taken.any(f"{a}self_attn.out_proj", 1)[0]
        t, inner = taken(f"{a}gating.linear_in.weight"), c.text.ff_dim
        for n, half in enumerate(("gate_proj", "up_proj")):
            tensors[f"{b}mlp.{half}.weight"] = cut(folder, t, 2 * inner, n * inner, (n + 1) * inner)
        tensors[f"{b}mlp.down_proj.weight"] = taken(f"{a}gating.linear_out.weight")
    for i in range(c.depth.layers):
        a, b = f"depformer.layers.{i}.", f"depth.layers.{i}."
        tensors |= {b + n: t for n, t in taken.norms(a).items()}
        each, dim, inner = taken.any(f"{a}self_attn.in_proj", c.levels), c.depth.dim, c.depth.ff_dim
        for n, part in enumerate("qkv"):
            pieces_of = [cut(folder, t, 3 * dim, n * dim, (n + 1) * dim) for t in each]
            tensors[f"{b}{part}_proj"] = _stacked(folder, pieces_of)
        tensors[f"{b}o_proj"] = _stacked(folder, taken.any(f"{a}self_attn.out_proj", c.levels))
        gates = [taken(f"{a}gating.{k}.linear_in.weight") for k in range(c.levels)]
        for n, half in enumerate(("gate_proj", "up_proj")):
            halves_of = [cut(folder, t, 2 * inner, n * inner, (n + 1) * inner) for t in gates]
            tensors[f"{b}{half}"] = _stacked(folder, halves_of)
        tensors[f"{b}down_proj"] = taken.stack(f"{a}gating.{{}}.linear_out.weight", c.levels)
    if left:
        raise SpeechStreamError(f"{folder} has an unknown tensor {sorted(left)[0][:80]!r}")
    return (
        about,
        tensors,
        codec,
        from_sentencepiece(named(folder, config, "tokenizer_name", PIECES)),
    )


class _Taken:
    """Tensors that are taken out of those that are left, by the names of Kyutai's package."""

    def __init__(self, folder: Path, left: dict[str, Stored]):
        self.folder, self.left = folder, left

    def __call__(self, name: str) -> Stored:
        if name not in self.left:
            raise SpeechStreamError(f"{self.folder} lacks the tensor {name!r}")
        return self.left.pop(name)

    def norm(self, name: str) -> Made:
        return flat(self(name))

    def norms(self, at: str) -> dict[str, Made]:
        return {
            "input_layernorm.weight": self.norm(f"{at}norm1.alpha"),
            "post_attention_layernorm.weight": self.norm(f"{at}norm2.alpha"),
        }

    def stack(self, name: str, count: int) -> Made:
        return _stacked(self.folder, [self(name.format(k)) for k in range(count)])

    def any(self, name: str, count: int) -> Sequence[Stored | Made]:
        """Matrices that stand one by one, or as the older ones one below the other."""
        for whole in (f"{name}_weight", f"{name}.weight"):
            if whole in self.left:
                t = self(whole)
                if len(t.shape) != 2 or t.shape[0] % count:
                    raise SpeechStreamError(
                        f"{self.folder}: its tensor {whole!r} has the shape {t.shape}, expected rows of {count} matrices"
                    )
                rows = t.shape[0] // count
                return [
                    cut(self.folder, t, t.shape[0], k * rows, (k + 1) * rows) for k in range(count)
                ]
        return [self(f"{name}s.{k}.weight") for k in range(count)]


def _tables(
    folder: Path, tables: Mapping[str, Stored], c: MoshiConfig, names: tuple[str, str]
) -> Tensors:
    """The embeddings of all codes as one, of the rows and of the depth transformer. names: of either."""
    found: Tensors = {}
    for ours, name, count, dim in (
        ("embed.weight", names[0], 2 * c.levels, c.text.dim),
        ("depth.embed.weight", names[1], c.levels - 1, c.depth.dim),
    ):
        wanted = [name.format(i) for i in range(count)]
        given = {n: t.shape for n, t in tables.items() if n.startswith(name.split("{")[0])}
        check_shapes(folder, given, dict.fromkeys(wanted, (c.begin_code + 1, dim)))
        parts = [tables[n] for n in wanted]
        found[ours] = Made(
            _kind(folder, parts),
            (count * (c.begin_code + 1), dim),
            lambda parts=parts: np.concatenate([t.read() for t in parts]),  # type: ignore[misc]
        )
    return found


def _stacked(folder: Path, parts: Sequence[Stored | Made]) -> Made:
    """Tensors of one shape along a new axis."""
    shape = parts[0].shape
    if any(t.shape != shape for t in parts):
        raise SpeechStreamError(f"{folder}: the matrices of its levels differ in shape")
    return Made(
        _kind(folder, parts), (len(parts), *shape), lambda: np.stack([t.read() for t in parts])
    )


def _kind(folder: Path, parts: Sequence[Stored | Made]) -> str:
    kinds = {t.dtype for t in parts}
    if len(kinds) > 1:
        raise SpeechStreamError(
            f"{folder}: parts of one tensor are of the types {', '.join(sorted(kinds))}"
        )
    return kinds.pop()


def _middle(folder: Path, t: Stored, inner: int, half: int) -> Made:
    """One half of the second of three axes."""
    if len(t.shape) != 3 or t.shape[1] != 2 * inner:
        raise SpeechStreamError(
            f"{folder}: its tensor {t.name[:80]!r} has the shape {t.shape}, and its config says {2 * inner} rows"
        )
    shape = (t.shape[0], inner, t.shape[2])
    return Made(t.dtype, shape, lambda: t.read()[:, half * inner : (half + 1) * inner])
