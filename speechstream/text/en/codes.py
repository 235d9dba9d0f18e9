"""Numbers that are names: telephone and card numbers, codes, addresses of machines, versions."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, geography, numbers as n
from speechstream.text.en.patterns import DASH, END, Context, Rules, following

rule = Rules()
EMERGENCY = frozenset("000 101 110 111 112 119 211 311 411 511 611 711 811 911 988 999".split())
BOUNDS = (("equal", "to"), ("less", "than"), ("greater", "than"))
JOINED = frozenset("or to for and now if from in at with by when".split())
LINKS = frozenset("is was number no : # the in with ending ends and of are be called reads".split())


def _groups(text: str) -> list[str]:
    """Digits in the groups they are written in, with pauses between; 800 is eight hundred."""
    words = ["plus"] if text.startswith("+") else []
    groups = re.findall(r"\d+", text)
    for i, group in enumerate(groups):
        words += ["eight", "hundred"] if group == "800" else n.digits(group)
        words += [","] * (i + 1 < len(groups))
    return words


@rule(
    r"(?:\+?\d{1,3}[ .-])?\(\d{3}\)[ -]?\d{3}[ .-]\d{4}"
    + END
    + r"|(?:\+?\d{1,3}[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}"
    + END
    + r"|\+\d{8,15}"
    + END
    + r"|0\d{2,4}-\d{3,4}-\d{4}|0[2-9]-\d{3,4}-\d{4}"
    + END
    + r"|\d{3}-\d{4}"
    + END
    + r"|\+\d{1,3}(?:[ -]\d{1,5}){2,6}"
    + END
    + r"|\d{3}-\d{2}-\d{4}"
    + END
    + r"|\d{4}(?:[ -]\d{4}){2,4}(?:[ -]\d{1,3})?"
    + END
    + r"|0\d{2,4} \d{3,4} \d{3,4}"
    + END
    + r"|(?:\(0\d\)|0\d) \d{4} \d{4}"
    + END
    + r"|00[1-9]\d{0,2}(?:[ -]\d{1,9}){2,5}"
    + END
    + r"|1[38]00 \d{3} \d{3}"
    + END
    + r"|0\d{4} \d{5,6}"
    + END
    + r"|0\d(?: \d\d){4}"
    + END
    + r"|\d{1,5}(?:-\d{1,7}){3,4}"
    + END
)
def phone(m, context):
    """Telephone, card and other numbers written in groups."""
    return _groups(m[0])


@rule(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?::(\d+)|/(\d+))?" + END)
def ip_address(m, context):
    """192.168.0.1:80 and 10.0.0.0/8."""
    words = [w for i in range(1, 5) for w in n.grouped(m[i]) + ["dot"]][:-1]
    words += ["port"] + n.grouped(m[5]) if m[5] else []
    return words + (["slash"] + n.cardinal(m[6]) if m[6] else [])


@rule(
    rf"(?!\d{{1,2}}\.\d{{1,2}}\.\d{{4}}{END}|\d{{4}}\.\d\d?\.\d\d?{END}|\d{{1,3}}(?:\.\d{{3}}){{2,}}{END})"
    rf"[vV]?(\d+(?:\.\d+){{2,}})(?:[-.]?(alpha|beta|rc|dev|post)\.?(\d*))?{END}|[vV](\d+(?:\.\d+)?){END}"
)
def version(m, context):
    """v2.3.1, 1.0.0-beta; a capital V with a bare number is a letter: V8."""
    parts = (m[1] or m[4]).split(".")
    words = ["version"] if m[0][0] in "vV" and context.before != "version" else []
    if m[0][0] == "V" and len(parts) == 1:
        words = ["V"]
    words += [w for p in parts for w in version_part(p) + ["point"]][:-1]
    extra = {"rc": ["release", "candidate"]}.get(m[2], [m[2]] if m[2] else [])
    return words + extra + (n.cardinal(m[3]) if m[3] else [])


def version_part(part: str) -> list[str]:
    """A part of a version between two points."""
    return n.digits(part) if len(part) > 4 or part[0] == "0" and len(part) > 1 else n.grouped(part)


@rule(rf"802\.(\d{{1,2}})([a-z]{{0,2}}){END}")
def network_standard(m, context):
    """802.11ac."""
    return ["eight", "oh", "two", "dot", *n.cardinal(m[1]), *m[2].upper()]


@rule(rf"(\d+)\.(\d{{1,2}}){END}")
def release(m, context):
    """Python 3.11: after a product's name the part behind the point is a number of its own."""
    bounded = context.words[-2:] in BOUNDS and q.RELEASED & set(context.words)
    if context.before not in q.RELEASED and not bounded:
        return None
    return n.cardinal(m[1]) + ["point"] + version_part(m[2])


@rule(rf"\d{{3,}}{END}(?![.,:/]\d|{DASH}\d|\s?[%\u00b0])")
def code(m, context):
    """A number that names something by its digits: call 911, code 482913, zip 90210."""
    nouns = _nouns(context)
    size = len(m[0])
    if context.before == "to" and 4 < size < 7 and q.DIALLED & set(context.words[-4:]):
        return n.digits(m[0])  # text STOP to 12345
    apart = not following(m).islower() or size > 4 and following(m) in JOINED
    if nouns & q.DIALLED and size <= 6 and (m[0] in EMERGENCY or apart):
        return n.digits(m[0])
    if nouns & q.CODED or context.words[-2:] in (("ending", "in"), ("ends", "in")):
        return n.digits(m[0])
    if context.before == "of" and size == 4 and 1100 <= int(m[0]) <= 2099:
        return None  # the case of 1884
    if size >= 4 and nouns & q.NUMBERED_LONG:
        return n.digits(m[0])
    if size == 4 and "model" in context.words[-6:] and not following(m).islower():
        return n.grouped(m[0])
    if size == 5 and context.before in geography.ZIP_STATES:
        return n.digits(m[0])
    if size <= 4 and (nouns & q.GROUPED or "flight" in context.words[-4:]):
        return n.grouped(m[0])
    return None


def _nouns(context: Context) -> frozenset[str]:
    """The word that says what a number is of, past `is`, `number`, a colon and the like."""
    for word in reversed(context.words):
        if word not in LINKS and (len(word) > 1 or word in "ai" or not word.isalpha()):
            return frozenset((word.removesuffix("'s"),))
    return frozenset()


@rule(rf"\d{{1,2}}(?:[-\u2013]\d{{1,2}}){{2,}}{END}(?![-/]\d)")
def formation(m, context):
    """4-3-3, 10-2-1."""
    return [w for part in re.split("[-\u2013]", m[0]) for w in n.cardinal(part)]
