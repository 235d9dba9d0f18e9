"""Word errors, and when words were shown: the arithmetic of evaluate_asr.py, without models or files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Sequence


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

    def __add__(self, other: "Errors") -> "Errors":
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
    same = 0
    while same < min(len(reference), len(hypothesis)) and reference[same] == hypothesis[same]:
        same += 1
    pairs: list[tuple[int | None, int | None]] = [(n, n) for n in range(same)]
    a, b = reference[same:], hypothesis[same:]
    cost = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row, above = [i], cost[-1]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
        cost.append(row)
    i, j, back = len(a), len(b), []
    if open_end:
        i = min(range(len(a) + 1), key=lambda n: cost[n][j])
    while i or j:
        if i and j and cost[i][j] == cost[i - 1][j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            back.append((same + i, same + j))
        elif i and cost[i][j] == cost[i - 1][j] + 1:
            i -= 1
            back.append((same + i, None))
        else:
            j -= 1
            back.append((None, same + j))
    return pairs + back[::-1]


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
