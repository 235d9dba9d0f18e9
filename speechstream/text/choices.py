"""Conditional expressions of programs in a text: n > 0 ? n : -n. Neither of their marks ends a clause."""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_TERM = 32  # characters of a term
MAX_TERMS = 8
SIGNS = frozenset((":", "+", "-", "*", "/", "%"))
QUOTES = frozenset("\"'`")
TERM_BEFORE = re.compile(r"(?:(?<![\w'])[a-z]|[a-z]+[A-Z]\w*|\w+[._)\]][\w)\]]*) $")
CHOSEN = re.compile(r" \? [^?:\n]{1,96} $")  # before the colon


def follow(look: Callable[[int], str], at: int) -> bool:
    """Whether two terms with a colon between stand behind a question mark that ends at `at`.

    `look(i)` is the character at `i`, "" past the end of a finished text.
    """
    wanted = True
    for _ in range(MAX_TERMS):
        if look(at) != " ":
            return False
        term = _term(look, at + 1)
        at += 1 + len(term)
        if not term or len(term) == MAX_TERM or wanted == (term in SIGNS):
            return False
        if term == ":":
            return look(at) == " " and bool(look(at + 1).strip())
        wanted = not wanted
    return False


def _term(look: Callable[[int], str], at: int) -> str:
    """The characters up to a blank, or to the mark that closes a quotation; at most MAX_TERM."""
    quoted, term = look(at) in QUOTES, ""
    while len(term) < MAX_TERM:
        c = look(at + len(term))
        if not c or c.isspace() and not quoted:
            break
        term += c
        if quoted and len(term) > 1 and c == term[0]:
            break
    return term
