"""A clause without its markup, for voices that read letters themselves."""

from __future__ import annotations

import html
from dataclasses import dataclass

from speechstream.text import ssml
from speechstream.text.clauses import Clause


@dataclass(frozen=True)
class Visible:
    """text: what is read. places: of each of its characters in the whole text. pauses: (index in `text`, seconds).
    warnings: a sentence for what letters cannot say."""

    text: str
    places: tuple[int, ...]
    pauses: tuple[tuple[int, float], ...]
    warnings: tuple[str, ...] = ()


def visible(clause: Clause, markup: bool) -> Visible:
    """A clause's letters. markup: whether SSML is read (breaks and `sub`), or text like any other."""
    text, at = clause.text, 0
    out: list[str] = []
    places: list[int] = []
    pauses: list[tuple[int, float]] = []
    warnings: list[str] = []
    while at < len(text):
        tag, end = (ssml.match(text, at, True) if markup and text[at] in "<[" else None) or (
            None,
            at,
        )
        if tag is None:
            entity = ssml.ENTITY.match(text, at) if markup else None
            piece = html.unescape(entity[0]) if entity else text[at]
            end = entity.end() if entity else at + 1
        else:
            piece = " "
            if tag.name == "break":
                pauses.append((len(out), ssml.seconds(tag)))
            elif tag.name == "sub" and not tag.close and tag.attributes.get("alias"):
                piece, end = f" {tag.attributes['alias']} ", _behind(text, end)
            elif tag.name == "phoneme" and not tag.close:
                warnings.append(
                    f"this voice reads letters, and not the phonemes {tag.attributes.get('ph', '')[:60]}"
                )
            elif tag.name == "phonemes":
                warnings.append(
                    f"this voice reads letters, and leaves out the phonemes {text[at:end][:60]}"
                )
        out += piece
        places += [clause.start + at] * len(piece)
        at = end
    return Visible("".join(out), tuple(places), tuple(pauses), tuple(warnings))


def _behind(text: str, at: int) -> int:
    """Where what an alias stands for ends."""
    closed = ssml.closing(text, at, "sub", True)
    return closed[0] if closed is not None and closed[0] >= 0 else at
