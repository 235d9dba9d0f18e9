"""Word errors, and when words were shown: the arithmetic of evaluate_asr.py, without models or files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class Errors:
    """Edit counts between a reference of `words` words and a hypothesis."""

    words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Word error rate, a fraction (infinite where something was said of an empty reference)."""
        return self.total / self.words if self.words else float("inf") if self.total else 0.0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.words + other.words,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


def english_normaliser() -> Callable[[str], str]:
    """Whisper's English normaliser (Radford et al. 2022, appendix C): contractions, numbers, spelling, no fillers."""
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def alignment(
    reference: Sequence[str], hypothesis: Sequence[str], open_end: bool = False
) -> list[tuple[int | None, int | None]]:
    """A least-cost edit alignment (Levenshtein): pairs of indices, None where a word has no partner.

    open_end: the hypothesis is taken as the beginning of the reference, what follows in the reference is left out;
    of beginnings of equal cost the shortest.
    """
    if open_end:
        costs = [Levenshtein.distance(reference[:n], hypothesis) for n in range(len(reference) + 1)]
        reference = reference[: costs.index(min(costs))]
    pairs: list[tuple[int | None, int | None]] = []
    for edit in Levenshtein.opcodes(reference, hypothesis):
        a = range(edit.src_start, edit.src_end)
        b = range(edit.dest_start, edit.dest_end)
        pairs += itertools.zip_longest(a, b)
    return pairs


def count_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> Errors:
    """The edits of a least-cost alignment of two word sequences."""
    pairs = alignment(reference, hypothesis)
    deleted, inserted = sum(j is None for _, j in pairs), sum(i is None for i, _ in pairs)
    changed = sum(None not in (i, j) and reference[i] != hypothesis[j] for i, j in pairs)
    return Errors(len(reference), changed, deleted, inserted)


def key(word: str) -> str:
    """What a word is compared by when times are measured: lower-case letters, digits and inner apostrophes."""
    return re.sub(r"[^\w']|_", "", word.lower().replace("’", "'")).strip("'")


def keys(text: str) -> list[str]:
    return [k for k in map(key, text.split()) if k]


def matches(
    reference: Sequence[str], hypothesis: Sequence[str], open_end: bool = False
) -> list[tuple[int, int]]:
    """The pairs of an alignment that are the same word."""
    return [
        (i, j)
        for i, j in alignment(reference, hypothesis, open_end)
        if i is not None and j is not None and reference[i] == hypothesis[j]
    ]


def first_shown(final: Sequence[str], shown: Sequence[str]) -> list[int | None]:
    """For each word of the final text (keys), which of the texts shown along the way was the first to hold it."""
    first: list[int | None] = [None] * len(final)
    before = None
    for n, text in enumerate(shown):
        if text == before:
            continue
        before = text
        for i, _ in matches(final, keys(text), open_end=True):
            if first[i] is None:
                first[i] = n
    return first
