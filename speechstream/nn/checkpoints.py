"""Networks from disk: what a bundle holds, as torch modules; and a converted checkpoint."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file
from torch import Tensor

from speechstream import bundle
from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.bundle import Bundle
from speechstream.codes import dequantize_blocks, dequantize_channels
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.nn.configs import STORED_FORM, FastConformerBundle, FastConformerConfig
from speechstream.nn.fastconformer import FastConformer
from speechstream.nn.whisper import Whisper, WhisperConfig


@dataclass(frozen=True)
class Checkpoint:
    """A FastConformer with what is needed to run it."""

    model: FastConformer  # in evaluation mode, float32
    features: NemoMelConfig
    tokens: tuple[str, ...]  # the vocabulary by id; a leading U+2581 stands for a space
    tokenizer: bytes | None  # the SentencePiece model, None for characters


def first_line(error: Exception) -> str:
    """What an error says, as part of a sentence."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]


def read_whisper(b: Bundle) -> Whisper:
    """The torch network of a bundle, its codes expanded to fp32. Raises SpeechStreamError where it does not fit together."""
    try:
        model = Whisper(read(WhisperConfig, b.config, besides=STORED_FORM))
        model.load_state_dict(_expanded(_whisper_tensors(b), b.config["bits"]))
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: torch's
        raise SpeechStreamError(
            f"the bundle {b.path} does not fit together: {first_line(error)}"
        ) from error
    return model.eval()


def _whisper_tensors(b: Bundle) -> dict[str, np.ndarray]:
    """What the files of a bundle hold. A CTC head in a file of its own takes the place of one among the other weights."""
    tensors = load_numpy(b.file("model.safetensors"))
    if "ctc.safetensors" not in b.files:
        return tensors
    head = load_numpy(b.file("ctc.safetensors"))
    if strange := [n for n in head if not n.startswith("ctc.")]:
        raise ValueError(f"ctc.safetensors holds {strange[0]}, which is not of the CTC head")
    return {n: a for n, a in tensors.items() if not n.startswith("ctc.")} | head


def _expanded(tensors: dict[str, np.ndarray], bits: int) -> dict[str, Tensor]:
    """Tensors named as in the network, from codes, turned matrices and convolutions as matrices."""
    state = {}
    for name, a in tensors.items():
        if name.endswith(".codes"):
            name = name.removesuffix(".codes")
            a = _expand(name, a, tensors[name + ".scales"], bits)
        elif name.endswith(".scales"):
            continue
        if name.endswith(".T"):
            name, a = name.removesuffix(".T"), a.T
        if name == "encoder.conv2.weight" and a.ndim == 2:  # as a matrix, `export.whisper_encoder`
            a = a.reshape(len(a), 3, -1).transpose(0, 2, 1)
        state[name] = torch.from_numpy(np.ascontiguousarray(a))
    return state


def _expand(name: str, codes: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """Codes back to fp32, in the orientation that their name tells."""
    if codes.ndim == 3:  # blocks, stored (N, K / block, bytes) whatever the name
        weight = dequantize_blocks(codes, scales, bits)
        return weight.T if name.endswith(".T") else weight
    return dequantize_channels(codes, scales, axis=1 if name.endswith(".T") else 0)


def read_fastconformer(path: Path | str) -> Checkpoint:
    """The torch network of a bundle. Raises SpeechStreamError where it is not the bundle of a FastConformer."""
    b = bundle.load(path)
    if b.architecture != "fastconformer":
        raise SpeechStreamError(
            f"the bundle {path} holds a {b.architecture}, expected a fastconformer"
        )
    try:
        about = read(FastConformerBundle, b.config, besides=STORED_FORM)
        config, features = about.network, about.features
        model = build(config, load_file(b.file("model.safetensors")))
        tokens = about.check_tokens(json.loads(b.file("tokens.json").read_text(encoding="utf-8")))
    except (ValueError, SafetensorError) as error:
        raise SpeechStreamError(
            f"the bundle {path} does not fit together: {first_line(error)}"
        ) from error
    tokenizer = b.file("tokenizer.model").read_bytes() if "tokenizer.model" in b.files else None
    return Checkpoint(model, features, tokens, tokenizer)


def build(config: FastConformerConfig, weights: dict[str, Tensor]) -> FastConformer:
    """The network with exactly these weights, in evaluation mode. Raises ValueError where names or shapes differ."""
    check_sizes(config, weights)
    model = FastConformer(config)
    expected = set(model.state_dict())
    model.load_state_dict({k: v.float() for k, v in weights.items() if k in expected}, strict=False)
    return model.eval()


def check_sizes(config: FastConformerConfig, weights: dict[str, Tensor]) -> None:
    """Raise ValueError unless the weights are those of this network, before it is made: a false size must cost nothing."""
    for what, count, pattern in (
        ("encoder", config.encoder.layers, r"encoder\.layers\.(\d+)\..*"),
        (
            "predictor",
            config.predictor.layers if config.predictor else 1,
            r"predictor\.lstm\.weight_ih_l(\d+)",
        ),
    ):
        found = {m[1] for key in weights if (m := re.fullmatch(pattern, key))}
        if count != len(found) and (found or count != 1):
            raise ValueError(
                f"its weights do not fit its configuration: {len(found)} layers of the {what}, "
                f"expected {count}"
            )
    try:
        with torch.device("meta"):
            state = FastConformer(config).state_dict()
    except RuntimeError as error:  # torch's, of sizes whose product overflows
        raise ValueError(
            f"its configuration claims impossible sizes: {first_line(error)}"
        ) from error
    expected = {
        k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")
    }
    given = {k: tuple(v.shape) for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    if expected != given:
        name = sorted(expected.items() ^ given.items())[0][0]
        raise ValueError(
            f"its weights do not fit its configuration: {name} is {given.get(name, 'missing')}, "
            f"expected {expected.get(name, 'nothing of this name')} (or has another name here)"
        )
    for name, value in weights.items():
        if name in expected and not (value.is_floating_point() and torch.isfinite(value).all()):
            what = "NaN or infinity" if value.is_floating_point() else value.dtype
            raise ValueError(f"its weights are damaged: {name} holds {what}")
