"""Tokens that are bytes to text: a letter may need several, of a tekken or SentencePiece vocabulary with bytes."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Vocabulary:
    """special: ids below it write nothing. pieces: the bytes of the others, in their order."""

    def __init__(self, special: int, pieces: Sequence[bytes]):
        self.special, self.pieces = special, list(pieces)

    @classmethod
    def read(cls, path: Path, size: int) -> Vocabulary:
        """Of a bundle, with `size` tokens. Raises ValueError for what is none."""
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or set(data) != {"special", "pieces"}:
            raise ValueError("its tokens are not what they should be")
        special, pieces = data["special"], data["pieces"]
        if type(special) is not int or not isinstance(pieces, list) or special < 0:
            raise ValueError("its tokens are not what they should be")
        if special + len(pieces) != size:
            raise ValueError(f"it has {special + len(pieces)} tokens, and its network {size}")
        try:
            return cls(special, [base64.b64decode(p, validate=True) for p in pieces])
        except (TypeError, binascii.Error) as error:
            raise ValueError("a token is not base64") from error

    def letters(self, ids: Sequence[int], final: bool = False) -> Iterator[tuple[int, str]]:
        """The letters, each with the index of the token that completes it; what is no UTF-8 is U+FFFD.

        final: half a letter at the end is one of those; else it waits. So is half a letter before a special token.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i, token in enumerate(ids):
            special = token < self.special
            data = b"" if special else self.pieces[token - self.special]
            yield from ((i, c) for c in decoder.decode(data, special))
        if final:
            yield from ((len(ids) - 1, c) for c in decoder.decode(b"", True))

    def text(self, ids: Sequence[int], final: bool = False) -> str:
        """The text: words with one space between them. More tokens only ever make it longer."""
        return " ".join("".join(c for _, c in self.letters(ids, final)).split())

    def words(self, ids: Sequence[int], final: bool = False) -> list[tuple[str, int, int]]:
        """Each word of `text` and its tokens [first, last + 1)."""
        out: list[tuple[str, int, int]] = []
        open_ = False
        for i, c in self.letters(ids, final):
            if c.isspace():
                open_ = False
            elif open_:
                text, first, _ = out[-1]
                out[-1] = text + c, first, i + 1
            else:
                out.append((c, i, i + 1))
                open_ = True
        return out
