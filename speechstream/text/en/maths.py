"""Limits, logarithms, raised and lowered letters: lim x\u21920, log\u2082 8, e\u02e3, a\u1d62."""

from __future__ import annotations

import re
import unicodedata

from speechstream.text.en import numbers

Piece = tuple[list[str], int, int]
RAISED = "\u2070\u00b9\u00b2\u00b3\u2074-\u207f\u02b0-\u02b8\u02e1-\u02e3\u1d2c-\u1d61\u1d9c-\u1dbb"
LETTER_RAISED = "\u2071\u207f\u02b0-\u02b8\u02e1-\u02e3\u1d43-\u1d61\u1d9c\u1da0\u1dbb"
LOWERED = "\u2080-\u208e\u2090-\u209c\u1d62-\u1d6a\u2c7c"
LETTER_LOWERED = "\u2090-\u209c\u1d62-\u1d6a\u2c7c"
LIKELY = re.compile(
    rf"\blim\b|[{LETTER_RAISED}{LETTER_LOWERED}]|\blog[\u2080-\u2089_\d]|\b(?:max|min|inf|sup)_"
)
LIMIT = re.compile(
    r"lim(?:[ _]|_?[{(])?\s?([a-zA-Z\u03b1-\u03c9])\s?(?:\u2192|->|\u27f6)\s?([-+\u2212]?(?:\u221e|\d+(?:\.\d+)?|[a-z\u03b1-\u03c9](?![a-z])))"
    r"([\u207a\u207b]|[+-](?=[\s)}]))?[})]?(?:\s?(?:of\b)?)"
)
LOGARITHM = re.compile(
    r"log(?:_?(\d+|[a-z](?![a-z]))|([\u2080-\u2089]+))(?:\s?of\b)?(?=\s?[\w(\u03b1-\u03c9])"
)
POWER = re.compile(rf"(?<=[\w)\]])(?=[{RAISED}]*[{LETTER_RAISED}])[{RAISED}]+")
INDEX = re.compile(rf"(?<=[\w)\]])(?=[{LOWERED}]*[{LETTER_LOWERED}])[{LOWERED}]+")
ENDINGS = frozenset(("st", "nd", "rd", "th", "er", "e", "me", "re", "o", "a", "os", "tm", "sm"))
TO = {"\u221e": ["infinity"], "-": ["minus"], "\u2212": ["minus"], "+": ["plus"]}
SIDES = {"\u207a": "above", "+": "above", "\u207b": "below", "-": "below"}


def read(text: str, at: int) -> list[Piece] | None:
    """What the construct that begins at `at` is in words, with its places; None if there is none."""
    c = text[at]
    if c == "l" and not text[at - 1 : at].isalnum():
        if m := LIMIT.match(text, at):
            return _limit(m)
        if m := LOGARITHM.match(text, at):
            base = unicodedata.normalize("NFKC", m[1] or m[2])
            return [(["log", "base", *_terms(base), "of"], at, m.end())]
        return None
    if c.isascii() or not at:
        return None
    if m := POWER.match(text, at):
        plain = unicodedata.normalize("NFKC", m[0])
        if plain in ENDINGS and text[at - 1].isdigit() or plain.isupper():
            return None
        return [(["to", "the", *_terms(plain)], at, m.end())]
    if m := INDEX.match(text, at):
        return [(_terms(unicodedata.normalize("NFKC", m[0])), at, m.end())]
    return None


def _limit(m: re.Match) -> list[Piece]:
    value = m[2]
    words = ["the", "limit", "as", *_terms(m[1]), "approaches", *_terms(value)]
    if m[3]:
        words += ["from", SIDES[m[3]]]
    return [([*words, "of"], m.start(), m.end())]


def _terms(plain: str) -> list[str]:
    """Letters, numbers and signs one after the other."""
    out: list[str] = []
    for m in re.finditer(r"\d+(?:\.\d+)?|\S", plain.replace("\u2212", "-")):
        part = m[0]
        if part[0].isdigit():
            out += numbers.decimal(part)
        elif part in TO:
            out += TO[part]
        elif part.isascii() and part.isalpha():
            out.append(part.upper())
        elif part.isalpha():
            out.append(unicodedata.name(part, "letter").split()[-1].lower())
    return out
