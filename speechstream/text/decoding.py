"""Characters of text that comes in pieces: UTF-8 and surrogate pairs that were cut anywhere."""

from __future__ import annotations

import codecs
from dataclasses import replace
from typing import Any, TypeVar

S = TypeVar("S", bound=Any)


def decode(piece: str | bytes, state: S, final: bool = False) -> tuple[str, S]:
    """Characters of a piece: UTF-8 across pieces, and surrogate pairs that were split between two strings.

    The state is a dataclass with `undecoded` and `surrogate`, as in `TextState`. Raises ValueError for other types.
    """
    if isinstance(piece, str):
        text = state.surrogate
        if (
            state.undecoded and piece
        ):  # a string after half a character: that half can never be completed
            text += "\ufffd"
            state = replace(state, undecoded=())
        text, held = text + piece, ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, held = text[:-1], text[-1]
        if any("\ud800" <= c <= "\udfff" for c in text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text, replace(state, surrogate=held)
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise ValueError(
            f"text comes as str or as UTF-8 bytes, given {type(piece).__name__}: decode it first"
        )
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(bytes(state.undecoded) + bytes(piece), final)
    if state.surrogate and (text or final):
        text = "\ufffd" + text
        state = replace(state, surrogate="")
    return text, replace(state, undecoded=tuple(decoder.getstate()[0]))
