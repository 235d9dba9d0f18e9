"""Numbers in a notation of their own: threads, ranges of labelled things, curves, web statuses, courses of medicine.

They are tried before the rules of `technical.py`.
"""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers as n
from speechstream.text.en.patterns import DASH, END, Rules

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
THREADED = r"(?=\s?[x\u00d7]\s|\s(?:UN[CFR]|thread|threads|threaded|tap|taps|bolt|bolts|nut|nuts|screw|screws|die|hex|machine)\b)"


@rule(rf"(\d{{1,2}})s(\d{{1,2}})s{END}")
def curve(m, context):
    """2s10s, two yields of a curve."""
    return [*n.decade(int(m[1])), *n.decade(int(m[2]))]


@rule(rf"(\d{{1,2}})/(\d{{1,2}})[\"\u2033]?-(\d\d){END}{THREADED}")
def thread(m, context):
    """1/4-20 x 3/4\": a diameter and threads to the inch."""
    unit = ["inch"] if m[0][-4] in "\"\u2033" else []
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


@rule(rf"(?:40[0134589]|429|50[234]){END}(?![.,:-]\d|%)")
def status(m, context):
    """A 404 means that the page is missing."""
    return n.grouped(m[0]) if context.before in ANSWERED and WEB.search(m.string) else None
