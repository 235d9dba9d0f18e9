"""Letters with marks that are read as a whole: O- blood, Tue/Thu, cc'd, w/in, Feb '24, CVE-2024-3094.

`match(text, at)` gives the words of what stands at `at` and where it ends, or None.
"""

from __future__ import annotations

import re

from speechstream.text.en import numbers, tables as t
from speechstream.text.en.cues import WEEKDAYS_SHORT

_DAY = "(?:Mon|Tues?|Weds?|Thu(?:rs?)?|Fri|Sat|Sun)"
DAYS = re.compile(rf"{_DAY}(?:/{_DAY})+(?![\w/])")
_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)"
MONTHS = re.compile(rf"{_MONTH}/{_MONTH}(?![\w/])")
MONTH_OF_A_YEAR = re.compile(rf"({_MONTH})\.? (?=['\u2019]\d\d(?!\w))")
WORKDAYS = re.compile(r"M[-\u2013](W|Th|F|Sat?|Sun?)(?=:? \d{1,2}(?!\d|[-.]\d{3})| and \d)")
LAST_DAY = {"w": "wednesday", "t": "thursday", "f": "friday", "sa": "saturday", "su": "sunday"}
MARK = re.compile(r"Mk\.? ?(?:([IVX]{1,4})|(\d))(?!\w)")
BLOOD = re.compile(r"(AB|[ABO])\s?([-+\u2212])(?!\w|\.\d|\s?\d)")
ABOUT_BLOOD = re.compile(
    r"\b(?:blood|donors?|donat\w+|transfus\w+|plasma|Rh|platelets?|type [ABO]{1,2}\s?[-+\u2212])"
)
SIGNS = {"-": "negative", "\u2212": "negative", "+": "positive"}
VERBED = re.compile(
    r"(b?cc|dm|pm|ko|id|od|rt|tko|qa|rsvp|ocr|dj|mc|ftp|ssh)(['\u2019](?:d|ed|ing|s)|ed|ing)(?!\w)",
    re.I,
)
DEGREES = re.compile(r"deg\. ?([CFK])(?!\w)")
SCALES = {"C": "celsius", "F": "fahrenheit", "K": "kelvin"}
REVISED = re.compile(
    r"rev['\u2019]d (?=[A-Z]{2,}|draft|version|plan|schedule|copy|contract|agreement|docs?\b|budget|list|quote|agenda)"
)
EXTENSION = re.compile(r"[xX] ?(?=\d{2,5}(?!\w))")
TELEPHONE = re.compile(r"\d{3}[-. ]?\d{4},? $")
CVE = re.compile(r"CVE-(\d{4})-(\d{4,7})(?!\w)")
SEROTYPE = re.compile(r"O(\d{2,3}):H(\d{1,2})(?!\w)")
GLUED = frozenset(("cced", "ccing", "bcced", "bccing"))  # without an apostrophe
OFFICE = {
    "AA/AAA": "double A or triple A",
    "w/in": "within",
    "W/in": "within",
    "y/n": "yes or no",
    "Y/N": "yes or no",
    "a.k.a.": "A K A",
    "p/u": "pick up",
    "d/o": "drop off",
    "w/d": "washer dryer",
    "W/D": "washer dryer",
    "h/w": "hardware",
    "s/w": "software",
    "v/v": "vice versa",
    "i/o": "I O",
}
OFFICES = re.compile("(?:" + "|".join(re.escape(w) for w in OFFICE) + r")(?![\w/])")
FEATURED = re.compile(r"(?:feat\.?|ft\.?) (?=[A-Z\u00c0-\u00de][\w\u00c0-\u00ff]|[A-Z]\.)")
FEATURED_AFTER = re.compile(r"(?:[A-Za-z\u00c0-\u00ff'\u2019\")]|\() ?$")
FIRST = frozenset("CxXMTWFSJANDOBbcdpkirtqoRPKIQwWyYahvsf")


GATE = re.compile(  # where any of them may match
    "|".join(
        f"(?:{p.pattern})"
        for p in (
            DAYS,
            MONTHS,
            BLOOD,
            OFFICES,
            FEATURED,
            DEGREES,
            REVISED,
            EXTENSION,
            CVE,
            SEROTYPE,
            MONTH_OF_A_YEAR,
            WORKDAYS,
            MARK,
        )
    )
)


def match(text: str, at: int) -> tuple[str, int] | None:
    """The words of the whole that begins at `at`, and where it ends."""
    if text[at] not in FIRST or at and (text[at - 1].isalnum() or text[at - 1] in "/'\u2019"):
        return None
    if not GATE.match(text, at):
        return None
    if m := DAYS.match(text, at):
        days = [WEEKDAYS_SHORT[d.lower()] for d in m[0].split("/")]
        return " ".join([*days[:-1], "and", days[-1]]), m.end()
    if m := MONTHS.match(text, at):
        return " ".join(t.MONTH_OF[x.lower()] for x in m[0].split("/")), m.end()
    if (m := BLOOD.match(text, at)) and ABOUT_BLOOD.search(text):
        return f"{' '.join(m[1])} {SIGNS[m[2]]}", m.end()
    if m := MONTH_OF_A_YEAR.match(text, at):
        return t.MONTH_OF[m[1].lower()], m.end() - 1
    if m := WORKDAYS.match(text, at):
        day = m[1].lower()
        return (
            f"monday to {LAST_DAY.get(day) or LAST_DAY.get(day[:2]) or LAST_DAY[day[0]]}",
            m.end(),
        )
    if (m := MARK.match(text, at)) and (value := int(m[2] or numbers.roman(m[1]) or 0)):
        return " ".join(["mark", *numbers.cardinal(value)]), m.end()
    if m := REVISED.match(text, at):
        return "revised", m.end() - 1
    if (m := EXTENSION.match(text, at)) and TELEPHONE.search(text, max(0, at - 12), at):
        return "extension", m.end()
    if m := CVE.match(text, at):
        return " ".join(["C V E", *numbers.year(int(m[1])), *numbers.digits(m[2])]), m.end()
    if m := SEROTYPE.match(text, at):
        return " ".join(["O", *numbers.grouped(m[1]), "H", *numbers.cardinal(m[2])]), m.end()
    if m := DEGREES.match(text, at):
        return f"degrees {SCALES[m[1]]}", m.end()
    if m := OFFICES.match(text, at):
        return OFFICE[m[0]], m.end()
    if (m := FEATURED.match(text, at)) and FEATURED_AFTER.search(text, max(0, at - 3), at):
        return "featuring", m.end() - 1
    return None


def verb(text: str, at: int) -> tuple[str, int] | None:
    """cc'd, BCC'ing, DM'd: letters with the ending of a verb, as a word of letters."""
    m = VERBED.match(text, at)
    if not m or m[2][0] not in "'\u2019" and m[0].lower() not in GLUED:
        return None
    return m[1].upper() + ("'" + m[2].lstrip("'\u2019")), m.end()
