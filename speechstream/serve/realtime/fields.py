"""Values of a client's JSON, checked, with the sentence for those that are wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

MOST_TEXT = 100_000  # characters of instructions
MOST_KEYWORDS = 200


class Invalid(ValueError):
    """A client's mistake. param: the path of the field at fault."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value"):
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


def short(value: Any) -> str:
    """A value for a message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{path} must be an object, got {short(value)}", path, "invalid_type")
    return value


def text(value: Any, path: str, most: int = MOST_TEXT) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{path} must be a string, got {short(value)}", path, "invalid_type")
    if len(value) > most:
        raise Invalid(f"{path} has {len(value)} characters, at most {most} are taken", path)
    return value


def strings(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST_KEYWORDS:
        raise Invalid(
            f"{path} must be an array of at most {MOST_KEYWORDS} strings, got {short(value)}", path
        )
    return tuple(text(v, path, 200) for v in value)


def number(value: Any, path: str, least: float, most: float) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or not least <= value <= most:
        raise Invalid(f"{path} must be a number from {least} to {most}, got {short(value)}", path)
    return float(value)


def whole(value: Any, path: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise Invalid(
            f"{path} must be a whole number from {least} to {most}, got {short(value)}", path
        )
    return value


def choice(value: Any, path: str, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise Invalid(f"{path} must be one of {', '.join(known)}, got {short(value)}", path)
    return value
