"""Words: a normaliser for scoring, edit alignment, and the casing and punctuation of references."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; apostrophes stay."""
    return [
        w.strip("'")
        for w in re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("’", "'")).split()
        if w.strip("'")
    ]


def align(a: list[str], b: list[str]) -> list[tuple[int | None, int | None]]:
    """Levenshtein alignment of two word lists: pairs of indices, None where a word has no partner."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y)))
        rows.append(row)
    i, j, pairs = len(a), len(b), []
    while i or j:
        if i and j and rows[i][j] == rows[i - 1][j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and rows[i][j] == rows[i - 1][j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Word errors and the number of reference words."""
    a, b = words(reference), words(hypothesis)
    return sum(i is None or j is None or a[i] != b[j] for i, j in align(a, b)), len(a)


def recase(reference: str, transcript: str) -> str:
    """The words of `reference`, written as `transcript` (cased, punctuated) writes those it agrees on.

    A word the transcript lacks is put in lower case ("I" and what follows a full stop excepted).
    """
    tokens = [t for t in transcript.split() if words(t)]
    split = [(w, n) for n, t in enumerate(tokens) for w in words(t)]
    counts: dict[int, int] = {}
    for _, n in split:
        counts[n] = counts.get(n, 0) + 1
    ref = words(reference)
    raw = [t for t in reference.replace("’", "'").split() if words(t)]
    if len(raw) != len(ref):
        raw = ref
    out = []
    for i, j in align(ref, [w for w, _ in split]):
        if i is None:
            continue
        if j is not None and split[j][0] == ref[i] and counts[split[j][1]] == 1:
            out.append(tokens[split[j][1]])
        else:
            word = raw[i].lower()
            word = re.sub(r"^i(?=$|')", "I", word)
            out.append(word.capitalize() if not out or out[-1][-1] in ".?!" else word)
    text = " ".join(out)
    return text[:1].upper() + text[1:]


QUESTION = re.compile(
    r"(who|what|when|where|why|how|is|are|was|were|do|does|did|can|could|will|would|shall|should|may)\b"
)


def sentence(text: str) -> str:
    """A first guess: lower case, a capital at the start, "I", and a mark at the end."""
    text = " ".join(text.lower().replace('"', "").split())
    text = re.sub(r"\bi\b", "I", text)
    if text and text[-1] not in ".?!":
        text += "?" if QUESTION.match(text) else "."
    return text[:1].upper() + text[1:]


def is_cased(text: str) -> bool:
    """Whether a reference has both cases, so that its spelling can be kept."""
    return text != text.lower() and text != text.upper()
