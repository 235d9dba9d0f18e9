"""Make a tiny Qwen2.5-Omni checkpoint of random weights, as transformers writes one.

    python -m tools.make_tiny_omni FOLDER
    python -m tools.make_tiny_omni BUNDLE --interleaved 2 5      # a bundle whose talker interleaves, as OpenS2S's

It babbles, but every file has the form that a trained one has: thinker, talker and token2wav (of the vision tower as
little as can be), a byte-level tokenizer, the speakers. Needs transformers 5.24 or later.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

WORDS = (
    "the rain fell softly on a grey stone house and the wind sang of summer while we sat by the fire and told "
    "stories of ships that had sailed far away to warm green islands where nobody ever asked what time it was"
)
MARKS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|AUDIO|> <|audio_bos|> <|audio_eos|> <|IMAGE|> <|VIDEO|> <tts_pad> "
    "<tts_text_bos> <tts_text_eos> <tts_text_bos_single>"
).split()
CODES = 40  # of speech, beside the marks
AUDIO: dict[str, Any] = {
    "num_mel_bins": 16,
    "d_model": 24,
    "encoder_layers": 2,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 40,
    "n_window": 12,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TALKER: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
DIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "head_dim": 8,
    "emb_dim": 12,
    "block_size": 6,
    "look_ahead_layers": [1],
    "look_backward_layers": [0, 2],
    "mel_dim": 10,
    "enc_emb_dim": 6,
    "enc_dim": 5,
    "enc_channels": [8, 8, 8, 8, 24],
    "enc_attention_channels": 4,
    "enc_se_channels": 4,
}
VOCODER: dict[str, Any] = {
    "upsample_initial_channel": 8,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 2, 1]],
    "upsample_rates": [16, 15],
    "upsample_kernel_sizes": [32, 31],
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


def rope(head_dim: int) -> dict[str, Any]:
    """Rotary positions, of which each head's are shared by time, height and width."""
    return {**ROPE, "mrope_section": [1, 1, head_dim // 2 - 2]}


def tokenizer(marks: Sequence[str] = MARKS) -> Any:
    """A byte-level tokenizer of a few words, and marks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([WORDS] * 2, trainer)
    made.add_special_tokens([AddedToken(t, special=True) for t in marks])
    return made


def tiny(
    audio: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    talker: dict[str, Any] | None = None,
    dit: dict[str, Any] | None = None,
    vocoder: dict[str, Any] | None = None,
    seed: int = 0,
) -> Any:
    """transformers' own network, with weights that make every part of it count; sizes over those above."""
    import transformers

    transformers.logging.set_verbosity_error()  # the talker's marks are the thinker's, which it warns of
    torch.manual_seed(seed)
    words = tokenizer()
    ids = {t: words.token_to_id(t) for t in MARKS}
    text = {**TEXT, **(text or {})}
    text |= {"rope_parameters": rope(text["hidden_size"] // text["num_attention_heads"])}
    text |= {"vocab_size": words.get_vocab_size(), "max_position_embeddings": 4096}
    dim = text["hidden_size"]
    shared = {
        "audio_token_index": ids["<|AUDIO|>"],
        "image_token_index": ids["<|IMAGE|>"],
        "video_token_index": ids["<|VIDEO|>"],
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"],
        "vision_start_token_id": ids["<|IMAGE|>"],
        "vision_end_token_id": ids["<|VIDEO|>"],
    }
    thinker = {
        "audio_config": {**AUDIO, **(audio or {}), "output_dim": dim},
        "text_config": text,
        "vision_config": {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 8,
            "num_heads": 2,
            "patch_size": 2,
            "out_hidden_size": dim,
            "fullatt_block_indexes": [0],
        },
        **shared,
    }
    speaking = {**TALKER, **(talker or {})}
    speaking |= {
        "rope_parameters": rope(speaking["head_dim"]),
        "embedding_size": dim,
        "vocab_size": CODES + 5,
        "tts_codec_pad_token_id": CODES,
        "tts_codec_start_token_id": CODES + 1,
        "tts_codec_end_token_id": CODES + 2,
        "tts_codec_mask_token_id": CODES + 4,
        "tts_text_start_token_id": ids["<tts_text_bos>"],
        "tts_text_end_token_id": ids["<tts_text_eos>"],
        "tts_text_pad_token_id": ids["<tts_pad>"],
        "max_position_embeddings": 4096,
        **shared,
    }
    decoding = {**DIT, "num_embeds": CODES + 4, "rope_parameters": ROPE, **(dit or {})}
    config = transformers.Qwen2_5OmniConfig(
        thinker_config=thinker,
        talker_config=speaking,
        token2wav_config={
            "dit_config": decoding,
            "bigvgan_config": {**VOCODER, **(vocoder or {}), "mel_dim": decoding["mel_dim"]},
        },
    )
    model = transformers.Qwen2_5OmniForConditionalGeneration(config).eval().requires_grad_(False)
    for name, p in model.named_parameters():
        norm = "norm" in name and name.endswith("weight") and p.ndim == 1
        if name.startswith("token2wav") and not norm:
            p.add_(0.15 * torch.randn_like(p))
        elif norm or "visual" not in name:
            shake(name, p)
    for n, name in enumerate(("Ada", "Ben")):
        model.speaker_map[name] = {
            "cond": torch.randn(1, decoding["enc_emb_dim"]),
            "ref_mel": torch.randn(1, 30 + n, decoding["mel_dim"]),
            "bos_token": ids["<tts_text_bos_single>"] - 2 * n,
        }
    return model


def shake(name: str, p: torch.Tensor) -> None:
    """Random numbers for a parameter, so large that every layer counts, in place."""
    if "norm" in name and name.endswith("weight") and p.ndim == 1:
        p.copy_(1 + 0.2 * torch.randn_like(p))
    elif "embed_tokens" in name or "head.weight" in name:
        p.copy_(0.7 * torch.randn_like(p))
        if name.endswith("lm_head.weight"):
            p[:256].mul_(0.1)  # words rather than single bytes
    else:
        p.copy_(torch.randn_like(p) * 1.2 / max(p[0].numel(), 4) ** 0.5)


@torch.no_grad()
def vary(model: Any, head: torch.Tensor, **given: Any) -> None:
    """Take from an output layer what random layers give everywhere alike: what is left makes tokens differ."""
    ids = torch.randint(head.shape[0], (1, 60))
    name = "decoder_input_ids" if given else "input_ids"
    hidden = model.model(**{name: ids}, use_cache=False, **given).last_hidden_state[0]
    mean = hidden.mean(0)
    head.sub_(torch.outer(head @ mean, mean) / mean.dot(mean))


def write(folder: str | Path, model: Any) -> Path:
    """A checkpoint's folder of this network."""
    folder = Path(folder)
    model.save_pretrained(folder)
    torch.save(model.speaker_map, folder / "spk_dict.pt")
    words = tokenizer()
    (folder / "tokenizer.json").write_text(words.to_str(), encoding="utf-8")
    stop = [words.token_to_id("<|im_end|>"), words.token_to_id("<|endoftext|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stop}))
    write_features(folder, model.config.thinker_config.audio_config.num_mel_bins)
    return folder


def write_features(folder: Path, mels: int) -> None:
    """What a checkpoint says of its features."""
    features = {"feature_size": mels, "sampling_rate": 16_000, "hop_length": 160, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps(features))


@torch.no_grad()
def interleave(bundle: Path, target: Path, text_span: int, code_span: int, seed: int = 0) -> Path:
    """A bundle like another, whose talker interleaves features and codes, with random weights."""
    from safetensors.torch import load_file, save_file

    from speechstream.bundle import write as write_bundle
    from speechstream.config import read
    from speechstream.nn.interleaved import InterleavedOmni
    from speechstream.nn.omni_config import OmniBundle

    index = json.loads((bundle / "bundle.json").read_text("utf-8"))
    index["config"]["network"]["talker"] |= {"text_span": text_span, "code_span": code_span}
    about = read(OmniBundle, index["config"])
    torch.manual_seed(seed)
    talker = InterleavedOmni(about.network).talker
    for name, p in talker.named_parameters():
        shake(name, p)
    weights = load_file(bundle / "model.safetensors")
    weights = {n: w for n, w in weights.items() if not n.startswith("talker.")}
    weights |= {f"talker.{n}": w for n, w in talker.state_dict().items()}
    target.mkdir(parents=True, exist_ok=True)
    for path in bundle.iterdir():
        if path.name not in ("bundle.json", "model.safetensors"):
            (target / path.name).write_bytes(path.read_bytes())
    save_file(weights, target / "model.safetensors")
    files = list(index["files"])
    write_bundle(
        target, index["task"], index["architecture"], index["config"], index["card"], files
    )
    return target


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--interleaved", type=int, nargs=2, metavar=("TOKENS", "CODES"))
    args = parser.parse_args()
    if not args.interleaved:
        write(args.folder, tiny())
        return
    from speechstream.convert.omni import convert_omni

    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / "checkpoint", tiny())
        convert_omni(source, Path(folder) / "bundle", {"name": "tiny", "licence": "none"})
        interleave(Path(folder) / "bundle", args.folder, *args.interleaved)


if __name__ == "__main__":
    main()
