"""A language model's opinion on what a decoder considers: the hypotheses of a beam are weighed again.

Asked where the decoder was in doubt, and only there: texts that agree cost nothing. What it was worth, and what it cost, is in
`recipes/speech_llm/README.md`; `rescore.py` there chose the weight.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
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
    def load(
        cls,
        path: str | os.PathLike[str],
        weight: float = WEIGHT,
        threads: int = 1,
        device: str = "cpu",
    ) -> Prior:
        """Of a language model's bundle; of the device "meta" without weights. Raises SpeechStreamError for what is none."""
        model = LanguageModel.load(
            path, threads=threads, device="meta" if device == "meta" else "cpu"
        )
        return cls(model, weight)

    def judge(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each text. What all begin with is read once."""
        tokenizer = self.model.tokenizer
        start = [i for i in map(tokenizer.id, STARTS) if i is not None][:1]
        ids = [[*start, *tokenizer.encode(" " + t)][-LONGEST:] for t in texts]
        found = [0.0] * len(ids)
        asked = [n for n, i in enumerate(ids) if len(i) > 1]
        shared = os.path.commonprefix([ids[n][:-1] for n in asked])
        state, before = self.model.init_state(1), np.zeros((0, 0), np.float32)
        if shared:
            read = self.model.propose([shared], state)
            state, before = self.model.accept(read, [len(shared)]), read.logits[0]
        common = log_softmax(before.astype(np.float64)) if shared else before
        for n in asked:
            own, total = ids[n][len(shared) : -1], 0.0
            if shared:
                total += common[np.arange(len(shared)), ids[n][1 : len(shared) + 1]].sum()
            if own:  # one text at a time: its sums are the same in any company
                logits = self.model.propose([own], state).logits[0]
                scores = log_softmax(logits.astype(np.float64))
                total += scores[np.arange(len(own)), ids[n][len(shared) + 1 :]].sum()
            found[n] = float(total)
        return found


@dataclass(frozen=True)
class Judge:
    """Ask a prior. Answer: the weighted log-probability of each text."""

    prior: Prior
    texts: tuple[str, ...]

    rank = (
        2  # a pool answers encoders and decoders first: those who wait for an opinion become more
    )

    @property
    def key(self) -> Hashable:
        return self.prior, "judge"

    def run(self) -> list[float]:
        return [self.prior.weight * p for p in self.prior.judge(self.texts)]

    def run_many(self, requests: Sequence[Judge]) -> list[list[float]]:
        """Streams that hear the same, as a room's or a retried one, are answered once."""
        found = {r.texts: r for r in requests}
        answers = {texts: r.run() for texts, r in found.items()}
        return [answers[r.texts] for r in requests]
