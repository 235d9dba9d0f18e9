"""Names that are not words: addresses, file names, codes, models' numbers, hashtags."""

from __future__ import annotations

import re
import unicodedata

from speechstream.text.en import chess, cues as q, numbers, numerals, tables as t
from speechstream.text.en.word import Word

URL = re.compile(
    r"[a-z][a-z0-9+]{1,12}://[^\s<>\"]+|www\.[^\s<>\"]+|(?:[A-Za-z0-9-]+\.)+(?:"
    + "|".join(t.TLDS)
    + r")(?:[:/?#][^\s<>\"]*)?(?![\w-]|\.\w)|localhost:\d+(?:/[^\s<>\"]*)?",
    re.I,
)
FILE = re.compile(
    r"[A-Za-z0-9_][\w-]*(?:\.[\w-]+)*\.(?:"
    + "|".join(sorted(q.EXTENSIONS, key=len, reverse=True))
    + "|"
    + "|".join(x.upper() for x in sorted(q.EXTENSIONS, key=len, reverse=True))
    + r")(?![\w-]|\.\w)"
)
EMAIL = re.compile(r"[\w.+%'-]*[\w.+%-]@[\w-]+(?:\.[\w-]+)*\.[^\W\d_][\w-]*")
DECIMAL_NAME = re.compile(r"([A-Za-z]+)(\d+(?:\.\d+)+)(?![^\W_])")
SPACED_CODE = re.compile(r"[A-Z]{2}\d\d(?: [A-Z0-9]{4})+(?: [A-Z0-9]{1,4})?(?![^\W_])")
ANALOGY = re.compile(r"([A-Za-z]+):([A-Za-z]+)::([A-Za-z]+):([A-Za-z]+)(?![\w:])")
EPISODE = re.compile(r"[Ss](\d{1,2})\s?[Ee](\d{1,3})(?!\w)")
BASES = re.compile(r"[ACGTU]{4,}(?!\w)")
NUMERONYM = re.compile(r"([KkialLo])(8|1[0-9])([sny])(?!\w)")
CHROMOSOME = re.compile(r"chr(?=[\dXY]{1,2}(?!\w))")
SOLAR = {"M": "masses", "L": "luminosities", "R": "radii"}
HEX = re.compile(r"(?=(?:[a-f]*\d){2})(?=(?:\d*[a-f]){2})[0-9a-f]{7,}(?![^\W_])")
HEX_COLOUR = re.compile(r"#(?=[a-f]*\d|[A-F]*\d)(?:[0-9a-fA-F]{6}|[0-9a-fA-F]{3})(?![^\W_])")
NAME_BEFORE = re.compile(r"[A-Z]-$|\b[A-Z][a-z]-$")
CAPITAL_BEFORE = re.compile(r"\b[A-Z][a-z]+-$")
THREE = re.compile(r"\d{3}(?![^\W_]|[.,:-]\d)")
FLAT_CHORD = re.compile(r"Bb(\d{1,2})(?![\w+#])")
TERM = re.compile("[2-9][a-z]{2,3}")  # 2ab
CHAINED = re.compile(r"\d{1,4}(?=-\d)(?!-\d+(?:-|\s[a-z]|,))")
HARDWARE = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?![\w:])")
NAMED_DECIMAL = re.compile(r"\d+\.\d+(?=-\d+(?:\.\d+)?[bBmMkK](?![^\W_]))")
ISOTOPE_BEFORE = re.compile(r"(?<![A-Za-z])[A-Z][a-z]?-$")
ISOMER = re.compile(r"(\d{2,3})m(?![^\W_])")  # Tc-99m
PROMOTED = re.compile(r"([A-Z]{3,})(\d+)")  # FALL20
CODE_CHAIN = re.compile(r"[A-Za-z0-9]+(?:-[A-Z0-9]{2,})*(?!\w)|[A-Za-z0-9]+")
LABELS = re.compile(r"([A-Z]{1,3})(\d{1,3})([-\u2010-\u2013])([A-Z]{1,3})(\d{1,3})(?![\w-])")
OBJECT = re.compile(r"(?<!\w)10\.\d{4,9}/[^\s<>\"]+")  # the number of a digital object
TRACKING = re.compile(r"(?=(?:\D*\d){6})[A-Z0-9]{12,}")
CELLS = re.compile(r"([A-Z]{1,2}\d{1,4}):([A-Z]{1,2}\d{1,4})(?!\w)")
FISCAL = re.compile(r"FY\s?((?:19|20)\d\d)[/\u2013-](\d\d)(?!\w)")
CODE_POINT = re.compile(r"U\+[0-9A-F]{4,6}(?!\w)")
SEVERAL = re.compile(r"(\d{2,4})s(?![^\W_])")  # F-150s
LONG = re.compile(r"\d{5,12}(?![^\W_]|[.,:-]\d)")  # A-10293
MODEL = re.compile(r"\d{3,4}(?![^\W_]|[.,:-]\d)")
RELEASED = frozenset(
    "py cp python cu cuda jdk java node gcc clang ubuntu".split()
)  # 3.11 is three eleven
NOT_NAMES = frozenset(
    "v no pp vol ch fig sec eq pt art to at us nz ca au hk mx rs usd eur gbp jpy aud cad".split()
)


def _bases(m: re.Match) -> bool:
    """Whether capitals are bases of a strand: long, or with its ends marked."""
    ends = m.string[max(0, m.start() - 3) : m.start()] + m.string[m.end() : m.end() + 3]
    return len(m[0]) > 7 or any(c in ends for c in "\u2032'\u2019")


class Identifiers:
    """The part of a reading (`speechstream.text.en.normalise`) that reads identifiers."""

    def _named(self, at: int, joined: bool) -> int:
        """Addresses, file names and codes that begin with a letter or digit; 0 if there is none here."""
        text = self.text
        if self.mailed and (m := EMAIL.match(text, at)):
            return self._address(m[0].rstrip("."), at)
        if self.linked and (m := URL.match(text, at)):
            return self._address(m[0].rstrip(".,;:!?)'\u2019\u2026"), at)
        if joined:
            return 0
        if text[at] in "Ss" and (m := EPISODE.match(text, at)):
            self._say(
                ["season", *numbers.cardinal(m[1]), "episode", *numbers.cardinal(m[2])], at, m.end()
            )
            return m.end()
        if text[at] in "ACGTU" and (m := BASES.match(text, at)) and _bases(m):
            return self._characters(at, m.end())
        if text[at] in "MLR" and text[at + 1 : at + 2] in ("\u2609", "\u2299"):
            self._say(["solar", SOLAR[text[at]]], at, at + 2)
            return at + 2
        if text[at] in "KkiaLlo" and (m := NUMERONYM.match(text, at)):
            return self._counted(m)
        if text[at] == "c" and (m := CHROMOSOME.match(text, at)):
            self._say("chromosome", at, m.end())
            return m.end()
        if self.linked and (m := ANALOGY.match(text, at)):
            return self._analogy(m)
        if text[at] in "24qQ" and (done := self._shorthand(at)):
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

    def _handle(self, at: int, end: int) -> int:
        """@first_last, with its marks."""
        for m in re.compile("[_.]|[^_.]+").finditer(self.text, at, end):
            if m[0] in "_.":
                self._say("underscore" if m[0] == "_" else "dot", *m.span())
            else:
                self._compound(*m.span())
        return self._owned(end)

    def _counted(self, m: re.Match) -> int:
        """K8s, i18n: letters with the number of those left out."""
        words = [m[1].upper(), *numbers.cardinal(m[2]), m[3].upper()]
        self._say(words, *m.span())
        return m.end()

    def _analogy(self, m: re.Match) -> int:
        """a:b::c:d, as A is to B."""
        for i, joint in enumerate((["is", "to"], ["as"], ["is", "to"], []), 1):
            if len(m[i]) == 1:
                self._say(m[i].upper(), *m.span(i))
            else:
                self.out.append(Word(m[i], *m.span(i)))
            self._say(joint, m.end(i), m.end(i) + len(joint) // 2 + 1 if joint else m.end(i))
        return m.end()

    def _tag(self, m: re.Match, at: int) -> int:
        """#MachineLearning, @someone, #ff0000."""
        colour = self.text[at] == "#" and HEX_COLOUR.match(self.text, at)
        self._say("hash" if colour else "hashtag" if self.text[at] == "#" else "at", at, at + 1)
        if colour:
            return self._characters(at + 1, m.end())
        if m[2] and ("_" in m[2].strip("_") or "." in m[2]):
            return self._handle(at + 1, m.end())
        return self._owned(self._compound(at + 1, m.end()))

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
        if m[2].count(".") == 1 and name not in RELEASED:
            words = numbers.decimal(m[2])
        self._say(words, m.start(2), m.end())
        self.number_end = m.end()
        return m.end()

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
