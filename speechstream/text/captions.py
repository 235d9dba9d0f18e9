"""Captions: the words of a transcript cut into pieces that can be read while they are shown.

At most two lines of 42 characters, the limit that broadcasters and film subtitlers use for Latin script; cut at words,
by preference behind punctuation; shown from their first word's start to their last word's end, or a little longer where
they would only flash.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from speechstream.events import Final, Word

LINE_CHARACTERS, LINES = 42, 2
LONGEST_S = 7.0  # a caption that stands longer is read twice
SHORTEST_S = 1.0  # shown at least this long, if the next one leaves the time
PAUSE_S = 2.0  # a silence of this length between two words ends a caption
_ENDINGS = tuple(".?!,;:")


@dataclass(frozen=True)
class Caption:
    """Times in seconds; `lines` are one or two. channel: of a recording whose channels are heard one by one."""

    start: float
    end: float
    lines: tuple[str, ...]
    channel: str | None = None


def captions(final: Final, label: str = "") -> Iterator[Caption]:
    """Cut a final text. The captions are in order, do not overlap, and each ends after it starts. label: put before each."""
    words = [piece for word in _timed(final) for piece in _pieces(word, len(label))]
    earliest = 0.0
    while words:
        count = _fitting(words, label)
        group, words = words[:count], words[count:]
        start = round(max(group[0].start, earliest), 3)
        limit = words[0].start if words else math.inf
        end = max(
            min(max(w.end for w in group), limit), min(start + SHORTEST_S, limit), start + 0.001
        )
        earliest = round(end, 3)
        text = label + " ".join(w.text for w in group)
        yield Caption(start, earliest, wrap(text), final.channel)


def wrap(text: str) -> tuple[str, ...]:
    """Text that fits as one line, or as two of about the same length. Raises ValueError for what does not fit."""
    if len(text) <= LINE_CHARACTERS:
        return (text,)
    cuts = [
        i
        for i, c in enumerate(text)
        if c == " " and i <= LINE_CHARACTERS and len(text) - i - 1 <= LINE_CHARACTERS
    ]
    if not cuts:
        raise ValueError(
            f"{len(text)} characters do not fit into {LINES} lines of {LINE_CHARACTERS}"
        )
    middle = min(cuts, key=lambda i: abs(2 * i + 1 - len(text)))
    return text[:middle], text[middle + 1 :]


def timestamp(seconds: float, mark: str) -> str:
    """HH:MM:SS and milliseconds behind `mark`: "," in SubRip, "." in WebVTT."""
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def _timed(final: Final) -> Sequence[Word]:
    """The words with a text; where there are none, those of the text with times in proportion to their letters."""
    words = [replace(w, text=" ".join(w.text.split())) for w in final.words if w.text.strip()]
    if words or not final.text.split():
        return words
    texts, position, made = final.text.split(), 0, []
    rate = max(final.end - final.start, 0.0) / sum(map(len, texts))
    for text in texts:
        made.append(
            Word(
                text,
                final.start + position * rate,
                final.start + (position + len(text)) * rate,
                0.0,
            )
        )
        position += len(text)
    return made


def _pieces(word: Word, taken: int) -> Iterator[Word]:
    """A word longer than a line, of which some characters are `taken`, cut where it must be."""
    size = LINE_CHARACTERS - taken
    parts = [word.text[i : i + size] for i in range(0, len(word.text), size)]
    step = (word.end - word.start) / len(parts)
    for i, part in enumerate(parts):
        yield replace(word, text=part, start=word.start + i * step, end=word.start + (i + 1) * step)


def _fitting(words: Sequence[Word], label: str) -> int:
    """How many of the words make the next caption."""
    count = 1
    while count < len(words):
        before, word = words[count - 1], words[count]
        if word.start - before.end >= PAUSE_S:
            return count
        if word.end - words[0].start > LONGEST_S or not _fits(
            label + " ".join(w.text for w in words[: count + 1])
        ):
            break
        count += 1
    if count == len(words):
        return count
    behind_punctuation = [n for n in range(count, 0, -1) if words[n - 1].text.endswith(_ENDINGS)]
    if behind_punctuation and 2 * behind_punctuation[0] > count:  # not if it leaves less than half
        return behind_punctuation[0]
    return count


def _fits(text: str) -> bool:
    try:
        wrap(text)
    except ValueError:
        return False
    return True
