"""Clauses to what a pocket-tts reads: letters, which its tokenizer makes tokens of."""

from __future__ import annotations

import re

import numpy as np

from speechstream.lm.tokens import Tokenizer
from speechstream.text.clauses import Clause
from speechstream.text.utterance import SpokenWord, Utterance
from speechstream.text.visible import visible

MOST_TOKENS = 50  # of an utterance: the model was trained on sentences
SOFT = (",", ";", ":", "\u2014", "\u2013")  # after which a long one is cut, where there is one
_WORD = re.compile(r"\S+")


class PocketFrontEnd:
    """Clauses to utterances whose symbols are letters. markup: whether SSML is read."""

    def __init__(self, tokenizer: Tokenizer, markup: bool) -> None:
        self._tokenizer, self.markup = tokenizer, markup
        self._special = tokenizer.special

    def __call__(self, clause: Clause) -> list[Utterance]:
        """The utterances of a clause, of up to MOST_TOKENS tokens each; none where nothing is to be spoken."""
        seen = visible(clause, self.markup)
        words = [
            (m[0], seen.places[m.start()], seen.places[m.end() - 1] + 1, m.start())
            for m in _WORD.finditer(seen.text)
        ]
        pauses, found = list(seen.pauses), []
        if not any(c.isalnum() for c in seen.text) and not pauses:
            return []
        for part in self._parts(words):
            last = part is words or not part or part[-1] is words[-1]
            found.append(_utterance(part, clause, pauses, last, () if found else seen.warnings))
        return found

    def encode(self, letters: str) -> list[int]:
        """A text's tokens, begun and ended as a sentence is. Markers of the tokenizer within it are left out."""
        ids = self._tokenizer.encode(prepared(letters))
        return [i for i in ids if i not in self._special]

    def _parts(self, words: list) -> list[list]:
        """Words cut into stretches that are short enough."""
        parts, part, sizes = [], [], []
        for word in words:
            size = len(self._tokenizer.encode(word[0]))
            while part and sum(sizes) + size > MOST_TOKENS:
                soft = [i + 1 for i, w in enumerate(part) if w[0].endswith(SOFT)]
                cut = soft[-1] if soft else len(part)
                parts.append(part[:cut])
                part, sizes = part[cut:], sizes[cut:]
            part, sizes = [*part, word], [*sizes, size]
        return [*parts, part]


def prepared(letters: str) -> str:
    """A text as the model was trained to read it: a capital first, a mark last."""
    text = " ".join(letters.split())
    text = text[:1].upper() + text[1:]
    return text + "." if text[-1:].isalnum() else text


def _utterance(
    part: list, clause: Clause, pauses: list, last: bool, warnings: tuple[str, ...]
) -> Utterance:
    """Words (text, start, end, place among the clause's letters), and those of the clause's pauses that fall among them."""
    letters, words, breaks = "", [], []
    for text, start, end, at in part:
        while pauses and pauses[0][0] <= at:
            breaks.append((len(letters), pauses.pop(0)[1]))
        letters += " " if letters else ""
        words.append(SpokenWord(text, text, start, end, len(letters), len(letters) + len(text)))
        letters += text
    if last:
        breaks += [(len(letters), seconds) for _, seconds in pauses]
        pauses.clear()
    ones = np.ones(len(letters), np.float32)
    return Utterance(
        letters,
        tuple(words),
        part[0][1] if part else clause.start,
        part[-1][2] if part else clause.end,
        clause.kind if last else "clause",
        tuple(breaks),
        ones,
        0 * ones,
        0 * ones,
        warnings,
    )
