"""Numbers in the short hand of pilots, physicians, players and programmers: FL180, 350@12G20, q5\u201315 min, :8443, 2d6+3.

They are tried before the rules of `notation.py`.
"""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n, tables as t
from speechstream.text.en.dates import minutes
from speechstream.text.en.patterns import DASH, END, NUM, Rules, following

rule = Rules(rare=True)
COURT = re.compile(r"\b[CTF]-$")
TERMS = re.compile("[=<>\u2248\u2264\u2265\u2260\u221d\u00b1]")
PORTED = frozenset("on at port to : via from listening".split())
RATES = (
    "tok toks tokens token req reqs requests ops op it its iter iters frames samples steps words rows queries msgs messages "
    "packets writes reads calls transactions images hits bytes rays particles events"
)
NAMED_RATE = {
    "tok": "token",
    "toks": "token",
    "req": "request",
    "reqs": "request",
    "op": "operation",
    "ops": "operation",
    "it": "iteration",
    "its": "iteration",
    "iter": "iteration",
    "iters": "iteration",
    "msgs": "message",
}
TIMES = {"s": "second", "sec": "second", "min": "minute", "h": "hour", "hr": "hour", "day": "day"}
SIZED = frozenset("and or with at in on is was are by of for to each".split())
GENOME = re.compile(
    r"\b(?:chr\w+|chromosom\w+|gen(?:e|es|ome|omic|etic)|DNA|RNA|plasmids?|bp|fragments?|sequences?|sequenced|sequencing|amplif\w+|exons?|introns?|amplicon|primers?|loci|locus|reads|contigs?)\b"
)
THREAD = re.compile(r"\s*$|\s*\n|\s*[A-Z#@\U0001f300-\U0001faff]")


@rule(rf"([0-3]\d\d)(?:@|/)?(\d\d)(?:G(\d\d))?(KT|kt){END}|([0-3]\d0)@(\d\d)(?:G(\d\d))?{END}")
def wind(m, context):
    """350@12G20, 27015G25KT: where from, and how fast."""
    where, fast, gust = m.group(1, 2, 3) if m[1] else m.group(5, 6, 7)
    words = [*n.digits(where), "at", *n.cardinal(fast)]
    words += ["gusting", *n.cardinal(gust)] if gust else []
    return words + (["knots"] if m[4] else [])


@rule.after(("level", "levels"), rf"\d{{3}}{END}(?![.,%])")
def level(m, context):
    """Flight level 350."""
    return n.digits(m[0]) if context.words[-2:-1] == ("flight",) else None


@rule.after(("qnh",), rf"\d{{3,4}}{END}")
def altimeter(m, context):
    """QNH 1013."""
    return n.digits(m[0])


@rule(rf"(\d{{1,4}})/(?=\d\d{END}(?!/))")
def case(m, context):
    """C-311/18 of a court."""
    court = COURT.search(m.string, max(0, m.start() - 3), m.start())
    return [*n.grouped(m[1]), "slash"] if court else None


@rule(
    rf"({NUM})\s?({'|'.join(sorted(RATES.split(), key=len, reverse=True))})/(s|sec|min|h|hr|day){END}"
)
def throughput(m, context):
    """42 tok/s."""
    name = NAMED_RATE.get(m[2], m[2].removesuffix("s"))
    return [*n.decimal(m[1]), name if m[1] == "1" else n.plural(name), "per", TIMES[m[3]]]


@rule(
    r"(\d{1,2}):(0\d|[1-5]\d):(0\d|[1-5]\d)(?=\s(?:marathon|finish|half|ride|race)\b|\s(?:at|for|in)\s\d)"
)
def finish(m, context):
    """2:01:09, how long a race took."""
    words = []
    for value, unit in zip(m.groups(), ("hour", "minute", "second")):
        if int(value):
            words += [*n.cardinal(int(value)), unit + "s" * (int(value) != 1)]
    return words


@rule.after(
    q.PLACES - {"line", "figure", "fig", "table", "chapter", "rule", "form"},
    rf"(\d{{1,2}})-(\d{{3}}){END}(?!-)",
)
def room(m, context):
    """Room 3-270."""
    return [*n.cardinal(m[1]), *n.grouped(m[2])]


@rule(r"(\d{1,2})/(\d{1,2})(?=\))")
def of_a_thread(m, context):
    """(1/5) behind a post."""
    alone = m.string[max(0, m.start() - 1) : m.start()] == "(" and THREAD.match(
        m.string, m.end() + 1
    )
    if (
        not alone
        or int(m[1]) > int(m[2])
        or m[0] in ("9/11", "24/7")
        or m[2] in ("2", "4")
        and m[1] == "1"
    ):
        return None
    return [*n.cardinal(m[1]), "of", *n.cardinal(m[2])]


@rule(rf"0\d{{2,4}}/\d{{2,4}}(?:[ -]\d{{2,4}}){{1,4}}{END}(?![/.]\d)")
def area(m, context):
    """030/123 45-67."""
    out: list[str] = []
    for group in re.findall(r"\d+", m[0]):
        out += [*n.digits(group), ","]
    return out[:-1]


@rule(r"(\d{1,2})[\u2032'\u2019](?=,|\)|\s(?:pen|og|p|o\.g)\b)")
def minute(m, context):
    """Goals: 12', 67' pen."""
    return n.cardinal(m[1]) if GOALS.search(m.string) else None


GOALS = re.compile(r"\(\w[\w .\u2019'-]* \d{1,2}['\u2032\u2019]")


@rule.after(("form", "forms"), rf"\d{{3,4}}{END}(?![.,:/-]\d)")
def form(m, context):
    """Form 1040."""
    return n.grouped(m[0])


@rule(rf"({NUM})\s?[x\u00d7]\s?({NUM})(?:[\"\u2033](?!\w)|[- ]in(?:\.|ch\b|\b(?! )))")
def sides(m, context):
    """A 9\u00d713\" pan."""
    single = "-in" in m[0] or following(m).islower() and following(m) not in SIZED
    return [*n.decimal(m[1]), "by", *n.decimal(m[2]), "inch" if single else "inches"]


@rule(r"(12)-(?=noon\b|midnight\b)")
def noon(m, context):
    """The 12-noon bell."""
    return ["twelve"]


@rule(rf"(\d{{1,3}})/(\d{{1,3}})\s?mpg{END}")
def economy(m, context):
    """28/36 mpg, in town and out of it."""
    return [*n.cardinal(m[1]), "slash", *n.cardinal(m[2]), "miles", "per", "gallon"]


@rule(rf"(\d{{3}})/(\d{{2}})\s?(Z?R)\s?(\d{{2}}){END}")
def tyre(m, context):
    """205/55R16."""
    return [*n.grouped(m[1]), *n.cardinal(m[2]), *m[3], *n.cardinal(m[4])]


@rule(rf"([1-9]|1\d|2[0-2])([pq])(\d\d)(?:\.(\d+))?{END}")
def cytoband(m, context):
    """7q31.2."""
    part = ["point", *n.digits(m[4])] if m[4] else []
    return [*n.cardinal(m[1]), m[2].upper(), *n.cardinal(m[3]), *part]


@rule(
    r"([53])['\u2032\u2019](?=-[ACGTUN]{2,}|[-\u2013][53]['\u2032\u2019]|[ -](?:end|UTR|cap|overhang|phosphate|splice)\b|$)|(?<=[ACGTUN]-)([53])['\u2032\u2019]"
)
def strand(m, context):
    """5\u2032-ATG-3\u2032."""
    return [*n.cardinal(m[1] or m[2]), "prime"]


@rule(rf"({NUM})\s?([kMG])b{END}")
def bases(m, context):
    """1.2 kb of a genome."""
    if not GENOME.search(m.string):
        return None
    return [*n.decimal(m[1]), {"k": "kilobases", "M": "megabases", "G": "gigabases"}[m[2]]]


@rule(r"(\d{1,3})/(\d{1,2})(?=\s(?:fav|favou?rites?|shot|outsider|chance|odds)\b)")
def favourite(m, context):
    """The 7/2 favourite."""
    return [*n.cardinal(m[1]), "to", *n.cardinal(m[2])]


@rule(rf"(\d{{2,3}})[-/](\d{{1,2}})\s?d(?:ec)?{END}\.?")
def declared(m, context):
    """316-7d."""
    return [*n.cardinal(m[1]), "for", *n.cardinal(m[2]), "declared"]


@rule(rf"(\d{{2,5}}):(\d{{2,5}}){END}")
def mapped(m, context):
    """-p 8080:80."""
    if context.words[-2:] != ("dash", "p"):
        return None
    return [*n.grouped(m[1]), "colon", *n.grouped(m[2])]


@rule(rf"(2[5-9]|[3-9]\d):00{END}")
def whole_minutes(m, context):
    """Under 25:00."""
    return [*n.cardinal(m[1]), "minutes"]


@rule.after(("eta", "due", "etd"), rf"(1[3-9]|2\d|3[01])/([1-9]|1[0-2]){END}(?!/)")
def day_first(m, context):
    """ETA 14/6."""
    return [t.MONTHS[int(m[2]) - 1], *n.ordinal(m[1])]


@rule(rf"({NUM})(?=[a-z\u03b1-\u03c9]{{1,2}}[\u00b2\u00b3\u2074-\u2079\u207f^])")
def coefficient(m, context):
    """3.14r\u00b2."""
    return n.decimal(m[1]) if "." in m[1] else None


@rule(rf"({NUM})\s?([MG])T/s{END}")
def transfers(m, context):
    """16 GT/s."""
    return [*n.decimal(m[1]), {"M": "mega", "G": "giga"}[m[2]] + "transfers", "per", "second"]


@rule(rf"([-+\u2212]?)({NUM})\s?(pp|ppts?|p\.p\.){END}\.?(?=\s[a-z(]|[,;)]|\s?$)")
def percentage_points(m, context):
    """By 4 pp."""
    if context.before not in (
        "by",
        "to",
        "of",
        "up",
        "down",
        "+",
        "plus",
        "minus",
        "fell",
        "rose",
        "a",
        ",",
    ):
        return None
    if context.before in (",", "of") and "%" not in m.string:
        return None
    sign = {"-": ["minus"], "\u2212": ["minus"], "+": ["plus"]}.get(m[1], [])
    return [*sign, *n.decimal(m[2]), "percentage", "point" if m[2] == "1" else "points"]


@rule(rf"(\d{{1,4}})-(0\d{{2,5}})([A-Z]?){END}(?![-/])")
def lot(m, context):
    """Lot 23-0457A."""
    if not m[3] and not {"lot", "batch", "serial", "part", "sku"} & set(context.words[-4:]):
        return None
    return [*n.grouped(m[1]), *n.digits(m[2]), *m[3]]


@rule(
    rf"([$\u00a3\u20ac\u20b9]?)1(0{{0,2}}),?(0{{2,3}}(?:,000)*)s{END}(?=\s(?:of|more|were|have|are|in)\b|[,.;!?]|$)"
)
def many(m, context):
    """1,000s of people, \u00a3100s."""
    digits = "1" + m[2] + m[3].replace(",", "")
    words = n.cardinal(digits)[1:] if digits[1:].count("0") in (2, 3, 6, 9) else n.cardinal(digits)
    currency = {"$": "dollars", "\u00a3": "pounds", "\u20ac": "euros", "\u20b9": "rupees"}
    owner = ["of", currency[m[1]]] if m[1] else []
    return [*words[:-1], n.plural(words[-1]), *owner]


@rule(rf"00:([0-5]\d):([0-5]\d)(?:\.\d+)?\s?{DASH}\s?00:([0-5]\d):([0-5]\d){END}")
def clip(m, context):
    """00:01:15\u201300:02:30 of a recording."""
    return [*_elapsed(m[1], m[2]), "to", *_elapsed(m[3], m[4])]


def _elapsed(minute: str, second: str) -> list[str]:
    words = []
    for value, unit in ((int(minute), "minute"), (int(second), "second")):
        if value:
            words += [*n.cardinal(value), unit + "s" * (value != 1)]
    return words or ["zero"]


@rule(rf"([01]\d|2[0-4])([0-5]\d)h{END}")
def hours(m, context):
    """1800h."""
    hour = (["oh"] if m[1][0] == "0" else []) + n.cardinal(m[1])
    return [*hour, *(["hundred"] if m[2] == "00" else minutes(int(m[2]))), "hours"]


@rule(rf"([01]\d|2[0-3]):?([0-5]\d)Z{END}")
def zulu(m, context):
    """06:00Z."""
    hour = (["oh"] if m[1][0] == "0" else []) + n.cardinal(m[1])
    return [*hour, *(["hundred"] if m[2] == "00" else minutes(int(m[2]))), "Z"]


@rule(rf"(\d{{3}})-(\d{{3}}){END}(?![-.]\d)")
def secret(m, context):
    """Your code is 004-219."""
    if not {"code", "pin", "passcode", "otp"} & set(context.words[-3:]):
        return None
    return [*n.digits(m[1]), ",", *n.digits(m[2])]


@rule(rf"(1099|1098|1040|1065|1120)s{END}")
def forms(m, context):
    """1099s, forms of a tax."""
    words = n.grouped(m[1])
    return [*words[:-1], n.plural(words[-1])]
