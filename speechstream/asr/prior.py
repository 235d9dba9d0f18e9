"""A language model's opinion on what a decoder considers: the hypotheses of a beam are weighed again.

Asked where the decoder was in doubt, and only there: texts that agree cost nothing. What it was worth, and what it cost, is in
`recipes/speech_llm/README.md`; `rescore.py` there chose the weight.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from speechstream.asr.search import log_softmax
from speechstream.lm.model import LanguageModel

WEIGHT = 0.2  # of its log-probabilities, beside the decoder's
MOST = 6  # hypotheses that it reads
LONGEST = 250  # tokens of a text, the last
STARTS = ("<|endoftext|>", "<|begin_of_text|>", "<s>")  # what texts were divided by


@dataclass(frozen=True)
class Prior:
    """weight: of the language model's log-probability of a text, beside the decoder's of its tokens."""

    model: LanguageModel
    weight: float = WEIGHT

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 10:
            raise ValueError(f"the weight of a prior is above 0 and at most 10; got {self.weight}")

    @classmethod
    def load(cls, path: str | os.PathLike[str], weight: float = WEIGHT, threads: int = 1) -> Prior:
        """Of a language model's bundle. Raises SpeechStreamError for what is none."""
        return cls(LanguageModel.load(path, threads=threads), weight)

    def judge(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each text."""
        tokenizer = self.model.tokenizer
        start = [i for i in map(tokenizer.id, STARTS) if i is not None][:1]
        ids = [[*start, *tokenizer.encode(" " + t)][-LONGEST:] for t in texts]
        found = [0.0] * len(ids)
        asked = [n for n, i in enumerate(ids) if len(i) > 1]
        if asked:
            state = self.model.init_state(len(asked))
            said = self.model.propose([ids[n][:-1] for n in asked], state).logits
            for n, logits in zip(asked, said):
                scores = log_softmax(logits.astype(np.float64))
                found[n] = float(scores[np.arange(len(logits)), ids[n][1:]].sum())
        return found


@dataclass(frozen=True)
class Judge:
    """Ask a prior. Answer: the weighted log-probability of each text."""

    prior: Prior
    texts: tuple[str, ...]
    key = None

    def run(self) -> list[float]:
        return [self.prior.weight * p for p in self.prior.judge(self.texts)]

    def run_many(self, requests: Sequence[Judge]) -> list[list[float]]:
        return [r.run() for r in requests]
