"""Numbers of kitchens, boxes, weather reports and pharmacies: 12"L x 8"W, 1–1 1/2 hours, 6/24h, 15G25KT, a 10y bond.

They are tried before the rules of `trades.py`.
"""

from __future__ import annotations

import re

from speechstream.text.en import numbers as n, tables as t
from speechstream.text.en.counts import quantity
from speechstream.text.en.dates import time_of
from speechstream.text.en.measures import expression
from speechstream.text.en.patterns import DASH, END, NUM, Rules, following

rule = Rules(rare=True)
SIDES = {"L": "long", "W": "wide", "H": "high", "D": "deep"}
VULGAR = "".join(t.VULGAR)
HOURS = ("6", "8", "12", "24", "36", "48", "72")
STREET = re.compile(
    r"str\.|stra(?:ss|\u00df)e|\w(?:platz|allee|weg|gasse)\b|\b(?:rue|via|calle|avenida|plaza|place|av\.|bd)\b",
    re.I,
)
TOWNS = frozenset(  # behind their postal codes
    "Berlin Hamburg M\u00fcnchen Munich K\u00f6ln Cologne Frankfurt Stuttgart D\u00fcsseldorf Leipzig Dortmund Essen Bremen Dresden Hannover "
    "N\u00fcrnberg Bonn Mannheim Heidelberg Freiburg Potsdam Paris Lyon Marseille Toulouse Nice Nantes Strasbourg Bordeaux Lille Rennes "
    "Madrid Barcelona Valencia Sevilla Seville M\u00e1laga Bilbao Roma Rome Milano Milan Napoli Naples Torino Turin Firenze Florence "
    "Bologna Venezia Venice Helsinki Istanbul Wien Vienna Graz Salzburg Linz Innsbruck Z\u00fcrich Zurich Bern Basel Gen\u00e8ve Geneva "
    "Lausanne Luzern K\u00f8benhavn Copenhagen Oslo Bergen Bruxelles Brussels Antwerpen Antwerp Gent Ghent Budapest Ljubljana Lisboa".split()
)
LASTING = re.compile(
    r"\s(?:[A-Z]\w+\s)?(?:Treasur(?:y|ies)|yields?|bonds?|Bunds?|[Gg]ilts?|notes?|JGBs?|swaps?|rates?|warranty|mortgages?|fixed|"
    r"breakevens?|loans?|tenors?|OATs?|BTPs?|USTs?|paper|plan|term|auction|old|ago)\b"
)
MUSICAL = re.compile(
    r"\b(?:BPM|bpm|tempo|waltz|bars?|measures?|key|chords?|minor|major|beats?|rhythm|song|tune|piece|march|allegro|andante)\b"
)
EXPOSED = re.compile(
    r"\b(?:Gy|cGy|doses?|dosage|radiation|rem|Sv|mSv|absorbed|exposure|irradiat\w+)\b"
)


@rule(rf"({NUM})\s?[\"\u2033\u201d]\s?([LWHD]){END}")
def side(m, context):
    """12\"L x 8\"W x 4.5\"H, the sides of a box."""
    return [*n.decimal(m[1]), "inch" if m[1] == "1" else "inches", SIDES[m[2]]]


@rule(rf"({NUM})/(\d{{1,2}})h(?:(?:ou)?rs?)?{END}\.?")
def in_hours(m, context):
    """At most 6/24h."""
    if m[2] not in HOURS:
        return None
    return [*n.decimal(m[1]), "per", *n.cardinal(m[2]), "hours"]


@rule(
    rf"(\d{{1,2}}(?:\s\d/\d{{1,2}}|[{VULGAR}])?|[{VULGAR}]){DASH}(?=\d{{1,2}}\s\d/\d|\d{{0,2}}[{VULGAR}])"
)
def mixed_range(m, context):
    """1\u20131 1/2 hours: the second is read with its unit."""
    return [*quantity(m[1]), "to"]


@rule(r"\d{5}(?=\s[A-Z\u00c0-\u00de][\w\u00df-\u00ff-]+(?:,|\n|$))")
def town(m, context):
    """10115 Berlin, Chausseestr. 42."""
    return n.digits(m[0]) if STREET.search(m.string) else None


@rule.after(("", ",", ":"), r"\d{4,5}(?=\s([A-Z\u00c0-\u00de][\w\u00df-\u00ff]+))")
def postcode(m, context):
    """10115 Berlin."""
    if m[1] not in TOWNS:
        return None
    return n.grouped(m[0]) if len(m[0]) < 5 else n.digits(m[0])


@rule(rf"(\d\d)G(\d\d)\s?(KT|kts?|mph){END}")
def gusts(m, context):
    """Wind NW 15G25KT."""
    unit = ["miles", "per", "hour"] if m[3] == "mph" else ["knots"]
    return [*n.cardinal(m[1]), "gusting", *n.cardinal(m[2]), *unit]


@rule.after(("temperature", "temperatures", "temp", "temps"), rf"(\d{{1,2}})/(\d{{1,2}}){END}(?!/)")
def temperatures(m, context):
    """Temp. 18/12."""
    return [*n.cardinal(m[1]), "over", *n.cardinal(m[2])]


@rule(rf"(\d{{1,2}})[yY]{END}(?={LASTING.pattern})")
def years(m, context):
    """A 10y Bund, 2y ago."""
    many = following(m) in ("old", "ago") and m[1] != "1"
    return [*n.cardinal(m[1]), "years" if many else "year"]


@rule.after(("in",), rf"(2|3)/(2|4|8){END}(?!\s?(?:of|cups?|inch|mile)\b)")
def beat(m, context):
    """In 3/4, of a piece of music."""
    return [*n.cardinal(m[1]), *n.cardinal(m[2])] if MUSICAL.search(m.string) else None


@rule(rf"(?:\u20b9|Rs\.?)\s?({NUM})\s?(L|[Ll]akhs?|Cr|cr){END}(?! crore)")
def rupees(m, context):
    """\u20b92.5L."""
    return [*n.decimal(m[1]), "crore" if m[2][0] in "Cc" else "lakh", "rupees"]


@rule(rf"({NUM})\s?(k|m|c)?rads?{END}")
def rads(m, context):
    """200 rad of radiation; radians otherwise."""
    if not EXPOSED.search(m.string):
        return None
    prefix = {"k": "kilo", "m": "milli", "c": "centi"}.get(m[2], "")
    return [*n.decimal(m[1]), prefix + ("rad" if m[1] == "1" else "rads")]


@rule(r"\d{1,3}(?:/\d{1,3}){2}(?=\s(?:K/?D/?A)\b)")
def kills(m, context):
    """24/6/11 K/D/A, of a game."""
    words = [["slash", *n.cardinal(part)] for part in m[0].split("/")]
    return [w for part in words for w in part][1:]


@rule(rf"\d{{2,4}}(?:-\d{{3,8}}){{2,}}{END}(?!-)")
def order(m, context):
    """Order #112-9384756-0021."""
    groups = m[0].split("-")
    if max(map(len, groups)) < 5:
        return None
    words = [[",", *n.digits(group)] for group in groups]
    return [w for group in words for w in group][1:]


@rule(rf"(\d{{1,2}})(?::([0-5]\d))?{DASH}(\d{{1,2}})(?::([0-5]\d))?([ap]){END}(?!\.)")
def classes(m, context):
    """6\u20137:15a."""
    if not m[2] and not m[4]:
        return None
    first = time_of(int(m[1]), int(m[2] or 0), "", False)
    return [*first, "to", *time_of(int(m[3]), int(m[4] or 0), m[5].upper())]


@rule.after((",",), rf"([2346])/([248]){END}(?=[.;,)]|\s?$)")
def signature(m, context):
    """In A major, 3/4."""
    return [*n.cardinal(m[1]), *n.cardinal(m[2])] if MUSICAL.search(m.string) else None


@rule(r"(\d+)/(\d+)/(?=\d+(?:\.\d+)?\s?(?:ms|us|ns|s|MB|GB|kB|px|mm|cm|kg|W|V|A)(?!\w))")
def statistics(m, context):
    """Min/avg/max 11/14/29 ms: the last is read with its unit."""
    return [*n.cardinal(m[1]), "slash", *n.cardinal(m[2]), "slash"]


@rule(r"([23])d(?=\s(?:Cir|Dep|Dist|Amend|Div|Circuit|District)\b)")
def second(m, context):
    """2d Cir."""
    return ["second" if m[1] == "2" else "third"]


@rule.after(("to",), rf"(\d{{2,3}})-(\d{{3}}){END}(?!-)")
def short_code(m, context):
    """Text JOIN to 55-512."""
    if not {"text", "send", "sms", "texting"} & set(context.words):
        return None
    return [*n.digits(m[1]), ",", *n.digits(m[2])]


@rule(
    rf"({NUM})\s?(m|km|J|W|mol|kg|g|L|N)[\u00b7\u22c5 ](s|h|m|kg|K|L|mol|min)\u207b([\u00b9\u00b2\u00b3]){END}"
)
def below(m, context):
    """9.81 m\u00b7s\u207b\u00b2."""
    power = m[4] if m[4] != "\u00b9" else ""
    return [*n.decimal(m[1]), *expression(f"{m[2]}/{m[3]}{power}", m[1] == "1")]
