"""Punctuation, mathematical and other symbols, and emoji."""

from __future__ import annotations

import re
import unicodedata

from speechstream.text import choices
from speechstream.text.en import chess, cues as q, emoji, numbers, numerals, tables as t, units
from speechstream.text.en.slashes import NAME, TERM_ALONE, Slashes
from speechstream.text.en.word import EMOJI, PUNCTUATION, Word

MARKS = {
    "\u3002": ".",
    "\uff61": ".",
    "\u06d4": ".",
    "\u0964": ".",
    "\u0965": ".",
    "\u061f": "?",
    "\u060c": ",",
    "\u061b": ";",
    "\u3001": ",",
    "\u2015": "\u2014",
    "(": ",",
    ")": ",",
    "\u2013": "\u2014",
    "\u00bf": "",
    "\u00a1": "",
}
RATIO = re.compile(r"[a-z]:[a-z](?![\w:])|[A-Z]:[A-Z](?= ?=|\s(?:ratio|odds|is)\b)")
GLOB = re.compile(r"\*(?:\.\*)?\.(?=[A-Za-z])|\*\.\*")
LIMITS = re.compile(
    "([\u2080-\u2089\u2090-\u209c\u1d62]+)([\u2070-\u207f\u00b9\u00b2\u00b3\u221e]+)?"
)
OVER_LETTERS = {"\u0304": "bar", "\u0305": "bar", "\u0302": "hat", "\u0303": "tilde"}
LONE = re.compile(r"(?<![A-Za-z])[a-zA-Z]$")
PRODUCT = re.compile(r"\s?[\d.,]+\s?[=\u2248]")  # 26.2 mi x 1.609 = 42.2
ELEMENT = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)>")  # of a page
GRADE = re.compile(r"(?<![A-Za-z])[A-F]$")
DIGITS = re.compile(r"\d+(?![\w.])")
MULTIPLIED = re.compile(r"\w\*\d")
ABOUT = re.compile(
    r"\s?[$\u00a3\u20ac]?\d|(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec|half|noon|midnight|one|two|three|ten|mid)"
    r"(?:[a-z]*|\.)[\s-]"
)
AMOUNT = re.compile(r"[-\u2212$\u00a3\u20ac]?\.?\d|[A-Za-z]\b")
BY_NUMBER = re.compile(r"\s?\d")
TERM_BEFORE = re.compile(r"(?:[\d\u00b2\u00b3)]|(?:^|[\s\d(|])[a-z])\s$")
TERM_AFTER = re.compile(r"\s(?:\d|\(|[a-z](?![a-z]))")
STARRED = q.DIALLED | frozenset("press enter pressing dialing hit".split())
ADDRESS = re.compile(r"[^\s<>@]+@[^\s<>@]+>")
MODULO = re.compile(r"% (?:\d|[a-z](?![A-Za-z]))")
BRANCH = r"(?:\"[^\"\n]{0,30}\"|'[^'\n]{0,30}'|`[^`\n]{0,30}`|[^\s:\"'`]\S{0,31})"
CHOICE = re.compile(rf" \? {BRANCH}(?: [-+*/%] {BRANCH})* : \S")  # n > 0 ? n : -n
CHOSEN = re.compile(rf" \? {BRANCH}(?: [-+*/%] {BRANCH})* $")
STARS = re.compile("(\u2605+)(\u2606*)")
PACKAGE = re.compile(r"(?:^|[\s(])[a-z]\w*\.[a-z]\w*$")
MEMBER = re.compile(r"\w[.\])]\w*\s$|\)\s$")
PATH = re.compile(r"\.{1,2}/(?=[\w.])")
QUERY = re.compile(r"\?\w+=")
CODE = re.compile(r"&&|\|\||[=!]=|\bif[ (]")
BARS = re.compile(r"\|(?:[A-Za-z][a-z0-9]?|-?[\d.]+|[A-Za-z]\w?\s?[-+\u2212]\s?\w{1,4})\|(?![|\w])")
LONG_BARS = re.compile(
    r"\|(?=[^|\n]*[-+\u2212*(])(?=[^\s|])[\w()+\-\u2212*/^\u00b2\u00b3. ]{2,24}(?<!\s)\|(?=\s?[-+\u2212=<>\u2264\u2265*/]|[\s.,;:)]|$)"
)
CONDITION = re.compile(r"\b[PE]\([^()|]{1,16}$")
SUM_OF = re.compile(r"\s*(?:from|over|of)\b")
NAMED_MARKS = {"_": "underscore", "-": "dash"}
SECRETS = frozenset("pw password passwd username userid login".split())
CHARGE = re.compile(r"\^\{?(\d?)([-+\u2212])\}?(?![\w(])")  # SO4^2-
HERE = re.compile(r"\.{1,2}(?=[`\s\"')]|$)")  # a folder
SHELL = re.compile(r"\b(?:cd|ls|add|code|source|cp|mv|grep|find|install|build|-[eCrR]|--all) $")
FACTORIAL = re.compile(r"(?<![^\W_]|[-'\u2019])[nkmNrpq]$|[^\W_]\)$")
FACTORIAL_AFTER = re.compile(
    r"\s?[-=+*/\u00d7\u2212<>)]|\s(?:is|grows?|ways|for|and|where|when|permutations)\b"
)
KEYED = re.compile(r"[*#]+\d{2,}(?:[*#]\d+)*#")
PIPED = re.compile(
    r"\| (?:wc|grep|sort|head|tail|less|more|xargs|awk|sed|jq|tee|uniq|cut|sh|bash|tr|cat|python3?|node)\b"
)
TITLED = re.compile(r"\| (?:[A-Z]|[a-z]{1,6}: )")  # Sales | c: 415.555.0187
BY_INCHES = re.compile(r"\s?[\d/ \u00bc-\u00be\u2150-\u215e]+[\"\u2033]")
PROMPT = re.compile(r"\$ [a-z][\w.-]*(?:\s|$)")
EQUATED = re.compile(r" = (?:[\w%$.]+ ){1,2}$")  # profit = revenue - cost
A_TERM = re.compile(r" [a-z]+(?=[.;,)]|$| [-+*/] )")
BOUND = re.compile(
    r"< [$\u00a3\u20ac]?\d|> [$\u00a3\u20ac]?\d[\d.,]*\s?%"
)  # and no line that is quoted
PORT = re.compile(r":(\d{3,5})(?![\w:.]\d|\w)")
DRIVE = re.compile(r"(?<![A-Za-z])[A-Z]:\\")
SKINS = frozenset(chr(c) for c in range(0x1F3FB, 0x1F400))


class Symbols(Slashes):
    """The part of a reading (`speechstream.text.en.normalise`) that reads what is neither a letter nor a digit."""

    def _symbol(self, at: int, c: str) -> int:
        text = self.text
        after = text[at + 1 : at + 2]
        spaced = (at == 0 or text[at - 1].isspace()) and (not after or after.isspace())
        if (
            EMOJI.match(c)
            and c not in t.SYMBOLS
            and c not in "\u2605\u2606"
            and not (c == "\u2665" and self._before() in ("i", "we", "you", "they"))
        ):
            return self._emoji(at)
        if c in ".!?\u2026":
            m = re.compile(r"[.!?\u2026]+").match(text, at)
            mark = (
                "?"
                if "?" in m[0]
                else "!"
                if "!" in m[0]
                else "\u2026"
                if len(m[0]) > 1 or c == "\u2026"
                else "."
            )
            inside = at and (
                text[at - 1].isalnum() or text[at - 1] in ")]" and (after.islower() or after == "_")
            )
            inside_word = at and text[at - 1].isalpha()
            after_marks = text[m.end() : m.end() + 1]
            leading = (at == 0 or text[at - 1] in " (\"'/") and NAME.match(text, at + 1)
            if m[0] == "." and (inside and after.isalnum() or leading):
                dot = (
                    leading
                    or text[at - 1].isdigit()
                    or after.islower()
                    or after == "_"
                    or after.isdigit()
                )
                dot = dot or PACKAGE.search(text, max(0, at - 40), at)
                if dot and text[at - 1 : at].isdigit() and chess.MOVE.match(text, at + 1):
                    return m.end()  # 13.Qxd5
                self._say("dot" if dot else ".", at, at + 1)
                if inside and text[at - 1].isalpha() and (digits := DIGITS.match(text, at + 1)):
                    self._say(numbers.grouped(digits[0]), *digits.span())  # H.264
                    return digits.end()
            elif (
                (folder := HERE.match(text, at))
                and text[at - 1 : at] == " "
                and SHELL.search(text, max(0, at - 12), at)
            ):
                self._say(["dot"] * len(folder[0]), at, folder.end())
                return folder.end()
            elif leading_path := set(m[0]) == {"."} and not inside_word and PATH.match(text, at):
                self._say(["dot"] * len(m[0]) + ["slash"], at, leading_path.end())
                return leading_path.end()
            elif m[0] == "?" and (
                inside and QUERY.match(text, at) or CHOICE.match(text, max(at - 1, 0))
            ):
                self._say("question mark", at, at + 1)
            elif (
                m[0] == "??"
                and after_marks == " "
                and choices.TERM_BEFORE.search(text[max(0, at - 24) : at])
            ):
                self._say("question mark question mark", at, m.end())
            elif m[0] == "!" and self._negates(at):
                self._say("not", at, at + 1)
            elif m[0] == "!" and (self._factorial(at)):
                self._say("factorial", at, at + 1)
            else:
                self.out.append(Word(mark, at, m.end(), "punct"))
            return m.end()
        if c == "\u2605" and self.number_end == at and after != c:
            self._say("stars", at, at + 1)
            return at + 1
        if c in "\u2605\u2606" and (m := STARS.match(text, at)) and len(m[0]) > 2:
            filled = len(m[1])
            said = numbers.cardinal(filled)
            said += ["out", "of", *numbers.cardinal(len(m[0]))] if m[2] else []
            self._say([*said, "star" if len(m[0]) == 1 else "stars"], at, m.end())
            return m.end()
        if (
            c == "|"
            and (bars := BARS.match(text, at) or LONG_BARS.match(text, at))
            and not text[at - 1 : at].isalnum()
        ):
            self._say(["the", "absolute", "value", "of"], at, at + 1)
            self.bar = bars.end() - 1
            return at + 1
        if c == "|" and at == self.bar:
            return at + 1
        if (
            c == "|"
            and spaced
            and self.out
            and not PIPED.match(text, at)
            and TITLED.match(text, at)
        ):
            self.out.append(Word(",", at, at + 1, "punct"))
            return at + 1
        if c == "|" and PIPED.match(text, at):
            self._say("pipe", at, at + 1)
            return at + 1
        if c in "*#" and not text[at - 1 : at].isalnum() and (m := KEYED.match(text, at)):
            names = {"*": ["star"], "#": ["pound"]}
            self._say([w for x in m[0] for w in names.get(x) or numbers.digits(x)], at, m.end())
            return m.end()
        if c == "|" and CONDITION.search(text, max(0, at - 18), at):
            self._say("given", at, at + 1)
            return at + 1
        if c == "\u00a7" and after == "\u00a7":
            self._say("sections", at, at + 2)
            return at + 2
        if c == "(" and after == ")" and at and text[at - 1].isalnum():
            return at + 2  # len()
        if c == "$" and at == 0 and PROMPT.match(text):
            return at + 1
        if c == "$" and text.startswith(" back", at + 1):
            self._say("money", at, at + 1)
            return at + 1
        if c == "$" and after.isalpha():
            self._say("dollar", at, at + 1)
            return at + 1
        if c == "\u00a9" and self._before() == "copyright":
            return at + 1
        if c in "-\u2013" and text[at - 1 : at] == ")" and after == "(" and self.out:
            self._say("to", at, at + 1)
            return at + 1
        if c in NAMED_MARKS and after.isalnum() and text[at - 1 : at].isalnum() and self._secret():
            self._say(NAMED_MARKS[c], at, at + 1)
            return at + 1
        mark = MARKS.get(c, c)
        if c == "-" and not after.isalnum() and GRADE.search(text, max(0, at - 2), at):
            self._say("minus", at, at + 1)
            return at + 1
        if c == "-" and (spaced or after == "-"):
            m = re.compile(r"-+").match(text, at)
            numbers_around = (
                spaced
                and re.search(r"\d\s$", text[max(0, at - 2) : at])
                and re.match(r"\s[\d(]", text[at + 1 : at + 3])
            )
            member = (
                spaced
                and MEMBER.search(text, max(0, at - 24), at)
                and re.match(r"\s\d", text[at + 1 : at + 3])
            )
            termed = EQUATED.search(text, max(0, at - 40), at) and A_TERM.match(text, at + 1)
            numbers_around = numbers_around or member or spaced and termed
            equation = spaced and "=" in text and TERM_BEFORE.search(text[max(0, at - 3) : at])
            numbers_around = numbers_around or equation and TERM_AFTER.match(text, at + 1)
            self._say("minus", at, m.end()) if numbers_around else self.out.append(
                Word("\u2014", at, m.end(), "punct")
            )
            return m.end()
        if mark and mark in PUNCTUATION:
            if mark == ":" and RATIO.match(text, at - 1) and not text[max(at - 2, 0)].isalnum():
                self._say("to", at, at + 1)
                return at + 1
            if (
                mark == ":"
                and text[at - 1 : at] in ("", " ", "(")
                and (port := PORT.match(text, at))
            ):
                self._say(["port", *numbers.grouped(port[1])], at, port.end())
                return port.end()
            if mark == ":" and (
                DRIVE.search(text, max(0, at - 2), at + 2)
                or after == " "
                and CHOSEN.search(text, max(0, at - 100), at)
            ):
                self._say("colon", at, at + 1)
                return at + 1
            if mark == ":" and not (not after or after.isspace() or after in "\"'(\u201c"):
                return at + 1
            self.out.append(Word(mark, at, at + 1, "punct"))
            return at + 1
        if c == "<" and (m := ELEMENT.match(text, at)):
            if m[1]:
                self._say("slash", at, at + 2)
            if len(m[2]) < 3 and m[2].isalpha():
                self._say(list(m[2].upper()), *m.span(2))
            else:
                self._compound(*m.span(2))
            return m.end()
        if c in "<>" and self._compares(at, c, spaced):
            self._say("less than" if c == "<" else "greater than", at, at + 1)
        elif c == "/":
            return self._slash(at, after, spaced)
        elif c == "*" and not text[at - 1 : at].isalnum() and (glob := GLOB.match(text, at)):
            self._say(" ".join("star" if x == "*" else "dot" for x in glob[0]), at, glob.end())
            return glob.end()
        elif c == "*" and (
            after.isdigit()
            and self._before() in STARRED
            or self._before() == "select"
            or text[at - 1 : at] == "/"
            and text[at - 2 : at - 1].isalnum()
        ):
            self._say("star", at, at + 1)
        elif c == "*" and self.out and (spaced and after or MULTIPLIED.match(text, at - 1)):
            self._say("times", at, at + 1)
        elif c == "\u00d7" and BY_INCHES.match(text, at + 1):
            self._say("by", at, at + 1)
        elif c == "\u00d7" and self._between_measures(at) and not PRODUCT.match(text, at + 1):
            self._say("by", at, at + 1)
        elif c == "#":
            if text[at - 1 : at].isalpha() and not after.isalnum():
                self._say("sharp", at, at + 1)
            elif text[at - 1 : at].isdigit() and not after.isalnum():
                self._say("pound", at, at + 1)
            elif after == ":" and text[at - 1 : at] == " ":
                self._say("number", at, at + 1)
            elif spaced and text[max(at - 1, 0)] != "\n" and (at > 0 or text.startswith("# of ")):
                self._say("number", at, at + 1)
        elif c == "^" and (
            text[at - 1 : at] in ("", " ", '"', "`", "/", "[") and after not in ("", " ")
        ):
            self._say("caret", at, at + 1)
        elif c == "$" and text[at - 1 : at] in ("}", ")", "*", "+", "]"):
            self._say("dollar sign", at, at + 1)
        elif c == "^" and (charge := CHARGE.match(text, at)) and text[at - 1 : at].isalnum():
            many = numbers.cardinal(charge[1]) if charge[1] else []
            self._say([*many, "plus" if charge[2] == "+" else "minus"], at, charge.end())
            return charge.end()
        elif c == "^" and after:
            m = re.compile(r"\^\s?([-\u2212]?\d{1,6})").match(text, at)
            self._say(
                numerals.exponent(m[1].replace("\u2212", "-")) if m else "to the power of",
                at,
                m.end() if m else at + 1,
            )
            return m.end() if m else at + 1
        elif c in "~\u301c" and text[at - 1 : at].isdigit() and after.isdigit():
            self._say("to", at, at + 1)
        elif c == "~" and text[at - 1 : at].isalnum() and after.isdigit() and at:
            self._say("tilde", at, at + 1)
        elif c in "~\u223c" and ABOUT.match(text, at + 1):
            self._say("about", at, at + 1)
        elif c == "~" and after == "/":
            self._say("tilde slash", at, at + 2)
            return at + 2
        elif c == "%" and spaced and MODULO.match(text, at) and text[at - 2 : at - 1].isalnum():
            self._say("mod", at, at + 1)
        elif c == "\u2211" and SUM_OF.match(text, at + 1):
            self._say("the sum", at, at + 1)
        elif c == "\u2665" and self._before() in ("i", "we", "you", "they"):
            self._say("love", at, at + 1)
        elif c == "\\" and after.isalnum():
            self._say("backslash", at, at + 1)
        elif c in units.CURRENCIES:
            self._say(numbers.plural(units.CURRENCIES[c][0]), at, at + 1)
        elif (
            c in "\u00b7\u22c5"
            and LONE.search(text, max(0, at - 2), at)
            and TERM_ALONE.match(text, at + 1)
        ):
            self._say("dot", at, at + 1)
        elif c in "\u00b7\u22c5" and text[at - 1 : at] == ")" and after.isalnum():
            self._say("times", at, at + 1)
        elif c in "\u222b\u2211\u220f" and (m := LIMITS.match(text, at + 1)):
            self._say(t.SYMBOLS[c].split()[self._before() == "the" : -1], at, at + 1)
            joints = ("from", "to") if m[2] else ("over", "")
            for name, side in zip(joints, m.groups()):
                if side:
                    self._say([name, *self._limit(side)], at + 1, m.end())
            self._say("of", m.end() - 1, m.end())
            return m.end()
        elif c in t.SYMBOLS:
            words = t.SYMBOLS[c].split()
            doubled = words[0] == "the" and self._before() == "the"
            self._say(words[doubled:], at, at + 1)
        elif c in OVER_LETTERS and LONE.search(text, max(0, at - 2), at):
            self._say(OVER_LETTERS[c], at, at + 1)
        elif c == "\ufffd" or unicodedata.category(c) in ("Mn", "Mc", "Me"):
            pass
        elif (
            unicodedata.category(c) == "No"
            and unicodedata.numeric(c, -1) >= 0
            and unicodedata.numeric(c) % 1 == 0
        ):
            self._say(numbers.cardinal(int(unicodedata.numeric(c))), at, at + 1)
        elif unicodedata.category(c) == "Lo":
            return self._foreign(at, at + 1)
        return at + 1

    def _secret(self) -> bool:
        """Whether a password or a user's name is told, of which every mark counts."""
        return bool(SECRETS & {w.text.lower() for w in self.out[-6:]})

    @staticmethod
    def _limit(raised: str) -> list[str]:
        """A limit of a sum in small letters above or below it."""
        plain = unicodedata.normalize("NFKC", raised)
        if plain.isdigit():
            return numbers.cardinal(plain)
        return [t.SYMBOLS.get(c, c.upper()) for c in plain]

    def _negates(self, at: int) -> bool:
        """Whether a mark stands before what it denies: a && !b."""
        text = self.text
        return (
            text[at - 1 : at] in (" ", "(")
            and text[at + 1 : at + 2].isalpha()
            and bool(CODE.search(text))
        )

    def _factorial(self, at: int) -> bool:
        """Whether a mark behind a single letter or a bracket is a factorial: n! grows."""
        text = self.text
        letter = FACTORIAL.search(text, max(0, at - 2), at)
        return bool(letter) and bool(FACTORIAL_AFTER.match(text, at + 1))

    def _compares(self, at: int, c: str, spaced: bool) -> bool:
        """Whether < or > compares: not where it quotes a line or is half of a tag."""
        text = self.text
        before, after = text[max(at - 1, 0) : at], text[at + 1 : at + 2]
        if not before.strip(" ") and (not before or before == "\n") and after == " ":
            return bool(BOUND.match(text, at))
        if spaced:
            return bool(self.out)
        if ADDRESS.match(text, at + 1):
            return False
        return bool(AMOUNT.match(text, at + 1)) and (
            not before or before.isspace() or before.isalnum() or before in "(,"
        )

    def _between_measures(self, at: int) -> bool:
        """Whether a times sign or an x stands between two measures: 3 m x 4 m."""
        text = self.text
        gap = text[at - 1 : at] == " "
        if self.number_end != at - gap or not BY_NUMBER.match(text, at + 1):
            return False
        return not text[at - gap - 1].isdigit()

    def _emoji(self, at: int) -> int:
        """One emoji with its skin tones and joined parts, named once; flags by their letters."""
        text, end = self.text, at + 1
        names = [text[at]]
        while end < len(text):
            if text[end] in SKINS or text[end] in "\ufe0f\u20e3":
                end += 1
            elif text[end] == "\u200d" and end + 1 < len(text):
                names.append(text[end + 1])
                end += 2
            elif (
                "\U0001f1e6" <= text[end] <= "\U0001f1ff"
                and "\U0001f1e6" <= text[end - 1] <= "\U0001f1ff"
                and end == at + 1
            ):
                names.append(text[end])
                end += 1
            else:
                break
        while (
            text[end : end + 1] == text[at] and text[at] not in SKINS
        ):  # a row of the same is said once
            end += 1
        if self.config.emoji == "skip":
            return end
        if "\U0001f1e6" <= text[at] <= "\U0001f1ff":
            self._say(
                ["flag", "of"] + ["".join(chr(ord(c) - 0x1F1E6 + 65) for c in names)], at, end
            )
            return end
        for c in names:
            if c in SKINS or c in "\u2640\u2642":
                continue
            name = emoji.NAMES.get(c) or unicodedata.name(c, "").lower()
            name = (
                re.sub(r"\b(?:sign|symbol|emoji|black|heavy|white)\b|[^a-z ]", " ", name)
                if c not in emoji.NAMES
                else name
            )
            self._say([w for w in name.split() if w], at, end)
        return end
