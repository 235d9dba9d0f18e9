"""Chemical formulas: by the letters of their elements."""

from __future__ import annotations

import re

from speechstream.text.en import numbers, tables as t

ELEMENT = "|".join(sorted(t.ELEMENTS, key=len, reverse=True))
ELEMENT_WORDS = frozenset("He In As At No Be Co La Ta Pa Mo Ho Am Os Po Re Ti Al Me".split())
COUNT = "[0-9\u2080-\u2089]"
GROUP_OF = rf"(?:{ELEMENT}){COUNT}{{0,2}}"
FORMULA = re.compile(
    rf"(?:{COUNT}{{0,2}}(?:{GROUP_OF}|\((?:{GROUP_OF})+\){COUNT}{{0,2}})+)(?:(?:{COUNT}|[\u00b2\u00b3])?(?:[+\u207a\u207b](?!\w)|-(?![\w-])))?(?![^\W_])"
)
FORMULA_PARTS = re.compile(rf"{ELEMENT}|{COUNT}+|[-+\u207a\u207b\u00b2\u00b3]")
LOWERED = str.maketrans(
    "\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u00b2\u00b3", "012345678923"
)


class Formulas:
    """The part of a reading (`speechstream.text.en.normalise`) that reads H2O, NaCl and Ca(OH)2."""

    def _formula(self, at: int) -> int:
        """H2O, NaCl, Ca(OH)2, Na+: symbols of elements by their letters; 0 where this is none."""
        text = self.text
        m = FORMULA.match(text, at)
        if not m or at and (text[at - 1].isalnum() or text[at - 1] in "'\u2019"):
            return 0
        body = m[0].rstrip("-+\u207a\u207b")
        if re.fullmatch("[A-Z]+s", body):
            return 0  # UFOs
        symbols = re.findall(ELEMENT, body)
        letters = "".join(symbols)
        counted = re.search(rf"[A-Za-z)]{COUNT}", body)
        charged = m[0] != body and len(symbols[0]) > 1 and symbols[0] not in ELEMENT_WORDS
        mixed = len(symbols) > 1 and not letters.isupper() and any(len(x) > 1 for x in symbols)
        if (
            not (counted or charged or mixed)
            or body[0].isdigit()
            and not (mixed or len(symbols) > 1)
        ):
            return 0
        if (
            not counted
            and self.known(body)
            or letters.istitle()
            and len(symbols) == 1
            and not (counted or charged)
        ):
            return 0
        if letters.isupper() and len(letters) < 2 and len(re.findall(r"\d", body)) > 1:
            return 0  # H100
        if mixed and not counted and any(x in ("Me", "Et", "Ph") for x in symbols[1:]):
            return 0
        for part in FORMULA_PARTS.finditer(text, at, m.end()):
            self._formula_part(part)
        return m.end()

    def _formula_part(self, part: re.Match) -> None:
        written = part[0].translate(LOWERED)
        if written.isdigit():
            self._say(numbers.cardinal(written), *part.span())
        elif written in "+\u207a":
            self._say("plus", *part.span())
        elif written in "-\u207b":
            self._say("minus", *part.span())
        else:
            self._say(" ".join(written.upper()), *part.span())
