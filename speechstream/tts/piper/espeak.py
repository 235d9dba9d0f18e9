"""Phonemes from espeak-ng, where the user has installed it: never a dependency, for it is GPL-3.0.

`EspeakFrontEnd` reads with it the languages that have no front end of ours.

`piper-phonemize` is used where it is installed, else the library that `espeakng-loader` brings, called through ctypes.
"""

from __future__ import annotations

import ctypes
import importlib
import re
import threading
from collections.abc import Callable

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.text.clauses import Clause
from speechstream.text.utterance import SpokenWord, Utterance
from speechstream.text.visible import visible

MARKS = ".,;:!?"  # kept between the phonemes: the voices were trained with them
SOFT_MARKS = re.compile(r"[.,;:!?…—]")
_AUDIO_RETRIEVAL, _NO_EXIT, _UTF8, _IPA = 1, 0x8000, 1, 2  # of espeak-ng's speak_lib.h
_lock = threading.Lock()  # the library has one global voice
_library: ctypes.CDLL | None = None


def phonemize(text: str, voice: str = "en-us") -> str:
    """Text to IPA with stress and punctuation, in espeak-ng's `voice`.

    Raises SpeechStreamError where neither package is installed or the voice is unknown.
    """
    try:
        module = importlib.import_module("piper_phonemize")
    except ImportError:
        return " ".join(
            filter(None, (_clause(words, mark, voice) for words, mark in _clauses(text)))
        )
    return " ".join("".join(sentence) for sentence in module.phonemize_espeak(text, voice))


def _clauses(text: str) -> list[tuple[str, str]]:
    """Words and the mark that ends them. A mark within a word or a number is left to espeak-ng."""
    parts = re.split(rf"([{re.escape(MARKS)}]+)(?=\s|$)", text)
    return [
        (parts[i].strip(), parts[i + 1][0] if i + 1 < len(parts) else "")
        for i in range(0, len(parts), 2)
    ]


def _clause(words: str, mark: str, voice: str) -> str:
    if not words:
        return ""
    with _lock:
        library = _load()
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SpeechStreamError(f"espeak-ng has no voice {voice!r}")
        buffer = ctypes.create_string_buffer(words.encode())
        pointer, pieces = ctypes.c_void_p(ctypes.addressof(buffer)), []
        while pointer.value:
            piece = library.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, _IPA)
            pieces.append((piece or b"").decode())
    return (
        re.sub(r"\([a-z-]+\)", "", " ".join(filter(None, pieces))).strip() + mark
    )  # "(en)" marks a foreign word


def _load() -> ctypes.CDLL:
    global _library
    if _library is None:
        try:
            loader = importlib.import_module("espeakng_loader")
        except ImportError:
            raise SpeechStreamError(
                "a Piper voice of this language needs espeak-ng to read text: pip install speechstream[piper] "
                "(espeak-ng is GPL-3.0)"
            ) from None
        library = ctypes.CDLL(str(loader.get_library_path()))
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        library.espeak_TextToPhonemes.argtypes = [
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_int,
            ctypes.c_int,
        ]
        if (
            library.espeak_Initialize(
                _AUDIO_RETRIEVAL, 0, str(loader.get_data_path()).encode(), _NO_EXIT
            )
            < 0
        ):
            raise SpeechStreamError("espeak-ng did not start: its data files were not found")
        _library = library
    return _library


class EspeakFrontEnd:
    """Clauses to espeak-ng's phonemes, markup taken out. phonemize: text to IPA."""

    def __init__(self, phonemize: Callable[[str], str], markup: bool):
        self.phonemize, self.markup = phonemize, markup

    def ipa(self, phonemes: str) -> list[str]:
        """The symbols themselves."""
        return list(phonemes)

    def __call__(self, clause: Clause) -> list[Utterance]:
        """The utterance of a clause, or none where nothing is to be spoken."""
        seen = visible(clause, self.markup)
        text, places, pauses = seen.text, seen.places, list(seen.pauses)
        found = list(re.finditer(r"\S+", text))
        sounds = self.phonemize(text).split()
        if len(sounds) != len(found):  # espeak-ng has joined or split words: ask for each by itself
            sounds = [self.phonemize(m[0]).replace(" ", "") for m in found]
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
        if not SOFT_MARKS.sub("", phonemes).strip() and not breaks:
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
                seen.warnings,
            )
        ]
