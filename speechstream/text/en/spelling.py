"""How a written word is said: as it stands, by its letters, as what it abbreviates, or in its parts."""

from __future__ import annotations

import re

from speechstream.text.en import numbers, tables as t
from speechstream.text.en.scripts import APOSTROPHES
from speechstream.text.en.word import Word

DOTTED = re.compile(r"(?:[A-Za-z]{1,3}\.)+[A-Za-z]{1,3}\b\.?|(?:[A-Za-z]\.){2,}")
LETTER = r"[^\W\d_\u00b2\u00b3\u00b9\u2070-\u209c\u2150-\u218f\u2460-\u24ff\u00bc-\u00be]"
WORD = re.compile(rf"['\u2019]?{LETTER}+(?:['\u2019]{LETTER}+)*['\u2019]?")
PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|" + LETTER + "+")


def split_compound(text: str) -> list[tuple[str, int]]:
    """camelCase, snake_case and letters with digits, in parts with their offsets."""
    return [(m[0], m.start()) for m in PARTS.finditer(text)]


class Spelling:
    """The part of a reading (`speechstream.text.en.normalise`) that reads words, abbreviations and addresses."""

    def _address(self, found: str, at: int) -> int:
        """URLs and e-mail: the scheme is left out, marks are named."""
        scheme = re.match(r"(?:https?|ftp)://", found, re.I)
        skip = scheme.end() if scheme else 0
        end = at + (len(found.rstrip("/")) if len(found.rstrip("/")) > skip else len(found))
        names = {
            ".": "dot",
            "/": "slash",
            "-": "dash",
            "_": "underscore",
            "@": "at",
            ":": "colon",
            "?": "question mark",
            "=": "equals",
            "&": "and",
            "#": "hash",
            "%": "percent",
            "+": "plus",
            "~": "tilde",
            ",": "comma",
        }
        for m in re.compile(r"[A-Za-z]+|\d+|[^\W\d_]+|[^\w]|_").finditer(self.text, at + skip, end):
            part = m[0]
            if part in names:
                self._say(names[part], *m.span())
            elif part.isdigit():
                self._say(
                    numbers.grouped(part) if len(part) <= 4 else numbers.digits(part), *m.span()
                )
            elif part.isascii() and part.isalpha():
                lower = part.lower()
                spell = (
                    lower == "www"
                    or (
                        len(part) <= 3
                        and not self.known(lower)
                        and lower not in ("com", "org", "net", "gov")
                    )
                    or (
                        len(part) <= 2
                        and lower
                        not in ("me", "my", "is", "in", "to", "of", "on", "at", "we", "go")
                    )
                )
                self._say(part.upper() if spell else lower, *m.span())
            elif part.isalpha():
                self._foreign(m.start(), m.end())
        return at + len(found)

    def _compound(self, at: int, end: int) -> int:
        """B2B, MP3, iPhone15, snake_case, #MachineLearning."""
        for part, offset in split_compound(self.text[at:end]):
            start = at + offset
            stop = start + len(part)
            if part.isdigit():
                self._say(numbers.grouped(part), start, stop)
            elif not part.isascii():
                self._foreign(start, stop)
            elif len(part) == 1 or (part.isupper() and (len(part) <= 4 and part not in t.SAID)):
                self._say(part.upper(), start, stop)
            elif not self.known(part.lower()) and not re.search("[aeiouy]", part, re.I):
                self._say(part.upper(), start, stop)
            else:
                self.out.append(Word(part.lower(), start, stop))
        return end

    def _letters(self, at: int) -> int:
        text = self.text
        m = DOTTED.match(text, at)
        if m and (at == 0 or not text[at - 1].isalnum()) and (done := self._dotted(m, at)):
            return done
        m = WORD.match(text, at)
        if not m:  # an apostrophe before digits or marks
            return at + 1
        word, end = m[0].translate(APOSTROPHES), m.end()
        if not word.isascii():
            return self._accented(at, end)
        if word.startswith("'") and not self.known(word.lower()):
            word, at = word[1:], at + 1
        if word.endswith("'"):
            word, end = (
                word[:-1],
                end - 1,
            )  # a closing quote or a plural's apostrophe: neither is spoken
        stop = text[end : end + 1] == "."
        if stop and (done := self._abbreviation(word.lower(), at, end)):
            return done
        if stop and len(word) == 1 and word.isupper() and self._name_follows(end + 1):
            self.out.append(Word(word, at, end, "letters"))
            return end + 1  # an initial: John F. Kennedy
        lower = word.lower()
        if text[end : end + 1] == "/" and (
            m := re.compile(r"w/o?(?![a-z])|b/c(?![a-z])").match(text, at)
        ):
            self._say(t.WITHOUT_STOP[m[0]], at, m.end())
            return m.end()
        if lower in t.WITHOUT_STOP and (lower != "dr" or self._name_follows(end)) and word != "ETC":
            self._say(t.WITHOUT_STOP[lower], at, end)
        elif not self._roman(word, at, end):
            self._plain(word, at, end)
        return end

    def _plain(self, word: str, at: int, end: int) -> None:
        """An ASCII word: acronym, camel case or a word as it stands."""
        stem, tail = (
            re.fullmatch(r"(.*?)((?:'s|s)?)", word).groups()
            if re.fullmatch(r"[A-Z]{2,}(?:'s|s)?", word)
            else (word, "")
        )
        if len(stem) >= 2 and stem.isupper() and stem.isalpha():
            if self._spelled(stem):
                self.out.append(Word(stem + tail, at, end, "letters"))
            else:
                exact = self.known(stem) and not (self.shouting and self.known(stem.lower()))
                self.out.append(
                    Word((stem if exact or stem in t.SAID else stem.lower()) + tail, at, end)
                )
        elif len(word) == 1 and word not in "aAI":
            self.out.append(Word(word.upper(), at, end, "letters"))
        elif (
            re.search(r"[a-z][A-Z]", word) and not self.known(word) and not self.known(word.lower())
        ):
            self._compound(at, end)
        elif (
            len(word) > 1
            and not re.search("[aeiouy]", word, re.I)
            and "'" not in word
            and not self.known(word.lower())
            and not self.known(word)
        ):
            sound = {
                "hmm": "hum",
                "hm": "hum",
                "mm": "em",
                "mmm": "em",
                "shh": "shush",
                "sh": "shush",
                "brr": "burr",
                "psst": "pissed",
                "zzz": "Z",
                "pfft": "fft",
                "nth": "enth",
                "tsk": "tisk",
            }.get(word.lower())
            self.out.append(Word(sound or word.upper(), at, end, "word" if sound else "letters"))
        else:
            self.out.append(Word(word, at, end))

    def _spelled(self, word: str) -> bool:
        """Whether an all-capital word is said letter by letter."""
        lower = word.lower()
        if self.shouting and self.known(lower):
            return False
        if word in t.SAID:
            return False
        if word in t.SPELLED:
            return True
        if self.known(word):
            return False
        if lower in t.EMPHATIC or (len(word) >= 4 and self.known(lower)):
            return False
        return len(word) <= 5 or not re.search("[AEIOUY]", word)

    def _dotted(self, m: re.Match, at: int) -> int:
        """U.S., e.g., Ph.D., a.m.; returns where it ends, or 0."""
        inner = m[0].rstrip(".")
        lower = inner.lower()
        if lower not in t.ABBREVIATIONS and (
            max(map(len, inner.split("."))) > 2
            or not inner[0].isupper()
            or not all(len(p) == 1 for p in inner.split("."))
        ):
            return 0
        end = m.end()
        if lower in t.ABBREVIATIONS:
            self._say(t.ABBREVIATIONS[lower], at, end)
        else:
            self.out.append(Word(inner.replace(".", "").upper(), at, end, "letters"))
        return self._final_stop(end)

    def _abbreviation(self, lower: str, at: int, end: int) -> int:
        """An abbreviation with its full stop; returns where it ends, or 0."""
        text = self.text
        rest = text[end + 1 :].lstrip()
        previous = self.out[-1] if self.out else None
        after_name = (
            previous is not None
            and previous.kind == "word"
            and (
                previous.text[:1].isupper()
                or previous.text.endswith(("th", "first", "second", "third"))
            )
        )
        if lower in ("dr", "st"):
            saint = "doctor" if lower == "dr" else "saint"
            street = "drive" if lower == "dr" else "street"
            name = rest[:1].isupper()
            said = (
                street
                if (
                    after_name
                    and not (
                        name
                        and previous.text.lower() in ("the", "in", "at", "with", "and", "to", "by")
                    )
                    and not (name and lower == "st" and previous.end < at - 1)
                )
                or not name
                else saint
            )
        elif lower in t.BEFORE_NUMBER and rest[:1].isdigit():
            said = t.BEFORE_NUMBER[lower]
        elif (
            lower
            in (
                "min",
                "max",
                "sat",
                "mon",
                "fri",
                "wed",
                "col",
                "co",
                "rep",
                "gen",
                "ext",
                "est",
                "al",
                "ms",
            )
            and text[at].islower()
            and lower not in ("min", "max", "al", "ext", "est")
        ):
            return 0
        elif lower == "co" and text[at].isupper() and not after_name:
            return 0
        elif lower in t.MONTH_OF and lower not in t.MONTHS and text[at].isupper():
            said = t.MONTH_OF[lower]
        elif lower in t.ABBREVIATIONS and not (
            lower in ("max", "pres", "al", "ext", "hon", "rev", "rep") and not rest
        ):
            said = t.ABBREVIATIONS[lower]
        else:
            return 0
        self._say(said, at, end + 1)
        return self._final_stop(end + 1)

    def _final_stop(self, end: int) -> int:
        if self.text[end - 1] == "." and not self.text[end:].strip("\"')\u201d\u2019 \n"):
            self.out.append(Word(".", end - 1, end, "punct"))
        return end

    def _name_follows(self, end: int) -> bool:
        return bool(re.compile(r"\s+[A-Z]").match(self.text, end))

    def _roman(self, word: str, at: int, end: int) -> bool:
        """Henry VIII the eighth, World War II two. Only after a capitalised word."""
        previous = self.out[-1] if self.out else None
        if (
            previous is None
            or previous.kind != "word"
            or not previous.text[:1].isupper()
            or not re.fullmatch("[IVXL]+", word)
        ):
            return False
        value = numbers.roman(word)
        king = previous.text.lower() in t.KINGS
        titled = len(self.out) > 1 and self.out[-2].text.lower() in t.TITLES
        if (
            value is None
            or (word in ("L", "XL") and previous.text != "Bowl")
            or (
                len(word) == 1
                and not king
                and not (
                    word in "VX"
                    and previous.text
                    in (
                        "Part",
                        "Chapter",
                        "Act",
                        "Volume",
                        "Type",
                        "Phase",
                        "Rocky",
                        "Article",
                        "Fantasy",
                    )
                )
            )
        ):
            return False
        if king:
            follows = self.text[end : end + 12]
            if (
                word in ("I", "V", "X")
                and not titled
                and not re.match(r"\s*(?:[,.;:!?)]|of\b|was\b|'s|\u2019s|and\b|$)", follows)
            ):
                return False
            self._say(["the"] + numbers.ordinal(value), at, end)
        else:
            self._say(numbers.cardinal(value), at, end)
        return True
