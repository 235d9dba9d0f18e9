"""Clauses to what voices read that are language models: letters, which a tokenizer makes tokens of."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

from speechstream.lm.tokens import Tokenizer
from speechstream.text.clauses import Clause
from speechstream.text.utterance import SpokenWord, Utterance
from speechstream.text.visible import visible

SOFT = (",", ";", ":", "\u2014", "\u2013")  # after which a long one is cut, where there is one
_WORD = re.compile(r"\S+")


class Letters(NamedTuple):
    """One word as it is written: its place in the whole text, and among the clause's letters."""

    text: str
    start: int
    end: int
    at: int


class LetterFrontEnd:
    """Clauses to utterances whose symbols are letters. markup: whether SSML is read. most: tokens of an utterance."""

    def __init__(self, tokenizer: Tokenizer, markup: bool, most: int) -> None:
        self._tokenizer, self.markup, self.most = tokenizer, markup, most

    def __call__(self, clause: Clause) -> list[Utterance]:
        """The utterances of a clause, of about `most` tokens at most; none where nothing is to be spoken."""
        seen = visible(clause, self.markup)
        spoken = any(c.isalnum() for c in seen.text)
        if not spoken and not seen.pauses:
            return []
        words = [
            Letters(m[0], seen.places[m.start()], seen.places[m.end() - 1] + 1, m.start())
            for m in (_WORD.finditer(seen.text) if spoken else ())
        ]
        pauses, parts = list(seen.pauses), self._parts(words)
        found = []
        for i, part in enumerate(parts):
            behind = parts[i + 1][0].at if i + 1 < len(parts) else math.inf
            own = [p for p in pauses if p[0] < behind]
            pauses = pauses[len(own) :]
            kind = clause.kind if behind == math.inf else "clause"
            found.append(_utterance(part, clause, own, kind, () if i else seen.warnings))
        return found

    def _parts(self, words: list[Letters]) -> list[list[Letters]]:
        """Words cut into stretches that are short enough; one that is empty where there are none."""
        parts: list[list[Letters]] = []
        part: list[Letters] = []
        sizes: list[int] = []
        for word in words:
            size = len(self._tokenizer.encode(word.text))
            while part and sum(sizes) + size > self.most:
                soft = [i + 1 for i, w in enumerate(part) if w.text.endswith(SOFT)]
                cut = soft[-1] if soft else len(part)
                parts.append(part[:cut])
                part, sizes = part[cut:], sizes[cut:]
            part, sizes = [*part, word], [*sizes, size]
        return [*parts, part]


def _utterance(
    part: list[Letters],
    clause: Clause,
    pauses: list[tuple[int, float]],
    kind: str,
    warnings: tuple[str, ...],
) -> Utterance:
    """Words with the pauses that fall among them. kind: how it ends, as in `Clause`."""
    letters, words, breaks = "", [], []
    for word in part:
        breaks += [(len(letters), seconds) for at, seconds in pauses if at <= word.at]
        pauses = [p for p in pauses if p[0] > word.at]
        letters += " " if letters else ""
        end = len(letters) + len(word.text)
        words.append(SpokenWord(word.text, word.text, word.start, word.end, len(letters), end))
        letters += word.text
    breaks += [(len(letters), seconds) for _, seconds in pauses]
    ones = np.ones(len(letters), np.float32)
    return Utterance(
        letters,
        tuple(words),
        part[0].start if part else clause.start,
        part[-1].end if part else clause.end,
        kind,
        tuple(breaks),
        ones,
        0 * ones,
        0 * ones,
        warnings,
    )
