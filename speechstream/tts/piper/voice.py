"""Piper voices behind the synthesizer's interface.

English voices are given our own phonemes, turned into espeak-ng's way of writing them: nothing under the GPL is
needed, and numbers, homographs and markup are read as by the embedded voices. Other languages are phonemised by
espeak-ng, where the user has installed it (`speechstream.tts.piper.espeak`).
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Iterator

import numpy as np

from speechstream.text import ssml
from speechstream.text.en.phonemes import FrontEnd, SpokenWord, Utterance
from speechstream.tts.piper.network import BLOCK, FIRST_BLOCK, Latents, PiperVoice
from speechstream.text.clauses import Clause
from speechstream.tts.voice import Controls, Spoken, VoiceInfo, find_speaker

IPA = {
    "A": "eɪ",
    "I": "aɪ",
    "O": "oʊ",
    "W": "aʊ",
    "Y": "ɔɪ",
    "i": "iː",
    "u": "uː",
    "ɑ": "ɑː",
    "ɔ": "ɔː",
    "ɜ": "ɜː",
    "ʧ": "tʃ",
    "ʤ": "dʒ",
    "ᵊ": "ə",
    "—": ",",
    "…": ".",
}
MARKS = re.compile(r"[.,;:!?…—]")


def to_ipa(phonemes: str) -> list[str]:
    """Our symbols as espeak-ng writes American English, one string (perhaps empty) for each symbol."""
    out = []
    for i, c in enumerate(phonemes):
        before, after = phonemes[i - 1 : i], phonemes[i + 1 : i + 2]
        if c == "ɹ" and before in ("ɜ", "ə"):
            out.append("")  # written as one with the vowel: ɜː, ɚ
        elif c == "ə" and after == "ɹ":
            out.append("ɚ")
        elif c == "i" and not before.strip("ˈˌ") == "" and (not after or not after.isalpha()):
            out.append("i")  # the short one at the end of "happy"
        else:
            out.append(IPA.get(c, c))
    return out


class PiperSpeech:
    """A Piper voice for the synthesizer."""

    def __init__(self, path: str | Path, threads: int = 1, device: str = "cpu") -> None:
        """`path` is a folder of `speechstream.tts.piper.split`, or a voice's .onnx beside its .json (which needs
        `onnx`)."""
        self.piper = PiperVoice.load(path, threads, device)
        config = self.piper.config
        self.sample_rate, self.card = (
            self.piper.sample_rate,
            {"name": config.get("dataset", Path(path).stem)},
        )
        language = config.get("language", {}).get("code") or config.get("espeak", {}).get(
            "voice", "en-us"
        )
        quality = config.get("audio", {}).get("quality", "")
        names = sorted(self.piper.speakers, key=self.piper.speakers.get) or [
            str(i) for i in range(config.get("num_speakers", 1))
        ]
        if len(names) == 1:
            names = [config.get("dataset") or Path(path).stem]
        self.speakers = tuple(
            VoiceInfo(n, language.replace("_", "-"), f"Piper {quality}".strip()) for n in names
        )
        self.english = language.lower().startswith("en")
        self._front = (
            {markup: FrontEnd(markup=markup) for markup in (True, False)} if self.english else None
        )

    def utterances(self, clause: Clause, markup: bool) -> list[Utterance]:
        return self._front[markup](clause) if self._front else self._espeak(clause, markup)

    def start(self, controls: Controls) -> "_Speaking":
        if controls.pitch or controls.energy:
            raise ValueError("a Piper voice has no control of pitch or energy; leave them at 0")
        return _Speaking(self, find_speaker(self.speakers, controls.voice), controls)

    def _espeak(self, clause: Clause, markup: bool) -> list[Utterance]:
        """A clause in another language: its words with espeak-ng's phonemes, markup taken out."""
        text, places, pauses = _visible(clause, markup)
        found = [m for m in re.finditer(r"\S+", text)]
        sounds = self.piper.phonemize(text).split()
        if len(sounds) != len(found):  # espeak-ng has joined or split words: ask for each by itself
            sounds = [self.piper.phonemize(m[0]).replace(" ", "") for m in found]
        phonemes, words, breaks = "", [], []
        for m, sound in zip(found, sounds):
            while pauses and pauses[0][0] <= m.start():
                breaks.append((len(phonemes), pauses.pop(0)[1]))
            if not sound:
                continue
            phonemes += " " if phonemes else ""
            words.append(
                SpokenWord(
                    m[0],
                    sound,
                    places[m.start()],
                    places[m.end() - 1] + 1,
                    len(phonemes),
                    len(phonemes) + len(sound),
                )
            )
            phonemes += sound
        breaks += [(len(phonemes), seconds) for _, seconds in pauses]
        if not MARKS.sub("", phonemes).strip() and not breaks:
            return []
        ones = np.ones(len(phonemes), np.float32)
        return [
            Utterance(
                phonemes,
                tuple(words),
                clause.start,
                clause.end,
                clause.kind,
                tuple(breaks),
                ones,
                0 * ones,
                0 * ones,
            )
        ]


class _Speaking:
    """One stream of a Piper voice. Nothing is carried from one utterance to the next."""

    def __init__(self, voice: PiperSpeech, speaker: int, controls: Controls) -> None:
        self.voice, self.speaker, self.controls, self._first = voice, speaker, controls, True

    def speak(self, utterance: Utterance) -> Spoken:
        piper = self.voice.piper
        symbols = to_ipa(utterance.phonemes) if self.voice.english else list(utterance.phonemes)
        ids, owner = piper.phoneme_ids("")[:2], [-1, -1]  # beginning and its pad
        for i, symbol in enumerate(symbols):
            inner = piper.phoneme_ids(symbol, strict=False)[2:-1]
            ids += inner
            owner += [i] * len(inner)
        ids += piper.phoneme_ids("")[2:]
        owner += [len(symbols)] * (len(ids) - len(owner))
        speed = (
            float(np.mean(utterance.speed)) * self.controls.speed
            if len(utterance.speed)
            else self.controls.speed
        )
        latents = piper.latents(ids, speed=min(max(speed, 0.1), 10.0), speaker=self.speaker)
        first = FIRST_BLOCK if self._first else BLOCK
        self._first = False
        pcm = piper.decode(latents, 0, first)
        hop = len(pcm) / max(min(first, latents.frames), 1)
        ends = np.cumsum(latents.durations) * hop / self.voice.sample_rate
        # a symbol begins where the last id of those before it ends; one without ids has no length
        last = np.searchsorted(np.asarray(owner), np.arange(len(symbols) + 1), side="left")
        starts = np.where(last > 0, ends[np.maximum(last - 1, 0)], 0.0)
        return Spoken(starts, self._blocks(latents, pcm, first))

    def rest(self) -> None:
        self._first = True

    def finish(self) -> np.ndarray:
        return np.zeros(0, np.float32)

    def _blocks(self, latents: Latents, pcm: np.ndarray, at: int) -> Iterator[np.ndarray]:
        yield pcm
        while at < latents.frames:
            yield self.voice.piper.decode(latents, at, at + BLOCK)
            at += BLOCK


def _visible(clause: Clause, markup: bool) -> tuple[str, list[int], list[tuple[int, float]]]:
    """A clause without its markup, the place of each character in the whole text, and (index, seconds) of breaks."""
    text, out, places, pauses, at = clause.text, [], [], [], 0
    while at < len(text):
        tag, end = (ssml.match(text, at, True) if markup and text[at] in "<[" else None) or (
            None,
            at,
        )
        if tag is None:
            entity = ssml.ENTITY.match(text, at) if markup else None
            piece = html.unescape(entity[0]) if entity else text[at]
            end = entity.end() if entity else at + 1
        else:
            piece = " "
            if tag.name == "break":
                pauses.append((len(out), ssml.seconds(tag)))
        out += piece
        places += [clause.start + at] * len(piece)
        at = end
    return "".join(out), places, pauses
