"""JSON from strangers: what cannot be used gives one sentence, in words that are no Python's."""

from __future__ import annotations

import json
from typing import Any

DIGITS = 1000  # of a number: more than any float has, and fewer than Python refuses to read


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a number may have {DIGITS} digits, one has {len(digits)}")
    return int(digits)


_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_int=_whole)
_WITH_CONSTANTS = json.JSONDecoder(parse_int=_whole)


def loads(text: str | bytes | bytearray, constants: bool = False) -> Any:
    """A value of JSON. Raises ValueError, whose text goes on behind "the body is not JSON: ".

    constants: take NaN and Infinity, as `json.loads` does, where each field is judged by itself.
    """
    try:
        if isinstance(text, (bytes, bytearray)):
            text = text.decode("utf-8")
        return (_WITH_CONSTANTS if constants else _DECODER).decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
