"""Hot words: phrases that a recogniser is told to expect, with a bonus for saying them, or as all that it may say.

Shallow fusion: while a hypothesis goes on like the beginning of a phrase, its score gains a bonus for each token, which is
taken back where the phrase breaks off (`speechstream.lm.constraints`). Phrases are text; `compile_*` writes them as a
decoder's tokens in the spellings that it may choose.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.lm.constraints import MAX_LENGTH, TokenTrie

MAX_PHRASES = 50_000
MAX_CHARACTERS = 120  # of a phrase
MAX_FILE = 4 << 20  # bytes
MAX_WEIGHT = 10.0
WORD_START = "▁"


class Scale(NamedTuple):
    """Nats that a phrase of weight 1 gains, by a decoder that is in doubt. Many phrases begin like other words, few go on
    like them: the first token gains less."""

    first: float  # token
    later: float  # each of the others
    least: float  # in all: what is lacking comes with the last token

    def bonuses(self, tokens: int, weight: float) -> list[float]:
        out = [self.first] + [self.later] * (tokens - 1)
        out[-1] += max(self.least - sum(out), 0.0)
        return [weight * b for b in out]


# Tuned by tools/evaluate_hotwords.py.
ATTENTION = Scale(1.0, 2.5, 3.0)
TRANSDUCER = Scale(1.0, 2.5, 3.0)
CTC = Scale(1.0, 2.0, 3.0)

RECENT = 8  # tokens, after which a phrase may be said again for a bonus

Phrases = Any  # what `HotWords.of` takes


@dataclass(frozen=True)
class HotWords:
    """Phrases with weights: 1 is the tuned strength, 0 excluded, at most 10. closed: nothing else is ever said."""

    phrases: tuple[tuple[str, float], ...]
    closed: bool = False

    def __post_init__(self) -> None:
        what = "a grammar" if self.closed else "hot words"
        if not self.phrases:
            needs = "needs" if self.closed else "need"
            raise ValueError(f"{what} {needs} at least one phrase, got none")
        if len(self.phrases) > MAX_PHRASES:
            raise ValueError(
                f"{what} may be {MAX_PHRASES} phrases at most, got {len(self.phrases)}"
            )
        object.__setattr__(self, "phrases", tuple(_phrase(*p) for p in self.phrases))

    @classmethod
    def of(cls, given: Phrases, closed: bool = False) -> HotWords:
        """From phrases, (phrase, weight) pairs, a dict of phrases to weights, or the path of a file of them.

        Raises ValueError for what is no phrase, SpeechStreamError for a file that cannot be read.
        """
        if isinstance(given, HotWords):
            if given.closed != closed:
                raise ValueError("a grammar is given as grammar=, hot words as hotwords=")
            return given
        if isinstance(given, (str, Path)):
            return cls.read(given, closed)
        if isinstance(given, Mapping):
            given = list(given.items())
        if not isinstance(given, Iterable):
            raise ValueError(
                f"hot words are phrases, pairs of phrase and weight, or a file; got {given!r:.80}"
            )
        pairs = []
        for one in given:
            pair = (one, 1.0) if isinstance(one, str) else one
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ValueError(
                    f"a hot word is a phrase, or a phrase and a weight; got {one!r:.80}"
                )
            pairs.append((pair[0], pair[1]))
        return cls(tuple(pairs), closed)

    @classmethod
    def read(cls, path: str | Path, closed: bool = False) -> HotWords:
        """A file of one phrase a line, a weight after a tab or a colon; lines that begin with # are comments. Raises
        SpeechStreamError."""
        try:
            with open(path, "rb") as f:
                data = f.read(MAX_FILE + 1)
            text = data.decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise SpeechStreamError(
                f"{path} cannot be read as a text file of phrases, one a line: {_why(error)}"
            ) from error
        if len(data) > MAX_FILE:
            raise SpeechStreamError(f"{path} is larger than {MAX_FILE >> 20} MB of phrases")
        try:
            lines = ((n, line.strip()) for n, line in enumerate(text.splitlines(), 1))
            return cls(
                tuple(_line(line, n) for n, line in lines if line and line[0] != "#"), closed
            )
        except ValueError as error:
            raise SpeechStreamError(f"{path}: {error}") from error

    @cached_property
    def digest(self) -> str:
        """Of the content: equal for equal phrases in the same order."""
        content = json.dumps([self.closed, self.phrases], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        return {"closed": self.closed, "phrases": [list(p) for p in self.phrases]}

    @classmethod
    def from_json(cls, value: Any) -> HotWords:
        """What `to_json` gave. Raises ValueError."""
        if not isinstance(value, dict) or not isinstance(value.get("phrases"), list):
            raise ValueError(f"{value!r:.80} are no hot words")
        return cls.of(value["phrases"], bool(value.get("closed")))


def chosen(hotwords: Phrases, grammar: Phrases) -> HotWords | None:
    """What a stream is given as one. Raises ValueError where it is both."""
    if hotwords is not None and grammar is not None:
        raise ValueError("give hotwords or a grammar, not both: a grammar says nothing else anyway")
    if grammar is not None:
        return HotWords.of(grammar, closed=True)
    return None if hotwords is None else HotWords.of(hotwords)


def _why(error: OSError | ValueError) -> str:
    """Why a file gives no text, as the rest of a sentence."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist (in Python, phrases are given in a list)"
    if isinstance(error, UnicodeDecodeError):
        return f"it is no UTF-8 from byte {error.start} on"
    return str(getattr(error, "strerror", None) or error)


def _line(line: str, number: int) -> tuple[str, float]:
    """A phrase and its weight, of a line of a file."""
    text, mark, weight = line.rpartition("\t")
    if not mark:
        text, mark, weight = line.rpartition(":")
    try:
        value = float(weight) if mark else 1.0
    except ValueError:
        if "\t" in line:
            raise ValueError(
                f"line {number} has the weight {weight!r:.40}, expected a number"
            ) from None
        text, value = line, 1.0
    try:
        return _phrase(text if mark and text else line, value)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def _phrase(text: Any, weight: Any) -> tuple[str, float]:
    """A phrase with single spaces and a weight. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError(f"a phrase is text, got {text!r:.80}")
    if not isinstance(weight, (int, float)) or isinstance(weight, bool):
        raise ValueError(f"the weight of {text!r:.80} is a number, got {weight!r:.40}")
    if not 0 < weight <= MAX_WEIGHT or math.isnan(weight):
        raise ValueError(
            f"the weight of {text!r:.80} must be above 0 and at most {MAX_WEIGHT:g}, got {weight}"
        )
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if not any(c.isalnum() for c in text):
        raise ValueError(f"a phrase needs a letter or a digit, got {text!r:.80}")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"a phrase may have {MAX_CHARACTERS} characters, got {text!r:.80}...")
    if any(unicodedata.category(c) in ("Cc", "Cs", "Cn", "Co") for c in text):
        raise ValueError(f"a phrase is printable text, got {text!r:.80}")
    return text, float(weight)


@dataclass(frozen=True)
class Bias:
    """Hot words as a decoder's tokens. texts: of each sequence in the trie, the phrase as it was given.

    space: the piece that is a space alone, which says nothing yet of the word that it opens; -1 for none.
    """

    trie: TokenTrie
    closed: bool
    texts: tuple[str, ...]
    space: int = -1

    def nodes(self, tokens: Sequence[int]) -> list[int]:
        """The nodes (len(tokens) + 1) of a hypothesis before, between and after its tokens.

        A phrase that begins like one a moment ago counts for nothing: else a decoder in doubt would say it forever.
        """
        out, trie = [0], self.trie
        for n, token in enumerate(tokens):
            node = trie.step(out[-1], token)
            out.append(0 if self._again(node, token, tokens[max(n - RECENT, 0) : n]) else node)
        return out

    def _again(self, node: int, token: int, recent: Sequence[int]) -> bool:
        """Whether a token that leads to a node begins a phrase as one of the recent ones did."""
        if token not in recent or token == self.space:
            return False
        if self.trie.starts(node):
            return True
        parent = self.trie.parent.item(node)
        if not (self.trie.starts(parent) and self.trie.token.item(parent) == self.space):
            return False
        return (self.space, token) in zip(recent, recent[1:])

    def gains(self, tokens: Sequence[int], begin: int) -> list[float]:
        """What each of the tokens from `begin` on adds to the score of a hypothesis."""
        nodes, trie = self.nodes(tokens), self.trie
        return [trie.gain(nodes[n], nodes[n + 1], tokens[n]) for n in range(begin, len(tokens))]

    def held(self, tokens: Sequence[int]) -> float:
        """What of a hypothesis' score is taken back where it goes on in another way."""
        node = self.nodes(tokens)[-1]
        return float(self.trie.held[node] - self.trie.kept[node])

    def best(self, logits: np.ndarray, tokens: Sequence[int], begin: int) -> np.ndarray:
        """The best token of each row (n, V), with its gain; row n follows the first begin + n tokens."""
        nodes = np.array(self.nodes(tokens)[begin : begin + len(logits)])
        best = self.trie.best(logits, nodes)
        for n, token in enumerate(best.tolist()):
            if token in tokens[max(begin + n - RECENT, 0) : begin + n]:
                best[n] = (logits[n] + self.row(tokens[: begin + n], int(nodes[n]))).argmax()
        return best

    def row(self, tokens: Sequence[int], node: int | None = None) -> np.ndarray:
        """What each token (V,) would add to the score of a hypothesis."""
        node = self.nodes(tokens)[-1] if node is None else node
        row: np.ndarray = self.trie.scores(np.array([node]))[0]
        for token in set(recent := tokens[-RECENT:]):
            after = self.trie.step(node, token)
            if self._again(after, token, recent):
                row[token] -= self.trie.held[after]
        return row


def compile_bytes(words: HotWords, pieces: Sequence[bytes], end: int) -> Bias:
    """For a byte-level BPE whose ids are in the order of its merges; `end` closes a transcript.

    Whisper writes a name with a space before it and, as it likes, in capitals: each form is a sequence of its own.
    """
    encode = byte_encoder(pieces[:end])
    boundary = np.array([not _goes_on(p) for p in pieces[:end]] + [True])

    def tokens(form: str) -> list[int]:
        return [i for word in form.split(" ") for i in encode(f" {word}")]

    space = pieces.index(b" ") if b" " in pieces else -1
    return _compiled(words, _forms, tokens, boundary, ATTENTION, space)


def byte_encoder(pieces: Sequence[bytes]) -> Callable[[str], list[int]]:
    """A word, with the space before it, to the tokens of a byte-level BPE whose ids are in the order of its merges."""
    encode = _Merges({p: i for i, p in enumerate(pieces) if p})

    def tokens(word: str) -> list[int]:
        parts = [word] if encode.has(word) else _GPT2.findall(word)
        return [i for part in parts for i in encode.bytes(part.encode("utf-8"))]

    return tokens


def compile_pieces(words: HotWords, pieces: Sequence[str], scale: Scale = CTC) -> Bias:
    """For pieces of which those that begin a word begin with '▁', in the order of their merges (SentencePiece, CTC)."""
    table = {p: i for i, p in reversed(list(enumerate(pieces))) if p and not _SPECIAL.fullmatch(p)}
    encode, characters = _Merges(table), {c for p in table for c in p}
    boundary = np.array([p.startswith((WORD_START, "'")) for p in pieces])
    upper = any(c.isupper() for c in characters)

    def forms(text: str) -> list[str]:
        return _forms(text) if upper else [text.lower()]

    def tokens(form: str) -> list[int]:
        spelt = "".join(_spelt(c, characters) for c in form)
        return [i for word in spelt.split() for i in encode.text(WORD_START + word)]

    return _compiled(words, forms, tokens, boundary, scale)


def _compiled(
    words: HotWords, forms: Any, tokens: Any, boundary: np.ndarray, scale: Scale, space: int = -1
) -> Bias:
    sequences, bonuses, texts = [], [], []
    for text, weight in words.phrases:
        spellings = []
        for form in forms(text):
            try:
                spellings.append(tokens(form))
            except KeyError as error:  # another form may do
                missing = error.args[0]
                if isinstance(missing, bytes):
                    missing = missing.decode("utf-8", "backslashreplace")
        if not spellings:
            raise ValueError(
                f"the phrase {text!r:.80} cannot be written with this model's pieces: it has no {missing!r}"
            )
        for ids in spellings:
            if not 0 < len(ids) <= MAX_LENGTH:
                raise ValueError(f"the phrase {text!r:.80} is {len(ids)} of this model's tokens")
            sequences.append(ids)
            opened = ids[0] == space and len(ids) > 1
            bonuses.append([0.0] * opened + scale.bonuses(len(ids) - opened, weight))
            texts.append(text)
    trie = TokenTrie(sequences, len(boundary), bonuses, boundary)
    return Bias(trie, words.closed, tuple(texts), space)


_SPECIAL = re.compile(r"<.+>|\[.+\]")  # blank, unknown ...
# GPT-2's words: what merges never reach across.
_GPT2 = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+", re.UNICODE
)


def _forms(text: str) -> list[str]:
    """How a phrase may be written: as given, small, its first letter capital, each word's; without doubles."""
    small = text.lower()
    titled = " ".join(w[:1].upper() + w[1:] for w in small.split(" "))
    return list(dict.fromkeys((text, small, small[:1].upper() + small[1:], titled)))


def _goes_on(piece: bytes) -> bool:
    """Whether a piece goes on with the word before it: it begins with a letter, a digit, or within a character."""
    return bool(piece) and (piece[:1].isalnum() or piece[0] > 127)


def _spelt(character: str, known: set[str]) -> str:
    """A character as the pieces have it: itself, without its accent, or a space. Raises KeyError."""
    if character in known or character == " ":
        return character
    plain = "".join(
        c for c in unicodedata.normalize("NFD", character) if not unicodedata.combining(c)
    )
    plain = {"’": "'"}.get(plain, plain)
    if plain and all(c in known for c in plain):
        return plain
    if not character.isalnum():
        return "" if character in ".,!?'’\"" else " "
    raise KeyError(character)


class _Merges:
    """BPE by rank: of two neighbours that make a piece, those of the smallest id are merged first."""

    def __init__(self, ranks: Mapping[Any, int]):
        self.ranks = ranks
        self.done: dict[Any, list[int]] = {}

    def has(self, word: str) -> bool:
        return word.encode("utf-8") in self.ranks

    def bytes(self, word: bytes) -> list[int]:
        return self._merged(word, [word[i : i + 1] for i in range(len(word))])

    def text(self, word: str) -> list[int]:
        return self._merged(word, list(word))

    def _merged(self, word: Any, parts: list[Any]) -> list[int]:
        if word in self.ranks:
            return [self.ranks[word]]
        if word not in self.done:
            none = len(self.ranks) + (1 << 30)
            while len(parts) > 1:
                pairs = [self.ranks.get(a + b, none) for a, b in zip(parts, parts[1:])]
                if (best := min(pairs)) == none:
                    break
                at = pairs.index(best)
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            self.done[word] = [self.ranks[p] for p in parts]
        return self.done[word]
