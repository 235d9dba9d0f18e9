"""Any network with state as ONNX graphs that need nothing else: `speechstream export`.

The inputs and outputs of a graph are the fields of its state, and its metadata say how it is to be run, so
`engines.graph.Graph` (or forty lines of numpy) runs every one of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from speechstream import bundle
from speechstream.asr.guess import read_pieces
from speechstream.asr.whisper.vocabulary import Stored
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.export.codec import BASIS, codec_graphs
from speechstream.export.fastconformer import (
    ARCHITECTURE,
    describe_model,
    export_fastconformer,
)
from speechstream.export.onnx import describe, export_step
from speechstream.export.quantize import FP32, Weights, quantize_graph
from speechstream.nn.checkpoints import read_fastconformer
from speechstream.nn.configs import STORED_FORM
from speechstream.nn.whisper import DecoderState, EncoderState, Whisper, WhisperConfig
from speechstream.state import flatten
from speechstream.tts.blockwise.acoustic import ARCHITECTURE as VOICE


@dataclass(frozen=True)
class Source:
    """What is exported: the network, and how its graphs are made: with what weights, and with caches in 16 bits or not."""

    architecture: str
    model: nn.Module
    graphs: Callable[[Weights, bool], dict[str, onnx.ModelProto]]
    about: dict[str, Any]
    bundle: bundle.Bundle | None = None


def open_source(path: str | Path) -> Source:
    """A bundle of a recogniser or of a voice, or the folder of a codec (config.json and model.safetensors).

    Raises SpeechStreamError for anything else.
    """
    path = Path(path)
    if not (path / bundle.INDEX).exists() and (path / "config.json").exists():
        return _codec(path)
    b = bundle.load(path)
    if b.architecture == ARCHITECTURE:
        one = read_fastconformer(path)
        if not one.model.config.encoder.streaming:
            raise SpeechStreamError(
                f"the model {path} hears the whole utterance and has no streaming state; a "
                "cache-aware checkpoint can be exported"
            )
        about = describe_model(one)
        return Source(
            ARCHITECTURE,
            one.model,
            lambda weights, half: export_fastconformer(one.model, about, weights, half),
            about,
            b,
        )
    if b.architecture == "causal-whisper":
        from speechstream.nn.checkpoints import read_whisper

        model, about = read_whisper(b), _about_whisper(b)
        return Source(
            b.architecture,
            model,
            lambda weights, half: _quantised(whisper_graphs(model, about), weights),
            about,
            b,
        )
    if b.architecture == "kyutai-stt":
        from speechstream.export.kyutai import export_kyutai, load_model

        network = load_model(b)
        rate = {"features": {"sample_rate": network.config.codec.sample_rate}}
        return Source(
            b.architecture, network, lambda weights, half: export_kyutai(network, weights), rate, b
        )
    if b.architecture == VOICE:
        from speechstream.export.acoustic import describe_voice, read_voice, voice_graphs

        model, codec = read_voice(b)
        about = describe_voice(b.config["speakers"])
        return Source(
            VOICE,
            nn.ModuleDict({"acoustic": model, "codec": codec}),
            lambda weights, half: voice_graphs(model, codec, about, weights),
            about,
            b,
        )
    raise SpeechStreamError(
        f"the bundle {path} holds a {b.architecture}; those of {ARCHITECTURE}, causal-whisper, "
        f"kyutai-stt and {VOICE}, and codecs, can be exported"
    )


def export(
    source: Source, folder: str | Path, weights: Weights = FP32, half: bool = False
) -> dict[str, Path]:
    """Write the graphs into a folder and return their paths by name. That of a FastConformer is a bundle itself.

    half: streams keep keys and values in 16 bits. Raises SpeechStreamError where a graph does not pass onnx.checker, and
    for `half` of another model than a FastConformer.
    """
    if half and source.architecture != ARCHITECTURE:
        raise SpeechStreamError(
            f"caches in 16 bits are for a {ARCHITECTURE}, and this is a {source.architecture}"
        )
    folder, paths = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, graph in source.graphs(weights, half).items():
        try:
            onnx.checker.check_model(graph)
        except onnx.checker.ValidationError as error:
            raise SpeechStreamError(
                f"the graph {name} is not valid: {str(error).splitlines()[0]}"
            ) from error
        paths[name] = folder / f"{name}.onnx"
        paths[name].write_bytes(graph.SerializeToString())
    if source.architecture == ARCHITECTURE:
        b = source.bundle
        (folder / "tokens.json").write_bytes(b.file("tokens.json").read_bytes())
        bundle.write(
            folder,
            b.task,
            b.architecture,
            {**b.config, **asdict(weights)},
            b.card,
            ["tokens.json", *(p.name for p in paths.values())],
        )
    return paths


def whisper_graphs(model: Whisper, about: dict[str, Any]) -> dict[str, onnx.ModelProto]:
    """encoder: mel (B, mels, 2c + 1) to memory_keys, memory_values (B, layers, H, c, Dh) and ctc (B, c // 2, pieces).
    decoder: tokens (B, n), that memory and its mask (B, T) to logits (B, n, vocabulary) and alignment (B, n, T).

    Those inside a bundle leave the cache to their caller and are faster (`export.whisper`); these are pure.
    """
    c, model = model.config, model.eval()

    def encode(mel: Tensor, s: EncoderState) -> tuple:
        features, keys, values = model.encoder.chunk(mel, s)
        n = features.shape[1]
        new = EncoderState(
            torch.cat([s.mel, mel[:, :, :-1]], dim=2)[:, :, -2:],
            torch.cat([s.keys, keys], dim=3)[:, :, :, n:],
            torch.cat([s.values, values], dim=3)[:, :, :, n:],
            s.frames + n,
        )
        return *model.decoder.memory(features), model.ctc_log_probs(features), new

    def decode(
        tokens: Tensor, keys: Tensor, values: Tensor, mask: Tensor, s: DecoderState
    ) -> tuple:
        return model.decoder.step(tokens, s, keys.unbind(1), values.unbind(1), mask)

    memory = torch.randn(2, c.decoder_layers, c.heads, 12, c.dim // c.heads)
    past = torch.randn(2, c.decoder_layers, c.heads, 5, c.dim // c.heads)
    start = model.encoder.init_state(2)
    encoder = export_step(
        model,
        encode,
        {"mel": torch.randn(2, c.n_mels, 33)},
        start,
        ["memory_keys", "memory_values", "ctc"],
        {
            "mel": {0: "batch", 2: "mel_frames"},
            **{f"state.{n}": {0: "batch"} for n in flatten(start)},
        },
    )
    inputs = {
        "tokens": torch.ones(2, 3, dtype=torch.int64),
        "memory_keys": memory,
        "memory_values": memory.clone(),
        "mask": torch.ones(2, 12, dtype=torch.bool),
    }
    axes = {
        "tokens": {0: "batch", 1: "tokens"},
        "memory_keys": {0: "batch", 3: "frames"},
        "memory_values": {0: "batch", 3: "frames"},
        "mask": {0: "batch", 1: "frames"},
        "state.keys": {0: "batch", 3: "past"},
        "state.values": {0: "batch", 3: "past"},
        "state.tokens": {0: "batch"},
    }
    decoder = export_step(
        model,
        decode,
        inputs,
        DecoderState(past, past.clone(), torch.tensor([5, 3])),
        ["logits", "alignment"],
        axes,
    )
    describe(encoder, {**about, "graph": "encoder"}, model.encoder.init_state(1))
    describe(decoder, {**about, "graph": "decoder"}, model.decoder.init_state(1))
    return {"encoder": encoder, "decoder": decoder}


def _about_whisper(b: bundle.Bundle) -> dict[str, Any]:
    try:
        words = read(Stored, json.loads(b.file("vocabulary.json").read_text(encoding="utf-8")))
        return {
            "architecture": b.architecture,
            "tokens": list(words.pieces),
            "prompt": list(words.prompt),
            "end": words.end,
            "ctc_tokens": read_pieces(b.file("ctc.json")),
            "blank": 0,
            "chunks": [4, 8, 16, 32, 64],
            "frame_ms": 20,
            "features": {
                "kind": "whisper",
                "features": read(WhisperConfig, b.config, besides=STORED_FORM).n_mels,
                "sample_rate": 16000,
                "n_fft": 400,
                "hop": 160,
            },
        }
    except ValueError as error:
        raise SpeechStreamError(f"the bundle {b.path} does not fit together: {error}") from error


def _codec(path: Path) -> Source:
    from speechstream.convert.mimi import load_mimi
    from speechstream.nn.small_codec import SmallCodec, SmallCodecConfig

    try:
        data = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if isinstance(data, dict) and {"n_mels", "hop"} <= set(data):
            from safetensors.torch import load_file

            model: nn.Module = SmallCodec(SmallCodecConfig.from_dict(data))
            model.load_state_dict(load_file(path / "model.safetensors"))
        else:
            model = load_mimi(path)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # RuntimeError: torch's
        raise SpeechStreamError(
            f"{path} is neither a bundle nor the folder of a codec: {str(error).splitlines()[0]}"
        ) from error
    return Source(
        "codec", model, lambda weights, half: _quantised(codec_graphs(model), weights, BASIS), {}
    )


def _quantised(
    graphs: dict[str, onnx.ModelProto], weights: Weights, keep: str | None = None
) -> dict[str, onnx.ModelProto]:
    return {name: quantize_graph(graph, weights, keep) for name, graph in graphs.items()}
