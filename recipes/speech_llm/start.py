"""A speech LLM to begin with: a causal Whisper's encoder and CTC head, a language model with a compact vocabulary, the rest new."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.speech_llm.vocabulary import Compact
from speechstream import bundle
from speechstream.asr.biasing import byte_encoder
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.convert.llm import load_llm
from speechstream.lm.tokens import Tokenizer
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.speech_llm import SpeechLlm
from speechstream.nn.speech_llm_config import SoundConfig, SpeechLlmConfig
from speechstream.nn.whisper import Whisper

RESIDUAL = 0.2  # how large the values are that go into the upper blocks of Whisper's decoder


def read_compact(vocabulary: Path, llm: Path) -> Compact:
    return Compact(vocabulary, Tokenizer(load_llm(llm).tokenizer))


@torch.no_grad()
def begin(whisper: Path, llm: Path, compact: Compact, sizes: dict[str, Any]) -> SpeechLlm:
    """The network with frozen weights; trunk and heads are drawn, the joint's blocks are Whisper's decoder's.

    sizes: of `SpeechLlmConfig`.
    """
    b = bundle.load(whisper)
    heard, said, ids = read_whisper(b), load_llm(llm), compact.ids
    w = heard.config
    text = dataclasses.replace(said.config, vocab_size=len(ids), tied=True)
    sound = SoundConfig(w.n_mels, w.dim, w.heads, w.encoder_layers, w.positions, w.left_context)
    head = ("ctc_dim", "ctc_blocks", "ctc_vocab_size")
    own = {n: getattr(w, n) for n in head} if w.ctc_blocks else {}
    model = SpeechLlm(SpeechLlmConfig(sound, text, **{**own, **sizes}))
    model.requires_grad_(False)
    _take_sound(model, heard)
    _take_decoder(model, heard)
    _take_pieces(model, heard, Vocabulary(b.file("vocabulary.json")), compact)
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


def _take_decoder(model: SpeechLlm, heard: Whisper) -> None:
    """The last blocks of the decoder, without what they make of the text before: that comes from the language model."""
    joint, memory = model.joint, model.hearing.memory
    kept = heard.decoder.blocks[len(heard.decoder.blocks) - len(joint.blocks) :]
    for n, (block, theirs) in enumerate(zip(joint.blocks, kept)):
        cross = theirs.cross_attn
        for part, taken in (
            (block.ln, theirs.cross_attn_ln),
            (block.query, cross.query),
            (block.out, cross.out),
            (block.mlp_ln, theirs.mlp_ln),
            (block.mlp, theirs.mlp),
            (memory.keys[n], cross.key),
            (memory.values[n], cross.value),
        ):
            part.load_state_dict(taken.state_dict())
    joint.ln.load_state_dict(heard.decoder.ln.state_dict())
    joint.into.weight.fill_(RESIDUAL)
    joint.since.weight.mul_(0.1)


def _take_pieces(
    model: SpeechLlm, heard: Whisper, vocabulary: Vocabulary, compact: Compact
) -> None:
    """A token scores at first as Whisper's own pieces of the same letters do."""
    spell, out = byte_encoder(vocabulary.pieces), model.joint.out
    table = heard.decoder.token_embedding.weight
    for n, piece in enumerate(compact.pieces):
        try:
            ids = spell(piece.decode())
        except UnicodeDecodeError:
            ids = []
        out.weight[n] = table[ids].mean(0) if n and ids else 0.0
    out.bias.zero_()
