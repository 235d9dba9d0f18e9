"""Weights of public flow-matching decoders under the names of `speechstream.nn.flow.FlowDecoder`.

Qwen2.5-Omni's token2wav transformer as `transformers` names it, its vocoder, CosyVoice 2's causal U-Net, CosyVoice 3's
transformer and vocoder as their repository's checkpoints do. Sizes are read off the weights where they show them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from speechstream.config import Section, read_value
from speechstream.convert.stored import rotary_base
from speechstream.errors import SpeechStreamError
from speechstream.nn.ecapa import Ecapa
from speechstream.nn.flow import FlowDecoder
from speechstream.nn.flow_config import DiTConfig, EcapaConfig, FlowConfig, WindowConfig
from speechstream.nn.flow_networks import ROPE_BASE
from speechstream.nn.token_encoder import TokenEncoder
from speechstream.nn.vocoder_config import BigVganConfig

Network = TypeVar("Network", bound=nn.Module)

_TRANSFORMER = [  # of a DiT, both of Qwen2.5-Omni and of CosyVoice 3
    (r"^time_embed\.time_mlp\.0\.", "network.time.first."),
    (r"^time_embed\.time_mlp\.2\.", "network.time.second."),
    (r"^text_embed\.codec_embed\.", "embedding."),
    (r"^input_embed\.proj\.", "network.input."),
    (r"^input_embed\.conv_pos_embed\.conv1\.0\.", "network.position.0."),
    (r"^input_embed\.conv_pos_embed\.conv2\.0\.", "network.position.1."),
    (r"^transformer_blocks\.(\d+)\.", r"network.layers.\1."),
    (r"\.attn_norm\.linear\.", ".modulation."),
    (r"\.attn\.to_([qkv])\.", r".\1."),
    (r"\.attn\.to_out\.0\.", ".out."),
    (r"\.ff\.ff\.0\.(0\.)?", ".up."),
    (r"\.ff\.ff\.3\.|\.ff\.ff\.2\.", ".down."),
    (r"^norm_out\.linear\.", "network.modulation."),
    (r"^proj_out\.", "network.output."),
]
_UNET = [  # of CosyVoice 2
    (r"^time_mlp\.linear_1\.", "network.time.first."),
    (r"^time_mlp\.linear_2\.", "network.time.second."),
    (r"^down_blocks\.0\.2\.", "network.after_down."),
    (r"^up_blocks\.0\.2\.", "network.after_up."),
    (r"^down_blocks\.0\.", "network.down."),
    (r"^mid_blocks\.(\d+)\.", r"network.middle.\1."),
    (r"^up_blocks\.0\.", "network.up."),
    (r"^final_block\.block\.0\.", "network.last.conv."),
    (r"^final_block\.block\.2\.", "network.last.norm."),
    (r"^final_proj\.", "network.output."),
    (r"^(network\.(?:down|up|middle\.\d+)\.)0\.", r"\1resnet."),
    (r"^(network\.(?:down|up|middle\.\d+)\.)1\.(\d+)\.", r"\1layers.\2."),
    (r"\.block1\.block\.0\.", ".first.conv."),
    (r"\.block1\.block\.2\.", ".first.norm."),
    (r"\.block2\.block\.0\.", ".second.conv."),
    (r"\.block2\.block\.2\.", ".second.norm."),
    (r"\.mlp\.1\.", ".modulation."),
    (r"\.res_conv\.", ".skip."),
    (r"\.norm3\.", ".norm2."),
    (r"\.attn1\.to_([qkv])\.", r".\1."),
    (r"\.attn1\.to_out\.0\.", ".out."),
    (r"\.ff\.net\.0\.proj\.", ".up."),
    (r"\.ff\.net\.2\.", ".down."),
]
_VOCODER = [  # of CosyVoice 2 and 3
    (r"^f0_predictor\.classifier\.", "pitch.output."),
    (r"^m_source\.l_linear\.", "source."),
    (r"^conv_pre\.", "first."),
    (r"^conv_post\.", "last."),
    (r"^source_downs\.", "downs."),
    (r"^source_resblocks\.", "source_blocks."),
    (r"^resblocks\.", "blocks."),
    (r"\.convs1\.", ".first."),
    (r"\.convs2\.", ".second."),
]
_TOKENS = [  # the encoder of CosyVoice 2, and what 3 has of it
    (r"^input_embedding\.", "embedding."),
    (r"^spk_embed_affine_layer\.", "speaker."),
    (r"^encoder_proj\.", "output."),
    (r"^(?:encoder\.)?pre_lookahead_layer\.conv1\.", "first."),
    (r"^(?:encoder\.)?pre_lookahead_layer\.conv2\.", "second."),
    (r"^encoder\.embed\.out\.0\.", "input."),
    (r"^encoder\.embed\.out\.1\.", "input_norm."),
    (r"^encoder\.up_embed\.out\.0\.", "up_input."),
    (r"^encoder\.up_embed\.out\.1\.", "up_norm."),
    (r"^encoder\.up_layer\.conv\.", "up."),
    (r"^encoder\.after_norm\.", "norm."),
    (r"^encoder\.encoders\.", "layers."),
    (r"^encoder\.up_encoders\.", "up_layers."),
    (r"\.norm_mha\.", ".norm1."),
    (r"\.norm_ff\.", ".norm2."),
    (r"\.feed_forward\.w_1\.", ".up."),
    (r"\.feed_forward\.w_2\.", ".down."),
    (r"\.self_attn\.linear_([qkv])\.", r".\1."),
    (r"\.self_attn\.linear_out\.", ".out."),
    (r"\.self_attn\.linear_pos\.", ".position."),
    (r"\.self_attn\.pos_bias_u$", ".content_bias"),
    (r"\.self_attn\.pos_bias_v$", ".position_bias"),
]
_BIGVGAN = [  # of Qwen2.5-Omni
    (r"^conv_pre\.", "first."),
    (r"^conv_post\.", "last."),
    (r"^ups\.(\d+)\.0\.", r"ups.\1."),
    (r"^resblocks\.", "blocks."),
    (r"\.convs1\.", ".first."),
    (r"\.convs2\.", ".second."),
    (r"^activation_post\.act\.", "activation."),
    (r"\.activations\.(\d+)\.act\.", r".activations.\1."),
]
_ECAPA = [  # of Qwen2.5-Omni
    (r"^(.*\.)?input_embed\.spk_encoder\.", ""),
    (r"^blocks\.0\.conv\.", "first."),
    (r"^blocks\.(\d+)\.tdnn1\.conv\.", r"blocks.\1.first."),
    (r"^blocks\.(\d+)\.tdnn2\.conv\.", r"blocks.\1.last."),
    (r"^blocks\.(\d+)\.res2net_block\.blocks\.(\d+)\.conv\.", r"blocks.\1.groups.\2."),
    (r"^blocks\.(\d+)\.se_block\.conv1\.", r"blocks.\1.squeeze."),
    (r"^blocks\.(\d+)\.se_block\.conv2\.", r"blocks.\1.excite."),
    (r"^mfa\.conv\.", "join."),
    (r"^asp\.tdnn\.conv\.", "attention."),
    (r"^asp\.conv\.", "score."),
    (r"^fc\.", "output."),
]


def qwen_speaker_config(data: Mapping[str, Any]) -> EcapaConfig:
    """The speaker encoder of a Qwen2.5-Omni `dit_config` (its config.json). Raises ValueError for a wrong entry."""
    d, default = Section(data, "dit_config"), EcapaConfig()
    return EcapaConfig(
        n_mels=d.integer("mel_dim", default.n_mels),
        dim=d.integer("enc_dim", default.dim),
        channels=d.integers("enc_channels", default.channels),
        kernels=d.integers("enc_kernel_sizes", default.kernels),
        dilations=d.integers("enc_dilations", default.dilations),
        groups=d.integer("enc_res2net_scale", default.groups),
        squeeze_dim=d.integer("enc_se_channels", default.squeeze_dim),
        attention_dim=d.integer("enc_attention_channels", default.attention_dim),
    )


def qwen_speaker_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The speaker encoder among the weights of transformers' Qwen2_5OmniToken2WavDiTModel, by our names."""
    found = _renamed({k: v for k, v in weights.items() if ".spk_encoder." in k}, _ECAPA)
    return {
        re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) - 1}", k): v
        for k, v in found.items()
    }


def qwen_vocoder_config(data: Mapping[str, Any]) -> BigVganConfig:
    """The vocoder of a Qwen2.5-Omni `bigvgan_config` (its config.json). Raises ValueError for a wrong entry."""
    d = Section(data, "bigvgan_config")
    default = BigVganConfig()
    dilations = d.raw("resblock_dilation_sizes")
    if dilations is None:
        dilations = default.dilations
    return BigVganConfig(
        n_mels=d.integer("mel_dim", default.n_mels),
        dim=d.integer("upsample_initial_channel", default.dim),
        rates=d.integers("upsample_rates", default.rates),
        kernels=d.integers("upsample_kernel_sizes", default.kernels),
        block_kernels=d.integers("resblock_kernel_sizes", default.block_kernels),
        dilations=read_value(
            tuple[tuple[int, ...], ...], dilations, "bigvgan_config.resblock_dilation_sizes"
        ),
    )


def qwen_vocoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of transformers' Qwen2_5OmniToken2WavBigVGANModel by our names."""
    return _renamed(weights, _BIGVGAN)


def qwen_config(data: Mapping[str, Any], points: int = 10, guidance: float = 0.5) -> FlowConfig:
    """The decoder of a Qwen2.5-Omni `dit_config` (its config.json). `points` of time, the reference's `num_steps`.

    The speaker's vector is that of the speaker encoder (enc_dim), then the speaker's embedding (enc_emb_dim). Raises
    ValueError for a wrong entry.
    """
    d = Section(data, "dit_config")
    dim, layers = d.integer("hidden_size", 1024), d.integer("num_hidden_layers", 22)
    base = rotary_base(d, ROPE_BASE)
    if base != ROPE_BASE:
        raise ValueError(f"{d.name} has rotary positions of the base {base:g}, not {ROPE_BASE:g}")
    return FlowConfig(
        n_mels=d.integer("mel_dim", 80),
        condition_dim=d.integer("emb_dim", 512),
        speaker_dim=d.integer("enc_dim", 128) + d.integer("enc_emb_dim", 192),
        tokens=d.integer("num_embeds", 8193) + 1,
        repeats=d.integer("repeats", 2),
        windows=WindowConfig(
            d.integer("block_size", 24),
            1,
            d.integers("look_backward_layers", (0, 20)),
            d.integers("look_ahead_layers", (10,)),
        ),
        dit=DiTConfig(
            dim=dim,
            layers=layers,
            heads=d.integer("num_attention_heads", 16),
            head_dim=d.integer("head_dim", 64),
            ff_dim=dim * d.integer("ff_mult", 2),
            rotary_heads=1,  # the reference rotates the first head only, and was trained so
        ),
        solver="rk4",
        steps=points - 1,
        schedule="cosine",
        guidance=guidance,
    )


def qwen_weights(
    weights: Mapping[str, Tensor], config: FlowConfig, enc_dim: int
) -> dict[str, Tensor]:
    """The weights of transformers' Qwen2_5OmniToken2WavDiTModel by our names; `enc_dim` of its speaker encoder.

    The speaker encoder itself is left out: its vector, one a speaker, is an input here. Raises SpeechStreamError.
    """
    mel, code = config.n_mels, config.condition_dim
    order = [(0, mel), (mel + enc_dim, code), (mel, enc_dim), (mel + enc_dim + code, None)]
    kept = {k: v for k, v in weights.items() if ".spk_encoder." not in k}
    return _transformer(kept, config, order)


def cosyvoice3_weights(weights: Mapping[str, Tensor], config: FlowConfig) -> dict[str, Tensor]:
    """The weights of CosyVoice 3's estimator, a DiT, by our names. Raises SpeechStreamError."""
    mel = config.n_mels
    order = [
        (0, mel),
        (2 * mel, config.condition_dim),
        (mel, mel),
        (2 * mel + config.condition_dim, None),
    ]
    kept = {k: v for k, v in weights.items() if not k.startswith("rotary_embed.")}
    return _transformer(kept, config, order)


def cosyvoice2_weights(weights: Mapping[str, Tensor], config: FlowConfig) -> dict[str, Tensor]:
    """The weights of CosyVoice 2's estimator, a causal U-Net, by our names. Raises SpeechStreamError."""
    mel, mu, speaker = config.n_mels, config.condition_dim, config.speaker_dim
    order = [(0, mel + mu), (mel + mu + speaker, mel), (mel + mu, speaker)]
    found = _joined(_renamed(weights, _UNET))
    for name in ("first.conv", "skip"):
        key = f"network.down.resnet.{name}.weight"
        found[key] = _ordered(_there(found, key), order)
    return found


def cosyvoice_token_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the token encoder in a flow of CosyVoice 2 or 3, by our names. Raises SpeechStreamError."""
    own = {k: v for k, v in weights.items() if not k.startswith("decoder.")}
    return _joined(_renamed(own, _TOKENS))


def cosyvoice_vocoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of CosyVoice's HiFT vocoder, of 2 or the causal one of 3, by our names, its weight norms folded.

    Raises SpeechStreamError.
    """

    def snake(m: re.Match[str]) -> str:
        return f".snakes.{2 * int(m[2]) + int(m[1]) - 1}."

    def pitch(m: re.Match[str]) -> str:
        return f"pitch.layers.{int(m[1]) // 2}."  # an activation after each

    found = {}
    for name, value in _renamed(_folded(weights), _VOCODER).items():
        name = re.sub(r"\.activations([12])\.(\d+)\.", snake, name)
        found[re.sub(r"^f0_predictor\.condnet\.(\d+)\.", pitch, name)] = value
    return found


def load(model: Network, weights: Mapping[str, Tensor]) -> Network:
    """A decoder or vocoder with these weights, in evaluation mode. Raises SpeechStreamError where they do not fit."""
    check(model, weights)
    model.load_state_dict(dict(weights))
    return model.eval()


def check(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raises SpeechStreamError where weights do not fit a network, whose own need not be in memory."""
    own = model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        has, wants = weights.get(name), own.get(name)
        if has is None or wants is None or has.shape != wants.shape:
            raise SpeechStreamError(
                f"the {_title(model)}'s {name} is {_size(has)} in the checkpoint, {_size(wants)} by its configuration"
            )


def _transformer(
    weights: Mapping[str, Tensor], config: FlowConfig, order: Sequence[tuple[int, int | None]]
) -> dict[str, Tensor]:
    found = _renamed(weights, _TRANSFORMER)
    dit = config.dit
    if dit is None:
        raise SpeechStreamError("these weights are a transformer's; the configuration has none")
    for name in found:
        if re.search(r"\.layers\.\d+\.[qk]\.", name):
            found[name] = _halves(found[name], dit.rotary_heads or dit.heads, dit.head_dim)
    found = _joined(found)
    key = "network.input.weight"
    found[key] = _ordered(_there(found, key), order)
    return found


def _renamed(weights: Mapping[str, Tensor], names: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    found = {}
    for name, value in weights.items():
        for pattern, ours in names:
            name = re.sub(pattern, ours, name)
        found[name] = value
    return found


def _joined(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Queries, keys and values as one matrix."""
    found = {k: v for k, v in weights.items() if not re.search(r"layers\.\d+\.[qkv]\.", k)}
    for name in weights:
        if m := re.fullmatch(r"(.*layers\.\d+\.)q\.(weight|bias)", name):
            parts = [_there(weights, f"{m[1]}{p}.{m[2]}") for p in "qkv"]
            if len({p.shape for p in parts}) != 1:
                raise SpeechStreamError(f"queries, keys and values differ in size at {name[:80]}")
            found[f"{m[1]}qkv.{m[2]}"] = torch.cat(parts)
    return found


def _halves(x: Tensor, heads: int, head_dim: int) -> Tensor:
    """Rows of the first `heads` heads from interleaved rotary pairs (2 i, 2 i + 1) to halves (i, i + head_dim / 2)."""
    n = heads * head_dim
    turned = x[:n].unflatten(0, (heads, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
    return torch.cat([turned, x[n:]])


def _ordered(x: Tensor, order: Sequence[tuple[int, int | None]]) -> Tensor:
    """Input channels of a matrix or a convolution, in another order: (first, count) of each part."""
    parts = [x[:, at:] if n is None else x[:, at : at + n] for at, n in order]
    return torch.cat(parts, 1)


def _folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight norms, of either of torch's namings, as plain weights: g v / |v|."""
    found = dict(weights)
    for gain, direction in (
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ("weight_g", "weight_v"),
    ):
        for name in [n for n in found if n.endswith("." + gain)]:
            layer = name.removesuffix(gain)
            v, g = _there(found, layer + direction), found[name]
            if v.ndim != 3 or g.shape != (len(v), 1, 1):  # which would be stretched otherwise
                raise SpeechStreamError(
                    f"the weight norm {name[:80]} is {_size(g)}, and what it scales {_size(v)}"
                )
            found[layer + "weight"] = v * (found.pop(name) / v.norm(dim=(1, 2), keepdim=True))
            del found[layer + direction]
    return found


def _title(model: nn.Module) -> str:
    if isinstance(model, Ecapa):
        return "speaker encoder"
    if isinstance(model, TokenEncoder):
        return "token encoder"
    return "flow decoder" if isinstance(model, FlowDecoder) else "vocoder"


def _there(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise SpeechStreamError(f"the checkpoint lacks {name}")
    return weights[name]


def _size(x: Tensor | None) -> str:
    return "missing" if x is None else str(list(x.shape))
