"""Make a tiny streaming Moonshine of random weights, as transformers writes one. python -m tools.make_tiny_moonshine FOLDER

It babbles, but every file has the form that a trained one has. Needs transformers 5.24 or later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tools._tiny import folder
from tools.make_tiny_omni import shake, tokenizer, vary

MARKS = ("<unk>", "<s>", "</s>")
ENCODER: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "sliding_windows": ((7, 3), (5, 0), (6, 2)),
}
DECODER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 600,
}


def words() -> Any:
    """The tokenizer."""
    return tokenizer(MARKS)


def tiny(
    encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None, seed: int = 0
) -> Any:
    """transformers' own network, with weights that make every part of it count; sizes over those above."""
    import transformers

    torch.manual_seed(seed)
    known, sizes = words(), {**DECODER, **(decoder or {})}
    config = transformers.MoonshineStreamingConfig(
        encoder_config={**ENCODER, **(encoder or {})},
        **sizes,
        num_key_value_heads=sizes["num_attention_heads"],
        vocab_size=known.get_vocab_size(),
        pad_token_id=known.token_to_id("<unk>"),
        bos_token_id=known.token_to_id("<s>"),
        eos_token_id=known.token_to_id("</s>"),
    )
    model = transformers.MoonshineStreamingForConditionalGeneration(config).eval()
    model.requires_grad_(False)
    for name, p in model.named_parameters():
        if name.endswith("gamma"):
            p.copy_(0.2 * torch.randn_like(p))
        elif not name.endswith("log_k"):
            shake(name.replace("proj_out", "lm_head"), p)
    if config.tie_word_embeddings:
        model.proj_out.weight.mul_(0.02)  # otherwise each token is followed by itself
    sound = 0.1 * torch.randn(1, 8000)
    mask = torch.ones(sound.shape, dtype=torch.long)
    vary(model, model.proj_out.weight, input_values=sound, attention_mask=mask)
    return model


def write(folder: str | Path, model: Any) -> Path:
    """A checkpoint's folder of this network."""
    folder = Path(folder)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(words().to_str(), encoding="utf-8")
    about = {"feature_size": 1, "sampling_rate": 16_000, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def main(folder: str) -> None:
    write(folder, tiny())


if __name__ == "__main__":
    main(folder(__doc__))
