"""Words by which a language's clauses are found, and what a user may choose of how text is read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

_RULES = {"en": "speechstream.text.en.endings:RULES"}
DEFAULT = "en"  # for languages without rules of their own


@dataclass(frozen=True)
class Rules:
    """Small letters. Those up to `may_end` are abbreviations without their last full stop."""

    never_end: frozenset[str]  # a sentence ("Mr.")
    before_number: frozenset[str]  # ("no. 5")
    months_and_days: frozenset[str]
    may_end: frozenset[str]  # a sentence ("Inc.")
    starters: frozenset[str]  # words that begin sentences
    conjunctions: frozenset[str]  # words before which a phrase may end
    states: frozenset[str] = (
        frozenset()
    )  # capitals that end a sentence behind a town and a comma ("CA")
    answered: frozenset[str] = frozenset()  # words before a "no." that is an answer, not a number
    asked: frozenset[str] = frozenset()  # the same, before a small "no."
    after_number: frozenset[str] = frozenset()  # abbreviations only behind a number ("10 in.")
    before_small: frozenset[str] = frozenset()  # end a sentence only before a capital ("tsp.")
    halves: frozenset[str] = frozenset()  # of the day ("p.m.")
    after_time: frozenset[str] = frozenset()  # capitals that go on behind them ("Eastern")
    number_of: frozenset[str] = frozenset()  # words before a "no." that is a number ("tel. no.")
    books_of_two: frozenset[str] = frozenset()  # ("2 Tim. 3:16")
    by_someone: frozenset[str] = frozenset()  # go on before a name ("ed. Smith"),
    edition: frozenset[str] = frozenset()  # but not behind these, or an ordinal ("rev. ed. Smith")
    before_code: frozenset[str] = frozenset()  # go on before three capitals ("dep. LAX")
    only_capital: frozenset[str] = frozenset()  # abbreviations only with a capital ("Cat. 4")
    factorials: frozenset[str] = frozenset()  # letters behind which "!" may be a factorial
    phrased: frozenset[str] = frozenset()  # go on before another of them ("Fed. R. Civ.")
    counted: frozenset[str] = frozenset()  # and of these, before a number ("Supp. 2d")
    before_name: frozenset[str] = frozenset()  # with a capital, go on before a name ("Ch. Margaux")


@dataclass(frozen=True)
class ReadingOptions:
    """How text is read where that is a matter of choice.

    `date_order`: "mdy", "dmy" or "ymd", for 03/05/2024 and the like. `as_words` and `as_letters`: capitals that are said as a
    word ("SQL") or letter by letter ("GIF"), whatever the dictionary says; any case. Raises ValueError for another order.
    """

    date_order: str = "mdy"
    as_words: frozenset[str] = frozenset()
    as_letters: frozenset[str] = frozenset()

    def __post_init__(self):
        if self.date_order not in ("mdy", "dmy", "ymd"):
            raise ValueError(
                f'the order of dates is "mdy", "dmy" or "ymd", given {self.date_order!r}'
            )
        for name in ("as_words", "as_letters"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise ValueError(f"{name} is a set of words, given one string: {given!r}")
            object.__setattr__(self, name, frozenset(w.upper() for w in given))


@lru_cache(maxsize=32)
def rules_of(language: str) -> Rules:
    """The rules of a language tag, such as "en-US"."""
    name = language.replace("_", "-").partition("-")[0].lower()
    module, _, constant = _RULES.get(name, _RULES[DEFAULT]).partition(":")
    found: Rules = getattr(import_module(module), constant)
    return found


@dataclass(frozen=True)
class TextConfig:
    """Where clauses may end, in visible characters. The first clause of a text has its own, smaller limits."""

    markup: bool = True  # read SSML and [[phonemes]]; otherwise `<` and `[` are text
    first_soft: int = 12  # first clause: may end at a comma from here on
    first_phrase: int = 48  # ... before a conjunction or preposition from here on
    first_hard: int = 90  # ... at any space from here on
    soft: int = 80  # later clauses: the same three
    phrase: int = 160
    hard: int = 240
    longest: int = 320  # a clause ends here even inside a word
    language: str = "en"  # whose abbreviations and small words are known

    def __post_init__(self):
        if (
            not 0 < self.first_soft <= self.first_phrase <= self.first_hard <= self.longest
            or not 0 < self.soft <= self.phrase <= self.hard <= self.longest
        ):
            raise ValueError(
                f"clause limits must grow from soft over phrase and hard to longest, given {self}"
            )
