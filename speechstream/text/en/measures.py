"""Expressions of units, and what they are called: km/h is kilometers per hour."""

from __future__ import annotations

import re

from speechstream.text.en import numbers as n, units
from speechstream.text.en.patterns import alternatives

UNIT = alternatives({**units.UNITS, **units.PER})
POWER = r"(?:[\u00b2\u00b3]|\^?[23](?![\w.]))?"
FACTOR = rf"(?:{UNIT}){POWER}"
HEAD = rf"(?:{alternatives(units.UNITS)}){POWER}"
PRODUCT = rf"{FACTOR}(?:[\u00b7\u22c5\u2022]{FACTOR})*"
EXPRESSION = rf"{HEAD}(?:[\u00b7\u22c5\u2022]{FACTOR})*(?:\s?/\s?(?:{FACTOR}|\({PRODUCT}\)))*"
PARTS = re.compile(rf"({UNIT})({POWER})$")
POWERS = {"\u00b2": 2, "\u00b3": 3, "2": 2, "3": 3, "^2": 2, "^3": 3}
# What money is paid for, besides those of `units.PER`.
PRICED = {
    **units.PER,
    "l": "liter",
    "ml": "milliliter",
    "mL": "milliliter",
    "g": "gram",
    "m\u00b2": "square meter",
    "m2": "square meter",
    "sqm": "square meter",
    "m\u00b3": "cubic meter",
    "t": "tonne",
    "ha": "hectare",
    "acre": "acre",
    "bbl": "barrel",
    "barrel": "barrel",
    "kWh": "kilowatt hour",
    "MWh": "megawatt hour",
    "sq. ft.": "square foot",
    "sqft": "square foot",
    "yd": "yard",
    "ft": "foot",
    "pp": "person",
    "GB": "gigabyte",
    "TB": "terabyte",
    "btl": "bottle",
    "bottle": "bottle",
    "serving": "serving",
}


def expression(text: str, single: bool) -> list[str]:
    """The words of a unit: km/h is kilometers per hour, m/s\u00b2 meters per second squared."""
    above, *below = re.split(r"\s?/\s?", text)
    words: list[str] = []
    factors = re.split("[\u00b7\u22c5\u2022]", above)
    for i, factor in enumerate(factors):
        words += _factor(factor, single or i + 1 < len(factors))
    for divisor in below:
        words.append("per")
        for factor in re.split("[\u00b7\u22c5\u2022]", divisor.strip("()")):
            words += _factor(factor, True)
    return words


def _factor(text: str, single: bool) -> list[str]:
    m = PARTS.match(text)
    assert m is not None
    symbol, power = m[1], POWERS.get(m[2])
    if power is None and text in units.UNITS:
        symbol = text
    words = unit_words(symbol, single)
    if not power:
        return words
    if words[-1].endswith(
        ("meter", "meters", "foot", "feet", "inch", "inches", "yard", "yards", "mile", "miles")
    ):
        return ["square" if power == 2 else "cubic", *words]
    return [*words, "squared" if power == 2 else "cubed"]


def unit_words(symbol: str, single: bool) -> list[str]:
    """'km' -> kilometers; 'mph' -> miles per hour: the first noun takes the plural."""
    words = (units.UNITS.get(symbol) or units.PER[symbol]).split()
    if (
        single
        or all(w.isupper() for w in words)
        or words[-1] == "mercury"
        and words[0].endswith("s")
    ):
        return words
    stops = ("per", "of", "celsius", "fahrenheit")
    at = next((i - 1 for i, w in enumerate(words) if w in stops), len(words) - 1)
    words[at] = n.plural(words[at])
    return words
