"""A language model as the text model of incremental decoding: sound as tokens before the text, no attention to see."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="graphs are written with onnx")
pytest.importorskip("tokenizers", reason="needs the [llm] extra")

sys.path.insert(0, str(Path(__file__).parents[1] / "lm"))
import small

from speechstream.asr.incremental import Draft, Hypothesis, IncrementalDecoder
from speechstream.asr.text_model import TextModel
from speechstream.lm.cache import CacheConfig
from speechstream.lm.model import LanguageModel
from speechstream.runtime.requests import drive

PROMPT, END = [90], 80  # ids from the end on are no text


class Letters:
    """Every token is a letter, a word is two of them."""

    prompt, end = PROMPT, END
    pieces = [bytes([i + 32]) for i in range(END)]

    def text(self, ids: list[int]) -> str:
        return b"".join(self.pieces[i] for i in ids).decode()

    def words(self, ids: list[int]) -> list[tuple[int, int]]:
        return [(i, min(i + 2, len(ids))) for i in range(0, len(ids), 2)]


@dataclass(frozen=True)
class Said:
    logits: np.ndarray
    alignment: None = None
    hidden: None = None


@dataclass(frozen=True)
class Reading:
    """A request: tokens after a state of the language model."""

    model: HeardModel
    tokens: list[list[int]]
    state: Any
    first: int
    key = None

    def run(self) -> tuple[Said, Any]:
        lm = self.model.lm
        found = lm.propose(self.tokens, self.state)
        state = lm.accept(found, [len(self.tokens[0])])
        return Said(np.stack([found.logits[0][self.first :]])), state

    def run_many(self, requests: Any) -> list[Any]:
        return [r.run() for r in requests]


@dataclass(frozen=True)
class HeardModel:
    """A language model that has read one token for each frame of sound."""

    lm: LanguageModel
    sound: list[int]
    confirmed: int
    checked: int
    heads: None = None

    @property
    def frames(self) -> int:
        return len(self.sound)

    def has_news(self, final: bool) -> bool:
        return final or self.confirmed > self.checked

    def step(self, tokens: list[list[int]], state: Any, first: int = 0) -> Reading:
        return Reading(self, tokens, state, first)

    def length(self, state: Any) -> int:
        return int(state.tokens[0]) - self.frames

    def truncate(self, state: Any, tokens: int) -> Any:
        if tokens == 0:  # what was heard may be other sound than when the state was made
            return self.lm.step([self.sound], self.lm.init_state())[1]
        return self.lm.rollback(state, self.length(state) - tokens)

    def select(self, state: Any, rows: Any) -> Any:
        return self.lm.select(state, rows)


class Agreed(IncrementalDecoder):
    """Where no attention is seen, a word stands when two hypotheses in turn hold it (Liu et al. 2020)."""

    def __init__(self) -> None:
        super().__init__(Letters())
        self.last: list[int] = []

    def accept(
        self, d: Draft, n: int, token: int, said: Any, at: int, model: TextModel, final: bool
    ) -> bool:
        return token != END and len(d.tokens) < model.frames // 2

    def settled(self, d: Draft, model: TextModel) -> int:
        same = 0
        for a, b in zip(self.last, d.tokens):
            if a != b:
                break
            same += 1
        self.last = list(d.tokens)
        return same - same % 2


@pytest.fixture(scope="module")
def lm():
    return small.as_graph(small.checkpoint(), CacheConfig(500, 4, 100))


def greedy(lm, sound, written, most):
    """Straight from the start, one token at a time."""
    tokens = list(written)
    logits, state = lm.step([[*sound, *PROMPT, *tokens]], lm.init_state())
    while len(tokens) < most:
        token = int(logits[0, : END + 1].argmax())
        if token == END:
            break
        tokens.append(token)
        logits, state = lm.step([[token]], state)
    return tokens


def test_a_language_model_decodes_incrementally(lm):
    written = [decode(lm, seed) for seed in range(6)]
    assert sum(written) > 60  # one begins with the end


def decode(lm, seed):
    rng = np.random.default_rng(seed)
    sound = rng.integers(0, END, 60).tolist()
    decoder, heard, checked, stable = Agreed(), 0, 0, ()
    h = decoder.init_state(lm.step([sound[:0]], lm.init_state())[1])
    while heard < len(sound):
        heard = min(heard + int(rng.integers(2, 12)), len(sound))
        final = heard == len(sound)
        model = HeardModel(lm, sound[:heard], heard, checked)
        before = h
        h = drive(decoder.extend(h, model, final))
        checked = heard
        assert h.tokens[: len(stable)] == stable  # what stands is never retracted
        stable = h.tokens[: h.stable]
        # whatever was drafted, the rest is what the model would write after what stood
        looping = decoder.loops(list(h.tokens[:-1]), h.tokens[-1]) if h.tokens else False
        expected = greedy(lm, sound[:heard], before.tokens[: before.stable], heard // 2)
        assert looping or list(h.tokens) == expected[: len(h.tokens)]
        assert isinstance(h, Hypothesis) and all(len(row) == 0 for row in h.rows)
    assert h.stable == len(h.tokens)
    assert decoder.text(h) == (Letters().text(list(h.tokens)), "")
    return h.stable
