"""Citations of ancient works: Il. 1.1, Verg. Aen. 6.851\u2013853, Thuc. 2.37, Rep. 514a."""

from __future__ import annotations

import re

from speechstream.text.en import numbers as n
from speechstream.text.en.patterns import DASH

AUTHORS = {
    "Hom": "homer",
    "Hes": "hesiod",
    "Hdt": "herodotus",
    "Thuc": "thucydides",
    "Xen": "xenophon",
    "Pl": "plato",
    "Plat": "plato",
    "Arist": "aristotle",
    "Soph": "sophocles",
    "Eur": "euripides",
    "Aesch": "aeschylus",
    "Plut": "plutarch",
    "Paus": "pausanias",
    "Polyb": "polybius",
    "Verg": "virgil",
    "Ov": "ovid",
    "Hor": "horace",
    "Cic": "cicero",
    "Caes": "caesar",
    "Liv": "livy",
    "Tac": "tacitus",
    "Suet": "suetonius",
    "Lucr": "lucretius",
    "Sen": "seneca",
    "Plin": "pliny",
    "Juv": "juvenal",
}
POEMS = {
    "Il": "iliad",
    "Od": "odyssey",
    "Theog": "theogony",
    "Aen": "aeneid",
    "Ecl": "eclogues",
    "Georg": "georgics",
    "Met": "metamorphoses",
    "Carm": "odes",
    "Ars am": "ars amatoria",
}
PROSE = {
    "Hist": "histories",
    "Ann": "annals",
    "Anab": "anabasis",
    "Eth. Nic": "nicomachean ethics",
    "Nic. Eth": "nicomachean ethics",
    "Pol": "politics",
    "Rhet": "rhetoric",
    "Poet": "poetics",
    "Gall": "gallic war",
    "BGall": "gallic war",
    "De or": "de oratore",
    "Rep": "republic",
    "Resp": "republic",
    "Leg": "laws",
    "Symp": "symposium",
    "Apol": "apology",
    "Phaed": "phaedo",
    "Phdr": "phaedrus",
    "Tim": "timaeus",
    "Nat": "natural history",
}
PLAYS = {
    "Ham": "hamlet",
    "Mac": "macbeth",
    "Oth": "othello",
    "Lr": "king lear",
    "Rom": "romeo and juliet",
    "MND": "a midsummer night's dream",
    "JC": "julius caesar",
    "Tmp": "the tempest",
    "Temp": "the tempest",
    "MV": "the merchant of venice",
    "TN": "twelfth night",
    "AYL": "as you like it",
    "Cor": "coriolanus",
    "Ant": "antony and cleopatra",
    "Ado": "much ado about nothing",
}
SURE = frozenset("Il Od Aen Theog Hdt Thuc".split()) | {"Eth. Nic", "Nic. Eth"}


def _any(names) -> str:
    return "|".join(re.escape(w) for w in sorted(names, key=len, reverse=True))


PLACE = rf"(?:\d{{1,3}}(?:\.\d{{1,4}}){{1,2}}(?:{DASH}\d{{1,4}})?|\d{{2,4}}[a-e]\d{{0,2}}(?:{DASH}[a-e]?\d{{0,4}}[a-e]?)?)(?![\w%])"
CITATION = re.compile(
    rf"(?:({_any(AUTHORS)})\.,? )?(?:({_any({**POEMS, **PROSE})})\.,? )?(?={PLACE})"
)
NUMBER = re.compile(rf"(\d+)\.(\d+)(?:\.(\d+))?(?:{DASH}(\d+))?(?!\w)")


PLAY = re.compile(
    rf"({_any(PLAYS)})\.? (\d)\.(\d{{1,2}})\.(\d{{1,3}})(?:{DASH}(\d{{1,3}}))?(?![\w.]\d|\w)"
)


def match(text: str, at: int) -> tuple[list[tuple[list[str], int, int]], int] | None:
    """The pieces of the citation that begins at `at`, and where it ends."""
    if m := PLAY.match(text, at):
        words = ["act", *n.cardinal(m[2]), "scene", *n.cardinal(m[3]), "lines" if m[5] else "line"]
        words += n.grouped(m[4]) + (["to", *n.grouped(m[5])] if m[5] else [])
        return [(PLAYS[m[1]].split(), m.start(), m.end(1)), (words, m.start(2), m.end())], m.end()
    m = CITATION.match(text, at)
    if not m or not (m[1] or m[2]):
        return None
    author, work = m[1] or "", m[2] or ""
    if not (author and work) and (author or work) not in SURE:
        return None
    pieces = []
    if author:
        pieces.append(([AUTHORS[author]], m.start(1), m.end(1) + 1))
    if work:
        said = POEMS.get(work) or PROSE[work]
        pieces.append((said.split(), m.start(2), m.end(2) + 1))
    place = NUMBER.match(text, m.end())
    if not place:
        return pieces, m.end()
    verse = work in POEMS
    words = ["book", *n.cardinal(place[1]), "line" if verse else "chapter"]
    if verse and place[4]:
        words[-1] = "lines"
    words += n.grouped(place[2])
    if place[3]:
        words += ["section", *n.cardinal(place[3])]
    if place[4]:
        words += ["to", *n.grouped(place[4])]
    return [*pieces, (words, *place.span())], place.end()
