"""Written text to spoken words, each with its place in the source.

    [(w.text, w.start, w.end) for w in Normaliser()("Dr. Smith paid $3.50.")]
    # doctor 0-3, Smith 4-9, paid 10-14, three 15-20, dollars 15-20, and 15-20, fifty 15-20, cents 15-20, "." 20-21

Words are read in `spelling.py`, formulas in `formulas.py`, Roman numerals in `romans.py`, other scripts in `scripts.py`,
symbols in `symbols.py`, numbers in `numerals.py`. Names of abbreviations, units and symbols are in `tables.py`, the words
that tell what a number is in `cues.py`. American English.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from speechstream.text.en import chess, cues as q, numbers, numerals, tables as t, units
from speechstream.text.en.chemistry import Formulas
from speechstream.text.en.romans import Romans
from speechstream.text.en.scripts import Scripts
from speechstream.text.en.spelling import Spelling
from speechstream.text.en.symbols import Symbols
from speechstream.text.en.word import ATOM, PUNCTUATION, Word, clean_up, tidy
from speechstream.text.rules import ReadingOptions

__all__ = ["ATOM", "PUNCTUATION", "Normaliser", "NormaliserConfig", "Word", "tidy"]

URL = re.compile(
    r"(?:https?|ftp)://[^\s<>\"]+|www\.[^\s<>\"]+|(?:[A-Za-z0-9-]+\.)+(?:"
    + "|".join(t.TLDS)
    + r")(?:[:/?#][^\s<>\"]*)?(?![\w-]|\.\w)|localhost:\d+(?:/[^\s<>\"]*)?",
    re.I,
)
FILE = re.compile(
    r"[A-Za-z0-9_][\w-]*(?:\.[\w-]+)*\.(?:"
    + "|".join(sorted(q.EXTENSIONS, key=len, reverse=True))
    + r")(?![\w-]|\.\w)"
)
LINKED = re.compile(r"\.[\w-]|://|localhost:", re.I)  # what every address and file name has
EMAIL = re.compile(r"[\w.+%'-]*[\w.+%-]@[\w-]+(?:\.[\w-]+)*\.[^\W\d_][\w-]*")
MIXED = re.compile(r"(?=[^\W_]*\d)(?=[^\W_]*[A-Za-z])[A-Za-z0-9]+")
CURRENCY = "|".join(sorted(map(re.escape, units.CURRENCIES), key=len, reverse=True))
DIGITISH = re.compile(
    rf"[-+\u2212\u00b1]?(?:{CURRENCY})\s?[-\u2212(]?\.?\d|[-+\u2212\u00b1]?\.?\d|\(0?\d{{3,4}}\)|['\u2019]\d|["
    + "".join(t.VULGAR)
    + r"]|[-+\u2212\u00b1]["
    + "".join(t.VULGAR)
    + r"]|[vV]\d+(?:\.\d|\b)|AD\s\d|A\.D\.\s\d"
)
INITIALS = frozenset("jfmasondJFMASOND")
MONTH = re.compile(numerals.MONTH, re.I)
DECIMAL_NAME = re.compile(r"([A-Za-z]+)(\d+(?:\.\d+)+)(?![^\W_])")
OPERATOR = re.compile("|".join(sorted(map(re.escape, t.OPERATORS), key=len, reverse=True)))
SPACED_CODE = re.compile(r"[A-Z]{2}\d\d(?: [A-Z0-9]{4})+(?: [A-Z0-9]{1,4})?(?![^\W_])")
HEX = re.compile(r"(?=(?:[a-f]*\d){2})(?=(?:\d*[a-f]){2})[0-9a-f]{7,}(?![^\W_])")
NEXT_IN_RANGE = re.compile(r"[$\u00a3\u20ac\u00a5]?\.?\d")
TAGGED = re.compile(r"[#@](\w+)")
NUMBER_OF_A_SERIES = re.compile(r"#[A-Z]{1,6}-?\d*-\d")
RAISED = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
HEX_COLOUR = re.compile(r"#(?=[a-f]*\d|[A-F]*\d)(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})(?![^\W_])")
DASHES = frozenset("-\u2010\u2011\u2012\u2013\u2014")
INCHES = ('"', "\u2033")
INCHES_AFTER = re.compile(r"[\d./ '\u2019\u2032]+[\"\u2033\u201d]")
CLOCK = re.compile(r"\d{1,2}(?::\d\d)?(?:\s?[ap]\.?m\b|\b)", re.I)
RANGE_WORD = re.compile(r"[A-Za-z]+")
DAYS = {name: name for name in t.WEEKDAYS}
NAME_BEFORE = re.compile(r"[A-Z]-$|\b[A-Z][a-z]-$")
CAPITAL_BEFORE = re.compile(r"\b[A-Z][a-z]+-$")
THREE = re.compile(r"\d{3}(?![^\W_]|[.,:-]\d)")
SIZES = re.compile(r"x \d")
FLAT_CHORD = re.compile(r"Bb(\d{1,2})(?![\w+#])")
DATE_NAMES = frozenset(t.MONTHS) | frozenset(t.WEEKDAYS)
TERM = re.compile("[2-9][a-z]{2,3}")  # 2ab
CHAINED = re.compile(r"\d{1,4}(?=-\d)(?!-\d+(?:-|\s[a-z]|,))")
HARDWARE = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?![\w:])")
OPTION = re.compile(
    r"(--)(?=[a-z][\w-]*(?:\s|$|[.,=;:)\"\'`]))|(-)(?=[A-Za-z]{1,3}\d{0,2}(?:\s|$|[.,;:)\"\'`]))"
)
MINUS_TERM = re.compile(r".[a-z\u0370-\u03ff](?![^\W\d_])")
MINUS_AFTER = re.compile(r"(?:[=+*\u00d7]\s?|[=+*\u00d7][^a-z]*[(\[])$")
NAMED_DECIMAL = re.compile(r"\d+\.\d+(?=-\d+(?:\.\d+)?[bBmMkK](?![^\W_]))")
NEEDS = frozenset("needs need requires require required needed with using for supports".split())
NOTE = re.compile(r"(?<![A-Za-z])[A-G]$")
POSSESSIVE = re.compile(r"['\u2019]s(?!\w)")
ISOTOPE_BEFORE = re.compile(r"(?<![A-Za-z])[A-Z][a-z]?-$")
ISOMER = re.compile(r"(\d{2,3})m(?![^\W_])")  # Tc-99m
PROMOTED = re.compile(r"([A-Z]{3,})(\d+)")  # FALL20
CODE_CHAIN = re.compile(r"[A-Za-z0-9]+(?:-[A-Z0-9]{2,})*(?!\w)|[A-Za-z0-9]+")
LABELS = re.compile(r"([A-Z]{1,3})(\d{1,3})([-\u2010-\u2013])([A-Z]{1,3})(\d{1,3})(?![\w-])")
OBJECT = re.compile(r"(?<!\w)10\.\d{4,9}/[^\s<>\"]+")  # the number of a digital object
COURSE = re.compile(
    r"x\s?(\d{1,3})\s?(d|days?|w|wks?|weeks?|h|hrs?|hours?|mo|months?|yrs?|years?|mins?|minutes?)(?![\w-])"
)
SCREW = re.compile(r"(?<!\w)M\d{1,2}(?:\.\d)? $")  # M8 x 1.25
KEY = re.compile(r"(?<!\w)(?:VOL|Vol|CH|TEMP)$")
TRACKING = re.compile(r"(?=(?:\D*\d){6})[A-Z0-9]{12,}")
INDEX = re.compile(r"-\d{1,2}(?=\s?[\])}+*/,=<>]|\s|[.;:!?]|$)")
VARIABLE = re.compile(r"(?:^|[\s\[({=+*,])(?:[ijmntxy]|(?<=[\[(])[a-z])$")
CELLS = re.compile(r"([A-Z]{1,2}\d{1,4}):([A-Z]{1,2}\d{1,4})(?!\w)")
FISCAL = re.compile(r"FY\s?((?:19|20)\d\d)[/\u2013-](\d\d)(?!\w)")
CODE_POINT = re.compile(r"U\+[0-9A-F]{4,6}(?!\w)")
SEVERAL = re.compile(r"(\d{2,4})s(?![^\W_])")  # F-150s
LONG = re.compile(r"\d{5,12}(?![^\W_]|[.,:-]\d)")  # A-10293
MODEL = re.compile(r"\d{3,4}(?![^\W_]|[.,:-]\d)")
NOT_NAMES = frozenset(
    "v no pp vol ch fig sec eq pt art to at us nz ca au hk mx rs usd eur gbp jpy aud cad".split()
)
DAY_LETTERS = {"M": "monday", "W": "wednesday", "F": "friday"}
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


class _Reading(Spelling, Formulas, Romans, Scripts, Symbols):
    """One pass over one clean text."""

    def __init__(self, text: str, normaliser: Normaliser, warnings: list[str]):
        self.text, self.warnings = text, warnings
        self.config, self.options = normaliser.config, normaliser.options
        self.known, self.lettered = normaliser.known, normaliser.lettered
        self.out: list[Word] = []
        self.mailed = "@" in text
        self.linked = LINKED.search(text) is not None
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
        if c.isalnum() and (end := self._named(at, joined)):
            return end
        if c == "#" and NUMBER_OF_A_SERIES.match(text, at):
            self._say("number", at, at + 1)
            return at + 1
        if c in "#@" and (m := TAGGED.match(text, at)) and not m[1].isdigit():
            return self._tag(m, at)
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
        if c in "-\u2212" and MINUS_TERM.match(text, at) and MINUS_AFTER.search(text, 0, at):
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
        if c == "-" and (m := OPTION.match(text, at)) and not text[at - 1 : at].strip():
            self._say(["dash"] * len(m[0]), at, m.end())
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
            m = RAISED.match(text, at)
            if m and not joined and text[m.end() : m.end() + 1].isupper():
                self._say(numbers.cardinal(m[0].translate(t.SUPERSCRIPTS)), at, m.end())
            elif m and m[0] != "\u207b":
                self._say(numerals.exponent(m[0].translate(t.SUPERSCRIPTS)[:6]), at, m.end())
            return m.end() if m else at + 1
        if c == "x" and not joined and (m := COURSE.match(text, at)):
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

    def _named(self, at: int, joined: bool) -> int:
        """Addresses, file names and codes that begin with a letter or digit; 0 if there is none here."""
        text = self.text
        if self.mailed and (m := EMAIL.match(text, at)):
            return self._address(m[0].rstrip("."), at)
        if self.linked and (m := URL.match(text, at)):
            return self._address(m[0].rstrip(".,;:!?)'\u2019\u2026"), at)
        if joined:
            return 0
        if text[at] in "24" and (done := self._shorthand(at)):
            return done
        if self.linked and (m := FILE.match(text, at)):
            return self._address(m[0], at)
        if (
            text.startswith("Bb", at)
            and (m := FLAT_CHORD.match(text, at))
            and not chess.CUES.search(text)
        ):
            self._say(["B", "flat", *numbers.cardinal(m[1])], at, m.end())
            return m.end()
        if text[at] in "KQRBNOabcdefgh" and (m := chess.MOVE.match(text, at)) and chess.likely(m):
            self._say(chess.words(m), at, m.end())
            return m.end()
        if m := HARDWARE.match(text, at):
            return self._characters(at, m.end())
        if m := SPACED_CODE.match(text, at):
            return self._characters(at, m.end())
        if text[at] == "U" and (m := CODE_POINT.match(text, at)):
            self._say("U plus", at, at + 2)
            return self._characters(at + 2, m.end())
        capital = "A" <= text[at] <= "Z"
        if capital and (m := CELLS.match(text, at)):
            self._compound(at, m.end(1))
            self._say("to", m.end(1), m.end(1) + 1)
            return self._compound(m.start(2), m.end())
        if capital and (m := LABELS.match(text, at)):
            if (m[1] == m[4] and int(m[2]) < int(m[5])) or m[3] == "\u2013" and m[1] < m[4]:
                self._compound(at, m.end(2))
                self._say("to", m.start(3), m.end(3))
                return self._compound(m.start(4), m.end())
        if text[at] == "F" and (m := FISCAL.match(text, at)):
            self._say(["F", "Y", *numbers.year(int(m[1])), *numbers.grouped(m[2])], at, m.end())
            return m.end()
        if text[at] == "1" and (m := OBJECT.match(text, at)):
            return self._address(m[0].rstrip(".,;:!?)]'\u2019\u2026"), at)
        if m := HEX.match(text, at):
            return self._characters(at, m.end())
        if m := DECIMAL_NAME.match(text, at):
            return self._decimal_name(m)
        return 0

    def _tag(self, m: re.Match, at: int) -> int:
        """#MachineLearning, @someone, #ff0000."""
        colour = self.text[at] == "#" and HEX_COLOUR.match(self.text, at)
        self._say("hash" if colour else "hashtag" if self.text[at] == "#" else "at", at, at + 1)
        if colour:
            return self._characters(at + 1, m.end())
        return self._owned(self._compound(at + 1, m.end()))

    def _owned(self, end: int) -> int:
        """Past the 's behind a word that ends at `end`, which it is joined to: the G7's, 2023's, @bbc's."""
        last = self.out[-1]
        if not POSSESSIVE.match(self.text, end) or last.kind == "punct":
            return end
        self.out[-1] = Word(last.text + "'s", last.start, end + 2, last.kind)
        return end + 2

    def _operator(self, m: re.Match) -> int:
        """!=, >=, -> and the like; 0 where they are dashes, arrows of a quotation or marks."""
        text, sign = self.text, m[0]
        after = text[m.end() : m.end() + 1]
        before = text[m.start() - 1 : m.start()]
        if sign == "++" and not before.isalnum() or sign == "**" and not before.isalnum():
            return 0
        if sign == "**" and not after.isalnum() or sign == "<>" and not after.strip():
            return 0
        if sign in ("/=", "*=", ">>", "<<") and not (before.isspace() and after.isspace()):
            return 0
        if sign in (">>", "->", "=>", "-->") and not self.out:
            return 0
        said = t.OPERATORS[sign]
        if said.startswith("is ") and self._bounds(m):
            said = said[3:]
        self._say(said, m.start(), m.end())
        return m.end()

    def _bounds(self, m: re.Match) -> bool:
        """Whether a comparison is part of a name or a need rather than a statement: Python >=3.9, needs driver >= 530."""
        text = self.text
        if NEEDS & {w.text.lower() for w in self.out[-4:]}:
            return True
        name = self.out[-1] if self.out else None
        glued = text[m.end() : m.end() + 1].isdigit() and text[m.start() - 1 : m.start()] in " ,("
        return glued and (name is None or name.kind == "punct" or len(name.text) > 1)

    def _range(self, at: int) -> int:
        """A dash between two numbers, days, months or letters is said; 0 if this one is not."""
        text = self.text
        start, end = at, at + 1
        spaced = text[at - 1 : at] == " "
        if text[at - 1 : at] in INCHES and not INCHES_AFTER.match(text, end):
            return 0  # 3/8"-16
        if spaced != (text[end : end + 1] == " ") or not self.out:
            return 0
        previous = self.out[-1]
        if spaced:
            start, end = at - 1, at + 2
        numbered = self.number_end == start
        number = numbered and not spaced and NEXT_IN_RANGE.match(text, end)
        clock = numbered and text[start - 1] in "mM." and CLOCK.match(text, end)
        m = RANGE_WORD.match(text, end)
        word, said = (m[0] if m else ""), previous.text
        month = numbered and word and MONTH.match(text, end)
        weekday = numbered and spaced and word.lower() in q.WEEKDAYS_SHORT | DAYS
        days = said.lower() in t.WEEKDAYS and word.lower() in q.WEEKDAYS_SHORT | DAYS
        times = said.lower() in q.NAMED_TIMES and NEXT_IN_RANGE.match(text, end)
        now = (numbered or said.lower() in q.NAMED_TIMES) and word.lower() in q.NAMED_TIMES
        letters = (
            len(said) == len(word) == 1 and (said + word).isupper() and text[start - 1] == said
        )
        ports = (
            len(said) == len(word) == 3
            and said.isupper()
            and word.isupper()
            and text[at] == "\u2013"
        )
        if (
            len(said) == 1
            and said in DAY_LETTERS
            and word.lower() in q.WEEKDAYS_SHORT | DAYS
            and at
        ):
            self.out[-1] = Word(DAY_LETTERS[said], previous.start, previous.end)
            letters, days = False, True
        if letters and text[at] != "\u2013" and said + word not in ("AZ", "MF"):
            letters = False
        if not (number or clock or month or weekday or days or times or letters or now or ports):
            return 0
        self._say("to", at, at + 1)
        return end

    def _mixed(self, at: int, end: int) -> int:
        """Letters with digits: each by itself where they are a code, else in parts."""
        if done := self._shorthand(at):
            return done
        if said := q.TRIPLED.get(self.text[at:end]):
            self._say(said, at, end)
            return end
        code = {w for w in self._context().words[-3:] if w not in ("is", "number", ":")}
        if (
            code & q.CODED
            and end - at > 2
            and self.text[at - 1 : at] != "_"
            and not code & {"flight", "version"}
        ):
            if (m := PROMOTED.match(self.text, at)) and m.end() == end and self.known(m[1].lower()):
                self.out.append(Word(m[1].lower(), at, m.end(1)))
                return self._characters(m.end(1), end)
            return self._characters(at, CODE_CHAIN.match(self.text, at).end())
        if end - at > 11 and TRACKING.fullmatch(self.text, at, end):
            return self._characters(at, end)
        if TERM.fullmatch(self.text, at, end) and "=" in self.text:
            for i in range(at, end):
                self._say(
                    self.text[i].upper()
                    if self.text[i].isalpha()
                    else numbers.cardinal(self.text[i]),
                    i,
                    i + 1,
                )
            return end
        return self._owned(self._compound(at, end))

    def _characters(self, at: int, end: int) -> int:
        """Each letter and digit by itself."""
        for i in range(at, end):
            c = self.text[i]
            if c.isalpha():
                self._say(c.upper(), i, i + 1)
            elif c.isdigit():
                self._say(numbers.digits(c), i, i + 1)
        return end

    def _decimal_name(self, m: re.Match) -> int:
        """Qwen2.5, PM2.5: a name and a number with a point. 0 where other rules know more."""
        name = m[1]
        if name.lower() in NOT_NAMES or name.isupper() and len(name) == 1 and name in "A":
            return 0
        self._compound(m.start(), m.end(1))
        words = [w for part in m[2].split(".") for w in [*numbers.grouped(part), "point"]][:-1]
        if m[2].count(".") == 1:
            words = numbers.decimal(m[2])
        self._say(words, m.start(2), m.end())
        self.number_end = m.end()
        return m.end()

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

    def _model(self, at: int) -> tuple[list[numerals.Piece], int] | None:
        """The number of a name such as U-235 or SHA-256, in twos."""
        text = self.text
        if at < 2 or text[at - 1] != "-" or not text[at - 2].isalpha():
            return None
        if m := NAMED_DECIMAL.match(text, at):
            return [(numbers.decimal(m[0]), at, m.end())], m.end()
        if NAME_BEFORE.search(text, max(at - 3, 0), at) and (several := SEVERAL.match(text, at)):
            words = numbers.grouped(several[1])
            plural = [*words[:-1], numbers.plural(words[-1])]
            return [(plural, at, several.end())], several.end()
        m = CHAINED.match(text, at)
        if not m and NAME_BEFORE.search(text, max(at - 3, 0), at):
            m = MODEL.match(text, at) or LONG.match(text, at)
        if not m and CAPITAL_BEFORE.search(text, max(at - 14, 0), at):
            m = THREE.match(text, at)
        if (
            not m
            and ISOTOPE_BEFORE.search(text, max(at - 4, 0), at)
            and (excited := ISOMER.match(text, at))
        ):
            words = [*numbers.grouped(excited[1]), "M"]
            return [(words, at, excited.end())], excited.end()
        return ([(numbers.grouped(m[0]), at, m.end())], m.end()) if m else None

    def _digit(self, at: int) -> int:
        """Digits no rule took: of another script, or glued to letters."""
        m = re.compile(r"\d+").match(self.text, at)
        self._say(numbers.grouped("".join(str(unicodedata.digit(d)) for d in m[0])), at, m.end())
        return m.end()
