"""Dr. and St.: a title before a name, or a street's kind behind one.

Both stand between two capitals in "on Elm Dr. Next door" and in "then Dr. Brown", so what comes before decides: a house
number, a word for being on a street, or a name that streets have.
"""

from __future__ import annotations

import re

from speechstream.text.en.tables import MONTHS, WEEKDAYS

TITLE = {"dr": "doctor", "st": "saint"}
STREET = {"dr": "drive", "st": "street"}
OWNERS = "the a my your his her our their this that another every".split()  # "my Dr. said"
COMMON = frozenset(
    "main elm oak maple pine cedar walnut chestnut church high park wall baker broad market state bridge mill spring "
    "washington hill sunset ocean harbor river lincoln jefferson franklin union front water center centre".split()
)
# capitals, or a street's number, right before the abbreviation
NAME_BEFORE = re.compile(r"((?:(?:[A-Z][\w'’-]*|\d+(?:st|nd|rd|th))\s+){1,3})$")
PLACES = frozenset("mount mt port sault fort cape lake".split())  # "Mount St. Helens"
PAIR = re.compile(r"(?:and|&|or) (?:Mrs|Mr|Ms|Miss|Dr|Prof)\b")  # Dr. and Mrs. Watson
LED = re.compile(r"(?:\b\d+[A-Z]?|\b(?:on|onto|along|off|down|across|up|corner of))\s+$", re.I)


def read(lower: str, text: str, at: int, rest: str) -> str:
    """What "dr" or "st" at a place of a text stands for. rest: what follows its full stop, without leading spaces."""
    before = text[:at]
    words = re.findall(r"[\w'’]+", before)
    last = words[-1].lower() if words else ""
    if not rest[:1].isupper():
        titled = lower == "dr" and (
            last in OWNERS or PAIR.match(rest) or not before.strip() and rest
        )
        return TITLE[lower] if titled else STREET[lower]
    return STREET[lower] if _on_a_street(before, lower) else TITLE[lower]


def _on_a_street(before: str, lower: str) -> bool:
    run = NAME_BEFORE.search(before)
    if run is None:
        return False
    names = [w.rstrip(".").lower() for w in run[1].split()]
    if any(w in MONTHS or w in WEEKDAYS for w in names):
        return False  # "on Monday Dr. Brown"
    if names[-1] in PLACES:
        return False
    if names[-1] in COMMON or (lower == "st" and names[-1][0].isdigit()):
        return True
    lead = before[: run.start(1)]
    while names and LED.match(f"{names[0]} "):  # "On Elm St." at a sentence's start
        lead += f"{names.pop(0)} "
    return bool(names) and LED.search(lead) is not None
