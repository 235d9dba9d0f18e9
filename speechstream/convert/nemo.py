"""Import FastConformer checkpoints of NVIDIA NeMo: .nemo archives with CTC, RNN-T, TDT or hybrid heads.

A .nemo file is a tar archive (older ones gzipped) of model_config.yaml, model_weights.ckpt and the tokenizer. It is
read in memory: nothing is extracted, links are refused, sizes are limited, weights are loaded without running code.

    imported = load_nemo("stt_en_fastconformer_hybrid_large_streaming_multi.nemo")
    imported.model.encoder(features, lookahead=6)

The numbers are those of NeMo's own offline pass with the same attention context, and NeMo's cache-aware streaming
equals them too for look-ahead 1 and more as long as it pads nothing (`pad_and_drop_preencoded=False`). Two of its modes
do not equal its own offline pass: with `pad_and_drop_preencoded=True`, which a constant chunk size needs, nine frames
of zeros are heard before the audio; and at look-ahead 0 with subsampling 8 the second step sees a history that is too
short. Here every mode equals the offline pass.
"""

from __future__ import annotations

import re
import reprlib
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from speechstream.audio.nemo_mel import NemoMelConfig, mel_filters
from speechstream.config import Section, read_value
from speechstream.convert import pickled
from speechstream.errors import SpeechStreamError
from speechstream.nn.checkpoints import Checkpoint, build, first_line
from speechstream.nn.conformer import ConformerConfig
from speechstream.nn.fastconformer import FastConformerConfig
from speechstream.nn.transducer import JoinerConfig, PredictorConfig

MAX_MEMBERS = 1000
MAX_WEIGHTS = 32 << 30  # bytes
MAX_OTHER = 256 << 20  # bytes: configuration, tokenizer
MAX_CONFIG = 2 << 20  # bytes of YAML; vocabularies of 16,000 tokens take 500 kB
MAX_ENTRIES = 1_000_000  # of the configuration, vocabularies included
MAX_RATIO = 20  # of the bytes inside to those of the file: weights hardly shrink

LAYER_NAMES = {  # NeMo's name in a layer: ours
    "norm_feed_forward1": "norm_ff1",
    "feed_forward1.linear1": "ff1.up",
    "feed_forward1.linear2": "ff1.down",
    "norm_feed_forward2": "norm_ff2",
    "feed_forward2.linear1": "ff2.up",
    "feed_forward2.linear2": "ff2.down",
    "norm_self_att": "norm_att",
    "self_attn.linear_out": "att.out",
    "self_attn.linear_pos": "att.pos",
    "norm_conv": "norm_conv",
    "conv.pointwise_conv1": "conv.up",
    "conv.depthwise_conv": "conv.depthwise",
    "conv.batch_norm": "conv.norm",
    "conv.pointwise_conv2": "conv.down",
    "norm_out": "norm_out",
}
HEAD_NAMES = {
    "decoder.prediction.embed": "predictor.embed",
    "decoder.prediction.dec_rnn.lstm": "predictor.lstm",
    "joint.enc": "joiner.encoder",
    "joint.pred": "joiner.predictor",
    "decoder.decoder_layers.0": "ctc",
    "ctc_decoder.decoder_layers.0": "ctc",
    "encoder.pre_encode.out": "encoder.subsampling.out",
}


def load_nemo(path: str | Path) -> Checkpoint:
    """Read a .nemo file. Raises SpeechStreamError for what is not one, is damaged, or uses what is not supported."""
    config, weights, files = read_archive(path)
    try:
        return convert(Section(config), weights, files)
    except ValueError as error:
        raise SpeechStreamError(
            f"{path} is not supported, expected a NeMo FastConformer recogniser: {first_line(error)}"
        ) from error


def read_archive(path: str | Path) -> tuple[dict, dict[str, Tensor], dict[str, bytes]]:
    """The configuration, the weights and the small files (by base name) of a .nemo archive."""
    files, weights = {}, None
    try:
        size = Path(path).stat().st_size
        with (
            open(path, "rb") as file,
            tarfile.open(fileobj=file, mode="r:gz" if _is_gzip(path) else "r:") as tar,
        ):
            used = 0
            for count, member in enumerate(tar):
                if member.isdir():
                    continue
                if not member.isfile() or member.issparse():
                    raise SpeechStreamError(
                        f"{path}: {member.name!r} is a link or a device, not a plain file"
                    )
                name = member.name.rsplit("/", 1)[-1]
                is_weights = name.endswith(".ckpt")
                used += 0 if is_weights else member.size
                most = min(
                    MAX_WEIGHTS
                    if is_weights
                    else MAX_CONFIG
                    if name.endswith(".yaml")
                    else MAX_OTHER,
                    MAX_OTHER + MAX_RATIO * size,
                )
                if count > MAX_MEMBERS or used > MAX_OTHER or not 0 <= member.size <= most:
                    raise SpeechStreamError(
                        f"{path}: larger than a .nemo file can be (at {member.name!r})"
                    )
                data = (
                    tar.extractfile(member).read() if member.size <= size or _is_gzip(path) else b""
                )
                if len(data) != member.size:
                    raise EOFError(member.name)
                if is_weights:
                    weights = _load_weights(path, data)
                else:
                    files[name] = data
    except FileNotFoundError:
        raise SpeechStreamError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise SpeechStreamError(f"{path} is a folder, expected a .nemo file") from None
    except (
        tarfile.TarError,
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        ArithmeticError,
        MemoryError,
        zlib.error,
    ) as error:
        raise SpeechStreamError(f"{path}: not a .nemo archive, or a truncated one") from error
    if "model_config.yaml" not in files:
        raise SpeechStreamError(f"{path}: no model_config.yaml inside, so this is not a .nemo file")
    try:
        config = yaml.safe_load(files["model_config.yaml"])
        _count(config)
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise SpeechStreamError(f"{path}: model_config.yaml is not plain YAML") from error
    if not isinstance(config, dict):
        raise SpeechStreamError(f"{path}: model_config.yaml holds no mapping")
    if weights is None:
        raise SpeechStreamError(
            f"{path}: no model_weights.ckpt with tensors inside, so this is not a .nemo file"
        )
    return config, weights, files


def _is_gzip(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _count(config: object) -> None:
    """Raise ValueError where YAML's aliases make a few bytes a structure without end."""
    left, waiting = MAX_ENTRIES, [config]
    while waiting:
        item = waiting.pop()
        parts = (
            item.values()
            if isinstance(item, dict)
            else item
            if isinstance(item, (list, tuple, set))
            else ()
        )
        waiting.extend(parts)
        left -= len(parts)
        if left < 0:
            raise ValueError(f"more than {MAX_ENTRIES} entries")


def _load_weights(path: str | Path, data: bytes) -> dict[str, Tensor]:
    """The tensors of a .ckpt. Raises SpeechStreamError for code, and for tensors that claim more than the file holds."""
    weights = pickled.load(data, f"{path}: the file of weights inside")
    if not isinstance(weights, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        raise SpeechStreamError(
            f"{path}: no model_weights.ckpt with tensors inside, so this is not a .nemo file"
        )
    return weights


def convert(config: Section, weights: dict[str, Tensor], files: dict[str, bytes]) -> Checkpoint:
    """NeMo's configuration and weights to our network. Raises ValueError for what does not fit."""
    weights = dict(weights)
    fb = weights.pop("preprocessor.featurizer.fb", None)
    weights.pop("preprocessor.featurizer.window", None)
    tokens = vocabulary(config)
    features = feature_config(config.section("preprocessor"))
    taken = config.section("encoder").integer("feat_in")
    if taken != features.n_mels:
        raise ValueError(
            f"its encoder takes {taken} features, and its preprocessor gives {features.n_mels}"
        )
    model = build(network_config(config, len(tokens)), rename(weights))
    if fb is not None:
        ours = mel_filters(
            features.n_mels,
            features.n_fft,
            features.sample_rate,
            features.low,
            features.high or features.sample_rate / 2,
        )
        tolerance = (
            1e-5 if fb.dtype == torch.float32 else 2e-4
        )  # a filter is at most about 0.05 high
        if fb.shape[-2:] != ours.shape or not np.allclose(fb.float().numpy(), ours, atol=tolerance):
            raise ValueError("its mel filters are not those its configuration describes")
    tokenizer = config.section("tokenizer").text("model_path", "")
    return Checkpoint(model, features, tokens, files.get(tokenizer.removeprefix("nemo:")))


def vocabulary(config: Section) -> tuple[str, ...]:
    """The tokens by id, wherever this kind of model keeps them."""
    places = (
        config.section("joint"),
        config.section("aux_ctc").section("decoder"),
        config.section("decoder"),
    )
    for found in [p.raw("vocabulary") for p in places] + [config.raw("labels")]:
        if found:
            if not isinstance(found, list) or not all(
                isinstance(token, (str, int, float)) for token in found
            ):
                raise ValueError("its vocabulary is no list of texts")
            tokens = tuple(str(token) for token in found)
            if config.section("tokenizer").raw("type") == "wpe":
                # WordPiece marks what goes on, not what begins
                tokens = tuple(
                    t.removeprefix("##") if t.startswith("##") else f"\u2581{t}" for t in tokens
                )
            return tokens
    raise ValueError(
        "its configuration holds no vocabulary (joint.vocabulary, decoder.vocabulary or labels)"
    )


def network_config(config: Section, vocab: int) -> FastConformerConfig:
    """NeMo's model_config.yaml as ours."""
    encoder = encoder_config(config.section("encoder"))
    ctc = "aux_ctc" in config or "joint" not in config
    if "joint" not in config:
        return FastConformerConfig(encoder, vocab, ctc)
    decoder, joint = config.section("decoder"), config.section("joint")
    for part in (decoder, joint):
        if not part.text("_target_").endswith((".RNNTDecoder", ".RNNTJoint")):
            raise ValueError(
                f"its {part.name} is {part.text('_target_')}, supported are RNNTDecoder and RNNTJoint"
            )
    net, prediction = joint.section("jointnet"), decoder.section("prednet")
    if not decoder.flag("blank_as_pad", True):
        raise ValueError(
            "its predictor has no embedding for blank (blank_as_pad: false), which is not supported"
        )
    extra, durations = joint.integer("num_extra_outputs", 0), ()
    if extra:
        places = (config.section("decoding"), config.section("loss").section("tdt_kwargs"))
        durations = next((d for p in places if (d := p.integers("durations", ()))), ())
    if len(durations) != extra:
        raise ValueError(
            f"its joint network has {extra} duration outputs and its configuration {len(durations)}"
        )
    dim = prediction.integer("pred_hidden")
    return FastConformerConfig(
        encoder,
        vocab,
        ctc,
        PredictorConfig(vocab, dim, layers=prediction.integer("pred_rnn_layers")),
        JoinerConfig(
            vocab,
            encoder.dim,
            dim,
            net.integer("joint_hidden"),
            net.text("activation").lower(),
            durations,
        ),
    )


def encoder_config(c: Section) -> ConformerConfig:
    """NeMo's `encoder` section as ours. Raises ValueError for options that are not supported, naming them."""

    def option(name, default, *allowed):
        value = c.raw(name, default)
        if value not in allowed:
            raise ValueError(
                f"its encoder has {name}: {reprlib.repr(value)}, supported: {', '.join(map(repr, allowed))}"
            )
        return value

    if not c.text("_target_", "").endswith(".ConformerEncoder"):
        raise ValueError(
            f"its encoder is {c.raw('_target_')!r}, supported is NeMo's ConformerEncoder"
        )
    option("subsampling", "striding", "dw_striding")
    option("self_attention_model", "rel_pos", "rel_pos")
    option("conv_context_style", "regular", "regular")
    option("reduction", None, None)
    dim = c.integer("d_model")
    option("feat_out", -1, -1, dim)
    norm = option("conv_norm_type", "batch_norm", "batch_norm", "layer_norm")
    style = option(
        "att_context_style", "regular", "regular", "chunked_limited", "chunked_limited_with_rc"
    )
    contexts = c.raw("att_context_size") or [-1, -1]
    if isinstance(contexts, list) and not isinstance(contexts[0], list):
        contexts = [contexts]
    contexts = read_value(tuple[tuple[int, int], ...], contexts, "encoder.att_context_size")
    whole = style == "chunked_limited_with_rc" or all(x == (-1, -1) for x in contexts)
    kernel, convolution = c.integer("conv_kernel_size", 31), c.raw("conv_context_size")
    causal_downsampling = c.flag("causal_downsampling", False)
    causal = convolution == "causal" or convolution == [kernel - 1, 0]
    if (
        causal != causal_downsampling
        or causal == whole
        or (not causal and convolution not in (None, [kernel // 2, kernel // 2]))
    ):
        raise ValueError(
            f"its encoder has att_context_size {reprlib.repr(contexts)}, causal_downsampling "
            f"{causal_downsampling} and conv_context_size {convolution}; supported are "
            f"cache-aware encoders (limited context, all causal) and whole-utterance ones (none causal)"
        )
    lefts, rights = {x[0] for x in contexts}, tuple(x[1] for x in contexts)
    chunked = len(lefts) == 1 and min(lefts) >= 0 and min(rights) >= 0
    if not whole and not (chunked and (style != "regular" or not any(rights))):
        raise ValueError(
            f"its encoder has att_context_size {reprlib.repr(contexts)} with att_context_style {style}; "
            f"supported are chunks with one limited left context"
        )
    channels = c.integer("subsampling_conv_channels", -1)
    return ConformerConfig(
        n_mels=c.integer("feat_in"),
        dim=dim,
        layers=c.integer("n_layers"),
        heads=c.integer("n_heads"),
        ff_dim=dim * c.integer("ff_expansion_factor", 4),
        kernel=kernel,
        subsampling=c.integer("subsampling_factor", 4),
        subsampling_channels=dim if channels == -1 else channels,
        left_context=None if whole else lefts.pop(),
        lookaheads=(0,) if whole else rights,
        causal=causal,
        position="relative",
        conv_norm=norm,
        bias=c.flag("use_bias", True),
        scale_input=c.flag("xscaling", True),
        dropout=c.number("dropout", 0.1),
    )


def feature_config(c: Section) -> NemoMelConfig:
    """NeMo's `preprocessor` section as ours."""
    kind = c.text("_target_", "AudioToMelSpectrogramPreprocessor")
    if not kind.endswith("AudioToMelSpectrogramPreprocessor"):
        raise ValueError(
            f"its preprocessor is {kind}, supported is AudioToMelSpectrogramPreprocessor"
        )
    names = {"NA": "none", "None": "none", None: "none", "per_feature": "per_feature"}
    given = c.raw("normalize", "per_feature")
    normalize = names.get(given) if given is None or isinstance(given, str) else None
    unusual = [
        k
        for k, usual in {
            "window": "hann",
            "log": True,
            "frame_splicing": 1,
            "mag_power": 2.0,
            "exact_pad": False,
            "log_zero_guard_type": "add",
            "mel_norm": "slaney",
        }.items()
        if c.raw(k, usual) != usual
    ]
    if not isinstance(c.raw("log_zero_guard_value", 0.0), (int, float)):
        unusual.append("log_zero_guard_value")
    if normalize is None or unusual:
        named = ", ".join(f"{k}: {reprlib.repr(c.raw(k))}" for k in unusual or ["normalize"])
        raise ValueError(f"its preprocessor has {named}, which is not supported")
    rate = c.integer("sample_rate", 16000)
    window = c.integer("n_window_size", 0) or int(c.number("window_size", 0.02) * rate)
    hop = c.integer("n_window_stride", 0) or int(c.number("window_stride", 0.01) * rate)
    if not 0 < window < rate:
        raise ValueError(f"its preprocessor has windows of {window} samples at {rate} Hz")
    return NemoMelConfig(
        c.integer("features", 64),
        rate,
        window,
        hop,
        c.integer("n_fft", 0) or 1 << (window - 1).bit_length(),
        0.0 if c.raw("preemph", 0.97) is None else c.number("preemph", 0.97),
        c.number("log_zero_guard_value", 2.0**-24),
        c.number("lowfreq", 0.0),
        c.number("highfreq") if "highfreq" in c else None,
        normalize,
    )


def rename(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """NeMo's state dict under our names: q, k and v joined, pointwise convolutions as linear layers."""
    out, parts = {}, {}
    for key, value in weights.items():
        stem, _, leaf = key.rpartition(".")
        if layer := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)", key):
            prefix, inner = f"encoder.layers.{layer[1]}.", layer[2].removesuffix(f".{leaf}")
            if qkv := re.fullmatch(r"self_attn\.linear_([qkv])", inner):
                parts.setdefault(f"{prefix}att.qkv.{leaf}", {})[qkv[1]] = value
            elif bias := re.fullmatch(r"self_attn\.pos_bias_([uv])", layer[2]):
                out[f"{prefix}att.bias_{bias[1]}"] = value.unsqueeze(-2)
            elif inner in LAYER_NAMES:
                linear = "pointwise" in inner and value.ndim == 3
                out[f"{prefix}{LAYER_NAMES[inner]}.{leaf}"] = _as_linear(value) if linear else value
            else:
                out[key] = value
        elif conv := re.fullmatch(r"encoder\.pre_encode\.conv\.(\d+)", stem):
            place = int(
                conv[1]
            )  # conv, relu, then depthwise, pointwise, relu for each further stage
            kind = (
                f"pointwise.{place // 3 - 1}"
                if place and place % 3 == 0
                else f"depthwise.{(place + 1) // 3}"
            )
            out[f"encoder.subsampling.{kind}.{leaf}"] = value
        elif stem in HEAD_NAMES:
            out[f"{HEAD_NAMES[stem]}.{leaf}"] = _as_linear(value)
        elif re.fullmatch(r"joint\.joint_net\.\d+", stem):
            out[f"joiner.out.{leaf}"] = value
        elif key not in (
            "encoder.pos_bias_u",
            "encoder.pos_bias_v",
            "encoder.pos_enc.pe",
        ):  # shared; computed
            out[key] = value
    for key, part in parts.items():
        if set(part) != set("qkv") or len({p.shape for p in part.values()}) > 1:
            raise ValueError(f"its weights are damaged: {key} is not of a query, a key and a value")
        out[key] = torch.cat([part["q"], part["k"], part["v"]])
    return out


def _as_linear(value: Tensor) -> Tensor:
    """The weight of a convolution of width 1 as a matrix."""
    return value[..., 0] if value.ndim == 3 and value.shape[2] == 1 else value
