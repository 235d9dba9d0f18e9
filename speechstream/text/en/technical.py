"""Numbers of trades: aviation, software, laboratories, accounts, and printed tables.

They are tried before the rules of `designations.py`.
"""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n, tables as t, units
from speechstream.text.en.amounts import closes_quotation, money_words
from speechstream.text.en.codes import version_part
from speechstream.text.en.dates import YEARS_AFTER
from speechstream.text.en.patterns import DASH, END, NUM, Rules, following, qualifies

rule = Rules(rare=True)
SIDES = {"L": "left", "R": "right", "C": "center"}
COURSES = frozenset("heading bearing course radial azimuth".split())
STEPS = frozenset(
    "attempt step part round stage question slide try retry item test page lap chunk batch epoch layer file lesson volume "
    "thread stop episode leg photo tweet day hole".split()
)
PLATFORMS = q.RELEASED | frozenset("windows vista office chrome firefox safari gcc clang".split())
NARROW = frozenset(("2", "3", "4", "8", "16", "32"))  # of fractions more often than days
FORMULA = re.compile(
    r"\s(?:solution\b|(?:HF|HI|KI|KF|KOH|HCN)\b|(?=[A-Z]\w*(?:[a-z]|\d))(?:[A-Z][a-z]?[\d\u2080-\u2089]?){2,}(?![a-z]))"
)
MOLAR = {"": "", "m": "milli", "\u00b5": "micro", "\u03bc": "micro", "n": "nano"}
EXPLOSIVE = re.compile(
    r"\b(?:nuclear|warheads?|bombs?|yields?|TNT|blast|detonat\w+|explo\w+)\b", re.I
)
SHOOTING = frozenset("hit made shot shooting scored sank drained missed rolled dealt".split())
HOUSE = re.compile(
    r"\d[a-z]?, $|\b(?:Rue|rue|Via|Calle|Rua|Avenida|Plaza|Quai|Boulevard|\w+stra(?:ss|\u00df)e|\w+str\.)(?: [^,]*)?, $"
)
NAME_BEFORE = re.compile(r"[\w,] [A-Z]\w+ $")


@rule.after(("runway", "runways", "rwy"), rf"(0?[1-9]|[12]\d|3[0-6])([LRC])?{END}(?![.,:/-]\d)")
def runway(m, context):
    """Runway 27L."""
    digits = n.digits(m[1]) if m[1][0] == "0" or m[2] else n.cardinal(m[1])
    return digits + ([SIDES[m[2]]] if m[2] else [])


@rule(r"([0-3]\d\d)\u00b0(?!\s?[\dCF])")
def course(m, context):
    """Bearing 045\u00b0: three digits."""
    if m[1][0] != "0" and context.before not in COURSES:
        return None
    return [*n.digits(m[1]), "degrees"]


@rule.after(STEPS | PLATFORMS, rf"(\d{{1,3}})/(\d{{1,3}}){END}(?!/|\.\d)")
def step(m, context):
    """Attempt 3/5, Windows 10/11."""
    if context.before in STEPS and int(m[1]) <= int(m[2]):
        return [*n.cardinal(m[1]), "of", *n.cardinal(m[2])]
    if context.before in PLATFORMS and len(m[1]) < 3:
        return [*n.cardinal(m[1]), "slash", *n.cardinal(m[2])]
    return None


@rule(rf"(\d{{1,2}})/(\d{{1,2}})\s?(?:{DASH}|to)\s?(\d{{1,2}})/(\d{{1,2}}){END}(?!/|\.\d)")
def short_dates(m, context):
    """6/10-6/14."""
    if m[2] in NARROW and m[4] in NARROW:
        return None
    dates = [(int(m[1]), int(m[2])), (int(m[3]), int(m[4]))]
    if context.options.date_order == "dmy":
        dates = [(month, day) for day, month in dates]
    if any(not (1 <= month <= 12 and 1 <= day <= 31) for month, day in dates):
        return None
    first, second = ([t.MONTHS[month - 1], *n.ordinal(day)] for month, day in dates)
    return [*first, "to", *second]


@rule.after(q.RELEASED, rf"(\d+)\.(\d{{1,2}}){DASH}(\d+)\.(\d{{1,2}}){END}(?!\.\d)")
def releases(m, context):
    """Python 3.8-3.12."""
    first, second = (
        [*n.cardinal(a), "point", *version_part(b)] for a, b in (m.group(1, 2), m.group(3, 4))
    )
    return [*first, "to", *second]


@rule(rf"({NUM})\s?[x\u00d7]\s?({NUM})\s?[x\u00d7]\s?(?={NUM})")
def three_sides(m, context):
    """30 x 20 x 10 cm: the last is read with its unit."""
    return [*n.decimal(m[1]), "by", *n.decimal(m[2]), "by"]


@rule(rf"({NUM}){DASH}(?={NUM}\s?[x\u00d7]\s?10(?:\^|[\u2070-\u2079\u00b2\u00b3\u00b9\u207b]))")
def powers(m, context):
    """150-400 x 10^3: the second is read with its power."""
    return [*n.decimal(m[1]), "to"]


@rule(rf"(\d\d)-(\d{{7}}){END}")
def employer(m, context):
    """12-3456789."""
    return [*n.digits(m[1]), ",", *n.digits(m[2])]


@rule.after(("section", "rule", "statute"), rf"\d{{1,3}}(?:-\d{{1,4}}){{1,3}}{END}(?![-/]\d)")
def paragraph(m, context):
    """Section 18-3-204."""
    if m[0].count("-") < 2:
        return None
    return [w for part in m[0].split("-") for w in n.grouped(part)]


@rule(rf"([1-9]|1[0-2])/([1-9]|1[0-2])c{END}")
def broadcast(m, context):
    """8/7c: Eastern and Central time."""
    return [*n.cardinal(m[1]), *n.cardinal(m[2]), "central"]


@rule(rf"(\d+)\.(\d+|[xX])([ac-fijn-ru-wyz]?){END}(?![-+]\d)")
def lettered_decimal(m, context):
    """1.4a, 5.x."""
    if m[2].isdigit() and not m[3]:
        return None
    part = n.digits(m[2]) if m[2].isdigit() else ["X"]
    return [*n.cardinal(m[1]), "point", *part, *m[3].upper()]


@rule(r"(\d+)\.(\d\d)(?= or (?:newer|later|above|higher|older|up)\b)")
def or_newer(m, context):
    """3.10 or newer."""
    return [*n.cardinal(m[1]), "point", *version_part(m[2])]


@rule(rf"({NUM})\s%(?=\s\d)")
def modulo(m, context):
    """5 % 2."""
    return [*n.decimal(m[1]), "mod"]


@rule(r"\.(\d\d)[- ]cal(?:iber\b|\b\.?)")
def caliber(m, context):
    """A .50-cal. rifle."""
    return [*n.cardinal(m[1]), "caliber"]


@rule(rf"({NUM})[ -]?kt{END}")
def kilotons(m, context):
    """A 15 kt warhead; knots otherwise."""
    if not EXPLOSIVE.search(m.string):
        return None
    return [*n.decimal(m[1]), "kiloton" if m[1] == "1" or qualifies(m, context) else "kilotons"]


@rule.after(
    ("under", "over"),
    rf"(\d{{1,2}})s{END}(?=\s(?:are|must|can|get|go|eat|pay|need|were|will|team|only|and|free)\b)",
)
def aged(m, context):
    """Under 5s are free."""
    return n.decade(int(m[1]))


@rule.after(("number",), rf"(\d{{4}})-(\d{{3,4}}){END}(?!-)")
def serial(m, context):
    """OMB No. 1615-0047."""
    return [*n.grouped(m[1]), *n.digits(m[2])]


@rule(rf"(0|5|10|15|20|25)W-?(\d0){END}")
def oil(m, context):
    """5W-30."""
    return [*n.cardinal(m[1]), "W", *n.cardinal(m[2])]


@rule(rf"([1-9])s{END}")
def goals(m, context):
    """Hit 9 of 14 3s."""
    if not SHOOTING & set(context.words):
        return None
    return [n.plural(n.cardinal(m[1])[0])]


@rule(rf"(\d)V(\d){END}")
def rail(m, context):
    """3V3, volts of a supply."""
    return [*n.cardinal(m[1]), "V", *n.cardinal(m[2])]


@rule(rf"(\d{{1,3}})C/(\d{{1,3}})T{END}")
def cores(m, context):
    """12C/16T: cores and threads."""
    return [*n.cardinal(m[1]), "C", *n.cardinal(m[2]), "T"]


@rule(r"\d{4}(?=-[A-Z]{2,})")
def form(m, context):
    """1099-MISC."""
    return n.grouped(m[0])


@rule.after(YEARS_AFTER, rf"2[1-9]00{END}(?![.,:/-]\d|\s[a-z])")
def far_year(m, context):
    """By 2100."""
    return n.year(int(m[0]))


@rule(r"\+\d{1,3}\s?\(0\)\s?\d{1,5}(?:[ /-]?\d{2,8}){1,5}" + END)
def trunk(m, context):
    """+49 (0)30 123456."""
    groups = re.findall(r"\d+", m[0])
    words = ["plus"]
    for i, group in enumerate(groups):
        words += n.digits(group) + [","] * (i + 1 < len(groups))
    return words


@rule(
    rf"([$\u00a3\u20ac])\(({NUM})\)(?:\s?(thousand|million|billion|trillion|bn|[kKmMbB](?![^\W_])))?"
)
def loss(m, context):
    """$(4.2) million, a loss."""
    unit, _ = units.CURRENCIES[m[1]]
    scale = [units.MAGNITUDES.get(m[3], m[3])] if m[3] else []
    if not scale and re.fullmatch(r"\d*\.\d\d", m[2]):
        return money_words("-", m[2], None, None, *units.CURRENCIES[m[1]], False)
    return ["minus", *n.decimal(m[2]), *scale, n.plural(unit)]


@rule(rf"1/(\d{{2,4}})\s?(?:s|sec)\b{END}")
def exposure(m, context):
    """1/250 s."""
    return ["one", *n.ordinal(m[1]), "of", "a", "second"]


@rule(rf"({NUM}){DASH}({NUM})[\"\u2033\u201d](?!\w(?<!x))")
def inch_range(m, context):
    """3-5 inches by their mark."""
    if closes_quotation(m):
        return None
    single = qualifies(m, context)
    return [*n.decimal(m[1]), "to", *n.decimal(m[2]), "inch" if single else "inches"]


@rule(r"(\d{1,3})[- ]?(?:y\.\s?o\.?|y/o\b|yo\b)(?=[\s,;:)]|$)")
def age(m, context):
    """A 45-y.o. patient."""
    noun = following(m)
    attached = (
        m[0][len(m[1])] == "-" or qualifies(m, context) or noun[:2] in ("ma", "fe", "wo", "M", "F")
    )
    return [*n.cardinal(m[1]), "year" if attached else "years", "old"]


@rule(rf"(\d{{1,2}}):([0-5]\d)\s?([ap]){END}(?!\.m)")
def half_letter(m, context):
    """11:55p."""
    minute = (["oh"] if m[2][0] == "0" else []) + n.cardinal(m[2]) if m[2] != "00" else []
    return [*n.cardinal(m[1]), *minute, m[3].upper(), "M"]


@rule(rf"(\d{{5}})-(\d{{4}}){END}(?!-)")
def long_zip(m, context):
    """83701-1142."""
    return [*n.digits(m[1]), ",", *n.digits(m[2])]


@rule(r"\d{5}(?=\s[^\W\d_a-z])")
def town_code(m, context):
    """12, 80331 Munich: behind a house number."""
    return n.digits(m[0]) if HOUSE.search(m.string, max(0, m.start() - 40), m.start()) else None


@rule.after(("number",), rf"(\d{{1,3}})-(\d{{2,6}}){END}(?!-)")
def numbered(m, context):
    """No. 111-148."""
    if context.words[-2:] in (("l", "number"), ("law", "number")):
        return [*n.cardinal(m[1]), *n.cardinal(m[2])]
    docket = len(m[1]) < 3 < len(m[2])
    return [*n.cardinal(m[1]), *n.grouped(m[2])] if docket else None


@rule(rf"({NUM})\s?([m\u00b5\u03bcn]?)M(?={FORMULA.pattern})")
def molar(m, context):
    """0.1 M HCl."""
    return [*n.decimal(m[1]), MOLAR[m[2]] + "molar"]


@rule(rf"\d{{1,2}}B{END}(?!\s?(?:in|of|to|for|worth)\b)")
def lettered(m, context):
    """Exit 17B, a Raspberry Pi 4B: a letter behind a name's number."""
    sized = context.before in ("a", "an", "size", "cup") and m.string[m.end() : m.end() + 1] in (
        "",
        ".",
        ",",
    )
    if not sized and not NAME_BEFORE.search(m.string, 0, m.start()):
        return None
    return [*n.cardinal(m[0][:-1]), "B"]
