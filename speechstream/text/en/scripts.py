"""Letters beyond ASCII: accents are taken off, Greek, Cyrillic and syllabaries come in Latin letters, the rest is named."""

from __future__ import annotations

import re
import unicodedata

from speechstream.errors import SpeechStreamError
from speechstream.text.en import letters
from speechstream.text.en.word import Word

APOSTROPHES = str.maketrans("\u2019\u02bc\uff07", "'''")


class Scripts:
    """The part of a reading (`speechstream.text.en.normalise`) that reads other scripts."""

    def _accented(self, at: int, end: int) -> int:
        """A word with letters beyond ASCII, one script after the other."""
        text, start = self.text, at
        if text[at:end] == "\u0127":
            self._say("H bar", at, end)
            return end
        while start < end:
            script = _script(text[start])
            stop = start + 1
            while stop < end and (_script(text[stop]) == script or text[stop] in "'\u2019"):
                stop += 1
            if script == "LATIN":
                plain = (
                    "".join(_plain_latin(c) for c in text[start:stop])
                    .translate(APOSTROPHES)
                    .strip("'")
                )
                written = text[start:stop].strip("'\u2019")
                if len(plain) > 2 and plain.isascii() and (plain.islower() or plain.istitle()):
                    self.out.append(Word(written.translate(APOSTROPHES), start, stop))
                elif plain.isascii() and plain:
                    self._plain(plain, start, stop)
            else:
                stop = self._foreign(start, stop)
            start = max(stop, start + 1)
        return max(start, end)

    def _foreign(self, at: int, end: int) -> int:
        """Letters of another script: Greek, Cyrillic and syllabaries in Latin letters, the rest by the policy."""
        text = self.text
        while (
            end < len(text)
            and unicodedata.category(text[end]) in ("Mn", "Mc")
            and not text[end].isspace()
        ):
            end += 1
        word = text[at:end].lower()
        script = _script(text[at])
        if script == "GREEK":
            base = [unicodedata.normalize("NFD", c)[0] for c in word]
            if len(base) == 1:
                self._say(letters.GREEK.get(base[0], "letter"), at, end)
            else:
                self.out.append(
                    Word(
                        "".join(letters.GREEK_SOUNDS.get(c, "") for c in base) or "letter", at, end
                    )
                )
        elif script == "CYRILLIC":
            self.out.append(
                Word("".join(letters.CYRILLIC.get(c, "") for c in word) or "letter", at, end)
            )
        elif script in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL"):
            names = [unicodedata.name(c, "").split()[-1].lower() for c in word]
            spoken = re.sub(r"mark|small|n(?=[kstnhmrgzdbpy]{2})", "", "".join(names))
            self.out.append(Word(spoken or "letter", at, end))
        else:
            self._unsupported(at, end, script)
        return end

    def _unsupported(self, at: int, end: int, script: str) -> None:
        name = {"CJK": "Chinese"}.get(script, script.capitalize())
        message = (
            f"this English voice cannot speak {name} script: {end - at} characters "
            f"({self.text[at : min(end, at + 12)]!r}...) are "
            + ("named" if self.config.unsupported == "name" else "left out")
        )
        if self.config.unsupported == "error":
            raise SpeechStreamError(
                f"this English voice cannot speak {name} script, found {self.text[at : min(end, at + 12)]!r}: "
                'transliterate it, or choose unsupported="name" or "skip"'
            )
        if message not in self.warnings and len(self.warnings) < 20:
            self.warnings.append(message)
        said = self.out[-2:] and [w.text for w in self.out[-2:]] == [name, "text"]
        if self.config.unsupported == "name" and not said:
            self.out += [Word(name, at, end), Word("text", at, end)]


def _script(c: str) -> str:
    """The first word of a letter's Unicode name: LATIN, GREEK, CJK, ARABIC ..."""
    if c.isascii() or c in "\u00aa\u00ba":
        return "LATIN"
    name = unicodedata.name(c, "UNKNOWN").split()[0]
    return {"FULLWIDTH": "LATIN", "MICRO": "GREEK", "IDEOGRAPHIC": "CJK"}.get(name, name)


def _plain_latin(c: str) -> str:
    if c.isascii() or c in "\u2019":
        return c
    plain = letters.LATIN.get(c.lower())
    if plain is None:
        plain = "".join(p for p in unicodedata.normalize("NFKD", c.lower()) if p.isascii())
    return plain.capitalize() if c.isupper() else plain
