"""Operators of several characters, and dashes that stand between two numbers, days or letters."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numerals, tables as t
from speechstream.text.en.word import Word

MONTH = re.compile(numerals.MONTH, re.I)
NEXT_IN_RANGE = re.compile(r"[$\u00a3\u20ac\u00a5]?\.?\d")
INCHES = ('"', "\u2033")
INCHES_AFTER = re.compile(r"[\d./ '\u2019\u2032]+[\"\u2033\u201d]")
CLOCK = re.compile(r"\d{1,2}(?::\d\d)?(?:\s?[ap]\.?m\b|\b)", re.I)
RANGE_WORD = re.compile(r"[A-Za-z]+")
DAYS = {name: name for name in t.WEEKDAYS}
SIZES = frozenset("XXS XS S M L XL XXL XXXL".split())
SIZE = re.compile(r"(?:[2-6]XL|X{0,3}L|M|S|XS)(?![\w-])")  # of clothes
NEEDS = frozenset("needs need requires require required needed with using for supports".split())
DAY_LETTERS = {"M": "monday", "W": "wednesday", "F": "friday"}


OF_A_CODE = re.compile(r"(?<![A-Za-z])[A-Z]{2,6}-\d{2,8}$")
NAMED = {":=": "colon equals", "==": "equals equals", "===": "triple equals", "!=": "not equals"}
MENTIONED = {  # operators that are spoken of
    **NAMED,
    "==": "double equals",
    "&&": "double ampersand",
    "||": "double pipe",
    "->": "arrow",
    "=>": "fat arrow",
    "++": "plus plus",
    "--": "minus minus",
    ">=": "greater than or equal to",
    "<=": "less than or equal to",
}
MENTIONING = frozenset(
    "use using the operator type write with replace a an called symbol operators".split()
)
MENTION_ENDS = re.compile(
    r"\s(?:to|for|operators?|instead|and|or|not|in|if|when|is|means|sign|symbol|returns?|checks?|assigns?)\b|[.,;:?!]?\s*$|[,;:]"
)


class Ranges:
    """The part of a reading (`speechstream.text.en.normalise`) that reads operators and ranges."""

    def _operator(self, m: re.Match) -> int:
        """!=, >=, -> and the like; 0 where they are dashes, arrows of a quotation or marks."""
        text, sign = self.text, m[0]
        after = text[m.end() : m.end() + 1]
        before = text[m.start() - 1 : m.start()]
        if sign == "++" and not before.isalnum() or sign == "**" and not before.isalnum():
            return 0
        if sign == "**" and not after.isalnum() or sign == "<>" and not after.strip():
            return 0
        if sign in ("/=", "*=", ">>", "<<") and not (before.isspace() and after.isspace()):
            return 0
        if sign in (">>", "->", "=>", "-->") and not self.out:
            return 0
        said = t.OPERATORS[sign]
        if sign in NAMED and (
            not before.strip(" (") and not text[: m.start()].rstrip(" ")[-1:].isalnum()
        ):
            said = NAMED[sign]  # := declares
        if sign in MENTIONED and self._mentioned(m):
            said = MENTIONED[sign]
        stated = self._before() in ("is", "are", "was", "were", "be", "being", "it's")
        if said.startswith("is ") and (stated or self._bounds(m)):
            said = said[3:]
        self._say(said, m.start(), m.end())
        return m.end()

    def _mentioned(self, m: re.Match) -> bool:
        """Whether an operator is spoken of rather than used: use == to compare."""
        apart = self.text[m.start() - 1 : m.start()] in (" ", "`", "'", '"')
        quoted = self.text[m.end() : m.end() + 1] in ("`", "'", '"')
        at = m.end() + quoted
        return apart and self._before() in MENTIONING and bool(MENTION_ENDS.match(self.text, at))

    def _bounds(self, m: re.Match) -> bool:
        """Whether a comparison is part of a name or a need rather than a statement: Python >=3.9, needs driver >= 530."""
        text = self.text
        if NEEDS & {w.text.lower() for w in self.out[-4:]}:
            return True
        name = self.out[-1] if self.out else None
        glued = text[m.end() : m.end() + 1].isdigit() and text[m.start() - 1 : m.start()] in " ,("
        return glued and (name is None or name.kind == "punct" or len(name.text) > 1)

    def _range(self, at: int) -> int:
        """A dash between two numbers, days, months or letters is said; 0 if this one is not."""
        text = self.text
        start, end = at, at + 1
        spaced = text[at - 1 : at] == " "
        if text[at - 1 : at] in INCHES and not INCHES_AFTER.match(text, end):
            return 0  # 3/8"-16
        if spaced != (text[end : end + 1] == " ") or not self.out:
            return 0
        previous = self.out[-1]
        if spaced:
            start, end = at - 1, at + 2
        numbered = self.number_end == start
        if numbered and not spaced and OF_A_CODE.search(text, max(0, at - 16), at):
            return 0  # INC-2024-0118
        number = numbered and not spaced and NEXT_IN_RANGE.match(text, end)
        clock = numbered and text[start - 1] in "mM." and CLOCK.match(text, end)
        m = RANGE_WORD.match(text, end)
        word, said = (m[0] if m else ""), previous.text
        month = numbered and word and MONTH.match(text, end)
        weekday = (
            numbered
            and (spaced or text[at] == "\u2013")
            and word.lower() in q.WEEKDAYS_SHORT | DAYS
        )
        days = said.lower() in t.WEEKDAYS and word.lower() in q.WEEKDAYS_SHORT | DAYS
        times = said.lower() in q.NAMED_TIMES and NEXT_IN_RANGE.match(text, end)
        now = (numbered or said.lower() in q.NAMED_TIMES) and word.lower() in q.NAMED_TIMES
        letters = (
            len(said) == len(word) == 1 and (said + word).isupper() and text[start - 1] == said
        )
        ports = (
            len(said) == len(word) == 3
            and said.isupper()
            and word.isupper()
            and text[at] == "\u2013"
        )
        if (
            len(said) == 1
            and said in DAY_LETTERS
            and word.lower() in q.WEEKDAYS_SHORT | DAYS
            and at
        ):
            self.out[-1] = Word(DAY_LETTERS[said], previous.start, previous.end)
            letters, days = False, True
        if letters and text[at] != "\u2013" and said + word not in ("AZ", "MF"):
            letters = False
        sizes = said in SIZES and SIZE.match(text, end) is not None
        if not (
            number or sizes or clock or month or weekday or days or times or letters or now or ports
        ):
            return 0
        self._say("to", at, at + 1)
        return end
