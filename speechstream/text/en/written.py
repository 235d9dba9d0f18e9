"""Spoken words to written ones and back: "one hundred and twenty three dollars" is "$123" (inverse text normalisation).

    to_digits("it cost twelve dollars and fifty cents,".split())
    # [("it", 0, 1), ("cost", 1, 2), ("$12.50,", 2, 7)]

A word carries its punctuation, and no number reaches past a mark. The words of a text fall into runs: stretches that could
be one number, with what joins numbers ("and", "to", "point") and what follows them ("percent", "p m"). Where a run begins
and ends depends on no later word, and each is written without looking at the rest; so in a stream only the last run is
`pending`. The grammar of a run is in `quantities.py`.

What is ambiguous stays in words: "three thirty" without "p m", "ten fifteen", numbers below DIGITS_FROM in prose, "a
hundred". American English: dollars, month before day, a comma in five or more digits.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

from speechstream.text.en.number_words import (
    AMOUNT,
    CURRENCIES,
    DECADE,
    JOINS,
    MONTHS,
    NUMBER_WORDS,
    OPENERS,
    ORDINAL,
    POUNDS,
    SPANS,
    TERMINAL,
    TIME,
)
from speechstream.text.en.quantities import DIGITS_FROM, Quantities

__all__ = ["DIGITS_FROM", "bare", "pending", "pending_words", "to_digits", "to_words"]

LEAD = "\"'([{\u201c\u2018\u00bf\u00a1"
TRAIL = ".,;:!?\u2026\"')]}\u201d\u2019\u2014"
HALF_DAY = re.compile(r"([ap])\.m\.?", re.I)
DASHES = re.compile(r"[\u2013\u2014\u2026]+|-{2,}|\.{2,}")
REACH = 4  # words between which a written number and what belongs to it may lie: "3 to 5 km"
WRITTEN = re.compile(r"[\d%$\u20ac\u00a3\u00a5\u20b9]")

OPENS = re.compile(r"\W*[A-Z]{1,3}\W*|\w*\W+")  # a currency or a title, where a number may follow

Token = tuple[str, int, int]


def to_digits(words: list[str]) -> list[Token]:
    """Words as a recogniser spells them, with numbers in digits.

    Returns tokens (text, first, last): what is written for `words[first:last]`. Together they cover all words, in order.
    A text holds a space where parts cannot be told apart ("$2 million" for "two million dollars").
    """
    out: list[Token] = []
    for first, last, _ in _runs(words):
        out += _write(words, first, last)
    return out


def pending(words: list[str]) -> int:
    """How many of the last words could still be part of a longer number when more words come.

    What `to_digits` writes for the words before them stays as it is.
    """
    runs = _runs(words)
    if not runs:
        return 0
    first, last, open_ = runs[-1]
    return last - first if open_ else 0


def pending_words(words: list[str]) -> int:
    """The same of `to_words`: how many of the last words may still be said otherwise when more words come."""
    first = len(words)
    for i in reversed(range(len(words))):
        if first - i > REACH:
            break
        if WRITTEN.search(words[i]) or i == len(words) - 1 and OPENS.fullmatch(words[i]):
            first = i
    return len(words) - first


def bare(word: str) -> str:
    """A word without the marks before and after it; the signs of amounts are no marks."""
    return _split(word)[1]


def to_words(words: list[str]) -> list[Token]:
    """Written words with their numbers and amounts spelled as a voice says them (`normalise.Normaliser`).

    Returns tokens as `to_digits` does: ("twelve dollars and fifty cents,", 0, 1) for "$12.50,". Words without digits or
    signs of amounts stay as they are, so do capitals and abbreviations.
    """
    # most of the reader's rules are for this form alone: a recogniser that writes digits starts without them
    from speechstream.text.en.normalise import Normaliser

    starts, at = [], 0
    for word in words:
        starts.append(at)
        at += len(word) + 1
    spoken: list[list[str]] = [[] for _ in words]
    joined = [False] * (len(words) + 1)  # whether a word is one with the word before it
    for piece in Normaliser()(" ".join(words)):
        here = max(bisect_right(starts, piece.start) - 1, 0)
        touched = range(here, bisect_left(starts, piece.end))
        if not touched or piece.kind == "punct":
            continue
        spoken[touched[0]].append(piece.text.lower() if piece.kind == "letters" else piece.text)
        for i in touched[1:]:
            joined[i] = True
    out: list[Token] = []
    first = 0
    for last in range(1, len(words) + 1):
        if joined[last]:
            continue
        said = [s for i in range(first, last) for s in spoken[i]]
        if said and any(WRITTEN.search(word) for word in words[first:last]):
            lead, trail = _split(words[first])[0], _split(words[last - 1])[2]
            out.append((lead + " ".join(said) + trail, first, last))
        else:
            out += [(words[i], i, i + 1) for i in range(first, last)]
        first = last
    return out


def _split(word: str) -> tuple[str, str, str]:
    """Marks before a word, the word, marks after it; the last stop of "p.m." is its own."""
    core = word.lstrip(LEAD)
    lead = word[: len(word) - len(core)]
    if (m := HALF_DAY.match(core)) and not core[m.end() :].strip(TRAIL):
        return lead, m[0], core[m.end() :]
    bare = core.rstrip(TRAIL)
    return lead, bare, core[len(bare) :]


def _parts(core: str) -> list[str]:
    """A word in lower case, at its hyphens where all parts are number words: twenty-five is two."""
    core = core.lower().replace("\u2019", "'")
    parts = core.split("-")
    return parts if len(parts) > 1 and all(p in NUMBER_WORDS for p in parts) else [core]


def _is_number(part: str) -> bool:
    return part in NUMBER_WORDS or any(p.fullmatch(part) for p in (AMOUNT, DECADE, ORDINAL, TIME))


def _continues(before: str, part: str) -> bool:
    """Whether a word goes on with the run whose last word is `before`."""
    if _is_number(part):
        return True
    after_number = _is_number(before)
    if part in ("a", "an"):
        return after_number or before in ("and", "to", "or")
    if part == "minus" and before in OPENERS:
        return True
    if part == "m":
        return before in ("a", "p")
    if part == "cent":
        return before == "per"
    if part in SPANS:
        return before == "second"
    if part in JOINS:
        return after_number or before in CURRENCIES or before in POUNDS and part == "and"
    if part in CURRENCIES:
        return after_number and not any(c in before for c in CURRENCIES.values())
    return after_number and (part in TERMINAL or part in POUNDS)


def _runs(words: list[str]) -> list[tuple[int, int, bool]]:
    """(first, last, whether a next word could belong to it) for runs, and single words for all others."""
    runs: list[tuple[int, int, bool]] = []
    before = ""
    for i, word in enumerate(words):
        lead, core, trail = _split(word)
        parts = _parts(core)
        if runs and runs[-1][2] and not lead and _continues(before, parts[0]):
            first = runs.pop()[0]
            open_ = True
        else:
            first = i
            open_ = (
                _is_number(parts[0]) or parts[0] in ("a", "an", "minus", "oh") or parts[0] in MONTHS
            )
        before = parts[-1]
        ends = first < i and (before in TERMINAL | SPANS or before in ("m", "cent"))
        runs.append((first, i + 1, open_ and not trail and not ends and not before.endswith("%")))
    return runs


def _write(words: list[str], first: int, last: int) -> list[Token]:
    """The tokens of one run."""
    split = [_split(word) for word in words[first:last]]
    parts: list[str] = []
    owner: list[int] = []
    for i, (_, core, _) in enumerate(split):
        for part in _parts(core):
            parts.append(part)
            owner.append(first + i)
    owner.append(last)
    verbatim = [(words[i], i, i + 1) for i in range(first, last)]
    capital = [core[:1].isupper() for _, core, _ in split]
    out: list[Token] = []
    before = _split(words[first - 1])[1].lower() if first else ""
    for item in Quantities(parts, [capital[i - first] for i in owner[:-1]], before).read():
        if item.text is None:
            continue
        a, b = owner[item.first], owner[item.last]
        if owner[item.first - 1] == a and item.first or owner[item.last - 1] == b:
            return verbatim  # a number would begin or end within a word
        trail = split[b - 1 - first][2]
        if item.text.endswith(".") and trail.startswith("."):
            trail = trail[1:]
        out.append((split[a - first][0] + item.text + trail, a, b))
    filled: list[Token] = []
    at = first
    for token in out:
        filled += verbatim[at - first : token[1] - first] + [token]
        at = token[2]
    return filled + verbatim[at - first :]
