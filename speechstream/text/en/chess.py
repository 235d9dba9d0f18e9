"""Moves of chess as players write them: Nf3, Qxd5+, O-O."""

from __future__ import annotations

import re

CUES = re.compile(
    r"\b(?:[KQRN]x?[a-h][1-8]|O-O|[a-h][1-8]\b|played|plays|moves?|moved|check|mate|White|Black|chess|castled?)"
)
ION = re.compile(
    r"\b(?:ions?|reacts?|solutions?|aqueous|salts?|SO4|OH|Cl|cations?|precipitates?|barium|mmol|mM)\b|\u2192"
)
PIECES = {"K": "king", "Q": "queen", "R": "rook", "B": "bishop", "N": "knight"}
MOVE = re.compile(
    r"(?:([KQRBN])([a-h]?[1-8]?)(x?)|([a-h])(x))([a-h])([1-8])(?:=([QRBN]))?([+#]?)(?![\w+#/-])|O-O(?:-O)?(?![\w-])"
)


def likely(m: re.Match) -> bool:
    """Whether it is a move: Bb7 alone is a chord."""
    if m[0].startswith("Ba") and ION.search(m.string):
        return False  # Ba2+ in water
    return not m[0].startswith("Bb") or bool(CUES.search(m.string))


def words(m: re.Match) -> list[str]:
    """A move as it is said: knight F 3, pawns by their file."""
    if m[0].startswith("O"):
        return ["castles", "queenside" if m[0].count("O") == 3 else "kingside"]
    out = [PIECES[m[1]]] if m[1] else [m[4].upper()]
    out += [_square(c) for c in m[2] or ""]
    out += ["takes"] if m[3] or m[5] else []
    out += [m[6].upper(), _square(m[7])]
    out += ["equals", PIECES[m[8]]] if m[8] else []
    return out + {"+": ["check"], "#": ["checkmate"]}.get(m[9], [])


def _square(c: str) -> str:
    return (
        c.upper() if c.isalpha() else "one two three four five six seven eight".split()[int(c) - 1]
    )
