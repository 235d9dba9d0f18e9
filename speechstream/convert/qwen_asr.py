"""Qwen3-ASR in: a folder of Hugging Face as a bundle, in the layout of transformers ("-hf") or in that of its authors.

Weights are copied as they are stored, one tensor at a time.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from speechstream import bundle
from speechstream.bundle import Bundle
from speechstream.config import Section
from speechstream.convert.qwen import (
    ENCODER_NAMES,
    check_features,
    ends,
    fitting,
    qwen_text,
    read_tokenizer,
)
from speechstream.convert.qwen_tokenizer import built
from speechstream.convert.stored import (
    check_copy,
    check_kind,
    check_only,
    check_shapes,
    first_line,
    read_json,
    rename,
    tensors,
    write,
)
from speechstream.errors import SpeechStreamError
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.placed import stored_shapes
from speechstream.nn.qwen_asr import QwenAsr, tied
from speechstream.nn.qwen_asr_config import QwenAsrBundle, QwenAsrConfig, QwenEncoderConfig

ARCHITECTURE, KIND = "qwen3-asr", "qwen3_asr"
WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
LEAST_SAMPLES = 8000  # to which a shorter recording is filled up
TEXT_DEFAULTS = {  # of the 1.7B: what its config.json leaves out
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 65536,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
# As the model was told them in training; the library's own table.
LANGUAGES = {
    "ar": "Arabic",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "fa": "Persian",
    "fi": "Finnish",
    "fil": "Filipino",
    "fr": "French",
    "hi": "Hindi",
    "hu": "Hungarian",
    "id": "Indonesian",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "mk": "Macedonian",
    "ms": "Malay",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "vi": "Vietnamese",
    "yue": "Cantonese",
    "zh": "Chinese",
}
MARK = "<asr_text>"
NAMES = (  # pattern of a tensor's name there, its name here
    (r"^thinker\.", ""),
    (r"^model\.language_model\.", "model."),
    (r"^(model\.)?audio_tower\.", "encoder."),
    (r"^encoder\.conv2d([123])\.", r"encoder.conv\1."),
    *ENCODER_NAMES,
    (r"^(encoder\.proj1|(model\.)?multi_modal_projector\.linear_1)\.", "encoder.proj.0."),
    (r"^(encoder\.proj2|(model\.)?multi_modal_projector\.linear_2)\.", "encoder.proj.2."),
    (r"^(model|lm_head)\.", r"text.\1."),
)


def renamed(name: str) -> str | None:
    """Hugging Face's name of a tensor, in either layout, as that of `nn.qwen_asr.QwenAsr`; None: it is left out."""
    if name.endswith(("inv_freq", "positional_embedding")):
        return None
    return rename(name, NAMES)


def convert_qwen_asr(
    source: str | Path, target: str | Path, card: dict[str, Any], language: str | None = None
) -> Bundle:
    """Write a checkpoint's folder as a bundle. Raises SpeechStreamError, in one sentence, for what is not supported.

    language: that the model is told, a name or a code of LANGUAGES; None: it finds out.
    """
    source, target = Path(source), Path(target)
    found = tensors(source, renamed)
    try:
        network = network_config(Section(read_json(source / "config.json")))
        if network.text.tied:
            head = found.pop("text.lm_head.weight", None)
            check_copy(source, head, found.get("text.model.embed_tokens.weight"))
        check_features(source, network.encoder.n_mels, min_length=LEAST_SAMPLES, dither=0)
        text, words = tokenizer(source, network.text.vocab_size)
        about = _about(source, network, words, _language(language))
    except (ValueError, OverflowError, RecursionError) as error:
        raise SpeechStreamError(f"{source} is not supported: {first_line(error)}") from error
    expected = stored_shapes(lambda: QwenAsr(network), tied(network))
    check_shapes(source, {n: t.shape for n, t in found.items()}, expected)
    target.mkdir(parents=True, exist_ok=True)
    write(target / WEIGHTS, {n: found[n] for n in expected})
    (target / TOKENIZER).write_text(text, encoding="utf-8")
    config = dataclasses.asdict(about)
    return bundle.write(target, "asr", ARCHITECTURE, config, card, [WEIGHTS, TOKENIZER])


def network_config(c: Section) -> QwenAsrConfig:
    """config.json of either layout as ours. Raises ValueError or SpeechStreamError."""
    check_kind(c, KIND)
    if "TokenClassification" in str(c.raw("architectures"))[:1000]:
        raise ValueError("it aligns a text that is known, and writes none; convert a Qwen3-ASR")
    thinker = c.section("thinker_config") if "thinker_config" in c else c
    a, t = thinker.section("audio_config"), thinker.section("text_config")
    check_only("its audio encoder's activation", a, "activation_function", "gelu")
    encoder = QwenEncoderConfig(
        n_mels=a.integer("num_mel_bins", 128),
        dim=a.integer("d_model", 1024),
        layers=a.integer("encoder_layers", 24),
        heads=a.integer("encoder_attention_heads", 16),
        ff_dim=a.integer("encoder_ffn_dim", 4096),
        channels=a.integer("downsample_hidden_size", 480),
        chunk=2 * a.integer("n_window", 50),
        window=a.integer("n_window_infer", 800),
        out_dim=a.integer("output_dim", 3584),
    )
    own = t if thinker is not c else c  # whose flag it is
    text = qwen_text(t, TEXT_DEFAULTS, own.flag("tie_word_embeddings", own is c), "qwen3")
    return QwenAsrConfig(encoder, text)


def tokenizer(folder: Path, size: int) -> tuple[str, Tokenizer]:
    """The text of a tokenizer.json, as it is there, or made of the files that the authors' layout has; and what it is."""
    if (folder / TOKENIZER).is_file():
        words = read_tokenizer(folder / TOKENIZER, size)
        return (folder / TOKENIZER).read_text(encoding="utf-8"), words
    found, config = built(folder), folder / "tokenizer_config.json"
    marks = Section(read_json(config), config.name).section("added_tokens_decoder")
    for number in marks.keys:
        one = marks.section(number)
        if not number.isdecimal() or len(number) > 9:
            raise ValueError(f"its {config.name} has a token with the number {number[:20]!r}")
        flags = {n: one.flag(n, False) for n in ("single_word", "lstrip", "rstrip", "normalized")}
        token = {"id": int(number), "content": one.text("content"), **flags}
        found["added_tokens"].append(token | {"special": one.flag("special", False)})
    found["added_tokens"].sort(key=lambda t: t["id"])
    text = json.dumps(found, ensure_ascii=False)
    return text, fitting(Tokenizer(text), size)


def _about(folder: Path, network: QwenAsrConfig, words: Tokenizer, language: str) -> QwenAsrBundle:
    for name in ("<|im_start|>", "<|im_end|>", "<|audio_start|>", "<|audio_end|>", MARK):
        if words.id(name) is None:
            raise ValueError(f"its tokenizer has no {name}: it is of another model")
    start = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n<|audio_start|>"
    end = "<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
    if language:
        end += f"language {language}{MARK}"
    return QwenAsrBundle(
        network,
        tuple(words.encode(start)),
        tuple(words.encode(end)),
        ends(folder, words),
        words.encode(MARK)[0],
        language,
    )


def _language(given: str | None) -> str:
    """The name of a language. Raises ValueError for one that the model does not know."""
    if given is None:
        return ""
    name = LANGUAGES.get(given.lower().split("-")[0], given.capitalize())
    if name not in LANGUAGES.values():
        raise ValueError(
            f"it knows no language {given[:40]!r}; it knows {', '.join(sorted(LANGUAGES))}"
        )
    return name
