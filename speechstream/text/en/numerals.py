"""Written numbers of every kind, as words: dates, times, money, units, ranges, phone numbers, versions and the rest.

`read(text, at, context)` returns what stands at `text[at]` as pieces `(words, start, end)`, and where it ends, or None. The
rules are in `attributes.py`, `everyday.py`, `trades.py`, `notation.py`, `technical.py`, `designations.py`, `codes.py`, `dates.py`, `amounts.py` and `counts.py`, and are tried in that order.
"""

from __future__ import annotations

from speechstream.text.en import (
    amounts,
    attributes,
    codes,
    counts,
    dates,
    designations,
    everyday,
    notation,
    technical,
    trades,
)
from speechstream.text.en.dates import MONTH
from speechstream.text.en.patterns import Context, Piece, exponent

__all__ = ["MONTH", "Context", "Piece", "exponent", "read"]

TABLES = (
    attributes.rule,
    everyday.rule,
    trades.rule,
    notation.rule,
    technical.rule,
    designations.rule,
    codes.rule,
    dates.rule,
    amounts.rule,
    counts.rule,
)


def read(text: str, at: int, context: Context) -> tuple[list[Piece], int] | None:
    """The number that begins at `at`, as pieces of words with their places in `text`; see the module."""
    for table in TABLES:
        found = table.read(text, at, context)
        if found:
            return found
    return None
