"""Regular expressions and format strings: read sign by sign, as a programmer dictates them."""

from __future__ import annotations

import re

from speechstream.text.en import numbers

NAMES = {
    "\\": "backslash",
    "^": "caret",
    "$": "dollar",
    "[": "open bracket",
    "]": "close bracket",
    "{": "open brace",
    "}": "close brace",
    "(": "open paren",
    ")": "close paren",
    "*": "star",
    "+": "plus",
    "?": "question mark",
    ".": "dot",
    "|": "pipe",
    "-": "dash",
    "/": "slash",
    ",": "comma",
    ":": "colon",
    "=": "equals",
    "!": "exclamation mark",
    "<": "less than",
    ">": "greater than",
    "#": "hash",
    "@": "at",
    "%": "percent",
    "_": "underscore",
    "&": "and",
    "~": "tilde",
    ";": "semicolon",
    "'": "quote",
    '"': "quote",
    " ": "space",
}
ESCAPED = re.compile(r"[^\s`\"']{0,80}?\\[dwsbDWSB](?![A-Za-z])[^\s`\"']{0,80}")
CLASSED = re.compile(
    r"\^?\(?\[[^\]\s]{0,3}(?:[a-z]-[a-z]|[A-Z]-[A-Z]|\d-\d)[^\]\s]{0,20}\][+*?{$][^\s`\"']{0,80}"
)
DRIVE = re.compile(r"[A-Za-z]:\\")
FORMAT = re.compile(
    r"\{\w*:[<>^][^{}\s]{1,12}\}"
    r"|%(?:[-+0#]?\d{1,3}(?:\.\d{1,2})?|\.\d{1,2})l?[sdfxXeEgcou](?![A-Za-z])"
    r"|%[a-zA-Z](?:[-/:. T]?%[a-zA-Z])+(?![A-Za-z])"
)
LIKELY = re.compile(r"[\\%{\[][A-Za-z\d_.+:!^-]")
PARTS = re.compile(r"[A-Za-z]+|\d+|.", re.S)
CLOSED = ".,;:!?"
BEGINS = frozenset("^[({\\%$.*+?|<-/") | frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def match(text: str, at: int) -> list[tuple[str, int, int]] | None:
    """The signs of the expression that begins at `at`, with their places; None if there is none."""
    begins = not at or text[at - 1] in " \n\t`\"'("
    if not begins or text[at] not in BEGINS:
        return None
    m = FORMAT.match(text, at)
    if not m:
        m = ESCAPED.match(text, at) or CLASSED.match(text, at)
        if not m or DRIVE.match(text, at):
            return None
    if text[at] == "{":
        return _signs(text, at + 1, m.end() - 1)
    end = m.end()
    while end > at + 2 and text[end - 1] in CLOSED:
        end -= 1
    if text[end - 1] == ")" and text.count("(", at, end) < text.count(")", at, end):
        end -= 1
    return _signs(text, at, end)


def _signs(text: str, at: int, end: int) -> list[tuple[str, int, int]]:
    out = []
    for m in PARTS.finditer(text, at, end):
        part = m[0]
        if part.isdecimal():
            said = " ".join(numbers.grouped(part))
        elif part.isalpha():
            escaped = text[m.start() - 1 : m.start()] in ("\\", "%") or len(part) == 1
            said = part[0].upper() + " " + part[1:].lower() if escaped else part.lower()
        else:
            said = NAMES.get(part, "")
        out.append((said.strip(), *m.span()))
    return out
