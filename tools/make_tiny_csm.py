"""Make a tiny CSM checkpoint of random weights, as transformers writes one. python -m tools.make_tiny_csm FOLDER

It says nothing, but every file has the form that a trained one has: both language models, the codec, a tokenizer, a voice as a
recording with its text. Needs transformers 5.24 or later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch

from tools._tiny import folder
from tools.make_tiny_moshi import CODEC, CODES
from tools.make_tiny_omni import tokenizer

MARKS = ("<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>")
BACKBONE: dict[str, Any] = {
    "num_codebooks": 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 700,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
}
DEPTH: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}
TEXT = "The rain fell on a warm stone."  # what the voice says


@torch.no_grad()
def tiny(
    seed: int = 0,
    codec: dict[str, Any] | None = None,
    depth: dict[str, Any] | None = None,
    **sizes: Any,
) -> Any:
    """A network of transformers with random weights, so large that its codes differ; its marks are never written."""
    import transformers

    torch.manual_seed(seed)
    hearing = CODEC | (codec or {})
    heads = hearing["num_attention_heads"]
    hearing |= {
        "num_key_value_heads": heads,
        "head_dim": hearing["hidden_size"] // heads,
        "upsample_groups": hearing["hidden_size"],
    }
    sizes, words = BACKBONE | sizes, tokenizer(MARKS)
    ids = [words.token_to_id(t) for t in MARKS]
    levels, rows = sizes["num_codebooks"], CODES + 3
    inner = DEPTH | (depth or {}) | {"num_codebooks": levels, "vocab_size": rows}
    inner |= {"backbone_hidden_size": sizes["hidden_size"], "max_position_embeddings": levels + 1}
    config = transformers.CsmConfig(
        vocab_size=rows,
        text_vocab_size=words.get_vocab_size(),
        codebook_pad_token_id=rows - 1,
        bos_token_id=ids[0],
        pad_token_id=ids[2],
        audio_token_id=ids[2],
        audio_eos_token_id=ids[3],
        codec_config=hearing,
        depth_decoder_config=inner,
        **sizes,
    )
    model = transformers.CsmForConditionalGeneration(config).eval().requires_grad_(False)
    for key, p in model.named_parameters():
        if key.endswith("norm.weight"):
            p.copy_(1 + 0.2 * torch.randn_like(p))
        elif "embed" in key and "projector" not in key:
            p.copy_(torch.randn_like(p) / (1 if "text" in key else levels) ** 0.5)
        elif "layer_scale" in key:
            p.copy_(0.5 + 0.1 * torch.randn_like(p))
        elif key.endswith(".bias"):
            p.copy_(0.05 * torch.randn_like(p))
        else:
            wide = p.shape[1] if p.ndim == 3 and "head" in key else max(p[0].numel(), 4)
            p.copy_(torch.randn_like(p) * 1.4 / wide**0.5)
    for key, b in model.named_buffers():
        if key.endswith("embed_sum"):
            b.copy_(torch.randn_like(b))
    model.lm_head.weight[CODES:] = 0
    model.depth_decoder.codebooks_head.weight[..., CODES:] = 0
    return model


def write(folder: str | Path, model: Any, generation: dict[str, Any] | None = None) -> Path:
    """A checkpoint's folder of this network. generation: how it draws."""
    folder = Path(folder)
    model.save_pretrained(folder)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "tokenizer.json").write_text(tokenizer(MARKS).to_str(), encoding="utf-8")
    (folder / "voices").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    sf.write(folder / "voices" / "ada.wav", 0.1 * rng.standard_normal(17_000), 16_000)
    (folder / "voices" / "ada.txt").write_text(TEXT, encoding="utf-8")
    return folder


def main(folder: str) -> None:
    write(folder, tiny())


if __name__ == "__main__":
    main(folder(__doc__))
