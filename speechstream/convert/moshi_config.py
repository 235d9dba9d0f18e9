"""What the config.json of a Moshi says, in the layout of transformers and in that of Kyutai's package."""

from __future__ import annotations

from typing import Any

from speechstream.config import Section
from speechstream.convert.kyutai_config import (
    RMS_NORMS,
    codec_config,
    moshi_codec_config,
    text_config,
)
from speechstream.convert.stored import check_kind, check_only, rotary_base
from speechstream.nn.llm_config import RopeConfig
from speechstream.nn.moshi_config import DepthConfig, FrameSampling, MoshiBundle, MoshiConfig

KIND = "moshi"


def from_transformers(c: Section) -> MoshiBundle:
    """config.json of transformers. Raises ValueError for what is not supported."""
    check_kind(c, KIND)
    d = c.section("depth_decoder_config")
    for what, part in (("its activation", c), ("its depth decoder's activation", d)):
        check_only(what, part, "hidden_act", "silu")
        if part.flag("tie_word_embeddings", False):
            raise ValueError("its output layer is tied to its embedding, which has a row more")
    heads, deep = c.integer("num_attention_heads", 32), d.integer("num_attention_heads", 16)
    inner, depth_inner = c.integer("ffn_dim", 22528), d.integer("ffn_dim", 5632)
    if inner % 2 or depth_inner % 2:
        raise ValueError(f"its ffn_dim must be even; got {inner}, {depth_inner}")
    dim, levels = d.integer("hidden_size", 1024), c.integer("num_codebooks", 8)
    depth = DepthConfig(
        dim=dim,
        layers=d.integer("num_hidden_layers", 6),
        heads=deep,
        kv_heads=d.integer("num_key_value_heads", deep),
        head_dim=d.integer("head_dim", dim // max(deep, 1)),
        ff_dim=depth_inner // 2,
        norm_eps=d.number("rms_norm_eps", 1e-8),
    )
    if d.integer("sliding_window", 8) < levels:
        raise ValueError("its depth decoder does not see all levels of a frame")
    network = MoshiConfig(
        codec=codec_config(c.raw("audio_encoder_config")),
        text=text_config(
            vocab_size=c.integer("vocab_size", 32000),
            dim=c.integer("hidden_size", 4096),
            layers=c.integer("num_hidden_layers", 32),
            heads=heads,
            kv_heads=c.integer("num_key_value_heads", heads),
            ff_dim=inner // 2,
            head_dim=c.integer("head_dim", 0),
            context=c.integer("max_position_embeddings", 3000),
            norm_eps=c.number("rms_norm_eps", 1e-8),
            rope=RopeConfig(rotary_base(c)),
            window=c.integer("sliding_window", 3000),
        ),
        depth=depth,
        levels=levels,
    )
    codes = network.codec.codebook_size
    for key, part, expected in (
        ("audio_vocab_size", c, codes),
        ("audio_vocab_size", d, codes),
        ("num_codebooks", d, levels),
        ("vocab_size", d, network.text.vocab_size),
        ("input_size", d, network.text.dim),
    ):
        if part.integer(key, expected) != expected:
            raise ValueError(
                f"its {key} is {part.integer(key)} in one place and {expected} in another"
            )
    return MoshiBundle(network, c.integer("pad_token_id", 3))


def from_kyutai(c: Section, codec: Any) -> MoshiBundle:
    """config.json of Kyutai's package, and that of its codec (None: as released); absent keys are those of the first Moshi.

    Raises ValueError for what is not supported.
    """
    for key, only in (
        ("model_type", KIND),
        ("gating", "silu"),
        ("depformer_gating", "silu"),
        ("positional_embedding", "rope"),
        ("depformer_pos_emb", "none"),
        ("causal", True),
        ("depformer_multi_linear", True),
        ("depformer_weights_per_step", True),
        ("cross_attention", False),
        ("quantize", False),
        ("lora", False),
        ("norm_emb", False),
        ("bias_proj", False),
        ("demux_second_stream", False),
        ("demux_second_text_stream", False),
        ("kv_repeat", 1),
    ):
        if c.raw(key, only) not in (only, None):
            raise ValueError(
                f"its {key} is {str(c.raw(key))[:40]!r}, and only {only!r} is supported"
            )
    for key in (
        "conditioners",
        "fuser",
        "layer_scale",
        "depformer_layer_scale",
        "depformer_weights_per_step_schedule",
        "depformer_low_rank_embeddings",
        "depformer_norm",
        "extra_heads_num_heads",
        "text_card_out",
        "lora_name",
    ):
        if c.raw(key):
            raise ValueError(f"it has {key}, which is not supported")
    levels = c.integer("dep_q", 8)
    if c.integer("n_q", 16) != 2 * levels:
        raise ValueError(
            f"it reads {c.integer('n_q', 16)} codes a frame and writes {levels}, expected twice as many: the user's and its own"
        )
    lag = (0, *[1] * (levels - 1))
    if c.integers("delays", (0, *lag, *lag)) != (0, *lag, *lag):
        raise ValueError(
            "its streams are delayed in another way; only acoustic codes one frame late are supported"
        )
    norm = c.text("norm", "rms_norm_f32")
    if norm not in RMS_NORMS:
        raise ValueError(f"its norm is {norm[:40]!r}, expected one of {', '.join(RMS_NORMS)}")
    dim, heads = c.integer("dim", 4096), c.integer("num_heads", 32)
    deep, depth_heads = c.integer("depformer_dim", 1024), c.integer("depformer_num_heads", 16)
    scale = c.number("hidden_scale", 4.125)
    network = MoshiConfig(
        codec=moshi_codec_config(codec),
        text=text_config(
            vocab_size=c.integer("text_card", 32000),
            dim=dim,
            layers=c.integer("num_layers", 32),
            heads=heads,
            kv_heads=heads,
            ff_dim=_gated(dim, int(scale * dim)),
            context=c.integer("context", 3000),
            norm_eps=RMS_NORMS[norm],
            rope=RopeConfig(c.number("max_period", 10_000.0)),
            window=c.integer("context", 3000),
        ),
        depth=DepthConfig(
            dim=deep,
            layers=c.integer("depformer_num_layers", 6),
            heads=depth_heads,
            kv_heads=depth_heads,
            head_dim=deep // max(depth_heads, 1),
            ff_dim=_gated(deep, c.integer("depformer_dim_feedforward", int(scale * deep))),
            norm_eps=RMS_NORMS[norm],
        ),
        levels=levels,
    )
    if c.integer("card", 2048) != network.begin_code:
        raise ValueError(
            f"it knows {c.integer('card', 2048)} codes a level, and its codec has {network.begin_code}"
        )
    drawn, usual = c.section("lm_gen_config"), FrameSampling()
    sampling = FrameSampling(
        drawn.number("temp_text", usual.text_temperature),
        drawn.integer("top_k_text", usual.text_top_k),
        drawn.number("temp", usual.temperature),
        drawn.integer("top_k", usual.top_k),
    )
    if not drawn.flag("use_sampling", True):
        sampling = FrameSampling(0.0, 0, 0.0, 0)
    pad, word = (
        c.integer("existing_text_padding_id", 3),
        c.integer("existing_text_end_padding_id", 0),
    )
    return MoshiBundle(network, pad, word, sampling)


def _gated(dim: int, inner: int) -> int:
    """The width of Kyutai's gated feed-forward: two thirds of what is said, and of 4 times the dim a little less."""
    return 21 * dim // 8 if inner == 4 * dim else 2 * inner // 3
