"""Faces made of punctuation: left out, as nobody reads them aloud; a heart is said."""

from __future__ import annotations

import re

ARMS = r"[\\/<>\u00af_~\u256f\u2570\u256e\u256d\u30fd\u30ce\uff89\u30fe\u0669\u06f6\u06e9\u1555\u1557\u10da\u4e41\u3063\u3064\u3065\u2282\uff3c\uff0f*\u30a3\u30c3\u5f61\u02d8=\u2510\u250c\u51f8\uff5e\uff61\u3002\uff9f\uff65\u30fb.\u273f\u266a\u266b\u2661\u2727\u2728\u2606]"
EYE = r"\^\u00b0\u00ba\u25a1\u00b4\uff40`\u2022\u1d25\u0ca0\u76ca\u25bd\u25bc\u25d5\u25c9\u203f\ufe4f\u2323\u1d17\u0296\u0361\u035c\u30fb\uff65\u0298\u25e1\u25e0\u2565\uff3e\uff1e\uff1c\ufe36\ufe35\u25cf\u2313\u0300\u0301\u0317\u02d8\u3142\u3160\u315c\u02d9\u00af\u00ac\u2267\u2266\u0ca5\u2256\u22ef\u256f\u2570\u0e05\u2299\u1d55\ua4b3\ua20d"
INSIDE = rf"(?:\s?\u30c4\s?|(?:[^\w\s(){EYE}]|[oOTwWvux_ ;\u30ee\u30ce\u3065\u3063\u03c9\u03b5\u0414\u2200\u10da]){{0,3}}[{EYE}](?:[^\w\s(){EYE}]|[oOTwWvux_ ;\u30ee\u30ce\u3065\u3063\u03c9\u03b5\u0414\u2200\u2200\u10da]){{0,3}}[{EYE}](?:[^\w\s()]|[oOTwWvux_ ;{EYE}\u30ee\u30ce\u3065\u03c9\u03b5]){{0,6}})"
BRACKETED = re.compile(
    rf"{ARMS}{{0,4}}[(\uff08\u0295\u0f3c]{INSIDE}[)\uff09\u0294\u0f3d]{ARMS}{{0,4}}"
    r"(?:\s?[\ufe35\ufe36]?\s?\u253b\u2501+\u253b(?:\s?[\ufe35\ufe36]\s?\u30fd?)?)?"
)
TABLE = re.compile(r"[\u252c\u253b][\u2500\u2501]+[\u252c\u253b]")
WESTERN = re.compile(
    r"(?:[:;=][-'o^]?[DPpOo3)(\]\[|*$@]|:[-']?[/\\sS]|[xX]D|:'\(|>:\(|D:|<_<|>_>)(?![\w(])"
)
PLAIN = re.compile(
    r"\(?(?:\^[_.\-oO3wvu]?\^|>[_.]+<|T_+T|;_+;|Q_+Q|[oO]_+[oO0]|0_+0|x_+x|X_+X|@_+@|=_+=|-_+-|~_+~|u_+u|[Uu][wW][Uu]|\^o\^|>:3|[\u0ca0\u0ca5\u25d5\u2022\u2299\uffe3\u00af]_*[.\u203f]?[\u0ca0\u0ca5\u25d5\u2022\u2299\uffe3\u00af])"
    r"[;'\"]?\)?(?![\w^_])"
)
HEART = re.compile(r"(</?3)(?![\w.,]\d|\w)(?=\s*(?:$|[^\w\s]|xo|[A-Z]))")
HEART_AFTER = re.compile(
    r"(?:^|<3|[!?.,;:)~\u2026]|[A-Za-z\u2019']{3,}|\b(?:I|you|we|u|it|me)|[\U0001f300-\U0001faff])\s*$"
)
LOVED = re.compile(r"\b(?:I|i|we|We) $")
LOVES = re.compile(r"(<3)(?= [a-z])")
MAY_BEGIN = frozenset(
    "^>T;:DQoO0xX@=-~uU<(\u0ca0\u0ca5\u25d5\u2022\u2299\uffe3\uff08\u0295\u0f3c[\u00af\\/\u256f\u2570\u256e\u256d\u30fd\u30ce\u0669\u06f6\u1555\u1557\u10da\u4e41\u3064\u2282\u252c\u253b\u2510\u250c\u51f8*\u2605\u2606\u273f\uff3c\uff61\uff65\u30fb\u3002_"
)


def match(text: str, at: int) -> tuple[str, int] | None:
    """What is said of the face that begins at `at`, mostly nothing, and where it ends."""
    if text[at] not in MAY_BEGIN or at and text[at - 1].isalnum():
        return None
    if text[at] == "<":
        m = HEART.match(text, at)
        if not m and LOVED.search(text, max(0, at - 4), at):
            m = LOVES.match(text, at)
        if m and HEART_AFTER.search(text, max(0, at - 12), at):
            return ("heart" if m[1] == "<3" else "broken heart"), m.end(1)
    if m := BRACKETED.match(text, at) or TABLE.match(text, at):
        return "", m.end()
    if at and not text[at - 1].isspace():
        return None
    m = WESTERN.match(text, at)
    if m and not text[m.end() : m.end() + 1].strip(" .,!?)\n\u2026"):
        return "", m.end()
    m = PLAIN.match(text, at)
    return ("", m.end()) if m else None
