"""cosyvoice2.yaml and cosyvoice3.yaml as ours: plain values are taken out of them, no class is made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from speechstream.config import LARGEST, Section, read_value
from speechstream.convert.cosyvoice_prompt import MelConfig
from speechstream.errors import SpeechStreamError
from speechstream.nn.cosyvoice_config import SpeechSampling
from speechstream.nn.flow_config import DiTConfig, FlowConfig, UNetConfig, WindowConfig
from speechstream.nn.token_config import TokenEncoderConfig
from speechstream.nn.vocoder_config import HiftConfig, VocoderConfig

YAMLS = {"cosyvoice2.yaml": 2, "cosyvoice3.yaml": 3}
MOST_YAML = 1 << 17  # bytes; the published ones have 8 kB
MOST_BLOCK = 512  # frames of the flow: what a block's attention takes grows with their square
OTHER_SOURCE = 22_050  # Hz at which the reference makes the vocoder's source in another way
_FACTOR = re.compile(r"<(\w{1,64})>|(\d{1,12})", re.ASCII)


@dataclass(frozen=True)
class Options:
    """What a bundle is made for. look_back_s: seconds before a block that the flow and the token encoder see. sinks_s:
    seconds of a stream's beginning (the voice's prompt) that the flow always sees. steps: of the flow's solver."""

    look_back_s: float = 2.0
    sinks_s: float = 2.0
    steps: int = 10
    mode: str = "sentences"
    language: str = "en"


class _Loader(yaml.SafeLoader):
    """Tags such as !new:module.Class are dropped, what stands under them stays; !ref <name> is kept for `_resolved`."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _untagged(loader: _Loader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return None


class _Reference(str):
    """`!ref <a> * <b>`, which stays where it cannot be resolved: what reads it then says so."""


def _reference(loader: _Loader, node: yaml.Node) -> _Reference:
    return _Reference(loader.construct_scalar(node))


for _tag in ("!new:", "!name:", "!apply:"):
    _Loader.add_multi_constructor(_tag, _untagged)
_Loader.add_constructor("!ref", _reference)


def read_yaml(folder: Path) -> tuple[int, dict[str, Any]]:
    """The version and the values of a checkpoint's YAML, its references resolved. Raises SpeechStreamError."""
    path = next((folder / name for name in reversed(YAMLS) if (folder / name).is_file()), None)
    if path is None:
        raise SpeechStreamError(f"{folder} has neither {' nor '.join(YAMLS)}")
    try:
        if path.stat().st_size > MOST_YAML:
            raise SpeechStreamError(f"{path} is too long to be what its name says")
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if not isinstance(found, dict):
            raise SpeechStreamError(f"{path} holds no mapping")
        return YAMLS[path.name], _resolved(found, _Names(found))
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        raise SpeechStreamError(f"{path} is damaged: it is not the YAML of a CosyVoice") from error


def _resolved(value: Any, names: _Names) -> Any:
    if isinstance(value, _Reference):
        found = names.product(value)
        return value if found is None else found
    if isinstance(value, dict):
        return {k: _resolved(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, names) for v in value]
    return value


class _Names:
    """The plain values at the top of a file, each looked up once however often it is referred to."""

    def __init__(self, top: Mapping[str, Any]) -> None:
        self._top, self._known = top, dict[str, Any]()

    def value(self, name: str) -> Any:
        """None for what is no plain value, or refers to itself."""
        if name not in self._known:
            self._known[name] = None
            value = self._top.get(name)
            if isinstance(value, _Reference):
                value = self.product(value)
            self._known[name] = None if isinstance(value, (dict, list)) else value
        return self._known[name]

    def product(self, reference: _Reference) -> Any:
        """One value, or a product of whole numbers; None for anything else."""
        factors = [_FACTOR.fullmatch(part.strip()) for part in reference.split("*", 8)]
        if None in factors:
            return None
        values = [int(f[2]) if f[2] else self.value(f[1]) for f in factors if f is not None]
        if len(values) == 1:
            return values[0]
        whole = all(type(v) is int and abs(v) < LARGEST for v in values)
        return math.prod(values) if whole else None


def speech_sampling(c: Section) -> SpeechSampling:
    """How speech tokens are drawn."""
    s, default = c.section("llm").section("sampling"), SpeechSampling()
    window, part = s.integer("win_size", default.window), s.number("tau_r", 0.1)
    if not window * part > 0:
        raise ValueError(f"{s.name}.win_size and tau_r must be above 0; got {window} and {part}")
    return SpeechSampling(
        s.number("top_p", default.top_p),
        s.integer("top_k", default.top_k),
        window,
        math.ceil(window * part),
    )


def layers_of(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many layers stand under a name."""
    numbers = {
        m[1]
        for n in weights
        if (m := re.match(re.escape(prefix) + r"\.(\d{1,4})\.", n)) is not None
    }
    return len(numbers)


def token_config(
    c: Section, weights: Mapping[str, Tensor], look_back_s: float, frame_rate: float = 50.0
) -> TokenEncoderConfig:
    """The encoder of speech tokens. What the YAML does not say is read off the weights. frame_rate: mel frames a second."""
    f, default = c.section("flow"), TokenEncoderConfig()
    e = f.section("encoder")
    layers = layers_of(weights, "encoder.encoders")
    first = next(
        (w for n, w in weights.items() if n.endswith("pre_lookahead_layer.conv1.weight")), None
    )
    if first is None or first.ndim != 3:
        raise SpeechStreamError("the flow lacks its pre_lookahead_layer")
    repeats = f.integer("token_mel_ratio", default.repeats)
    block = _block(c, e, repeats)
    _one_of(e, "activation_type", "swish")
    _one_of(e, "pos_enc_layer_type", "rel_pos_espnet")
    _one_of(e, "selfattention_layer_type", "rel_selfattn")
    _one_of(e, "input_layer", "linear")
    for name in ("use_cnn_module", "macaron_style"):
        if layers and e.flag(name, True):
            raise ValueError(f"flow.encoder.{name} is on, which is not supported")
    if not e.flag("normalize_before", True):
        raise ValueError("flow.encoder.normalize_before is off, which is not supported")
    look_back_s = _seconds("look_back_s", look_back_s)
    return TokenEncoderConfig(
        vocab_size=f.integer("vocab_size"),
        input_dim=f.integer("input_size", default.input_dim),
        dim=e.integer("output_size", default.dim) if layers else f.integer("input_size"),
        heads=e.integer("attention_heads", default.heads) if layers else 1,
        ff_dim=e.integer("linear_units", default.ff_dim) if layers else 1,
        layers=layers,
        up_layers=layers_of(weights, "encoder.up_encoders"),
        lookahead=f.integer("pre_lookahead_len", default.lookahead),
        lookahead_dim=first.shape[0],
        repeats=repeats,
        n_mels=f.integer("output_size", default.n_mels),
        speaker_dim=f.integer("spk_embed_dim", default.speaker_dim),
        block=block,
        left_blocks=math.ceil(look_back_s * frame_rate / repeats / block) if layers else 0,
    )


def _block(c: Section, encoder: Section, repeats: int) -> int:
    """Speech tokens of a block: the encoder's, which must be the estimator's."""
    estimator = c.section("flow").section("decoder").section("estimator")
    block = c.integer("chunk_size", TokenEncoderConfig().block)
    frames = estimator.integer("static_chunk_size", block * repeats)
    block = encoder.integer("static_chunk_size", frames // max(repeats, 1))
    if block * repeats != frames:
        raise ValueError(
            f"{estimator.name}.static_chunk_size must be {repeats} times {block}, a block of tokens; got {frames}"
        )
    if not 1 <= frames <= MOST_BLOCK:
        raise ValueError(f"a block must have 1 to {MOST_BLOCK} mel frames; got {frames}")
    return block


def flow_config(
    c: Section,
    tokens: TokenEncoderConfig,
    options: Options,
    frame_rate: float = 50.0,
    transformer: bool = False,
) -> FlowConfig:
    """The flow's decoder, of either network. transformer: whether its weights are a DiT's."""
    d = c.section("flow").section("decoder")
    e = d.section("estimator")
    how = d.section("cfm_params")
    how = how.section("content") if "content" in how else how
    schedule = how.text("t_scheduler", "cosine")
    mels = tokens.n_mels
    block, rate = tokens.block * tokens.repeats, frame_rate
    windows = WindowConfig(
        block,
        max(math.ceil(_seconds("look_back_s", options.look_back_s) * rate / block), 1),
        sinks=math.ceil(_seconds("sinks_s", options.sinks_s) * rate),
    )
    unet = dit = None
    if transformer:
        dim = e.integer("dim")
        dit = DiTConfig(
            dim=dim,
            layers=e.integer("depth", 8),
            heads=e.integer("heads", 8),
            head_dim=e.integer("dim_head", 64),
            ff_dim=dim * e.integer("ff_mult", 4),
            rotary_heads=1,  # the reference rotates the first head only, and was trained so
            position_kernel=31,
            position_groups=16,
        )
    else:
        channels = e.integers("channels", (256,))
        if len(channels) != 1:
            raise ValueError(f"flow.decoder.estimator.channels must be one number; got {channels}")
        _one_of(e, "act_fn", "gelu")
        unet = UNetConfig(
            dim=channels[0],
            mid_blocks=e.integer("num_mid_blocks", 2),
            layers_per_block=e.integer("n_blocks", 1),
            heads=e.integer("num_heads", 4),
            head_dim=e.integer("attention_head_dim", 64),
            ff_dim=4 * channels[0],
            frequencies=e.integer("in_channels"),
            time_dim=4 * channels[0],
        )
    return FlowConfig(
        n_mels=mels,
        condition_dim=mels,
        speaker_dim=mels,
        prompt=True,
        windows=windows,
        dit=dit,
        unet=unet,
        solver="euler",  # the reference takes no other, whatever its configuration says
        steps=options.steps,
        schedule=schedule,
        guidance=how.number("inference_cfg_rate", 0.7),
    )


def vocoder_config(c: Section, version: int) -> VocoderConfig | HiftConfig:
    """The vocoder: of CosyVoice 3 the one that looks back."""
    h, p = c.section("hift"), c.section("hift").section("f0_predictor")
    i = h.section("istft_params")
    dilations = _dilations(h)
    if h.integer("sampling_rate") == OTHER_SOURCE:
        raise ValueError(
            f"{h.name}.sampling_rate is {OTHER_SOURCE} Hz, whose source is another that is not supported"
        )
    if p.integer("num_class", 1) != 1:
        raise ValueError(f"{p.name}.num_class must be 1")
    own: dict[str, Any] = dict(
        n_mels=h.integer("in_channels", 80),
        dim=h.integer("base_channels", 512),
        sample_rate=h.integer("sampling_rate"),
        rates=h.integers("upsample_rates"),
        kernels=h.integers("upsample_kernel_sizes"),
        window=i.integer("n_fft", 16),
        hop=i.integer("hop_len", 4),
        block_kernels=h.integers("resblock_kernel_sizes", (3, 7, 11)),
        dilations=dilations,
        source_kernels=h.integers("source_resblock_kernel_sizes"),
        harmonics=h.integer("nb_harmonics", 8) + 1,
        amplitude=h.number("nsf_alpha", 0.1),
        voiced_noise=h.number("nsf_sigma", 0.003),
        voiced_above=h.number("nsf_voiced_threshold", 10.0),
        slope=h.number("lrelu_slope", 0.1),
        limit=h.number("audio_limit", 0.99),
        pitch_dim=p.integer("cond_channels", 512),
    )
    if version == 3:
        return VocoderConfig(**own, lookahead=h.integer("conv_pre_look_right", 4))
    return HiftConfig(**own)


def _dilations(hift: Section) -> tuple[int, ...]:
    """Of all residual blocks, which must be alike."""

    def read(key: str, default: Any) -> set[tuple[int, ...]]:
        value = hift.raw(key)
        value = default if value is None else value
        return set(read_value(tuple[tuple[int, ...], ...], value, f"{hift.name}.{key}"))

    own = read("resblock_dilation_sizes", [[1, 3, 5]])
    # the reference's default, where the weights may be of it
    given = [[1, 3, 5]] if own and len(next(iter(own))) == 3 else list(own)
    found = own | read("source_resblock_dilation_sizes", given)
    if len(found) != 1:
        raise ValueError(
            f"hift's dilations, of its blocks and of its source's, must be alike; got {sorted(found)}"[
                :200
            ]
        )
    return next(iter(found))


def mel_config(c: Section, sound: VocoderConfig | HiftConfig) -> MelConfig:
    """The spectrum that the flow continues, which must be the one that the vocoder hears."""
    m, default = c.section("feat_extractor"), MelConfig()
    if m.integer("win_size", default.window) != m.integer("n_fft", default.window):
        raise ValueError("feat_extractor.win_size and n_fft must be alike")
    if m.flag("center", False):
        raise ValueError("feat_extractor.center is on, which is not supported")
    found = MelConfig(
        m.integer("sampling_rate", default.sample_rate),
        m.integer("num_mels", default.n_mels),
        m.integer("n_fft", default.window),
        m.integer("hop_size", default.hop),
        m.number("fmax") if "fmax" in m else None,
        m.number("fmin", default.low),
    )
    heard = found.sample_rate, found.n_mels, found.hop
    if heard != (sound.sample_rate, sound.n_mels, sound.frame_size):
        raise ValueError(
            f"feat_extractor makes {found.n_mels} mels each {found.hop} samples at {found.sample_rate} Hz; the vocoder "
            f"has {sound.n_mels}, {sound.frame_size} and {sound.sample_rate} Hz"
        )
    return found


def _one_of(c: Section, key: str, *known: str) -> None:
    value = c.text(key, known[0])
    if value not in known:
        raise ValueError(f"{c.name}.{key} {value[:40]!r} is not supported, only {', '.join(known)}")


def _seconds(name: str, value: float) -> float:
    if not 0 <= value <= 60:
        raise ValueError(f"{name} must be 0 to 60 seconds; got {value}")
    return value
