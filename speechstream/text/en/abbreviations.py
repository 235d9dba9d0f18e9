"""Abbreviations with a full stop, and letters with full stops between."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, geography, short_forms, streets, tables as t
from speechstream.text.en.word import Word

SURE_STATES = frozenset(
    "neb ala ariz calif colo conn fla kan mass mich minn mont nebr nev okla ont penn que tenn tex wis wyo".split()
)
DAYS_AFTER = re.compile(r"(?:and|or|to|thru|through|&) [A-Z]")
COUNTY = re.compile(
    r"\b(?:in|across|of|throughout|from) (?:(?:St\\.|San|Los|El|La) )?[A-Z][a-z]+ $"
)
SENIOR = re.compile(
    r"(?:V[Pi]|Mgr|Mktg|Mark|Sales|Data|QA|UX|UI|HR|IT\b|Fin|Bus|Law|Leg|Part|Tech|Tax|Cons|Couns|Op|Sec|Stra|Dir|Man|Eng|Ana|Soft|Acc|Ed|Prod|Prog|Dev|Des|Con|Pro|Res|Sci|Off|Adv|Ass)"
)
RATED = frozenset(  # before the annual percentage rate
    "percent the fixed variable low intro introductory purchase effective".split()
)
POSSESSIVE = re.compile(r"['\u2019]s(?!\w)")


class Abbreviations:
    """The part of a reading (`speechstream.text.en.normalise`) that reads them."""

    def _dotted(self, m: re.Match, at: int) -> int:
        """U.S., e.g., Ph.D., a.m.; returns where it ends, or 0."""
        inner = m[0].rstrip(".")
        lower = inner.lower()
        if lower not in t.ABBREVIATIONS and (
            max(map(len, inner.split("."))) > 2
            or not (inner[0].isupper() or lower == inner and m[0].endswith("."))
            or not all(len(p) == 1 for p in inner.split("."))
        ):
            return 0
        end = m.end()
        if lower in t.ABBREVIATIONS:
            self._say(t.ABBREVIATIONS[lower], at, end)
        else:
            own = "'s" if POSSESSIVE.match(self.text, end) else ""
            self.out.append(
                Word(inner.replace(".", "").upper() + own, at, end + len(own), "letters")
            )
            end += len(own)
        return self._final_stop(end)

    def _abbreviation(self, lower: str, at: int, end: int) -> int:
        """An abbreviation with its full stop; returns where it ends, or 0."""
        text = self.text
        if text[end + 1 : end + 2].islower():
            return 0  # my_dict.get
        rest = text[end + 1 :].lstrip()
        previous = self.out[-1] if self.out else None
        after_name = (
            previous is not None
            and previous.kind == "word"
            and (
                previous.text[:1].isupper()
                or previous.text.endswith(("th", "first", "second", "third"))
            )
        )
        token = text[at:end]
        if (
            self.shouting
            and len(token) > 2
            and (token not in t.SPELLED or lower in q.WEEKDAYS_SHORT)
        ):
            token = token.capitalize()
        ordinal = previous is not None and previous.text.endswith(
            ("th", "first", "second", "third")
        )
        if (
            token.isupper()
            and len(token) > 1
            and (token in t.SPELLED or token == "FT")
            and lower != "ca"
        ):
            return 0  # 2 PM EST.
        if token == "APR" and self._before() in RATED:
            return 0
        if (
            lower == "sr"
            and not after_name
            and re.match(r"[A-Z][a-z]", rest)
            and not SENIOR.match(rest)
        ):
            said = "sister"
        elif (
            lower in ("p", "pp", "b", "d", "r", "c", "v")
            and token.isupper()
            and not (lower in ("p", "pp") and rest[:1].isdigit())
        ):
            return 0
        elif (
            lower in q.BOOKS_SHORT
            and lower in short_forms.UNAMBIGUOUS_BOOKS
            and re.match(r"\d", rest)
            and token[0].isupper()
        ):
            said = q.BOOKS_SHORT[lower]
        elif lower == "ex" and token == "Ex" and re.match(r"\d+:\d", rest):
            said = "exodus"
        elif found := short_forms.read(token, self._before(), rest, ordinal):
            said = found
        elif lower in streets.TITLE:
            said = streets.read(lower, text, at, rest)
        elif lower in ("sat", "sun", "wed") and token[0].isupper() and self._beside_a_day():
            said = q.WEEKDAYS_SHORT[lower]
        elif lower in ("sat", "sun", "wed") and (
            self._before() in ("the", "a", "he", "she", "they", "we", "it")
            or rest[:1].islower()
            and not (DAYS_AFTER.match(rest) and text[at].isupper())
        ):
            return 0
        elif lower in q.BOOKS_SHORT and text[at].isupper() and re.match(r"\d+:\d", rest):
            said = q.BOOKS_SHORT[lower]
        elif lower == "ft" and text[at].isupper() and rest[:1].isupper():
            said = "fort"
        elif lower == "ft":
            said = "feet" if self.number_end == at - 1 or not rest else "foot"
        elif lower == "c" and re.match(r"\d{3,4}(?!\d)", rest) and text[at] == "c":
            said = "circa"
        elif lower == "ca" and text[at : at + 2] == "CA":
            self._state("CA", at, end) or self._say("C A", at, end)
            return end
        elif (
            lower in geography.STATES_OLD
            and text[at].isupper()
            and text[at + 1].islower()
            and (
                lower in SURE_STATES
                or text[max(0, at - 2) : at] == ", "
                or re.search(r"\b[DRI]-$", text[max(0, at - 3) : at])
                or self._before() in ("in", "from", "of", "near", "to")
                and lower not in ("del", "miss", "ill", "ind")
                or rest[:1].islower()
                and lower not in ("ill", "miss", "mass", "ore", "del", "la")
            )
        ):
            said = geography.STATES_OLD[lower]
        elif lower in ("min", "max") and re.match(r"\d", rest) and self.number_end < at - 1:
            said = "minimum" if lower == "min" else "maximum"
        elif lower == "min" and self.number_end < at - 1 and rest:
            said = "minimum"
        elif (
            lower in ("pl", "ct", "sq", "rd", "ave", "ln", "blvd", "hwy") and not text[at].isupper()
        ):
            return 0
        elif lower in ("pl", "ct", "sq") and not after_name:
            return 0
        elif (
            lower == "no"
            and self._before() in ("telephone", "reference")
            and not rest[:1].isdigit()
        ):
            said = "number"
        elif lower == "gen" and re.match(r"(?:Z|X|Y|Alpha)\b", rest):
            said = "gen"
        elif lower == "wash" and (
            rest.startswith(", D") or text[max(0, at - 2) : at] == ", " and token == "Wash"
        ):
            said = "Washington"
        elif lower in t.BEFORE_NUMBER and re.match(r"\(?(?:\d|[A-Z]\d)", rest):
            said = t.BEFORE_NUMBER[lower]
        elif (
            lower
            in (
                "min",
                "max",
                "sat",
                "mon",
                "fri",
                "wed",
                "col",
                "co",
                "rep",
                "gen",
                "ext",
                "est",
                "al",
                "ms",
            )
            and text[at].islower()
            and lower not in ("min", "max", "al", "ext", "est")
        ):
            return 0
        elif token == "Pt" and re.match(r"[A-Z][a-z]", rest) and self.number_end < at - 1:
            said = "point"
        elif token == "Co" and COUNTY.search(text, 0, at):
            said = "county"
        elif lower == "co" and text[at].isupper() and not self.out:
            return 0
        elif lower == "sun" and re.match(r", [A-Z]", rest):
            said = "sunday"
        elif lower in ("ref", "dir", "det", "mos", "sec", "pct", "lib", "amb", "sun") and not (
            rest[:1].isdigit()
            or rest.startswith("no.")
            or text[at].isupper()
            and self._name_follows(end + 1)
        ):
            return 0
        elif lower in t.MONTH_OF and lower not in t.MONTHS and text[at].isupper():
            said = t.MONTH_OF[lower]
        elif lower in t.ABBREVIATIONS and not (
            lower in ("max", "pres", "al", "ext", "hon", "rev", "rep") and not rest
        ):
            said = t.ABBREVIATIONS[lower]
        else:
            return 0
        self._say(said, at, end + 1)
        if POSSESSIVE.match(text, end + 1) and self.out[-1].kind == "word":
            last = self.out[-1]
            self.out[-1] = Word(last.text + "'s", last.start, end + 3)  # King Jr.'s
            return end + 3
        return self._final_stop(end + 1)

    def _beside_a_day(self) -> bool:
        """Whether another day and a word between are right before: Sat. & Sun."""
        days = [w.text.lower() for w in self.out[-2:]]
        return days[:1] != [] and days[0] in t.WEEKDAYS and days[-1] in ("and", "or", "to")

    def _final_stop(self, end: int) -> int:
        if self.text[end - 1] == "." and not self.text[end:].strip("\"')\u201d\u2019 \n"):
            self.out.append(Word(".", end - 1, end, "punct"))
        return end
