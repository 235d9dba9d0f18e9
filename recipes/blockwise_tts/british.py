"""American symbols said by a British teacher: python -m recipes.blockwise_tts.british LEXICONS TEXT... prints both.

A British voice learns from sound that a teacher made of British phonemes, but it is asked in the symbols of our own
front end, which are American. So each word of an utterance is looked up in misaki's British dictionaries (LEXICONS, a
folder with gb_gold.json and gb_silver.json, Apache-2.0); a word that they have not is changed by rules. Then the
teacher's durations of the British phonemes are shared out to the American ones by an alignment of the two, word by
word. What the accent leaves out (the r of car) takes half of the sound before it, so every symbol has a time.

The networks learn the rest from these pairs: which r are silent, which vowels are others.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechstream.text.en.phonemes import KOKORO_ID, STRESS, FrontEnd, Utterance

LENGTH = "\u02d0"  # the mark of a long vowel, a symbol of its own to the teacher
VOWELS = "AIOQWYiuaæɑɒɔəɛɜɪʊʌᵻᵊɐ" + LENGTH
# Pairs of one sound in the two accents; other vowels are less alike, consonants not at all.
ALIKE = {
    *("æa", "æɑ", "Oə", "OQ", "ɑɒ", "ɔɒ", "ᵻɪ", "ᵻə", "ɐə", "ʌə", "ʌɒ", "ɪi", "iɪ"),
    *("ɾt", "ɾd", "ʔt", f"ɹ{LENGTH}", "ɹə", "ᵊə", "əᵊ", "əɪ", "ɪə", "ɐA"),
}
RULES = [
    (re.compile(a), b)
    for a, b in (
        ("ɾ", "t"),
        ("ᵻ", "ɪ"),
        ("O", "Q"),
        ("æ", "a"),
        ("ɑ(?!ɹ)(?=.)", "ɒ"),
        ("ɑ(?=ɹ)|ɑ$", "ɑː"),
        ("ɔ", "ɔː"),
        ("ɜɹ", "ɜːɹ"),
        ("ɛɹ(?![AIQWYiuaɒɑɔəɛɜɪʊʌᵊˈˌ])", "ɛːɹ"),
        ("(?<=ˈ|ˌ)([iu])", "\\1ː"),
        ("([ɪʊ])ɹ(?![AIQWYiuaɒɑɔəɛɜɪʊʌᵊˈˌ])", "\\1əɹ"),
        ("ɹ(?![AIQWYiuaɒɑɔəɛɜɪʊʌᵊˈˌ])", ""),
    )
]


TEACHER_ID = KOKORO_ID | {"a": 43, "ɒ": 71, "Q": 33, LENGTH: 158}


@dataclass(frozen=True)
class Said:
    """What the teacher is given, and for each of its symbols the symbol of our utterance that it belongs to (N,)."""

    phonemes: str
    owner: np.ndarray

    def frames(self, frames: np.ndarray, symbols: int) -> np.ndarray:
        """The teacher's frames (N + 2,), a silence at both ends, as (halves of) frames of our symbols (symbols + 2,)."""
        out = np.zeros(symbols + 2)
        out[0], out[-1] = frames[0], frames[-1]
        np.add.at(out, self.owner + 1, frames[1:-1])
        heard = np.isin(np.arange(symbols), self.owner)
        for i in np.flatnonzero(
            ~heard
        ):  # shared with the symbol before, in its word or the space before it
            if i:
                out[i + 1] = out[i] / 2
                out[i] -= out[i + 1]
        return out


class British:
    """Utterances of the front end to what a British teacher says."""

    def __init__(self, lexicons: Path) -> None:
        gold, silver = (
            json.loads((lexicons / f"gb_{name}.json").read_text(encoding="utf-8"))
            for name in ("gold", "silver")
        )
        self.words, self.gold = silver | gold, gold

    def __call__(self, utterance: Utterance) -> Said:
        text, phonemes, owner, at = utterance.phonemes, "", [], 0
        for k, word in enumerate(utterance.words):
            begin, end = word.first, word.last
            phonemes += text[at:begin]
            owner += range(at, begin)
            said = self.word(word.text, text[begin:end])
            following = utterance.words[k + 1] if k + 1 < len(utterance.words) else None
            if following and text[end : following.first] == " " and text[end - 1] == "ɹ":
                if text[following.first :].lstrip(STRESS)[:1] in VOWELS and said[-1] in VOWELS:
                    said += "ɹ"  # it is heard between vowels: far away
            owner += [begin + i for i in align(text[begin:end], said)]
            phonemes, at = phonemes + said, end
        owner += range(at, len(text))
        return Said(phonemes + text[at:], np.array(owner))

    def word(self, spelling: str, ours: str) -> str:
        """The British sound of a word whose American one is `ours`: of its entries the one most like it."""
        entry = None
        if not (len(spelling) > 1 and spelling.isupper()) and spelling.lower() not in (
            "a",
            "the",
            "to",
        ):
            entry = self.words.get(spelling) or self.words.get(spelling.lower())
            if spelling.lower() not in self.gold:
                entry = self._inflected(spelling.lower(), ours) or entry
        found = [s for s in (entry.values() if isinstance(entry, dict) else [entry]) if s]
        return min(found, key=lambda s: costs(ours, s)[-1, -1]) if found else by_rule(ours)

    def _inflected(self, spelling: str, ours: str) -> str | None:
        """Of a word whose stem is in the better dictionary: its sound and the ending's."""
        for ending, sound in (("'s", "ᵻ?[sz]"), ("s", "ᵻ?[sz]"), ("ed", "ᵻ?[td]"), ("ing", "ɪŋ")):
            heard = re.search(f"{sound}$", ours)
            if not spelling.endswith(ending) or not heard:
                continue
            stem = spelling[: -len(ending)]
            for base in (stem, stem + "e", stem[:-1] if stem[-2:-1] == stem[-1:] else stem):
                found = self.gold.get(base)
                if isinstance(found, str):
                    return found + heard[0].replace("ᵻ", "ɪ")
        return None


def by_rule(ours: str) -> str:
    """A word that no dictionary has."""
    for pattern, other in RULES:
        ours = pattern.sub(other, ours)
    return ours


def costs(ours: str, theirs: str) -> np.ndarray:
    """Of the best alignments of all beginnings, (len(ours) + 1, len(theirs) + 1)."""
    table = np.zeros((len(ours) + 1, len(theirs) + 1))
    table[1:, 0] = np.cumsum([_alone(a) for a in ours])
    table[0, 1:] = np.cumsum([_alone(b) for b in theirs])
    for i, a in enumerate(ours, 1):
        for j, b in enumerate(theirs, 1):
            table[i, j] = min(
                table[i - 1, j - 1] + _pair(a, b),
                table[i - 1, j] + _alone(a),
                table[i, j - 1] + _alone(b),
            )
    return table


def align(ours: str, theirs: str) -> list[int]:
    """For each symbol of `theirs` the place in `ours` that it belongs to, never backwards."""
    table, i, j, out = costs(ours, theirs), len(ours), len(theirs), []
    while j:
        if i and np.isclose(table[i, j], table[i - 1, j - 1] + _pair(ours[i - 1], theirs[j - 1])):
            i, j = i - 1, j - 1
            out.append(i)
        elif np.isclose(table[i, j], table[i, j - 1] + _alone(theirs[j - 1])):
            j -= 1
            out.append(max(i - 1, 0))  # it lengthens the sound before it
        else:
            i -= 1
    return out[::-1]


def _alone(symbol: str) -> float:
    return 0.2 if symbol in STRESS + LENGTH else 0.4 if symbol in "ɹj" else 1.0


def _pair(a: str, b: str) -> float:
    if a == b:
        return 0.0
    if a + b in ALIKE:
        return 0.1
    if a in STRESS and b in STRESS:
        return 0.1
    if a in STRESS or b in STRESS:
        return 3.0
    if (a in VOWELS) != (b in VOWELS):
        return 3.0
    return 0.5 if a in VOWELS else 1.2


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lexicons", type=Path)
    parser.add_argument("texts", nargs="+")
    args = parser.parse_args(arguments)
    british, front = British(args.lexicons), FrontEnd()
    for utterance in (u for text in args.texts for u in front.speak(text)):
        print(f"{utterance.phonemes}\n{british(utterance).phonemes}\n")


if __name__ == "__main__":
    main()
