"""A user's own pronunciations, by file or mapping, applied to clauses before they are read.

A line of a file is a word (or a phrase), a tab, and how it is said:

    # lines that begin with a hash, and empty ones, are passed over
    nginx<TAB>engine x
    SQL<TAB>sequel
    Nguyen<TAB>/w\u02c8\u026an/

A reading is words, or phonemes between slashes (IPA, or the symbols of the voice's language). A word in small letters
stands for any case, one with a capital for itself only. Acronyms are words like any other.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Union

from speechstream.errors import SpeechStreamError
from speechstream.text import ssml
from speechstream.text.clauses import Clause
from speechstream.text.languages import phonemes_from
from speechstream.text.spans import guarded

MAX_ENTRIES = 100_000
MAX_WORD, MAX_READING = 100, 300  # characters
MAX_BAD = 10  # lines that one message tells of
TOKEN = re.compile(r"\w+|[^\w\s]")
POSSESSIVE = re.compile(r"['\u2019]s(?!\w)")
VOICELESS, SIBILANTS = "ptkf\u03b8", "sz\u0283\u0292\u02a7\u02a4"

Given = Union["UserLexicon", Mapping[str, str], str, os.PathLike, None]


@dataclass(frozen=True)
class Place:
    """`text[at : at + size]` stands for `source[start:end]`: one by one where they are of one length, else as a whole."""

    at: int
    size: int
    start: int
    end: int


def mapped(places: Iterable[Place], start: int, end: int) -> tuple[int, int]:
    """Where a stretch of text stands in the source."""
    first, last = None, None
    for p in places:
        if p.at + p.size <= start or not p.size:
            continue
        if p.at >= end and first is not None:
            break
        exact = p.size == p.end - p.start
        begin = p.start + start - p.at if exact and start >= p.at else p.start
        stop = p.start + end - p.at if exact and end <= p.at + p.size else p.end
        first = begin if first is None else first
        last = stop if last is None else max(last, stop)
        if p.at + p.size >= end:
            break
    if first is None or last is None:
        return start, end
    return first, max(first, last)


class UserLexicon:
    """Words and how they are said. Raises SpeechStreamError with a sentence for each entry that cannot be used."""

    def __init__(self, entries: Mapping[str, str], language: str = "en", origin: str = ""):
        self.entries: dict[str, str] = {}
        bad = []
        for number, (word, reading) in enumerate(entries.items(), 1):
            try:
                if not isinstance(word, str) or not isinstance(reading, str):
                    raise ValueError(
                        f"must be a str and how it is said, a str, got {word!r:.40} and {reading!r:.40}"
                    )
                self.entries[word.strip()] = _checked(word, reading, language)
            except ValueError as error:
                bad.append(f"the lexicon's entry {number} ({word!r:.40}) {error}")
        _refuse(bad)
        if len(self.entries) > MAX_ENTRIES:
            raise SpeechStreamError(
                f"a lexicon has {MAX_ENTRIES:,} entries at most; this one has {len(self.entries):,}"
            )
        self.language = language
        self._index: dict[str, list[tuple[re.Pattern[str], str]]] = {}
        for word in sorted(self.entries, key=lambda w: (-len(w), w.islower())):
            body = r"\s+".join(map(re.escape, word.split()))
            end = r"(?!\w)" if word[-1].isalnum() or word[-1] == "_" else ""
            flags = re.I if word == word.lower() else 0
            first = TOKEN.match(word)
            assert first is not None
            known = self._index.setdefault(first[0].lower(), [])
            known.append((re.compile(body + end, flags), self.entries[word]))

    @classmethod
    def of(cls, given: Given, language: str = "en") -> UserLexicon | None:
        """A lexicon from a path or a mapping; None and lexicons as they are."""
        if given is None or isinstance(given, UserLexicon):
            return given
        if isinstance(given, Mapping):
            return cls(given, language) if given else None
        if isinstance(given, (str, os.PathLike)):
            return cls.read(given, language)
        raise ValueError(f"lexicon is a path or a mapping of words; got {type(given).__name__}")

    @classmethod
    def read(cls, path: str | os.PathLike[str], language: str = "en") -> UserLexicon:
        """A lexicon from a file. Raises SpeechStreamError, with a sentence for each bad line."""
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise SpeechStreamError(
                f"the lexicon {path} is not UTF-8 (byte {error.start}); save it as UTF-8"
            ) from error
        except OSError as error:
            raise SpeechStreamError(
                f"the lexicon {path} cannot be read: {error.strerror or error}"
            ) from error
        entries: dict[str, str] = {}
        seen: dict[str, int] = {}
        bad = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            word, tab, reading = line.partition("\t")
            try:
                if not tab:
                    raise ValueError("has no tab; expected a word, a tab, and how it is said")
                if word.strip() in seen:
                    raise ValueError(
                        f"gives {word.strip()!r} again, after line {seen[word.strip()]}"
                    )
                entries[word.strip()] = _checked(word, reading, language)
                seen[word.strip()] = number
            except ValueError as error:
                bad.append(f"{path}, line {number} {error}")
        _refuse(bad)
        return cls(entries, language)

    def over(self, other: UserLexicon | None) -> UserLexicon:
        """These entries, and those of another that are not among them."""
        if other is None:
            return self
        return UserLexicon({**other.entries, **self.entries}, self.language)

    def apply(self, clause: Clause, markup: bool) -> tuple[Clause, tuple[Place, ...]]:
        """A clause, to be read with markup, whose words are replaced by their readings, and the places of its characters.

        markup: whether the clause's own is to be kept, or is text. Without a word of the lexicon the clause is
        returned as it is, with no places.
        """
        text, out, changed = clause.text, _Text(clause.start), False
        for begin, end, plain in _stretches(text, markup):
            if not plain:
                out.add(text[begin:end], begin, end)
                continue
            at = begin
            for start, stop, reading in self._found(text, begin, end):
                out.plain(text[at:start], at, markup)
                if reading.startswith(
                    "[["
                ):  # a voice that reads letters reads the word as it stands
                    word = html.escape(text[start:stop], quote=False)
                    reading = f'<phoneme ph="{reading[2:-2]}">{word}</phoneme>'
                out.add(reading, start, stop)
                at, changed = stop, True
            out.plain(text[at:end], at, markup)
        if not changed:
            return clause, ()
        said = "".join(out.text)
        return replace(clause, text=said, end=clause.start + len(said)), tuple(out.places)

    def _found(self, text: str, begin: int, end: int) -> Iterable[tuple[int, int, str]]:
        at = begin
        while at < end:
            token = TOKEN.search(text, at, end)
            if token is None:
                return
            at = token.end()
            for pattern, reading in self._index.get(token[0].lower(), ()):
                found = pattern.match(text, token.start(), end)
                before = text[token.start() - 1 : token.start()]
                if found is None or (before and token[0].isalnum() and before.isalnum()):
                    continue
                at = found.end()
                if reading.startswith("[["):
                    owned = POSSESSIVE.match(text, at, end)
                    if owned:
                        reading, at = f"{reading[:-2]}{_s(reading[-3])}]]", owned.end()
                yield token.start(), at, reading
                break


class _Text:
    """Text that is put together, with the place of each part."""

    def __init__(self, start: int):
        self.start, self.size = start, 0
        self.text: list[str] = []
        self.places: list[Place] = []

    def add(self, text: str, begin: int, end: int) -> None:
        if text:
            place = Place(self.start + self.size, len(text), self.start + begin, self.start + end)
            self.places.append(place)
            self.text.append(text)
            self.size += len(text)

    def plain(self, text: str, begin: int, markup: bool) -> None:
        if markup:
            self.add(text, begin, begin + len(text))
            return
        for said in guarded(text, begin):
            self.add(said.text, said.start, said.end)


def _stretches(text: str, markup: bool) -> Iterable[tuple[int, int, bool]]:
    """(begin, end, whether it is text) of a clause's parts: what stands in tags and in say-as is no text."""
    begin = at = 0
    while markup and at < len(text):
        found = ssml.match(text, at, True) if text[at] in "<[" else None
        tag, end = found or (None, at)
        if tag is None:
            at += 1
            continue
        if tag.name in ssml.ATOMS and not tag.close and not tag.empty:
            content = ssml.closing(text, end, tag.name, True) or (-1, -1)
            end = content[1] if content[0] >= 0 else end
        yield begin, at, True
        yield at, end, False
        begin = at = end
    yield begin, len(text), True


def _checked(word: str, reading: str, language: str) -> str:
    """A reading as text with markup. Raises ValueError with the rest of a sentence."""
    word, reading = word.strip(), reading.strip()
    if not word or not any(map(str.isalnum, word)):
        raise ValueError("has no word before the tab")
    if len(word) > MAX_WORD or len(reading) > MAX_READING:
        raise ValueError(
            f"is too long; a word has {MAX_WORD} characters at most and a reading {MAX_READING}"
        )
    if reading.startswith("[[") and reading.endswith("]]"):
        reading = f"/{reading[2:-2]}/"
    if not reading.startswith("/"):
        if not any(map(str.isalnum, reading)):
            raise ValueError(f"does not say how {word!r} is said")
        return "".join(s.text for s in guarded(reading, 0))
    if len(reading) < 3 or not reading.endswith("/"):
        raise ValueError("has phonemes without a slash at their end; write them as /n\u02c8Am/")
    phonemes, left_out = phonemes_from(language)(reading[1:-1])
    if left_out or not phonemes.strip():
        raise ValueError(
            f"has phonemes that this language's voices do not know: {left_out or reading!r}; "
            "speechstream.text.en.phonemes lists those that they do"
        )
    return f"[[{phonemes}]]"


def _s(last: str) -> str:
    """The sound of a possessive's s."""
    return "\u1d7bz" if last in SIBILANTS else "s" if last in VOICELESS else "z"


def _refuse(bad: list[str]) -> None:
    if bad:
        more = f"\nand {len(bad) - MAX_BAD} more lines" if len(bad) > MAX_BAD else ""
        raise SpeechStreamError("\n".join(bad[:MAX_BAD]) + more)
