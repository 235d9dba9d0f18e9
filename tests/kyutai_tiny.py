"""Kyutai's speech-to-text of transformers with random weights, so small that tests are fast, and what it makes of sounds.

`transformers` is the oracle: `theirs` makes a model, `write_checkpoint` saves it as the released ones are, and
`write_moshi` as moshi has them, with a SentencePiece vocabulary of our own.
"""

import functools
import io
import json
import re

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

FRAME = 1920  # samples of the codec
RATE = 24_000
PIECES = 320  # of the vocabulary; one more token begins a stream
VOCAB = PIECES + 1
BOS, PAD, WORD = PIECES, 3, 0

SIZES = {  # names of configurations: other sizes, head counts, windows, levels
    "plain": {"sliding_window": 19},
    "shallow": {"sliding_window": 12, "codec": {"num_hidden_layers": 1}},
    "grouped": {
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "hidden_size": 36,
        "num_codebooks": 6,
        "codec": {"num_quantizers": 6, "hidden_size": 24, "num_attention_heads": 3},
    },
    "narrow": {
        "sliding_window": 7,
        "ffn_dim": 90,
        "head_dim": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
        "codec": {
            "sliding_window": 9,
            "num_hidden_layers": 3,
            "num_filters": 3,
            "upsampling_ratios": [8, 6, 5, 4],  # as released
        },
    },
}


def theirs(name="plain", seed=0):
    """A model of transformers in evaluation mode, its weights so large that its codes and tokens differ."""
    given = dict(SIZES[name])
    torch.manual_seed(seed)
    codec = {
        "model_type": "mimi",
        "hidden_size": 16,
        "num_filters": 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "sliding_window": 25,
        "upsampling_ratios": [48, 20],
        "num_quantizers": 4,
        "codebook_size": 32,
        "vector_quantization_hidden_dimension": 8,
        "codebook_dim": 8,
    } | given.pop("codec", {})
    heads = codec["num_attention_heads"]
    codec |= {
        "num_key_value_heads": heads,
        "head_dim": codec["hidden_size"] // heads,
        "upsample_groups": codec["hidden_size"],
    }
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 96,
        "sliding_window": 30,
        "num_codebooks": 4,
    } | given
    card, levels = codec["codebook_size"], sizes["num_codebooks"]
    config = transformers.KyutaiSpeechToTextConfig(
        codebook_vocab_size=card + 1,
        audio_bos_token_id=card,
        audio_pad_token_id=VOCAB + levels * (card + 1),
        bos_token_id=BOS,
        codec_config=codec,
        **sizes,
    )
    model = transformers.KyutaiSpeechToTextForConditionalGeneration(config).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith(("norm.weight", "layernorm.weight")):
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "embed_tokens" in key:
                p.copy_(torch.randn_like(p) / np.sqrt(1 + levels))
            elif "layer_scale" in key:
                p.copy_(0.5 + 0.1 * torch.randn_like(p))
            elif key.endswith(".bias"):
                p.copy_(0.05 * torch.randn_like(p))
            elif "codec" in key and "conv" in key:
                p.copy_(torch.randn_like(p) * 2 / np.sqrt(max(p[0].numel(), 4)))
            else:
                p.copy_(torch.randn_like(p) * 1.4 / np.sqrt(max(p[0].numel(), 4)))
        for key, b in model.named_buffers():
            if key.endswith("embed_sum"):
                b.copy_(torch.randn_like(b))
        model.lm_head.weight.mul_(3)
        model.lm_head.weight[WORD].copy_(model.lm_head.weight[PAD] + model.lm_head.weight[7])
    return model.requires_grad_(False)


def features(delay=0.5, prefix=0.0):
    return transformers.KyutaiSpeechToTextFeatureExtractor(
        audio_delay_seconds=delay, audio_silence_prefix_seconds=prefix
    )


def padded(x, delay=0.5, prefix=0.0):
    """Samples at 24 kHz with the silence around them that transformers' processor puts there: (1, 1, n)."""
    return features(delay, prefix)(x, sampling_rate=RATE, return_tensors="pt").input_values


@torch.no_grad()
def generate(model, audio, window=None, without=()):
    """The greedy tokens of padded audio, by transformers. window: frames that its codec hears at a time; None: all."""
    model.generation_config.audio_window_size = window
    out = model.generate(input_values=audio, do_sample=False, suppress_tokens=list(without) or None)
    return out[0, 1:].tolist()


@functools.cache
def sentencepiece_model():
    """A vocabulary with bytes: <unk>, <s>, </s>, <pad>, 256 bytes, pieces."""
    import sentencepiece

    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("aeilmnorst"), rng.integers(2, 7))) for _ in range(200)]
    lines = [" ".join(rng.choice(words, 8)) for _ in range(400)]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        vocab_size=PIECES,
        model_type="unigram",
        byte_fallback=True,
        pad_id=3,
        minloglevel=2,
    )
    return out.getvalue()


def tokenizer_json(folder):
    """The tokenizer.json that transformers makes of it."""
    from transformers.convert_slow_tokenizer import MoshiConverter

    path = folder / "tokenizer.model"
    path.write_bytes(sentencepiece_model())
    tokenizer = MoshiConverter(str(path)).converted()
    tokenizer.save(str(folder / "tokenizer.json"))
    path.unlink()


def write_checkpoint(model, folder, dtype=None, delay=0.5, prefix=0.0):
    """The model as transformers saves it, with what its processor would read."""
    (model if dtype is None else model.to(dtype)).save_pretrained(folder)
    features(delay, prefix).save_pretrained(folder)
    tokenizer_json(folder)
    return folder


def write_moshi(model, folder, heads=0, delay=0.5, prefix=0.0):
    """The same weights as moshi would have them; heads: extra ones, of 6 classes. Returns their weights."""
    c, state = model.config, model.state_dict()
    lm, mimi = {}, {}
    table = state.pop("model.embed_tokens.embed_tokens.weight")
    lm["text_emb.weight"] = table[:VOCAB].clone()
    for i in range(c.num_codebooks):
        at = VOCAB + i * c.codebook_vocab_size
        lm[f"emb.{i}.weight"] = table[at : at + c.codebook_vocab_size].clone()
    for i in range(c.num_hidden_layers):
        a, b = f"model.layers.{i}.", f"transformer.layers.{i}."
        q, k, v = (state.pop(f"{a}self_attn.{n}_proj.linear.weight") for n in "qkv")
        q, k = (_pairs(w, c.num_attention_heads) for w in (q, k))
        lm[f"{b}self_attn.in_projs.0.weight"] = torch.cat([q, k, v])
        lm[f"{b}self_attn.out_projs.0.weight"] = state.pop(f"{a}self_attn.o_proj.linear.weight")
        lm[f"{b}gating.linear_in.weight"] = state.pop(f"{a}mlp.fc1.weight")
        lm[f"{b}gating.linear_out.weight"] = state.pop(f"{a}mlp.fc2.weight")
        lm[f"{b}norm1.alpha"] = state.pop(f"{a}input_layernorm.weight")[None, None]
        lm[f"{b}norm2.alpha"] = state.pop(f"{a}post_attention_layernorm.weight")[None, None]
    lm["out_norm.alpha"] = state.pop("model.norm.weight")[None, None]
    lm["text_linear.weight"] = state.pop("lm_head.weight")[:-1].clone()
    torch.manual_seed(5)
    extra = [torch.randn(6, c.hidden_size) / 4 for _ in range(heads)]
    lm |= {f"extra_heads.{i}.weight": w for i, w in enumerate(extra)}
    last = 3 * len(c.codec_config.upsampling_ratios) + 2
    for name, value in state.items():
        mimi[_mimi_name(name.removeprefix("codec_model."), last)] = value
    for side in ("encoder", "decoder"):
        for i in range(c.codec_config.num_hidden_layers):
            at = f"{side}_transformer.transformer.layers.{i}.self_attn."
            q, k, v = (mimi.pop(f"{at}{n}_proj.weight") for n in "qkv")
            q, k = (_pairs(w, c.codec_config.num_attention_heads) for w in (q, k))
            mimi[f"{at}in_proj_weight"] = torch.cat([q, k, v])
    save_file({n: w.contiguous() for n, w in lm.items()}, folder / "model.safetensors")
    save_file({n: w.contiguous() for n, w in mimi.items()}, folder / "mimi-tiny@1.safetensors")
    (folder / "tokenizer_tiny.model").write_bytes(sentencepiece_model())
    (folder / "mimi.json").write_text(json.dumps(_mimi_config(c.codec_config)))
    config = {
        "card": c.codebook_vocab_size - 1,
        "n_q": c.num_codebooks,
        "dep_q": 0,
        "delays": [0] * (c.num_codebooks + 1),
        "dim": c.hidden_size,
        "text_card": PIECES,
        "existing_text_padding_id": PAD,
        "num_heads": c.num_attention_heads,
        "num_layers": c.num_hidden_layers,
        "hidden_scale": c.ffn_dim * 3 / 4 / c.hidden_size,
        "causal": True,
        "layer_scale": None,
        "context": c.sliding_window,
        "max_period": c.rope_parameters["rope_theta"],
        "gating": "silu",
        "norm": "rms_norm_f32",
        "positional_embedding": "rope",
        "depformer_dim": 1024,
        "conditioners": {},
        "cross_attention": False,
        "model_type": "stt",
        "stt_config": {"audio_delay_seconds": delay, "audio_silence_prefix_seconds": prefix},
        "mimi_name": "mimi-tiny@1.safetensors",
        "mimi_config_name": "mimi.json",
        "tokenizer_name": "tokenizer_tiny.model",
        "lm_gen_config": {"temp": 0.0, "temp_text": 0.0},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return extra


def _pairs(weight, heads):
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _mimi_name(name, last):
    """transformers' name of a codec's tensor as moshi's. last: number of the decoder's last layer."""
    for a, b in (
        (r"^(en|de)coder\.\1coder_seanet\.", r"\1coder."),
        (r"^(en|de)coder\.\1coder_transformer\.", r"\1coder_transformer."),
        (r"^encoder\.downsample\.", "downsample."),
        (r"^decoder\.upsample\.", "upsample."),
        (r"^(encoder|decoder)\.layers\.", r"\1.model."),
        (r"^(encoder\.model\.\d+|encoder\.model\.\d+\.block\.\d+)\.conv\.", r"\1.conv.conv."),
        (
            rf"^(decoder\.model\.\d+\.block\.\d+|decoder\.model\.(0|{last}))\.conv\.",
            r"\1.conv.conv.",
        ),
        (r"^(decoder\.model\.\d+)\.conv\.(?!conv)", r"\1.convtr.convtr."),
        (r"^downsample\.conv\.", "downsample.conv.conv.conv."),
        (r"^upsample\.conv\.", "upsample.convtr.convtr.convtr."),
        (r"_transformer\.layers\.", "_transformer.transformer.layers."),
        (r"\.self_attn\.o_proj\.", ".self_attn.out_proj."),
        (r"\.input_layernorm\.", ".norm1."),
        (r"\.post_attention_layernorm\.", ".norm2."),
        (r"\.mlp\.fc", ".linear"),
        (r"\.self_attn_layer_scale\.", ".layer_scale_1."),
        (r"\.mlp_layer_scale\.", ".layer_scale_2."),
        (r"semantic_residual_vector_quantizer\.", "rvq_first."),
        (r"acoustic_residual_vector_quantizer\.", "rvq_rest."),
        (r"\.layers\.(\d+)\.codebook\.", r".vq.layers.\1._codebook."),
        (r"_codebook\.initialized", "_codebook._initialized"),
        (r"embed_sum", "embedding_sum"),
    ):
        name = re.sub(a, b, name)
    return name


def _mimi_config(c):
    return {
        "sample_rate": RATE,
        "channels": 1,
        "frame_rate": 12.5,
        "seanet": {
            "channels": 1,
            "dimension": c.hidden_size,
            "n_filters": c.num_filters,
            "n_residual_layers": 1,
            "compress": c.compress,
            "dilation_base": 2,
            "kernel_size": 7,
            "residual_kernel_size": 3,
            "last_kernel_size": 3,
            "ratios": list(c.upsampling_ratios),
        },
        "quantizer": {
            "dimension": c.vector_quantization_hidden_dimension,
            "n_q": c.num_quantizers,
            "bins": c.codebook_size,
        },
        "transformer": {
            "d_model": c.hidden_size,
            "num_heads": c.num_attention_heads,
            "num_layers": c.num_hidden_layers,
            "layer_scale": 0.01,
            "context": c.sliding_window,
            "max_period": 10000,
            "dim_feedforward": c.intermediate_size,
        },
    }


def sound(seconds, seed=0, rate=RATE):
    """Noise whose loudness and colour change, so that codes do."""
    rng = np.random.default_rng(seed)
    n = int(rate * seconds)
    x, t = rng.standard_normal(n), np.arange(n) / rate
    x = x * np.abs(np.sin(2 * np.pi * 1.3 * t + seed)) + np.sin(2 * np.pi * (200 + 900 * t) * t)
    return (0.2 * x).astype(np.float32)
