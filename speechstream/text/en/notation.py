"""Numbers in a notation of their own: threads, ranges of labelled things, curves, web statuses, courses of medicine.

They are tried before the rules of `technical.py`.
"""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n, tables as t
from speechstream.text.en.dates import minutes
from speechstream.text.en.patterns import DASH, END, SIGN_WORDS, Rules

rule = Rules(rare=True)
WEB = re.compile(
    r"\b(?:server|page|website|site|request|browser|HTTP|URL|link|API|endpoint|client|proxy|gateway|response|status)s?\b",
    re.I,
)
ANSWERED = frozenset(
    "a an the get gets got return returns returned returning with or and of code error errors status see saw : , ( is give gives gave throws".split()
)
LISTED = q.PLACES | frozenset(
    "figures figs tables sections parts questions problems items exercises sheets panels steps appendices rows lots units".split()
)
CARD = re.compile(r"\b(?:card|visa|mastercard|amex|CVV|CVC|debit|credit)\b", re.I)
CRICKET = re.compile(
    r"\b(?:ovs?|overs?|wickets?|innings|stumps|declared|all out)\b|\d\*|\d/\d{1,2} \(\d"
)
WATCH = re.compile(r"\b0\d[0-5]\d[-\u2010-\u2013]\d{4}\b|\b(?:hrs|hours|shift|watch|duty|curfew)\b")
DEPARTMENT = re.compile(r"(?<!\w)([A-Z]{2,4}) $")
NOT_COURSES = frozenset("AM PM AD BC CE BCE THE AND FOR OF IN TO US UK EU UN LA NY".split())
THREADED = r"(?=\s?[x\u00d7]\s|\s(?:UN[CFR]|thread|threads|threaded|tap|taps|bolt|bolts|nut|nuts|screw|screws|die|hex|machine)\b)"


@rule(rf"(\d{{1,2}})s(\d{{1,2}})s{END}")
def curve(m, context):
    """2s10s, two yields of a curve."""
    return [*n.decade(int(m[1])), *n.decade(int(m[2]))]


@rule(rf"(\d{{1,2}})/(\d{{1,2}})[\"\u2033]?-(\d\d){END}{THREADED}")
def thread(m, context):
    """1/4-20 x 3/4\": a diameter and threads to the inch."""
    unit = ["inch"] if m[0][-4] in '"\u2033' else []
    return [*n.fraction(int(m[1]), int(m[2])), *unit, *n.cardinal(m[3])]


@rule(rf"(\d{{1,2}})-(\d\d){END}{THREADED}")
def small_thread(m, context):
    """#8-32 screws."""
    return [*n.cardinal(m[1]), *n.cardinal(m[2])] if context.before == "number" else None


@rule(rf"(\d{{1,3}})([a-z]){DASH}(\d{{1,3}})?([a-z]){END}")
def labels(m, context):
    """Figs. 2a\u2013c, questions 3b-4a."""
    if context.before not in LISTED or not m[3] and m[2] >= m[4]:
        return None
    second = n.cardinal(m[3]) if m[3] else []
    return [*n.cardinal(m[1]), m[2].upper(), "to", *second, m[4].upper()]


@rule(
    r"(\d{1,2})\.([0-5]\d)(?=\s(?:GMT|UTC|BST|CET|CEST|E[SD]T|C[SD]T|M[SD]T|P[SD]T|IST|JST|AE[SD]T|hrs)\b)"
)
def clock(m, context):
    """8.30 GMT."""
    return [*n.cardinal(m[1]), *minutes(int(m[2]))] if int(m[1]) < 25 else None


@rule.after(
    ("expires", "expiry", "expiration", "exp", "thru", "through"),
    rf"(0[1-9]|1[0-2])/(2[0-9]|3\d){END}(?!/)",
)
def card(m, context):
    """Expires 04/27."""
    if m[1][0] != "0" and not CARD.search(m.string):
        return None
    return [t.MONTHS[int(m[1]) - 1], *n.year(2000 + int(m[2]))]


@rule.after(("section", "rule"), rf"(\d{{2,4}})\.(\d{{1,3}})([a-z])?-(\d{{1,3}}){END}")
def regulation(m, context):
    """\u00a7 240.10b-5."""
    letter = [m[3].upper()] if m[3] else []
    return [*n.grouped(m[1]), "point", *n.cardinal(m[2]), *letter, *n.cardinal(m[4])]


@rule(r"(\d{1,3}(?:,\d{3})*)\s(pp\b\.?(?!\w)|p\.?(?=[)\]]))")
def pages(m, context):
    """384 pp."""
    return [*n.cardinal(m[1].replace(",", "")), "page" if m[1] == "1" else "pages"]


@rule(rf"(\d{{1,3}})(\*|b)(?![\w*])|(\d{{1,2}}(?:\.[1-5])?)\s?ovs?{END}\.?")
def bat(m, context):
    """102* (98b), 50 ov of cricket."""
    if not CRICKET.search(m.string):
        return None
    if m[3]:
        return [*n.decimal(m[3]), "over" if m[3] == "1" else "overs"]
    return [*n.cardinal(m[1]), *(["not", "out"] if m[2] == "*" else ["balls"])]


@rule(rf"\d{{1,3}}[A-Z]\d{{2,4}}[a-z]?{END}")
def build(m, context):
    """23E224, a build."""
    parts = re.findall(r"\d+|[A-Za-z]", m[0])
    return [w for part in parts for w in (n.grouped(part) if part.isdigit() else [part.upper()])]


@rule(
    rf"(\d{{2,4}})/(?=(\d{{2,4}})\s?(?:Hz|kHz|MHz|GHz|V|W|A|GB|TB|MB|mg|mcg|mm|Mbps|Gbps|DPI|dpi|fps|rpm){END})"
)
def either(m, context):
    """50/60 Hz."""
    return [*n.cardinal(m[1]), "slash"] if m[1] != m[2] and len(m[1]) == len(m[2]) else None


@rule(r"([-\u2212+\u00b1])(?=\d{1,2}/\d{1,2}(?![\w/]))")
def signed_fraction(m, context):
    """\u00b11/16: what follows the sign is read by another rule."""
    return SIGN_WORDS[m[1]]


@rule(rf"(0\d|1\d|2[0-3])([0-5]\d){DASH}(0\d|1\d|2[0-4])([0-5]\d){END}(?![-/.,]\d)")
def watch(m, context):
    """0600\u20131400."""
    if m[0][0] != "0" and m[3] + m[4] < "2030" and not WATCH.search(m.string):
        return None
    return [*_watch(m[1], m[2]), "to", *_watch(m[3], m[4])]


def _watch(hour: str, minute: str) -> list[str]:
    words = (["oh"] if hour[0] == "0" else []) + n.cardinal(hour)
    return words + (["hundred"] if minute == "00" else minutes(int(minute)))


@rule(
    rf"(\d{{1,2}})([ap])(?=\s?(?:{DASH}|to|till|until)\s?\d{{1,2}}(?::\d\d)?[ap]{END})|(?<=to )(\d{{1,2}})([ap]){END}(?!\.)"
)
def half_day(m, context):
    """11p to 6a."""
    return [*n.cardinal(m[1] or m[3]), (m[2] or m[4]).upper(), "M"]


@rule(rf"0\d{{2,4}}/\d{{5,8}}{END}(?!/)")
def with_slash(m, context):
    """0171/1234567, a telephone number."""
    code, rest = m[0].split("/")
    return [*n.digits(code), ",", *n.digits(rest)]


@rule(rf"[1-9]0[1-9]{END}(?![.,:/-]\d|%|\s[a-z]+s\b)")
def course(m, context):
    """CS 101."""
    dept = DEPARTMENT.search(m.string, max(0, m.start() - 6), m.start())
    if not dept or dept[1] in t.CURRENCIES or dept[1] in NOT_COURSES:
        return None
    return n.grouped(m[0])


@rule(rf"(?:40[0134589]|429|50[234]){END}(?![.,:-]\d|%)")
def status(m, context):
    """A 404 means that the page is missing."""
    return n.grouped(m[0]) if context.before in ANSWERED and WEB.search(m.string) else None
