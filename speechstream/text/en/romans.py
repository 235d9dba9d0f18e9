"""Roman numerals: of rulers, wars, chapters and centuries."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers, tables as t

NUMERAL = re.compile("[IVXL]+|[ivx]+")
LETTERED = re.compile("([IVX]+)([a-cA-C])")
REIGNED = re.compile(
    r" (?:[a-z]+ed|became|took|wrote|gave|fell|won|led|built|came|made|went|began|sent|kept|left)\b"
)
SMALL_AFTER = re.compile(r" (?!neck|shaped)[a-z]{2,}")
SEVERAL = re.compile(r"(?:[IVX]+, )*[IVX]+,? (?:and|or|&) [IVX]{2,}(?![\w'\u2019-])")
NUMBERED_NAMES = frozenset(  # behind which V and X are numbers
    "saturn titan atlas rocky rambo fantasy civilization ultima diablo skyrim gemini soyuz proton bowl".split()
)
SECTIONS = frozenset(("section", "footnote", "sections"))
ROMAN_AFTER = re.compile(r"\s*(?:[,.;:!?)]|of\b|in\b|was\b|is\b|had\b|and\b|'s|\u2019s|$)")


class Romans:
    """The part of a reading (`speechstream.text.en.normalise`) that reads Roman numerals."""

    def _roman(self, word: str, at: int, end: int) -> bool:
        """Henry VIII the eighth, World War II two, the XXI century. Only after a capitalised word or before an age."""
        numeral, tail = (word[:-2], "'s") if word.endswith("'s") else (word, "")
        previous = self.out[-1] if self.out else None
        if previous is None:
            value = numbers.roman(numeral)
            after = re.match(
                r"[\s-](?:century|centuries|Olympiad|Congress)\b", self.text[end : end + 12]
            )
            if value is None or not after or len(numeral) < 2:
                return False
            self._say(numbers.ordinal(value), at, end)
            return True
        if (m := LETTERED.fullmatch(numeral)) and previous.text.lower() in q.NUMBERED:
            value = numbers.roman(m[1])
            if value is not None:
                self._say([*numbers.cardinal(value), m[2].upper()], at, end)
                return True
        if not NUMERAL.fullmatch(numeral):
            return False
        if (
            previous.text == "and"
            and len(self.out) > 3
            and self.out[-3].text == "the"
            and self.out[-4].text.lower() in t.KINGS
        ):
            value = numbers.roman(numeral.upper())
            james = any(w.text.lower() == "james" for w in self.out[-6:])
            if value is not None and (numeral != "I" or james):
                self._say(["the", *numbers.ordinal(value)], at, end)
                return True
        value = numbers.roman(numeral.upper())
        if value is None:
            return False
        said = previous.text.lower()
        after = re.match(r"[\s-]([A-Za-z]+)", self.text[end : end + 24])
        if (
            after
            and not tail
            and after[1].lower() in q.ORDINAL_BEFORE
            and (len(numeral) > 1 or said == "the" and numeral.isupper())
        ):
            words = numbers.ordinal(value)
        elif (
            said in q.NUMBERED or said in SECTIONS or said == "mania"
        ) and previous.end >= at - 1 - (said in SECTIONS):
            words = self._numbered(numeral, value, previous.text, end)
        elif (
            (self.shouting or previous.kind == "letters" and value in (2, 3, 6, 7, 8, 9, 11, 12))
            and len(numeral) > 1
            and numeral not in ("IL", "XI")
            and (previous.kind == "word" or previous.kind == "letters" and len(previous.text) > 1)
        ):
            words = numbers.cardinal(value)
        elif numeral.islower() or previous.kind != "word" or not previous.text[:1].isupper():
            return False
        else:
            words = self._named_roman(numeral, value, said, tail or self.text[end:])
        if not words:
            return False
        if tail:
            words = [*words[:-1], words[-1] + tail]
        self._say(words, at, end)
        return True

    def _roman_list(self, at: int) -> int:
        """I, II and III: numerals one after the other. Returns where they end, or 0."""
        m = SEVERAL.match(self.text, at)
        if not m or self._before() in t.KINGS:
            return 0
        found = list(re.compile("[IVX]+|and|or").finditer(self.text, at, m.end()))
        values = [numbers.roman(x[0]) for x in found if x[0].isupper()]
        if any(b is None or a is None or b <= a for a, b in zip(values, values[1:])):
            return 0
        for x in found:
            value = numbers.roman(x[0])
            self._say(numbers.cardinal(value) if value else x[0], *x.span())
        return m.end()

    def _numbered(self, numeral: str, value: int, previous: str, end: int) -> list[str]:
        """After part, chapter, war and the like; small numerals only after a capital or at the end."""
        if numeral in ("i", "I") and (previous.islower() or not ROMAN_AFTER.match(self.text, end)):
            if numeral == "i" or previous.lower() not in (
                "war",
                "vatican",
                "chapter",
                "part",
                "article",
                "act",
                "title",
                *q.TYPED,
            ):
                return []
            if previous.lower() in q.TYPED and not re.match(
                r" (?!am\b|have\b|had\b|was\b|did\b|do\b|will\b)[a-z]", self.text[end:]
            ):
                return []
            if previous.islower():
                return []
        if numeral.islower() and len(numeral) == 1:
            return []
        if numeral in ("L", "XL") and previous.lower() not in ("bowl", "mania", "wrestlemania"):
            return []
        return numbers.cardinal(value)

    def _named_roman(self, numeral: str, value: int, said: str, rest: str) -> list[str]:
        """After a name: a ruler's or a son's number is an ordinal, a thing's a cardinal."""
        if numeral in ("L", "XL"):
            return []
        titled = len(self.out) > 1 and self.out[-2].text.lower() in t.TITLES
        first = self.out[-2].text.lower() if len(self.out) > 1 else ""
        if said in t.KINGS or titled and len(numeral) > 1:
            alone = numeral == "I" or numeral in ("V", "X") and not SMALL_AFTER.match(rest)
            if alone and not titled and not ROMAN_AFTER.match(rest) and not REIGNED.match(rest):
                return []
            return ["the", *numbers.ordinal(value)]
        if numeral in ("V", "X") and said in NUMBERED_NAMES:
            return numbers.cardinal(value)
        if len(numeral) == 1:
            return []
        if (
            len(self.out) > 1
            and self.out[-2].kind == "letters"
            and len(first) == 1
            and said.isalpha()
            and len(said) > 2
        ):
            return ["the", *numbers.ordinal(value)]  # J. P. Hill III
        if first in ("mister", "miz", "missus", "doctor", "senator", "judge", "professor"):
            return ["the", *numbers.ordinal(value)]
        if first in q.GIVEN and self.out[-2].text[:1].isupper():
            return ["the", *numbers.ordinal(value)]
        return numbers.cardinal(value)
