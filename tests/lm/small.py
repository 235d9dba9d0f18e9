"""Small random language models: in torch, and the same as a graph."""

from __future__ import annotations

import json

import numpy as np

from speechstream.convert.llm import LlmCheckpoint, shapes
from speechstream.export.llm import llm_graph
from speechstream.lm.cache import CacheConfig
from speechstream.lm.model import LanguageModel
from speechstream.lm.tokens import ChatFormat, Tokenizer
from speechstream.nn.llm_config import KvConfig, LlmConfig, RopeConfig
from speechstream.runtime.session import open_session

CONFIG = LlmConfig(
    vocab_size=96,
    dim=64,
    layers=3,
    heads=4,
    kv_heads=2,
    ff_dim=96,
    context=64,
    rope=RopeConfig(500.0),
)
LETTERS = [chr(c) for c in range(32, 127)]


def tokenizer_json() -> str:
    """One token a letter, and <end>."""
    vocabulary = {letter: i for i, letter in enumerate([*LETTERS, "<end>"])}
    model = {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": None}
    return json.dumps(
        {"version": "1.0", "model": model, "added_tokens": [], "decoder": {"type": "Fuse"}}
    )


def checkpoint(config: LlmConfig = CONFIG, seed: int = 0) -> LlmCheckpoint:
    rng = np.random.default_rng(seed)
    weights = {
        name: (
            rng.normal(1.0 if "norm" in name else 0.0, 0.2, shape)
            if len(shape) == 1
            else rng.normal(0, 1.5 * shape[1] ** -0.5, shape)
        ).astype(np.float32)
        for name, shape in shapes(config).items()
    }
    return LlmCheckpoint(config, frozenset(weights), weights.__getitem__, tokenizer_json())


def as_graph(
    one: LlmCheckpoint,
    cache: CacheConfig | None = None,
    form: str = "fp32",
    chat: ChatFormat = ChatFormat(),
    kv: KvConfig = KvConfig(),
    scales: np.ndarray | None = None,
) -> LanguageModel:
    session = open_session(llm_graph(one, form, kv).SerializeToString())
    return LanguageModel(session, one.config, Tokenizer(one.tokenizer), chat, cache, kv, scales)


def as_torch(one: LlmCheckpoint):
    import torch

    from speechstream.nn.llm import Llm

    model = Llm(one.config)
    model.load_state_dict({n: torch.from_numpy(one.values(n)) for n in one.names}, strict=False)
    return model.eval()
