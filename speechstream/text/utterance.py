"""What a text front end gives for a clause: symbols with their words, pauses and styles, in any language."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SpokenWord:
    """One spoken word: `text[start:end]` of the whole original text is what it stands for (a number gives several words
    with the same place), and symbols `first` to `last` (exclusive) of its utterance are its sounds."""

    text: str
    phonemes: str
    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class Utterance:
    """What an acoustic model is given for one clause, or part of one.

    The arrays have one entry a symbol (N of them): `speed` is a factor, `pitch` is in semitones, `volume` in decibels.
    `pauses` are (symbol index, seconds): silence before that symbol, or at the end where the index is N.
    `warnings` say in a sentence each what could not be spoken.
    """

    phonemes: str
    words: tuple[SpokenWord, ...]
    start: int  # place of the clause in the whole text
    end: int
    kind: str  # how the clause ended, see `Clause`
    pauses: tuple[tuple[int, float], ...]
    speed: np.ndarray
    pitch: np.ndarray
    volume: np.ndarray
    warnings: tuple[str, ...] = ()

    @property
    def word_of(self) -> np.ndarray:
        """int64 (N,): the index in `words` each symbol belongs to, -1 for marks and spaces."""
        out = np.full(len(self.phonemes), -1, np.int64)
        for i, w in enumerate(self.words):
            out[w.first : w.last] = i
        return out

    def spelled(self) -> str:
        """Its words, with the marks between them."""
        out, at = "", 0
        for w in self.words:
            out += self.phonemes[at : w.first] + w.text
            at = w.last
        return (out + self.phonemes[at:]).strip()

    def check(self) -> None:
        """Raises ValueError where its parts do not fit together."""
        count = len(self.phonemes)
        if any(a.shape != (count,) for a in (self.speed, self.pitch, self.volume)):
            raise ValueError("an utterance's styles are not one a symbol")
        if any(not 0 <= w.first <= w.last <= count for w in self.words):
            raise ValueError("an utterance's words lie outside of it")
        if any(not 0 <= at <= count or not seconds >= 0 for at, seconds in self.pauses):
            raise ValueError("an utterance's pauses lie outside of it")
