"""Spoken words with their places in the source, and text made ready to be read."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

ATOM = "\ue000"  # stands for a piece of markup in a text: a word of kind "atom"
PUNCTUATION = ";:,.!?\u2014\u2026"
STRENGTH = {p: i for i, p in enumerate((",", ":", ";", "\u2014", "\u2026", ".", "!", "?"))}
EMOJI = re.compile("[\u203c\u2049\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]")
RAISED_D = ("\u1d48", "\u1d57", "\u02b0")
POWERS = "\u207f\u02e3\u02b8\u2071\u1d4f\u1d50"  # of a number: 2\u207f is no ordinal
RAISED = "\u02e2\u1d57\u207f\u1d48\u02b3\u02b0"


@dataclass(frozen=True)
class Word:
    """One spoken word or punctuation mark and where in the source it comes from.

    `kind`: "word" (as written, or a number's name), "letters" (to be spelled: "FBI"), "punct" (one of `;:,.!?` and the
    dash and ellipsis).
    """

    text: str
    start: int
    end: int
    kind: str = "word"


STATISTICS = "\u0302\u0304\u0305"  # over a lone letter: the mean of x, an estimate of p


def clean_up(text: str) -> tuple[str, list[int]]:
    """Text without control and format characters, composed and in plain width, and each character's source index.

    The list has one more entry than the text: the source's length.
    """
    out: list[str] = []
    places: list[int] = []
    for i, c in enumerate(text):
        if c < "\u007f" and (c >= " " or c in "\t\n\r"):
            out.append(c)
            places.append(i)
            continue
        if c in "\u2010\u2011":
            c = "-"
        category = unicodedata.category(c)
        if (
            c != ATOM
            and category in ("Cc", "Cf", "Cs", "Co", "Cn")
            or c == "\ufffd"
            or "\ufe00" <= c <= "\ufe0f"
        ):
            if c in "\u200d" and out and EMOJI.match(out[-1]):
                out.append(c)
                places.append(i)
            elif category == "Cc" and out and not out[-1].isspace():
                out.append(" ")
                places.append(i)
            continue
        if category == "Mn" and out:
            joined = unicodedata.normalize("NFC", out[-1] + c)
            if len(joined) == 1:
                out[-1] = joined
                continue
            alone = not (len(out) > 1 and out[-2].isalpha() or text[i + 1 : i + 2].isalpha())
            if out[-1].isascii() and not (alone and out[-1].isalpha() and c in STATISTICS):
                continue  # an accent this letter does not have
        if (
            category == "Lm"
            and not (c in POWERS and text[i + 1 : i + 2] not in RAISED_D)
            and out
            and (out[-1].isdigit() or (places[-1] == i - 1 and text[i - 1] in RAISED))
        ):
            plain = unicodedata.normalize("NFKC", c)
            c = plain if plain.isascii() else c  # 1st with raised letters
        if category in ("Zs", "Zl", "Zp"):
            c = "\n" if category == "Zp" else " "
        elif category not in ("No",) and (
            "\ufb00" <= c <= "\ufb06"
            or "\uff01" <= c <= "\uff5e"
            or c in "\u2113\u2102\u2115\u2119\u211a\u211d\u2124"
            or "\U0001d400" <= c <= "\U0001d7ff"
        ):
            c = unicodedata.normalize("NFKC", c)
        for part in c:
            out.append(part)
            places.append(i)
    return "".join(out), places + [len(text)]


def tidy(words: list[Word]) -> list[Word]:
    """One punctuation mark between words at most, the strongest; none before the first word."""
    out: list[Word] = []
    for w in words:
        if w.kind == "punct" and (not out or out[-1].kind == "punct"):
            if out and STRENGTH[w.text] > STRENGTH[out[-1].text]:
                out[-1] = w
            continue
        out.append(w)
    return out
