"""Make a tiny pocket-tts checkpoint of random weights, as transformers writes one. python -m tools.make_tiny_pocket FOLDER

It says nothing, but every file has the form that a trained one has: the language model with its flow head, the codec, a
tokenizer, generation settings, a voice as latents and one as a recording. Needs transformers 5.24 or later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
from safetensors.torch import save_file

from tools._tiny import folder

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'-\"()&"
PIECES = ["<unk>", "<s>", "</s>", "<pad>", "▁", *LETTERS, "th", "he", "in", "▁the"]
SPECIAL = ["<|voice|>", "<|latent|>", "<|voice_bos|>", "<|audio_bos|>"]
MODEL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "latent_dim": 8,
}
FLOW: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "frequency_embedding_size": 16}
CODEC: dict[str, Any] = {
    "sampling_rate": 8000,
    "hidden_size": 16,
    "num_filters": 4,
    "upsampling_ratios": [5, 4],
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "sliding_window": 11,
    "upsample_groups": 16,
    "latent_stride": 4,
    "latent_dim": 8,
    "layer_scale_initial_scale": 0.7,
}
GENERATION = {
    "do_sample": True,
    "temperature": 0.7,
    "num_flow_steps": 1,
    "eos_threshold": 0.0,
    "min_frames_before_eos": 3,
}


def tiny(
    model: dict[str, Any] | None = None,
    flow: dict[str, Any] | None = None,
    codec: dict[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Any, Any]:
    """transformers' own networks, with weights that make every part of them count; sizes over those above."""
    import transformers

    torch.manual_seed(seed)
    sizes, coding = {**MODEL, **(model or {})}, {**CODEC, **(codec or {})}
    ids = dict(zip(_IDS, range(len(PIECES), len(PIECES) + len(SPECIAL))))
    hop = int(np.prod(coding["upsampling_ratios"])) * coding["latent_stride"]
    config = transformers.PocketTTSConfig(
        vocab_size=len(PIECES) + len(SPECIAL),
        flow_head_config={
            **FLOW,
            "latent_dim": sizes["latent_dim"],
            "condition_dim": sizes["hidden_size"],
            **(flow or {}),
        },
        frame_rate=coding["sampling_rate"] / hop,
        **ids,
        **sizes,
    )
    network = transformers.PocketTTSForConditionalGeneration(config).eval()
    coder = transformers.PocketTTSAudioTokenizerModel(
        transformers.PocketTTSAudioTokenizerConfig(**coding)
    ).eval()
    with torch.no_grad():
        for name, p in [*network.named_parameters(), *coder.named_parameters()]:
            if "loss_weighting" not in name:
                p.add_(0.1 * torch.randn(p.shape))
        last = coder.decoder.decoder_seanet.layers[-1].conv
        last.weight.mul_(0.05)  # well below full scale
        last.bias.mul_(0.05)
        network.latent_mean.normal_(0, 0.3)
        network.latent_std.uniform_(0.5, 1.5)
    return network, coder


_IDS = (
    "audio_prompt_token_id",
    "audio_latent_token_id",
    "audio_prompt_bos_token_id",
    "audio_bos_token_id",
)


def write(folder: str | Path, network: Any, coder: Any, generation: Any = None) -> Path:
    """A checkpoint's folder of these networks."""
    folder = Path(folder)
    network.save_pretrained(folder)
    coder.save_pretrained(folder / "audio_tokenizer")
    (folder / "generation_config.json").write_text(json.dumps(generation or GENERATION))
    processor = {"frames_after_eos": 2, "frames_after_eos_short_text": 4}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "tokenizer.json").write_text(tokenizer(), encoding="utf-8")
    voices = folder / "voices"
    voices.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((7, network.config.latent_dim)).astype(np.float32)
    save_file({"audio_prompt": torch.from_numpy(latents)}, voices / "ada.safetensors")
    rate = coder.config.sampling_rate
    sound = 0.2 * rng.standard_normal(rate).astype(np.float32)
    sound[int(0.8 * rate) :] = 0
    sf.write(voices / "noise.wav", sound, rate, subtype="FLOAT")
    return folder


def tokenizer() -> str:
    """A tokenizer.json of letters and a few longer pieces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    scores = [(p, -10.0 if len(p) == 1 else -5.0) for p in PIECES]
    made = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    made.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    made.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL])
    return str(made.to_str())


def main(folder: str) -> None:
    write(folder, *tiny())


if __name__ == "__main__":
    main(folder(__doc__))
