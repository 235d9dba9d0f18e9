"""Make a tiny Moshi checkpoint of random weights, as transformers writes one. python -m tools.make_tiny_moshi FOLDER

It babbles, but every file has the form that a trained one has: both transformers, the codec, a vocabulary with bytes.
Needs transformers 5.24 or later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tools._tiny import folder

WORDS = (
    "the rain fell softly on a grey stone house and the wind sang of summer while we sat by the fire and told "
    "stories of ships that had sailed far away to warm green islands where nobody ever asked what time it was"
)
PIECES = 320  # of the vocabulary: four marks, the bytes, words
PAD = 3
CODES = 32  # of a level
CODEC: dict[str, Any] = {
    "model_type": "mimi",
    "hidden_size": 16,
    "num_filters": 2,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "sliding_window": 25,
    "upsampling_ratios": [48, 20],
    "num_quantizers": 4,
    "codebook_size": CODES,
    "vector_quantization_hidden_dimension": 8,
    "codebook_dim": 8,
}
DEPTH: dict[str, Any] = {
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 48,
}
TEXT: dict[str, Any] = {
    "vocab_size": PIECES,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 96,
    "sliding_window": 64,
    "num_codebooks": 4,
}


def tokenizer() -> Any:
    """Unigram pieces with bytes, as SentencePiece has them: <unk>, <s>, </s>, <pad>, 256 bytes, words and letters."""
    from tokenizers import Tokenizer, models

    marks = ["<unk>", "<s>", "</s>", "<pad>"]
    words = [f"\u2581{w}" for w in dict.fromkeys(WORDS.split())]
    letters = list("abcdefghijklmnopqrstuvwxyz")
    pieces = [*marks, *(f"<0x{b:02X}>" for b in range(256)), *words, *letters][:PIECES]
    found = Tokenizer(models.Unigram([(p, -float(i)) for i, p in enumerate(pieces)], 0, True))
    found.add_special_tokens(marks)
    return found


@torch.no_grad()
def tiny(
    seed: int = 0,
    codec: dict[str, Any] | None = None,
    depth: dict[str, Any] | None = None,
    **sizes: Any,
) -> Any:
    """A network of transformers with random weights, so large that its codes and tokens differ."""
    import transformers

    torch.manual_seed(seed)
    hearing = CODEC | (codec or {})
    heads = hearing["num_attention_heads"]
    hearing |= {
        "num_key_value_heads": heads,
        "head_dim": hearing["hidden_size"] // heads,
        "upsample_groups": hearing["hidden_size"],
    }
    config = transformers.MoshiConfig(
        audio_encoder_config=hearing, depth_decoder_config=DEPTH | (depth or {}), **TEXT | sizes
    )
    model = transformers.MoshiForConditionalGeneration(config).eval().requires_grad_(False)
    for key, p in model.named_parameters():
        if key.endswith("norm.weight"):
            p.copy_(1 + 0.2 * torch.randn_like(p))
        elif "embed_tokens" in key:
            p.copy_(torch.randn_like(p) / (2 * config.num_codebooks) ** 0.5)
        elif "layer_scale" in key:
            p.copy_(0.5 + 0.1 * torch.randn_like(p))
        elif key.endswith(".bias"):
            p.copy_(0.05 * torch.randn_like(p))
        else:
            wide = p.shape[-1] if p.ndim == 3 and "conv" not in key else max(p[0].numel(), 4)
            p.copy_(torch.randn_like(p) * 1.4 / wide**0.5)
    for key, b in model.named_buffers():
        if key.endswith("embed_sum"):
            b.copy_(torch.randn_like(b))
    model.decoder.lm_head.weight.mul_(3)
    model.decoder.lm_head.weight[:260].mul_(0.2)  # words rather than marks and single bytes
    return model


def write(folder: str | Path, model: Any) -> Path:
    """A checkpoint's folder of this network."""
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def main(folder: str) -> None:
    write(folder, tiny())


if __name__ == "__main__":
    main(folder(__doc__))
