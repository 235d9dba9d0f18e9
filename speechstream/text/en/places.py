"""Short words of place and time: states behind towns, points of the compass, streets, days and months."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, geography, numbers, tables as t

DEGREES = frozenset(("MD", "MA", "PA"))
DIRECTION = re.compile(r"(\.?)\s+([A-Z][a-z]+|\d+(?:st|nd|rd|th))")
ROOMS = {
    "Apt": "apartment",
    "Ste": "suite",
    "Bldg": "building",
    "Rm": "room",
    "Trk": "track",
    "Plt": "platform",
    "Pg": "page",
    "Tbl": "table",
    "Rte": "route",
    "Hwy": "highway",
    "Fl": "floor",
}
PROVINCES = {
    "ON": "Ontario",
    "QC": "Quebec",
    "BC": "British Columbia",
    "AB": "Alberta",
    "MB": "Manitoba",
    "SK": "Saskatchewan",
    "NS": "Nova Scotia",
    "NB": "New Brunswick",
    "PE": "Prince Edward Island",
    "NL": "Newfoundland",
    "YT": "Yukon",
}
POSTAL = re.compile(r",? [A-Z]\d[A-Z] ?\d[A-Z]\d(?!\w)")
REGION = re.compile(r"\. ([A-Z][a-z]+)")
NUMBER_SIGN = re.compile(r" #?\d")
WINDS = re.compile(r"\b[Ww]inds?:? (?:from the )?\||\| [Ww]inds?\b|\b[Hh]eading \|")
ON_A_STREET = re.compile(r"\b(?:on|onto|down|up|at|and|along|off) $")
STREET_AHEAD = re.compile(
    r"(?:[A-Z]\w+ ){1,2}(?:St|Ave|Blvd|Rd|Dr|Ln|Street|Avenue|Road|Drive|Lane|Boulevard)\b"
)
CROSS_STREET = re.compile(r"\d+(?:st|nd|rd|th) (?:St|Ave|Street|Avenue)\b")
TOWNS_AFTER = frozenset("in from of to near at around outside through leaving via between".split())
LATITUDE = re.compile(r" ?\d{1,3}(?:\.\d+)?\u00b0")
ONWARD = re.compile(r"\s(?:to|and|or|via|then|from|\u2192|->) [A-Z][a-z]+")
GOES_ON = re.compile(r"\. [a-z\d]")
BOUND = re.compile(r"\.? of (?:the|town|here|[A-Z])")  # 5 km N of the town
ROAD = re.compile(r"\b(?:I|US|Rte|Route|Hwy|Highway|SR)(?:\. |[- ]?)\d{1,3} $")
DAY_AFTER = re.compile(r"[\s.,;:?!)\u2013-]|$")
DAY_MARKED = re.compile(r" ?@|: |/(?:Thurs?|Fri|Sun|Sat|Tue)")
STREET_CLOSED = re.compile(r"\.(?=[,;)])|(?=[,;)]|$)")
SIDE = re.compile(
    r"\. (?:entrance|side|wing|end|gate|exit|door|bank|shore|slope|wall|lot|tower|face|rim|parking|stairs|lobby|coast|edge)\b"
)
STREET_END = re.compile(
    r"\s*(?:[,;:!?)\n&]|$)|\s(?:and|at|between|near|in|is|was|to|for|from|where|just|by|has)\b"
)


class Places:
    """The part of a reading (`speechstream.text.en.normalise`) that reads them."""

    def _month(self, word: str, at: int, end: int) -> int:
        """A month in short without a day: in Jan, to Aug. Returns where it ends, or 0."""
        lower = word.lower()
        if lower not in t.MONTH_OF or lower in t.MONTHS or not word.istitle():
            return 0
        if self._before() not in q.BEFORE_MONTH or self.text[end : end + 1] in ("'", "\u2019", "-"):
            return 0
        self._say(t.MONTH_OF[lower], at, end)
        return end + 1 if GOES_ON.match(self.text, end) else end

    def _place(self, word: str, at: int, end: int) -> int:
        """States after a town, directions before a street, days in short. Returns where it ends, or 0."""
        text = self.text
        if word in PROVINCES and POSTAL.match(text, end) and text[max(at - 2, 0) : at] == ", ":
            self._say(PROVINCES[word].split(), at, end)
            return end
        if word in PROVINCES and (done := self._state(word, at, end)):
            return done
        if word in geography.STATES and (done := self._state(word, at, end)):
            return done
        if word in geography.POINTS and (m := REGION.match(text, end)):
            for names, ending in ((geography.OF_TWO, ""), (geography.PARTED, "ern")):
                if m[1] in names:
                    self._say(geography.DIRECTIONS[word] + ending, at, end + 1)
                    return end + 1
        if word in geography.DIRECTIONS and LATITUDE.match(text, end):
            self._say(geography.DIRECTIONS[word], at, end)
            return end
        if word in geography.DIRECTIONS and (m := DIRECTION.match(text, end)):
            numbered = self.number_end == at - 1 and (m[1] or not m[2][:1].islower())
            numbered = (
                numbered
                or m[1]
                and m[2][0].isdigit()
                or CROSS_STREET.match(text, m.start(2))
                or ON_A_STREET.search(text[max(0, at - 6) : at])
                and STREET_AHEAD.match(text, m.start(2))
            )
            if numbered or len(word) == 2 and self._before() in geography.STREET_NAMES.values():
                self._say(geography.DIRECTIONS[word], at, end + len(m[1]))
                return end + len(m[1])
        if word in ROOMS and NUMBER_SIGN.match(text, end):
            self._say(ROOMS[word], at, end)
            return end
        if word == "Fl" and self._before().endswith(("th", "first", "second", "third")):
            self._say("floor", at, end)
            return end
        if word in geography.DIRECTIONS and SIDE.match(text, end):
            self._say(geography.DIRECTIONS[word], at, end + 1)
            return end + 1
        near = text[max(0, at - 14) : at] + "|" + text[end : end + 9]
        if word in geography.DIRECTIONS and WINDS.search(near):
            self._say(geography.DIRECTIONS[word], at, end)
            return end
        if word in geography.DIRECTIONS and (
            BOUND.match(text, end) or ROAD.search(text[max(0, at - 14) : at])
        ):
            self._say(geography.DIRECTIONS[word], at, end)
            return end
        if word in geography.DIRECTIONS and self._before() in geography.STREET_NAMES.values():
            if m := STREET_CLOSED.match(text, end):
                self._say(geography.DIRECTIONS[word], at, m.end())
                return m.end()
        if (
            len(word) == 2
            and word in geography.DIRECTIONS
            and self._before() in geography.STREET_NAMES.values()
        ):
            self._say(geography.DIRECTIONS[word], at, end)
            return end
        lower = word.lower()
        if lower in q.WEEKDAYS_SHORT and word.istitle() and DAY_AFTER.match(text, end):
            stop = text[end : end + 1] == "." and text[end + 1 : end + 2] not in ("", "\n")
            marked = lower != "sun" and DAY_MARKED.match(text, end)
            if lower not in ("wed", "sat", "sun") or marked or self._day_near(end):
                self._say(q.WEEKDAYS_SHORT[lower], at, end + stop)
                return end + stop
        if (
            lower in geography.STREET_NAMES
            and word.istitle()
            and STREET_END.match(text, end)
            and text[end : end + 1] != "."
        ):
            earlier = [w.text for w in self.out[-4:]]
            ordinal = earlier and earlier[-1].endswith(("th", "first", "second", "third"))
            named = (
                earlier and earlier[-1][:1].isupper() and any(w in numbers.NAMES for w in earlier)
            )
            if named or ordinal:
                self._say(geography.STREET_NAMES[lower], at, end)
                return end
        return 0

    def _day_near(self, end: int) -> bool:
        """Whether Sat or Sun is a day: another day, or a range or a number, is next to it."""
        after = self.text[end : end + 8]
        both = (
            self._before() in ("and", ",")
            and len(self.out) > 1
            and self.out[-2].text.lower() in t.WEEKDAYS
        )
        return (
            both
            or self._before() in ("to", *t.WEEKDAYS)
            or self._before()
            in ("coming", "on", "this", "next", "last", "until", "till", "by", "every")
            or any(w.text.lower() in t.WEEKDAYS for w in self.out)
            and re.match(r" (?:closed|open|only|from|by|noon)\b", self.text[end : end + 8])
            is not None
            or bool(re.match(r"[-\u2013,]?\s?(?:\d|[A-Z][a-z]{2})", after))
        )

    def _state(self, word: str, at: int, end: int) -> int:
        """A state by two letters: after a town and a comma."""
        text = self.text
        if len(self.out) < 2 or self.out[-1].text != "," or not text[max(at - 2, 0) : at] == ", ":
            return 0
        town = self.out[-2]
        if self.shouting or not town.text[:1].isupper() or town.text.lower() in q.INTERJECTIONS:
            return 0
        if word in DEGREES and self._person():
            return 0  # Jane Doe, MD
        after = text[end:]
        closed = (
            not after
            or after[0] in ".,;:!?)\n"
            or re.match(r"\s+\d{5}", after)
            or ONWARD.match(after)
        )
        ambiguous = word.lower() in q.SHORT_WORDS or word in ("OK", "PE", "AB")
        if ambiguous and not closed and not self._in_a_town():
            return 0
        self._say((geography.STATES.get(word) or PROVINCES[word]).split(), at, end)
        return end

    def _in_a_town(self) -> bool:
        """Whether the words before a comma are the name of a place: of, in, near Los Alamos."""
        for w in reversed(self.out[-5:-1]):
            if not w.text[:1].isupper():
                return w.text.lower() in TOWNS_AFTER
        return False

    def _person(self) -> bool:
        """Whether the words before a comma are a person's name: a title or a given name begins it."""
        name = []
        for w in reversed(self.out[:-1]):
            if w.kind == "punct" or not (w.text[:1].isupper() or w.text in ("doctor", "professor")):
                break
            name.append(w.text.lower())
        return len(name) > 1 and (
            name[-1] in q.GIVEN_NAMES or name[-1] in ("doctor", "professor") or len(name[1]) == 1
        )
