"""Written text to spoken words, each with its place in the source.

    [(w.text, w.start, w.end) for w in Normaliser()("Dr. Smith paid $3.50.")]
    # doctor 0-3, Smith 4-9, paid 10-14, three 15-20, dollars 15-20, and 15-20, fifty 15-20, cents 15-20, "." 20-21

Numbers are in `numerals.py`, names of abbreviations, units and symbols in `tables.py`. American English.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Callable

from speechstream.errors import SpeechStreamError
from speechstream.tts import numbers, numerals
from speechstream.tts import tables as t

ATOM = "\ue000"   # stands for a piece of markup in a text: a word of kind "atom"
PUNCTUATION = ";:,.!?\u2014\u2026"
STRENGTH = {p: i for i, p in enumerate((",", ":", ";", "\u2014", "\u2026", ".", "!", "?"))}
MARKS = {"\u3002": ".", "\uff61": ".", "\u06d4": ".", "\u0964": ".", "\u0965": ".", "\u061f": "?", "\u060c": ",",
         "\u061b": ";", "\u3001": ",", "\u2015": "\u2014", "(": ",", ")": ",", "\u2013": "\u2014", "\u00bf": "", "\u00a1": ""}
SKINS = frozenset(chr(c) for c in range(0x1F3FB, 0x1F400))
EMOJI = re.compile("[\u203c\u2049\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]")
URL = re.compile(r"(?:https?|ftp)://[^\s<>\"]+|www\.[^\s<>\"]+|(?:[A-Za-z0-9-]+\.)+(?:" + "|".join(t.TLDS) +
                 r")(?:[:/?#][^\s<>\"]*)?(?![\w-]|\.\w)", re.I)
EMAIL = re.compile(r"[\w.+%-]+@[\w-]+(?:\.[\w-]+)+")
DOTTED = re.compile(r"(?:[A-Za-z]{1,3}\.)+[A-Za-z]{1,3}\b\.?|(?:[A-Za-z]\.){2,}")
LETTER = r"[^\W\d_\u00b2\u00b3\u00b9\u2070-\u209c\u2150-\u218f\u2460-\u24ff\u00bc-\u00be]"
WORD = re.compile(rf"['\u2019]?{LETTER}+(?:['\u2019]{LETTER}+)*['\u2019]?")
MIXED = re.compile(r"(?=[^\W_]*\d)(?=[^\W_]*[A-Za-z])[A-Za-z0-9]+")
PARTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|" + LETTER + "+")
DIGITISH = re.compile(r"[-+\u2212\u00b1]?[$\u00a3\u20ac\u00a5\u20b9\u20a9\u20bf]|[-+\u2212\u00b1]?\.?\d|US\$|[AC]\$|\(\d{3}\)|['\u2019]\d|[" +
                      "".join(t.VULGAR) + r"]|(?:USD|GBP|EUR|JPY|INR|CHF|CNY)\s?\d|[vV]\d+(?:\.\d|\b)")
MONTH = re.compile(numerals.MONTH, re.I)
APOSTROPHES = str.maketrans("\u2019\u02bc\uff07", "'''")


@dataclass(frozen=True)
class Word:
    """One spoken word or punctuation mark and where in the source it comes from.

    `kind`: "word" (as written, or a number's name), "letters" (to be spelled: "FBI"), "punct" (one of `;:,.!?` and the
    dash and ellipsis).
    """
    text: str
    start: int
    end: int
    kind: str = "word"


@dataclass(frozen=True)
class NormaliserConfig:
    """Choices. `unsupported`: scripts without a transliteration are named ("name"), left out with a warning ("skip"), or
    raise SpeechStreamError ("error"). `emoji`: "name" or "skip"."""
    unsupported: str = "name"
    emoji: str = "name"

    def __post_init__(self):
        if self.unsupported not in ("name", "skip", "error") or self.emoji not in ("name", "skip"):
            raise ValueError(f'unsupported is "name", "skip" or "error" and emoji "name" or "skip", given {self}')


class Normaliser:
    """Text to words. `known(word)` tells whether a dictionary has a spelling; it settles acronyms and camel case."""

    def __init__(self, config: NormaliserConfig | None = None, known: Callable[[str], bool] | None = None):
        self.config = config or NormaliserConfig()
        self.known = known or (lambda word: False)

    def __call__(self, text: str, warnings: list[str] | None = None) -> list[Word]:
        """The words of `text`, in order. What cannot be spoken is described in `warnings`, one sentence each.

        Raises SpeechStreamError for an unsupported script if the configuration says so.
        """
        clean, places = clean_up(text)
        reading = _Reading(clean, self.config, self.known, warnings if warnings is not None else [])
        words = reading.run()

        def end_of(w: Word) -> int:
            if w.end <= w.start:
                return places[w.start]
            end = places[w.end - 1] + 1
            while end < places[w.end] and unicodedata.combining(text[end]):
                end += 1   # an accent that was joined to the letter before it
            return end

        return [Word(w.text, places[w.start], end_of(w), w.kind) for w in tidy(words)]


def clean_up(text: str) -> tuple[str, list[int]]:
    """Text without control and format characters, composed and in plain width, and each character's source index.

    The list has one more entry than the text: the source's length.
    """
    out: list[str] = []
    places: list[int] = []
    for i, c in enumerate(text):
        if c < "\u007f" and (c >= " " or c in "\t\n\r"):
            out.append(c)
            places.append(i)
            continue
        category = unicodedata.category(c)
        if c != ATOM and category in ("Cc", "Cf", "Cs", "Co", "Cn") or c == "\ufffd" or "\ufe00" <= c <= "\ufe0f":
            if c in "\u200d" and out and EMOJI.match(out[-1]):
                out.append(c)
                places.append(i)
            elif category == "Cc" and out and not out[-1].isspace():
                out.append(" ")
                places.append(i)
            continue
        if category == "Mn" and out:
            joined = unicodedata.normalize("NFC", out[-1] + c)
            if len(joined) == 1:
                out[-1] = joined
                continue
            if out[-1].isascii():
                continue  # an accent this letter does not have
        if category in ("Zs", "Zl", "Zp"):
            c = "\n" if category == "Zp" else " "
        elif category not in ("No",) and ("\ufb00" <= c <= "\ufb06" or "\uff01" <= c <= "\uff5e" or "\U0001d400" <= c <= "\U0001d7ff"):
            c = unicodedata.normalize("NFKC", c)
        for part in c:
            out.append(part)
            places.append(i)
    return "".join(out), places + [len(text)]


def tidy(words: list[Word]) -> list[Word]:
    """One punctuation mark between words at most, the strongest; none before the first word."""
    out: list[Word] = []
    for w in words:
        if w.kind == "punct" and (not out or out[-1].kind == "punct"):
            if out and STRENGTH[w.text] > STRENGTH[out[-1].text]:
                out[-1] = w
            continue
        out.append(w)
    return out


def split_compound(text: str) -> list[tuple[str, int]]:
    """camelCase, snake_case and letters with digits, in parts with their offsets."""
    return [(m[0], m.start()) for m in PARTS.finditer(text)]


class _Reading:
    """One pass over one clean text."""

    def __init__(self, text: str, config: NormaliserConfig, known: Callable[[str], bool], warnings: list[str]):
        self.text, self.config, self.known, self.warnings = text, config, known, warnings
        self.out: list[Word] = []
        capitals = [w for w in re.findall(r"[A-Za-z]{2,}", text)]
        self.shouting = len(capitals) >= 3 and sum(w.isupper() for w in capitals) > 0.6 * len(capitals)

    def run(self) -> list[Word]:
        at, text = 0, self.text
        while at < len(text):
            c = text[at]
            if c == ATOM:
                self.out.append(Word(c, at, at + 1, "atom"))
            at = at + 1 if c.isspace() or c == ATOM else self._one(at, c)
        return self.out

    def _one(self, at: int, c: str) -> int:
        """Read what stands at `at`; returns where it ends."""
        text = self.text
        joined = at > 0 and text[at - 1].isalnum()
        if c.isalnum() and (m := EMAIL.match(text, at)):
            return self._address(m[0].rstrip("."), at)
        if c.isalnum() and (m := URL.match(text, at)):
            return self._address(m[0].rstrip(".,;:!?)'\u2019\u2026"), at)
        if c in "#@" and (m := re.compile(r"[#@](\w+)").match(text, at)) and not m[1].isdigit():
            self._say("hashtag" if c == "#" else "at", at, at + 1)
            return self._compound(at + 1, m.end())
        if c in "#\u2116" and text[at + 1:at + 2].isdigit():
            self._say("number", at, at + 1)
            return at + 1
        if (DIGITISH.match(text, at) and not (joined and c in "-+'\u2019\u2212\u00b1")) or \
                (c.isalpha() and c.lower() in "jfmasond" and MONTH.match(text, at)):
            end = self._number(at)
            if end > at:
                return end
        if "\u2070" <= c <= "\u207b" or c in "\u00b2\u00b3\u00b9":
            m = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+").match(text, at)
            if m and m[0] != "\u207b":
                self._say(numerals.exponent(m[0].translate(t.SUPERSCRIPTS)[:6]), at, m.end())
            return m.end() if m else at + 1
        if (m := MIXED.match(text, at)):
            return self._compound(at, m.end())
        if c.isalpha() or (c in "'\u2019" and text[at + 1:at + 2].isalpha() and not joined):
            return self._letters(at)
        if c.isdecimal():
            return self._digit(at)
        return self._symbol(at, c)

    def _say(self, words: str | list[str], start: int, end: int) -> None:
        """Add words; one in capitals is to be spelled, a mark is a pause."""
        for w in words.split() if isinstance(words, str) else words:
            kind = "punct" if w in PUNCTUATION else "letters" if w.isupper() and w.isalpha() and w.isascii() else "word"
            self.out.append(Word(w, start, end, kind))

    def _before(self) -> str:
        return self.out[-1].text.lower() if self.out else ""

    def _number(self, at: int) -> int:
        found = numerals.read(self.text, at, self._before())
        if not found:
            return at
        pieces, end = found
        for words, start, stop in pieces:
            self._say(words, start, stop)
        if self.text[end - 1] == "." and not self.text[end:].strip("\"')\u201d\u2019 \n"):
            self.out.append(Word(".", end - 1, end, "punct"))  # "at 5 p.m." at the end
        return end

    def _digit(self, at: int) -> int:
        """Digits no rule took: of another script, or glued to letters."""
        m = re.compile(r"\d+").match(self.text, at)
        self._say(numbers.grouped("".join(str(unicodedata.digit(d)) for d in m[0])), at, m.end())
        return m.end()

    def _address(self, found: str, at: int) -> int:
        """URLs and e-mail: the scheme is left out, marks are named."""
        scheme = re.match(r"(?:https?|ftp)://", found, re.I)
        skip = scheme.end() if scheme else 0
        end = at + (len(found.rstrip("/")) if len(found.rstrip("/")) > skip else len(found))
        names = {".": "dot", "/": "slash", "-": "dash", "_": "underscore", "@": "at", ":": "colon", "?": "question mark",
                 "=": "equals", "&": "and", "#": "hash", "%": "percent", "+": "plus", "~": "tilde", ",": "comma"}
        for m in re.compile(r"[A-Za-z]+|\d+|[^\W\d_]+|[^\w]|_").finditer(self.text, at + skip, end):
            part = m[0]
            if part in names:
                self._say(names[part], *m.span())
            elif part.isdigit():
                self._say(numbers.grouped(part) if len(part) <= 4 else numbers.digits(part), *m.span())
            elif part.isascii() and part.isalpha():
                lower = part.lower()
                spell = lower == "www" or (len(part) <= 3 and not self.known(lower) and lower not in ("com", "org", "net", "gov")) \
                    or (len(part) <= 2 and lower not in ("me", "my", "is", "in", "to", "of", "on", "at", "we", "go"))
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
            word, end = word[:-1], end - 1   # a closing quote or a plural's apostrophe: neither is spoken
        stop = text[end:end + 1] == "."
        if stop and (done := self._abbreviation(word.lower(), at, end)):
            return done
        if stop and len(word) == 1 and word.isupper() and self._name_follows(end + 1):
            self.out.append(Word(word, at, end, "letters"))
            return end + 1   # an initial: John F. Kennedy
        lower = word.lower()
        if text[end:end + 1] == "/" and (m := re.compile(r"w/o?(?![a-z])|b/c(?![a-z])").match(text, at)):
            self._say(t.WITHOUT_STOP[m[0]], at, m.end())
            return m.end()
        if lower in t.WITHOUT_STOP and (lower != "dr" or self._name_follows(end)) and word != "ETC":
            self._say(t.WITHOUT_STOP[lower], at, end)
        elif not self._roman(word, at, end):
            self._plain(word, at, end)
        return end

    def _plain(self, word: str, at: int, end: int) -> None:
        """An ASCII word: acronym, camel case or a word as it stands."""
        stem, tail = re.fullmatch(r"(.*?)((?:'s|s)?)", word).groups() if re.fullmatch(r"[A-Z]{2,}(?:'s|s)?", word) else (word, "")
        if len(stem) >= 2 and stem.isupper() and stem.isalpha():
            if self._spelled(stem):
                self.out.append(Word(stem + tail, at, end, "letters"))
            else:
                exact = self.known(stem) and not (self.shouting and self.known(stem.lower()))
                self.out.append(Word((stem if exact or stem in t.SAID else stem.lower()) + tail, at, end))
        elif len(word) == 1 and word not in "aAI":
            self.out.append(Word(word.upper(), at, end, "letters"))
        elif re.search(r"[a-z][A-Z]", word) and not self.known(word) and not self.known(word.lower()):
            self._compound(at, end)
        elif len(word) > 1 and not re.search("[aeiouy]", word, re.I) and "'" not in word and not self.known(word.lower()) \
                and not self.known(word):
            sound = {"hmm": "hum", "hm": "hum", "mm": "em", "mmm": "em", "shh": "shush", "sh": "shush", "brr": "burr",
                     "psst": "pissed", "zzz": "Z", "pfft": "fft", "nth": "enth", "tsk": "tisk"}.get(word.lower())
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
        if lower not in t.ABBREVIATIONS and (max(map(len, inner.split("."))) > 2 or not inner[0].isupper() or
                                             not all(len(p) == 1 for p in inner.split("."))):
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
        rest = text[end + 1:].lstrip()
        previous = self.out[-1] if self.out else None
        after_name = previous is not None and previous.kind == "word" and (
            previous.text[:1].isupper() or previous.text.endswith(("th", "first", "second", "third")))
        if lower in ("dr", "st"):
            saint = "doctor" if lower == "dr" else "saint"
            street = "drive" if lower == "dr" else "street"
            name = rest[:1].isupper()
            said = street if (after_name and not (name and previous.text.lower() in ("the", "in", "at", "with", "and", "to", "by"))
                              and not (name and lower == "st" and previous.end < at - 1)) or not name else saint
        elif lower in t.BEFORE_NUMBER and rest[:1].isdigit():
            said = t.BEFORE_NUMBER[lower]
        elif lower in ("min", "max", "sat", "mon", "fri", "wed", "col", "co", "rep", "gen", "ext", "est", "al", "ms") and \
                text[at].islower() and lower not in ("min", "max", "al", "ext", "est"):
            return 0
        elif lower == "co" and text[at].isupper() and not after_name:
            return 0
        elif lower in t.MONTH_OF and lower not in t.MONTHS and text[at].isupper():
            said = t.MONTH_OF[lower]
        elif lower in t.ABBREVIATIONS and not (lower in ("max", "pres", "al", "ext", "hon", "rev", "rep") and not rest):
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
        if previous is None or previous.kind != "word" or not previous.text[:1].isupper() or not re.fullmatch("[IVXL]+", word):
            return False
        value = numbers.roman(word)
        king = previous.text.lower() in t.KINGS
        titled = len(self.out) > 1 and self.out[-2].text.lower() in t.TITLES
        if value is None or (word in ("L", "XL") and previous.text != "Bowl") or (len(word) == 1 and not king and not (
                word in "VX" and previous.text in ("Part", "Chapter", "Act", "Volume", "Type", "Phase", "Rocky", "Article", "Fantasy"))):
            return False
        if king:
            follows = self.text[end:end + 12]
            if word in ("I", "V", "X") and not titled and not re.match(r"\s*(?:[,.;:!?)]|of\b|was\b|'s|\u2019s|and\b|$)", follows):
                return False
            self._say(["the"] + numbers.ordinal(value), at, end)
        else:
            self._say(numbers.cardinal(value), at, end)
        return True

    def _accented(self, at: int, end: int) -> int:
        """A word with letters beyond ASCII, one script after the other."""
        text, start = self.text, at
        while start < end:
            script = _script(text[start])
            stop = start + 1
            while stop < end and (_script(text[stop]) == script or text[stop] in "'\u2019"):
                stop += 1
            if script == "LATIN":
                plain = "".join(_plain_latin(c) for c in text[start:stop]).translate(APOSTROPHES).strip("'")
                self._plain(plain, start, stop) if plain.isascii() and plain else None
            else:
                stop = self._foreign(start, stop)
            start = max(stop, start + 1)
        return max(start, end)

    def _foreign(self, at: int, end: int) -> int:
        """Letters of another script: Greek, Cyrillic and syllabaries in Latin letters, the rest by the policy."""
        text = self.text
        while end < len(text) and unicodedata.category(text[end]) in ("Mn", "Mc") and not text[end].isspace():
            end += 1
        word = text[at:end].lower()
        script = _script(text[at])
        if script == "GREEK":
            base = [unicodedata.normalize("NFD", c)[0] for c in word]
            if len(base) == 1:
                self._say(t.GREEK.get(base[0], "letter"), at, end)
            else:
                self.out.append(Word("".join(t.GREEK_SOUNDS.get(c, "") for c in base) or "letter", at, end))
        elif script == "CYRILLIC":
            self.out.append(Word("".join(t.CYRILLIC.get(c, "") for c in word) or "letter", at, end))
        elif script in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL"):
            names = [unicodedata.name(c, "").split()[-1].lower() for c in word]
            spoken = re.sub(r"mark|small|n(?=[kstnhmrgzdbpy]{2})", "", "".join(names))
            self.out.append(Word(spoken or "letter", at, end))
        else:
            self._unsupported(at, end, script)
        return end

    def _unsupported(self, at: int, end: int, script: str) -> None:
        name = {"CJK": "Chinese"}.get(script, script.capitalize())
        message = f"this English voice cannot speak {name} script: {end - at} characters " \
                  f"({self.text[at:min(end, at + 12)]!r}...) are " + ("named" if self.config.unsupported == "name" else "left out")
        if self.config.unsupported == "error":
            raise SpeechStreamError(f"this English voice cannot speak {name} script, found {self.text[at:min(end, at + 12)]!r}: "
                                    'transliterate it, or choose unsupported="name" or "skip"')
        if message not in self.warnings and len(self.warnings) < 20:
            self.warnings.append(message)
        said = self.out[-2:] and [w.text for w in self.out[-2:]] == [name, "text"]
        if self.config.unsupported == "name" and not said:
            self.out += [Word(name, at, end), Word("text", at, end)]

    def _symbol(self, at: int, c: str) -> int:
        text = self.text
        after = text[at + 1:at + 2]
        spaced = (at == 0 or text[at - 1].isspace()) and (not after or after.isspace())
        if EMOJI.match(c) and c not in t.SYMBOLS and c not in "\u2605\u2606":
            return self._emoji(at)
        if c in ".!?\u2026":
            m = re.compile(r"[.!?\u2026]+").match(text, at)
            mark = "?" if "?" in m[0] else "!" if "!" in m[0] else "\u2026" if len(m[0]) > 1 or c == "\u2026" else "."
            if m[0] == "." and after.isalnum() and at and text[at - 1].isalnum():
                self._say("dot" if text[at - 1].isdigit() or after.islower() else ".", at, at + 1)
            else:
                self.out.append(Word(mark, at, m.end(), "punct"))
            return m.end()
        mark = MARKS.get(c, c)
        if c == "-" and (spaced or after == "-"):
            m = re.compile(r"-+").match(text, at)
            numbers_around = spaced and re.search(r"\d\s$", text[max(0, at - 2):at]) and re.match(r"\s[\d(]", text[at + 1:at + 3])
            self._say("minus", at, m.end()) if numbers_around else self.out.append(Word("\u2014", at, m.end(), "punct"))
            return m.end()
        if mark and mark in PUNCTUATION:
            if mark == ":" and not (not after or after.isspace() or after in "\"'(\u201c"):
                return at + 1
            self.out.append(Word(mark, at, at + 1, "punct"))
            return at + 1
        if c in "<>" and spaced:
            self._say("less than" if c == "<" else "greater than", at, at + 1)
        elif c == "/":
            digits = at and text[at - 1].isdigit() and after.isdigit()
            both = re.search(r"(?:^|\s)(?:and|he|his)$", text[max(0, at - 5):at].lower()) and after.isalpha()
            if digits or (not both and (after.isalnum() or spaced)):
                self._say("over" if digits else "slash", at, at + 1)
        elif c == "*" and spaced and self.out and after:
            self._say("times", at, at + 1)
        elif c == "^" and after:
            m = re.compile(r"\^\s?([-\u2212]?\d{1,6})").match(text, at)
            self._say(numerals.exponent(m[1].replace("\u2212", "-")) if m else "to the power of", at, m.end() if m else at + 1)
            return m.end() if m else at + 1
        elif c in "~\u223c" and after.isdigit():
            self._say("about", at, at + 1)
        elif c == "\\" and after.isalnum():
            self._say("backslash", at, at + 1)
        elif c in t.CURRENCIES:
            self._say(numbers.plural(t.CURRENCIES[c][0]), at, at + 1)
        elif c in t.SYMBOLS:
            self._say(t.SYMBOLS[c], at, at + 1)
        elif c == "\ufffd" or unicodedata.category(c) in ("Mn", "Mc", "Me"):
            pass
        elif unicodedata.category(c) == "No" and unicodedata.numeric(c, -1) >= 0 and unicodedata.numeric(c) % 1 == 0:
            self._say(numbers.cardinal(int(unicodedata.numeric(c))), at, at + 1)
        elif unicodedata.category(c) == "Lo":
            return self._foreign(at, at + 1)
        return at + 1

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
            elif "\U0001f1e6" <= text[end] <= "\U0001f1ff" and "\U0001f1e6" <= text[end - 1] <= "\U0001f1ff" and end == at + 1:
                names.append(text[end])
                end += 1
            else:
                break
        while text[end:end + 1] == text[at] and text[at] not in SKINS:  # a row of the same is said once
            end += 1
        if self.config.emoji == "skip":
            return end
        if "\U0001f1e6" <= text[at] <= "\U0001f1ff":
            self._say(["flag", "of"] + ["".join(chr(ord(c) - 0x1F1E6 + 65) for c in names)], at, end)
            return end
        for c in names:
            if c in SKINS or c in "\u2640\u2642":
                continue
            name = t.EMOJI_NAMES.get(c) or unicodedata.name(c, "").lower()
            name = re.sub(r"\b(?:sign|symbol|emoji|black|heavy|white)\b|[^a-z ]", " ", name) if c not in t.EMOJI_NAMES else name
            self._say([w for w in name.split() if w], at, end)
        return end


def _script(c: str) -> str:
    """The first word of a letter's Unicode name: LATIN, GREEK, CJK, ARABIC ..."""
    if c.isascii() or c in "\u00aa\u00ba":
        return "LATIN"
    name = unicodedata.name(c, "UNKNOWN").split()[0]
    return {"FULLWIDTH": "LATIN", "MICRO": "GREEK", "IDEOGRAPHIC": "CJK"}.get(name, name)


def _plain_latin(c: str) -> str:
    if c.isascii() or c in "\u2019":
        return c
    plain = t.LATIN.get(c.lower())
    if plain is None:
        plain = "".join(p for p in unicodedata.normalize("NFKD", c.lower()) if p.isascii())
    return plain.capitalize() if c.isupper() else plain
