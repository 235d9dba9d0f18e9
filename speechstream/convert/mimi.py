"""Load Mimi checkpoints (kyutai/mimi and its kin) into `speechstream.nn.mimi.Mimi`.

Three namings of the same weights are understood: that of the `moshi` package (the file
`tokenizer-e351c8d8-checkpoint125.safetensors` of Kyutai's repositories), the flat one of `transformers`
(`kyutai/mimi/model.safetensors`), and the nested one that newer versions of `transformers` hold in memory.

    codec = load_mimi("path/to/kyutai-mimi")           # a folder with config.json, or one .safetensors file
    python -m speechstream.convert.mimi SOURCE TARGET  # our own folder: config.json, model.safetensors, ONNX graphs
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechstream.config import Section
from speechstream.convert.stored import rotary_base
from speechstream.errors import SpeechStreamError
from speechstream.nn.mimi import Mimi, MimiConfig
from speechstream.nn.quantizer import USAGE_FLOOR
from speechstream.nn.seanet import DownConv1d, SEANetConfig, UpConv1d
from speechstream.nn.transformer import TransformerConfig

_NESTED = [
    (r"^(en|de)coder\.\1coder_seanet\.", r"\1coder."),
    (r"^(en|de)coder\.\1coder_transformer\.", r"\1coder_transformer."),
    (r"^encoder\.downsample\.", "downsample."),
    (r"^decoder\.upsample\.", "upsample."),
    (r"^mimi\.", ""),
]


def load_mimi(path: str | Path, config: MimiConfig | None = None) -> Mimi:
    """Load a Mimi checkpoint in evaluation mode.

    `path` is a .safetensors file or a folder with one and perhaps a config.json (of transformers or our own). Without a
    configuration the sizes of kyutai/mimi are assumed. Raises SpeechStreamError where the weights do not fit them.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if len(files) != 1:
            raise SpeechStreamError(
                f"{path} holds {len(files)} .safetensors files; name the one that is Mimi"
            )
        file = files[0]
    else:
        file = path
    if file.suffix != ".safetensors" or not file.is_file():
        raise SpeechStreamError(
            f"expected a .safetensors file or a folder with one; {path} is neither"
        )
    description = file.parent / "config.json"
    if config is None and description.is_file():
        data = json.loads(description.read_text())
        config = MimiConfig.from_dict(data) if "seanet" in data else config_from_transformers(data)
    model = Mimi(config or MimiConfig())
    weights = load_file(file)
    if "quantizer.semantic.codebooks" in weights:  # our own names
        return _load(model, weights, file)
    return _load(model, convert_weights(weights, model.config), file)


def config_from_transformers(data: Mapping[str, Any]) -> MimiConfig:
    """A MimiConfig from the fields of transformers' `MimiConfig` (its config.json). Raises SpeechStreamError for
    variants that this architecture does not have."""

    def get(name: str, default: Any) -> Any:
        value = data.get(name)
        return default if value is None else value

    dim, heads = get("hidden_size", 512), get("num_attention_heads", 8)
    required = {
        "use_causal_conv": True,
        "trim_right_ratio": 1.0,
        "pad_mode": "constant",
        "use_conv_shortcut": False,
        "hidden_act": "gelu",
        "attention_bias": False,
        "upsample_groups": dim,
        "num_key_value_heads": heads,
        "head_dim": dim // heads,
        "norm_eps": 1e-5,
    }
    required["codebook_dim"] = get("vector_quantization_hidden_dimension", 256)
    for name, expected in required.items():
        if get(name, expected) != expected:
            raise SpeechStreamError(
                f"this Mimi has {name} = {data[name]}; only {expected} is supported"
            )
    try:
        section = Section(data, "codec_config")
        base = rotary_base(section)
        # the second is how transformers writes what it was given as the first
        frames = section.number("frame_rate", section.number("_frame_rate", math.inf))
    except ValueError as error:
        raise SpeechStreamError(str(error)) from error
    seanet = SEANetConfig(
        channels=get("audio_channels", 1),
        dim=dim,
        filters=get("num_filters", 64),
        ratios=tuple(get("upsampling_ratios", (8, 6, 5, 4))),
        kernel=get("kernel_size", 7),
        last_kernel=get("last_kernel_size", 3),
        residual_kernel=get("residual_kernel_size", 3),
        residual_layers=get("num_residual_layers", 1),
        dilation_base=get("dilation_growth_rate", 2),
        compress=get("compress", 2),
    )
    transformer = TransformerConfig(
        dim=dim,
        layers=get("num_hidden_layers", 8),
        heads=heads,
        ff_dim=get("intermediate_size", 2048),
        left_context=get("sliding_window", 250),
        max_period=base,
        layer_scale=get("layer_scale_initial_scale", 0.01),
    )
    rate = get("sampling_rate", 24_000)
    if not frames > 0:
        raise SpeechStreamError(f"this Mimi has {frames:g} frames a second")
    stride = round(rate / seanet.hop / (frames if frames < math.inf else rate / seanet.hop / 2))
    return MimiConfig(
        rate,
        seanet,
        transformer,
        stride,
        get("num_quantizers", 32),
        get("num_semantic_quantizers", 1),
        get("codebook_size", 2048),
        get("vector_quantization_hidden_dimension", 256),
    )


def convert_weights(
    weights: Mapping[str, Tensor], config: MimiConfig, decoder: bool = True
) -> dict[str, Tensor]:
    """A state dict of `Mimi(config)` from one of moshi or of transformers, found out by its names.

    decoder False: of `MimiEncoder(config)`, from the weights without the decoder's.

    Raises SpeechStreamError where a weight is missing or one is left over.
    """
    source = {}
    for name, value in weights.items():
        for pattern, replacement in _NESTED:
            name = re.sub(pattern, replacement, name)
        source[name] = value
    moshi = any(name.startswith("encoder.model.") for name in source)
    reader = Reader(source)
    result: dict[str, Tensor] = {}
    stem, conv, convtr = (
        ("model", ".conv.conv", ".convtr.convtr") if moshi else ("layers", ".conv", ".conv")
    )
    for side in ("encoder", "decoder") if decoder else ("encoder",):
        for ours, theirs in seanet_names(config.seanet, side):
            resample, up = ours.endswith("resample"), side == "decoder"
            name = f"{side}.{stem}.{theirs}{convtr if resample and up else conv}"
            weight = reader(f"{name}.weight")
            if resample:
                weight = (UpConv1d if up else DownConv1d).pack_weight(weight)
            result[f"{side}.{ours}.weight"] = weight
            result[f"{side}.{ours}.bias"] = reader(f"{name}.bias")
        for i in range(config.transformer.layers):
            layer = _moshi_layer if moshi else transformers_layer
            middle = "transformer.layers" if moshi else "layers"
            for ours, value in layer(
                reader, f"{side}_transformer.{middle}.{i}.", config.transformer.heads
            ):
                result[f"{side}_transformer.layers.{i}.{ours}"] = value
    nested = ".conv" if moshi else ""
    result["downsample.weight"] = DownConv1d.pack_weight(
        reader(f"downsample.conv{nested}{nested}.weight")
    )
    if decoder:
        upsample = reader(
            "upsample.convtr.convtr.convtr.weight" if moshi else "upsample.conv.weight"
        )  # (dim, 1, 2 stride)
        result["upsample"] = upsample.squeeze(1).T.reshape(2, config.stride, -1).contiguous()
    for ours, short, long in (
        ("semantic", "rvq_first", "semantic_residual_vector_quantizer"),
        ("acoustic", "rvq_rest", "acoustic_residual_vector_quantizer"),
    ):
        levels = (
            config.n_semantic_codebooks
            if ours == "semantic"
            else config.n_codebooks - config.n_semantic_codebooks
        )
        prefix = f"quantizer.{short if moshi else long}."
        for side in ("input_proj", "output_proj"):
            name = f"{prefix}{side}.weight"
            if name not in source and config.code_dim == config.seanet.dim:
                weight = torch.eye(config.code_dim)  # neither reference has one then
            else:
                weight = reader(name).squeeze(-1)
            result[f"quantizer.{ours}.{side}.weight"] = weight
        books, usages = zip(*(_codebook(reader, prefix, i, moshi) for i in range(levels)))
        result[f"quantizer.{ours}.codebooks"] = torch.stack(books)
        result[f"quantizer.{ours}.usage"] = torch.stack(usages)
        result[f"quantizer.{ours}.initialised"] = torch.ones(levels, dtype=torch.bool)
    left = [n for n in source if n not in reader.read and not n.endswith(("initialized", "inited"))]
    if left:
        raise SpeechStreamError(
            f"this Mimi checkpoint has weights its configuration has no place for, such as "
            f"{left[0]!r} ({len(left)} in all)"
        )
    return result


def save_mimi(model: Mimi, target: str | Path) -> Path:
    """Write a Mimi as a folder of ours: config.json and model.safetensors."""
    from safetensors.torch import save_file

    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n")
    save_file(
        {n: w.contiguous() for n, w in model.state_dict().items()}, target / "model.safetensors"
    )
    return target


class Reader:
    """Reads weights by name, remembers which were read, and says which is missing."""

    def __init__(self, weights: Mapping[str, Tensor], what: str = "Mimi") -> None:
        self.weights, self.what, self.read = weights, what, set()

    def __call__(self, *names: str) -> Tensor:
        for name in names:
            if name in self.weights:
                self.read.add(name)
                return self.weights[name].float()
        raise SpeechStreamError(
            f"not a {self.what} checkpoint of this configuration: {names[0]!r} is missing"
        )


def seanet_names(config: SEANetConfig, side: str) -> Iterator[tuple[str, str]]:
    """Our names and the positions in the peers' flat lists, where activations count as layers."""
    yield "input", "0"
    position = 1
    for i in range(len(config.ratios)):
        if side == "decoder":
            yield f"blocks.{i}.resample", f"{position + 1}"
            position += 2
        for j in range(config.residual_layers):
            yield f"blocks.{i}.residual.{j}.conv1", f"{position}.block.1"
            yield f"blocks.{i}.residual.{j}.conv2", f"{position}.block.3"
            position += 1
        if side == "encoder":
            yield f"blocks.{i}.resample", f"{position + 1}"
            position += 2
    yield "output", f"{position + 1}"


def _moshi_layer(read: Reader, p: str, heads: int) -> Iterator[tuple[str, Tensor]]:
    qkv = read(
        p + "self_attn.in_proj_weight",
        p + "self_attn.in_projs.0.weight",
        p + "self_attn.in_proj.weight",
    )
    q, k, v = qkv.chunk(3)
    yield "qkv.weight", torch.cat([_halves(q, heads), _halves(k, heads), v])
    yield "out.weight", read(p + "self_attn.out_proj.weight", p + "self_attn.out_projs.0.weight")
    for ours, theirs in (
        ("norm1.weight", "norm1.weight"),
        ("norm1.bias", "norm1.bias"),
        ("norm2.weight", "norm2.weight"),
        ("norm2.bias", "norm2.bias"),
        ("up.weight", "linear1.weight"),
        ("down.weight", "linear2.weight"),
        ("scale1", "layer_scale_1.scale"),
        ("scale2", "layer_scale_2.scale"),
    ):
        yield ours, read(p + theirs)


def transformers_layer(read: Reader, p: str, heads: int) -> Iterator[tuple[str, Tensor]]:
    yield "qkv.weight", torch.cat([read(f"{p}self_attn.{n}_proj.weight") for n in "qkv"])
    for ours, theirs in (
        ("out.weight", "self_attn.o_proj.weight"),
        ("norm1.weight", "input_layernorm.weight"),
        ("norm1.bias", "input_layernorm.bias"),
        ("norm2.weight", "post_attention_layernorm.weight"),
        ("norm2.bias", "post_attention_layernorm.bias"),
        ("up.weight", "mlp.fc1.weight"),
        ("down.weight", "mlp.fc2.weight"),
        ("scale1", "self_attn_layer_scale.scale"),
        ("scale2", "mlp_layer_scale.scale"),
    ):
        yield ours, read(p + theirs)


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rows from (real, imaginary) pairs side by side, as moshi rotates them, to all reals and then all imaginaries."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _codebook(read: Reader, prefix: str, level: int, moshi: bool) -> tuple[Tensor, Tensor]:
    if moshi:
        p = f"{prefix}vq.layers.{level}._codebook."
        sums = read(p + "embedding_sum", p + "embed_sum", p + "embed_avg")
        usage = read(p + "cluster_usage", p + "cluster_size")
    else:
        p = f"{prefix}layers.{level}.codebook."
        sums, usage = read(p + "embed_sum"), read(p + "cluster_usage")
    usage = usage.clamp(min=USAGE_FLOOR)
    return sums / usage.unsqueeze(-1), usage


def _load(model: Mimi, weights: Mapping[str, Tensor], file: Path) -> Mimi:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise SpeechStreamError(f"{file} does not fit its configuration: {reason}") from error
    return model.eval()


def main() -> None:
    """Convert a checkpoint to a folder of ours; `speechstream export FOLDER` makes its ONNX graphs."""
    parser = argparse.ArgumentParser(description="convert a Mimi checkpoint")
    parser.add_argument(
        "source", help="a .safetensors file, or a folder with one and its config.json"
    )
    parser.add_argument("target", help="the folder to write")
    args = parser.parse_args()
    save_mimi(load_mimi(args.source), args.target)


if __name__ == "__main__":
    main()
