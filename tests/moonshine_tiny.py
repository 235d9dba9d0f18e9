"""Tiny streaming Moonshines of transformers, the oracle, and what they write of sounds."""

import functools

import torch
import transformers

from tools.make_tiny_moonshine import tiny

SIZES = {  # other sizes, heads, windows, layers, ties
    "plain": {},
    "wide": {
        "encoder": {
            "hidden_size": 32,  # as the decoder's: nothing lies between
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 2,
            "sliding_windows": ((16, 4), (1, 0)),
            "attention_bias": True,
        },
        "decoder": {"num_attention_heads": 2, "num_hidden_layers": 1, "attention_bias": True},
        "seed": 1,
    },
    "tied": {
        "encoder": {"num_hidden_layers": 1, "sliding_windows": ((4, 0),), "head_dim": 10},
        "decoder": {
            "tie_word_embeddings": True,
            "head_dim": 12,
            "pad_head_dim_to_multiple_of": 8,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 500.0,
                "partial_rotary_factor": 1.0,
            },
        },
        "seed": 2,
    },
}


@functools.cache
def theirs(name="plain"):
    """A model of transformers in evaluation mode."""
    return tiny(**SIZES[name])


def inputs(x):
    """Samples as transformers' processor gives them, and their mask."""
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=False, return_attention_mask=True
    )
    found = extractor(
        x, sampling_rate=16_000, padding=True, pad_to_multiple_of=80, return_tensors="pt"
    )
    return {"input_values": found["input_values"], "attention_mask": found["attention_mask"]}


@torch.no_grad()
def generate(model, x, most):
    """The greedy tokens of transformers, without what ends them."""
    out = model.generate(**inputs(x), max_new_tokens=most, do_sample=False)[0, 1:].tolist()
    end = model.config.eos_token_id
    return out[: out.index(end)] if end in out else out
