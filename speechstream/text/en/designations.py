"""Numbers that custom reads in its own way: aircraft, houses, laps, seasons, marks out of ten, books of the Bible.

They are tried before the general rules of `codes.py`, `dates.py`, `amounts.py` and `counts.py`.
"""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n, units
from speechstream.text.en.counts import quantity
from speechstream.text.en.dates import MONTH, minutes, month_of
from speechstream.text.en.patterns import DASH, END, NUM, SIGN, Rules, following, number
from speechstream.text.en.trades import GENOME

rule = Rules()
ZONES = "GMT|UTC|BST|E[SD]T|C[SED]T|M[SD]T|P[SD]T|AE[SD]T|IST|JST|hours|hrs|local|Zulu"
COUNTABLE = (
    "people homes users customers jobs tonnes tons barrels votes viewers views subscribers followers downloads copies units workers "
    "households families children women men students passengers patients tourists visitors residents citizens voters refugees "
    "migrants euros pounds dollars shares tickets listeners records accounts members fans vehicles cars doses hectares acres "
    "employees players b/d bpd boe/d bbls bbl streams likes deaths cases tests parameters tokens years inhabitants"
)
TWICE = "Samuel|Sam|Kings|Kgs|Chronicles|Chron|Corinthians|Cor|Thessalonians|Thess|Timothy|Tim|Peter|Pet|John|Jn|Maccabees|Macc"
CRICKET = re.compile(
    r"\d\*|\b\d{2,3} & \d{1,3}/\d|\b(?:lead|trail) by \d+ runs|\b(?:ovs?|stumps|declared|wickets?|overs?|all out|innings|tea|lunch)\b"
)
PHONED = (
    q.DIALLED | q.CODED | frozenset("telephone tel mobile cell fax id whatsapp meeting".split())
)
BATTING = frozenset("batting hitting hit average hitter hits batted slugging obp bat".split())
FOODS = (
    "of water milk flour sugar rice butter oil broth stock chopped grated shredded cream oats nuts cheese sifted packed brown white all "
    "diced sliced cooked warm cold hot boiling buttermilk cocoa honey raisins pecans walnuts peas corn beans juice for plus more each ice crushed whole frozen fresh dried unsalted packed grape honey mayonnaise mayo sour heavy"
)
OVEN = re.compile(
    r"\b(?:oven|bake[sd]?|preheat\w*|roast\w*|temperatures?|temp|degrees|heat|weather|outside|fan|below|fever|cook\w*|grill|hi|lo|highs?|lows?|sunny|rain|snow|cloudy|chills?|forecast|windy|humid|frost)\b",
    re.I,
)
DIALLING = re.compile(r"\b(?:dial|call|ring|phone|text)(?:ing)?\b", re.I)
NUMBERED_LINKS = frozenset("is : number . , no at on us me him her our my".split())
MOVES = frozenset("cut hike rise rate move increase drop fall decline reduction jump".split())
NETWORK = frozenset("modem baud rate speed speeds bandwidth link bitrate throughput at".split())


@rule(
    rf"(7[0-8]7)(?:-(\d{{3}}|\d{{1,2}})(ER|LR)?{END}|(?=\s(?:MAX|Max|Dreamliner|jet|jets|plane|aircraft)\b)|(?=s\b))"
)
def aircraft(m, context):
    """737-800, 737 MAX, 747s."""
    if m[2]:
        return n.grouped(m[1]) + n.grouped(m[2]) + list(m[3] or "")
    return n.grouped(m[1])


@rule(rf"0x([0-9A-Fa-f]+){END}")
def hexadecimal(m, context):
    """0x1F, each digit by itself."""
    return ["zero", "X"] + [w for c in m[1] for w in (n.digits(c) if c.isdigit() else [c.upper()])]


@rule(
    rf"\d{{4}}(?=\s(?:[NSEW]\.?\s|[NS][EW]\s)?(?:(?:[A-Z][a-z]+|\d+(?:st|nd|rd|th))\s){{1,3}}(?:{q.STREETS})\b)"
)
def house(m, context):
    """8901 Sunset Blvd."""
    return n.grouped(m[0])


@rule(rf"\d{{3,4}}{END}(?![.,-]\d)")
def box(m, context):
    """P.O. Box 1042."""
    if context.before != "box" or m[0].endswith("000"):
        return None
    return n.grouped(m[0])


@rule(rf"([0-5]?\d):([0-5]\d)\.(\d{{1,3}}){END}")
def lap(m, context):
    """1:12.345 of a lap or a race."""
    return n.cardinal(m[1]) + minutes(int(m[2])) + ["point", *n.digits(m[3])]


@rule(rf"([01]\d|2[0-3])([0-5]\d)(?=\s(?:{ZONES})\b|Z\b)|(0[0-9])([0-5]\d){END}(?![-/:.]\d|\s\d)")
def without_colon(m, context):
    """0400 GMT, at 0230."""
    if m[3] and context.before not in (
        "at",
        "by",
        "until",
        "till",
        "before",
        "after",
        "since",
        "from",
        "around",
    ):
        return None
    hour, minute = (m[1] or m[3]), int(m[2] or m[4])
    if int(hour) == 0 and minute == 0:
        return ["zero", "hundred"]
    words = (["zero" if minute == 0 and not m[3] else "oh"] if hour[0] == "0" else []) + n.cardinal(
        hour
    )
    return words + (["hundred"] if minute == 0 else minutes(minute))


@rule(rf"((?:19|20)\d\d)/(\d\d){END}(?![/.-]\d)")
def season(m, context):
    """The 2020/21 season."""
    if (int(m[1]) + 1) % 100 != int(m[2]):
        return None
    return n.year(int(m[1])) + (n.cardinal(m[2]) if m[2][0] != "0" else ["oh", *n.cardinal(m[2])])


@rule(rf"((?:19|20)\d\d){DASH}(0\d){END}(?![-/.]\d)")
def years(m, context):
    """2001-02; 2024-06 after in or since is a month."""
    if int(m[2]) <= int(m[1][2:]):
        return None
    return n.year(int(m[1])) + ["to", "oh", *n.cardinal(m[2])]


@rule(
    rf"(\d{{1,2}})(?:st|nd|rd|th)?\s?{DASH}\s?(\d{{1,2}})(?:st|nd|rd|th)?\s+({MONTH})(?:(,?\s+)(\d{{4}}){END}(?!\.\d|,\d))?",
    re.I,
)
def days(m, context):
    """7-11 May."""
    if not m[3][0].isupper() or not 1 <= int(m[1]) < int(m[2]) <= 31:
        return None
    the = [] if context.before in ("the", "this", "last", "next") else ["the"]
    pieces = [
        ([*the, *n.ordinal(m[1])], *m.span(1)),
        (["to", "the", *n.ordinal(m[2])], *m.span(2)),
        (["of", month_of(m[3])], *m.span(3)),
    ]
    return pieces + ([(n.year(int(m[5])), *m.span(5))] if m[5] else [])


@rule(
    rf"(\d{{1,2}})\s?/\s?(\d{{1,2}}){END}(?=\s(?:time|meter|metre|signature)\b)(?!\s(?:time job|time work|time role))"
)
def time_signature(m, context):
    """3/4 time."""
    if m[2] not in ("2", "4", "8", "16"):
        return None
    return n.cardinal(m[1]) + n.cardinal(m[2])


@rule(rf"(\d{{2,3}})/(\d){END}(?!/)")
def innings(m, context):
    """245/6 in cricket: runs for wickets."""
    if not CRICKET.search(m.string):
        return None
    return n.cardinal(m[1]) + ["for", *n.cardinal(m[2])]


@rule(rf"(\d{{1,2}}\.\d+)\s?/\s?(5|10|20|100){END}(?!/)|(10)/(10){END}(?!/)")
def marks(m, context):
    """9.5/10, 10/10."""
    return n.decimal(m[1] or m[3]) + ["out", "of"] + n.cardinal(m[2] or m[4])


@rule(rf"(\d{{1,3}})/(\d{{1,3}})(?:st|nd|rd|th)s?{END}")
def ordinal_fraction(m, context):
    """2/3rds, 1/10th."""
    return n.fraction(int(m[1]), int(m[2]))


@rule(rf"(\d{{1,3}})/1{END}(?!/|\.\d)")
def odds(m, context):
    """10/1."""
    return (
        n.cardinal(m[1]) + ["to", "one"]
        if m[1] != "1" and context.before in ("at", "of", "odds", "a")
        else None
    )


@rule(rf"50[-/\u2013]50{END}")
def halves(m, context):
    """50-50."""
    return ["fifty", "fifty"]


@rule(
    rf"({NUM})m(\+?)(?=\s(?:more\s|new\s|American\s|extra\s)?(?:{COUNTABLE.replace(' ', '|')})\b)"
)
def millions(m, context):
    """1.5m homes."""
    return [*n.decimal(m[1]), "million"] + ["plus"] * bool(m[2])


@rule(rf"(\d{{1,2}})\s?st\.?(?:\s(\d{{1,2}})\s?lbs?\.?)?{END}(?!\s?[A-Z])")
def stones(m, context):
    """5 st 10 lb."""
    if not m[2] and context.before not in ("weighs", "weighed", "weigh", "lost", "about"):
        return None
    rest = [*n.cardinal(m[2]), "pound" if m[2] == "1" else "pounds"] if m[2] else []
    return [*n.cardinal(m[1]), "stone", *rest]


@rule(r"(\d{1,2})[ -]?(?:[kK]|kt|ct)\.?(?=\s(?:(?:white|rose|yellow)\s)?gold\b)")
def karats(m, context):
    """24K gold."""
    return [*n.cardinal(m[1]), "karat"]


@rule(rf"\d{{3}}{END}(?![.,:/-]\d)")
def emergency(m, context):
    """Dial 112 or 999."""
    listed = context.before in ("or", "and", "not") and DIALLING.search(m.string, 0, m.start())
    return n.digits(m[0]) if listed else None


@rule(r"\+?\d{2,4}(?:[ -]\d{2,7}){1,4}" + END + r"(?![.,:/]\d)")
def dialled(m, context):
    """Groups of digits behind telephone, ID, code and the like."""
    words = [w for w in context.words[-4:] if w not in NUMBERED_LINKS]
    if len(re.sub(r"\D", "", m[0])) < 7 or not words or words[-1] not in PHONED:
        return None
    out = ["plus"] if m[0][0] == "+" else []
    groups = re.findall(r"\d+", m[0])
    for i, group in enumerate(groups):
        out += n.digits(group) + [","] * (i + 1 < len(groups))
    return out


@rule(rf"([123])(?=\s(?:{TWICE})\b)")
def book(m, context):
    """1 Corinthians, 2 Tim. 3:16."""
    name = following(m)
    after = m.string[m.end() + 1 + len(name) :]
    if name not in ("Corinthians", "Thessalonians", "Maccabees") and not re.match(
        r"\.?\s\d", after
    ):
        return None
    return n.ordinal(m[1])


@rule(rf"({SIGN})({NUM})\s?bps{END}")
def basis_points(m, context):
    """25 bps; at the speed of a line bits per second."""
    value = float(m[2].replace(",", ""))
    if value > 1000 or NETWORK & set(context.words[-3:]) - {"at"}:
        return None
    return [*number(m[1] + m[2]), "basis", "point" if m[2] == "1" else "points"]


@rule(rf"([-+\u00b1]?{NUM})[\s-]?(bp|pct|pts|pcs|doz|reb|ast)\b\.?(?=\s[a-z\d]|\s?[,;:)]|\s*$|\.)")
def short_units(m, context):
    """3 pct., 12 pts, 50 bp."""
    one = m[1] == "1"
    names = {
        "pct": ["percent"],
        "pts": ["points"],
        "pcs": ["pieces"],
        "doz": ["dozen"],
        "reb": ["rebounds"],
        "ast": ["assists"],
        "bp": [
            "basis",
            "point"
            if one
            or m[0][-3] == "-"
            and m.string[m.end() : m.end() + 1] == " "
            or following(m) in MOVES
            else "points",
        ],
    }
    if m[2] == "bp" and GENOME.search(m.string.replace(m[0], "")):
        return [*n.decimal(m[1]), "base", "pairs"]
    return [*number(m[1]), *names[m[2]]]


@rule(rf"(\d{{1,2}})['\u2032\u2019]\s?([1-5]\d)(?:[\"\u2033\u201d]|''){END}")
def minutes_seconds(m, context):
    """5'30\": more than eleven inches are seconds."""
    if int(m[2]) < 12:
        return None
    return [*n.cardinal(m[1]), "minute" + "s" * (m[1] != "1"), *n.cardinal(m[2]), "seconds"]


@rule(rf"(\d)h([0-5]\d){END}")
def spent(m, context):
    """1h30 is how long; 18h30 a time of day."""
    if int(m[1]) > 7 or context.before in ("at", "by", "until", "from"):
        return None
    return (
        [*n.cardinal(m[1]), "hour" + "s" * (m[1] != "1"), *n.cardinal(int(m[2])), "minutes"]
        if int(m[2])
        else None
    )


@rule(rf"({NUM})\s?(L|l|kWh)/100\s?km{END}")
def consumption(m, context):
    """4.5 L/100 km."""
    unit = units.UNITS[m[2]].split()
    return [*n.decimal(m[1]), *unit[:-1], n.plural(unit[-1]), "per", "one", "hundred", "kilometers"]


@rule(rf"(1):(\d{{1,3}}(?:,\d{{3}})+){END}")
def scale(m, context):
    """1:50,000 of a map."""
    return ["one", "to", *n.cardinal(m[2].replace(",", ""))]


@rule(
    r"(\d{1,2})[\s-]?h(?:ou)?rs?\.?\s(\d{1,2})[\s-]?min(?:ute)?s?\.?(?=\s(?:flight|drive|trip|ride|film|movie|video|session|delay|journey|wait|walk|show|game|match|long|version)\b)"
)
def long_noun(m, context):
    """The 2hr 45min flight."""
    if context.before not in ("a", "the", "an", "this", "that", "our", "my", "your", "his", "her"):
        return None
    return [*n.cardinal(m[1]), "hour", *n.cardinal(m[2]), "minute"]


@rule(rf"(\d+\.\d+):(\d+(?:\.\d+)?){END}(?!:)")
def decimal_ratio(m, context):
    """1.05:1."""
    return [*n.decimal(m[1]), "to", *n.decimal(m[2])]


@rule(rf"\.(\d\d\d){END}(?!\d|%)")
def average(m, context):
    """Batting .312, a .300 hitter."""
    near = {*context.words[-3:], following(m).lower()}
    if not near & BATTING:
        return None
    return n.grouped(m[1]) if m[1][0] != "0" else ["oh", *n.cardinal(m[1])]


@rule(rf"(4/4|6/8|12/8|9/8|5/4|7/8){END}(?!\s?(?:of|in|cups?|\"|inch|mile)\b)")
def beat(m, context):
    """In 4/4."""
    if (
        m[0] != "4/4"
        and context.before != "in"
        or m[0] in ("7/8", "5/4")
        and m.string[m.end() :].strip(" .,;!?")
    ):
        return None
    return [w for part in m[0].split("/") for w in n.cardinal(part)]


@rule(rf"(\d{{1,2}}){DASH}(\d{{1,2}}){END}(?![.,]?\d)")
def table_number(m, context):
    """Table 3-1."""
    if context.before not in ("table", "figure", "exhibit", "equation", "form"):
        return None
    return n.cardinal(m[1]) + n.cardinal(m[2])


@rule(rf"(\d)\s?[x\u00d7]\s?(\d{{1,2}})s{END}")
def lumber(m, context):
    """2x4s."""
    last = n.cardinal(m[2])
    return [*n.cardinal(m[1]), "by", *last[:-1], n.plural(last[-1])]


@rule(rf"(?:(1)-)?(800|888|877|866|900|\d{{3}})-(?=[A-Z]{{4,}}{END}|[A-Z]+-[A-Z]+{END})")
def vanity(m, context):
    """1-800-FLOWERS, 555-HELP."""
    prefix = ["one"] if m[1] else []
    return prefix + (n.cardinal(m[2]) if m[2] in ("800", "900") else n.digits(m[2])) + [","]


@rule(
    rf"(4\d\d|50\d){END}(?=\s(?:Forbidden|Not\s|Unauthorized|Bad\s|Internal\s|Service\s|Gateway|Too\s|Method\s|Conflict|Gone|page|pages|error|errors|response|responses|status)\b)"
)
def status(m, context):
    """A 404 page."""
    return n.grouped(m[0])


@rule(r"((?:\d+\s)?\d/\d|\d*[\u00bc-\u00be\u2153-\u215e]|\d+)\s?([Tt])\.(?=\s[a-z]|\)\s[a-z])")
def spoons(m, context):
    """1 T. honey, 1 t. salt."""
    words = quantity(m[1])
    if m[2] == "t" and m.string[m.start(2) - 1] != " ":
        return None
    one = m[1] == "1" or not m[1][0].isdigit() or "/" in m[1] and " " not in m[1]
    return [*words, ("table" if m[2] == "T" else "tea") + "spoon" + "s" * (not one)]


@rule(
    rf"((?:\d+\s)?\d/\d|\d*[\u00bc-\u00be\u2153-\u215e]|\d+(?:[.-]\d)?)\s[cC]\.?(?=\s(?:{FOODS.replace(' ', '|')})\b|\)|\s?\+|\s\(\d)"
)
def cups(m, context):
    """2 c. rice."""
    words = quantity(m[1])
    one = m[1] == "1" or not m[1][0].isdigit() or "/" in m[1] and " " not in m[1]
    return [*words, "cup" + "s" * (not one)] if words else None


@rule(rf"(\d{{1,3}})/(\d{{1,2}}){END}(?!/|\.\d)")
def bet(m, context):
    """A bet at 7/2."""
    betting = re.search(
        r"\b(?:bet|bets|odds|backed|favou?rite|priced|bookies|bookmakers?|wager|outsider)\b",
        m.string,
    )
    if context.before not in ("at", "of", "a") or not betting:
        return None
    return [*n.cardinal(m[1]), "to", *n.cardinal(m[2])]


@rule(rf"\((0\d{{2,4}})\)[ -]?(\d{{3,4}})[ -](\d{{3,4}}){END}")
def area_code(m, context):
    """(020) 7946-0018."""
    return [*n.digits(m[1]), ",", *n.digits(m[2]), ",", *n.digits(m[3])]


@rule(rf"(\d{{2,3}})(C|F){END}(?!\.\d)")
def oven(m, context):
    """220C of an oven or the weather."""
    if not OVEN.search(m.string) or context.before in q.PLACES:
        return None
    return [*n.cardinal(m[1]), "degrees", "celsius" if m[2] == "C" else "fahrenheit"]


@rule(rf"[-\u2212](\d{{1,2}})(?::(\d\d))?{END}")
def offset(m, context):
    """UTC-5."""
    if m.string[max(0, m.start() - 3) : m.start()] not in ("UTC", "GMT"):
        return None
    return ["minus", *n.cardinal(m[1]), *(minutes(int(m[2])) if m[2] else [])]


@rule(r"(5|10|15)[kK](?=\s(?:costs?|takes?|is|was|and|or|in|on|at)\b|,|[.;!?]|$)")
def race(m, context):
    """A 5K."""
    return (
        [*n.cardinal(m[1]), "K"]
        if context.before in ("a", "an", "my", "his", "her", "first", "the")
        else None
    )


@rule(rf"\d0\d{END}(?![.,:-]\d)")
def course(m, context):
    """Bio. 101, a 403."""
    if (
        context.before in ("bio", "chem", "econ", "psych", "physics", "english", "math", "history")
        or m[0] in ("401", "403", "404", "502", "503")
        and {"api", "server", "http", "returned", "returns", "status"} & set(context.words)
    ):
        return n.grouped(m[0])
    return None
