"""Counting: fractions, ordinals, powers, ranges and plain numbers."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n, tables as t, units
from speechstream.text.en.measures import EXPRESSION, FACTOR, expression
from speechstream.text.en.patterns import (
    DASH,
    END,
    INT,
    MAGNITUDE,
    NUM,
    SIGN,
    Context,
    Rules,
    alternatives,
    exponent,
    following,
    number,
    plain,
)

rule = Rules()
CASES = frozenset("case docket file account invoice order bill claim".split())
RATED = frozenset("rate rated rating rates score scored scores gave give stars star review".split())
RAISED = "\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]"


@rule(rf"({SIGN})(\d+)?\s?([{''.join(t.VULGAR)}])")
def vulgar(m, context):
    """\u00be, 2\u00bd; half an hour, half price."""
    top, bottom = t.VULGAR[m[3]]
    half = bottom == 2
    if m[2]:
        return number(m[1] + m[2]) + ["and"] + (["a", "half"] if half else n.fraction(top, bottom))
    if half and following(m).lower() in q.AFTER_HALF:
        return [*number(m[1] + "0")[:-1], "half"]
    return number(m[1] + "0")[:-1] + (["a", "half"] if half else n.fraction(top, bottom))


@rule(rf"({NUM})/({alternatives(u for u in units.PER if len(u) > 1 or u == 'h')}){END}(?![/-])")
def rate(m, context):
    """18/min."""
    return [*n.decimal(m[1]), "per", *units.PER[m[2]].split()]


@rule(rf"\d{{1,3}}(?:/\d{{1,3}}){{2,}}{END}(?!/)")
def several(m, context):
    """28/8/7 that is no date."""
    if m[0] == "24/7/365":
        return None
    return [w for part in m[0].split("/") for w in n.cardinal(part)]


@rule(rf"24/7/365{END}")
def always(m, context):
    """24/7/365."""
    return ["twenty", "four", "seven", "three", "sixty", "five"]


@rule(rf"(24)/(7){END}|(9)/(11){END}")
def named_fraction(m, context):
    """24/7, 9/11."""
    return n.cardinal(m[1] or m[3]) + n.cardinal(m[2] or m[4])


@rule(rf"(?:(\d+)[\s-])?(\d{{1,3}})\s?[/\u2044]\s?(\d{{1,4}}){END}(?!/)")
def fraction(m, context):
    """1/2, 2 1/2, 9/10; 80/20 are two numbers, 120/80 is one over the other."""
    top, bottom = int(m[2]), int(m[3])
    if m[1] and m.string[m.end(1)] == "-" and top >= bottom:
        return None
    if not m[1] and top >= 10 and (top == bottom or top + bottom == 100):
        return n.cardinal(top) + n.cardinal(bottom)
    if "of" in context.words[-1:] and top > bottom > 20 or top > 2 * bottom > 40:
        return n.cardinal(top) + ["over"] + n.cardinal(bottom)
    words = n.fraction(top, bottom)
    if following(m) in ("the", "of", "as") and top < bottom in (10, 100) and not m[1]:
        return words
    if (bottom in (10, 100) or bottom == 5 and RATED & set(context.words)) and not m[1]:
        words = n.cardinal(top) + ["out", "of"] + n.cardinal(bottom)
    if not m[1]:
        return words
    return n.cardinal(m[1]) + ["and"] + (["a", "half"] if (top, bottom) == (1, 2) else words)


@rule(rf"({INT})(?:st|nd|rd|th){END}|(\d+)[\u00ba\u00aa]{END}", re.I)
def ordinal(m, context):
    """21st."""
    return n.ordinal((m[1] or m[2]).replace(",", ""))


@rule(
    rf"({SIGN})(\d+(?:\.\d+)?)(?:[eE]([-+]?\d{{1,2}}|[-+]\d{{3}})(?!\d)|\s?[\u00d7x*]\s?10(?:\^([-\u2212]?\d+)|({RAISED}{{1,7}}))){END}(?:\s({EXPRESSION}){END}(?=[\s.,;)]|$)|\s?/\s?({FACTOR}){END})?"
)
def scientific(m, context):
    """6.02 x 10^23, 1e6."""
    power = (m[3] or m[4] or m[5].translate(t.SUPERSCRIPTS)).replace("+", "").replace("\u2212", "-")
    if len(power.strip("-")) > 6:
        return None
    words = number(m[1] + m[2]) + ["times", "ten", "to", "the"] + n.cardinal(power)
    if m[7]:
        return [*words, "per", *expression(m[7], True)]
    return words + (expression(m[6], False) if m[6] else [])


@rule(
    rf"({SIGN})({NUM})(?:\^([-\u2212]?\d{{1,6}})|({RAISED}{{1,6}})){END}(?:\s({EXPRESSION}){END}(?=[\s.,;)]|$))?"
)
def power(m, context):
    """10^6, 5\u00b2, 10\u00b3 m."""
    raised = (m[3] or m[4].translate(t.SUPERSCRIPTS)).replace("\u2212", "-")
    if m[5]:
        return _power_of(m, raised)
    return number(m[1] + m[2]) + exponent(raised)


def _power_of(m: re.Match, raised: str) -> list[str] | None:
    """A power of ten with a unit: ten to the third meters."""
    if m[2] != "10" or m[5] in q.CAREFUL - {"m"}:
        return None
    words = n.cardinal(raised) if raised[0] == "-" else n.ordinal(raised)
    return [*number(m[1] + m[2]), "to", "the", *words, *expression(m[5], False)]


@rule(
    rf"(\d{{2,5}})\s?[x\u00d7]\s?(\d{{2,5}}){END}|({NUM})(?:\s?x\s?|\u00d7)({NUM}){END}(?!-\d+/\d)"
)
def by(m, context):
    """1920x1080, 5 x 7; 6 \u00d7 7 with spaces and an equals sign is a product."""
    if "\u00d7 " in m[0] and (len(m[1] or m[3]) < 3 or re.match(r"\s?=", m.string[m.end() :])):
        return None
    first, second = m[1] or m[3], m[2] or m[4]
    if not (first + second).isdigit():
        return [*n.decimal(first), "by", *n.decimal(second)]
    return n.grouped(first) + ["by"] + n.grouped(second)


@rule(rf"({NUM})[x\u00d7]{END}(?!\s?\d)")
def times(m, context):
    """10x faster; 3x + 2 is a term."""
    term = re.match(r"\s?[-+=\u2212)<>\u2264\u2265]|$", m.string[m.end() :])
    term = term or "equals" in context.words[-3:] and re.match(r"[;,.]", m.string[m.end() :])
    if m[0][-1] == "x" and term and (context.words or m.string[m.end() :].strip()):
        return [*n.decimal(m[1]), "X"]
    return [*n.decimal(m[1]), "times"]


@rule(r"(\d+)!(?=\s?[=+*/\u00d7\u2212<>])")
def factorial(m, context):
    """5! = 120."""
    return [*n.cardinal(m[1]), "factorial"]


def numbered(context: Context) -> bool:
    """Whether a number with dashes is the name of something."""
    last, earlier = context.words[-1:], context.words[-2:-1]
    return bool(
        CASES & set(last)
        or last == ("number",)
        and CASES & set(earlier)
        or CASES - {"bill", "order"} & set(earlier)
    )


def _bracketed(m: re.Match) -> bool:
    """Whether a difference stands alone in brackets that are divided or multiplied: (5-1)/(4-2)."""
    text, end = m.string, m.end(3)
    around = text[max(0, m.start() - 2) : m.start()] + text[end : end + 2]
    return text[max(0, m.start() - 1) : m.start()] == "(" and "/" in around


@rule(rf"({INT})({DASH})(\d(?:[\d,]*\d)?){END}(?!\.\d)(\s?=)?")
def span(m, context):
    """Ranges and scores: 10-20, 1990-95, 3-2."""
    first, second = m[1], m[3].rstrip(",")
    named = len(second) > 2 or context.before == "number" and len(first) > 3
    if numbered(context) and named and "," not in m[0]:
        return n.grouped(first) + n.grouped(second)  # case no. 21-1234
    if m[4]:
        return [
            (n.cardinal(first) + ["minus"] + n.cardinal(second), m.start(), m.end(3)),
            (["equals"], m.end(3), m.end()),
        ]
    if "=" in m.string and (m[2] == "\u2212" or _bracketed(m)):
        return [*n.cardinal(first.replace(",", "")), "minus", *n.cardinal(second)]
    if m[3].endswith(","):
        return None
    if second.startswith("0") and len(second) > 1:
        return n.grouped(first.replace(",", "")) + n.digits(second)
    last = n.grouped(second) if len(second) == 2 and len(first) == 4 else plain(second)
    return plain(first) + ["to"] + last


@rule(rf"({INT}){DASH}(?=[^\W\d_])(?!(?:noon|midnight|present|now)\b)")
def compound(m, context):
    """5-year-old."""
    return [(plain(m[1]), *m.span(1))]


@rule(rf"([-\u2212]?)(\d{{1,3}}(?:\.\d{{3}})+),(\d+){END}(?![.,]\d)")
def points_for_commas(m, context):
    """1.234.567,89."""
    words = n.cardinal(m[2].replace(".", "")) + ["point", *n.digits(m[3])]
    return ["minus"] * bool(m[1]) + words


@rule(rf"([1-9]\d{{0,2}})((?: \d{{3}})+)(?![\d,.]*\d|[^\W_]|{DASH}\d| \d|/)")
def thin(m, context):
    """1 000 000 with spaces for commas."""
    if m.string[max(m.start() - 1, 0)] == "=":
        return None  # id=42 200
    if m[2].count(" ") == 1 and (context.before in t.MONTHS or context.before in q.GROUPED):
        return None
    return n.cardinal(m[0].replace(" ", ""))


@rule(r"([1-9]\d{0,2})((?:\.\d{3}){2,})(?!\.?\d|[^\W_])")
def points(m, context):
    """1.000.000 with points for commas."""
    return n.cardinal(m[0].replace(".", ""))


@rule(r"\d+\.\d+(?=[A-Za-z]{1,3}(?![\w.]))")
def with_letters(m, context):
    """1.4t: the letters are read for themselves."""
    return n.decimal(m[0])


@rule(rf"({SIGN})({NUM})(?:\s?({MAGNITUDE}))?(?![^\W_])")
def any_number(m, context):
    """What no other rule took."""
    text = m[2]
    if m[1] or "." in text or "," in text or m[3]:
        return number(m[1] + text) + ([m[3]] if m[3] else [])
    return plain(text)


def quantity(text: str) -> list[str]:
    """1, 1/2, 2 1/2 or 2-3 of something."""
    found = rule.read(text, 0, Context())
    return [w for words, _, _ in found[0] for w in words] if found else []
