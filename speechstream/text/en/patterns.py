"""What the rules of written numbers share: patterns, their table, and the words around a number.

A rule is a pattern and a handler `(match, context) -> words | pieces | None`. A piece is `(words, start, end)` with places in
the text; None leaves the number to the next rule. A word in capitals (`"A M"`) is to be spelled, "," is a short pause.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from speechstream.text.en import numbers as n, parts_of_speech
from speechstream.text.rules import ReadingOptions

Piece = tuple[list[str], int, int]

INT = r"\d{1,3}(?:,\d{3})+(?!\d)|\d{1,2}(?:,\d\d)+,\d{3}(?!\d)|\d+"
NUM = rf"(?:(?:{INT})(?:\.\d+)?|\.\d+)"
SIGN = r"(?:[-\u2212+\u00b1](?=[\d.$\u00a3\u20ac\u00a5]))?"
DASH = r"[-\u2010-\u2013\u2212]"
END = r"(?![^\W_])"
MAGNITUDE = r"lakh|crore|hundred|thousand|million|billion|trillion"
SIGN_WORDS = {
    "-": ["minus"],
    "\u2212": ["minus"],
    "\u00b1": ["plus", "or", "minus"],
    "+": ["plus"],
}
ARTICLES = frozenset("a an the this that each another one my your his her its our their".split())
ROUTES = frozenset("IV IM PO SC BID TID QID PRN".split())  # gave her 4 mg IV
CONTRACTED = frozenset(
    "it's that's he's she's there's what's here's who's where's let's one's how's".split()
)
DEALS = frozenset(  # before these an amount has the singular also without an article
    "deal contract loan lawsuit fund budget settlement extension investment grant bailout buyout acquisition merger "
    "takeover valuation mansion jackpot bond bill verdict judgment ransom donation endowment mortgage offer bid".split()
)
FOLLOWING = re.compile(r" ([A-Za-z]+)")


@dataclass(frozen=True)
class Context:
    """What stands before a number: the last words and marks in small letters, nearest last, and the user's options."""

    words: tuple[str, ...] = ()
    options: ReadingOptions = ReadingOptions()

    @property
    def before(self) -> str:
        """The word or mark before the number; "" at the beginning."""
        return self.words[-1] if self.words else ""


class Rules:
    """Rules in the order in which they are tried: the more specific first, and before all those behind a certain word.

    rare: few numbers match any of them, so that one pattern of them all is tried first; they have no back-references.
    """

    def __init__(self, rare: bool = False) -> None:
        self.rules: list[tuple[re.Pattern, Callable]] = []
        self.behind: dict[str, list[tuple[re.Pattern, Callable]]] = {}
        self.rare = rare
        self.gate: re.Pattern | None = None

    def __call__(self, pattern: str, flags: int = 0) -> Callable:
        """A decorator that registers a handler for what the pattern matches."""

        def add(handler: Callable) -> Callable:
            self.rules.append((re.compile(pattern, flags), handler))
            return handler

        return add

    def after(self, words: Iterable[str], pattern: str) -> Callable:
        """A decorator that registers a handler for what the pattern matches right behind one of these words."""

        def add(handler: Callable) -> Callable:
            for word in words:
                self.behind.setdefault(word, []).append((re.compile(pattern), handler))
            return handler

        return add

    def read(self, text: str, at: int, context: Context) -> tuple[list[Piece], int] | None:
        """The number that begins at `at`, as pieces of words with their places in `text`, and where it ends."""
        rules: Sequence[tuple[re.Pattern, Callable]] = self.behind.get(context.before, ())
        if not self.rare or self._gate().match(text, at):
            rules = [*rules, *self.rules] if rules else self.rules
        for pattern, handler in rules:
            m = pattern.match(text, at)
            out = handler(m, context) if m else None
            if out:
                whole = isinstance(out[0], str)
                return ([(out, m.start(), m.end())] if whole else out), m.end()
        return None

    def _gate(self) -> re.Pattern:
        """A pattern that matches where any of the rules' does."""
        if self.gate is None:
            groups = re.compile(r"(\\.|\[(?:\\.|[^\]\\])+\])|\((?!\?)")
            texts = (groups.sub(lambda m: m[1] or "(?:", p.pattern) for p, _ in self.rules)
            self.gate = re.compile("|".join(f"(?:{text})" for text in texts))
        return self.gate


def following(m: re.Match) -> str:
    """The word after a match and one space, as written; "" if there is none."""
    found = FOLLOWING.match(m.string, m.end())
    return found[1] if found else ""


def qualifies(m: re.Match, context: Context) -> bool:
    """Whether an amount stands before a noun, as in `a $5 bill`: then its unit is in the singular."""
    noun = following(m)
    return (
        (
            context.before in ARTICLES
            or context.before.endswith("'s")
            and context.before not in CONTRACTED
        )
        and (noun.islower() or noun.isupper() and len(noun) > 1 and noun not in ROUTES)
        and noun not in parts_of_speech.FUNCTION
        and noun not in ("thereafter", "afterwards", "afterward", "onward", "onwards", "instead")
        and not noun.endswith("ly")
    )


def number(text: str) -> list[str]:
    """A number with sign, commas or decimals."""
    sign = SIGN_WORDS.get(text[:1], [])
    return sign + n.decimal(text[1:] if sign else text)


def is_one(text: str) -> bool:
    """Whether a number takes the singular."""
    return text.lstrip("-+\u2212\u00b1") == "1"


def plain(text: str) -> list[str]:
    """A bare integer: a year from 1100 to 2099, digits after a leading zero or from ten digits on, else a cardinal."""
    if "," in text:
        return n.cardinal(text.replace(",", ""))
    if len(text) > 1 and text.startswith("0"):
        return n.digits(text)
    if len(text) >= 10 and not text.endswith("000000"):
        return n.digits(text)  # the number of something
    if len(text) == 4 and 1100 <= int(text) <= 2099:
        return n.year(int(text))
    return n.cardinal(text)


def exponent(text: str) -> list[str]:
    """2 -> squared, 3 -> cubed, 5 -> to the fifth, -1 -> to the minus one."""
    if text in ("2", "3"):
        return ["squared"] if text == "2" else ["cubed"]
    return ["to", "the"] + (n.cardinal(text) if text.startswith("-") else n.ordinal(text))


def alternatives(words: object) -> str:
    """A pattern of words, the longest first."""
    return "|".join(sorted(map(re.escape, words), key=len, reverse=True))  # type: ignore[call-overload]
