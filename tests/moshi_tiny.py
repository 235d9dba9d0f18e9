"""Moshis of transformers with random weights, so small that tests are fast, and the same in the layout of Kyutai's package."""

import functools
import json

import torch
import transformers
from safetensors.torch import save_file

from speechstream import bundle, config
from speechstream.duplex.moshi.torch import read_moshi
from speechstream.nn.moshi_config import MoshiBundle
from tests.kyutai_tiny import (
    PIECES,
    _mimi_config,
    _mimi_name,
    _pairs,
    sentencepiece_model,
    tokenizer_json,
)

PAD, WORD = 3, 0
CARD = 32  # codes of a level
SIZES = {  # names of configurations: other sizes, head counts, windows, levels
    "plain": {"depth": {}, "codec": {}},
    "grouped": {
        "hidden_size": 36,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "num_codebooks": 5,
        "sliding_window": 11,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "depth": {
            "hidden_size": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 3,
            "ffn_dim": 40,
        },
        "codec": {"num_quantizers": 6, "hidden_size": 24, "num_attention_heads": 3},
    },
}


@functools.cache
def theirs(name="plain", seed=0):
    """A model of transformers in evaluation mode, its weights so large that its codes and tokens differ."""
    given = dict(SIZES[name])
    torch.manual_seed(seed)
    codec = {
        "model_type": "mimi",
        "hidden_size": 16,
        "num_filters": 2,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "sliding_window": 25,
        "upsampling_ratios": [48, 20],
        "num_quantizers": 4,
        "codebook_size": CARD,
        "vector_quantization_hidden_dimension": 8,
        "codebook_dim": 8,
    } | given.pop("codec")
    heads = codec["num_attention_heads"]
    codec |= {
        "num_key_value_heads": heads,
        "head_dim": codec["hidden_size"] // heads,
        "upsample_groups": codec["hidden_size"],
    }
    depth = {
        "hidden_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "ffn_dim": 48,
    } | given.pop("depth")
    sizes = {
        "vocab_size": PIECES,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 96,
        "sliding_window": 64,
        "num_codebooks": 4,
    } | given
    config = transformers.MoshiConfig(
        audio_encoder_config=codec, depth_decoder_config=depth, **sizes
    )
    model = transformers.MoshiForConditionalGeneration(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("norm.weight"):
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "embed_tokens" in key:
                p.copy_(torch.randn_like(p) / (2 * sizes["num_codebooks"]) ** 0.5)
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
    return model.requires_grad_(False)


def write_checkpoint(model, folder):
    """The model as transformers saves it, with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer_json(folder)
    return folder


def read(path):
    """The network of a bundle."""
    about = config.read(MoshiBundle, bundle.load(path).config)
    return read_moshi(bundle.load(path), about.network).eval().requires_grad_(False)
