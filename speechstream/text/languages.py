"""Text front ends by language: the only way from outside to what is particular to one.

front = front_end("en-US")
for utterance in front(clause): front.encode(utterance.phonemes)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.text.clauses import Clause
from speechstream.text.rules import ReadingOptions
from speechstream.text.utterance import Utterance

_FRONT_ENDS = {"en": "speechstream.text.en.phonemes:FrontEnd"}
_PHONEMES = {"en": "speechstream.text.en.phonemes:from_ipa"}


class FrontEnd(Protocol):
    """Clauses to symbols. It remembers nothing, so one serves any number of streams and threads."""

    symbols: tuple[
        str, ...
    ]  # its inventory; an index is a symbol's id, and new ones are put at the end

    def __call__(self, clause: Clause) -> list[Utterance]:
        """The utterances of a clause; none where nothing is to be spoken."""

    def encode(self, phonemes: str) -> np.ndarray:
        """Symbols to int64 ids (N,). Raises ValueError for those outside the inventory."""

    def ipa(self, phonemes: str) -> list[str]:
        """Symbols as espeak-ng writes them, one string (perhaps empty) for each."""


def speaks(language: str) -> bool:
    """Whether there is a front end for a language tag, such as "en-US" or "de"."""
    return _primary(language) in _FRONT_ENDS


def symbols(language: str) -> tuple[str, ...]:
    """The inventory of a language's front end, without its dictionaries. Raises SpeechStreamError."""
    found: tuple[str, ...] = _class(language).symbols
    return found


def phonemes_from(language: str) -> Callable[[str], tuple[str, str]]:
    """How phonemes as a person writes them become those of a language: (phonemes, the characters that it has not)."""
    name = _PHONEMES.get(_primary(language))
    if name is None:
        return lambda text: (text, "")
    module, _, function = name.partition(":")
    found: Callable[[str], tuple[str, str]] = getattr(import_module(module), function)
    return found


@lru_cache(maxsize=8)
def front_end(
    language: str, markup: bool = True, options: ReadingOptions | None = None
) -> FrontEnd:
    """The front end of a language tag.

    `markup`: whether it reads SSML and [[phonemes]]. `options`: the user's choices of reading, see `rules.ReadingOptions`.

    Raises SpeechStreamError for a language that has none.
    """
    made: FrontEnd = _class(language)(markup=markup, options=options)
    return made


def _class(language: str) -> Any:
    if not speaks(language):
        raise SpeechStreamError(
            f"text in {language!r} cannot be read; there are front ends for {', '.join(_FRONT_ENDS)}"
        )
    module, _, name = _FRONT_ENDS[_primary(language)].partition(":")
    return getattr(import_module(module), name)


def _primary(language: str) -> str:
    return language.replace("_", "-").partition("-")[0].lower()
