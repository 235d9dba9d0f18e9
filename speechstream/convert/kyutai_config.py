"""What the config.json of a Kyutai speech-to-text says, in the layout of transformers and in that of moshi."""

from __future__ import annotations

import dataclasses
from typing import Any

from speechstream.config import Section, read
from speechstream.convert.mimi import config_from_transformers
from speechstream.convert.stored import rotary_base
from speechstream.errors import SpeechStreamError
from speechstream.nn.kyutai_config import KyutaiBundle, KyutaiConfig
from speechstream.nn.llm_config import LlmConfig, RopeConfig
from speechstream.nn.mimi_config import MimiConfig

KIND = "kyutai_speech_to_text"  # transformers' model_type
TAIL_S = 1.0  # of silence after the delay, as both references add it
RMS_NORMS = {"rms_norm_f32": 1e-8, "rms_norm": 1e-5}  # moshi's names and what they add


def from_transformers(c: Section, generation: Section, features: Section) -> KyutaiBundle:
    """config.json, generation_config.json and preprocessor_config.json. Raises ValueError for what is not supported."""
    kind = c.text("model_type", "")
    if kind != KIND:
        raise ValueError(f"its model type is {kind[:40]!r}, expected {KIND!r}")
    if "quantization_config" in c:
        raise ValueError("its weights are quantised; convert the original")
    if c.text("hidden_act", "silu") != "silu":
        raise ValueError(f"its activation is {c.text('hidden_act')[:40]!r}, expected 'silu'")
    if c.flag("tie_word_embeddings", False):
        raise ValueError("its output layer is tied to the embedding, which holds codes as well")
    heads, layers = c.integer("num_attention_heads", 32), c.integer("num_hidden_layers", 48)
    inner = c.integer("ffn_dim", 11264)
    if inner % 2:
        raise ValueError(f"its ffn_dim must be even; got {inner}")
    network = KyutaiConfig(
        codec=codec_config(c.raw("codec_config")),
        text=text_config(
            vocab_size=c.integer("vocab_size", 4001),
            dim=c.integer("hidden_size", 2048),
            layers=layers,
            heads=heads,
            kv_heads=c.integer("num_key_value_heads", heads),
            ff_dim=inner // 2,
            head_dim=c.integer("head_dim", 0),
            context=c.integer("max_position_embeddings", 750),
            norm_eps=c.number("rms_norm_eps", 1e-8),
            rope=RopeConfig(rotary_base(c)),
            window=c.integer("sliding_window", 375),
        ),
        levels=c.integer("num_codebooks", 32),
        audio_vocab=c.integer("codebook_vocab_size", 2049),
        audio_bos=c.integer("audio_bos_token_id", 2048),
        out_size=c.integer("vocab_size", 4001),
    )
    rate = network.codec.sample_rate
    if features.integer("sampling_rate", rate) != rate or features.integer("feature_size", 1) != 1:
        raise ValueError(
            f"its features are of {features.integer('feature_size', 1)} channels at {features.integer('sampling_rate', rate)} "
            f"Hz, and its codec hears 1 at {rate}"
        )
    bos = generation.integer("bos_token_id", c.integer("bos_token_id", 48000))
    times = features.number("audio_delay_seconds"), features.number("audio_silence_prefix_seconds")
    return _bundle(network, bos, *times)


def from_moshi(c: Section, codec: Any, heads: tuple[int, int]) -> KyutaiBundle:
    """config.json of moshi, that of its codec (None: as released), and how many heads of how many classes its weights have.

    Raises ValueError for what is not supported.
    """
    for key, only in (
        ("model_type", "stt"),
        ("gating", "silu"),
        ("positional_embedding", "rope"),
        ("causal", True),
        ("dep_q", 0),
        ("cross_attention", False),
        ("quantize", False),
        ("lora", False),
        ("norm_emb", False),
        ("bias_proj", False),
        ("demux_second_stream", False),
        ("demux_second_text_stream", False),
        ("existing_text_padding_id", 3),
    ):
        if c.raw(key, only) not in (only, None):
            raise ValueError(
                f"its {key} is {str(c.raw(key))[:40]!r}, and only {only!r} is supported"
            )
    for key in ("conditioners", "fuser", "layer_scale"):
        if c.raw(key):
            raise ValueError(f"it has {key}, which are not supported")
    if any(c.integers("delays", ())):
        raise ValueError(
            "its streams are delayed against each other; only delays of 0 are supported"
        )
    norm = c.text("norm", "rms_norm_f32")
    if norm not in RMS_NORMS:
        raise ValueError(f"its norm is {norm[:40]!r}, expected one of {', '.join(RMS_NORMS)}")
    dim, attention_heads = c.integer("dim"), c.integer("num_heads")
    if c.integer("kv_repeat", 1) != 1:
        raise ValueError("its keys are shared by heads (kv_repeat), which is not supported")
    inner = int(c.number("hidden_scale", 4.0) * dim)
    text, card = c.integer("text_card"), c.integer("card", 2048)
    network = KyutaiConfig(
        codec=moshi_codec_config(codec),
        text=text_config(
            vocab_size=text + 1,  # and what a stream begins with
            dim=dim,
            layers=c.integer("num_layers"),
            heads=attention_heads,
            kv_heads=attention_heads,
            ff_dim=21 * dim // 8 if inner == 4 * dim else 2 * inner // 3,
            context=c.integer("context"),
            norm_eps=RMS_NORMS[norm],
            rope=RopeConfig(c.number("max_period", 10_000.0)),
            window=c.integer("context"),
        ),
        levels=c.integer("n_q", 32),
        audio_vocab=card + 1,
        audio_bos=card,
        out_size=c.integer("text_card_out", text),
        pause_heads=heads[0],
        pause_classes=heads[1] if heads[0] else 6,
    )
    word = c.integer("existing_text_end_padding_id", 0)
    stt = c.section("stt_config")
    times = stt.number("audio_delay_seconds"), stt.number("audio_silence_prefix_seconds", 0.0)
    return _bundle(network, text, *times, word=word)


def _bundle(
    network: KyutaiConfig, bos: int, delay_s: float, prefix_s: float, word: int = 0
) -> KyutaiBundle:
    if not 0 < delay_s <= 30 or not 0 <= prefix_s <= 30:
        raise ValueError(
            f"its delay must be 0 to 30 seconds and the silence before its sound too; got {delay_s:g}, {prefix_s:g}"
        )
    rate = network.codec.sample_rate
    return KyutaiBundle(
        network,
        bos,
        word,
        delay=round(delay_s * rate),
        prefix=int(prefix_s * rate),
        suffix=int((delay_s + TAIL_S) * rate),
    )


def text_config(*, layers: int, window: int, **sizes: Any) -> LlmConfig:
    """A language model all of whose layers have the same window. Raises ValueError."""
    if not 1 <= layers <= 256:  # before a tuple is made of them
        raise ValueError(f"layers must be 1 to 256; got {layers}")
    all_layers = tuple(range(layers)) if window else ()
    return LlmConfig(layers=layers, window=window, window_layers=all_layers, tied=False, **sizes)


def codec_config(values: Any) -> MimiConfig:
    """Of transformers' Mimi."""
    given = Section({} if values is None else values, "codec_config")
    if given.text("model_type", "mimi") != "mimi":
        raise ValueError(f"its codec is {given.text('model_type')[:40]!r}, expected 'mimi'")
    try:
        found = config_from_transformers(dict(values or {}))
        return read(MimiConfig, dataclasses.asdict(found), "codec_config")
    except SpeechStreamError as error:
        raise ValueError(str(error)) from error
    except (TypeError, AttributeError, ZeroDivisionError, OverflowError) as error:
        raise ValueError(f"its codec_config is not that of a Mimi: {error}") from error


def moshi_codec_config(values: Any) -> MimiConfig:
    """Of moshi's own description of a codec; None: the released one."""
    if values is None:
        return MimiConfig()
    c = Section(values, "the codec's configuration")
    s, t, q = c.section("seanet"), c.section("transformer"), c.section("quantizer")
    rate, dim = c.integer("sample_rate"), s.integer("dimension")
    found: dict[str, Any] = {
        "sample_rate": rate,
        "seanet": {
            "channels": c.integer("channels", 1),
            "dim": dim,
            "filters": s.integer("n_filters"),
            "ratios": s.integers("ratios"),
            "kernel": s.integer("kernel_size"),
            "last_kernel": s.integer("last_kernel_size"),
            "residual_kernel": s.integer("residual_kernel_size"),
            "residual_layers": s.integer("n_residual_layers"),
            "dilation_base": s.integer("dilation_base"),
            "compress": s.integer("compress"),
        },
        "transformer": {
            "dim": t.integer("d_model"),
            "layers": t.integer("num_layers"),
            "heads": t.integer("num_heads"),
            "ff_dim": t.integer("dim_feedforward"),
            "left_context": t.integer("context"),
            "max_period": t.number("max_period"),
            "layer_scale": t.number("layer_scale"),
        },
        "n_codebooks": q.integer("n_q"),
        "codebook_size": q.integer("bins"),
        "code_dim": q.integer("dimension"),
    }
    config = read(MimiConfig, found)
    frames = c.number("frame_rate") * config.seanet.hop
    if frames <= 0 or not 1 <= round(rate / frames) <= 64:
        raise ValueError(
            f"its codec has {c.number('frame_rate'):g} frames a second of {rate} samples"
        )
    return dataclasses.replace(config, stride=round(rate / frames))
