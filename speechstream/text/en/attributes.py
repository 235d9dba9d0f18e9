"""Numbers that are names by what stands at them: a 12-pk., a 529 plan, a 501(c)(3), 18/10 steel, parcel 7731 4409."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n, parts_of_speech
from speechstream.text.en.measures import expression
from speechstream.text.en.patterns import DASH, END, NUM, Context, Rules, following

rule = Rules(rare=True)

# Abbreviations that with a number describe what follows.
DESCRIBED = {
    "pk": "pack",
    "pck": "pack",
    "pg": "page",
    "pc": "piece",
    "cyl": "cylinder",
    "spd": "speed",
    "dr": "door",
    "qt": "quart",
    "stry": "story",
    "psgr": "passenger",
    "bdrm": "bedroom",
    "chap": "chapter",
}
GEOLOGY = re.compile(
    r"\b(?:lived|fossils?|dinosaur\w*|extinct\w*|Cretaceous|Jurassic|Triassic|Permian|rocks?|geolog\w+|zircons?|crust|"
    r"species|evolved|ago|formed|dated)\b",
    re.I,
)
TYPED = frozenset("enter type input key keyed punch dial redeem submit paste".split())
SENT = frozenset("parcel package shipment order consignment waybill acct".split())
FUNDED = "plans?|accounts?|savings|contributions?|funds?|withdrawals?|distributions?|rollovers?"
CALLED = frozenset(
    "called calling calls dialed dialled dialing dialling phoned phone ring rang texted texting".split()
)
PERSONS = frozenset("people men women children police both others".split())
EMERGENCY = r"911|999|988|112|311|411|211|811|101|111"
OF_EMERGENCY = r"calls?|callers?|operators?|dispatch\w*|centers?|centres?|lines?|hotlines?|services?|systems?|tapes?|recordings?|responders?|texts?"
STEEL = r" (?:stainless|steel|chrome|flatware|cutlery|inox|grade)"


@rule(rf"(\d{{1,3}})-({'|'.join(DESCRIBED)})(?!\w)(?:\.(?= ?[a-z(]|[,;)]))?")
def described(m, context):
    """A 12-pk. of soda, a 4-cyl. engine, a 2-dr. coupe."""
    if m[2] == "pg" and m[0][-1] != ".":
        return None  # picograms
    return [*n.cardinal(m[1]), DESCRIBED[m[2]]]


@rule(r"(\d{1,2})(?: ?pk| pck)(?!\w)(?:\.(?= ?[a-z(]|[,;)]))?")
def pack(m, context):
    """6pk, 12 pk."""
    return [*n.cardinal(m[1]), "pack"]


@rule(r"(1?\d)(?::([0-5]\d))?([ap])\s?[-\u2013]\s?(1?\d)(?::([0-5]\d))?([ap])(?!\w|\.\w)")
def shift(m, context):
    """9a-5p."""
    words = []
    for hour, minute, half in (m.groups()[:3], m.groups()[3:]):
        words += [*n.cardinal(hour), *(n.grouped(minute) if minute not in (None, "00") else [])]
        words += [half.upper(), "M", "to"]
    return words[:-1]


@rule(rf"({NUM})(?:\s?{DASH}\s?({NUM}))?\s?(Ma|[Mm]ya|kya|ka|[Gb]ya|Ga)(?=[.,;:)]|$|\s(?:[(a-z]))")
def ages(m, context):
    """66 Ma, 300 kya: before the present."""
    if m[3] in ("Ma", "ka", "Ga") and not GEOLOGY.search(m.string):
        return None
    scale = {"k": "thousand", "m": "million", "b": "billion", "g": "billion"}[m[3][0].lower()]
    upto = ["to", *n.decimal(m[2])] if m[2] else []
    return [*n.decimal(m[1]), *upto, scale, "years", "ago"]


@rule(r"0:([0-5]\d)(?= (?:left|remaining|to (?:go|play)|on the clock))")
def clock_left(m, context):
    """0:08 left."""
    return [*n.cardinal(int(m[1])), "second" + "s" * (m[1] != "01")]


@rule(rf"({NUM}) ?[Kk](?=/[\u00b5\u03bcu]L(?!\w))")
def count_of_cells(m, context):
    """11.2 K/uL."""
    return [*n.decimal(m[1]), "thousand"]


@rule(r"(\d{1,2}) ?(?:BR|BD|Bd|bd)(?: ?[/,+] ?| )(\d)(\.5)? ?(?:BA|Ba|ba)(?!\w)|(\d)BR(?!\w)")
def bedrooms(m, context):
    """2BR/1.5BA, 3BR."""
    if m[4]:
        return [*n.cardinal(m[4]), "bedroom"]
    half = ["and", "a", "half"] if m[3] else []
    return [*n.cardinal(m[1]), "bedroom", *n.cardinal(m[2]), *half, "bath"]


@rule(rf"({NUM})([BMT]) (km|mi|kg|gal|L|kWh|bbl|ft|lbs?|ly)(?!\w)")
def scaled(m, context):
    """24.9B km."""
    scale = {"B": "billion", "M": "million", "T": "trillion"}[m[2]]
    return [*n.decimal(m[1]), scale, *expression(m[3], False)]


@rule(r"(1?\d)(?::([0-5]\d))?([ap])(?=[.,;:!?)](?!\w)|$|\s(?:[A-Z]|sharp|on|in|and|or|for)\b)")
def half_of_day(m, context):
    """@ 3p, 8:25a."""
    if not m[2] and context.before not in ("at", "by", "until", "from", "til"):
        return None
    return [
        *n.cardinal(m[1]),
        *(n.grouped(m[2]) if m[2] not in (None, "00") else []),
        m[3].upper(),
        "M",
    ]


@rule(r"18/(8|10|0)(?=" + STEEL + ")")
def alloy(m, context):
    """18/10 steel: parts of chromium and nickel."""
    return ["eighteen", *n.cardinal(m[1])]


@rule(
    r"(501|527)(?:\(([a-z])\))(?:\((\d{1,2})\))?(?!\w)|(83)\(b\)(?!\w)|(409|280)([A-Z])(?!\w)|(457|403|408|412)\(?([a-z])\)(?!\w)"
)
def tax_section(m, context):
    """501(c)(3), 83(b), 409A, 457(b)."""
    if m[4]:
        return ["eighty", "three", "B"]
    section, letter = m[1] or m[5] or m[7], m[2] or m[6] or m[8]
    return [*n.grouped(section), letter.upper(), *(n.cardinal(m[3]) if m[3] else [])]


@rule(
    rf"(529|457)(?= (?:college )?(?:{FUNDED})(?!\w))|(1031)(?= (?:like|exchanges?|swaps?|deals?)\b)|(1040|1099|1098|1095)(?= (?:forms?|tax)\b)"
)
def plan(m, context):
    """A 529 plan, a 1031 exchange."""
    return n.grouped(m[0])


@rule(rf"({EMERGENCY})(?= (?:{OF_EMERGENCY})(?!\w))|({EMERGENCY}){END}(?![.,:/]\d|\s?[%\u00b0-])")
def emergency(m, context):
    """Called 911, a 911 call."""
    if m[1]:
        return (
            n.digits(m[0])
            if context.before != "of" and m[0] in ("911", "999", "988", "112", "311")
            else None
        )
    near = following(m)
    counted = near.islower() and (near not in parts_of_speech.FUNCTION or near in PERSONS)
    if counted or context.before not in CALLED:
        return None
    return n.digits(m[0])


@rule(rf"(\d{{4}}) (\d{{4}}){END}(?![.,:/ -]\d|\s?[%\u00b0$])")
def pairs_of_four(m, context):
    """Parcel 7731 4409: two groups of four digits that are not both years are a number's digits."""
    if all(1500 <= int(g) <= 2099 for g in m.groups()) and not _coded(context):
        return None
    return [*n.digits(m[1]), ",", *n.digits(m[2])]


@rule(rf"(\d{{3}}) (\d{{3}}){END}(?![.,:/ -]\d|\s?[%\u00b0$])")
def pairs_of_three(m, context):
    """Enter 339 074, your code is 482 913; else a space may divide thousands."""
    near = following(m)
    counted = near.islower() and near.endswith("s") and near not in parts_of_speech.FUNCTION
    if counted or not _coded(context):
        return None
    return [*n.digits(m[1]), ",", *n.digits(m[2])]


def _coded(context: Context) -> bool:
    words = set(context.words[-4:])
    return bool(words & (q.CODED | q.NUMBERED_LONG | SENT)) or context.before in TYPED
