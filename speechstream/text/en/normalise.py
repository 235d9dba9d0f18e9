"""Written text to spoken words, each with its place in the source.

    [(w.text, w.start, w.end) for w in Normaliser()("Dr. Smith paid $3.50.")]
    # doctor 0-3, Smith 4-9, paid 10-14, three 15-20, dollars 15-20, and 15-20, fifty 15-20, cents 15-20, "." 20-21

Words are read in `spelling.py`, formulas in `chemistry.py`, Roman numerals in `romans.py`, other scripts in `scripts.py`,
symbols in `symbols.py`, ranges in `ranges.py`, addresses and codes in `identifiers.py`, numbers in `numerals.py`. Names of abbreviations, units and symbols are in `tables.py`, the words
that tell what a number is in `cues.py`. American English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from speechstream.text.en import (
    chemistry,
    cues as q,
    expressions,
    maths,
    music,
    numbers,
    numerals,
    prescriptions,
    smileys,
    tables as t,
    units,
)
from speechstream.text.en.chemistry import Formulas
from speechstream.text.en.identifiers import HEX_COLOUR, Identifiers
from speechstream.text.en.ranges import INCHES, MONTH, Ranges
from speechstream.text.en.romans import Romans
from speechstream.text.en.scripts import Scripts
from speechstream.text.en.spelling import Spelling
from speechstream.text.en.symbols import KEYED, Symbols
from speechstream.text.en.word import ATOM, PUNCTUATION, Word, clean_up, tidy
from speechstream.text.rules import ReadingOptions

__all__ = ["ATOM", "PUNCTUATION", "Normaliser", "NormaliserConfig", "Word", "tidy"]

LINKED = re.compile(r"\.[\w-]|://|localhost:|\w::\w", re.I)  # what every address and file name has
MIXED = re.compile(r"(?=[^\W_]*\d)(?=[^\W_]*[A-Za-z])[A-Za-z0-9]+")
CURRENCY = "|".join(sorted(map(re.escape, units.CURRENCIES), key=len, reverse=True))
DIGITISH = re.compile(
    rf"[-+\u2212\u00b1]?(?:{CURRENCY})\s?[-\u2212(]?\.?\d|[-+\u2212\u00b1]?\.?\d|\(0?\d{{3,4}}\)|\(0\d\)(?=[ -]\d)|['\u2019]\d|["
    + "".join(t.VULGAR)
    + r"]|[-+\u2212\u00b1]["
    + "".join(t.VULGAR)
    + r"]|[vV]\d+(?:\.\d|\b)|AD\s\d|A\.D\.\s\d"
)
INITIALS = frozenset("jfmasondJFMASOND")
OPERATOR = re.compile("|".join(sorted(map(re.escape, t.OPERATORS), key=len, reverse=True)))
NUMBERED = re.compile(r"#\d{1,4}[A-Z](?!\w)")
TAGGED = re.compile(r"#(\w+)|@(\w+(?:\.[A-Za-z]\w*)*)")
NUMBERS = re.compile(r"#s(?!\w)")
NUMBER_OF_A_SERIES = re.compile(r"#[A-Z]{1,6}-?\d*-\d")
RAISED = re.compile("\u207b?[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|\u207b")
CHARGED = re.compile(
    "([\u2070\u00b9\u00b2\u00b3\u2074-\u2079]{0,2})([\u207a\u207b])(?![\u2070\u00b9\u00b2\u00b3\u2074-\u207f])"
)
DASHES = frozenset("-\u2010\u2011\u2012\u2013\u2014")
SIZES = re.compile(r"x \d")
DATE_NAMES = frozenset(t.MONTHS) | frozenset(t.WEEKDAYS)
OPTION = re.compile(
    r"(--)(?=[a-z][\w-]*(?:\s|$|[.,=;:)\"\'`]))|(-)(?=[A-Za-z]{1,3}\d{0,2}(?:\s|$|[.,;:)\"\'`]))"
)
FLAGS = re.compile(r"[a-z]{2,3}(?=[\s`\"').,;:]|$)")  # -la
MINUS_TERM = re.compile(r".[a-z\u0370-\u03ff](?![^\W\d_])")
MINUS_AFTER = re.compile(r"(?:[=+*\u00d7]\s?|[=+*\u00d7][^a-z]*[(\[])$")
NOTE = re.compile(r"(?<![A-Za-z])[A-G]$")
POSSESSIVE = re.compile(r"['\u2019]s(?!\w)")
COURSE = re.compile(
    r"(?:x|\u00d7(?=.{1,5}(?:d|days?|wks?|weeks?)\b))\s?(\d{1,3})\s?(d|days?|w|wks?|weeks?|h|hrs?|hours?|mo|months?|yrs?|years?|mins?|minutes?)(?![\w-])"
)
SCREW = re.compile(r"(?<!\w)M\d{1,2}(?:\.\d)? $")  # M8 x 1.25
KEY = re.compile(r"(?<!\w)(?:VOL|Vol|CH|TEMP)$")
CHOSEN = (" ? ", " : ")
INDEX = re.compile(r"-\d{1,2}(?=\s?[\])}+*/,=<>]|\s|[.;:!?]|$)")
VARIABLE = re.compile(r"(?:^|[\s\[({=+*,])(?:[ijmntxy]|(?<=[\[(])[a-z])$")
COURSE_OF = {"d": "day", "w": "week", "h": "hour", "m": "minute", "y": "year"}
SHOUTED = 3  # letters that a word in capitals must have to be taken for shouting
LINE = 44  # characters: a shorter line was not wrapped by an editor


@dataclass(frozen=True)
class NormaliserConfig:
    """Choices. `unsupported`: scripts without a transliteration are named ("name"), left out with a warning ("skip"), or
    raise SpeechStreamError ("error"). `emoji`: "name" or "skip"."""

    unsupported: str = "name"
    emoji: str = "name"

    def __post_init__(self):
        if self.unsupported not in ("name", "skip", "error") or self.emoji not in ("name", "skip"):
            raise ValueError(
                f'unsupported is "name", "skip" or "error" and emoji "name" or "skip", given {self}'
            )


class Normaliser:
    """Text to words. `known(word)` tells whether a dictionary has a spelling; it settles acronyms and camel case.
    `lettered(word)` tells whether the dictionary says a word by its letters. `options` are the user's choices."""

    def __init__(
        self,
        config: NormaliserConfig | None = None,
        known: Callable[[str], bool] | None = None,
        lettered: Callable[[str], bool] | None = None,
        options: ReadingOptions | None = None,
    ):
        self.config = config or NormaliserConfig()
        self.options = options or ReadingOptions()
        self.known = known or (lambda word: False)
        self.lettered = lettered or (lambda word: False)

    def __call__(self, text: str, warnings: list[str] | None = None) -> list[Word]:
        """The words of `text`, in order. What cannot be spoken is described in `warnings`, one sentence each.

        Raises SpeechStreamError for an unsupported script if the configuration says so.
        """
        clean, places = clean_up(text)
        words = _Reading(clean, self, warnings if warnings is not None else []).run()

        def end_of(w: Word) -> int:
            if w.end <= w.start:
                return places[w.start]
            end = places[w.end - 1] + 1
            while end < places[w.end] and unicodedata.combining(text[end]):
                end += 1  # an accent that was joined to the letter before it
            return end

        return [Word(w.text, places[w.start], end_of(w), w.kind) for w in tidy(words)]


class _Reading(Identifiers, Ranges, Spelling, Formulas, Romans, Scripts, Symbols):
    """One pass over one clean text."""

    def __init__(self, text: str, normaliser: Normaliser, warnings: list[str]):
        self.text, self.warnings = text, warnings
        self.config, self.options = normaliser.config, normaliser.options
        self.known, self.lettered = normaliser.known, normaliser.lettered
        self.out: list[Word] = []
        self.mailed = "@" in text
        self.linked = LINKED.search(text) is not None
        self.coded = expressions.LIKELY.search(text) is not None
        self.mathematical = maths.LIKELY.search(text) is not None
        self.prescribed = prescriptions.likely(text)
        self.bar = -1  # where the absolute value ends that is being read
        self.number_end = -9  # where the last number ended: a dash behind it may be a range
        words = re.findall(r"[A-Za-z]{2,}", text)
        self.shouting = (
            len(words) > 1
            and all(w.isupper() for w in words)
            and any(len(w) >= SHOUTED and self._ordinary(w) for w in words)
        )

    def _ordinary(self, word: str) -> bool:
        """Whether a word in capitals is one that is also written small."""
        lower = word.lower()
        if word in t.SPELLED and lower not in q.ORDINARY:
            return False
        if len(word) <= 3:
            return lower in q.SHORT_WORDS or len(lower) == 3 and lower in q.GIVEN_NAMES
        return self.known(lower) and word not in t.SAID and not self.lettered(lower)

    def run(self) -> list[Word]:
        at, text = 0, self.text
        while at < len(text):
            c = text[at]
            if c == ATOM:
                self.out.append(Word(c, at, at + 1, "atom"))
            elif c == "\n" and self._line_ends(at):
                self.out.append(Word(",", at, at + 1, "punct"))
            at = at + 1 if c.isspace() or c == ATOM else self._one(at, c)
        return self.out

    def _line_ends(self, at: int) -> bool:
        """Whether a line's end is a pause: lists and titles have short lines, running text is wrapped at long ones."""
        text = self.text
        line = text[text.rfind("\n", 0, at) + 1 : at].rstrip()
        rest = text[at + 1 :].lstrip()
        if not rest or len(line) > LINE or not line:
            return False
        last = line.split()[-1].lower()
        following = rest.split("\n", 1)[0]
        return last not in q.DANGLING and (len(following) <= LINE or not rest[0].islower())

    def _one(self, at: int, c: str) -> int:
        """Read what stands at `at`; returns where it ends."""
        text = self.text
        joined = at > 0 and text[at - 1].isalnum()
        if face := smileys.match(text, at):
            self._say(face[0], at, face[1])
            return face[1]
        if self.coded and (signs := expressions.match(text, at)):
            for said, start, end in signs:
                self._say(said, start, end)
            return signs[-1][2]
        if c in "IVX" and not joined and (end := self._roman_list(at)):
            return end
        if c in "ABCDEFGIViv" and not joined and (chords := music.match(text, at)):
            self._say(chords[0], at, chords[1])
            return chords[1]
        if self.mathematical and (found := maths.read(text, at)):
            for words, start, stop in found:
                self._say(words[self._before() == words[0] == "the" :], start, stop)
            return found[-1][2]
        if c.isalnum() and (end := self._named(at, joined)):
            return end
        if c == "#" and NUMBER_OF_A_SERIES.match(text, at):
            self._say("number", at, at + 1)
            return at + 1
        if c == "#" and NUMBERED.match(text, at) and not HEX_COLOUR.match(text, at):
            self._say("number", at, at + 1)
            return at + 1
        if c == "#" and not joined and NUMBERS.match(text, at):
            self._say("numbers", at, at + 2)
            return at + 2
        if c == "#" and joined and text[at + 1 : at + 2].isalpha() and text[at - 1].isalpha():
            self._say("hash", at, at + 1)
            return at + 1
        if c == "@" and joined and text[at + 1 : at + 2].isdigit():
            self._say("at", at, at + 1)
            return at + 1
        if c in "#@" and (m := TAGGED.match(text, at)) and not (m[1] or m[2]).isdigit():
            return self._tag(m, at)
        if c in "*#" and KEYED.match(text, at):
            return self._symbol(at, c)
        if c in "#\u2116" and text[at + 1 : at + 2].isdigit():
            sharp = NOTE.search(text, max(0, at - 2), at)
            self._say("sharp" if sharp else "number", at, at + 1)
            return at + 1
        if c in "!=<>&|+-*:/" and (m := OPERATOR.match(text, at)) and (end := self._operator(m)):
            return end
        if c in DASHES and (end := self._range(at)):
            return end
        if (
            c == "\u2013"
            and text[at - 1 : at] in ("", " ", "(")
            and text[at + 1 : at + 2].isdigit()
        ):
            if self.number_end != at - 1:
                self._say("minus", at, at + 1)
                return at + 1
        chosen = c in "-\u2212" and text[max(0, at - 3) : at] in CHOSEN and " ? " in text
        if (
            c in "-\u2212"
            and MINUS_TERM.match(text, at)
            and (chosen or MINUS_AFTER.search(text, 0, at))
        ):
            self._say("minus", at, at + 1)
            return at + 1
        if (
            c == "-"
            and joined
            and INDEX.match(text, at)
            and VARIABLE.search(text, max(0, at - 2), at)
        ):
            self._say("minus", at, at + 1)
            return at + 1
        if (
            c == "-"
            and not chosen
            and (m := OPTION.match(text, at))
            and not text[at - 1 : at].strip(" \t\n`\"'(")
        ):
            self._say(["dash"] * len(m[0]), at, m.end())
            flags = FLAGS.match(text, m.end()) if len(m[0]) == 1 else None
            if flags:
                self._say(list(flags[0].upper()), *flags.span())
                return flags.end()
            return m.end()
        zoned = text[max(0, at - 3) : at] in ("UTC", "GMT")
        joined_sign = (
            joined or c == "-" and text[at - 1 : at] in INCHES and at > 1 and text[at - 2].isdigit()
        )
        signed = joined_sign and not zoned and c in "-+'\u2019\u2212\u00b1."
        if (DIGITISH.match(text, at) and not signed) or (c in INITIALS and MONTH.match(text, at)):
            end = self._number(at)
            if end > at:
                return end
        if "\u2070" <= c <= "\u207b" or c in "\u00b2\u00b3\u00b9":
            if charge := CHARGED.match(text, at):
                digits = charge[1].translate(t.SUPERSCRIPTS)
                sign = "plus" if charge[2] == "\u207a" else "minus"
                self._say([*(numbers.cardinal(digits) if digits else []), sign], at, charge.end())
                return charge.end()
            m = RAISED.match(text, at)
            if m and not joined and (isotope := chemistry.isotope(text, m.end())):
                number = numbers.cardinal(m[0].translate(t.SUPERSCRIPTS))
                self._say([isotope[0], *number], at, isotope[1])
                return isotope[1]
            if m and not joined and text[m.end() : m.end() + 1].isupper():
                self._say(numbers.cardinal(m[0].translate(t.SUPERSCRIPTS)), at, m.end())
            elif m and m[0] != "\u207b":
                self._say(numerals.exponent(m[0].translate(t.SUPERSCRIPTS)[:6]), at, m.end())
            return m.end() if m else at + 1
        if c in "x\u00d7" and not joined and (m := COURSE.match(text, at)):
            self._say(
                ["for", *numbers.cardinal(m[1]), COURSE_OF[m[2][0]] + "s" * (m[1] != "1")],
                at,
                m.end(),
            )
            return m.end()
        if c == "x" and text[at + 1 : at + 2] == " " and SCREW.search(text, max(0, at - 7), at):
            self._say("by", at, at + 1)
            return at + 1
        if (
            c in "-\u2013"
            and KEY.search(text, max(0, at - 5), at)
            and not text[at + 1 : at + 2].isalnum()
        ):
            self._say("minus", at, at + 1)
            return at + 1
        if c == "x" and (
            self._between_measures(at) or SIZES.match(text, at) and self.number_end == at - 1
        ):
            self._say("by", at, at + 1)
            return at + 1
        if c.isalnum() and (end := self._formula(at)):
            return end
        if m := MIXED.match(text, at):
            return self._mixed(at, m.end())
        if c.isalpha() or (c in "'\u2019" and text[at + 1 : at + 2].isalpha() and not joined):
            return self._letters(at)
        if c.isdecimal():
            return self._digit(at)
        return self._symbol(at, c)

    def _owned(self, end: int) -> int:
        """Past the 's behind a word that ends at `end`, which it is joined to: the G7's, 2023's, @bbc's."""
        last = self.out[-1]
        if not POSSESSIVE.match(self.text, end) or last.kind == "punct":
            return end
        self.out[-1] = Word(last.text + "'s", last.start, end + 2, last.kind)
        return end + 2

    def _say(self, words: str | list[str], start: int, end: int) -> None:
        """Add words; one in capitals is to be spelled, a mark is a pause."""
        for w in words.split() if isinstance(words, str) else words:
            if w in DATE_NAMES and not self.text[start : start + 1].islower():
                w = w.capitalize()
            kind = (
                "punct"
                if w in PUNCTUATION
                else "letters"
                if w.isupper() and w.isalpha() and w.isascii()
                else "word"
            )
            self.out.append(Word(w, start, end, kind))

    def _before(self) -> str:
        return self.out[-1].text.lower() if self.out else ""

    def _context(self) -> numerals.Context:
        return numerals.Context(tuple(w.text.lower() for w in self.out[-8:]), self.options)

    def _number(self, at: int) -> int:
        model = self._model(at)
        found = model or numerals.read(self.text, at, self._context())
        if not found:
            return at
        pieces, end = found
        self.number_end = -1 if model else end
        for words, start, stop in pieces:
            self._say(words, start, stop)
        if (owned := self._owned(end)) > end:
            return owned
        if self.text[end - 1] == "." and not self.text[end:].strip("\"')\u201d\u2019 \n"):
            self.out.append(Word(".", end - 1, end, "punct"))  # "at 5 p.m." at the end
        return end
