"""Import the Hugging Face ports of NVIDIA's FastConformer checkpoints.

`transformers` names them ParakeetForCTC, ParakeetForRNNT, ParakeetForTDT (the whole utterance as context) and
NemotronAsrStreamingForRNNT (cache-aware). A checkpoint is a folder of config.json, safetensors, preprocessor settings
and tokenizer.json; its weights are renamed to NeMo's names and take NeMo's way in.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.config import Section, read_value
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
        config = Section(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        model = build(
            network_config(config, _lookaheads(folder)), rename(nemo_names(_weights(folder)))
        )
        return Checkpoint(
            model, _features(folder, config), _tokens(folder, model.config.vocab_size), None
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
        raise SpeechStreamError(
            f"{folder} is not supported, expected a Parakeet or Nemotron streaming recogniser: "
            f"{first_line(error)}"
        ) from error


def network_config(c: Section, lookaheads: tuple[int, ...]) -> FastConformerConfig:
    """The port's config.json as ours."""
    kind, e = c.text("model_type"), c.section("encoder_config")
    if kind not in ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt", "nemotron_asr_streaming"):
        raise ValueError(
            f"its model type is {kind!r}; supported are parakeet_ctc, parakeet_rnnt, parakeet_tdt and "
            f"nemotron_asr_streaming"
        )
    streaming = kind == "nemotron_asr_streaming"
    if (
        e.flag("attention_bias", True) != e.flag("convolution_bias", True)
        or e.text("hidden_act", "silu") != "silu"
    ):
        raise ValueError(
            "its encoder mixes layers with and without bias, or has another activation than silu"
        )
    convolution = (
        e.integer("subsampling_conv_kernel_size", 3),
        e.integer("subsampling_conv_stride", 2),
    )
    if convolution != (3, 2):
        raise ValueError(
            "its encoder subsamples with other convolutions than of width 3 and stride 2"
        )
    encoder = ConformerConfig(
        n_mels=e.integer("num_mel_bins"),
        dim=e.integer("hidden_size"),
        layers=e.integer("num_hidden_layers"),
        heads=e.integer("num_attention_heads"),
        ff_dim=e.integer("intermediate_size"),
        kernel=e.integer("conv_kernel_size"),
        subsampling=e.integer("subsampling_factor"),
        subsampling_channels=e.integer("subsampling_conv_channels"),
        left_context=e.integer("sliding_window") - 1 if streaming else None,
        lookaheads=lookaheads if streaming else (0,),
        causal=streaming,
        position="relative",
        conv_norm="layer_norm" if streaming else "batch_norm",
        bias=e.flag("attention_bias", True),
        scale_input=e.flag("scale_input", True),
        dropout=e.number("dropout", 0.1),
    )
    vocab = c.integer("vocab_size") - 1
    blank = c.integer("pad_token_id" if kind == "parakeet_ctc" else "blank_token_id")
    if blank != vocab:
        raise ValueError(f"its blank has the id {blank}, supported is the last one, {vocab}")
    if kind == "parakeet_ctc":
        return FastConformerConfig(encoder, vocab, ctc=True)
    dim = c.integer("decoder_hidden_size")
    durations = c.integers("durations") if kind == "parakeet_tdt" else ()
    return FastConformerConfig(
        encoder,
        vocab,
        False,
        PredictorConfig(vocab, dim, layers=c.integer("num_decoder_layers")),
        JoinerConfig(vocab, encoder.dim, dim, dim, c.text("hidden_act", "relu"), durations),
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
    found = Section(json.loads(index.read_text(encoding="utf-8")), index.name)
    names = read_value(dict[str, str], found.raw("weight_map"), "weight_map")
    weights = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise ValueError(f"its index points outside the folder: {name!r}")
        weights |= load_file(folder / name)
    return weights


def _settings(folder: Path) -> Section:
    """The processor's settings, wherever this version of transformers kept them."""
    found = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            read = json.loads((folder / name).read_text(encoding="utf-8"))
            found |= read_value(dict[str, Any], read, name)
            extractor = Section(read, name).raw("feature_extractor")
            found |= read_value(dict[str, Any], extractor or {}, f"{name}.feature_extractor")
    return Section(found, "the processor's settings")


def _lookaheads(folder: Path) -> tuple[int, ...]:
    s = _settings(folder)
    rights = s.integers("supported_num_lookahead_tokens", ()) or LOOKAHEADS
    first = s.integer("default_num_lookahead_tokens", rights[0])
    return tuple(sorted(rights, key=lambda r: r != first))


def _features(folder: Path, config: Section) -> NemoMelConfig:
    s = _settings(folder)
    return NemoMelConfig(
        s.integer("feature_size", config.section("encoder_config").integer("num_mel_bins")),
        s.integer("sampling_rate", 16000),
        s.integer("win_length", 400),
        s.integer("hop_length", 160),
        s.integer("n_fft", 512),
        0.0 if s.raw("preemphasis", 0.97) is None else s.number("preemphasis", 0.97),
        normalize="none"
        if config.text("model_type") == "nemotron_asr_streaming"
        else "per_feature",
    )


def _tokens(folder: Path, vocab: int) -> tuple[str, ...]:
    """The tokens by id from tokenizer.json; ids without an entry are named by their number."""
    if not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(2, "no such file", str(folder / "tokenizer.json"))
    read = Section(
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")), "tokenizer.json"
    )
    entries = read.section("model").raw("vocab")
    if isinstance(entries, dict):  # BPE: token to id; Unigram: [token, score] by id
        by_id = {i: t for t, i in read_value(dict[str, int], entries, "model.vocab").items()}
    else:
        scored = read_value(tuple[tuple[str, float], ...], entries, "model.vocab")
        by_id = {i: token for i, (token, _) in enumerate(scored)}
    for n, added in enumerate(read.raw("added_tokens") or ()):
        one = Section(added, f"tokenizer.json.added_tokens[{n}]")
        by_id[one.integer("id")] = one.text("content")
    return tuple(by_id.get(i, f"<{i}>") for i in range(vocab))
