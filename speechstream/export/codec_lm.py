"""A codec language model as a bundle that `speechstream.tts.codec_lm` runs without torch.

`frames.onnx`: one frame of each stream, the fields of `speechstream.nn.codec_lm.Frame` and of the state to `codes` (B,
levels), `hazards` (B, candidates, subframes) and the new fields. `text.onnx` and `codec.onnx` are those of the
block-wise voice that taught it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from speechstream import bundle
from speechstream.config import read
from speechstream.errors import SpeechStreamError
from speechstream.export.onnx import describe, trace_step
from speechstream.export.quantize import halve_constants
from speechstream.nn.codec_lm import CodecLm, Frame
from speechstream.nn.codec_lm_config import LOG_DURATION
from speechstream.state import flatten
from speechstream.tts.blockwise.acoustic import ARCHITECTURE as TEACHER, VoiceConfig
from speechstream.tts.codec_lm.network import (
    ARCHITECTURE,
    CODEC,
    FRAMES,
    TEXT,
    CodecLmVoiceConfig,
    Sampling,
)
from speechstream.tts.codec_lm.pointer import CANDIDATES

BLOCKS = (2, 4, 8)  # codec frames of a stream's first blocks, and of all that follow


def frames_graph(model: CodecLm) -> onnx.ModelProto:
    """One frame of each stream."""
    model, c, batch = model.eval(), model.config, 2

    def step(
        text: Tensor,
        elapsed: Tensor,
        before: Tensor,
        ahead: Tensor,
        lasted: Tensor,
        noise: Tensor,
        state: Any,
    ) -> tuple[Tensor, Tensor, Any]:
        return model.step(Frame(text, elapsed, before, ahead, lasted, noise), state)

    inputs = {
        "text": torch.zeros(batch, c.subframes, c.row_dim),
        "elapsed": torch.ones(batch, c.subframes, dtype=torch.int64),
        "before": torch.zeros(batch, c.levels, dtype=torch.int64),
        "ahead": torch.zeros(batch, CANDIDATES, c.row_dim),
        "lasted": torch.ones(batch, dtype=torch.int64),
        "noise": torch.zeros(batch, c.levels, c.codebook_size),
    }
    state = model.init_state(batch)
    dynamic = {n: {0: "batch"} for n in [*inputs, *(f"state.{n}" for n in flatten(state))]}
    graph = trace_step(model, step, inputs, state, ["codes", "hazards"], dynamic)
    describe(graph, {"architecture": ARCHITECTURE, "graph": "frames"}, model.init_state(1))
    return graph


def export_codec_lm(
    model: CodecLm,
    teacher: bundle.Bundle,
    target: str | Path,
    card: dict[str, Any],
    speaker: int = 0,
    sampling: Sampling | None = None,
    blocks: tuple[int, ...] = BLOCKS,
) -> bundle.Bundle:
    """Write a bundle that `Synthesizer.load` opens. teacher: the bundle of the block-wise voice whose `speaker` taught.

    Weights are float16 on disk. Raises SpeechStreamError where the teacher's bundle is of something else.
    """
    if teacher.architecture != TEACHER:
        raise SpeechStreamError(
            f"{teacher.path} is of {teacher.architecture}; a {TEACHER} teaches a {ARCHITECTURE}"
        )
    about, c, target = read(VoiceConfig, teacher.config), model.config, Path(target)
    if c.row_dim != about.model["dim"] + LOG_DURATION:
        raise SpeechStreamError(
            f"the model is told {c.row_dim} numbers of a phoneme, which is not what {teacher.path} says of one"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name in (TEXT, CODEC):
        shutil.copyfile(teacher.file(name), target / name)
    onnx.save(halve_constants(frames_graph(model)), target / FRAMES)
    sampling = sampling or Sampling()
    one = teacher.config["speakers"][speaker]
    config = {
        "sample_rate": about.sample_rate,
        "frame_size": about.frame_size,
        "subframes": c.subframes,
        "rows": c.row_dim,
        "levels": c.levels,
        "codebook_size": c.codebook_size,
        "symbols": about.symbols,
        "speakers": [one],
        "text_speakers": [speaker],
        "blocks": list(blocks),
        "sampling": {
            "temperature": sampling.temperature,
            "pace": sampling.pace,
            "seed": sampling.seed,
        },
        "language": about.language,
        "model": c.to_dict(),
    }
    read(CodecLmVoiceConfig, config)
    return bundle.write(target, "tts", ARCHITECTURE, config, card, [TEXT, FRAMES, CODEC])
