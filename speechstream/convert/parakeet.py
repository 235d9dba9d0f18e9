"""Import the Hugging Face ports of NVIDIA's FastConformer checkpoints.

`transformers` names them ParakeetForCTC, ParakeetForRNNT, ParakeetForTDT (the whole utterance as context) and
NemotronAsrStreamingForRNNT (cache-aware). A checkpoint is a folder of config.json, safetensors, preprocessor settings
and tokenizer.json; its weights are renamed to NeMo's names and take NeMo's way in.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.convert.nemo import rename
from speechstream.errors import SpeechStreamError
from speechstream.nn.checkpoints import Checkpoint, build, first_line
from speechstream.nn.conformer import ConformerConfig
from speechstream.nn.fastconformer import FastConformerConfig
from speechstream.nn.transducer import JoinerConfig, PredictorConfig

LOOKAHEADS = (
    13,
    6,
    1,
    0,
)  # of the released streaming checkpoints, where the processor does not say

NEMO_NAMES = (  # pattern of the port, NeMo's name
    (
        r"^encoder\.subsampling\.layers\.(\d+)\.depthwise_conv",
        lambda m: f"encoder.pre_encode.conv.{3 * int(m[1]) + 2}",
    ),
    (
        r"^encoder\.subsampling\.layers\.(\d+)\.pointwise_conv",
        lambda m: f"encoder.pre_encode.conv.{3 * int(m[1]) + 3}",
    ),
    (r"^encoder\.subsampling\.conv_in\.", "encoder.pre_encode.conv.0."),
    (r"^encoder\.subsampling\.layers\.", "encoder.pre_encode.conv."),
    (r"^encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
    (r"\.conv\.norm\.", ".conv.batch_norm."),
    (r"\.self_attn\.([qkv])_proj\.", r".self_attn.linear_\1."),
    (r"\.self_attn\.o_proj\.", ".self_attn.linear_out."),
    (r"\.self_attn\.relative_k_proj\.", ".self_attn.linear_pos."),
    (r"\.self_attn\.bias_([uv])$", r".self_attn.pos_bias_\1"),
    (r"^ctc_head\.", "decoder.decoder_layers.0."),
    (r"^decoder\.embedding\.", "decoder.prediction.embed."),
    (r"^decoder\.lstm\.", "decoder.prediction.dec_rnn.lstm."),
    (r"^decoder\.decoder_projector\.", "joint.pred."),
    (r"^encoder_projector\.", "joint.enc."),
    (r"^joint\.head\.", "joint.joint_net.2."),
)


def load_parakeet(folder: str | Path) -> Checkpoint:
    """Read a checkpoint folder. Raises SpeechStreamError for what is not one, is damaged, or is not supported."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        model = build(
            network_config(config, _lookaheads(folder)), rename(nemo_names(_weights(folder)))
        )
        return Checkpoint(
            model, _features(folder, config), _tokens(folder, model.config.vocab), None
        )
    except FileNotFoundError as error:
        name = Path(error.filename or "model.safetensors").name  # safetensors does not say which
        raise SpeechStreamError(
            f"{folder}: no {name} there, so this is not a Hugging Face checkpoint folder"
        ) from error
    except (
        json.JSONDecodeError,
        UnicodeDecodeError,
        SafetensorError,
        RecursionError,
        OSError,
    ) as error:
        raise SpeechStreamError(f"{folder}: a damaged file ({first_line(error)})") from error
    except ValueError as error:
        raise SpeechStreamError(f"{folder}: {first_line(error)}") from error
    except (
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        MemoryError,
    ) as error:
        raise SpeechStreamError(
            f"{folder}: the configuration lacks or misstates {first_line(error)}; expected that of "
            f"a Parakeet or Nemotron streaming recogniser"
        ) from error


def network_config(c: dict, lookaheads: tuple[int, ...]) -> FastConformerConfig:
    """The port's config.json as ours."""
    kind, e = c["model_type"], c["encoder_config"]
    if kind not in ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt", "nemotron_asr_streaming"):
        raise ValueError(
            f"its model type is {kind!r}; supported are parakeet_ctc, parakeet_rnnt, parakeet_tdt and "
            f"nemotron_asr_streaming"
        )
    streaming = kind == "nemotron_asr_streaming"
    if (
        e.get("attention_bias", True) != e.get("convolution_bias", True)
        or e.get("hidden_act", "silu") != "silu"
    ):
        raise ValueError(
            "its encoder mixes layers with and without bias, or has another activation than silu"
        )
    if (e.get("subsampling_conv_kernel_size", 3), e.get("subsampling_conv_stride", 2)) != (3, 2):
        raise ValueError(
            "its encoder subsamples with other convolutions than of width 3 and stride 2"
        )
    encoder = ConformerConfig(
        features=e["num_mel_bins"],
        dim=e["hidden_size"],
        layers=e["num_hidden_layers"],
        heads=e["num_attention_heads"],
        ff_dim=e["intermediate_size"],
        kernel=e["conv_kernel_size"],
        subsampling=e["subsampling_factor"],
        subsampling_channels=e["subsampling_conv_channels"],
        left=e["sliding_window"] - 1 if streaming else None,
        lookaheads=lookaheads if streaming else (0,),
        causal=streaming,
        position="relative",
        conv_norm="layer_norm" if streaming else "batch_norm",
        bias=e.get("attention_bias", True),
        scale_input=e.get("scale_input", True),
        dropout=e.get("dropout", 0.1),
    )
    vocab = c["vocab_size"] - 1
    blank = c["pad_token_id"] if kind == "parakeet_ctc" else c["blank_token_id"]
    if blank != vocab:
        raise ValueError(f"its blank has the id {blank}, supported is the last one, {vocab}")
    if kind == "parakeet_ctc":
        return FastConformerConfig(encoder, vocab, ctc=True)
    dim = c["decoder_hidden_size"]
    durations = tuple(c["durations"]) if kind == "parakeet_tdt" else ()
    return FastConformerConfig(
        encoder,
        vocab,
        False,
        PredictorConfig(vocab, dim, layers=c["num_decoder_layers"]),
        JoinerConfig(vocab, encoder.dim, dim, dim, c.get("hidden_act", "relu"), durations),
    )


def nemo_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The port's state dict under NeMo's names."""
    out = {}
    for key, value in weights.items():
        for pattern, name in NEMO_NAMES:
            key = re.sub(pattern, name, key, count=1)
        out[key] = value
    return out


def _weights(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    weights = {}
    for name in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        if Path(name).name != name:
            raise ValueError(f"its index points outside the folder: {name!r}")
        weights |= load_file(folder / name)
    return weights


def _settings(folder: Path) -> dict:
    """The processor's settings, wherever this version of transformers kept them."""
    found = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            read = json.loads((folder / name).read_text())
            found |= read | read.get("feature_extractor", {})
    return found


def _lookaheads(folder: Path) -> tuple[int, ...]:
    s = _settings(folder)
    rights = s.get("supported_num_lookahead_tokens") or LOOKAHEADS
    first = s.get("default_num_lookahead_tokens", rights[0])
    return tuple(sorted(rights, key=lambda r: r != first))


def _features(folder: Path, config: dict) -> NemoMelConfig:
    s = _settings(folder)
    return NemoMelConfig(
        s.get("feature_size", config["encoder_config"]["num_mel_bins"]),
        s.get("sampling_rate", 16000),
        s.get("win_length", 400),
        s.get("hop_length", 160),
        s.get("n_fft", 512),
        s.get("preemphasis", 0.97) or 0.0,
        normalize="none" if config["model_type"] == "nemotron_asr_streaming" else "per_feature",
    )


def _tokens(folder: Path, vocab: int) -> tuple[str, ...]:
    """The tokens by id from tokenizer.json; ids without an entry are named by their number."""
    if not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(2, "no such file", str(folder / "tokenizer.json"))
    read = json.loads((folder / "tokenizer.json").read_text())
    entries = read["model"]["vocab"]
    pairs = (
        entries.items() if isinstance(entries, dict) else ((e[0], i) for i, e in enumerate(entries))
    )
    by_id = {i: token for token, i in pairs} | {
        t["id"]: t["content"] for t in read.get("added_tokens", [])
    }
    if not all(isinstance(token, str) for token in by_id.values()):
        raise ValueError("its tokenizer.json has tokens that are no text")
    return tuple(by_id.get(i, f"<{i}>") for i in range(vocab))
