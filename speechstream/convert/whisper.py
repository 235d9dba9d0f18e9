"""Whisper checkpoints in: OpenAI's .pt, Hugging Face safetensors and CTranslate2's model.bin.

Each is read into one dictionary of tensors under openai/whisper's own parameter names.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechstream.convert import pickled
from speechstream.errors import SpeechStreamError
from speechstream.nn.whisper import Whisper, WhisperConfig

# Alignment heads published with each checkpoint (openai/whisper, `_ALIGNMENT_HEADS`), by (decoder layers, vocabulary).
ALIGNMENT_HEADS = {
    (4, 51864): ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)),
    (4, 51865): ((2, 2), (3, 0), (3, 2), (3, 3), (3, 4), (3, 5)),
    (6, 51864): ((3, 3), (4, 7), (5, 1), (5, 5), (5, 7)),
    (6, 51865): ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)),
}


def load_whisper(path: str | Path, left_context: int = 400) -> Whisper:
    """Read a checkpoint file (or a folder that holds one) into a `Whisper` whose encoder keeps `left_context` frames.

    Raises SpeechStreamError where the file is none of the three formats, truncated, or of another architecture.
    """
    path = Path(path)
    if path.is_dir():
        found = [
            path / n for n in ("model.safetensors", "model.bin") if (path / n).exists()
        ] or sorted(path.glob("*.pt"))
        if not found:
            raise SpeechStreamError(
                f"{path} holds no Whisper checkpoint (model.safetensors, model.bin or *.pt)"
            )
        path = found[0]
    if not path.is_file():
        raise SpeechStreamError(
            f"{path} does not exist: expected a Whisper checkpoint (.pt, .safetensors or model.bin)"
        )
    try:
        if path.suffix == ".safetensors":
            weights = _from_hugging_face(path)
        elif path.suffix == ".pt":
            weights = pickled.load(path)["model_state_dict"]
        else:
            weights = _from_ctranslate2(path.read_bytes())
        return _build({name: w.float() for name, w in weights.items()}, left_context)
    except SpeechStreamError:
        raise
    except (
        Exception
    ) as error:  # torch, safetensors and struct each raise their own kinds on a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise SpeechStreamError(f"{path} is not a readable Whisper checkpoint: {reason}") from error


def _build(weights: dict[str, Tensor], left_context: int) -> Whisper:
    layers = [
        1 + max(int(m[1]) for name in weights if (m := re.match(rf"{part}\.blocks\.(\d+)\.", name)))
        for part in ("encoder", "decoder")
    ]
    width, mels, _ = weights["encoder.conv1.weight"].shape
    vocabulary = weights["decoder.token_embedding.weight"].shape[0]
    config = WhisperConfig(
        n_mels=mels,
        dim=width,
        heads=width // 64,
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        vocab_size=vocabulary,
        text_context=weights["decoder.positional_embedding"].shape[0],
        left_context=left_context,
        alignment_heads=ALIGNMENT_HEADS.get((layers[1], vocabulary), ()),
    )
    model = Whisper(config)
    model.load_state_dict(weights)
    return model.eval()


def _from_hugging_face(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    renames = [
        (r"^model\.", ""),
        (r"\.layers\.", ".blocks."),
        (r"self_attn_layer_norm", "attn_ln"),
        (r"encoder_attn_layer_norm", "cross_attn_ln"),
        (r"final_layer_norm", "mlp_ln"),
        (r"self_attn\.", "attn."),
        (r"encoder_attn\.", "cross_attn."),
        (r"q_proj", "query"),
        (r"k_proj", "key"),
        (r"v_proj", "value"),
        (r"out_proj", "out"),
        (r"fc1", "mlp.0"),
        (r"fc2", "mlp.2"),
        (r"embed_positions\.weight", "positional_embedding"),
        (r"embed_tokens", "token_embedding"),
        (r"^encoder\.layer_norm", "encoder.ln_post"),
        (r"^decoder\.layer_norm", "decoder.ln"),
    ]
    weights = {}
    for name, w in load_file(path).items():
        for pattern, new in renames:
            name = re.sub(pattern, new, name)
        if name != "proj_out.weight":  # tied to the embedding
            weights[name] = w
    return weights


def _from_ctranslate2(data: bytes) -> dict[str, Tensor]:
    """CTranslate2's own container: little endian, names and shapes before each raw array, then aliases."""
    types = {
        0: np.float32,
        1: np.int8,
        2: np.int16,
        3: np.int32,
        4: np.float16,
        5: np.uint16,
    }  # 5: bfloat16
    at = 0

    def number(kind: str) -> int:
        nonlocal at
        value = struct.unpack_from("<" + kind, data, at)[0]
        at += struct.calcsize("<" + kind)
        return value

    def string() -> str:
        nonlocal at
        size = number("H")
        at += size
        return data[at - size : at].rstrip(b"\0").decode()

    _, spec = number("I"), string()
    if spec != "WhisperSpec":
        raise SpeechStreamError(
            f"this CTranslate2 file holds a {spec or 'nameless model'}, expected a WhisperSpec"
        )
    number("I")  # the revision of the spec
    raw: dict[str, np.ndarray] = {}
    for _ in range(number("I")):
        name = string()
        shape = [number("I") for _ in range(number("B"))]
        dtype, size = types.get(number("B")), number("I")
        if dtype is None or at + size > len(data):
            raise SpeechStreamError(
                f"the CTranslate2 file ends in the middle of {name} or stores it in an unknown type"
            )
        raw[name] = np.frombuffer(data, dtype, size // np.dtype(dtype).itemsize, at).reshape(shape)
        at += size
    return _rename_ctranslate2(
        {
            n: _dequantised(n, a, raw)
            for n, a in raw.items()
            if a.ndim and not n.endswith("weight_scale")
        }
    )


def _dequantised(name: str, a: np.ndarray, raw: dict[str, np.ndarray]) -> Tensor:
    if a.dtype == np.uint16:  # bfloat16: the upper half of a float32
        a = (a.astype(np.uint32) << 16).view(np.float32)
    elif (
        name + "_scale" in raw
    ):  # int8 with a scale a row, int16 with one for all: value = code / scale
        scale = raw[name + "_scale"].astype(np.float32)
        a = a.astype(np.float32) / scale.reshape(-1, *[1] * (a.ndim - 1))
    return torch.from_numpy(a.astype(np.float32))


def _rename_ctranslate2(raw: dict[str, Tensor]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, w in raw.items():
        part, *path = name.split("/")
        kind = {"gamma": "weight", "beta": "bias"}.get(path[-1], path[-1])
        if path[0].startswith("layer_") and path[0] != "layer_norm":
            base = f"{part}.blocks.{path[0][6:]}."
            block, inner = path[1], path[2]
            attention = {
                "self_attention": "attn",
                "attention": "cross_attn" if part == "decoder" else "attn",
            }
            target = "mlp" if block == "ffn" else attention[block]
            if inner == "layer_norm":
                weights[f"{base}{target}_ln.{kind}"] = w
            elif block == "ffn":
                weights[f"{base}mlp.{0 if inner == 'linear_0' else 2}.{kind}"] = w
            else:  # fused projections: query+key+value, or query, then key+value
                fused = {
                    ("self_attention", "linear_0"): ("query", "key", "value"),
                    ("attention", "linear_0"): ("query",),
                    ("attention", "linear_1"): ("key", "value"),
                }
                parts = fused.get((block, inner), ("out",))
                for target_part, piece in zip(parts, w.chunk(len(parts))):
                    if not (
                        target_part == "key" and kind == "bias"
                    ):  # Whisper's keys have none (stored as zeros)
                        weights[f"{base}{target}.{target_part}.{kind}"] = piece.clone()
        elif path[0].startswith("conv"):
            weights[f"encoder.{path[0]}.{kind}"] = w
        elif path[0] == "layer_norm":
            weights[f"{'encoder.ln_post' if part == 'encoder' else 'decoder.ln'}.{kind}"] = w
        elif path[0] == "position_encodings":
            weights[f"{part}.positional_embedding"] = w
        elif path[0] == "embeddings":
            weights["decoder.token_embedding.weight"] = w
    return weights
