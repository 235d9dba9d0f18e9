"""Chords and degrees of a key: Bb7\u2013Eb\u2013F#m, C/E, a ii\u2013V\u2013I."""

from __future__ import annotations

import re

from speechstream.text.en import numbers as n

ROOT = r"[A-G](?:[b#\u266d\u266f])?"
KIND = r"(?:maj|min|dim|aug|sus|add|m|M|\u00b0|\u00f8|\+)?"
CHORD = rf"{ROOT}{KIND}(?:\d{{1,2}})?(?:(?:sus|add|b|#|\u266d|\u266f)\d{{1,2}})?(?:/{ROOT})?"
JOIN = r"(?:\s?[-\u2010-\u2013\u2192|]\s?)"
CHAIN = re.compile(rf"{CHORD}(?:{JOIN}{CHORD})+(?![\w#\u266d\u266f/+-])")
ALONE = re.compile(rf"{CHORD}(?= (?:chords?|triad|arpeggio|barre)\b)(?<=[\db#mj])")
SURE = re.compile(
    rf"{ROOT}(?:(?:maj|min|m|dim|aug)(?:7|9|11|13)(?:b5|#5)?|sus[24]|add9|7sus4|m6|m(?=/[A-G]))(?:/{ROOT})?(?![\w/])"
)
HARMONY = re.compile(
    r"\b(?:chords?|progression|cadence|key of|turnaround|tonic|dominant)\b|\b[IVX]+[-\u2013][IVX]+[-\u2013][IVX]+\b"
)
PARTS = re.compile(
    rf"({ROOT})({KIND})(\d{{1,2}})?(?:(sus|add|b|#|\u266d|\u266f)(\d{{1,2}}))?(?:/({ROOT}))?"
)
MARKED = re.compile(r"[A-G](?:[b#\u266d\u266f]|m(?![a-z])|maj|dim|sus|aug|7)")
DEGREE = r"(?:VII|VI|IV|V|III|II|I|vii|vi|iv|v|iii|ii|i)(?:\u00b0|7)?"
DEGREES = re.compile(rf"{DEGREE}(?:[-\u2010-\u2013]{DEGREE})+(?![\w-])")
KINDS = {
    "maj": ["major"],
    "M": ["major"],
    "min": ["minor"],
    "m": ["minor"],
    "dim": ["diminished"],
    "\u00b0": ["diminished"],
    "\u00f8": ["half", "diminished"],
    "aug": ["augmented"],
    "+": ["augmented"],
    "sus": ["sus"],
    "add": ["add"],
    "b": ["flat"],
    "\u266d": ["flat"],
    "#": ["sharp"],
    "\u266f": ["sharp"],
    "": [],
}


def match(text: str, at: int) -> tuple[list[str], int] | None:
    """The words of the chords or degrees that begin at `at`, and where they end."""
    m = CHAIN.match(text, at)
    if m and (
        len(MARKED.findall(m[0])) > 1 or MARKED.search(m[0]) and len(re.findall(JOIN, m[0])) > 1
    ):
        words: list[str] = []
        for part in PARTS.finditer(m[0]):
            words += [*_chord(part), ","]
        return words[:-1], m.end()
    if m := SURE.match(text, at) or ALONE.match(text, at):
        found = PARTS.fullmatch(m[0])
        return (_chord(found), m.end()) if found else None
    if m := DEGREES.match(text, at):
        parts = re.split("[-\u2010-\u2013]", m[0])
        falls = (n.roman(parts[0].upper()) or 0) > (n.roman(parts[1].upper()) or 9)
        if len(parts) < 3 and not (m[0].islower() and (falls or HARMONY.search(text))):
            return None  # pages iv–vi
        words = []
        for degree in parts:
            words += _degree(degree)
        return words, m.end()
    return None


def _chord(m: re.Match) -> list[str]:
    words = _note(m[1]) + KINDS[m[2]]
    words += n.cardinal(m[3]) if m[3] else []
    words += [*KINDS[m[4]], *n.cardinal(m[5])] if m[4] else []
    return words + (["over", *_note(m[6])] if m[6] else [])


def _note(text: str) -> list[str]:
    return [text[0], *KINDS[text[1:]]]


def _degree(text: str) -> list[str]:
    value = n.roman(text.rstrip("\u00b07").upper()) or 1
    words = n.cardinal(value)
    words += ["diminished"] if text.endswith("\u00b0") else []
    return words + (["seven"] if text.endswith("7") else [])
