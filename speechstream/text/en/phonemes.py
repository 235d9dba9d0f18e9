"""Phonemes of American English, and the way from a clause of text to them.

    front = FrontEnd()
    for clause in clauses:                       # from `TextStream`
        for utterance in front(clause):
            front.encode(utterance.phonemes)     # int64 symbols for the acoustic model
            utterance.words                      # each with its place in the original text and among the symbols

**Inventory.** The symbols are those of the misaki G2P that Kokoro-82M was trained on, one character each.
Stress is written before the stressed vowel: `\u02c8` primary, `\u02cc` secondary.

| | |
|---|---|
| diphthongs | `A` d**ay** `I` m**y** `O` g**o** `W` n**ow** `Y` b**oy** |
| vowels | `i` s**ee** `u` t**oo** `\u00e6` c**a**t `\u0251` f**a**ther `\u0254` l**aw** `\u025b` b**e**d `\u025c` b**ir**d (with `\u0279`) `\u026a` s**i**t `\u028a` b**oo**k `\u028c` c**u**p |
| weak vowels | `\u0259` **a**bout `\u0250` the article **a** `\u1d4a` butt**o**n `\u1d7b` ros**e**s |
| plosives, affricates | `p b t d k \u0261` `\u02a7` **ch**in `\u02a4` **j**am `\u027e` bu**tt**er `\u0294` the catch of uh-oh |
| fricatives | `f v s z h` `\u03b8` **th**in `\u00f0` **th**en `\u0283` **sh**e `\u0292` vi**s**ion |
| others | `m n l w` `\u014b` si**ng** `\u0279` **r**ed `j` **y**es |
| marks | `; : , . ! ? \u2014 \u2026` and the space between words |
"""

from __future__ import annotations

import html
from dataclasses import dataclass, replace

import numpy as np

from speechstream.text import ssml
from speechstream.text.clauses import Clause, TextConfig, TextStream
from speechstream.text.en import homographs, lexicon
from speechstream.text.en.ipa import to_ipa
from speechstream.text.en.normalise import (
    ATOM,
    PUNCTUATION,
    Normaliser,
    NormaliserConfig,
    Word,
    tidy,
)
from speechstream.text.en.say_as import words_as
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import SpokenWord, Utterance

PAD = "_"
STRESS = "\u02c8\u02cc"
NO_STRESS = str.maketrans("", "", STRESS)
VOWELS = lexicon.VOWELS + "\u0250"
CONSONANTS = lexicon.CONSONANTS
SYMBOLS = tuple(
    PAD + " " + PUNCTUATION + STRESS + VOWELS + CONSONANTS
)  # index = id; new ones only at the end
SYMBOL_ID = {s: i for i, s in enumerate(SYMBOLS)}

# Kokoro-82M's ids of the same symbols; it writes the flap as T and has no glottal stop.
KOKORO_ID = dict(
    zip(
        ";:,.!?\u2014\u2026 AIOWY\u1d4abdfhijklmnpstuvwz\u0251\u0250\u00e6\u0254\u00f0\u02a4\u0259\u025b\u025c\u0261\u026a\u014b\u03b8\u0279\u0283\u02a7\u028a\u028c\u0292\u02c8\u02cc\u1d7b\u027e\u0294",
        map(
            int,
            (
                "1 2 3 4 5 6 9 10 16 24 25 31 39 41 42 44 46 48 50 51 52 53 54 55 56 58 61 62 "
                "63 64 65 68 69 70 72 76 81 82 83 86 87 92 102 112 119 123 131 133 135 138 147 156 157 177 36 62"
            ).split(),
        ),
    )
)

# What people type for our symbols inside [[...]] and <phoneme>, from plain IPA.
FROM_IPA = (
    ("e\u026a", "A"),
    ("a\u026a", "I"),
    ("o\u028a", "O"),
    ("\u0259\u028a", "O"),
    ("a\u028a", "W"),
    ("\u0254\u026a", "Y"),
    ("t\u0361\u0283", "\u02a7"),
    ("t\u0283", "\u02a7"),
    ("d\u0361\u0292", "\u02a4"),
    ("d\u0292", "\u02a4"),
    ("\u025d", "\u025c\u0279"),
    ("\u025a", "\u0259\u0279"),
    ("\u02d0", ""),
    ("r", "\u0279"),
    ("g", "\u0261"),
    ("T", "\u027e"),
    ("e", "\u025b"),
    ("a", "\u0251"),
    ("o", "\u0254"),
    ("\u0252", "\u0251"),
    ("\u0268", "\u1d7b"),
    ("'", "\u02c8"),
    ("x", "k"),
    ("\u026b", "l"),
    ("y", "i"),
)
EMPHASIS = {
    "strong": (0.85, 4.0),
    "moderate": (0.92, 2.0),
    "reduced": (1.1, -3.0),
    "": (1.0, 0.0),
}  # speed, decibels


def encode(phonemes: str) -> np.ndarray:
    """Symbols to int64 ids (N,). Raises ValueError for a character outside the inventory."""
    unknown = sorted(set(phonemes) - set(SYMBOL_ID))
    if unknown:
        raise ValueError(
            f"not phonemes of this inventory: {unknown}; see speechstream.text.en.phonemes for those that are"
        )
    return np.array([SYMBOL_ID[c] for c in phonemes], np.int64)


def decode(ids: np.ndarray) -> str:
    """int ids to symbols; padding is dropped."""
    return "".join(SYMBOLS[int(i)] for i in ids if int(i) != 0)


def kokoro_ids(phonemes: str) -> np.ndarray:
    """int64 ids (N + 2,) as Kokoro-82M takes them, with its padding 0 at both ends."""
    return np.array([0] + [KOKORO_ID[c] for c in phonemes] + [0], np.int64)


def from_ipa(text: str) -> tuple[str, str]:
    """Phonemes as a person writes them, in this inventory: (phonemes, the characters that had to be left out)."""
    if any(
        a in text
        for a in (
            "\u0259\u028a",
            "e\u026a",
            "a\u026a",
            "o\u028a",
            "a\u028a",
            "\u02d0",
            "\u025d",
            "\u025a",
            "r",
            "g",
        )
    ) or not set(text) <= set(SYMBOLS):
        for a, b in FROM_IPA:
            text = text.replace(a, b)
    kept = "".join(c for c in text if c in SYMBOL_ID and c != PAD)
    return " ".join(kept.split()), "".join(dict.fromkeys(c for c in text if c not in SYMBOL_ID))


@dataclass(frozen=True)
class _Visible:
    """A clause with its markup taken out: characters, their places, their styles, and what the markup said."""

    text: str
    places: list[int]
    ends: list[int]
    styles: list[ssml.Style]
    atoms: list[tuple[ssml.Tag, str]]
    breaks: list[tuple[int, float]]


class FrontEnd:
    """Clauses to utterances: markup, normalisation, pronunciation. Stateless, so one serves any number of streams.

    `max_symbols` bounds an utterance; a clause that needs more becomes several. `lexicon` entries given by the user,
    `{"word": "phonemes"}`, go before the dictionary's. `options` are the user's choices of reading. Raises ValueError for such an entry outside the inventory.
    """

    symbols = SYMBOLS

    def __init__(
        self,
        config: NormaliserConfig | None = None,
        user_lexicon: dict[str, str] | None = None,
        max_symbols: int = 400,
        markup: bool = True,
        options: ReadingOptions | None = None,
    ):
        if max_symbols < 50:
            raise ValueError(
                f"an utterance needs room for 50 symbols at least, given max_symbols={max_symbols}"
            )
        self.lexicon, self.max_symbols, self.markup = lexicon.load(), max_symbols, markup
        self.user = {k.lower(): v for k, v in (user_lexicon or {}).items()}
        for phonemes in self.user.values():
            encode(phonemes)
        self.normaliser = Normaliser(
            config,
            known=lambda w: w.lower() in self.user or self.lexicon.known(w),
            lettered=lambda w: w.lower() not in self.user and self._lettered(w),
            options=options,
        )

    def _lettered(self, word: str) -> bool:
        """Whether the dictionary says a word by the names of its letters: dvd."""
        entry = self.lexicon.entry(word) if len(word) <= 6 else None
        if entry is None:
            return False
        sound = entry["DEFAULT"] if isinstance(entry, dict) else entry
        return sound.translate(NO_STRESS) == self._spell(word.upper()).translate(NO_STRESS)

    def encode(self, phonemes: str) -> np.ndarray:
        """Symbols to int64 ids (N,). Raises ValueError for a character outside the inventory."""
        return encode(phonemes)

    def ipa(self, phonemes: str) -> list[str]:
        """Symbols as espeak-ng writes them, one string (perhaps empty) for each."""
        return to_ipa(phonemes)

    def speak(self, text: str | bytes) -> list[Utterance]:
        """The utterances of a whole text, offline: `TextStream` and `__call__` in one."""
        stream = TextStream(TextConfig(markup=self.markup))
        return [u for clause in stream(text) for u in self(clause)]

    def words(self, clause: Clause) -> list[Word]:
        """The words and marks of a clause as they will be said; their places are within the clause's visible text."""
        return self._words(self._visible(clause), [])

    def __call__(self, clause: Clause) -> list[Utterance]:
        """The utterances of a clause: one as a rule, more for a very long one, none where nothing is to be spoken.

        Raises SpeechStreamError where the configuration asks for it (`unsupported="error"`).
        """
        warnings: list[str] = []
        visible = self._visible(clause)
        words = self._words(visible, warnings)
        sounds = self._pronounce(words, warnings)
        return self._assemble(clause, visible, words, sounds, warnings)

    def _visible(self, clause: Clause) -> _Visible:
        """Take the markup out of a clause."""
        text, at, stack = clause.text, 0, clause.stack
        out, places, ends, styles, atoms, breaks = [], [], [], [], [], []

        def add(characters: str, place: int, length: int = 1) -> None:
            for c in characters:
                out.append(" " if c == ATOM else c)
                places.append(clause.start + place)
                ends.append(clause.start + place + length)
                styles.append(ssml.style_of(stack))

        while at < len(text):
            c = text[at]
            tag, end = (ssml.match(text, at, True) if self.markup and c in "<[" else None) or (
                None,
                at,
            )
            if tag is None:
                entity = ssml.ENTITY.match(text, at) if self.markup and c == "&" else None
                add(html.unescape(entity[0]) if entity else c, at, len(entity[0]) if entity else 1)
                at = entity.end() if entity else at + 1
                continue
            content = (-1, -1)
            if tag.name in ssml.ATOMS and not tag.close and not tag.empty:
                content = ssml.closing(text, end, tag.name, True) or (-1, -1)
            if content[0] >= 0 or tag.name == "phonemes":
                inner = (end, content[0]) if content[0] >= 0 else (at, end)
                add(" ", at)
                out.append(ATOM)
                places.append(clause.start + inner[0])
                ends.append(clause.start + inner[1])
                styles.append(ssml.style_of(stack))
                atoms.append((tag, text[inner[0] : inner[1]]))
                end = content[1] if content[0] >= 0 else end
                add(" ", end - 1)
            elif tag.name == "break":
                breaks.append((len(out), ssml.seconds(tag)))
                add(" ", at)
            else:
                stack = ssml.push(stack, tag)
                if tag.name in ("p", "s", "br", "li", "tr", "h1", "h2", "h3"):
                    add(" ", at)
            at = end
        return _Visible("".join(out), places + [clause.end], ends, styles, atoms, breaks)

    def _words(self, visible: _Visible, warnings: list[str]) -> list[Word]:
        """Normalised words; `start` and `end` index the visible text, atoms are put in."""
        out: list[Word] = []
        atoms = iter(visible.atoms)
        for w in self.normaliser(visible.text, warnings):
            if w.kind != "atom":
                out.append(w)
                continue
            tag, content = next(atoms)
            for inner in self._atom(tag, content, warnings):
                out.append(replace(inner, start=w.start, end=w.end))
        return tidy(out)

    def _atom(self, tag: ssml.Tag, content: str, warnings: list[str]) -> list[Word]:
        """The words of `[[...]]`, phoneme, sub or say-as; spans are filled in by the caller."""
        attributes = tag.attributes
        plain = html.unescape(content.translate({ord("<"): " ", ord(">"): " "}))
        if tag.name in ("phonemes", "phoneme"):
            phonemes, left_out = from_ipa(attributes.get("ph", ""))
            if left_out:
                warnings.append(
                    f"not phonemes of this voice, left out: {left_out!r}; see speechstream.text.en.phonemes"
                )
            if phonemes.strip(" " + PUNCTUATION + STRESS):
                return [Word(phonemes, 0, 0, "phonemes")]
            return self.normaliser(plain, warnings) if tag.name == "phoneme" else []
        if tag.name == "sub":
            return self.normaliser(attributes.get("alias") or plain, warnings)
        how = attributes.get("interpret-as", "").lower()
        if how in ("characters", "spell-out", "verbatim", "letters"):
            words = []
            for c in plain:
                if c.isascii() and c.isalpha():
                    words.append(Word(c.upper(), 0, 0, "letters"))
                elif not c.isspace():
                    words += self.normaliser(c, warnings)
            return words
        said = words_as(how, plain, attributes.get("format", ""))
        if said is not None:
            return [Word(w, 0, 0, "punct" if w in PUNCTUATION else "word") for w in said]
        return self.normaliser(plain, warnings)

    def _pronounce(self, words: list[Word], warnings: list[str]) -> list[str]:
        """Phonemes of each word ("" for marks), last to first: small words depend on the sound that follows."""
        written = [w.text for w in words]
        sounds = [""] * len(words)
        for i in range(len(words) - 1, -1, -1):
            if words[i].kind == "punct":
                continue
            following = sounds[i + 1] if i + 1 < len(words) else ""
            first = following.lstrip(STRESS + " ")[:1]
            sounds[i] = self._word(words[i], i, written, None if not first else first in VOWELS)
        return sounds

    def _word(self, word: Word, i: int, written: list[str], vowel_next: bool | None) -> str:
        """One word: its spelling, place, the clause's words, and whether a vowel follows (None: a pause follows)."""
        text = word.text
        if word.kind == "phonemes":
            return text
        lower = text.lower()
        if lower in self.user:
            return self.user[lower]
        if word.kind == "letters":
            return self._spell(text)
        if lower == "a":
            return (
                "\u0250"
                if vowel_next is not None and (text == "a" or i == 0 or len(written[i + 1]) > 1)
                else "\u02c8A"
            )
        if lower == "an":
            return "\u0250n"
        if lower == "the":
            return "\u00f0i" if vowel_next else "\u00f0\u0259"
        if lower == "to":
            return {None: "tu", False: "t\u0259", True: "t\u028a"}[vowel_next]
        if lower == "in":
            return "\u026an" if vowel_next is not None else "\u02c8\u026an"
        if text == "I":
            return "\u02ccI"
        entry = self.lexicon.find(text)
        if isinstance(entry, dict):
            if vowel_next is None and "None" in entry:
                return entry["None"]
            return homographs.choose(written, i, entry)
        if entry:
            return entry
        return self.lexicon.guess(text) or ""

    def _spell(self, text: str) -> str:
        """Letter names; the last one carries the main stress. A small s at the end is a plural or a possessive, 'd a past."""
        for ending, sound in (("'d", "d"), ("'ed", "d"), ("'ing", "\u026a\u014b")):
            if text.endswith(ending):
                return self._spell(text.removesuffix(ending)) + sound
        tail = (
            "'s"
            if text.endswith("'s")
            else "s"
            if len(text) > 1 and text[-1] == "s" and text[:-1].isupper()
            else ""
        )
        names = [
            self.lexicon.entry(c)
            for c in text[: len(text) - len(tail)].upper()
            if c.isascii() and c.isalpha()
        ]
        names = [n["DEFAULT"] if isinstance(n, dict) else n for n in names if n]
        if not names:
            return ""
        spelled = "".join(n.replace(STRESS[0], STRESS[1]) for n in names[:-1]) + names[-1]
        return lexicon.inflected("xx'" + "s", lambda stem: spelled) if tail else spelled

    def _assemble(
        self,
        clause: Clause,
        visible: _Visible,
        words: list[Word],
        sounds: list[str],
        warnings: list[str],
    ) -> list[Utterance]:
        """String the sounds together with spaces and marks, with the pauses and styles that belong to them."""
        out: list[Utterance] = []
        breaks = list(visible.breaks)
        places = visible.places
        text, spoken, styles, pauses = "", [], [], []

        def close(last: bool) -> None:
            nonlocal text, spoken, styles, pauses
            pauses += [(len(text), s) for _, s in breaks] if last else []
            if text or pauses or (last and warnings and not out):
                scale = [
                    (s.speed * EMPHASIS[s.emphasis][0], s.pitch, s.volume + EMPHASIS[s.emphasis][1])
                    for s in styles
                ]
                speed, pitch, volume = np.array(scale, np.float32).reshape(-1, 3).T
                out.append(
                    Utterance(
                        text,
                        tuple(spoken),
                        clause.start,
                        clause.end,
                        clause.kind if last else "phrase",
                        tuple(pauses),
                        speed.copy(),
                        pitch.copy(),
                        volume.copy(),
                        tuple(warnings) if not out else (),
                    )
                )
            text, spoken, styles, pauses = "", [], [], []

        for w, sound in zip(words, sounds):
            piece = w.text if w.kind == "punct" else sound
            if not piece:
                continue
            if text and w.kind != "punct" and len(text) + len(piece) + 2 > self.max_symbols:
                close(False)
            style = visible.styles[min(w.start, len(visible.styles) - 1)]
            while breaks and breaks[0][0] <= w.start:
                pauses.append((len(text), breaks.pop(0)[1]))
            if text and w.kind != "punct":
                text += " "
                styles.append(styles[-1])
            if w.kind != "punct":
                end = max(w.end, w.start + 1)
                start, stop = places[w.start], visible.ends[end - 1]
                limit = self.max_symbols - 1  # leaves room for a mark
                for part in [piece[k : k + limit] for k in range(0, len(piece), limit)]:
                    if len(text) + len(part) > limit:
                        close(False)
                    spoken.append(
                        SpokenWord(w.text, part, start, stop, len(text), len(text) + len(part))
                    )
                    text += part
                    styles += [style] * len(part)
            else:
                text += piece
                styles.append(style)
        close(True)
        return out
