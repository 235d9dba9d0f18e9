"""How a written word is said: as it stands, by its letters, as what it abbreviates, or in its parts."""

from __future__ import annotations

import re

from speechstream.text.en import (
    classics,
    cues as q,
    numbers,
    parts_of_speech,
    phrases,
    prescriptions,
    short_form_contexts,
    short_form_tables,
    tables as t,
    units,
    wholes,
)
from speechstream.text.en.abbreviations import Abbreviations
from speechstream.text.en.attached import Attached
from speechstream.text.en.places import GOES_ON, Places
from speechstream.text.en.scripts import APOSTROPHES
from speechstream.text.en.word import Word

DOTTED = re.compile(r"(?:[A-Za-z]{1,3}\.)+[A-Za-z]{1,3}\b\.?|(?:[A-Za-z]\.){2,}")
LETTER = r"[^\W\d_\u00b2\u00b3\u00b9\u02b0-\u02b8\u02e1-\u02e3\u1d43-\u1d6a\u2c7c\u2070-\u209c\u2150-\u218f\u2460-\u24ff\u00bc-\u00be]"
WORD = re.compile(rf"['\u2019]?{LETTER}+(?:['\u2019]{LETTER}+)*['\u2019]?")
VOWELLESS = re.compile(r"(?!(?:mr|mrs|dr|hmm|shh|st|vs)$)[b-df-hj-np-tv-xz]{2,3}", re.I)
LIST_ROMAN = re.compile(r"(?:[ivx]{1,5}|[IVX]{1,5})[.)](?:\s|$)")
PROMOTION = re.compile(
    r"(?:SAVE|TAKE|FREE|SHOP|DEAL|SALE|SHIP|GIFT|LOVE|HOME|BACK|FLAT|FALL|XMAS|COOL|EASY|MORE|PLUS|ROOM)\d\d?"
)
OWNED_BY = frozenset("has have had having with for of and or his her their my like".split())
SCHEME = re.compile(r"([a-z][a-z0-9+]*)://", re.I)
TAIL = re.compile(r"[A-Z]\d{3}[A-Z]{2}")  # of an aircraft or a plate
NOTE_FLAT = re.compile(
    r"[ABDEG]b(?=\s(?:major|minor|maj|min|sax|saxophone|clarinet|trumpet|horn|chord|scale|key|tuba|in)\b)"
)
SPECIES = re.compile(r"\. ([a-z]{3,}|v\.|\d{3})(?![\w-])")
NAMES = q.GIVEN_NAMES - frozenset("ron sam ali ana ian lee wei may art".split())
VANITY = re.compile(r"\d\d\d-$")
RESPELLED = re.compile(r"^(?:[a-z]--|.{0,2}--[a-z])")  # KEY-noh-ah
ACRONYM = re.compile(r"([A-Z]{2,}?)((?:'s|s|'d|'ed|'ing)?)")
MANY_NUMERALS = re.compile("[MDCLXVI]+")
HUMPS = re.compile(r"[a-z][A-Z]|[A-Z]{2}[a-z]{2}")
SCOTTISH = re.compile(r"(?:Mc|Mac)[A-Z][a-z]+(?:'s|s)?")
VARIABLE_NAME = re.compile(r"[a-z]{3,}(?:[A-Z][a-z]{2,})+")  # userName
VOWEL = re.compile("[aeiouy]", re.I)
PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|" + LETTER + "+")


def split_compound(text: str) -> list[tuple[str, int]]:
    """camelCase, snake_case and letters with digits, in parts with their offsets."""
    return [(m[0], m.start()) for m in PARTS.finditer(text)]


class Spelling(Abbreviations, Attached, Places):
    """The part of a reading (`speechstream.text.en.normalise`) that reads words, abbreviations and addresses."""

    def _address(self, found: str, at: int) -> int:
        """URLs and e-mail: the scheme is left out, marks are named."""
        scheme = re.match(r"(?:https?|ftp)://", found, re.I)
        skip = scheme.end() if scheme else 0
        if not scheme and (other := SCHEME.match(found)):
            self._compound(at, at + other.end(1))
            self._say("colon slash slash", at + other.end(1), at + other.end())
            skip = other.end()
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
        for m in re.compile(r"[^\W\d_]+|\d+|[^\w]|_").finditer(self.text, at + skip, end):
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
                    or lower in q.SPELLED_SMALL
                    or (part.upper() in t.SPELLED and lower not in q.ORDINARY)
                    or (lower in q.FILE_LETTERS and self.text[m.start() - 1 : m.start()] == ".")
                    or (
                        len(part) <= 3
                        and not self.known(lower)
                        and lower not in ("com", "org", "net", "gov", "bin", "tar", "app", "zip")
                    )
                    or (
                        len(part) <= 2
                        and lower
                        not in (
                            "me",
                            "my",
                            "is",
                            "in",
                            "to",
                            "of",
                            "on",
                            "at",
                            "we",
                            "go",
                            "us",
                            "it",
                            "or",
                            "an",
                            "up",
                            "no",
                            "so",
                            "do",
                            "be",
                            "by",
                            "as",
                            "he",
                            "hi",
                            "pi",
                            "ad",
                            "ok",
                        )
                    )
                    or (
                        lower in ("us", "it", "in", "is")
                        and self.text[m.start() - 1 : m.start()] == "."
                    )
                )
                self._say(part.upper() if spell else lower, *m.span())
            elif part.isalpha():
                self._accented(*m.span())
        return at + len(found)

    def _compound(self, at: int, end: int) -> int:
        """B2B, MP3, iPhone15, snake_case, #MachineLearning."""
        for part, offset in split_compound(self.text[at:end]):
            start = at + offset
            stop = start + len(part)
            if part.isdigit():
                code = len(part) == 3 and (
                    stop - at > 6 or bool(TAIL.fullmatch(self.text, at, end))
                )
                self._say(numbers.digits(part) if code else numbers.grouped(part), start, stop)
            elif part == "s" and stop == end and at < start and self.text[start - 1].isdigit():
                last = self.out[-1]
                self.out[-1] = Word(numbers.plural(last.text), last.start, stop)  # A380s
            elif not part.isascii():
                self._foreign(start, stop)
            elif (
                part[0] == "k"
                and len(part) > 3
                and self.text[start - 1 : start].isdigit()
                and not self.known(part)
                and self.known(part[1:])
            ):
                self._say("K", start, start + 1)  # 10kclub
                self.out.append(Word(part[1:], start + 1, stop))
            elif (
                len(part) == 4 and PROMOTION.fullmatch(self.text, at, end) and self._ordinary(part)
            ):
                self.out.append(Word(part.lower(), start, stop))  # SAVE20
            elif len(part) == 1 or (part.isupper() and (len(part) <= 4 and part not in t.SAID)):
                self._say(part.upper(), start, stop)
            elif part.lower() in q.SPELLED_SMALL or VOWELLESS.fullmatch(part):
                self._say(part.upper(), start, stop)
            elif not self.known(part.lower()) and not VOWEL.search(part):
                self._say(part.upper(), start, stop)
            else:
                self.out.append(Word(part.lower(), start, stop))
        return end

    def _letters(self, at: int) -> int:
        text = self.text
        if whole := wholes.match(text, at):
            self._say(whole[0], at, whole[1])
            return whole[1]
        if phrase := phrases.match(text, at):
            self._say(phrase[0], at, phrase[1])
            return self._final_stop(phrase[1])
        if text[at].isupper() and (cited := classics.match(text, at)):
            for words, start, stop in cited[0]:
                self._say(words, start, stop)
            return cited[1]
        if self.prescribed and (order := prescriptions.match(text, at)):
            self._say(order[0], at, order[1])
            return self._final_stop(order[1])
        m = DOTTED.match(text, at)
        if m and (at == 0 or not text[at - 1].isalnum()) and (done := self._dotted(m, at)):
            return done
        m = WORD.match(text, at)
        if not m:  # an apostrophe before digits or marks
            return at + 1
        word, end = m[0].translate(APOSTROPHES), m.end()
        if end == len(text) and text[at:end].lower() == "z\u0142":
            self._say("zlotys", at, end)
            return end
        if not word.isascii():
            return self._accented(at, end)
        if verb := wholes.verb(text, at):
            self.out.append(Word(verb[0], at, verb[1], "letters"))
            return verb[1]
        if m := NOTE_FLAT.match(text, at):
            self._say([word[0], "flat"], at, m.end())
            return m.end()
        for read in (self._glued, self._of_a_trade, self._place, self._month):
            if done := read(word, at, end):
                return done
        if word.startswith("'") and not self.known(word.lower()):
            word, at = word[1:], at + 1
        if word.endswith("'"):
            word, end = (
                word[:-1],
                end - 1,
            )  # a closing quote or a plural's apostrophe: neither is spoken
        stop = text[end : end + 1] == "."
        if done := self._list_mark(word, at, end):
            return done
        if stop and len(word) == 1 and word.isupper() and self._lettered_line(word, at):
            self._say([word, "."], at, end + 1)
            return end + 1  # a list of letters
        if stop and (done := self._abbreviation(word.lower(), at, end)):
            return done
        if stop and len(word) == 1 and word.isupper() and (m := SPECIES.match(text, end)):
            if m[1] not in parts_of_speech.FUNCTION and (not m[1].isdigit() or word == "K"):
                self.out.append(Word(word, at, end, "letters"))
                return end + 1  # E. coli
        if stop and len(word) == 1 and word.isupper() and self._name_follows(end + 1):
            self.out.append(Word(word, at, end, "letters"))
            return end + 1  # an initial: John F. Kennedy
        lower = word.lower()
        if (
            lower in short_form_tables.PLAIN
            and (word.islower() or word[0].isupper() and word[1:].islower())
            and not (stop and lower in units.UNITS)
        ):
            near = short_form_contexts.read(word, self._before(), text[end:].lstrip(" ."))
            self._say(near or short_form_tables.PLAIN[lower], at, end)
            if stop and GOES_ON.match(text, end):
                return end + 1
        elif word == "VS" and self._name_follows(end) and not self.shouting:
            self.out.append(Word(word, at, end, "letters"))
        elif (
            lower in t.WITHOUT_STOP and (lower != "dr" or self._name_follows(end)) and word != "ETC"
        ):
            self._say(t.WITHOUT_STOP[lower], at, end)
        elif not self._roman(word, at, end):
            self._plain(word, at, end)
        return end

    def _lettered_line(self, word: str, at: int) -> bool:
        """Whether a capital with a full stop at a line's beginning is of a list of letters."""
        if self.text[at - 1 : at] == "\n":
            return True
        return at == 0 and f"\n{chr(ord(word) + 1)}." in self.text

    def _list_mark(self, word: str, at: int, end: int) -> int:
        """ii. and iii) at a line's beginning are numbers. Returns where it ends, or 0."""
        begins = at == 0 or self.text[at - 1] == "\n"
        first = word in ("I", "i") and f"\n{word}{word}{self.text[end : end + 1]}" in self.text
        if not begins or len(word) < 2 and not first or not LIST_ROMAN.match(self.text, at):
            return 0
        value = numbers.roman(word.upper())
        if value is None:
            return 0
        self._say([*numbers.cardinal(value), ","], at, end + 1)
        return end + 1

    def _plain(self, word: str, at: int, end: int) -> None:
        """An ASCII word: acronym, camel case or a word as it stands."""
        acronym = ACRONYM.fullmatch(word)
        stem, tail = acronym.groups() if acronym else (word, "")
        if (
            len(word) > 2
            and not word.isupper()
            and word.lower() in t.MIXED_CASE
            and word != word.lower()
        ):
            self._say(t.MIXED_CASE[word.lower()], at, end)
        elif word in t.LAST_CAPITAL:
            self._say(t.LAST_CAPITAL[word], at, end)
        elif word == "PhDs":
            self.out.append(Word("PHDs", at, end, "letters"))
        elif word in ("pH", "pOH", "pKa", "pKb", "pKw", "pI"):
            self.out.append(Word(word.upper(), at, end, "letters"))
        elif word.islower() and word in q.SPELLED_SMALL:
            tail = "s" if word in ("llms", "urls", "apis", "pdfs") else ""
            self.out.append(Word(word[: len(word) - len(tail)].upper() + tail, at, end, "letters"))
        elif stem in q.TRIPLED:
            self._say(q.TRIPLED[stem], at, end)
        elif len(stem) >= 5 and MANY_NUMERALS.fullmatch(stem) and numbers.roman(stem) is not None:
            self._say(numbers.year(numbers.roman(stem) or 0), at, end)
        elif len(stem) >= 2 and stem.isupper() and stem.isalpha():
            if self._spelled(stem) and not self._named_so(stem, at, end):
                self.out.append(Word(stem + tail, at, end, "letters"))
            else:
                exact = self.known(stem) and not (self.shouting and self.known(stem.lower()))
                self.out.append(
                    Word((stem if exact or stem in t.SAID else stem.lower()) + tail, at, end)
                )
        elif len(word) == 1 and word not in "aAI":
            self.out.append(Word(word.upper(), at, end, "letters"))
        elif (
            HUMPS.search(word)
            and (
                VARIABLE_NAME.fullmatch(word)
                or not (
                    self.known(word)
                    or self.known(word.lower())
                    or self.known(word.lower().removesuffix("'s"))
                )
            )
            and not SCOTTISH.fullmatch(word)
        ):
            owned = end - 2 * (word[-2:] == "'s")
            self._compound(at, owned)
            if owned < end:
                last = self.out[-1]
                self.out[-1] = Word(last.text + "'s", last.start, end, last.kind)
        elif (
            len(word) > 1
            and not VOWEL.search(word)
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
        if word in self.options.as_words:
            return False
        if word in self.options.as_letters:
            return True
        if not self.shouting and (word == "DOE" or word == "ADD" and self._before() in OWNED_BY):
            return True
        if word in t.SAID or len(word) == 3 and lower in NAMES:
            return False
        if word in t.SPELLED and not (self.shouting and lower in q.ORDINARY):
            return True
        if len(word) == 3 and lower in q.SHORT_WORDS and lower not in t.LETTERED_SHORT:
            return False
        if self.shouting and (lower in q.SHORT_WORDS or len(word) > 2 and self._ordinary(word)):
            return False
        if self.lettered(word) or not self.known(word) and self.lettered(lower):
            return True
        if self.known(word):
            return False
        if lower in t.EMPHATIC or (len(word) >= 4 and self.known(lower)):
            return False
        return len(word) <= 5 or not re.search("[AEIOUY]", word)

    def _named_so(self, word: str, at: int, end: int) -> bool:
        """Whether a word in capitals is a speaker, or a part of a constant's name: MAX_RETRIES, API_KEY."""
        constant = self.text[at - 1 : at] == "_" or self.text[end : end + 1] == "_"
        called = self.text[end : end + 1] == "(" and len(word) > 2 and self.known(word.lower())
        if (
            called
            or len(word) > 2
            and RESPELLED.search(self.text[max(0, at - 2) : end + 2].replace(word, "-", 1))
        ):
            return word not in t.SPELLED and self.known(word.lower())
        constant = constant or bool(VANITY.search(self.text, max(0, at - 4), at))
        return self._speaker(word, at, end) or constant and len(word) > 2 and self._ordinary(word)

    def _speaker(self, word: str, at: int, end: int) -> bool:
        """Whether a word in capitals tells who speaks: MAN: Get down!"""
        begins = at == 0 or self.text[at - 1] == "\n"
        named = begins and self.text[end : end + 1] == ":" and len(word) > 2
        return named and word not in t.SPELLED and self._ordinary(word)

    def _name_follows(self, end: int) -> bool:
        return bool(re.compile(r"\s+[A-Z]").match(self.text, end))
