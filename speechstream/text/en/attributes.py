"""Numbers that are names by what stands at them: a 12-pk., a 529 plan, a 501(c)(3), 18/10 steel, parcel 7731 4409."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n, parts_of_speech
from speechstream.text.en.patterns import END, Context, Rules, following

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
TYPED = frozenset("enter type input key keyed punch dial redeem submit paste".split())
SENT = frozenset("parcel package shipment order consignment waybill acct".split())
FUNDED = "plans?|accounts?|savings|contributions?|funds?|withdrawals?|distributions?|rollovers?"
CALLED = frozenset("called calling calls dialed dialled dialing dialling phoned phone ring rang texted texting".split())
EMERGENCY = r"911|999|988|112|311|411|211|811|101|111"
OF_EMERGENCY = r"calls?|callers?|operators?|dispatch\w*|centers?|centres?|lines?|hotlines?|services?|systems?|tapes?|recordings?|responders?|texts?"
STEEL = r" (?:stainless|steel|chrome|flatware|cutlery|inox|grade)"


@rule(rf"(\d{{1,3}})-({'|'.join(DESCRIBED)})(?!\w)(?:\.(?= ?[a-z(]|[,;)]))?")
def described(m, context):
    """A 12-pk. of soda, a 4-cyl. engine, a 2-dr. coupe."""
    if m[2] == "pg" and m[0][-1] != ".":
        return None  # picograms
    return [*n.cardinal(m[1]), DESCRIBED[m[2]]]


@rule(rf"(\d{{1,2}})(?: ?pk| pck)(?!\w)(?:\.(?= ?[a-z(]|[,;)]))?")
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


@rule(r"18/(8|10|0)(?=" + STEEL + ")")
def alloy(m, context):
    """18/10 steel: parts of chromium and nickel."""
    return ["eighteen", *n.cardinal(m[1])]


@rule(r"(501|527)(?:\(([a-z])\))(?:\((\d{1,2})\))?(?!\w)|(83)\(b\)(?!\w)|(409|280)([A-Z])(?!\w)|(457|403|408|412)\(?([a-z])\)(?!\w)")
def tax_section(m, context):
    """501(c)(3), 83(b), 409A, 457(b)."""
    if m[4]:
        return ["eighty", "three", "B"]
    section, letter = m[1] or m[5] or m[7], m[2] or m[6] or m[8]
    return [*n.grouped(section), letter.upper(), *(n.cardinal(m[3]) if m[3] else [])]


@rule(rf"(529|457)(?= (?:college )?(?:{FUNDED})(?!\w))|(1031)(?= (?:like|exchanges?|swaps?|deals?)\b)|(1040|1099|1098|1095)(?= (?:forms?|tax)\b)")
def plan(m, context):
    """A 529 plan, a 1031 exchange."""
    return n.grouped(m[0])


@rule(rf"({EMERGENCY})(?= (?:{OF_EMERGENCY})(?!\w))|({EMERGENCY}){END}(?![.,:/]\d|\s?[%\u00b0-])")
def emergency(m, context):
    """Called 911, a 911 call."""
    if m[1]:
        return n.digits(m[0]) if context.before != "of" and m[0] in ("911", "999", "988", "112", "311") else None
    near = following(m)
    if context.before not in CALLED or near.islower() and near not in parts_of_speech.FUNCTION:
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
