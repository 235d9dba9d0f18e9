"""Abbreviations with a full stop whose meaning depends on what stands around them, and short words without one."""

from __future__ import annotations

import re

from speechstream.text.en import numbers, short_form_contexts
from speechstream.text.en.short_form_tables import AFTER_COUNT, ALWAYS, BY, GIVEN, NUMBERED

UNAMBIGUOUS_BOOKS = frozenset(
    "kgs isa ps tim sam cor thess pet ezek chron matt deut lev exod jer prov eccl heb".split()
)
NUMBER_WORDS = numbers.NAMES
ESTIMATE = re.compile(
    r"[-+\u2212~$\u20ac\u00a3]|\d[\d.,]*(?:%|\s(?:percent|million|billion|k\b|people|hours|days|min))"
)
ID = re.compile(r"(?:at (?:\d|\*)|\u00a7|\u00b6|\(|$)")
MARRIED = re.compile(r"[A-Z]\w+ (?:[A-Z]\w+ )?(?:\([^()]*\) )?(?:c\. ?|in )?1[5-9]\d\d")
BEATEN = re.compile(r"[A-Z][\w'\u2019-]+(?: [A-Z][\w'\u2019-]+)?,? (?:\d+[-\u2013]\d|in )")
MEDICAL = re.compile(
    r"(?:school|students?|correspondent|center|staff|records?|exam|history|care|team|device|leave|bills?)\b"
)
DAY_AFTER = re.compile(r"(?:the \d+(?:st|nd|rd|th)|by|only|until|from|at)\b|/|\d|: ")
BEFORE_DAY = frozenset("except on every last next this open closed".split())
ROMAN_PAGES = re.compile(r"[ivxlc]{2,}(?![a-z])|[ivxlc]+[-\u2013][ivxlc]+(?![a-z])")
AMOUNTS = frozenset(
    "dollars cents pounds pence euros yen million billion percent units barrels tons people".split()
)
VERY = re.compile(
    r"(?:high|low|good|bad|hot|cold|warm|small|large|big|important|rare|strong|nice|long|short|much|few|easy|hard|useful|tired|"
    r"busy|happy|sorry|poor|slow|fast|light|heavy|old|young|fine|rough|cloudy)\b"
)
JOBS = re.compile(r"(?:job|jobs|work|worker|workers|staff|agency|position|workforce|staffer)\b")
NAMED = re.compile(r"[A-Z][\w'’-]*")
SPANS = frozenset(
    "hour hours day days night nights dollar dollars person people week month year order purchase".split()
)
REVENUE = re.compile(
    r"[-+\u2212](?=\d)|(?:miss|beat|growth|est|guidance|up|down|rose|fell|grew|of)\b|[$\u20ac\u00a3]"
)
MONTHLY = frozenset("the each per every a this next last first".split())
SINGLE = re.compile(
    r"(?:\d|# ?[A-Z\d]|[A-Z]\d|[ivx]+(?![a-z])|[A-Z](?![A-Za-z])|[IVXLC]+(?![A-Za-z]))"
)


def read(token: str, before: str, rest: str, behind_ordinal: bool) -> str:
    """What an abbreviation stands for, or "". before: the word said last, small; rest: what follows the full stop."""
    lower = token.lower()
    if said := short_form_contexts.read(token, before, rest):
        return said
    if lower == "rd" and before in ("county", "state", "forest", "ranch", "farm"):
        return "road"
    numbered = bool(SINGLE.match(rest)) and not (token.islower() and re.match(r"I(?![IVX])", rest))
    name = bool(NAMED.match(rest))
    if lower in ("ed", "eds", "trans") and (name or lower == "trans" and rest[:3] == "by "):
        if before == "and" or not behind_ordinal:
            return {"ed": "edited by", "eds": "edited by"}.get(
                lower, "translated" if rest[:3] == "by " else "translated by"
            )
    if lower == "med" and MEDICAL.match(rest):
        return "medical"
    if (
        lower == "ct"
        and before in NUMBER_WORDS
        and not re.match(r"diamond|gold|stone|ring|emerald|ruby", rest)
    ):
        return "count"
    if rest.startswith("by ") and lower in BY:
        return BY[lower]
    if lower == "cts" and before in NUMBER_WORDS and re.match(r"(?:under|of)\b", rest):
        return "counts"
    if token == "m" and MARRIED.match(rest):
        return "married"
    if lower == "disp" and rest[:1] in ("#", *"0123456789") and rest:
        return "dispense"
    if lower == "op" and re.match(r"(?:margin|income|profit|cash|expenses?|ex)\b", rest):
        return "operating"
    if lower == "exp" and before in ("years", "year", "work", "prior", "relevant"):
        return "experience"
    if (
        lower == "rep"
        and token == "rep"
        and re.match(r"(?:rows?|from|until|the|\*|last|once|twice)\b", rest)
    ):
        return "repeat"
    if lower == "exp" and re.match(r"\d|[A-Z][a-z]{2}", rest):
        return "expires"
    if lower in GIVEN and not (token.istitle() and name):
        return ""
    if lower == "eff" and re.match(r"[A-Z][a-z]+|\d", rest):
        return "effective"
    if behind_ordinal and lower == "cir" and token[0].isupper():
        return "circuit"
    if behind_ordinal and lower in ("amend", "amends", "am") and token[0].isupper():
        return "amendment" + "s" * lower.endswith("s")
    if lower in AFTER_COUNT and before in NUMBER_WORDS:
        return AFTER_COUNT[lower]
    if lower in ("d", "def") and before.isalpha() and token.islower() and BEATEN.match(rest):
        return "defeated"
    if (
        lower in ("sat", "sun", "wed")
        and token[0].isupper()
        and (DAY_AFTER.match(rest) or before in BEFORE_DAY)
    ):
        return {"sat": "saturday", "sun": "sunday", "wed": "wednesday"}[lower]
    if lower == "pt" and before in (
        "dew",
        "melting",
        "boiling",
        "freezing",
        "focal",
        "match",
        "turning",
    ):
        return "point"
    if lower in ("p", "pp", "ch") and ROMAN_PAGES.match(rest):
        return {"p": "page", "pp": "pages", "ch": "chapter"}[lower]
    if lower == "est" and ESTIMATE.match(rest):
        return "estimated"
    if lower == "id" and ID.match(rest) and (before in ("see", "accord", "cf") or not before):
        return "id"
    if lower == "est" and (before in AMOUNTS or before in NUMBER_WORDS):
        return "estimated"
    if lower == "v" and token == "v" and VERY.match(rest):
        return "very"
    if (
        lower == "pt"
        and before not in NUMBER_WORDS
        and re.match(
            r"(?:is|was|has|had|will|states?|reports?|denies|complains|c/o|presents?|seen|advised)\b",
            rest,
        )
    ):
        return "patient"
    if lower in ("dep", "arr") and re.match(r"[A-Z]{3}\b", rest):
        return "departs" if lower == "dep" else "arrives"
    if lower == "min" and before in SPANS:
        return "minimum"
    if lower == "rev" and REVENUE.match(rest):
        return "revenue"
    if lower == "div" and token[0].isupper() and before.isalpha() and not numbered:
        return "division"
    if lower == "dyn" and behind_ordinal:
        return "dynasty"
    if lower == "div" and re.match(r"yield|yld", rest):
        return "dividend"
    if lower == "eq" and rest[:1].islower():
        return "equation"
    if lower == "reg" and rest[:1] in "$\u00a3\u20ac" and rest:
        return "regular"
    if lower == "reg" and rest.startswith("fee"):
        return "registration"
    if lower == "pct" and before not in NUMBER_WORDS:
        return "percentage"
    if lower == "mo" and (before in MONTHLY or before in NUMBER_WORDS):
        return "month" if before in MONTHLY or before == "one" else "months"
    if lower == "pub" and rest.startswith("L."):
        return "public"
    if lower == "l" and before == "public" and rest.startswith("No"):
        return "law"
    if behind_ordinal and lower in ("bn", "regt", "div", "bde"):
        return {"bn": "battalion", "regt": "regiment", "div": "division", "bde": "brigade"}[lower]
    if behind_ordinal and lower in ("ed", "fl", "c", "cent"):
        return {"ed": "edition", "fl": "floor"}.get(lower, "century")
    if (
        lower in ("b", "d", "r", "fl", "m")
        and token.islower()
        and re.match(
            r"(?:ca?\. ?)?1\d{3}\b|ca?\. \d{2,3}\b|\d{2,3}(?=[);,])|20\d\d\b|\d{1,2} [A-Z][a-z]{2}|[A-Z][a-z]{2,8}\.? \d|['\u2019]\d\d(?!\d)",
            rest,
        )
    ):
        return {"b": "born", "d": "died", "r": "reigned", "m": "married", "fl": "flourished"}[lower]
    if (
        lower == "no"
        and before
        in (
            "telephone",
            "reference",
            "phone",
            "serial",
            "part",
            "order",
            "model",
            "account",
            "id",
            "po",
            "invoice",
            "registration",
            "flight",
            "item",
            "case",
            "contact",
            "fax",
            "passport",
            "batch",
            "policy",
            "tracking",
            *"new old my your his her our their whose home work cell mobile same right wrong main".split(),
        )
        and (rest[:1].islower() or not rest)
    ):
        return "number"
    if token in ("no", "No") and re.match(r"of\b", rest):
        return "number"
    if lower == "rd" and not rest[:1].isdigit():
        return ""
    if lower in NUMBERED and numbered and not (token.isupper() and len(token) > 1):
        return NUMBERED[lower]
    if lower == "temp":
        if JOBS.match(rest):
            return "temporary"
        return "" if before in ("a", "another", "as") and not rest[:1].islower() else "temperature"
    if lower == "med" and re.match(r"(?:heat|high|low|size|rare|flame|speed|sized|to)\b", rest):
        return "medium"
    if lower == "sm" and rest[:1].islower():
        return "small"
    if lower == "op" and rest.startswith("cit"):
        return "op"
    if lower == "sec" and rest.startswith("-Gen"):
        return "secretary"
    if (
        lower == "co"
        and token == "co"
        and before in ("the", "a", "our", "this", "that", "my", "your")
        and rest[:1].islower()
    ):
        return "company"
    if lower in ("yr", "mo", "wk", "ft", "in", "lb") and rest.startswith("-old"):
        return {"yr": "year", "mo": "month", "wk": "week"}.get(lower, "")
    if lower == "med" and rest.startswith("-"):
        return "medium"
    if lower == "ed" and token == "Ed" and rest.startswith("note"):
        return "editor's"
    if lower == "rt" and re.match(r"(?:Hon|Rev)", rest):
        return "right"
    if lower == "sec" and token[0].isupper() and name:
        return "secretary"
    if lower == "dir" and (token[0].isupper() and name or re.match(r"(?:at|of|for)\b", rest)):
        return "director"
    if token == "Br" and name and not re.match(r"[A-Z]\.", rest):
        return "brother"
    if lower == "int" and rest.startswith("rate"):
        return "interest"
    if lower == "inst" and re.match(r"(?:of|for)\b", rest):
        return "institute"
    if lower in ("cu", "sq") and re.match(r"(?:ft|in|yd|mi|m|km|cm|yards|feet|inches)\b", rest):
        return "cubic" if lower == "cu" else "square"
    if lower == "fl" and rest.startswith("oz"):
        return "fluid"
    if lower == "ret" and (not rest or rest[0] in ").,"):
        return "retired"
    if lower == "pts" and before in ("basis", "percentage"):
        return "points"
    if lower == "ht" and token.islower() and re.match(r"\d", rest):
        return "height"
    if (
        lower in ("min", "maj")
        and len(before) == 1
        and before in "abcdefg"
        and (not rest or rest[:1] not in "0123456789")
    ):
        return "minor" if lower == "min" else "major"
    if lower == "mi" and before in ("half", "a"):
        return "mile"
    return ALWAYS.get(lower, "") if not token.isupper() or len(token) > 3 else ""
