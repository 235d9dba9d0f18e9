"""Tiny Moshis of transformers, the oracle, and the same weights in the layout of Kyutai's package."""

import functools
import json

import torch
from safetensors.torch import save_file

from speechstream import bundle, config
from speechstream.convert.moshi import convert_moshi
from speechstream.duplex.moshi.torch import read_moshi
from speechstream.nn.moshi_config import MoshiBundle
from tests.kyutai_tiny import _mimi_config, _mimi_name, _pairs, sentencepiece_model
from tools.make_tiny_moshi import CODES, PAD, PIECES, tiny, write

SIZES = {  # names of configurations: other sizes, head counts, windows, levels
    "plain": {},
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
        "seed": 1,
    },
}


@functools.cache
def theirs(name="plain"):
    """A model of transformers in evaluation mode."""
    return tiny(**SIZES[name])


def made(folder, name="plain"):
    """The bundle of one."""
    write(folder / "checkpoint", theirs(name))
    convert_moshi(folder / "checkpoint", folder / "bundle", {"name": "tiny", "licence": "none"})
    return folder / "bundle"


def read(path):
    """The network of a bundle."""
    about = config.read(MoshiBundle, bundle.load(path).config)
    return read_moshi(bundle.load(path), about.network).eval().requires_grad_(False)


def write_kyutai(model, folder, stacked):
    """The same weights as Kyutai's package has them. stacked: matrices of all levels as one, as in the first release."""
    c, state = model.config, model.state_dict()
    levels, lm, mimi = c.num_codebooks, {}, {}
    for i in range(2 * levels):
        lm[f"emb.{i}.weight"] = state.pop(f"embed_tokens.{i}.weight")
    lm["text_emb.weight"] = state.pop("decoder.model.embed_tokens.weight")
    lm["text_linear.weight"] = state.pop("decoder.lm_head.weight")
    lm["out_norm.alpha"] = state.pop("decoder.model.norm.weight")[None, None]
    lm["depformer_text_emb.weight"] = state.pop("depth_decoder.text_embed_tokens.weight")
    for i in range(levels - 1):
        lm[f"depformer_emb.{i}.weight"] = state.pop(f"depth_decoder.embed_tokens.{i}.weight")
    for theirs_, name in (("input_projections", "depformer_in"), ("lm_heads", "linears")):
        for k, w in enumerate(state.pop(f"depth_decoder.{theirs_}.weight")):
            lm[f"{name}.{k}.weight"] = w.clone()
    for side, at, count in (
        ("decoder.model", "transformer", c.num_hidden_layers),
        ("depth_decoder", "depformer", c.depth_decoder_config.num_hidden_layers),
    ):
        for i in range(count):
            a, b, deep = f"{side}.layers.{i}.", f"{at}.layers.{i}.", at == "depformer"
            q, k, v, o = (state.pop(f"{a}self_attn.{n}_proj.linear.weight") for n in "qkvo")
            if not deep:
                q, k = (_pairs(w, c.num_attention_heads) for w in (q, k))
                lm[f"{b}gating.linear_in.weight"] = state.pop(f"{a}mlp.fc1.weight")
                lm[f"{b}gating.linear_out.weight"] = state.pop(f"{a}mlp.fc2.weight")
            else:
                for n, w in enumerate(state.pop(f"{a}mlp.fc1.weight")):
                    lm[f"{b}gating.{n}.linear_in.weight"] = w.clone()
                for n, w in enumerate(state.pop(f"{a}mlp.fc2.weight")):
                    lm[f"{b}gating.{n}.linear_out.weight"] = w.clone()
            qkv = torch.cat([q, k, v], -2)
            if stacked:
                lm[f"{b}self_attn.in_proj_weight"] = qkv.reshape(-1, qkv.shape[-1])
                lm[f"{b}self_attn.out_proj.weight"] = o.reshape(-1, o.shape[-1])
            else:
                for n, w in enumerate(qkv if deep else [qkv]):
                    lm[f"{b}self_attn.in_projs.{n}.weight"] = w.clone()
                for n, w in enumerate(o if deep else [o]):
                    lm[f"{b}self_attn.out_projs.{n}.weight"] = w.clone()
            lm[f"{b}norm1.alpha"] = state.pop(f"{a}input_layernorm.weight")[None, None]
            lm[f"{b}norm2.alpha"] = state.pop(f"{a}post_attention_layernorm.weight")[None, None]
    codec = c.audio_encoder_config
    last = 3 * len(codec.upsampling_ratios) + 2
    for name, value in state.items():
        mimi[_mimi_name(name.removeprefix("audio_encoder."), last)] = value
    for side in ("encoder", "decoder"):
        for i in range(codec.num_hidden_layers):
            at = f"{side}_transformer.transformer.layers.{i}.self_attn."
            q, k, v = (mimi.pop(f"{at}{n}_proj.weight") for n in "qkv")
            q, k = (_pairs(w, codec.num_attention_heads) for w in (q, k))
            mimi[f"{at}in_proj_weight"] = torch.cat([q, k, v])
    save_file({n: w.contiguous() for n, w in lm.items()}, folder / "model.safetensors")
    save_file({n: w.contiguous() for n, w in mimi.items()}, folder / "mimi-tiny@1.safetensors")
    (folder / "tokenizer_tiny.model").write_bytes(sentencepiece_model())
    (folder / "mimi.json").write_text(json.dumps(_mimi_config(codec)))
    d, lag = c.depth_decoder_config, [0] + [1] * (levels - 1)
    values = {
        "dim": c.hidden_size,
        "text_card": c.vocab_size,
        "existing_text_padding_id": PAD,
        "n_q": 2 * levels,
        "dep_q": levels,
        "card": CODES,
        "num_heads": c.num_attention_heads,
        "num_layers": c.num_hidden_layers,
        "hidden_scale": c.ffn_dim * 3 / 4 / c.hidden_size,
        "context": c.sliding_window,
        "max_period": c.rope_parameters["rope_theta"],
        "depformer_dim": d.hidden_size,
        "depformer_dim_feedforward": d.ffn_dim * 3 // 4,
        "depformer_num_heads": d.num_attention_heads,
        "depformer_num_layers": d.num_hidden_layers,
        "depformer_causal": True,
        "depformer_context": 8,
        "delays": [0, *lag, *lag],
        "model_type": "moshi",
        "mimi_name": "mimi-tiny@1.safetensors",
        "mimi_config_name": "mimi.json",
        "tokenizer_name": "tokenizer_tiny.model",
        "lm_gen_config": {"temp": 0.5, "top_k_text": 9},
    }
    assert c.vocab_size == PIECES
    (folder / "config.json").write_text(json.dumps(values))
    return folder
