"""What a word says together with the mark or the number at it: km/h, C#, f(x), y', P(A|B), turn L, 2day, RE: and Cc:."""

from __future__ import annotations

import re

from speechstream.text.en import cues as q, numbers, tables as t, units
from speechstream.text.en.measures import expression
from speechstream.text.en.trades import GENOME
from speechstream.text.en.word import Word

ARGUMENT = re.compile(r"\(([a-z]|-?\d+)\)")
SLASHED = re.compile(
    r"(?:w/out|w/o?|o/n|h/t(?= @)|b/d|b/c|c/o|f/u|h/o|s/p|r/o|d/t|b/w|w/i|y/y|m/m|q/q|y/o|n/a|a/c|w/e(?= \d)|d/c)(?![A-Za-z])",
    re.I,
)
FUNCTIONS = {
    "O": "O",
    "sqrt": "the square root",
    "max": "the maximum",
    "min": "the minimum",
    "abs": "the absolute value",
    "Var": "variance",
    "sin": "sine",
    "cos": "cosine",
    "tan": "tangent",
    "arcsin": "arc sine",
    "arccos": "arc cosine",
    "arctan": "arc tangent",
    "sinh": "hyperbolic sine",
    "cosh": "hyperbolic cosine",
    "tanh": "hyperbolic tangent",
    "ln": "natural log",
    "exp": "exp",
    "gcd": "G C D",
    "lcm": "L C M",
    "Cov": "covariance",
}
APPLIED = re.compile(r"\((?!\))(?=[^()]*(?:\([^()]*\)[^()]*)*\))")
TRIGONOMETRIC = {"sin": "sine", "cos": "cosine", "tan": "tangent"}
ANGLE = re.compile(r"\s?(?:\d|[\u03b1-\u03c9]|\(|[xyt](?![a-z]))")
MATHS = re.compile("[=\u2248\u03b1-\u03c9\u00b0\u00b2]")
EVENT = re.compile(r"\((?=[A-Z](?:\)|\s?[\u2229\u222a&,]| and | or ))")
COMPLAINT = re.compile(r"\b(?:[Pp]t\.?|[Pp]atient|he|she|[MF]|male|female|man|woman|y\.?o\.?) $")
DERIVATIVE = re.compile(r"d([a-z])/d([a-z])(?![A-Za-z])")
SECOND = re.compile(r"d([\u00b2\u00b3])([a-z])/d([a-z])\1(?![\w])")
TERM = re.compile("[a-z]{2,3}")
EQUATION = re.compile(r"[=\u2260\u2264\u2265]")
VERSUS = re.compile(r"\. (?:the )?[A-Z]")
UNIT_PAIR = re.compile(
    r"(km|mi|m|mg|g|kg|\u00b5g|mcg|kWh|MB|GB|Mbit|Gbit|ft|L|mL|W|J|lb)/(h|s|L|dL|mL|kg|min|hr|day|s\u00b2|m\u00b2|m\u00b3|in)(?!\w)"
)
GIVEN_THAT = re.compile(r"[PE]\((?=[^()|]{1,16}\|[^()|]{1,16}\))")
PRIME = re.compile(
    r"([A-Za-z])('{1,2}|\u2019{1,2}|\u2032|\u2033)(?:\(([a-z]|\d)\)|(?=\s?[-+=(*/]|\s?$))"
)
RAISED_SIGNS = frozenset("\u00b2\u00b3\u207b^")
ORDINAL = re.compile(r"([IVXLC]{2,})(?:st|nd|rd|th)(?!\w)")
GRADES = re.compile(r"[-\u2013](1[0-2]|[1-9])(?![\w.,:]\d|\w|-\d)")
ROMAN_PAIR = re.compile(r"([IVXLC]+|[ivxlc]+)([-\u2013/])([IVXLC]+|[ivxlc]+)(?![\w/-])")
PARTS = q.NUMBERED | frozenset(
    "pages chapters parts acts books volumes types phases classes grades stages scenes articles sections titles grade".split()
)
SMALL_ROMAN = re.compile(r"[ivx]{2,5}")
NUMBER = re.compile(r" \d")
GOES_ON = re.compile(r"\. (?=[a-z])")
DISPENSED = re.compile(r":? #? ?\d")
CELL = re.compile(r"[ -](?:batter|cell|size|alkaline|recharg)")
ENDINGS = ("st", "nd", "rd", "th")
PRIMES = frozenset("\u2032\u2033")
JOINED = frozenset("(-\u2013/.:;")
UNITS_BEFORE = {
    "Km": "kilometer",
    "KM": "kilometer",
    "km": "kilometer",
    "Wt": "weight",
    "Ht": "height",
}
SYMBOLS_BEHIND = frozenset("ms ns us kb mb id db".split())
ALONE = (
    SYMBOLS_BEHIND
    | frozenset(UNITS_BEFORE)
    | frozenset(
        "blk Blk BLK bc disp Disp OR ma Pt FL rwy Rwy bp ETA plz Plz ATTN yr mi Ti L R AA AAA sin cos tan St ACT VOL Vol Na Mg Ca Cl Cr Fe Cu Zn Hb".split()
    )
)
NOTE = re.compile(r"\. ?\d+(?!\w)")
CURRENCY_PAIR = re.compile(r"[A-Z]{3}/([A-Z]{3})(?![\w/])")
CHARTED = {
    "Dx": "diagnosis",
    "Tx": "treatment",
    "Hx": "history",
    "Sx": "symptoms",
}
CHARTED_AFTER = re.compile(
    r" (?:c/o|is|was|has|had|states|reports|denies|presents|seen|w/|with)(?!\w)"
)
EVERY = re.compile(
    r"[qQ]\.?\s?(\d{1,2})(?:[-\u2013](\d{1,2}))?\s?(h(?:rs?)?|min|d|days?|wks?|weeks?|mo)\.?(?!\w)"
)
VERSE = re.compile(r" \d{1,3}:\d")
DECIMAL = re.compile(r"\s?=?\s?\d+\.\d")
EQUALLED = re.compile(r"\b[A-Za-z]\s?=\s?$")
LEVEL = re.compile(r" ?\d{3}(?!\d)")
EVERY_OF = {"h": "hours", "mi": "minutes", "d": "days", "w": "weeks", "mo": "months"}
YEARED = frozenset(
    "last next this per every each first one school fiscal prior previous leap past final".split()
)
CLASS_DAYS = re.compile(r"[MTWF][uh]?(?:/[MTWF][uh]?){1,2}(?![\w/])")
CLASS_DAYS_OF = {
    "m/w": "monday wednesday",
    "m/w/f": "monday wednesday friday",
    "t/th": "tuesday thursday",
    "tu/th": "tuesday thursday",
    "w/f": "wednesday friday",
}
CHANGE = re.compile(
    r"\b(?:rose|rise[ns]?|fell|falls?|up|down|gain\w*|increase[sd]?|increasing|declin\w+|drop\w*|grew|growth)\b"
)
SHORTHAND = {  # with digits for sounds, in small letters
    "2day": "today",
    "2nite": "tonight",
    "2night": "tonight",
    "2moro": "tomorrow",
    "2morrow": "tomorrow",
    "2mrw": "tomorrow",
    "2gether": "together",
    "4ever": "forever",
    "4eva": "forever",
    "gr8": "great",
    "l8r": "later",
    "l8": "late",
    "m8": "mate",
    "b4": "before",
    "h8": "hate",
    "w8": "wait",
    "str8": "straight",
    "sk8": "skate",
    "some1": "someone",
    "any1": "anyone",
    "every1": "everyone",
    "ne1": "anyone",
    "thx4": "thanks for",
}
DIGIT_WORD = re.compile(r"(?:[24][a-z]{3,8}|[a-z]{1,6}\d[a-z]?)(?![\w-])")
BEFORE_A_SQUARE = frozenset(
    "cell square key pin size paper bus gate row seat on to vitamin from at".split()
)
TURNS = frozenset("turn turns turning keep bear veer hang".split())


def _argument(text: str) -> list[str]:
    return [text.upper()] if text.isalpha() else numbers.cardinal(text)


class Attached:
    """The part of a reading (`speechstream.text.en.normalise`) that reads them."""

    def _shorthand(self, at: int) -> int:
        """2day, gr8, b4. Returns where it ends, or 0."""
        if self.text[at] in "qQ" and (m := EVERY.match(self.text, at)):
            upto = ["to", *numbers.cardinal(m[2])] if m[2] else []
            unit = EVERY_OF.get(m[3][:2]) or EVERY_OF[m[3][0]]
            self._say(["every", *numbers.cardinal(m[1]), *upto, unit], at, m.end())
            return m.end()
        m = DIGIT_WORD.match(self.text, at)
        said = SHORTHAND.get(m[0]) if m else None
        if m is None or said is None or m[0] == "b4" and self._before() in BEFORE_A_SQUARE:
            return 0
        self._say(said, at, m.end())
        return m.end()

    def _of_a_trade(self, word: str, at: int, end: int) -> int:
        """P(A|B), y', the XVIIIth, grades K-5, turn L, Cc:, AA batteries. Returns where it ends, or 0."""
        after = self.text[end : end + 1]
        if (
            len(word) <= 3
            and (word[-1] in "'\u2019" or after in PRIMES)
            and EQUATION.search(self.text)
        ):
            if m := PRIME.match(self.text, at):
                double = len(m[2]) == 2 or m[2] == "\u2033"
                self._say(
                    [
                        m[1].upper(),
                        *(["double"] if double else []),
                        "prime",
                        *(["of", *_argument(m[3])] if m[3] else []),
                    ],
                    at,
                    m.end(),
                )
                return m.end()
        if word in TRIGONOMETRIC and after in RAISED_SIGNS:
            self._say(TRIGONOMETRIC[word], at, end)
            return end
        if word[0] in "IVXLC" and word[-2:] in ENDINGS and (m := ORDINAL.match(self.text, at)):
            value = numbers.roman(m[1])
            if value is not None:
                self._say(numbers.ordinal(value), at, m.end())
                return m.end()
        if after == ")" and self.text[at - 1 : at] == "(" and SMALL_ROMAN.fullmatch(word):
            value = numbers.roman(word.upper())
            if value is not None:
                self._say(numbers.cardinal(value), at, end)
                return end
        if after in JOINED and (done := self._joined(word, at, end, after)):
            return done
        if word.istitle() and word.lower() in q.BOOKS_SHORT and VERSE.match(self.text, end):
            self._say(q.BOOKS_SHORT[word.lower()], at, end)
            return end
        return self._alone(word, at, end, after) if word in ALONE else 0

    def _joined(self, word: str, at: int, end: int, after: str) -> int:
        """Words that a mark goes on with."""
        text = self.text
        if word in ("P", "E") and after == "(" and (m := EVENT.match(text, end)):
            self._say([word, "of"], at, end)
            return m.end()
        if word in ("P", "E") and after == "(" and (m := GIVEN_THAT.match(text, at)):
            self._say([word, "of"], at, end)
            return m.end()
        if word in ("K", "PK") and after in "-\u2013" and (m := GRADES.match(text, end)):
            graded = self._before() in ("grades", "grade", "for", "in") and m[1] != "9"
            if after == "\u2013" or m[1] in "34568" or graded:
                self._say([*word, "to", *numbers.cardinal(m[1])], at, m.end())
                return m.end()
        if (m := ROMAN_PAIR.match(text, at)) and self._before() in PARTS:
            first, second = numbers.roman(m[1].upper()), numbers.roman(m[3].upper())
            if first and second and (first < second or m[2] == "/"):
                middle = "over" if m[2] == "/" else "to"
                said = [*numbers.cardinal(first), middle, *numbers.cardinal(second)]
                self._say(said, at, m.end())
                return m.end()
        if word in ("n", "nn") and after == "." and NOTE.match(text, end):
            self._say("note" if word == "n" else "notes", at, end + 1)
            return end + 1
        if after == ":" and word in CHARTED:
            self._say(CHARTED[word], at, end)
            return end
        if after == ":" and word.lower() in ("cc", "bcc"):
            self._say(list(word.upper()), at, end)
            return end
        if after == ";" and word.lower() == "tl" and text[end + 1 : end + 3].lower() == "dr":
            self._say("T L D R", at, end + 3)
            return end + 3
        if after != "/":
            return 0
        if (
            word in units.CURRENCIES
            and (m := CURRENCY_PAIR.match(text, at))
            and m[1] in units.CURRENCIES
        ):
            self._say(list(word + m[1]), at, m.end())
            return m.end()
        if (m := CLASS_DAYS.match(text, at)) and (days := CLASS_DAYS_OF.get(m[0].lower())):
            self._say(days, at, m.end())
            return m.end()
        if word == "w" and text.startswith("/w", end) and not text[end + 2 : end + 3].isalnum():
            weekly = CHANGE.search(text, 0, at)
            self._say("week over week" if weekly else "W W", at, end + 2)
            return end + 2
        return 0

    def _alone(self, word: str, at: int, end: int, after: str) -> int:
        """Words that the word or number at them decides on."""
        text, before, said = self.text, self._before(), ""
        numbered, measured = bool(NUMBER.match(text, end)), self.number_end == at - 1
        if word in UNITS_BEFORE and numbered and not measured:
            said = UNITS_BEFORE[word]
        elif word == "Plz" and self.out and self.out[-1].text[:1].isupper():
            said = "plaza"
        elif word in ("disp", "Disp") and DISPENSED.match(text, end):
            said = "dispense"
        elif word in ("blk", "Blk", "BLK"):
            said = "block" if numbered else "black"
        elif word == "bc":
            said = "B C" if measured else "because"
        elif word == "ATTN":
            said = "attention"
        elif word == "Pt" and CHARTED_AFTER.match(text, end):
            said = "patient"
        elif word == "FL" and LEVEL.match(text, end):
            said = "flight level"
        elif word in ("rwy", "Rwy") and numbered:
            said = "runway"
        elif word == "OR" and DECIMAL.match(text, end) and not self.shouting:
            said = "O R"
        elif word == "ma" and EQUALLED.search(text, 0, at):
            said = "M A"
        elif word == "bp" and measured:
            said = "base pairs" if GENOME.search(text.replace("bp", "")) else "basis points"
        elif word in SYMBOLS_BEHIND and at and text[at - 1] == "_":
            said = word.upper()
        elif word == "yr" and before in YEARED:
            said = "year"
            end += GOES_ON.match(text, end) is not None
        elif word == "mi" and before in ("thousand", "million"):
            said = "miles"
            end += after == "." and text[end + 1 : end + 2] not in ("", "\n")
        elif word == "Ti" and measured:
            said = "T I"
        elif word in ("L", "R") and before in TURNS:
            said = "left" if word == "L" else "right"
        elif word in ("VOL", "Vol") and after and after in "+-\u2013":
            said = "volume"
        elif word == "St" and after == "-" and text[end + 1 : end + 2].isupper():
            said = "saint"
        elif word in TRIGONOMETRIC and ANGLE.match(text, end) and MATHS.search(text):
            said = TRIGONOMETRIC[word]
        elif word == "ACT" and numbered and not self.shouting:
            said = "A C T"
        elif numbered and word in ("Na", "Mg", "Ca", "Cl", "Cr", "Fe", "Cu", "Zn", "Hb"):
            said = " ".join(word.upper())
        elif word in ("AA", "AAA") and CELL.match(text, end):
            said = "double A" if word == "AA" else "triple A"
        if not said:
            return 0
        self._say(said, at, end)
        return end

    def _glued(self, word: str, at: int, end: int) -> int:
        """What a mark belongs to: w/, c/o, km/h, C#, an x between measures. Returns where it ends, or 0."""
        text = self.text
        after = text[end : end + 1]
        if after == "/" and (m := SLASHED.match(text, at)):
            short = t.WITHOUT_STOP[m[0].lower()]
            complaint = m[0] == "c/o" and self.out and COMPLAINT.search(text, 0, at)
            self._say("complains of" if complaint else short, at, m.end())
            return m.end()
        if after == "/" and (m := DERIVATIVE.match(text, at)):
            self._say(["D", m[1].upper(), "D", m[2].upper()], at, m.end())
            return m.end()
        if after in "\u00b2\u00b3" and after and (m := SECOND.match(text, at)):
            power = "squared" if m[1] == "\u00b2" else "cubed"
            self._say(["D", power, m[2].upper(), "D", m[3].upper(), power], at, m.end())
            return m.end()
        if after == "/" and (m := UNIT_PAIR.match(text, at)):
            self._say(expression(m[0], False), at, m.end())
            return m.end()
        if after == "#" and len(word) == 1 and not text[end + 1 : end + 2].isalnum():
            self._say([word.upper(), "sharp"], at, end + 1)
            return end + 1
        if word == "etc" and text[at - 1 : at] == "/":
            self._say("E T C", at, end)
            return end
        if (
            TERM.fullmatch(word)
            and text[at - 1 : at].isdigit()
            and EQUATION.search(text)
            and word not in units.UNITS
        ):
            self._say(" ".join(word.upper()), at, end)
            return end
        if word == "mo" and self._before() == "per":
            self._say("month", at, end)
            return end + (GOES_ON.match(text, end) is not None)
        if (
            self._before() == "per"
            and len(word) > 1
            and word in units.UNITS
            and not self.known(word)
        ):
            self._say(expression(word, True), at, end)
            return end
        raised = after and after in "\u00b2\u00b3^"
        if word in ("F", "C") and self._before() in ("degrees", "degree"):
            self._say("fahrenheit" if word == "F" else "celsius", at, end)
            return end
        if (
            word == "v"
            and after == "."
            and VERSUS.match(text, end)
            and self.out
            and self.out[-1].text[:1].isupper()
        ):
            self._say("versus", at, end + 1)
            return end + 1
        if word == "US" and self._before() in ("let", "let's") and not self.shouting:
            self._say("us", at, end)
            return end
        if (
            word == "US"
            and self.shouting
            and self._before() in ("", "the", "in", "as", "says", "and", ",", ":")
        ):
            self.out.append(Word(word, at, end, "letters"))
            return end
        if raised and len(word) <= 3 and not self.known(word.lower() + "s"):
            self._say(" ".join(word.upper()), at, end)
            return end
        if word in FUNCTIONS and after == "(" and (m := APPLIED.match(text, end)):
            self._say(FUNCTIONS[word], at, end)
            if "sine" not in FUNCTIONS[word] and "tangent" not in FUNCTIONS[word]:
                self._say("of", end, end + 1)
            return end + 1
        if len(word) == 1 and after == "(" and (m := ARGUMENT.match(text, end)):
            argument = [m[1].upper()] if m[1].isalpha() else numbers.cardinal(m[1])
            if m[1].isalpha() or word in "fghPyuv":
                self._say([word.upper(), "of", *argument], at, m.end())
                return m.end()
        if len(word) == 2 and word[0].isupper() and word[1] == "s" and self.number_end == at - 1:
            self.out.append(Word(word, at, end, "letters"))  # the 4 Ps
            return end
        if word == "cc" and text[end : end + 2] == " @":
            self._say("C C", at, end)
            return end
        return 0
