"""Sesame's CSM in: the folder of transformers, with its codec in it and voices beside it.

config.json, *.safetensors, tokenizer.json, generation_config.json; voices/NAME.wav with what it says in voices/NAME.txt: a
turn that stands before whatever is spoken. Weights stay where they lie until they are asked for; the codec is in float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechstream.audio import io
from speechstream.audio.resample import Resampler
from speechstream.audio.samples import to_mono
from speechstream.config import Section
from speechstream.convert.kyutai import floats
from speechstream.convert.kyutai_config import codec_config
from speechstream.convert.llm_config import from_hugging_face
from speechstream.convert.mimi import convert_weights
from speechstream.convert.qwen import fitting
from speechstream.convert.stored import (
    Stored,
    check_kind,
    check_shapes,
    first_line,
    read_json,
    tensors,
)
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.csm_config import CsmConfig, CsmSampling
from speechstream.nn.kyutai_config import check_codec
from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.mimi import Mimi
from speechstream.nn.mimi_config import MimiConfig

KIND, CODEC, MARK = "csm", "codec_model.", "<|end_of_text|>"
BACKBONE, DEPTH = "backbone_model.", "depth_decoder.model."
TEXT, FRAMES, CODES = (
    "embed_text_tokens.weight",
    "backbone_model.embed_tokens.embed_audio_tokens.weight",
    "depth_decoder.model.embed_tokens.weight",
)
PROJECTOR, HEADS = (
    "depth_decoder.model.inputs_embeds_projector.weight",
    "depth_decoder.codebooks_head.weight",
)
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")
LEAST_VOICE_S, MOST_VOICE_S = 0.5, 60.0
_PLAIN = {"top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0}  # not drawn by
_NAME = re.compile(r"[\w.-]{1,64}")


@dataclass(frozen=True)
class Turn:
    """Something that was said. codes: (frames, levels) int64."""

    text: str
    codes: np.ndarray


@dataclass(frozen=True)
class CsmCheckpoint:
    """A CSM as it was found. values(name): a tensor in float32, by the names of transformers. voices: by name."""

    config: CsmConfig
    sampling: CsmSampling
    values: Callable[[str], np.ndarray]
    codec: Mimi
    tokenizer: str
    voices: dict[str, Turn]
    name: str


def load_csm(path: str | Path) -> CsmCheckpoint:
    """Raises SpeechStreamError, in one sentence, for what is not supported."""
    folder = Path(path)
    try:
        c = Section(read_json(folder / "config.json"))
        check_kind(c, KIND)
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        config, mimi = _config(c, Tokenizer(text))
        sampling = _sampling(folder)
    except OSError as error:
        raise SpeechStreamError(f"{folder} has no tokenizer.json that can be read") from error
    except (ValueError, OverflowError, RecursionError) as error:
        raise SpeechStreamError(f"{folder} is not supported: {first_line(error)}") from error
    found = tensors(folder, lambda name: name)
    codec = _codec(folder, {n: found.pop(n) for n in [*found] if n.startswith(CODEC)}, mimi)
    if FRAMES not in found and CODES in found:  # they are one
        found[FRAMES] = found[CODES]
    check_shapes(folder, {n: t.shape for n, t in found.items()}, _shapes(config))
    voices = _voices(folder / "voices", codec, config.levels)

    def values(name: str) -> np.ndarray:
        return floats(found[name])

    name = folder.resolve().name
    return CsmCheckpoint(config, sampling, values, codec, text, voices, name)


def _config(c: Section, words: Tokenizer) -> tuple[CsmConfig, MimiConfig]:
    d, levels = c.section("depth_decoder_config"), c.integer("num_codebooks", 32)
    backbone = _llm(c, c.integer("text_vocab_size", 128256))
    depth = _llm(d, d.integer("vocab_size", 2051))
    if (
        d.integer("num_codebooks", levels) != levels
        or c.integer("vocab_size", 2051) != depth.vocab_size
    ):
        raise ValueError("its depth decoder has other levels or codes than its backbone")
    if d.integer("backbone_hidden_size", 2048) != backbone.dim:
        raise ValueError("its depth decoder is of another backbone")
    if depth.context < levels:
        raise ValueError(f"its depth decoder has {depth.context} positions for {levels} levels")
    mimi = codec_config(c.raw("codec_config"))
    check_codec(mimi)
    if not mimi.n_semantic_codebooks < levels <= mimi.n_codebooks:
        raise ValueError(
            f"it speaks in {levels} codes a frame, and its codec has {mimi.n_codebooks}"
        )
    fitting(words, backbone.vocab_size)
    mark = words.id(MARK)
    if mark is None:
        raise ValueError(f"its tokenizer has no {MARK}: it is of another model")
    config = CsmConfig(
        backbone,
        depth,
        levels,
        mimi.sample_rate,
        mimi.frame_size,
        mimi.codebook_size,
        c.integer("bos_token_id", 128000),
        mark,
        c.integer("codebook_eos_token_id", 0),
    )
    return config, mimi


def _llm(c: Section, vocab_size: int) -> LlmConfig:
    values = {k: c.raw(k) for k in c.keys if c.raw(k) is not None}
    values |= {"model_type": "llama", "vocab_size": vocab_size, "tie_word_embeddings": False}
    values.setdefault("rms_norm_eps", 1e-5)
    return from_hugging_face(values)


def _sampling(folder: Path) -> CsmSampling:
    """As `generate` of transformers would draw with this generation_config.json; without one, as Sesame does."""
    if not (folder / "generation_config.json").is_file():
        return CsmSampling()
    g = Section(read_json(folder / "generation_config.json"), "generation_config")
    found: list[Any] = []
    for at in ("", "depth_decoder_"):
        drawn = g.flag(f"{at}do_sample", False)
        for key, only in _PLAIN.items() if drawn else ():
            if g.number(f"{at}{key}", only) != only:
                raise ValueError(f"its codes are drawn by {at}{key}, which is not supported")
        found += [
            g.number(f"{at}temperature", 1.0) if drawn else 0.0,
            g.integer(f"{at}top_k", 50) if drawn else 0,
        ]
    return CsmSampling(*found)


def _shapes(c: CsmConfig) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        TEXT: (c.backbone.vocab_size, c.backbone.dim),
        FRAMES: (c.levels * c.depth.vocab_size, c.backbone.dim),
        CODES: (c.levels * c.depth.vocab_size, c.backbone.dim),
        PROJECTOR: (c.depth.dim, c.backbone.dim),
        HEADS: (c.levels - 1, c.depth.dim, c.depth.vocab_size),
        "lm_head.weight": (c.depth.vocab_size, c.backbone.dim),
    }
    for at, m in ((BACKBONE, c.backbone), (DEPTH, c.depth)):
        found[f"{at}norm.weight"] = (m.dim,)
        q, kv = m.heads * m.head_dim, m.kv_heads * m.head_dim
        for i in range(m.layers):
            for name, shape, bias in (
                ("self_attn.q_proj", (q, m.dim), m.qkv_bias),
                ("self_attn.k_proj", (kv, m.dim), m.qkv_bias),
                ("self_attn.v_proj", (kv, m.dim), m.qkv_bias),
                ("self_attn.o_proj", (m.dim, q), m.out_bias),
                ("mlp.gate_proj", (m.ff_dim, m.dim), m.mlp_bias),
                ("mlp.up_proj", (m.ff_dim, m.dim), m.mlp_bias),
                ("mlp.down_proj", (m.dim, m.ff_dim), m.mlp_bias),
            ):
                found[f"{at}layers.{i}.{name}.weight"] = shape
                if bias:
                    found[f"{at}layers.{i}.{name}.bias"] = shape[:1]
            for name in ("input_layernorm", "post_attention_layernorm"):
                found[f"{at}layers.{i}.{name}.weight"] = (m.dim,)
    return found


def _codec(folder: Path, stored: dict[str, Stored], config: MimiConfig) -> Mimi:
    if not stored:
        raise SpeechStreamError(f"{folder} has no weights of the codec")
    try:
        given = {n.removeprefix(CODEC): torch.from_numpy(floats(t)) for n, t in stored.items()}
        weights = convert_weights(given, config)
        with torch.device("meta"):
            codec = Mimi(config)
        expected = {n: t.shape for n, t in codec.state_dict().items()}
        check_shapes(folder, {n: t.shape for n, t in weights.items()}, expected)
        codec.load_state_dict(weights, assign=True)
    except (RuntimeError, ValueError, IndexError) as error:  # of tensors that have other shapes
        raise SpeechStreamError(
            f"{folder}: its codec does not fit its config: {first_line(error)}"
        ) from error
    return codec.eval().requires_grad_(False)


def _voices(folder: Path, codec: Mimi, levels: int) -> dict[str, Turn]:
    found: dict[str, Turn] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.suffix.lower() not in RECORDINGS:
            continue
        if not _NAME.fullmatch(path.stem) or path.stem in found:
            raise SpeechStreamError(f"{path}: no voice can be named {path.stem[:64]!r}, or two are")
        try:
            text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise SpeechStreamError(
                f"{path} needs what it says in {path.with_suffix('.txt').name}, a text in UTF-8"
            ) from error
        pcm, rate = io.read(path)
        seconds = len(pcm) / rate
        if not text or not LEAST_VOICE_S <= seconds <= MOST_VOICE_S:
            raise SpeechStreamError(
                f"{path}: a voice is {LEAST_VOICE_S:g} to {MOST_VOICE_S:g} s of speech and its text; got {seconds:.1f} s"
            )
        own = codec.config.sample_rate
        mono = to_mono(pcm)
        if rate != own:
            mono = Resampler(rate, own)(mono)
        with torch.no_grad():
            codes = codec.encode(torch.from_numpy(np.ascontiguousarray(mono))[None, None], levels)
        found[path.stem] = Turn(text, codes[0].T.numpy().copy())
    return found
