"""The form of a text: numbers in digits or in words, with punctuation or without.

What a model writes depends on what it read: "$12" here and "twelve dollars" there. A form makes it one, the same in live
streams and offline, at all latencies (inverse text normalisation; the grammar is `text.en.written`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from speechstream.events import Word
from speechstream.text.en import written

Token = written.Token

NUMBERS = ("asis", "digits", "words")


@dataclass(frozen=True)
class TextForm:
    """How text is written. Raises ValueError for a wrong setting.

    numbers: "asis", as the model writes them; "digits" ("$12.50", "25%", "March 3rd 1990"); "words" ("twelve dollars and
    fifty cents"). punctuation: whether there are marks between words; without them capitals stay, as do the apostrophe
    in "it's", the hyphen in "well-known", and what belongs to a number ("$3.50", "3:30 p.m.", "-5", "25%").
    """

    numbers: str = "asis"
    punctuation: bool = True

    def __post_init__(self) -> None:
        if self.numbers not in NUMBERS:
            raise ValueError(f"numbers must be one of {', '.join(NUMBERS)}, got {self.numbers!r}")
        if not isinstance(self.punctuation, bool):
            raise ValueError(f"punctuation must be True or False, got {self.punctuation!r}")

    @property
    def plain(self) -> bool:
        """Whether it leaves all as it is."""
        return self.numbers == "asis" and self.punctuation

    def partial(self, stable: str, unstable: str) -> tuple[str, str]:
        """The two parts of a text that grows. A number that later words may still change is not stable."""
        if self.plain:
            return stable, unstable
        said = stable.split()
        kept = len(said) - self._pending(said)
        tokens = self._write(said + unstable.split())
        return (
            " ".join(t for t, _, last in tokens if last <= kept),
            " ".join(t for t, _, last in tokens if last > kept),
        )

    def words(self, words: Sequence[Word]) -> list[Word]:
        """Words in this form. One that is written for several lasts as long as they do together, and is as sure as the
        least sure of them; of several that are written for one, each has its share of the time by its letters."""
        if self.plain:
            return list(words)
        single = [one for word in words for one in _shared(word, word.text.split())]
        out: list[Word] = []
        for text, first, last in self._write([w.text for w in single]):
            heard = single[first:last]
            known = [w.confidence for w in heard if w.confidence is not None]
            whole = Word(text, heard[0].start, heard[-1].end, min(known, default=None))
            out += _shared(whole, text.split())
        return out

    def _write(self, words: list[str]) -> list[Token]:
        tokens = _WRITERS[self.numbers](words)
        if self.punctuation:
            return tokens
        bare = [(" ".join(_bare(text)), first, last) for text, first, last in tokens]
        return [token for token in bare if token[0]]

    def _pending(self, words: list[str]) -> int:
        return _PENDING[self.numbers](words)


def _as_is(words: list[str]) -> list[Token]:
    return [(word, i, i + 1) for i, word in enumerate(words)]


_WRITERS: dict[str, Callable[[list[str]], list[Token]]] = {
    "asis": _as_is,
    "digits": written.to_digits,
    "words": written.to_words,
}
_PENDING: dict[str, Callable[[list[str]], int]] = {
    "asis": lambda words: 0,
    "digits": written.pending,
    "words": written.pending_words,
}


def _bare(text: str) -> Iterator[str]:
    """Its words without the marks around and between them."""
    for word in text.split():
        for part in written.DASHES.split(word):
            if core := written.bare(part):
                yield core


def _shared(word: Word, texts: Sequence[str]) -> list[Word]:
    """The word as several, which share its time by their letters."""
    if len(texts) == 1:
        return [
            word if word.text == texts[0] else Word(texts[0], word.start, word.end, word.confidence)
        ]
    letters, at, out = max(sum(map(len, texts)), 1), 0, []
    for text in texts:
        begin = word.start + (word.end - word.start) * at / letters
        at += len(text)
        end = word.start + (word.end - word.start) * at / letters
        out.append(Word(text, round(begin, 3), round(end, 3), word.confidence))
    return out
