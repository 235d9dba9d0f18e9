"""What a decoder of text will probably say next: the words of a CTC head on the same encoder, in the decoder's pieces.

A decoder that reads one token at a time is bound by the bytes of its weights; what it would have chosen can be verified
several tokens at a time (Leviathan et al. 2023, speculative decoding; a head that costs nothing as the draft is that of
Mirror Speculative Decoding, Bhendawade et al. 2025). A guess is no hypothesis: it changes when is read and what together, never what
is chosen. The place in the head's words at which the decoder stands is found by the edit distance of letters, so that words
which it writes otherwise, capitals and marks do not lose it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechstream.asr.search import WORD_START
from speechstream.config import Section, read_value

BLANK = 0
MOST = 8  # tokens guessed at a time: behind a wrong one all are read in vain
RECALLED = 60  # letters by which the place is found
LONGEST = 24  # bytes of a piece
# on training recordings a word of which the head is sure follows at once, and written so, as often; one that it holds for
# half as probable a quarter as often; and so often the rest of its pieces are the decoder's
FOLLOWS, WITHIN = 0.87, 0.8
# what a call costs where one that reads a single token costs 1: matrices times a few rows are computed otherwise
SEVERAL, EACH = 1.3, 0.065


def read_pieces(path: Path) -> list[str]:
    """The pieces by id from a tokenizer.json of the `tokenizers` package. Raises ValueError for anything else."""
    found = Section(json.loads(Path(path).read_text(encoding="utf-8")), path.name)
    table: dict[str, int] = read_value(dict[str, int], found.section("model").raw("vocab"), "vocab")
    if sorted(table.values()) != list(range(len(table))):
        raise ValueError("its ids are not those of one piece each, from 0 on")
    return sorted(table, key=table.__getitem__)


class Guesser:
    """Guesses in the pieces of one vocabulary from the best pieces of a CTC head and their
    probabilities, (pairs, 2).

    own: the vocabulary's pieces by id, b"" for what is no text. heads: the head's, 0 being blank.
    """

    def __init__(self, own: Sequence[bytes], heads: Sequence[str]):
        self.letters = [p.replace(WORD_START, " ").encode() for p in heads]
        self.own = own
        self.ids = {p: i for i, p in reversed(list(enumerate(own))) if p}
        self.plain = [bytes(b for b in p.lower() if _counts(b)) for p in own]
        self.known: dict[bytes, list[int]] = {}  # words in pieces

    def text(self, best: np.ndarray) -> tuple[bytes, np.ndarray]:
        """What the head's best pieces (pairs, 2) say, a space before each word; and how probable each letter is."""
        ids, sure = best[:, 0].astype(np.int64), best[:, 1]
        begins = np.flatnonzero((ids != BLANK) & np.diff(ids, prepend=BLANK).astype(bool))
        ends = [int(b) + int(np.argmax(np.append(ids[b:], -1) != ids[b])) for b in begins]
        out, odds = bytearray(), []
        for a, b in zip(begins, ends):
            letters = self.letters[ids[a]]
            if letters[:1] == b" " and out[-1:] == b" ":
                letters = letters[1:]
            if not out and letters[:1] != b" ":
                letters = b" " + letters
            out += letters
            odds += [float(sure[a:b].max())] * len(letters)
        return bytes(out), np.array(odds)

    def after(
        self, heard: bytes, odds: np.ndarray, tokens: Sequence[int], final: bool
    ) -> list[int]:
        """The tokens that may follow, as many as are worth it. heard, odds: `text` of all that is known; final: no more
        audio follows."""
        place = self.place(heard, tokens)
        out: list[int] = []
        chances: list[float] = []
        text = b"".join(self.own[t] for t in tokens[-4:])
        begins = not text or text.rstrip()[-1:] in b".?!"
        while place < len(heard) and len(out) < MOST:
            opens = heard[place : place + 1] == b" "
            place += opens
            end = heard.find(b" ", place)
            end = len(heard) if end < 0 else end
            word, chance = heard[place:end], float(odds[place:end].min(initial=1.0))
            place = end
            if not opens and len(word) < 2:
                continue  # a word's end that the decoder writes otherwise
            if (begins and not out) or word == b"i" or word[:2] == b"i'":
                word = word[:1].upper() + word[1:]
            found = self.pieces(b" " + word if opens else word)
            out += found
            chances += [FOLLOWS * chance**2, *[WITHIN] * (len(found) - 1)][: len(found)]
        if len(out) < MOST and final and text[-1:] not in (b".", b"?", b"!") and b"." in self.ids:
            out.append(self.ids[b"."])
            chances.append(FOLLOWS)
        return out[: worth(chances[:MOST])]

    def pieces(self, word: bytes) -> list[int]:
        """A word in as few pieces as may be."""
        if word not in self.known:
            if len(self.known) > 1 << 11:
                self.known.clear()
            self.known[word] = self._split(word)
        return self.known[word]

    def _split(self, word: bytes) -> list[int]:
        best: list[list[int] | None] = [[]]
        for end in range(1, len(word) + 1):
            ways = [
                [*before, self.ids[word[at:end]]]
                for at in range(max(end - LONGEST, 0), end)
                if (before := best[at]) is not None and word[at:end] in self.ids
            ]
            best.append(min(ways, key=len) if ways else None)
        return best[-1] or []

    def place(self, heard: bytes, tokens: Sequence[int]) -> int:
        """How much of `heard` the tokens have said."""
        said = bytearray()
        for t in reversed(tokens):
            said[:0] = self.plain[t]
            if len(said) >= RECALLED:
                break
        if not said:
            return 0
        # the edit distances of what was said to each beginning of what was heard, as their differences from letter to letter
        # in the bits of two numbers (Myers 1999): `up` where one is larger than that before it, `down` where it is smaller.
        # Of a long text only the end is looked for, which may lie anywhere
        given, whole = np.frombuffer(heard, np.uint8), (1 << len(heard)) - 1
        up, down = 0 if len(said) >= RECALLED else whole, 0
        where = {c: _number(given == c) for c in set(said)}
        for letter in said:
            same = where[letter]
            across = (((same & up) + up) ^ up) | same
            more, less = down | ~(across | up), up & across
            more, less = (more << 1) | 1, less << 1
            across = same | down
            up, down = (less | ~(across | more)) & whole, more & across & whole
        steps = _bits(up, len(heard)) - _bits(down, len(heard))
        return int(np.concatenate([[0], steps.cumsum()]).argmin())


@dataclass(frozen=True)
class Heard:
    """What a head has heard of a stretch of speech: its `Guesser.text`."""

    guesser: Guesser
    text: bytes
    odds: np.ndarray

    def after(self, tokens: Sequence[int], final: bool) -> list[int]:
        """The tokens that may follow, as many as are worth it."""
        return self.guesser.after(self.text, self.odds, tokens, final)

    def left(self, tokens: Sequence[int]) -> bool:
        """Whether more has been heard than the tokens say."""
        return bool(self.text[self.guesser.place(self.text, tokens) :].strip())


def _number(bits: np.ndarray) -> int:
    """A number with these bits, the lowest first."""
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")


def _bits(number: int, count: int) -> np.ndarray:
    """Its `count` lowest bits, the lowest first."""
    data = np.frombuffer(number.to_bytes(-(-count // 8), "little"), np.uint8)
    return np.unpackbits(data, count=count, bitorder="little").astype(np.int64)


def worth(chances: Sequence[float]) -> int:
    """How many guesses should be verified in one call, of which each is right with such a chance if those before are."""
    best, count, right, expected = 1.0, 0, 1.0, 1.0
    for n, chance in enumerate(chances, 1):
        right *= chance
        expected += right
        if (gain := expected / (SEVERAL + EACH * n)) > best:
            best, count = gain, n
    return count


def _counts(byte: int) -> bool:
    return chr(byte).isalnum() or byte in b" '" or byte > 127
