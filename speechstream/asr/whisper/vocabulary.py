"""Token ids to text. A byte-level BPE needs its merges only to encode; a recogniser only decodes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from speechstream.config import read
from speechstream.errors import SpeechStreamError


@lru_cache
def _bytes_of() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: printable Latin-1 stands for itself, others from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


@dataclass(frozen=True)
class Stored:
    """vocabulary.json."""

    pieces: tuple[str, ...]  # in GPT-2's stand-ins for bytes
    end: int
    prompt: tuple[int, ...]

    def __post_init__(self) -> None:
        strange = set("".join(self.pieces[: self.end])) - set(_bytes_of())
        if strange:
            raise ValueError(f"its pieces hold {min(strange)!r}, which stands for no byte")
        if not all(0 <= i < len(self.pieces) for i in (self.end, *self.prompt)):
            raise ValueError("its prompt or its end is no piece")


class Vocabulary:
    """The pieces of a decoder: `prompt` starts a transcript, `end` closes it, ids from `end` on are never text."""

    def __init__(self, path: Path):
        try:
            found = read(Stored, json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise SpeechStreamError(f"{path} is not a vocabulary: {error}") from error
        self.end, self.prompt, self.size = found.end, list(found.prompt), len(found.pieces)
        table = _bytes_of()
        self.pieces = [bytes(table[c] for c in p) for p in found.pieces[: self.end]]
        self.opens_word = [p[:1] == b" " for p in self.pieces]

    def text(self, ids: list[int]) -> str:
        return (
            b"".join(self.pieces[i] for i in ids if i < self.end)
            .decode("utf-8", errors="replace")
            .strip()
        )

    def words(self, ids: list[int]) -> list[tuple[int, int]]:
        """Spans (first, last + 1) of the ids that make up each word; marks belong to the word before them."""
        starts = [
            n
            for n, i in enumerate(ids)
            if n == 0 or (self.opens_word[i] and self._has_letter(ids, n))
        ]
        return list(zip(starts, [*starts[1:], len(ids)]))

    def _has_letter(self, ids: list[int], n: int) -> bool:
        """Whether the word that piece n opens holds a letter or digit: a lone dash is no word."""
        for i in ids[n : n + 1] + list(ids[n + 1 : n + 4]):
            if i != ids[n] and self.opens_word[i]:
                break
            if any(chr(b).isalnum() or b > 127 for b in self.pieces[i]):
                return True
        return False
