"""Voxtral Realtime in: a folder of Hugging Face (config.json, *.safetensors, tekken.json) as a bundle.

Neither torch nor transformers is needed. Weights are copied as they are stored (bfloat16, as a rule), one tensor at a
time: of a large model never more than one is in memory.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from pathlib import Path
from typing import Any

from speechstream import bundle
from speechstream.audio.features import HOP_LENGTH, N_FFT, SAMPLE_RATE
from speechstream.bundle import Bundle
from speechstream.config import Section, read_value
from speechstream.convert.llm_config import from_hugging_face
from speechstream.convert.stored import (
    check_copy,
    check_kind,
    check_only,
    check_shapes,
    first_line,
    read_json,
    rename,
    rotary_base,
    tensors,
    write,
)
from speechstream.errors import SpeechStreamError
from speechstream.nn.llm_config import LlmConfig, RopeConfig
from speechstream.nn.voxtral_config import (
    VoxtralBundle,
    VoxtralConfig,
    VoxtralEncoderConfig,
    shapes,
)

ARCHITECTURE, KIND = "voxtral-realtime", "voxtral_realtime"
WEIGHTS, TOKENS = "model.safetensors", "tokens.json"
PAD = "[STREAMING_PAD]"
TEXT_DEFAULTS = {  # of the released model: what its config.json leaves out
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "head_dim": 128,
    "sliding_window": 8192,
}
NAMES = (  # pattern of a tensor's name there, its name here
    (r"^(model\.)?audio_tower\.embedder\.", "encoder."),
    (r"^(model\.)?audio_tower\.", "encoder."),
    (r"^(encoder\.layers\.\d+)\.(self_attn|mlp)\.", r"\1."),
    (r"\.self_attn_layer_norm\.", ".att_norm."),
    (r"^(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.ff_norm."),
    (r"^(model\.)?multi_modal_projector\.linear_1\.", "projector.0."),
    (r"^(model\.)?multi_modal_projector\.linear_2\.", "projector.2."),
    (r"^(model\.language_model|language_model\.model)\.", "text.model."),
    (r"^text\.model\.layers\.(\d+)\.ada_rms_norm\.linear1\.", r"delays.\1.0."),
    (r"^text\.model\.layers\.(\d+)\.ada_rms_norm\.linear2\.", r"delays.\1.2."),
    (r"^(language_model\.)?lm_head\.", "text.lm_head."),
)


def is_voxtral(path: str | Path) -> bool:
    """Whether a folder looks like a Voxtral Realtime (whether it is one, `convert_voxtral` says)."""
    path = Path(path)
    if not path.is_dir():
        return False
    if (path / "params.json").is_file() and not (path / "config.json").is_file():
        return (path / "tekken.json").is_file()
    try:
        config = read_json(path / "config.json")
    except SpeechStreamError:
        return False
    return isinstance(config, dict) and config.get("model_type") == KIND


def renamed(name: str) -> str:
    """Hugging Face's name of a tensor as that of `nn.voxtral.Voxtral`."""
    return rename(name, NAMES)


def convert_voxtral(source: str | Path, target: str | Path, card: dict[str, Any]) -> Bundle:
    """Write a checkpoint's folder as a bundle. Raises SpeechStreamError, in one sentence, for what is not supported."""
    source, target = Path(source), Path(target)
    if not (source / "config.json").is_file():
        raise SpeechStreamError(
            f"{source} has no config.json; of the released files, those of transformers are read "
            "(config.json, model.safetensors, tekken.json), not consolidated.safetensors"
        )
    try:
        network, eos = network_config(Section(read_json(source / "config.json")))
        floor = _floor(source, network)
        about, tokens = _vocabulary(read_json(source / "tekken.json"), network, eos, floor)
    except (ValueError, OverflowError, RecursionError) as error:
        raise SpeechStreamError(f"{source} is not supported: {first_line(error)}") from error
    found = tensors(source, renamed)
    expected = shapes(network)
    if network.text.tied:
        names = ("text.lm_head.weight", "text.model.embed_tokens.weight")
        check_copy(source, *(found.get(n) for n in names))
    given = {n: t for n, t in found.items() if n in expected or not _is_copy(n, network)}
    check_shapes(source, {n: t.shape for n, t in given.items()}, expected)
    target.mkdir(parents=True, exist_ok=True)
    write(target / WEIGHTS, {n: given[n] for n in expected})
    (target / TOKENS).write_text(json.dumps(tokens), encoding="utf-8")
    config = dataclasses.asdict(about)
    return bundle.write(target, "asr", ARCHITECTURE, config, card, [WEIGHTS, TOKENS])


def network_config(c: Section) -> tuple[VoxtralConfig, tuple[int, ...]]:
    """Hugging Face's config.json as ours, and the tokens that end a text. Raises ValueError or SpeechStreamError."""
    check_kind(c, KIND)
    e, t = c.section("audio_config"), c.section("text_config")
    for name, section, key, only in (
        ("the encoder's activation", e, "hidden_act", "silu"),
        ("the language model's activation", t, "hidden_act", "silu"),
        ("the projector's activation", c, "projector_hidden_act", "gelu"),
    ):
        check_only(name, section, key, only)
    stacked = c.integer("downsample_factor", 4)
    if c.integer("audio_length_per_tok", 8) != 2 * stacked:
        raise ValueError(
            f"a token takes {c.integer('audio_length_per_tok', 8)} mel frames and {stacked} frames of "
            "the encoder, which halves them: they must go together"
        )
    text = _text(c, t)
    dim, heads = e.integer("hidden_size", 1280), e.integer("num_attention_heads", 32)
    encoder = VoxtralEncoderConfig(
        n_mels=e.integer("num_mel_bins", 128),
        dim=dim,
        layers=e.integer("num_hidden_layers", 32),
        heads=heads,
        head_dim=e.integer("head_dim", 64),
        ff_dim=e.integer("intermediate_size", 5120),
        window=e.integer("sliding_window", 750),
        norm_eps=e.number("rms_norm_eps", 1e-5),
        rope=RopeConfig(rotary_base(e)),
    )
    ends = t.raw("eos_token_id", 2)
    ends = ends if isinstance(ends, list) else [ends]
    eos = read_value(tuple[int, ...], [i for i in ends if i is not None], "eos_token_id")
    return VoxtralConfig(encoder, text, stacked), eos


def _text(c: Section, t: Section) -> LlmConfig:
    values = {k: t.raw(k) for k in TEXT_KEYS if k in t or t.raw(k, "") is None}
    tied = c.flag("tie_word_embeddings", True)
    values = TEXT_DEFAULTS | values | {"model_type": "mistral", "tie_word_embeddings": tied}
    if values["head_dim"] is None:
        values.pop("head_dim")
    config = from_hugging_face(values)
    if config.rope.kind == "dynamic":
        raise ValueError("rotary positions that change with the length are not supported")
    return config


TEXT_KEYS = (
    *TEXT_DEFAULTS,
    "rope_parameters",
    "rope_scaling",
    "hidden_act",
    "partial_rotary_factor",
)


def _floor(folder: Path, network: VoxtralConfig) -> float:
    """The floor of the features: 8 below the largest. Raises ValueError for features of another kind."""
    found: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            one = Section(read_json(folder / name), name)
            found |= read_value(dict[str, Any], read_json(folder / name), name)
            found |= read_value(dict[str, Any], one.raw("feature_extractor") or {}, name)
    s = Section(found, "the feature extractor")
    wanted = {
        "feature_size": network.encoder.n_mels,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP_LENGTH,
        "n_fft": N_FFT,
        "win_length": N_FFT,
    }
    for key, value in wanted.items():
        if s.integer(key, value) != value:
            raise ValueError(
                f"its features have {key} {s.integer(key)}, and only {value} is supported"
            )
    if "global_log_mel_max" in found and found["global_log_mel_max"] is None:
        raise ValueError(
            "its features depend on the loudest frame of a recording: they cannot stream"
        )
    return s.number("global_log_mel_max", 1.5) - 8.0


def _vocabulary(
    data: Any, network: VoxtralConfig, eos: tuple[int, ...], floor: float
) -> tuple[VoxtralBundle, dict[str, Any]]:
    """What tekken.json says: how streams are padded, and the bytes of each token in base64."""
    s = Section(data, "tekken.json")
    config, audio = s.section("config"), s.section("audio")
    special, size = config.integer("default_num_special_tokens"), network.text.vocab_size
    if config.integer("default_vocab_size") != size or not 0 < special < size:
        raise ValueError(
            f"its tekken.json has {config.integer('default_vocab_size')} tokens, {special} of them special, "
            f"and its config says {size}"
        )
    entries = s.raw("vocab")
    if not isinstance(entries, list) or len(entries) < size - special:
        raise ValueError("its tekken.json lacks tokens")
    pieces = []
    for n, entry in enumerate(entries[: size - special]):
        piece = Section(entry, f"tekken.json.vocab[{n}]").text("token_bytes")
        try:
            base64.b64decode(piece, validate=True)
        except binascii.Error as error:
            raise ValueError(f"tekken.json.vocab[{n}] is not base64") from error
        pieces.append(piece)
    ids = {}
    for n, entry in enumerate(s.raw("special_tokens") or ()):
        one = Section(entry, f"tekken.json.special_tokens[{n}]")
        ids[one.text("token_str")] = one.integer("rank")
    for name in ("<s>", PAD):
        if not 0 <= ids.get(name, -1) < special:
            raise ValueError(f"its tekken.json has no special token {name}: it is of another model")
    rate, token_ms = audio.number("frame_rate", 12.5), network.mels_per_token * 10
    if audio.integer("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE or rate * token_ms != 1000:
        raise ValueError(
            f"its tekken.json says {rate} tokens a second at {audio.integer('sampling_rate', SAMPLE_RATE)} Hz, "
            f"and its config {token_ms} ms a token"
        )
    ms = audio.number("transcription_delay_ms", 480.0)
    if ms % token_ms or ms <= 0:
        raise ValueError(f"its delay is {ms:g} ms, expected a multiple of {token_ms}")
    longest = max(2400 // token_ms, 1)
    about = VoxtralBundle(
        network,
        ids["<s>"],
        eos,
        ids[PAD],
        left_pad=audio.integer("streaming_n_left_pad_tokens", 32),
        delay=int(ms) // token_ms,
        delays=tuple(range(1, longest + 1)),
        floor=floor,
    )
    return about, {"special": special, "pieces": pieces}


def _is_copy(name: str, network: VoxtralConfig) -> bool:
    """An output layer that is stored although it is the embedding, and tables that are computed."""
    return (name == "text.lm_head.weight" and network.text.tied) or name.endswith("inv_freq")
