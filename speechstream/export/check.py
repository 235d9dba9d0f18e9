"""Exported graphs against torch, on real or made-up speech: the largest difference of each output and state field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speechstream.audio.features import LogMel
from speechstream.audio.io import blocks
from speechstream.audio.nemo_mel import NemoMel, NemoMelConfig
from speechstream.audio.resample import Resampler
from speechstream.audio.samples import to_mono
from speechstream.errors import SpeechStreamError
from speechstream.export.conformer import in_order
from speechstream.export.standalone import VOICE, Source
from speechstream.runtime.graph import Graph
from speechstream.state import flatten
from speechstream.tts.blockwise.acoustic import regulate

TOLERANCE = 1e-3  # of fp32 graphs, absolute or relative to the largest value
SECONDS = 8.0  # of each recording that are compared
CODEC_FRAMES = 4  # a step
CLAUSE = 20  # symbols of the text that a voice is checked on


@dataclass(frozen=True)
class Row:
    graph: str
    output: str
    error: float  # largest absolute difference
    largest: float  # absolute value in torch's output
    steps: int


def compare(
    source: Source, paths: Mapping[str, Path], audio: Sequence[str | Path] = ()
) -> list[Row]:
    """Step every graph and its network side by side through each recording (none given: made-up speech).

    Each keeps its own state, so errors may add up as they would in use. Raises SpeechStreamError for unreadable audio.
    """
    graphs = {name: Graph(path) for name, path in paths.items()}
    if source.architecture == VOICE:
        if audio:
            raise SpeechStreamError(
                "a voice is checked on a text, not on a recording: give --check nothing"
            )
        with torch.inference_mode():
            return _voice(source, graphs)
    rate = source.about.get("features", {}).get("sample_rate") or source.model.config.sample_rate
    recordings = [_read(path, rate) for path in audio] or [made_up_speech(SECONDS, rate)]
    run = {
        "fastconformer": _fastconformer,
        "causal-whisper": _whisper,
        "codec": _codec,
        "kyutai-stt": _kyutai,
    }[source.architecture]
    with torch.inference_mode():
        return _merged([row for x in recordings for row in run(source, graphs, x)])


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'graph':10} {'output':24} {'max abs error':>14} {'largest value':>14} {'steps':>6}"]
    lines += [
        f"{r.graph:10} {r.output:24} {r.error:14.2e} {r.largest:14.2e} {r.steps:6}" for r in rows
    ]
    return "\n".join(lines)


def made_up_speech(seconds: float, rate: int) -> np.ndarray:
    """A voice-like sound: harmonics of a gliding pitch in syllables, and noise. float32 (n,), the same each time."""
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 1.3 * t)) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 12)) * (
        0.55 + 0.45 * np.sin(2 * np.pi * 3.1 * t)
    )
    return (0.1 * tone + 0.003 * np.random.default_rng(0).standard_normal(len(t))).astype(
        np.float32
    )


def _read(path: str | Path, rate: int) -> np.ndarray:
    with blocks(path) as source:
        x = np.concatenate([to_mono(b) for b in source])[: round(SECONDS * source.rate)]
        return Resampler(source.rate, rate)(x[None])[0] if source.rate != rate else x


def _side_by_side(
    graph: Graph,
    step: Callable,
    feeds: Iterable[dict[str, np.ndarray]],
    state: Any,
    seen: Callable[[dict], None] = lambda out: None,
    in_order: Callable[[dict], dict] = lambda state: state,
) -> list[Row]:
    """step(*torch inputs, state) -> (*outputs, state) against the graph, whose state `in_order` makes comparable."""
    name, ours = graph.about["graph"], graph.init_state(1)
    errors: dict[str, list[float]] = {}
    count = 0
    for feed in feeds:
        out, ours = graph.step(feed, ours)
        inputs = [torch.from_numpy(a) for a in feed.values()]
        theirs = step(*inputs, state) if state is not None else step(*inputs)
        theirs = list(theirs) if isinstance(theirs, tuple) else [theirs]
        state = theirs.pop() if state is not None else None
        pairs = dict(zip(graph.outputs, theirs)) | {
            f"state {n}": a for n, a in (flatten(state) if state is not None else {}).items()
        }
        values = out | {
            f"state {n}": a
            for n, a in (in_order(flatten(ours)) if ours is not None else {}).items()
        }
        for key, a in pairs.items():
            a, b = a.double().numpy(), values[key].astype(np.float64)
            real = errors.setdefault(key, [0.0, 0.0])
            real[0] = float(np.maximum(real[0], np.abs(a - b).max(initial=0)))
            real[1] = max(real[1], float(np.abs(a).max(initial=0)))
        seen(dict(zip(graph.outputs, theirs)))
        count += 1
    return [Row(name, key, error, largest, count) for key, (error, largest) in errors.items()]


def _fastconformer(source: Source, graphs: dict[str, Graph], x: np.ndarray) -> list[Row]:
    model, about, rows = source.model, source.about, []
    mel = NemoMel(NemoMelConfig(**about["features"]))(x[None])[0].T
    encoded: list[torch.Tensor] = []

    def step(features, lengths, state):
        y, state = model.encoder.step(features, state, lengths)
        return (y, model.ctc(y).log_softmax(-1), state) if model.ctc is not None else (y, state)

    for chunk in about["chunks"]:
        size = chunk * about["subsampling"]
        heard = np.concatenate([np.zeros((about["lead"], mel.shape[1]), np.float32), mel])
        whole = heard[: len(heard) // size * size].reshape(-1, size, mel.shape[1])
        feeds = ({"features": b[None], "lengths": np.array([size])} for b in whole)
        rows += _side_by_side(
            graphs["encoder"],
            step,
            feeds,
            model.encoder.init_state(1),
            lambda out: encoded.append(out["encoded"]),
            lambda state: in_order(state, model.config.encoder),
        )
    if model.joiner is None:
        return rows
    tokens = np.random.default_rng(0).integers(0, about["blank"], 50)
    predicted: list[torch.Tensor] = []
    rows += _side_by_side(
        graphs["predictor"],
        model.predictor.step,
        ({"tokens": t[None]} for t in [np.int64(about["blank"]), *tokens]),
        model.predictor.init_state(1),
        lambda out: predicted.append(out["predicted"]),
    )
    frames = torch.cat(encoded, 1)[0]
    pairs = (
        {"encoded": frames[i % len(frames)][None].numpy(), "predicted": g.numpy()}
        for i, g in enumerate(predicted)
    )
    return rows + _side_by_side(graphs["joiner"], model.joiner, pairs, None)


def _merged(rows: list[Row]) -> list[Row]:
    """One row for each output: the worst of all chunks and recordings."""
    out: dict[tuple[str, str], Row] = {}
    for r in rows:
        old = out.get((r.graph, r.output), r)
        steps = r.steps if old is r else old.steps + r.steps
        out[r.graph, r.output] = Row(
            r.graph,
            r.output,
            float(np.maximum(old.error, r.error)),
            max(old.largest, r.largest),
            steps,
        )
    return list(out.values())


def _whisper(source: Source, graphs: dict[str, Graph], x: np.ndarray) -> list[Row]:
    model, chunk = source.model, 16
    features = LogMel()
    mel = features.step(x[None], features.init_state())[0]
    memory: list[tuple] = []

    def encode(block, state):
        y, state = model.encoder.step(block, state)
        memory.append(model.decoder.memory(y))
        return *memory[-1], model.ctc_log_probs(y), state

    feeds = (
        {"mel": np.ascontiguousarray(mel[:, :, 2 * at : 2 * (at + chunk) + 1])}
        for at in range(0, (mel.shape[2] - 1) // 2 - chunk, chunk)
    )
    rows = _side_by_side(graphs["encoder"], encode, feeds, model.encoder.init_state(1))
    keys, values = (torch.cat(parts, 3).numpy() for parts in zip(*memory))
    mask = np.ones((1, keys.shape[3]), bool)

    def decode(tokens, k, v, mask, state):
        return model.decoder.step(tokens, state, k.unbind(1), v.unbind(1), mask)

    prompt = np.array([source.about["prompt"]], np.int64)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size - 1, (8, 1, 1))
    rows += _side_by_side(
        graphs["decoder"],
        decode,
        (
            {"tokens": t, "memory_keys": keys, "memory_values": values, "mask": mask}
            for t in [prompt, *tokens]
        ),
        model.decoder.init_state(1),
    )
    return rows


def _voice(source: Source, graphs: dict[str, Graph]) -> list[Row]:
    """One clause, its codes in blocks of two frames and more."""
    model, codec = source.model["acoustic"], source.model["codec"]
    symbols = np.random.default_rng(0).integers(1, len(source.about["symbols"]), (1, CLAUSE))
    said: list[torch.Tensor] = []
    rows = _side_by_side(
        graphs["text"],
        model.text,
        [{"ids": symbols, "speaker": np.zeros(1, np.int64)}],
        None,
        lambda out: said.append(torch.cat([out["encodings"], out["prosody"]], 2)[0]),
    )
    heard, sub = said[0].numpy(), model.config.subframes
    counts = np.full(CLAUSE, sub)
    index, scalars = regulate(counts, *heard[:, -2:].T)
    frames = np.concatenate([heard[index, :-3], scalars], 1).reshape(1, CLAUSE, sub, -1)
    blocks = [frames[:, a:b] for a, b in zip((0, 2, 6, 14), (2, 6, 14, CLAUSE))]
    codes: list[torch.Tensor] = []
    rows += _side_by_side(
        graphs["acoustic"],
        model.step,
        ({"frames": b} for b in blocks),
        model.init_state(1),
        lambda out: codes.append(out["codes"]),
    )
    return rows + _side_by_side(
        graphs["codec"],
        codec.decode_step,
        ({"codes": c.numpy()} for c in codes),
        codec.init_decoder_state(1),
    )


def _kyutai(source: Source, graphs: dict[str, Graph], x: np.ndarray) -> list[Row]:
    """The codes of the sound, and what the language model makes of them and of tokens by chance."""
    from speechstream.export.kyutai import Reading

    model, size = source.model, source.model.config.codec.frame_size
    steps = len(x) // (size * CODEC_FRAMES)
    sound = x[: steps * CODEC_FRAMES * size].reshape(steps, 1, 1, CODEC_FRAMES, size)
    heard: list[torch.Tensor] = []

    def encode(audio, state):
        codes, state = model.hear(audio.flatten(2), state)
        return codes.transpose(1, 2), state

    rows = _side_by_side(
        graphs["encoder"],
        encode,
        ({"audio": np.ascontiguousarray(block)} for block in sound),
        model.codec.init_encoder_state(1),
        lambda out: heard.append(out["codes"]),
    )
    codes = torch.cat(heard, 2).transpose(1, 2).numpy()
    tokens = np.random.default_rng(0).integers(0, model.config.out_size, (1, codes.shape[1]))
    feeds = (
        {"tokens": tokens[:, i : i + 1], "codes": np.ascontiguousarray(codes[:, i : i + 1])}
        for i in range(codes.shape[1])
    )
    return rows + _side_by_side(graphs["text"], Reading(model).step, feeds, model.init_text(1))


def _codec(source: Source, graphs: dict[str, Graph], x: np.ndarray) -> list[Row]:
    model, size = source.model, source.model.config.frame_size
    steps = len(x) // (size * CODEC_FRAMES)
    sound = np.repeat(x[None, : steps * CODEC_FRAMES * size], model.channels, 0)[None]
    codes: list[torch.Tensor] = []

    def encode(audio, state):
        return model.encode_step(audio.flatten(2), state)

    rows = _side_by_side(
        graphs["encoder"],
        encode,
        (
            {"audio": np.ascontiguousarray(part).reshape(1, model.channels, CODEC_FRAMES, size)}
            for part in np.split(sound, steps, axis=2)
        ),
        model.init_encoder_state(1),
        lambda out: codes.append(out["codes"]),
    )
    return rows + _side_by_side(
        graphs["decoder"],
        model.decode_step,
        ({"codes": c.numpy()} for c in codes),
        model.init_decoder_state(1),
    )
