"""Make a tiny Qwen3-ASR checkpoint of random weights, as transformers writes one. python -m tools.make_tiny_qwen_asr FOLDER

It babbles, but every file has the form that a trained one has. Needs transformers 5.24 or later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tools._tiny import folder
from tools.make_tiny_omni import ROPE, shake, tokenizer, vary, write_features

MARKS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|audio_start|> <|audio_end|> <|audio_pad|> <asr_text>"
).split()
AUDIO: dict[str, Any] = {
    "num_mel_bins": 16,
    "d_model": 24,
    "encoder_layers": 2,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "downsample_hidden_size": 6,
    "n_window_infer": 200,
}
TEXT: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def words() -> Any:
    """The tokenizer, of which <asr_text> is a word like others."""
    return tokenizer(MARKS)


def tiny(
    audio: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    tied: bool = True,
    seed: int = 0,
) -> Any:
    """transformers' own network, with weights that make every part of it count; sizes over those above."""
    import transformers

    torch.manual_seed(seed)
    known = words()
    ids = {t: known.token_to_id(t) for t in MARKS}
    sizes = {**TEXT, "rope_parameters": ROPE, "vocab_size": known.get_vocab_size(), **(text or {})}
    config = transformers.Qwen3ASRConfig(
        audio_config={**AUDIO, **(audio or {}), "output_dim": sizes["hidden_size"]},
        text_config=sizes,
        audio_token_id=ids["<|audio_pad|>"],
        pad_token_id=ids["<|endoftext|>"],
        eos_token_id=[ids["<|im_end|>"], ids["<|endoftext|>"]],
        tie_word_embeddings=tied,
    )
    model = transformers.Qwen3ASRForConditionalGeneration(config).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        shake(name, p)
        if tied and "embed_tokens" in name:
            p.mul_(0.02)  # otherwise each token is followed by itself
    vary(model, model.lm_head.weight)
    return model


def write(folder: str | Path, model: Any) -> Path:
    """A checkpoint's folder of this network."""
    folder = Path(folder)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words().to_str(), encoding="utf-8")
    write_features(folder, model.config.audio_config.num_mel_bins)
    return folder


def write_authors(folder: str | Path, model: Any) -> Path:
    """The same network in the layout of its authors: other names, and no tokenizer.json."""
    from safetensors.torch import load_file, save_file

    folder = write(folder, model)
    weights = load_file(folder / "model.safetensors")
    names = {
        "model.multi_modal_projector.linear_": "audio_tower.proj",
        "model.audio_tower.": "audio_tower.",
        "model.language_model.": "model.",
    }
    found = {}
    for name, w in weights.items():
        for theirs, authors in names.items():
            name = name.replace(theirs, authors)
        found[f"thinker.{name}"] = w
    found.setdefault("thinker.lm_head.weight", found["thinker.model.embed_tokens.weight"].clone())
    save_file(found, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = {k: config[k] for k in ("audio_config", "text_config")}
    parts["text_config"] |= {"model_type": "qwen3_asr_text"}
    parts["text_config"] |= {"tie_word_embeddings": config["tie_word_embeddings"]}
    parts["text_config"]["rope_scaling"] = {"type": "default", "mrope_section": [2, 1, 1]}
    parts["text_config"]["rope_theta"] = parts["text_config"].pop("rope_parameters")["rope_theta"]
    whole = {"model_type": "qwen3_asr", "thinker_config": parts}
    (folder / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    known = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    marks = {str(t.pop("id")): t for t in known["added_tokens"]}
    about = {"added_tokens_decoder": marks}
    plain = {t: i for t, i in known["model"]["vocab"].items() if str(i) not in marks}
    (folder / "vocab.json").write_text(json.dumps(plain), encoding="utf-8")
    merges = [m if isinstance(m, str) else " ".join(m) for m in known["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "tokenizer.json").unlink()
    return folder


def main(folder: str) -> None:
    write(folder, tiny())


if __name__ == "__main__":
    main(folder(__doc__))
