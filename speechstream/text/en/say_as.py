"""`<say-as interpret-as="...">` in English: what a text is in words where the writer says what it is."""

from __future__ import annotations

import re

from speechstream.text.en import numbers

MONTHS = (
    "January February March April May June July August September October November December".split()
)
ORDERS = {
    "mdy": "mdy",
    "dmy": "dmy",
    "ymd": "ymd",
    "md": "md",
    "dm": "dm",
    "my": "my",
    "ym": "ym",
    "y": "y",
}


def words_as(how: str, text: str, form: str = "") -> list[str] | None:
    """The words of a text that is digits, a telephone, cardinal or ordinal number or a date (`form`: the order of its
    parts, such as "dmy"). Marks stand between them. None: it is no such thing, and is to be read as any text."""
    text = text.strip()
    if how == "digits":
        return _digits(text)
    if how == "telephone":
        return _telephone(text)
    if how in ("cardinal", "number"):
        return _cardinal(text)
    if how == "ordinal":
        found = re.fullmatch(r"([\d,]+)(?:st|nd|rd|th)?\.?", text)
        return numbers.ordinal(found[1].replace(",", "")) if found else None
    if how == "date":
        return _date(text, form.lower())
    return None


def _digits(text: str) -> list[str] | None:
    if not any(c.isascii() and c.isdigit() for c in text):
        return None
    out: list[str] = []
    for c in text:
        if c.isascii() and c.isdigit():
            out += numbers.digits(c)
        elif c == ".":
            out.append("point")
    return out[:-1] if out[-1] == "point" else out


def _telephone(text: str) -> list[str] | None:
    """Digits in the groups in which they are written."""
    out: list[str] = []
    for group in re.findall(r"\+|\d+|[A-Za-z]+", text):
        if group == "+":
            out.append("plus")
        elif group.isdigit():
            if out and out[-1] not in ("plus", "extension"):
                out.append(",")
            out += [w for c in group if c.isascii() for w in numbers.digits(c)]
        elif group.lower() in ("ext", "x", "extension"):
            out += [",", "extension"]
        else:
            return None
    return out or None


def _cardinal(text: str) -> list[str] | None:
    found = re.fullmatch(r"([-\u2212+]?)(\d[\d,]*)(?:\.(\d+))?", text)
    if found is None:
        return None
    sign = {"": [], "+": ["plus"]}.get(found[1], ["minus"])
    words = [*sign, *numbers.cardinal(found[2].replace(",", ""))]
    if found[3]:
        words += ["point", *(w for c in found[3] for w in numbers.digits(c))]
    return words


def _date(text: str, form: str) -> list[str] | None:
    parts = re.findall(r"\d+", text)
    if not parts or not re.fullmatch(r"[\d\s./-]+", text):
        return None
    order = (
        form
        if form in ORDERS
        else "ymd"
        if len(parts[0]) == 4
        else "mdy"
        if len(parts) == 3
        else ""
    )
    if len(order) != len(parts):
        return None
    values = {kind: int(part) for kind, part in zip(order, parts)}
    month, day = values.get("m"), values.get("d")
    if month is not None and not 1 <= month <= 12 or day is not None and not 1 <= day <= 31:
        return None
    words = [] if month is None else [MONTHS[month - 1]]
    words += [] if day is None else numbers.ordinal(str(day))
    if "y" in values:
        words += ([","] if day is not None else []) + _year(values["y"])
    return words


def _year(value: int) -> list[str]:
    if value >= 10000 or value % 1000 < 10 or value < 100:
        return numbers.cardinal(str(value))
    high, low = divmod(value, 100)
    if not low:
        return [*numbers.cardinal(str(high)), "hundred"]
    tens = numbers.cardinal(str(low)) if low >= 10 else ["oh", *numbers.cardinal(str(low))]
    return [*numbers.cardinal(str(high)), *tens]
