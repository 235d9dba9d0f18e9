"""Written text to spoken words, each with its place in the source.

    [(w.text, w.start, w.end) for w in Normaliser()("Dr. Smith paid $3.50.")]
    # doctor 0-3, Smith 4-9, paid 10-14, three 15-20, dollars 15-20, and 15-20, fifty 15-20, cents 15-20, "." 20-21

Words are read in `spelling.py`, other scripts in `scripts.py`, symbols in `symbols.py`, numbers in `numerals.py`; names of
abbreviations, units and symbols are in `tables.py`. American English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from speechstream.text.en import numbers, numerals, tables as t
from speechstream.text.en.scripts import Scripts
from speechstream.text.en.spelling import Spelling
from speechstream.text.en.symbols import Symbols
from speechstream.text.en.word import ATOM, PUNCTUATION, Word, clean_up, tidy

__all__ = ["ATOM", "PUNCTUATION", "Normaliser", "NormaliserConfig", "Word", "tidy"]

URL = re.compile(
    r"(?:https?|ftp)://[^\s<>\"]+|www\.[^\s<>\"]+|(?:[A-Za-z0-9-]+\.)+(?:"
    + "|".join(t.TLDS)
    + r")(?:[:/?#][^\s<>\"]*)?(?![\w-]|\.\w)",
    re.I,
)
EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
MIXED = re.compile(r"(?=[^\W_]*\d)(?=[^\W_]*[A-Za-z])[A-Za-z0-9]+")
DIGITISH = re.compile(
    r"[-+\u2212\u00b1]?[$\u00a3\u20ac\u00a5\u20b9\u20a9\u20bf]|[-+\u2212\u00b1]?\.?\d|US\$|[AC]\$|\(\d{3}\)|['\u2019]\d|["
    + "".join(t.VULGAR)
    + r"]|(?:USD|GBP|EUR|JPY|INR|CHF|CNY)\s?\d|[vV]\d+(?:\.\d|\b)"
)
MONTH = re.compile(numerals.MONTH, re.I)


@dataclass(frozen=True)
class NormaliserConfig:
    """Choices. `unsupported`: scripts without a transliteration are named ("name"), left out with a warning ("skip"), or
    raise SpeechStreamError ("error"). `emoji`: "name" or "skip"."""

    unsupported: str = "name"
    emoji: str = "name"

    def __post_init__(self):
        if self.unsupported not in ("name", "skip", "error") or self.emoji not in ("name", "skip"):
            raise ValueError(
                f'unsupported is "name", "skip" or "error" and emoji "name" or "skip", given {self}'
            )


class Normaliser:
    """Text to words. `known(word)` tells whether a dictionary has a spelling; it settles acronyms and camel case."""

    def __init__(
        self, config: NormaliserConfig | None = None, known: Callable[[str], bool] | None = None
    ):
        self.config = config or NormaliserConfig()
        self.known = known or (lambda word: False)

    def __call__(self, text: str, warnings: list[str] | None = None) -> list[Word]:
        """The words of `text`, in order. What cannot be spoken is described in `warnings`, one sentence each.

        Raises SpeechStreamError for an unsupported script if the configuration says so.
        """
        clean, places = clean_up(text)
        reading = _Reading(clean, self.config, self.known, warnings if warnings is not None else [])
        words = reading.run()

        def end_of(w: Word) -> int:
            if w.end <= w.start:
                return places[w.start]
            end = places[w.end - 1] + 1
            while end < places[w.end] and unicodedata.combining(text[end]):
                end += 1  # an accent that was joined to the letter before it
            return end

        return [Word(w.text, places[w.start], end_of(w), w.kind) for w in tidy(words)]


class _Reading(Spelling, Scripts, Symbols):
    """One pass over one clean text."""

    def __init__(
        self, text: str, config: NormaliserConfig, known: Callable[[str], bool], warnings: list[str]
    ):
        self.text, self.config, self.known, self.warnings = text, config, known, warnings
        self.out: list[Word] = []
        capitals = re.findall(r"[A-Za-z]{2,}", text)
        self.shouting = len(capitals) >= 3 and sum(w.isupper() for w in capitals) > 0.6 * len(
            capitals
        )

    def run(self) -> list[Word]:
        at, text = 0, self.text
        while at < len(text):
            c = text[at]
            if c == ATOM:
                self.out.append(Word(c, at, at + 1, "atom"))
            at = at + 1 if c.isspace() or c == ATOM else self._one(at, c)
        return self.out

    def _one(self, at: int, c: str) -> int:
        """Read what stands at `at`; returns where it ends."""
        text = self.text
        joined = at > 0 and text[at - 1].isalnum()
        if c.isalnum() and (m := EMAIL.match(text, at)):
            return self._address(m[0].rstrip("."), at)
        if c.isalnum() and (m := URL.match(text, at)):
            return self._address(m[0].rstrip(".,;:!?)'\u2019\u2026"), at)
        if c in "#@" and (m := re.compile(r"[#@](\w+)").match(text, at)) and not m[1].isdigit():
            self._say("hashtag" if c == "#" else "at", at, at + 1)
            return self._compound(at + 1, m.end())
        if c in "#\u2116" and text[at + 1 : at + 2].isdigit():
            self._say("number", at, at + 1)
            return at + 1
        if (DIGITISH.match(text, at) and not (joined and c in "-+'\u2019\u2212\u00b1")) or (
            c.isalpha() and c.lower() in "jfmasond" and MONTH.match(text, at)
        ):
            end = self._number(at)
            if end > at:
                return end
        if "\u2070" <= c <= "\u207b" or c in "\u00b2\u00b3\u00b9":
            m = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+").match(text, at)
            if m and m[0] != "\u207b":
                self._say(numerals.exponent(m[0].translate(t.SUPERSCRIPTS)[:6]), at, m.end())
            return m.end() if m else at + 1
        if m := MIXED.match(text, at):
            return self._compound(at, m.end())
        if c.isalpha() or (c in "'\u2019" and text[at + 1 : at + 2].isalpha() and not joined):
            return self._letters(at)
        if c.isdecimal():
            return self._digit(at)
        return self._symbol(at, c)

    def _say(self, words: str | list[str], start: int, end: int) -> None:
        """Add words; one in capitals is to be spelled, a mark is a pause."""
        for w in words.split() if isinstance(words, str) else words:
            kind = (
                "punct"
                if w in PUNCTUATION
                else "letters"
                if w.isupper() and w.isalpha() and w.isascii()
                else "word"
            )
            self.out.append(Word(w, start, end, kind))

    def _before(self) -> str:
        return self.out[-1].text.lower() if self.out else ""

    def _number(self, at: int) -> int:
        found = numerals.read(self.text, at, self._before())
        if not found:
            return at
        pieces, end = found
        for words, start, stop in pieces:
            self._say(words, start, stop)
        if self.text[end - 1] == "." and not self.text[end:].strip("\"')\u201d\u2019 \n"):
            self.out.append(Word(".", end - 1, end, "punct"))  # "at 5 p.m." at the end
        return end

    def _digit(self, at: int) -> int:
        """Digits no rule took: of another script, or glued to letters."""
        m = re.compile(r"\d+").match(self.text, at)
        self._say(numbers.grouped("".join(str(unicodedata.digit(d)) for d in m[0])), at, m.end())
        return m.end()
