"""transformers' config.json of pocket-tts and of its codec as ours: what is not understood is refused, never ignored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from speechstream.config import Section
from speechstream.convert.stored import rotary_base
from speechstream.errors import SpeechStreamError
from speechstream.nn.llm_config import LlmConfig, RopeConfig
from speechstream.nn.pocket_config import (
    FlowConfig,
    PocketCodecConfig,
    PocketConfig,
    PocketSampling,
)

MODEL, CODEC = "pocket_tts", "pocket_tts_audio_tokenizer"
_ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
# What every configuration of transformers may say and nothing here depends on.
_COMMON = frozenset(
    "_name_or_path architectures chunk_size_feed_forward dtype torch_dtype id2label label2id is_encoder_decoder "
    "model_type output_attentions output_hidden_states problem_type return_dict transformers_version use_cache "
    "initializer_range attention_dropout bos_token_id eos_token_id pad_token_id auto_map".split()
)
_MODEL_KEYS = frozenset(
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size "
    "hidden_act layer_norm_eps attention_bias max_position_embeddings rope_parameters latent_dim "
    "audio_prompt_token_id audio_latent_token_id audio_prompt_bos_token_id audio_bos_token_id frame_rate "
    "flow_head_config".split()
)
_TRAINING = frozenset(
    "eos_loss_weight flow_loss_num_samples lsd_distill_probability lsd_diagonal_weight lsd_time_logit_mean "
    "lsd_time_logit_std latent_stats_ema_steps latent_stats_ema_decay loss_weighting_hidden_size "
    "loss_weighting_num_layers".split()
)
_FLOW_KEYS = frozenset(
    "hidden_size num_hidden_layers latent_dim condition_dim frequency_embedding_size hidden_act layer_norm_eps "
    "rms_norm_eps max_period flow_type".split()
)
_CODEC_KEYS = frozenset(
    "sampling_rate audio_channels hidden_size num_filters num_residual_layers upsampling_ratios kernel_size "
    "last_kernel_size residual_kernel_size dilation_growth_rate use_causal_conv pad_mode compress trim_right_ratio "
    "use_conv_shortcut upsample_groups num_hidden_layers intermediate_size num_attention_heads num_key_value_heads "
    "head_dim hidden_act max_position_embeddings norm_eps use_streaming rope_parameters sliding_window "
    "layer_scale_initial_scale attention_bias latent_stride latent_dim encoder_config decoder_config".split()
)


def model_config(model: Any, codec: Any) -> PocketConfig:
    """Both config.json as one configuration. Raises SpeechStreamError, in one sentence."""
    _check_kind(model, MODEL)
    _check_kind(codec, CODEC)
    try:
        return _model(Section(model), _codec(Section(codec), model.get("latent_dim", 32)))
    except (ValueError, TypeError, OverflowError) as error:
        raise SpeechStreamError(
            f"config.json is not that of a usable pocket-tts: {error}"
        ) from error


def sampling(generation: Any, processor: Any) -> PocketSampling:
    """generation_config.json and processor_config.json ({} where there is none). Raises SpeechStreamError."""
    try:
        g, p, own = Section(generation), Section(processor), PocketSampling()
        found = PocketSampling(
            temperature=g.number("temperature", 1.0) if g.flag("do_sample", False) else 0.0,
            steps=g.integer("num_flow_steps", own.steps),
            eos_threshold=g.number("eos_threshold", own.eos_threshold),
            min_frames=g.integer("min_frames_before_eos", own.min_frames),
            tail_frames=p.integer("frames_after_eos", own.tail_frames),
            short_words=p.integer("short_text_max_words", own.short_words),
            short_tail_frames=p.integer("frames_after_eos_short_text", own.short_tail_frames),
            fade_in=p.number("fade_in_duration", own.fade_in),
        )
    except ValueError as error:
        raise SpeechStreamError(f"its generation settings cannot be used: {error}") from error
    return found


def _check_kind(values: Any, kind: str) -> None:
    found = values.get("model_type") if isinstance(values, Mapping) else None
    if found != kind:
        raise SpeechStreamError(
            f"config.json describes a model of type {str(found)[:40]!r}, expected {kind!r}"
        )


def _model(s: Section, codec: PocketCodecConfig) -> PocketConfig:
    _known(s, _MODEL_KEYS | _TRAINING)
    dim, heads = s.integer("hidden_size", 1024), s.integer("num_attention_heads", 16)
    latent_dim, bias = s.integer("latent_dim", 32), s.flag("attention_bias", False)
    head_dim = s.integer("head_dim", 0)
    if not 0 < heads <= dim or (not head_dim and dim % heads):
        raise ValueError(f"hidden_size {dim} is no multiple of num_attention_heads {heads}")
    flow = s.section("flow_head_config")
    _known(flow, _FLOW_KEYS | _TRAINING)
    _expect(flow, {"condition_dim": dim, "latent_dim": latent_dim, "hidden_act": "silu"})
    config = PocketConfig(
        LlmConfig(
            vocab_size=s.integer("vocab_size", 4004),
            dim=dim,
            layers=s.integer("num_hidden_layers", 6),
            heads=heads,
            kv_heads=s.integer("num_key_value_heads", heads),
            ff_dim=s.integer("intermediate_size", 4096),
            head_dim=head_dim,
            context=s.integer("max_position_embeddings", 8192),
            norm_eps=s.number("layer_norm_eps", 1e-5),
            rope=RopeConfig(_rope(s)),
            qkv_bias=bias,
            out_bias=bias,
        ),
        FlowConfig(
            dim=flow.integer("hidden_size", 512),
            layers=flow.integer("num_hidden_layers", 6),
            freq_dim=flow.integer("frequency_embedding_size", 256),
            norm_eps=flow.number("layer_norm_eps", 1e-6),
            time_eps=flow.number("rms_norm_eps", 1e-5),
            max_period=flow.number("max_period", 10_000.0),
            kind=flow.text("flow_type", "lsd"),
        ),
        codec,
        latent_dim,
        _activation(s),
        bos=s.integer("audio_bos_token_id", 4003),
        prompt_bos=s.integer("audio_prompt_bos_token_id", 4002),
    )
    if abs(s.number("frame_rate", 12.5) - config.frame_rate) > 1e-6:
        raise ValueError(
            f"frame_rate is {s.number('frame_rate', 12.5)}, but its codec makes {config.frame_rate} latents a second"
        )
    return config


def _codec(s: Section, latent_dim: Any) -> PocketCodecConfig:
    _known(s, _CODEC_KEYS)
    dim, heads = s.integer("hidden_size", 512), s.integer("num_attention_heads", 8)
    if not 0 < heads <= dim:
        raise ValueError(f"the codec has {heads} heads of {dim} dimensions")
    required = {
        "audio_channels": 1,
        "use_causal_conv": True,
        "pad_mode": "constant",
        "trim_right_ratio": 1.0,
        "use_conv_shortcut": False,
        "attention_bias": False,
        "upsample_groups": dim,
        "num_key_value_heads": heads,
        "head_dim": dim // heads,
        "norm_eps": 1e-5,
        "latent_dim": latent_dim,
    }
    absent = {"upsample_groups": 512, "num_key_value_heads": 8, "latent_dim": 32}
    _expect(s, required, absent)
    if s.raw("decoder_config", {}) is None:
        raise ValueError("its codec has no decoder (decoder_config is null)")
    return PocketCodecConfig(
        sample_rate=s.integer("sampling_rate", 24_000),
        dim=dim,
        filters=s.integer("num_filters", 64),
        ratios=s.integers("upsampling_ratios", (6, 5, 4)),
        kernel=s.integer("kernel_size", 7),
        last_kernel=s.integer("last_kernel_size", 3),
        residual_kernel=s.integer("residual_kernel_size", 3),
        residual_layers=s.integer("num_residual_layers", 1),
        dilation_base=s.integer("dilation_growth_rate", 2),
        compress=s.integer("compress", 2),
        stride=s.integer("latent_stride", 16),
        layers=s.integer("num_hidden_layers", 2),
        heads=heads,
        ff_dim=s.integer("intermediate_size", 2048),
        left_context=s.integer("sliding_window", 250),
        max_period=_rope(s),
        activation=_activation(s),
    )


def _known(s: Section, keys: Iterable[str]) -> None:
    for key in s.keys:
        if key not in keys and key not in _COMMON:
            raise ValueError(f"it has {str(key)[:60]!r}, which is not known here")


def _expect(
    s: Section, required: Mapping[str, Any], absent: Mapping[str, Any] | None = None
) -> None:
    """What has only one supported value. absent: transformers' own defaults where they are not that value."""
    for key, expected in required.items():
        found = s.raw(key)
        if found is None:
            found = (absent or {}).get(key, expected)
        if found != expected or isinstance(found, bool) != isinstance(expected, bool):
            raise ValueError(f"{key} is {str(found)[:40]}, and only {expected} is supported")


def _activation(s: Section) -> str:
    name = s.text("hidden_act", "gelu_pytorch_tanh")
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation {name[:40]!r} is not supported, only GELU is")
    return _ACTIVATIONS[name]


def _rope(s: Section) -> float:
    """The base of its rotary positions."""
    base = rotary_base(s)
    keys = ("rope_type", "rope_theta", "type", "partial_rotary_factor")
    _known(s.section("rope_parameters"), keys)
    return base
