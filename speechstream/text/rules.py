"""Words by which a language's clauses are found."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module

_RULES = {"en": "speechstream.text.en.endings:RULES"}
DEFAULT = "en"  # for languages without rules of their own


@dataclass(frozen=True)
class Rules:
    """Small letters. All but the last two are abbreviations without their last full stop."""

    never_end: frozenset[str]  # a sentence ("Mr.")
    before_number: frozenset[str]  # ("no. 5")
    months_and_days: frozenset[str]
    may_end: frozenset[str]  # a sentence ("Inc.")
    starters: frozenset[str]  # words that begin sentences
    conjunctions: frozenset[str]  # words before which a phrase may end


@lru_cache(maxsize=32)
def rules_of(language: str) -> Rules:
    """The rules of a language tag, such as "en-US"."""
    name = language.replace("_", "-").partition("-")[0].lower()
    module, _, constant = _RULES.get(name, _RULES[DEFAULT]).partition(":")
    found: Rules = getattr(import_module(module), constant)
    return found
