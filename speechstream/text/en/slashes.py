"""What a slash says: per, over, or, slash, or nothing."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers, units
from speechstream.text.en.measures import FACTOR, expression
from speechstream.text.en.patterns import alternatives

COUNTED = q.COUNTED | frozenset("thousand million billion trillion percent".split())
PRICED = frozenset(
    w
    for unit, cent in units.CURRENCIES.values()
    for name in (unit, cent)
    if name
    for w in (name.split()[-1], numbers.plural(name.split()[-1]))
)
EACH = re.compile(r"(?!(?:or|and|to|minus|plus)\b)[a-z]{3,}(?![\w/])")
OVER = re.compile(r"\)\s?$")
OVER_AFTER = re.compile(r"\s?[\w(]")
TERMS = re.compile(r"(?:[-+=*^]\s?|\()[a-z]$")  # (1 + r/n)
PER_UNIT = re.compile(r"(?:mL|dL|L|kg|mg|\u00b5L|mm\u00b3|m\u00b3|g)(?![\w])")
PART = re.compile(r"[(\[{][\w.]+[)\]}]/")  # of a path
DEGREES = re.compile(r"[\d\u00b0][CF]$")
CAPITALS = re.compile(r"(?<![A-Za-z])[A-Z]{2,5}$")
CAPITALS_AFTER = re.compile(r"[A-Z]{2,5}(?![A-Za-z])")
EITHER = re.compile(r"\b(?:either|he|his|him|and|s)$", re.I)
ONE_LETTER = re.compile(r"[a-z](?![A-Za-z])")
TIME_AFTER = re.compile(
    r"(?:day|week|month|year|night|hour|hr|wk|min|minute|sec|second|person|capita)(?![A-Za-z])"
)
NOUN_BEFORE = re.compile(
    r"(?:^|[\s(])(?:(?!(?:day|week|month|year|night|hour|minute|second|hrs|hours|morning|and|or)$)[a-z]{2,}|[A-Z]{2,4})$"
)
COUNTED_IN = re.compile(rf"(?!(?:{alternatives(units.PER)})(?![\w\u00b2\u00b3])){FACTOR}(?![^\W_])")
FLOORED = re.compile(r" // [\da-z]")
PACE = re.compile(r"\d:\d\d$")
PACED = re.compile(r"(?:mile|mi|km)(?!\w)")
IN_HOURS = re.compile(r"(\d{1,2})\s?h(?:(?:ou)?rs?)?(?!\w)")
COUNTED_BEFORE = re.compile(r"\d\s?[A-Za-z\u00b5\u03bc\u00b2\u00b3%]+$")  # 40 mg/12h
EACH_THING = re.compile(
    r"(?:side|set|rep|batch|session|lap|visit|serving|class|cup|loaf|load|tray|dose|swab|pose|round|station|area|site|lesson|interview)(?!\w)"
)
UNIT_BEFORE = re.compile(
    r"(?:mins?|hrs?|secs?|h|s|g|mg|oz|lbs?|ml|mL|cups?|pts|reps|kcal|cal|minutes|seconds|hours)$"
)
DOSE = re.compile(r"[\d ](?:mg|mcg|\u00b5g|\u03bcg|g|kg|IU|mEq|mmol|units|kcal|kJ|lb|gal|oz)$")
PER_MEASURE = re.compile(
    r"\d+(?:\.\d+)?\s?(?:mL|ml|L|l|dL|kg|g|hr?|min|m\u00b2|acre|ha|cups?|tablets?|serving)(?![^\W_])"
)
MATHS_BEFORE = re.compile(r"\([^()]*[-+*\u2212\u00b1][^()]*(?:\([^()]*\)[^()]*)*\)\s?$")
LONE_PAIR = re.compile(r"(?<!\w)[A-Z]/[A-Z](?!\w)")
TRIPLE = re.compile(r"(?<!\w)[a-z]/[a-z]/[a-z](?![\w/])")
OF_A_NAME = re.compile(r"\b[A-Z]{3,}\d{1,2}$")
RELATED = re.compile("[=\u2248\u2264\u2265\u2260<>\u221d]")
LONE_TERM = re.compile(r"(?<![\w\u0127])[a-z\u0127\u03b1-\u03c9]$")
DIVISOR = re.compile(r"(?:\d|[a-z\u03b1-\u03c9][\u2080-\u2089]?)(?![\w/])")
SMALL_NUMBER = re.compile(r"\d(?![\w/])")
VERSIONED = re.compile(r"HTTP/[123](?:\.\d)?(?!\d)")
COURT_CASE = re.compile(r"\b[CTF]-\d{1,4}$")
TERM_ALONE = re.compile(r"[a-z](?![a-z])")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9]*")


class Slashes:
    """The part of a reading (`speechstream.text.en.normalise`) that reads slashes."""

    def _slash(self, at: int, after: str, spaced: bool) -> int:
        """The slash at `at`. Returns where it ends, with what it says together with it."""
        text = self.text
        if text[at + 1 : at + 2] == "/" and FLOORED.match(text, at - 1):
            self._say("divided by", at, at + 2)
            return at + 2
        if OF_A_NAME.search(text, max(0, at - 12), at) and SMALL_NUMBER.match(text, at + 1):
            self._say("slash", at, at + 1)
            return at + 1
        if text.startswith("ea", at + 1) and self._before() in PRICED:
            return at + 1  # 79 cents each
        if TRIPLE.match(text, at - 1) or TRIPLE.match(text, at - 3):
            return at + 1  # m/f/d
        if COURT_CASE.search(text, max(0, at - 7), at):
            self._say("slash", at, at + 1)
            return at + 1
        bracketed = (
            text[at - 1 : at].isdigit()
            and after == "("
            or "=" in text
            and OVER.search(text, max(0, at - 2), at)
        )
        if (
            bracketed
            and OVER_AFTER.match(text, at + 1)
            or RELATED.search(text)
            and LONE_TERM.search(text, max(0, at - 2), at)
            and DIVISOR.match(text, at + 1)
            or TERMS.search(text, max(0, at - 24), at)
            and TERM_ALONE.match(text, at + 1)
        ):
            self._say("over", at, at + 1)
            return at + 1
        if MATHS_BEFORE.search(text, 0, at) and re.match(r"\s?[\da-z(]", text[at + 1 : at + 3]):
            self._say("over", at, at + 1)
            return at + 1
        if PACE.search(text, max(0, at - 5), at) and (m := PACED.match(text, at + 1)):
            self._say(["per", *units.PER[m[0]].split()], at, m.end())
            return m.end()
        if (m := IN_HOURS.match(text, at + 1)) and COUNTED_BEFORE.search(text, max(0, at - 16), at):
            self._say(["per", *numbers.cardinal(m[1]), "hours"], at, m.end())
            return m.end()
        earlier = COUNTED_BEFORE.search(text, max(0, at - 16), at)
        if (
            earlier
            and EACH_THING.match(text, at + 1)
            and UNIT_BEFORE.search(text, max(0, at - 8), at)
        ):
            self._say("per", at, at + 1)
            return at + 1
        if DOSE.search(text, max(0, at - 6), at) and PER_MEASURE.match(text, at + 1):
            self._say("per", at, at + 1)
            return at + 1
        if self._before() in q.COUNTED and (m := COUNTED_IN.match(text, at + 1)):
            self._say(["per", *expression(m[0], True)], at, m.end())
            return m.end()
        measured = not LONE_PAIR.match(text, max(at - 1, 0))
        if (
            measured
            and self.out
            and self.out[-1].kind == "letters"
            and (m := PER_UNIT.match(text, at + 1))
        ):
            self._say(["per", *expression(m[0], True)], at, m.end())
            return m.end()
        if text[at - 1 : at] == "+" and (m := TIME_AFTER.match(text, at + 1)):
            self._say(["per", *units.PER[m[0]].split()], at, m.end())
            return m.end()
        if per := self._per(at):
            self._say(["per", *units.PER[per].split()], at, at + 1 + len(per))
            return at + 1 + len(per)
        if self._before() in PRICED and (m := EACH.match(text, at + 1)):
            self._say("per", at, at + 1)
            return at + 1
        digits = (
            at
            and (text[at - 1].isdigit() or text[at - 1] == "\u03c0")
            and after.isdigit()
            or after == "\u2202"
        )
        both = (
            re.search(r"(?:^|\s)(?:and|he|his)$", text[max(0, at - 5) : at].lower())
            and after.isalpha()
        )
        capitals = after.isupper() and text[at - 1 : at].isupper()
        lone = capitals and not (text[at - 2 : at - 1] + text[at + 2 : at + 3]).strip(" .,;:!?)(/")
        if (
            lone
            or VERSIONED.match(text, max(0, at - 4))
            or CAPITALS.search(text[max(0, at - 7) : at])
            and CAPITALS_AFTER.match(text, at + 1)
        ):
            return at + 1  # A/B, N/A, TCP/IP
        if text.startswith("under", at + 1) and text[max(0, at - 4) : at].lower() == "over":
            return at + 1  # a bet
        if EITHER.search(text[max(0, at - 9) : at]):
            return at + 1
        if DEGREES.search(text[max(0, at - 2) : at]) and (
            after.isdigit() or text.startswith("gas ", at + 1)
        ):
            self._say("or", at, at + 1)
            return at + 1
        if at and text[at - 1].isdigit() and ONE_LETTER.match(text, at + 1):
            self._say("over", at, at + 1)
            return at + 1
        if (m := TIME_AFTER.match(text, at + 1)) and NOUN_BEFORE.search(text[max(0, at - 24) : at]):
            self._say(["per", *units.PER[m[0]].split()], at, m.end())
            return m.end()
        if digits or (
            not both
            and (
                after.isalnum()
                or after == "*"
                or after in ".,;`"
                and text[at - 1 : at] == " "
                or spaced
                or PART.match(text, at + 1)
            )
        ):
            self._say("over" if digits else "slash", at, at + 1)
        return at + 1

    def _per(self, at: int) -> str:
        """The unit behind a slash in `miles/day`, or ""."""
        m = NAME.match(self.text, at + 1)
        named = m is not None and m[0] in units.PER
        return m[0] if m and named and self._before() in COUNTED else ""
