r"""Formulas in a line of Markdown: between dollars, and what \( and \[ open."""

from __future__ import annotations

import re

from speechstream.text.spans import (
    MAX_RUN,
    MAX_SPAN,
    Context,
    Found,
    Said,
    Wait,
    as_text,
    character,
    window_at,
)

MATHS = re.compile(r"[\\^_=+<>{}/|\d\u2200-\u22ff\u0370-\u03ff]|^[A-Za-z]'?$|^[A-Za-z]\(|^-")


def delimited(text: str, at: int, start: int, closing: str, c: Context) -> Found | None:
    """A formula up to `closing`, which must stand within MAX_SPAN characters. None: there is none."""
    window = text[start : start + MAX_SPAN]
    end = window.find(closing)
    if end < 0:
        if not c.final and len(window) < MAX_SPAN and not re.search(r"\n[ \t\r]*\n", window):
            raise Wait
        return None
    inner = window[:end]
    if re.search(r"\n[ \t\r]*\n", inner) or not inner.strip():
        return None
    if closing == "$$" and not MATHS.search(inner.strip()):
        return None
    stop = start + end + len(closing)
    return Found((Said(c.formula(inner), at, stop),), stop, open=c.open)


def read_dollar(text: str, at: int, c: Context) -> Found:
    """$x^2$ is a formula, $5 and $10 are not (pandoc's rule, and money is told apart as soon as can be)."""
    after = character(text, at + 1, c)
    if after == "$":
        formula = delimited(text, at, at + 2, "$$", c)
        end = at + 1
        while end < at + MAX_RUN and formula is None and character(text, end, c) == "$":
            end += 1
        return formula or as_text(text, at, end, c)
    plain = as_text(text, at, at + 1, c)
    if not after or after.isspace() or c.before[-1:].isalnum():
        return plain
    window, whole_window = window_at(text, at + 1, c)
    end = window.find("$")
    inner = window if end < 0 else window[:end]
    if after.isdigit() and re.match(
        r"[\d.,]+[ \t]*[A-Za-z]{2}|[\d.,]+[.,;:!?]?\s+[^-+*/=<>^\\\s$]", inner
    ):
        return plain  # $5 and, $5. The
    if re.match(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}\s", inner):
        return plain  # $HOME is set
    if end < 0:
        if whole_window:
            return plain
        raise Wait
    if (
        inner[-1:].isspace()
        or character(text, at + end + 2, c).isalnum()
        or not MATHS.search(inner)
    ):
        return plain
    stop = at + end + 2
    return Found((Said(c.formula(inner), at, stop),), stop, open=c.open)
