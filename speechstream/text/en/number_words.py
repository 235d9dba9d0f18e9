"""The words that numbers in spoken English are made of, what joins them and what follows them."""

from __future__ import annotations

import re

from speechstream.text.en import numbers as n, tables as t

ONES = {word: i for i, word in enumerate(n.ONES)}
TENS = {word: 10 * i for i, word in enumerate(n.TENS) if i >= 2}
SCALES = {word: 1000**i for i, word in enumerate(n.SCALES) if word}
UNIT_ORDINALS = {n.ordinal_word(w): i for w, i in ONES.items() if i}
TENS_ORDINALS = {n.ordinal_word(w): i for w, i in TENS.items()}
SCALE_ORDINALS = {w + "th": v for w, v in SCALES.items()}
DECADES = {n.plural(w): v for w, v in TENS.items()}
NUMBER_WORDS = {
    *ONES,
    *TENS,
    *SCALES,
    *UNIT_ORDINALS,
    *TENS_ORDINALS,
    *SCALE_ORDINALS,
    *DECADES,
    "hundred",
    "hundredth",
    "hundreds",
    "oh",
}
MONTHS = set(t.MONTHS)
JOINS = {"and", "to", "or", "point", "per", "p", "minus"}
OPENERS = {"and", "to", "or", "a", "an"}  # after these "minus" is a sign
CURRENCIES = {
    **dict.fromkeys(("dollar", "dollars"), "$"),
    **dict.fromkeys(("euro", "euros"), "\u20ac"),
    **dict.fromkeys(("rupee", "rupees"), "\u20b9"),
    "yen": "\u00a5",
}
POUNDS = {"pound", "pounds"}  # money beside pence; else a weight as likely
CENTS = dict.fromkeys("$\u20ac\u00a5\u20b9", ("cent", "cents")) | {
    "\u00a3": ("penny", "pence", "p")
}
PERCENT = {"percent", "%"}
TIMES_OF_DAY = {"am", "pm", "a.m.", "p.m.", "a.m", "p.m", "o'clock"}
DURATIONS = {
    form
    for u in ("minute", "hour", "day", "week", "month", "year", "millisecond", "microsecond")
    for form in (u, u + "s")
} | {"seconds"}
MEASURES = {
    form
    for u in (
        "kilometer meter centimeter millimeter kilometre metre centimetre millimetre mile inch foot yard acre hectare "
        "kilogram gram milligram pound ounce ton tonne liter litre milliliter millilitre gallon pint degree hertz "
        "kilohertz megahertz gigahertz watt kilowatt megawatt gigawatt volt amp joule kilojoule calorie decibel byte "
        "kilobyte megabyte gigabyte terabyte bit pixel cent"
    ).split()
    for form in (u, n.plural(u))
} | {"penny", "pence"}
PAST_HOUR = {"5", "10", "20", "25"}  # minutes that clocks are read with: twenty to three
# words before digits that are read out, and not counted
READ_OUT = set("is number code pin password extension dial".split())
ROWS = set("the this that my your his her its our their".split())
HALVES = {*TIMES_OF_DAY, "a", "p"}
# what lasts as many seconds as it is told, or is one in a row: the thirty second spot
SPANS = {
    form
    for u in (
        "ad advert break clip commercial countdown delay interval limit pause rule spot teaser timeout timer trailer "
        "video wait window"
    ).split()
    for form in (u, n.plural(u))
}
SIGHT = {"vision", "hindsight", "eyesight"}  # are twenty twenty, and no year
TERMINAL = (PERCENT | TIMES_OF_DAY | DURATIONS | MEASURES | SIGHT) - POUNDS

INT = r"\d{1,3}(?:,\d{3})+|\d+"
AMOUNT = re.compile(rf"(-?)([$\u20ac\u00a3\u00a5\u20b9]?)({INT})(\.\d+)?(%?)")
ORDINAL = re.compile(rf"({INT})(?:st|nd|rd|th)")
TIME = re.compile(r"\d{1,2}:[0-5]\d")
DECADE = re.compile(r"\d\d\d0s")
