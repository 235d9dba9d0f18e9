"""Words without marks, and a first casing and punctuation of references."""

from __future__ import annotations

import re


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; apostrophes stay."""
    return [
        w.strip("'")
        for w in re.sub(r"[^a-z0-9' ]", " ", text.lower().replace("’", "'")).split()
        if w.strip("'")
    ]


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
