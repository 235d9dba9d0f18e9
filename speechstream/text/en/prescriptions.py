"""What prescriptions and charts say in short: 1 tab PO qhs prn pain is one tablet by mouth at bedtime as needed for pain."""

from __future__ import annotations

import re

SIGNS = {
    "po": "by mouth",
    "pr": "rectally",
    "sl": "under the tongue",
    "qd": "daily",
    "od": "daily",
    "bid": "twice a day",
    "tid": "three times a day",
    "qid": "four times a day",
    "qod": "every other day",
    "qhs": "at bedtime",
    "hs": "at bedtime",
    "qam": "every morning",
    "qpm": "every evening",
    "qwk": "every week",
    "qmo": "every month",
    "prn": "as needed",
    "ac": "before meals",
    "pc": "after meals",
    "npo": "nothing by mouth",
    "subq": "under the skin",
    "sq": "under the skin",
    "gtt": "drop",
    "gtts": "drops",
    "tab": "tablet",
    "tabs": "tablets",
    "cap": "capsule",
    "caps": "capsules",
    "ou": "in both eyes",
    "os": "in the left eye",
    "au": "in both ears",
    "ad": "in the right ear",
    "ud": "as directed",
    "utd": "as directed",
    "nkda": "no known drug allergies",
}
FORMS = frozenset("gtt gtts tab tabs cap caps".split())
NUMBER = re.compile(r"(?:[\d\u00bc-\u00be]|\d\s?(?:mg|mcg|g|m[lL]))\s?$")
TAKEN = re.compile(
    r"(?:\d|mg|mcg|m[lL]|g|PO|po|p\.o\.|tabs?|caps?|gtts?|tablets?|capsules?|drops?|puffs?|units?|dose)\s$"
)
DROPS = frozenset("ou os au ad od".split())  # of an eye or an ear, or other words
CAPITALS = {"IM": "I M", "IV": "I V", "SC": "S C"}
SIGN = re.compile(r"(?:(?:[a-z]\.\s?){1,3}[a-z]\.|[A-Za-z]{2,4}\.?)(?![\w/]|-[a-z])")
DOSE = r"\d[\d./]*\s?-?(?:mg|mcg|\u00b5g|mL|ml|g|units?|IU|tabs?|tablets?|caps?|capsules?|gtts?|drops?|puffs?|sprays?|pills?|patch(?:es)?)\b"
LIKELY = re.compile(
    rf"\b(?:[Ss]ig|SIG|Rx|Disp)\b|\b{DOSE}|\b(?:[Tt]ake|[Aa]pply|[Ii]nhale|[Ii]nstill|[Gg]ive|[Ii]nject|APAP|NKDA|NPO|prn|PRN|qhs|tabs?|gtts)\b"
)
EYES = re.compile(r"\b(?:gtts?|drops?|eyes?|ears?|instill|ophth\w*|otic)\b", re.I)
CODES = re.compile(
    r"(?<![\w.])(?:p\.o\.|t\.i\.d|b\.i\.d|q\.i\.d|q\.d|q\.h\.s|p\.r\.n|PO|BID|TID|QID|QHS|QAM|QPM|QOD|QD|PRN|NPO|SL|po|bid|tid|qid|qhs|qam|qpm|qod|qd|prn|sl|gtts?|q[AP]M|subq|q\d{1,2}(?:-\d{1,2})?h|[Qq]\d{1,2}[Hh]?)(?![\w])"
)
REASON = re.compile(
    r"\s(?!for\b|if\b|and\b|or\b|x\b|to\b|up\b|with\b|w/|not\b|max\b|on\b|in\b|only\b|at\b|but\b|as\b|while\b|until\b|when\b|after\b)[a-z]{3,}"
)


def likely(text: str) -> bool:
    """Whether a text has a dose or an order, and a sign for how it is taken."""
    codes = CODES.findall(text)
    return bool(codes) and (len(codes) > 1 or LIKELY.search(text) is not None)


def match(text: str, at: int) -> tuple[str, int] | None:
    """What the sign that begins at `at` stands for, and where it ends. Only for a text that is `likely`."""
    m = SIGN.match(text, at)
    if not m:
        return None
    written = m[0]
    sign = re.sub(r"[.\s]", "", written)
    lower = sign.lower()
    said = SIGNS.get(lower)
    if said is None or sign not in (lower, lower.upper(), "qAM", "qPM"):
        return None
    if lower in FORMS and not NUMBER.search(text, max(0, at - 8), at):
        return None
    if sign == "bid" and not TAKEN.search(text, max(0, at - 16), at):
        return None
    dotted = "." in written[:-1]
    if lower in DROPS and not EYES.search(text):
        return None
    if (
        lower in ("ac", "pc", "hs", "sq", "pr", "ad", "od", "os", "au")
        and not dotted
        and sign.islower()
    ):
        if lower in ("ad", "os", "pc", "pr"):
            return None
    if (
        lower in ("ac", "pc", "pr", "sl")
        and sign.isupper()
        and not dotted
        and len(CODES.findall(text)) < 2
    ):
        return None
    if lower in ("od", "ou", "os") and EYES.search(text):
        said = {"od": "in the right eye", "os": "in the left eye", "ou": "in both eyes"}[lower]
    end = m.end()
    if lower in FORMS and lower[-1] != "s" and _several(text, at):
        said += "s"
    if lower == "prn" and REASON.match(text, end):
        said += " for"
    return said, end


def _several(text: str, at: int) -> bool:
    before = re.search(r"([\d./\u00bc-\u00be-]+)\s?$", text[max(0, at - 8) : at])
    return before is not None and before[1] not in ("1", "1/2", "\u00bd", "0.5")
