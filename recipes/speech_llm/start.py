"""A speech LLM to begin with: a causal Whisper's encoder and CTC head, a language model with a compact vocabulary, the rest new."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.speech_llm.vocabulary import Compact
from speechstream import bundle
from speechstream.convert.llm import load_llm
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.speech_llm import SpeechLlm
from speechstream.nn.speech_llm_config import SoundConfig, SpeechLlmConfig
from speechstream.nn.whisper import Whisper


def read_compact(vocabulary: Path, llm: Path) -> Compact:
    return Compact(vocabulary, Tokenizer(load_llm(llm).tokenizer))


@torch.no_grad()
def begin(whisper: Path, llm: Path, ids: list[int], sizes: dict[str, Any]) -> SpeechLlm:
    """The network with frozen weights, but for trunk, heads and joint, which are drawn. sizes: of `SpeechLlmConfig`."""
    heard, said = read_whisper(bundle.load(whisper)), load_llm(llm)
    w = heard.config
    text = dataclasses.replace(said.config, vocab_size=len(ids), tied=True)
    sound = SoundConfig(w.n_mels, w.dim, w.heads, w.encoder_layers, w.positions, w.left_context)
    own = {"ctc_dim": w.ctc_dim, "ctc_blocks": w.ctc_blocks} if w.ctc_blocks else {}
    model = SpeechLlm(SpeechLlmConfig(sound, text, **{**own, **sizes}))
    model.requires_grad_(False)
    _take_sound(model, heard)
    state = {}
    for name in model.reader.state_dict():
        values = torch.from_numpy(said.values(name))
        state[name] = values[torch.tensor(ids)] if "embed_tokens" in name else values
    model.reader.load_state_dict(state)
    for part in (model.hearing.trunk, model.hearing.heads, model.joint):
        part.requires_grad_(True)
    return model


def _take_sound(model: SpeechLlm, heard: Whisper) -> None:
    model.hearing.encoder.load_state_dict(heard.encoder.state_dict())
    if model.hearing.pieces is not None:
        known = model.hearing.pieces.state_dict()
        head: dict[str, Tensor] = heard.ctc.state_dict()  # type: ignore[union-attr]
        model.hearing.pieces.load_state_dict({n: head[n] for n in known})
