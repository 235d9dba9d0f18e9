"""What the checkpoints of Qwen's speech models have in common: their language model, features, tokenizer and ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechstream.audio.features import HOP_LENGTH, N_FFT, SAMPLE_RATE
from speechstream.config import Section, read_value
from speechstream.convert.llm_config import from_hugging_face
from speechstream.convert.stored import read_json
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.llm_config import LlmConfig

TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "head_dim",
    "hidden_act",
    "attention_bias",
    "rope_parameters",
    "rope_scaling",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "quantization_config",
)

ENCODER_NAMES = (  # pattern of an encoder's tensor there, its name here
    (r"^(encoder\.layers\.\d+)\.self_attn\.out_proj\.", r"\1.o_proj."),
    (r"^(encoder\.layers\.\d+)\.self_attn\.", r"\1."),
    (r"^(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.att_norm."),
    (r"^(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.ff_norm."),
    (r"^(encoder\.layers\.\d+)\.fc1\.", r"\1.up_proj."),
    (r"^(encoder\.layers\.\d+)\.fc2\.", r"\1.down_proj."),
    (r"^encoder\.ln_post\.", "encoder.norm."),
)


def qwen_text(s: Section, defaults: dict[str, Any], tied: bool, kind: str = "qwen2") -> LlmConfig:
    """A language model's section. Sound and text have one position a token, so that the three of a token's are one."""
    values = {k: s.raw(k) for k in TEXT_KEYS if k in s}
    for key in ("rope_parameters", "rope_scaling"):
        rope = values.get(key)
        if isinstance(rope, Mapping):
            named = rope.get("rope_type", rope.get("type", "default"))
            left_out = ("mrope_section", "mrope_interleaved", "interleaved", "type")
            kept = {k: v for k, v in rope.items() if k not in left_out}
            values[key] = kept | {"rope_type": "default" if named == "mrope" else named}
    values = defaults | values | {"model_type": kind, "tie_word_embeddings": tied}
    config = from_hugging_face(values)
    if config.rope.kind == "dynamic":
        raise ValueError("rotary positions that change with the length are not supported")
    return config


def check_features(folder: Path, n_mels: int, **more: Any) -> None:
    """Raises ValueError for features of another kind than Whisper's. more: what its settings must say besides."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return
    s = Section(read_json(path), path.name)
    wanted = {
        "feature_size": n_mels,
        "sampling_rate": SAMPLE_RATE,
        "hop_length": HOP_LENGTH,
        "n_fft": N_FFT,
    }
    for key, value in (wanted | more).items():
        if s.number(key, value) != value:
            raise ValueError(
                f"its features have {key} {s.number(key):g}, and only {value} is supported"
            )


def read_tokenizer(path: Path, size: int) -> Tokenizer:
    """A tokenizer.json of at most so many tokens. Raises SpeechStreamError, ValueError."""
    try:
        words = Tokenizer(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpeechStreamError(f"{path} is damaged: it is not text") from error
    return fitting(words, size)


def fitting(words: Tokenizer, size: int) -> Tokenizer:
    """The tokenizer, if a language model of so many tokens can have it. Raises ValueError."""
    if len(words) > size:
        raise ValueError(f"its tokenizer has {len(words)} tokens and its language model {size}")
    return words


def ends(folder: Path, words: Tokenizer) -> tuple[int, ...]:
    """Ids that end a text: the tokenizer's marks, and what generation_config.json says."""
    found = [words.id("<|im_end|>"), words.id("<|endoftext|>")]
    if (folder / "generation_config.json").is_file():
        said = Section(read_json(folder / "generation_config.json")).raw("eos_token_id")
        found += said if isinstance(said, list) else [said]
    stop = read_value(tuple[int, ...], [i for i in found if i is not None], "eos_token_id")
    return tuple(dict.fromkeys(stop))
