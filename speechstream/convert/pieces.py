"""The bytes that each token of a text vocabulary writes: of a SentencePiece model, or of a tokenizer.json made of one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from speechstream.config import Section, read_value
from speechstream.convert.stored import read_json
from speechstream.errors import SpeechStreamError

MOST_MODEL = 64 << 20  # bytes
SPACE = "\u2581"
NORMAL, USER_DEFINED, BYTE = 1, 4, 6  # kinds of pieces; the others write nothing
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def from_sentencepiece(path: Path) -> list[bytes]:
    """Of a SentencePiece model. Raises SpeechStreamError for what is none.

    The file is a protocol buffer whose first field repeats: a piece with its text (1), its score (2) and its kind (3).
    """
    try:
        if path.stat().st_size > MOST_MODEL:
            raise SpeechStreamError(f"{path} is too long to be what its name says")
        data = path.read_bytes()
        found = [_piece(message) for field, message in _fields(data) if field == 1]
    except OSError as error:
        raise SpeechStreamError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError) as error:
        raise SpeechStreamError(f"{path} is damaged: it is no SentencePiece model") from error
    if not found:
        raise SpeechStreamError(f"{path} has no pieces: it is no SentencePiece model")
    return found


def from_tokenizer_json(path: Path) -> list[bytes]:
    """Of a tokenizer.json whose pieces are SentencePiece's. Raises SpeechStreamError for another."""
    try:
        whole = Section(read_json(path), path.name)
        model = whole.section("model")
        vocabulary = model.raw("vocab")
        if isinstance(vocabulary, dict):
            ids = read_value(dict[str, int], vocabulary, "vocab")
        elif isinstance(vocabulary, list):
            entries = read_value(tuple[tuple[str, float], ...], vocabulary, "vocab")
            ids = {piece: i for i, (piece, _) in enumerate(entries)}
            if len(ids) != len(entries):
                raise ValueError("a piece stands twice in its vocabulary")
        else:
            raise ValueError("its vocabulary is missing")
        silent = set()
        for n, entry in enumerate(whole.raw("added_tokens") or ()):
            one = Section(entry, f"added_tokens[{n}]")
            ids[one.text("content")] = one.integer("id")
            if one.flag("special", False):
                silent.add(one.integer("id"))
        texts = {i: piece for piece, i in ids.items()}
        if sorted(texts) != list(range(len(texts))):
            raise ValueError("its tokens are not numbered from 0 on")
    except (ValueError, TypeError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is not supported: {str(error)[:200]}") from error
    return [b"" if i in silent else _written(texts[i]) for i in range(len(texts))]


def _written(piece: str) -> bytes:
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return piece.replace(SPACE, " ").encode()


def _piece(message: bytes) -> bytes:
    text, kind = "", NORMAL
    for field, value in _fields(message):
        if field == 1:
            text = value.decode("utf-8")
        elif field == 3:
            kind = value[0]
    if kind == BYTE and not _BYTE.fullmatch(text):
        raise ValueError("a byte that is none")
    return _written(text) if kind in (NORMAL, USER_DEFINED, BYTE) else b""


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a protocol buffer: their numbers and, of a varint, its lowest byte, of others, their bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, bytes([value & 0xFF])
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, at = _varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError("truncated")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number without end")
