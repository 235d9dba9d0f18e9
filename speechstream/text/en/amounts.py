"""Amounts: money, magnitudes, shares of a hundred, measures with their units, and durations."""

from __future__ import annotations

import re

from speechstream.text.en import (
    cues as q,
    geography,
    numbers as n,
    parts_of_speech,
    tables as t,
    units,
)
from speechstream.text.en.measures import EXPRESSION, PRICED, expression
from speechstream.text.en.patterns import (
    ARTICLES,
    DASH,
    DEALS,
    END,
    INT,
    MAGNITUDE,
    NUM,
    SIGN,
    Context,
    Rules,
    alternatives,
    following,
    is_one,
    number,
    qualifies,
)

rule = Rules()
SYMBOL = alternatives(units.CURRENCIES)
AFTER = alternatives(
    c for c in units.CURRENCIES if c.isalpha() or c in "\u20ac\u00a3\u00a2$\u20bd\u20ba"
)
POINTED = frozenset(("dollar", "pound", "bitcoin", "ether"))  # never points for commas
CEILINGS = frozenset(
    "ceiling ceilings wall walls fence fences ladder pole boards rope cable cord".split()
)
HIGH = CEILINGS | frozenset("tall wide long high deep of above below apart".split())
APART = frozenset("x by apart deep tall wide long thick high across".split())
INCH = ('"', "\u2033")
MOLAR = re.compile(r" (?:solution\b|(?:[A-Z][a-z]?\d?){2,}(?![a-z]))")
SCREENED = re.compile(
    r"\s(?:[\w-]+\s){0,3}(?:TVs?|monitors?|displays?|screens?|laptops?|tablets?|pizzas?|pipes?|nails?|rims?|wheels?)\b"
)
NAMED_AFTER = ("-dollar", "-pound", "-euro", " dollar", " pounds", " euros")
PENSIONED = frozenset(
    "plans contributions accounts rollovers loans matches withdrawals savings balances".split()
)
CENTS = re.compile(r"\.\d\d(?!\d)")
COMPOUND = re.compile("-(?!plus)[a-z]")


@rule(rf"[$\u00a3\u20ac](\d+)s{END}")
def notes(m, context):
    """$20s."""
    return n.decade(int(m[1])) if len(m[1]) < 4 else None


@rule(
    rf"({SIGN})({SYMBOL})\s?({SIGN})(\d{{1,3}}(?:\.\d{{3}})*,\d\d(?!\d|,\d)|{NUM})(?:\s?({DASH}|to)\s?(?:{SYMBOL})?({NUM}))?"
    rf"(?:(\s?|-)(lakh crore|{MAGNITUDE}|bn|trn|tn|mn|MM|mm|cr\.?|[kKmMbBT])(?![^\W_]))?(?:\s?/\s?({alternatives(PRICED)}){END})?"
)
def money(m, context):
    """$3.50, -$5, $1.2 million, $10-20, $5/month, R$ 50."""
    if m[2] == "PHP" and re.fullmatch(r"[4-9](?:\.\d)?", m[4]):
        return None  # a language
    if m[8] and m.string.startswith(NAMED_AFTER, m.end()):  # a $2 million-dollar view
        return [*number((m[1] or m[3]) + m[4]), *units.MAGNITUDES.get(m[8], m[8]).split()]
    unit, cent = units.CURRENCIES[m[2]]
    single = (
        qualifies(m, context) or following(m) in DEALS or bool(COMPOUND.match(m.string, m.end()))
    )
    words = money_words(m[1] or m[3], m[4], m[6], m[8], unit, cent, single)
    return words + (["per", *PRICED[m[9]].split()] if m[9] else [])


@rule(
    rf"({SIGN})(\d{{1,3}}(?:\.\d{{3}})*,\d\d(?!\d|,\d)|[1-9]\d{{0,2}}(?: \d{{3}})+(?= )|{NUM})(?:\s?({MAGNITUDE}|bn|mn|[kKmM](?=\s)))?\s?({AFTER})(?![^\W_])"
)
def money_after(m, context):
    """50 euros by sign or code: 50 EUR, 12,50 EUR."""
    unit, cent = units.CURRENCIES[m[4]]
    if m[4] == "RM" and m.string[m.start(4) - 1] != " ":
        return None  # 70% 1RM
    return money_words(m[1], m[2].replace(" ", ""), None, m[3], unit, cent, qualifies(m, context))


@rule(rf"({SIGN})({NUM})\s({MAGNITUDE}|bn|mn|tn)\s({EXPRESSION})(?![^\W_])")
def many(m, context):
    """150 million km."""
    if len(m[4]) < 2 or m[4] in q.CAREFUL:
        return None
    return [*number(m[1] + m[2]), units.MAGNITUDES.get(m[3], m[3]), *expression(m[4], False)]


@rule(rf"(\d{{1,2}})p{END}")
def pence(m, context):
    """50p."""
    return n.cardinal(m[1]) + ["penny" if m[1] == "1" else "pence"]


def money_words(sign, amount, upto, magnitude, unit, cent, single) -> list[str]:
    """An amount of a currency, with its cents."""
    words = ["minus"] if sign in ("-", "\u2212") else []
    names = unit.split()
    many = names if single else names[:-1] + [n.plural(names[-1])]
    scale = units.MAGNITUDES.get(magnitude, magnitude).split() if magnitude else []
    if re.fullmatch(r"[\d.]+,\d\d", amount):
        amount = amount.replace(".", "").replace(",", ".")
    elif unit.split()[-1] not in POINTED and re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", amount):
        amount = amount.replace(".", "")
    if upto and not scale and cent and CENTS.search(f"{amount} {upto}"):
        first = money_words("", amount, None, None, unit, cent, False)
        return [*words, *first, "to", *money_words("", upto, None, None, unit, cent, False)]
    if upto:
        return words + n.decimal(amount) + ["to"] + n.decimal(upto) + scale + many
    whole, _, part = amount.replace(",", "").partition(".")
    if scale or len(part) not in (0, 2) or (part and not cent):
        return words + n.decimal(amount) + scale + many
    cents = int(part or 0)
    bare = single and not int(whole or 0)  # a $.05 dividend
    small = n.cardinal(cents) + [cent if cents == 1 or bare else n.plural(cent)] if cents else []
    if cents and not int(whole or 0):
        return words + small
    many = names[:-1] + [n.plural(names[-1])] if small else many
    big = n.cardinal(whole) + (names if whole.lstrip("0") == "1" else many)
    return words + big + (["and"] + small if small else [])


@rule(rf"(\d{{2,3}})/(\d{{2,3}})\s?mm\s?Hg{END}")
def blood_pressure(m, context):
    """120/80 mmHg."""
    return [*n.cardinal(m[1]), "over", *n.cardinal(m[2]), "millimeters", "of", "mercury"]


@rule(
    rf"(?:(\d+)(?:[ -](?=\d)|[ -]?(?!\d)))?(?:(\d{{1,2}})[/\u2044](\d{{1,2}})|([{''.join(t.VULGAR)}]))(?:\s?|-)(in\.|{EXPRESSION}|[\"\u2033](?!\w)){END}(?!/)(?:(?<=[a-z])\.(?=\s[a-z]))?"
)
def measured_fraction(m, context):
    """6 3/4 in, a quarter pound."""
    top, bottom = t.VULGAR[m[4]] if m[4] else (int(m[2]), int(m[3]))
    if top >= bottom or m[5] in q.CAREFUL or m[5] in ("m", "s", "h", "g"):
        return None
    part = ["a", "half"] if bottom == 2 and m[1] else n.fraction(top, bottom)
    words = [*n.cardinal(m[1]), "and", *part] if m[1] else part
    noun = following(m)
    named = m[5] in INCH and noun.islower() and noun not in parts_of_speech.FUNCTION | APART
    unit = "in" if m[5] in INCH else m[5].rstrip(".")
    return words + expression(unit, not m[1] or named or qualifies(m, context))


@rule(r"40([13])\s?(?:([kKbB])|\(([kKbB])\))(?!\w)")
def pension(m, context):
    """401(k), 403b."""
    near = following(m)
    counted = not m[3] and near.endswith("s") and near not in PENSIONED
    if counted or (m[1] == "1") != ((m[2] or m[3]) in "kK"):
        return None
    return ["four", "oh", *n.cardinal(m[1]), (m[2] or m[3]).upper()]


@rule(
    rf"({NUM})MM(?=\s(?:barrels?|bbl|units|shares|people|users|cubic|tons|tonnes|revenue|Btu|acres|in\b|of\b|USD))"
)
def thousand_thousands(m, context):
    """2.5MM barrels."""
    return [*n.decimal(m[1]), "million"]


@rule(rf"({SIGN})({NUM})(?:{DASH}({NUM}))?(bn|tn|mn|[kKMBT])(?:\b|(?=\+))(?!['\u2019])")
def magnitude(m, context):
    """1.5B parameters, 2k, 5M users, 10k-20k; not 4K video, a 10K run or seat 14B."""
    letter, near = m[4], following(m)
    if letter in "kK" and m.string[max(m.start() - 1, 0)] == "-":
        return None  # i7-12700K
    if letter == "M" and MOLAR.match(m.string, m.end()):
        return [*number(m[1] + m[2]), "molar"]
    if context.before in q.PLACES or not m[3] and _letter(m, context, letter, near):
        return None
    words = number(m[1] + m[2]) + (["to", *n.decimal(m[3])] if m[3] else [])
    return [*words, units.MAGNITUDES[letter]]


def _letter(m: re.Match, context: Context, letter: str, near: str) -> bool:
    """Whether the letter behind a number is only a letter."""
    tall = letter == "K" and m[2] in ("2", "4", "5", "8") and "." not in m[2]
    if near.lower() in q.LETTERED_AFTER.get(letter.upper(), ()):
        return True
    if tall and (not near or not near.endswith("s")) and context.before != "about":
        return True
    street = re.match(rf"\s(?:[A-Z]\w+\s)+(?:{q.STREETS})\b", m.string[m.end() : m.end() + 40])
    return bool(street)


@rule(rf"({NUM})b(?=[ -](?:model|param|token|version|variant))")
def parameters(m, context):
    """A 7b model."""
    return [*n.decimal(m[1]), "billion"]


@rule(
    rf"({SIGN})({NUM})(%?)(?:\s?({DASH}|to|\u00b1)\s?({NUM}))?\s?(%|\u2030|percent(?:age points?)?){END}"
)
def percent(m, context):
    """5%, 5-10%, 50%-60%."""
    name = {"%": ["percent"], "\u2030": ["per", "mille"]}.get(m[6], m[6].split())
    if m[3] and not m[5]:
        return None
    if m[4] == "to" and m[3]:
        return number(m[1] + m[2]) + [*name, "to"] + n.decimal(m[5]) + name
    middle = ["plus", "or", "minus"] if m[4] == "\u00b1" else ["to"]
    return number(m[1] + m[2]) + (middle + n.decimal(m[5]) if m[5] else []) + name


@rule(rf"(\d{{1,2}})['\u2032\u2019]\s?(\d{{1,2}})(?:[\"\u2033\u201d]|''|(?!\w)){END}")
def feet_inches(m, context):
    """5'10" without its inches."""
    return n.cardinal(m[1]) + ["foot"] + n.cardinal(m[2])


def closes_quotation(m: re.Match) -> bool:
    """Whether the mark at a match's end closes a quotation rather than stands for inches."""
    before = m.string[: m.start()]
    if m[0][-1] == '"' and len(re.findall(r'(?<!\d)"', before)) % 2:
        return True
    return m[0][-1] == "\u201d" and before.rfind("\u201c") > before.rfind("\u201d")


@rule(rf"({NUM})(?:\s?([\u00bd\u00bc\u00be\u215b-\u215e]))?[\"\u2033\u201d](?!\w(?<!x))")
def inches(m, context):
    """A 27" monitor; a quotation mark that closes one is none."""
    if closes_quotation(m):
        return None
    words = n.decimal(m[1])
    if m[2]:
        top, bottom = t.VULGAR[m[2]]
        words += ["and", *(["a", "half"] if bottom == 2 else n.fraction(top, bottom))]
    noun = following(m)
    named = noun.islower() and noun not in parts_of_speech.FUNCTION and noun not in APART
    single = is_one(m[1]) and not m[2] or named or qualifies(m, context)
    single = single or bool(SCREENED.match(m.string, m.end()))
    single = (
        single
        or context.before in ARTICLES
        and bool(re.match(r"\s[A-Za-z0-9]+[\s-]\w", m.string[m.end() :]))
    )
    return [*words, "inch" if single else "inches"]


@rule(rf"(\d+)['\u2032\u2019]{DASH}(\d+)['\u2032\u2019](?!\w)")
def feet_range(m, context):
    """5'-6'."""
    return [*n.cardinal(m[1]), "to", *n.cardinal(m[2]), "feet"]


@rule(rf"({INT})['\u2032\u2019](?= [a-z]| ?[x\u00d7]|[\s,.]|$)")
def feet(m, context):
    """A 6' fence."""
    opened = re.search(r"(?:^|\s)['\u2018](?!\d)", m.string[: m.start()])
    by = context.before == "by" or re.match(r"\s?[x\u00d7]\s?\d", m.string[m.end() :])
    sized = context.before in ARTICLES or following(m) in HIGH
    if m[0][-1] != "\u2032" and not by and (opened or not sized):
        return None
    if not by and not following(m):
        return None
    one = qualifies(m, context) or m[1] == "1" or following(m) in CEILINGS
    return [*n.cardinal(m[1].replace(",", "")), "foot" if one else "feet"]


@rule(
    r"([-+\u2212]?\d+(?:\.\d+)?)\s?\u00b0\s?(?:(\d+(?:\.\d+)?)\s?['\u2032\u2019]\s?)?(?:(\d+(?:\.\d+)?)\s?[\"\u2033\u201d]\s?)?"
    r"\s?([NSEW])?(?![A-Za-z])"
)
def angle(m, context):
    """40\u00b042\u2032 N."""
    if not (m[2] or m[4]):
        return None
    words = number(m[1]) + ["degree" if is_one(m[1]) else "degrees"]
    words += [*n.decimal(m[2]), "minutes"] if m[2] else []
    words += [*n.decimal(m[3]), "seconds"] if m[3] else []
    return words + ([geography.DIRECTIONS[m[4]]] if m[4] else [])


FOR_DAYS = frozenset("for after within over every equals".split())
NOUNS_OF_TIME = frozenset(
    "timeout break delay window interval clip video countdown ad timer cooldown nap pause session".split()
)
STEPS = {"d": "day", "h": "hour", "m": "minute", "s": "second"}


@rule(
    r"\d+\s?(?:d|h|hrs?|m|mins?)\s?\d+\s?(?:h|hrs?|m|mins?|s|secs?)(?![^\W_])(?:\s?\d+\s?(?:mins?|m|secs?|s)(?![^\W_]))*"
)
def duration(m, context):
    """2h 15m, 1h30m20s: units from the longer to the shorter."""
    parts = re.findall(r"(\d+)\s?([a-z]+)", m[0])
    order = ["dhms".index(unit[0]) for _, unit in parts]
    if order != sorted(set(order)):
        return None
    words = []
    for amount, unit in parts:
        words += n.cardinal(amount) + [STEPS[unit[0]] + "s" * (amount != "1")]
    return words


@rule(rf"([-+\u2212]?)({NUM})(?:{DASH}({NUM}))?\s?([dhms]){END}(?!['\u2019\u00b2\u00b3/])")
def short_duration(m, context):
    """15m ago, in 30s, 5d: letters that are times where the words around them say so."""
    sign, amount, upto, letter = m.groups()
    near = following(m).lower()
    spaced = m[0][-2] == " "
    late = letter == "m" and bool(LATE & set(context.words[-3:]))
    timed = late or near in q.TIMED or context.before in q.TIMED_BEFORE and letter == "s"
    if letter == "m" and not timed:
        return None
    if letter == "d" and spaced and ("." in amount or context.before in FOR_DAYS):
        spaced, timed = False, True
    if letter == "d" and (spaced or amount in ("2", "3") and not timed):
        return None
    words = number(sign + amount) + (["to", *n.decimal(upto)] if upto else [])
    single = is_one(amount) and not upto or qualifies(m, context) or near in NOUNS_OF_TIME
    return [*words, STEPS[letter] + "s" * (not single)]


@rule(
    rf"({SIGN})({NUM})(?:\s?({DASH}|to|\u00b1|x|\u00d7)\s?({NUM}))?(?:[ -]?(in\.)(?=\s+[a-z]|\s+[A-Z]{{2,}}s?\b|\s*$|,)|([ -]?)({EXPRESSION}))(?![^\W_]|['\u2019]s)(?:(?<=[a-z])\.(?=\s[a-z\d]|/[a-z]|-old\b))?"
)
def measure(m, context):
    """5 km, 20 \u00b0C, 3-5 kg, 90 km/h, 10m, 9.8 m/s\u00b2."""
    gap, found = m[6] or "", "in" if m[5] else m[7]
    if not gap and len(found) == 1 and context.before in q.PLACES | q.GROUPED:
        return None  # route 9N
    if found in q.DIRECTED and context.before in ROADS:
        return None  # Rte. 73 W
    if found in ("HR", "HRS") and BASEBALL.search(m.string):
        return None
    if m[1] and found in ("HP", "MP"):
        return None  # +10 HP of a game
    if found in ("s", "d") or not m[5] and not _measured(m, gap, found):
        return None
    middle = {"\u00b1": ["plus", "or", "minus"], "x": ["by"], "\u00d7": ["by"]}.get(m[3], ["to"])
    words = number(m[1] + m[2]) + (middle + n.decimal(m[4]) if m[4] else [])
    single = (
        is_one(m[2])
        and not m[4]
        or gap == "-"
        or m[0].endswith("-in.")
        or qualifies(m, context)
        or _attached(m, found)
    )
    return words + expression(found, single)


LATE = frozenset("delayed late early waited waiting wait nap eta".split())
BASEBALL = re.compile(
    r"\b(?:RBIs?|batting|homers?|homered|OPS|ERA|SLG|OBP|hits|strikeouts?|innings|MLB|walk-off)\b"
)
ROADS = frozenset("route highway interstate road".split())
AMPED = re.compile(
    r" (?:fuse|breaker|charger|circuit|current|load|plug|socket|dryer|outlet|range|oven|relay|switch|supply|service|panel|motor)s?\b"
)
CONTAINER = re.compile(
    r"\.?\)\s(?:cans?|jars?|packages?|pkgs?|box(?:es)?|bags?|bottles?|containers?|cartons?|tubes?|tins?|packets?|blocks?|fillets?|steaks?|envelopes?)\b"
)
CARRIED = re.compile(
    r"\s(?:(?:turbo(?:charged)?|inline|flat|twin-turbo|hybrid|diesel)[ -])?(?:(?:[A-Z][\w-]*|external|internal|portable|wireless|lithium)\s)?(?:SSDs?|HDDs?|drives?|[VI]\d{1,2}\b|engine|\u00b1\s?\d+(?:\.\d+)?\s?% \w+|battery|batteries|cell|adapter|charger|resistor|capacitor|motor|fuse|bag|box|bottle|jar|tub|package|dumbbell|barbell|sack|carton|hammer|bar|bucket|jug|keg|man|woman|boy|girl|baby|dog|cat|player|patient|linebacker|fighter|athlete|person|adult)\b"
)
TURNED = re.compile(
    r"\s(?:angle|turn|rotation|weather|view|heat|incline|slope|bend|arc|wedge|tilt|panorama|video|camera|cone|field)\b"
)


INTRODUCED = re.compile(r"(?:\b(?:an?|the|this|each|one|my|our|your)|,) $", re.I)
CHAINED = re.compile(
    rf"\b(?:an?|the|this|each|one|my|our|your) {NUM}[ -]?(?:{EXPRESSION})(?:, (?:and |or )?|/| and | or | x )$",
    re.I,
)
CHAIN = re.compile(
    rf"(?:, (?:and |or )?|/| and | or | x )(?:{NUM})[ -]?(?:{EXPRESSION})(?![^\W_]) ([a-z]{{3,}})"
)


def _qualified(noun: str) -> bool:
    """Whether the word behind measures is a thing that has them: a 12 V, 7 Ah battery."""
    return noun not in parts_of_speech.FUNCTION and not noun.endswith(("ed", "ly"))


def _attached(m: re.Match, found: str) -> bool:
    """Whether a noun follows that the measure belongs to: a (15 oz.) can, a 30\u00b0 angle, a 55 in. TV."""
    rest = m.string[m.end() :]
    before = m.string[max(m.start() - 5, 0) : m.start()]
    if INTRODUCED.search(before) and (chain := CHAIN.match(rest)) and _qualified(chain[1]):
        return True
    noun = following(m)
    if noun and CHAINED.search(m.string[max(m.start() - 24, 0) : m.start()]) and noun.islower():
        return _qualified(noun)
    if m.string[max(m.start() - 1, 0)] == "(" and CONTAINER.match(rest):
        return True
    if CARRIED.match(rest):
        return True
    return (
        found == "\u00b0"
        and bool(TURNED.match(rest))
        or m[5] is not None
        and bool(re.match(r"\s+[A-Z]{2,}", rest))
    )


def _measured(m: re.Match, gap: str, found: str) -> bool:
    """Whether what looks like a unit is one: single letters only where no name or sentence follows."""
    rest = m.string[m.end() :]
    if found in q.DIRECTED and m.string[max(m.start() - 1, 0)] == "-":
        return False  # I-95 N
    if (
        gap == " "
        and len(found) > 1
        and found in q.CAREFUL
        and (m[0].endswith(".") or re.match(r"\. [a-z]", rest))
    ):
        return True  # 1 pt. cream
    if gap == "-" and found == "in" and re.match(r"-\d", rest):
        return False  # 1-in-10
    if gap == "-" and found == "ac":
        return True
    if gap == " " and found == "A" and AMPED.match(rest):
        return True  # a 12 V, 2 A supply
    if gap == "-" and found == "A" and AMPED.match(rest):
        return True  # a 30-A breaker
    if gap == "-" and (found in q.NOT_TOUCHING or found == "K"):
        return False  # a 10-K
    if gap == " " and found in q.NOT_SPACED:
        return False
    if not gap and found == "t" and following(m) in ("of", "per", "a"):
        return True  # 1.4t of steel
    if not gap and found in q.NOT_TOUCHING:
        return following(m).lower() in q.UNIT_NOUNS.get(found, ())
    word = re.match(r"\.?\s+([A-Za-z0-9]+)", rest)
    if gap == " " and found == "in":
        feet = re.search(r"\b(?:ft|feet|foot)\.?,?\s$", m.string[: m.start()])
        return bool(feet or word and word[1] in q.INCHED)
    if not gap or not word:
        return True
    if found in q.DIRECTED and not word[1][0].islower():
        return False
    return found not in q.CAREFUL or word[1] in q.AFTER_UNIT
