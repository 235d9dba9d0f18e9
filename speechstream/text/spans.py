"""What the readers of the constructs of Markdown share: what is found, what it depends on, and where it may reach."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

MAX_SPAN = 400  # characters that a link's text, code or a formula may have; longer ones are text
MAX_URL = 600  # the rest of a longer address is left out without being kept
MAX_RUN = 64  # of one character, that one decision looks at
MAX_DEPTH = 8  # of brackets within brackets
GUARD = "\u2060"  # is not spoken; keeps `<` and `[[` of a text from being read as SSML
# Where a paragraph is over for a construct that may go on in its next line.
STOP = re.compile(r"\r?\n[ \t]*(?:\r?\n|[-*+#>|`~\u2022]|\d{1,9}[.)])")
LINE = re.compile(r"\r?\n")


class Wait(Exception):
    """More characters are needed before the next decision."""


class Formula(Protocol):
    """TeX to words."""

    def __call__(self, tex: str) -> str:
        """What a formula is in words."""


class Said(NamedTuple):
    """What is said for `text[start:end]`. With as many characters it stands for them one by one."""

    text: str
    start: int
    end: int
    tag: bool = False  # SSML, not text


class Found(NamedTuple):
    """A construct that has been read up to `end`.

    hide: all is left out up to this mark. effect: "" or "block" (a new one begins), "hard" (a line ends).
    open: delimiters of emphasis that are open after it.
    """

    said: tuple[Said, ...]
    end: int
    hide: str = ""
    effect: str = ""
    open: tuple[int, int] = (0, 0)


class Context(NamedTuple):
    """What a construct's reading depends on beside its own characters."""

    final: bool = False  # no more characters come
    lines: bool = True  # it may go on in the next line
    words: bool = False  # plain text is given word by word
    before: str = ""  # the two characters before it
    open: tuple[int, int] = (0, 0)  # stars and underscores of open emphasis
    emoji: bool = False  # are read out
    ssml: bool = False  # its elements are kept
    formula: Formula = lambda tex: "formula"


def guarded(text: str, start: int) -> tuple[Said, ...]:
    """Characters that stand for themselves, with guards where they would be taken for SSML."""
    out, begin = [], 0
    for m in re.finditer(r"(?<=<)(?=[A-Za-z/!?])|(?<=\[)(?=\[)|(?<=&)(?=[#A-Za-z])", text):
        out += [Said(text[begin : m.start()], start + begin, start + m.start())]
        out += [Said(GUARD, start + m.start(), start + m.start())]
        begin = m.start()
    return (*out, Said(text[begin:], start + begin, start + len(text)))


def as_text(text: str, at: int, end: int, c: Context) -> Found:
    return Found(guarded(text[at:end], at), end, open=c.open)


def literal(text: str, at: int, c: Context) -> Found:
    """The character is text, whatever follows it."""
    said = (Said(text[at], at, at + 1), Said(GUARD, at + 1, at + 1))
    return Found(said, at + 1, open=c.open)


def character(text: str, at: int, c: Context) -> str:
    """The character at a place, "" after the end of a finished text."""
    if at < len(text):
        return text[at]
    if c.final:
        return ""
    raise Wait


def window_at(text: str, at: int, c: Context, size: int = MAX_SPAN) -> tuple[str, bool]:
    """The characters that a construct at `at` may reach, and whether no more will be added to them."""
    window = text[at : at + size]
    stop = (STOP if c.lines else LINE).search(window)
    if stop:
        return window[: stop.start()], True
    return window, c.final or len(window) == size


def is_punctuation(c: str) -> bool:
    return bool(c) and not c.isalnum() and not c.isspace()


def guard(said: str, at: int) -> tuple[Said, ...]:
    return (Said(GUARD, at, at),) if said in "<[&" else ()
