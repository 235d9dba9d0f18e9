"""Tiny Qwen3-ASRs of transformers, the oracle, and what they write of sounds."""

import functools

import torch
import transformers

from tools.make_tiny_qwen_asr import tiny, words

SIZES = {  # other sizes, heads, windows of one chunk and of three, chunks of another length
    "plain": {"seed": 1},
    "untied": {
        "audio": {
            "d_model": 20,
            "encoder_attention_heads": 5,
            "num_mel_bins": 11,
            "encoder_layers": 2,
            "n_window": 51,
            "n_window_infer": 306,
            "downsample_hidden_size": 5,
        },
        "text": {"hidden_size": 40, "num_attention_heads": 6, "num_key_value_heads": 3},
        "tied": False,
        "seed": 1,
    },
    "narrow": {
        "audio": {"n_window": 49, "n_window_infer": 98, "encoder_ffn_dim": 17},
        "text": {"num_key_value_heads": 1, "head_dim": 12, "attention_bias": True},
        "seed": 5,
    },
}


@functools.cache
def theirs(name="plain"):
    """A model of transformers in evaluation mode."""
    return tiny(**SIZES[name])


def features(model, x):
    """Mel frames (1, n_mels, a multiple of the chunk) of samples, and their mask, by transformers."""
    c = model.config.audio_config
    extractor = transformers.Qwen3ASRFeatureExtractor(
        feature_size=c.num_mel_bins, n_window=c.n_window
    )
    found = extractor(x, sampling_rate=16_000, padding=True, return_attention_mask=True)
    return found["input_features"], found["attention_mask"]


def tokens_of(frames, chunk):
    """How many tokens the encoder makes of so many frames."""
    left = frames % chunk
    for _ in range(3):
        left = (left + 1) // 2
    return left + frames // chunk * 13


@torch.no_grad()
def generate(model, mel, mask, most, language=""):
    """The greedy tokens of transformers, without what ends them."""
    known, c = words(), model.config
    audio = "<|audio_pad|>" * tokens_of(int(mask.sum()), 2 * c.audio_config.n_window)
    prompt = (
        "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
        f"<|audio_start|>{audio}<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
    ) + (f"language {language}<asr_text>" if language else "")
    ids = torch.tensor([known.encode(prompt, add_special_tokens=False).ids])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_features=mel,
        input_features_mask=mask,
        max_new_tokens=most,
        do_sample=False,
    )[0, ids.shape[1] :].tolist()
    ends = c.eos_token_id
    return next((out[:n] for n, i in enumerate(out) if i in ends), out)
