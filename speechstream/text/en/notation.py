"""Numbers in a notation of their own: threads, ranges of labelled things, curves, web statuses, courses of medicine.

They are tried before the rules of `technical.py`.
"""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, geography, numbers as n, tables as t, units
from speechstream.text.en.codes import EMERGENCY
from speechstream.text.en.dates import minutes
from speechstream.text.en.designations import COUNTABLE, DIALLING
from speechstream.text.en.patterns import DASH, END, SIGN_WORDS, Rules, following

rule = Rules(rare=True)
PEOPLE = (COUNTABLE + " soldiers troops refugees civilians voters animals birds trees").replace(
    " ", "|"
)
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
    r"\b[cb] [A-Z]\w+ b [A-Z]\w+|\b(?:ovs?|overs?|wickets?|innings|stumps|declared|all out)\b|\d\*|\d/\d{1,2} \(\d"
)
WATCH = re.compile(r"\b0\d[0-5]\d[-\u2010-\u2013]\d{4}\b|\b(?:hrs|hours|shift|watch|duty|curfew)\b")
DEPARTMENT = re.compile(r"(?<!\w)([A-Z]{2,4}) $")
NOT_COURSES = frozenset("AM PM AD BC CE BCE THE AND FOR OF IN TO US UK EU UN LA NY".split())
AUSTRALIA = re.compile(r"(?<!\w)(?:NSW|VIC|QLD|TAS|SA|WA|NT|ACT) $")
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
    ascending = m[3] and int(m[1]) < int(m[3]) and m[0][len(m[1]) + 1] == "\u2013"
    if not ascending and (context.before not in LISTED or not m[3] and m[2] >= m[4]):
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


@rule.after(("section", "rule"), rf"(\d{{1,4}})\.(\d{{1,3}})([a-z])?-(\d{{1,3}}){END}")
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
    if not dept or dept[1] in units.CURRENCIES or dept[1] in NOT_COURSES:
        return None
    return n.grouped(m[0])


@rule(rf"(\d{{3}})/(\d{{3}})-(\d{{4}}){END}")
def slashed_phone(m, context):
    """718/555-0199."""
    return [*n.digits(m[1]), ",", *n.digits(m[2]), ",", *n.digits(m[3])]


@rule(rf"(\d{{1,3}}(?:\.\d+)?)\u00b0?\s?([NS]),?\s(\d{{1,3}}(?:\.\d+)?)\u00b0?\s?([EW]){END}")
def position(m, context):
    """35.2N 75.5W."""
    first, second = (geography.DIRECTIONS[x] for x in m.group(2, 4))
    degrees = ["degrees"] if "\u00b0" in m[0] else []
    return [*n.decimal(m[1]), *degrees, first, *n.decimal(m[3]), *degrees, second]


@rule(rf"(9\d\d|10[0-7]\d)([ -]?)mb{END}")
def millibars(m, context):
    """1012 mb."""
    return [*n.cardinal(m[1]), "millibar" if m[2] == "-" else "millibars"]


@rule(r"(\d{1,2})/(?=[$\u00a3\u20ac]\d)")
def offer(m, context):
    """2/$50."""
    return [*n.cardinal(m[1]), "for"]


@rule(rf"(\d{{1,3}}){DASH}(\d{{1,3}})[- ]?(?:y\.\s?o\.?|y/o\b|yo\b)(?=[\s,;:)]|$)")
def ages(m, context):
    """10-12 y.o. kids."""
    noun = following(m)
    single = noun.islower() and noun not in ("and", "or", "with", "who", "in", "at")
    return [*n.cardinal(m[1]), "to", *n.cardinal(m[2]), "year" if single else "years", "old"]


@rule.after(("rfc", "rfcs"), rf"(\d{{4}}){DASH}(\d{{4}}){END}")
def several_requests(m, context):
    """RFC 7230-7235."""
    return [*n.grouped(m[1]), "to", *n.grouped(m[2])]


@rule.after(("iso", "din", "astm", "iec", "en"), rf"(\d{{4,5}})-(\d{{1,2}}){END}")
def standard(m, context):
    """ISO 8859-1."""
    return [*n.grouped(m[1]), *n.cardinal(m[2])]


@rule.after(("chmod", "umask"), rf"\d{{3,4}}{END}")
def mode(m, context):
    """chmod 755."""
    return n.digits(m[0])


@rule(r"(\d+)-(pt|ast|reb|yd)s?\b\.?(?=[\s,])")
def play(m, context):
    """A 38-pt. night."""
    names = {"pt": "point", "ast": "assist", "reb": "rebound", "yd": "yard"}
    return [*n.cardinal(m[1]), names[m[2]]]


@rule(rf"(\d{{2}})-(cv|cr|mc|md|ap|bk)-(\d{{3,6}}){END}")
def docket(m, context):
    """No. 21-cv-00345."""
    return [*n.cardinal(m[1]), *m[2].upper(), *n.digits(m[3])]


@rule(rf"(\d)\s?[xX\u00d7]\s?(\d{{2,4}})\s?[mM]{END}")
def relay(m, context):
    """A 4x100m relay."""
    return [
        *n.cardinal(m[1]),
        "by",
        *n.cardinal(m[2]),
        "meter" if following(m).islower() else "meters",
    ]


@rule(rf"(\d{{1,3}}){DASH}(\d{{1,3}})m(?=\s(?:more\s)?(?:{PEOPLE})\b)")
def millions(m, context):
    """9-11m soldiers."""
    return [*n.cardinal(m[1]), "to", *n.cardinal(m[2]), "million"]


@rule(rf"\d{{3}}{END}(?=\s\(|[,;.)])")
def dialled(m, context):
    """Ring 999 (UK), 112 (EU)."""
    listed = m[0] in EMERGENCY and "," in context.words[-3:]
    return n.digits(m[0]) if listed and DIALLING.search(m.string, 0, m.start()) else None


@rule.after(("chapter", "form", "size", "level", "model", "article"), rf"(\d{{1,4}})s{END}")
def several(m, context):
    """Chapter 11s."""
    words = n.grouped(m[1])
    return [*words[:-1], n.plural(words[-1])]


@rule(r"(\d{1,2})[- ]ga(?:\.|\b)(?!\w)")
def gauge(m, context):
    """16-ga. wire."""
    return [*n.cardinal(m[1]), "gauge"]


@rule(rf"(\d{{1,3}})/(?=\d{{1,4}}\s(?:[A-Z]\w+\s){{1,2}}(?:{q.STREETS})\b)")
def unit(m, context):
    """7/12 George St."""
    return [*n.cardinal(m[1]), "slash"]


@rule(rf"\d{{4}}{END}(?![.,:/-]\d)")
def postcode(m, context):
    """Parramatta NSW 2150."""
    state = AUSTRALIA.search(m.string, max(0, m.start() - 5), m.start())
    return n.grouped(m[0]) if state else None


@rule(rf"(49|76)ers{END}")
def team(m, context):
    """The 49ers."""
    return [*n.cardinal(m[1])[:-1], "niners" if m[1] == "49" else "sixers"]


@rule.after(("the",), rf"\d0\d{END}(?![.,:/-]\d|%)")
def freeway(m, context):
    """Traffic on the 405."""
    on = len(context.words) > 1 and context.words[-2] in ("on", "off", "onto", "take", "took")
    near = following(m)
    return n.grouped(m[0]) if on and not (near.endswith("s") and len(near) > 3) else None


@rule(rf"(?:40[0134589]|429|50[234]){END}(?![.,:-]\d|%)")
def status(m, context):
    """A 404 means that the page is missing."""
    return n.grouped(m[0]) if context.before in ANSWERED and WEB.search(m.string) else None
