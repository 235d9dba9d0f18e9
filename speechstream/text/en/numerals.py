"""Written numbers of every kind, as words: dates, times, money, units, ranges, phone numbers, versions and the rest.

`read(text, at, before)` returns what stands at `text[at]` as pieces `(words, start, end)`, and where it ends, or None.
A word in capitals (`"A M"`) is to be spelled, "," is a short pause. Rules are tried in order: the more specific first.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from speechstream.text.en import numbers as n, tables as t

Piece = tuple[list[str], int, int]
Read = "tuple[list[Piece], int] | None"

INT = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
NUM = rf"(?:(?:{INT})(?:\.\d+)?|\.\d+)"
SIGN = r"(?:[-\u2212+\u00b1](?=[\d.$\u00a3\u20ac\u00a5]))?"
DASH = r"[-\u2010-\u2013\u2212]"
END = r"(?![^\W_])"
MONTH = (
    r"(?:jan(?:uary|\.)?|feb(?:ruary|\.)?|mar(?:ch|\.)?|apr(?:il|\.)?|may|june?\.?|july?\.?|aug(?:ust|\.)?|"
    r"sept?(?:ember|\.)?|oct(?:ober|\.)?|nov(?:ember|\.)?|dec(?:ember|\.)?)(?![a-z])"
)
SYMBOL = "|".join(sorted(map(re.escape, t.CURRENCIES), key=len, reverse=True))
CODES = "|".join(c for c in t.CURRENCIES if c.isalpha()) + "|\u20ac|\u00a3|\u00a2|\\$"
MAGNITUDE = r"hundred|thousand|million|billion|trillion"
SPACED = "|".join(
    sorted((re.escape(u) for u in t.UNITS if u not in t.NOT_SPACED), key=len, reverse=True)
)
TOUCHING = "|".join(sorted(map(re.escape, {**t.UNITS, **t.ATTACHED_UNITS}), key=len, reverse=True))
PER = "|".join(sorted(map(re.escape, t.PER), key=len, reverse=True))
RULES: list[tuple[re.Pattern, Callable]] = []


def rule(pattern: str, flags: int = 0):
    """Register a handler `(match, before) -> words | pieces | None` for what the pattern matches."""

    def add(handler):
        RULES.append((re.compile(pattern, flags), handler))
        return handler

    return add


def read(text: str, at: int, before: str) -> tuple[list[Piece], int] | None:
    """The number that begins at `at`, as pieces of words with their places in `text`; `before` is the word before it."""
    for pattern, handler in RULES:
        m = pattern.match(text, at)
        if m:
            out = handler(m, before)
            if out:
                if isinstance(out[0], str):
                    out = [(out, m.start(), m.end())]
                return out, m.end()
    return None


def number(text: str) -> list[str]:
    """A number with sign, commas or decimals."""
    sign = {
        "-": ["minus"],
        "\u2212": ["minus"],
        "\u00b1": ["plus", "or", "minus"],
        "+": ["plus"],
    }.get(text[:1], [])
    return sign + n.decimal(text[1:] if sign else text)


def is_one(text: str) -> bool:
    return text.lstrip("-+\u2212\u00b1") == "1"


def unit_words(symbol: str, singular: bool) -> list[str]:
    """'km' -> kilometers; 'mph' -> miles per hour: the first noun takes the plural."""
    words = (t.UNITS.get(symbol) or t.ATTACHED_UNITS[symbol]).split()
    if not singular and not words[0].isupper():
        at = next(
            (i - 1 for i, w in enumerate(words) if w in ("per", "celsius", "fahrenheit")),
            len(words) - 1,
        )
        words[at] = n.plural(words[at])
    return words


@rule(
    r"(?:\+?\d{1,3}[ .-])?\(\d{3}\)[ -]?\d{3}[ .-]\d{4}"
    + END
    + r"|(?:\+?\d{1,3}[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}"
    + END
    + r"|\d{3}-\d{4}"
    + END
    + r"|\+\d{1,3}(?:[ -]\d{2,5}){2,5}"
    + END
    + r"|\d{3}-\d{2}-\d{4}"
    + END
    + r"|\d{1,5}(?:-\d{1,7}){3,4}"
    + END
)
def phone(m, before):
    """Telephone and other hyphenated numbers: digits in groups; 800 is eight hundred."""
    words = ["plus"] if m[0].startswith("+") else []
    groups = re.findall(r"\d+", m[0])
    for i, group in enumerate(groups):
        words += (["eight", "hundred"] if group == "800" else n.digits(group)) + [","] * (
            i + 1 < len(groups)
        )
    return words


@rule(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?:T(?=\d\d:))?" + END)
def iso_date(m, before):
    return _date(int(m[1]), int(m[2]), int(m[3]))


@rule(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d\d)" + END + r"(?!\.\d)")
def numeric_date(m, before):
    """3/15/2024, and 15.3.2024 with the day first where stops divide it or the first number cannot be a month."""
    first, second, year = int(m[1]), int(m[3]), int(m[4])
    if m[2] != "/" and len(m[4]) == 2:
        return None
    if len(m[4]) == 2:
        year += 2000 if year < 50 else 1900
    day_first = first > 12 or m[2] == "."
    return _date(year, second, first) if day_first else _date(year, first, second)


def _date(year: int, month: int, day: int) -> list[str] | None:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return [t.MONTHS[month - 1]] + n.ordinal(day) + [","] + n.year(year)


@rule(
    rf"({MONTH})(\s+)(\d{{1,2}})(?:st|nd|rd|th)?{END}(?!:\d|\.\d|%|,\d)(?:\s?{DASH}\s?(\d{{1,2}})(?:th|st|nd|rd)?{END})?"
    rf"(?:(,?\s+)(\d{{4}}){END}(?!\.\d|,\d))?",
    re.I,
)
def month_day(m, before):
    if not m[1][0].isupper() and m[1].lower() in ("may", "march", "mar"):
        return None
    if not 1 <= int(m[3]) <= 31:
        return None
    pieces = [([t.MONTH_OF[m[1].rstrip(".").lower()]], *m.span(1)), (n.ordinal(m[3]), *m.span(3))]
    if m[4]:
        pieces.append((["to"] + n.ordinal(m[4]), *m.span(4)))
    if m[6]:
        pieces += [([","], m.start(5), m.start(5))] + [(n.year(int(m[6])), *m.span(6))]
    return pieces


@rule(rf"(\d{{1,2}})(st|nd|rd|th)?\s+(of\s+)?({MONTH})(?:(,?\s+)(\d{{4}}){END}(?!\.\d|,\d))?", re.I)
def day_month(m, before):
    if not 1 <= int(m[1]) <= 31 or (
        m[4].lower() in ("may", "mar", "march") and not m[4][0].isupper()
    ):
        return None
    the = [] if before in ("the", "this", "last", "next") else ["the"]
    pieces = [
        (the + n.ordinal(m[1]), *m.span(1)),
        (["of"], *m.span(4)),
        ([t.MONTH_OF[m[4].rstrip(".").lower()]], *m.span(4)),
    ]
    if m[6]:
        pieces.append((n.year(int(m[6])), *m.span(6)))
    return pieces


@rule(rf"({MONTH})(\s+)(\d{{4}}){END}(?![.,]\d)", re.I)
def month_year(m, before):
    if not m[1][0].isupper():
        return None
    return [([t.MONTH_OF[m[1].rstrip(".").lower()]], *m.span(1)), (n.year(int(m[3])), *m.span(3))]


@rule(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?(?:\s?([ap])\.?m\b\.?)?(?!\w|:\d)", re.I)
def clock(m, before):
    hour, minute = int(m[1]), int(m[2])
    half = [m[4].upper(), "M"] if m[4] else []
    if m[3]:
        if half or len(m[1]) == 2:
            return (
                n.cardinal(hour)
                + _minutes(minute)
                + ["and"]
                + n.cardinal(m[3])
                + ["second" + "s" * (int(m[3]) != 1)]
                + half
            )
        return [
            *n.cardinal(hour),
            "hour" + "s" * (hour != 1),
            *n.cardinal(minute),
            "minutes",
            *n.cardinal(m[3]),
            "seconds",
        ]
    if hour > 24:
        return n.cardinal(hour) + (_minutes(minute) or ["to", "zero"])
    if minute == 0:
        if half:
            return n.cardinal(hour) + half
        return n.cardinal(hour) + (["o'clock"] if 1 <= hour <= 12 else ["hundred"])
    return n.cardinal(hour) + _minutes(minute) + half


def _minutes(minute: int) -> list[str]:
    return [] if minute == 0 else (["oh"] if minute < 10 else []) + n.cardinal(minute)


@rule(rf"(\d{{1,2}})(?:\s?{DASH}\s?(\d{{1,2}}))?\s?([ap])\.?m\b\.?(?!\w)", re.I)
def hour(m, before):
    if (
        m[3].islower()
        and m[0].endswith("am")
        and " " in m[0]
        and m[0][-3:] == " am"
        and int(m[1]) > 12
    ):
        return None
    return n.cardinal(m[1]) + (["to"] + n.cardinal(m[2]) if m[2] else []) + [m[3].upper(), "M"]


@rule(
    rf"({SIGN})({SYMBOL})\s?({SIGN})({NUM})(?:\s?({DASH}|to)\s?(?:{SYMBOL})?({NUM}))?"
    rf"(?:(\s?)({MAGNITUDE}|bn|tn|mn|[kKmMbBT])(?![^\W_]))?(?:/({PER}){END})?"
)
def money(m, before):
    """$3.50, -$5, $1.2 million, $10-20, $5/month."""
    unit, cent = t.CURRENCIES[m[2]]
    return _money(m[1] or m[3], m[4], m[6], m[8], unit, cent) + (
        ["per", *t.PER[m[9]].split()] if m[9] else []
    )


@rule(rf"({SIGN})({NUM})(?:\s({MAGNITUDE}|bn|mn))?\s?({CODES})(?![^\W_])")
def money_after(m, before):
    unit, cent = t.CURRENCIES[m[4]]
    return _money(m[1], m[2], None, m[3], unit, cent)


def _money(sign, amount, upto, magnitude, unit, cent) -> list[str]:
    words = ["minus"] if sign in ("-", "\u2212") else []
    names = unit.split()
    plural = names[:-1] + [n.plural(names[-1]) if names[-1] != "won" else "won"]
    scale = [t.MAGNITUDES[magnitude]] if magnitude else []
    if upto:
        return words + n.decimal(amount) + ["to"] + n.decimal(upto) + scale + plural
    whole, _, part = amount.replace(",", "").partition(".")
    if scale or len(part) not in (0, 2) or (part and not cent):
        return words + n.decimal(amount) + scale + plural
    cents = int(part or 0)
    small = n.cardinal(cents) + [cent if cents == 1 else n.plural(cent)] if cents else []
    if cents and not int(whole or 0):
        return words + small
    big = n.cardinal(whole) + (names if whole.lstrip("0") == "1" else plural)
    return words + big + (["and"] + small if small else [])


@rule(rf"(\d{{1,2}})['\u2032\u2019]\s?(\d{{1,2}})(?:[\"\u2033\u201d]|''){END}")
def feet_inches(m, before):
    return n.cardinal(m[1]) + ["foot"] + n.cardinal(m[2])


@rule(
    rf"({SIGN})({NUM})(?:\s?({DASH}|to|\u00b1)\s?({NUM}))?\s?(%|\u2030|percent(?:age points?)?){END}"
)
def percent(m, before):
    name = {"%": ["percent"], "\u2030": ["per", "mille"]}.get(m[5], m[5].split())
    middle = ["plus", "or", "minus"] if m[3] == "\u00b1" else ["to"]
    return number(m[1] + m[2]) + (middle + n.decimal(m[4]) if m[4] else []) + name


@rule(
    rf"({SIGN})({NUM})(?:\s?({DASH}|to|\u00b1|x|\u00d7)\s?({NUM}))?(?:(?:\s|-)?({SPACED})|({TOUCHING}))(?:/({PER}))?(?![^\W_])"
)
def measure(m, before):
    """5 km, 20 \u00b0C, 3-5 kg, 90 km/h, 10m."""
    symbol = m[5] or m[6]
    if (
        symbol in ("m", "s", "h", "g")
        and m[0][-2:-1] == " "
        and m[0].endswith(" " + symbol)
        and m[7] is None
        and re.match(r"['\u2019]", m.string[m.end() : m.end() + 1])
    ):
        return None
    if symbol == "s" and not m[5] and len(m[2]) in (2, 4) and m[2].endswith("0"):
        return None  # 1990s, 80s: a decade
    if (
        symbol == "s"
        and m[5]
        and m.string[m.start(5) - 1].isdigit()
        and len(m[2]) in (2, 4)
        and m[2].endswith("0")
    ):
        return None
    middle = {"\u00b1": ["plus", "or", "minus"], "x": ["by"], "\u00d7": ["by"]}.get(m[3], ["to"])
    words = number(m[1] + m[2]) + (middle + n.decimal(m[4]) if m[4] else [])
    words += unit_words(symbol, is_one(m[2]) and not m[4])
    return words + (["per", *t.PER[m[7]].split()] if m[7] else [])


@rule(rf"({SIGN})(\d+)?\s?([{''.join(t.VULGAR)}])")
def vulgar(m, before):
    top, bottom = t.VULGAR[m[3]]
    if not m[2]:
        return number(m[1] + "0")[:-1] + (["a", "half"] if bottom == 2 else n.fraction(top, bottom))
    return (
        number(m[1] + m[2]) + ["and"] + (["a", "half"] if bottom == 2 else n.fraction(top, bottom))
    )


@rule(rf"(24)/(7){END}|(9)/(11){END}")
def named_fraction(m, before):
    return n.cardinal(m[1] or m[3]) + n.cardinal(m[2] or m[4])


@rule(rf"(?:(\d+)\s)?(\d{{1,3}})\s?[/\u2044]\s?(\d{{1,4}}){END}(?!/)")
def fraction(m, before):
    top, bottom = int(m[2]), int(m[3])
    if top == bottom and top > 10 and not m[1]:
        return n.cardinal(top) * 2  # fifty fifty
    words = (
        n.cardinal(top) + ["out", "of"] + n.cardinal(bottom)
        if bottom in (10, 100) and not m[1]
        else n.fraction(top, bottom)
    )
    return (
        n.cardinal(m[1]) + ["and"] + (["a", "half"] if (top, bottom) == (1, 2) else words)
        if m[1]
        else words
    )


@rule(rf"(\d{{1,3}})\.(\d{{1,3}})\.(\d{{1,3}})\.(\d{{1,3}})(?::(\d+))?{END}")
def ip_address(m, before):
    words = [w for i in range(1, 5) for w in n.grouped(m[i]) + ["dot"]][:-1]
    return words + (["port"] + n.grouped(m[5]) if m[5] else [])


@rule(
    rf"[vV]?(\d+(?:\.\d+){{2,}})(?:[-.]?(alpha|beta|rc|dev|post)\.?(\d*))?{END}|[vV](\d+(?:\.\d+)?){END}"
)
def version(m, before):
    parts = (m[1] or m[4]).split(".")
    words = ["version"] if m[0][0] in "vV" and before != "version" else []
    words += [w for p in parts for w in _version_part(p) + ["point"]][:-1]
    extra = {"rc": ["release", "candidate"]}.get(m[2], [m[2]] if m[2] else [])
    return words + extra + (n.cardinal(m[3]) if m[3] else [])


def _version_part(part: str) -> list[str]:
    return (
        n.cardinal(part)
        if len(part) <= 2 and not (part.startswith("0") and len(part) > 1)
        else n.digits(part)
    )


@rule(rf"(\d+)\.(\d{{1,2}}){END}")
def release(m, before):
    """Python 3.11: after a product's name the part behind the point is a number of its own."""
    if before not in (
        "version",
        "python",
        "release",
        "ios",
        "android",
        "macos",
        "chapter",
        "section",
        "cuda",
        "ubuntu",
        "java",
        "node",
        "kernel",
        "pytorch",
    ):
        return None
    return n.cardinal(m[1]) + ["point"] + _version_part(m[2])


@rule(rf"({INT})(?:st|nd|rd|th){END}", re.I)
def ordinal(m, before):
    return n.ordinal(m[1].replace(",", ""))


@rule(rf"(?:'|\u2019)?(\d0|\d{{3}}0)['\u2019]?s{END}")
def decade(m, before):
    if len(m[1]) == 4 and not 1000 <= int(m[1]) <= 2990:
        return None
    return n.decade(int(m[1]))


@rule(rf"['\u2019](\d\d){END}")
def short_year(m, before):
    return n.grouped(m[1]) if m[1][0] != "0" else ["oh"] + n.digits(m[1][1])


@rule(
    rf"({SIGN})(\d+(?:\.\d+)?)(?:[eE]([-+]?\d{{1,3}})|\s?[\u00d7x*]\s?10(?:\^([-\u2212]?\d+)|([\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+))){END}"
)
def scientific(m, before):
    power = (m[3] or m[4] or m[5].translate(t.SUPERSCRIPTS)).replace("+", "").replace("\u2212", "-")
    if len(power.strip("-")) > 6:
        return None
    return number(m[1] + m[2]) + ["times", "ten", "to", "the"] + n.cardinal(power)


@rule(
    rf"({SIGN})({NUM})(?:\^([-\u2212]?\d{{1,6}})|([\u207b\u2070\u00b9\u00b2\u00b3\u2074-\u2079]{{1,6}})){END}"
)
def power(m, before):
    return number(m[1] + m[2]) + exponent(
        (m[3] or m[4].translate(t.SUPERSCRIPTS)).replace("\u2212", "-")
    )


def exponent(text: str) -> list[str]:
    """2 -> squared, 3 -> cubed, 5 -> to the fifth, -1 -> to the minus one."""
    if text in ("2", "3"):
        return ["squared"] if text == "2" else ["cubed"]
    return ["to", "the"] + (n.cardinal(text) if text.startswith("-") else n.ordinal(text))


@rule(rf"(\d{{2,5}})\s?[x\u00d7]\s?(\d{{2,5}}){END}|(\d+)\s?x\s?(\d+){END}")
def by(m, before):
    return n.grouped(m[1] or m[3]) + ["by"] + n.grouped(m[2] or m[4])


@rule(rf"({INT})({DASH})(\d[\d,]*){END}(?!\.\d)")
def span(m, before):
    """Ranges and scores: 10-20, 1990-95, 3-2."""
    first, second = m[1], m[3].rstrip(",")
    if m[3].endswith(",") or (second.startswith("0") and len(second) > 1):
        return (
            n.grouped(first.replace(",", "")) + n.digits(second) if not m[3].endswith(",") else None
        )
    return (
        _plain(first)
        + ["to"]
        + (n.grouped(second) if len(second) == 2 and len(first) == 4 else _plain(second))
    )


@rule(rf"({INT}){DASH}(?=[^\W\d_])")
def compound(m, before):
    return [(n.cardinal(m[1].replace(",", "")), *m.span(1))]


@rule(rf"({SIGN})({NUM})(?:\s?({MAGNITUDE}))?(?![^\W_])")
def plain(m, before):
    text = m[2]
    if m[1] or "." in text or "," in text or m[3]:
        return number(m[1] + text) + ([m[3]] if m[3] else [])
    return _plain(text)


def _plain(text: str) -> list[str]:
    """A bare integer: a year from 1100 to 2099, digits after a leading zero, else a cardinal."""
    if "," in text:
        return n.cardinal(text.replace(",", ""))
    if len(text) > 1 and text.startswith("0"):
        return n.digits(text)
    if len(text) == 4 and 1100 <= int(text) <= 2099:
        return n.year(int(text))
    return n.cardinal(text)
