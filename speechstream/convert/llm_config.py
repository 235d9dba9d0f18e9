"""Hugging Face's config.json of a language model as an `LlmConfig`: what is not understood is refused, never ignored."""

from __future__ import annotations

import math
from typing import Any

from speechstream.errors import SpeechStreamError
from speechstream.nn.llm_config import LlmConfig, RopeConfig

_ROPE = ("rope_parameters", "rope_scaling")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def from_hugging_face(values: Any) -> LlmConfig:
    """Raises SpeechStreamError, in one sentence, for another architecture or what this network cannot do."""
    if not isinstance(values, dict):
        raise SpeechStreamError("config.json is no JSON object")
    kind = values.get("model_type")
    if kind not in FAMILIES:
        raise SpeechStreamError(
            f"config.json describes a model of type {str(kind)[:40]!r}; supported are {', '.join(FAMILIES)}"
        )
    if values.get("hidden_act", "silu") != "silu":
        raise SpeechStreamError(
            f"its activation {str(values['hidden_act'])[:40]!r} is not supported, only 'silu' is"
        )
    if values.get("quantization_config"):
        raise SpeechStreamError(
            "its weights are quantised in a way that is not read here; convert the original, or a GGUF file of it"
        )
    try:
        return _config(kind, values)
    except (ValueError, KeyError, TypeError, OverflowError, ArithmeticError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise SpeechStreamError(f"config.json is not that of a usable model: {reason}") from error


def _config(kind: str, values: dict[str, Any]) -> LlmConfig:
    layers, heads = _int(values, "num_hidden_layers"), _int(values, "num_attention_heads")
    attention_bias = _flag(values, "attention_bias") and kind in ("llama", "qwen3")
    window, sliding = _window(kind, values, layers)
    return LlmConfig(
        vocab_size=_int(values, "vocab_size"),
        dim=_int(values, "hidden_size"),
        layers=layers,
        heads=heads,
        kv_heads=_int(values, "num_key_value_heads", heads),
        ff_dim=_int(values, "intermediate_size"),
        head_dim=_int(values, "head_dim", 128 if kind == "qwen3" else 0),
        context=_int(values, "max_position_embeddings", 2048),
        norm_eps=_float(values, "rms_norm_eps", 1e-6),
        rope=_rope(values),
        tied=_flag(values, "tie_word_embeddings"),
        qkv_bias=attention_bias or kind == "qwen2",
        out_bias=attention_bias,
        mlp_bias=_flag(values, "mlp_bias") and kind == "llama",
        qk_norm=kind == "qwen3",
        window=window,
        window_layers=sliding,
    )


def _window(kind: str, values: dict[str, Any], layers: int) -> tuple[int, tuple[int, ...]]:
    window = values.get("sliding_window")
    if kind in ("qwen2", "qwen3") and not _flag(values, "use_sliding_window"):
        window = None
    if kind == "llama" or layers > 1 << 16:
        return 0, ()
    kinds = values.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or len(kinds) != layers):
        raise ValueError(f"layer_types must name the {layers} layers")
    if window is None and "sliding_attention" in (kinds or ()):
        raise ValueError(
            "its layer_types have windows, and it says of no size or that none is used"
        )
    if window is None:
        return 0, ()
    if kinds is not None:  # transformers reads a Mistral with them as a Ministral
        strange = set(map(str, kinds)) - {"full_attention", "sliding_attention"}
        if strange:
            raise ValueError(f"a layer of type {strange.pop()[:40]!r} is not supported")
        sliding = tuple(i for i, k in enumerate(kinds) if k == "sliding_attention")
    elif kind == "mistral":
        sliding = tuple(range(layers))
    else:
        sliding = tuple(range(_int(values, "max_window_layers", layers), layers))
    return (_int(values, "sliding_window"), sliding) if sliding else (0, ())


def _rope(values: dict[str, Any]) -> RopeConfig:
    given, older = ({} if v is None else v for v in map(values.get, _ROPE))
    if not isinstance(given, dict) or not isinstance(older, dict):
        raise ValueError("its rope scaling is no JSON object")
    if given and older and given != older:
        raise ValueError("its rope_parameters and rope_scaling contradict each other")
    given = given or older
    base = _float(given, "rope_theta", _float(values, "rope_theta", 10_000.0))
    kind = given.get("rope_type", given.get("type", "default"))
    if _float(given, "partial_rotary_factor", _float(values, "partial_rotary_factor", 1.0)) != 1:
        raise ValueError("heads that are rotated in part are not supported")
    if kind == "default":
        return RopeConfig(base)
    context = _int(values, "max_position_embeddings", 2048)
    original = _int(given, "original_max_position_embeddings", context)
    if kind in ("linear", "dynamic"):
        return RopeConfig(base, kind, _float(given, "factor"))
    if kind == "llama3":
        return RopeConfig(
            base,
            kind,
            _float(given, "factor"),
            original,
            _float(given, "low_freq_factor"),
            _float(given, "high_freq_factor"),
        )
    if kind == "yarn":
        factor = _float(given, "factor", context / original)
        return RopeConfig(
            base,
            kind,
            factor,
            original,
            beta_fast=_float(given, "beta_fast", 32.0),
            beta_slow=_float(given, "beta_slow", 1.0),
            attention_factor=_yarn_attention(given, factor),
            truncate=_flag(given, "truncate", True),
        )
    raise ValueError(f"rope scaling of type {str(kind)[:40]!r} is not supported")


def _yarn_attention(given: dict[str, Any], factor: float) -> float:
    """How much queries and keys grow, so that attention is as sharp over more tokens."""
    if given.get("attention_factor") is not None:
        return _float(given, "attention_factor")
    one, other = given.get("mscale"), given.get("mscale_all_dim")
    if one and other:
        return _grown(factor, _float(given, "mscale")) / _grown(
            factor, _float(given, "mscale_all_dim")
        )
    return _grown(factor, 1.0)


def _grown(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _int(values: dict[str, Any], key: str, default: int | None = None) -> int:
    value = values.get(key)
    if value is None:
        if default is None:
            raise ValueError(f"{key} is missing")
        return default
    if type(value) is not int or not 0 < value < 1 << 40:
        raise ValueError(f"{key} is {str(value)[:30]!r}, expected a positive number")
    return value


def _flag(values: dict[str, Any], key: str, default: bool = False) -> bool:
    value = values.get(key)
    if value is None:
        return default
    if type(value) is not bool:
        raise ValueError(f"{key} is {str(value)[:30]!r}, expected true or false")
    return value


def _float(values: dict[str, Any], key: str, default: float | None = None) -> float:
    value = values.get(key)
    if value is None:
        if default is None:
            raise ValueError(f"{key} is missing")
        return default
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{key} is {str(value)[:30]!r}, expected a number")
    return float(value)
