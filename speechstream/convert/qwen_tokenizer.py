"""Qwen's tokenizer as one tokenizer.json, with the marks that CosyVoice adds to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speechstream.convert.vocabulary import byte_level
from speechstream.errors import SpeechStreamError

MOST_BYTES = 64 << 20  # of a file
BASE = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # Qwen's own, behind its vocabulary
# What CosyVoice 2 adds, in this order, and 3 once more; its marks for phonemes are not read.
MARKS = (
    "<|endofprompt|>",
    "[breath]",
    "<strong>",
    "</strong>",
    "[noise]",
    "[laughter]",
    "[cough]",
    "[clucking]",
    "[accent]",
    "[quick_breath]",
    "<laughter>",
    "</laughter>",
    "[hissing]",
    "[sigh]",
    "[vocalized-noise]",
    "[lipsmack]",
    "[mn]",
)
MARKS_3 = ("<|endofsystem|>",)


def qwen_tokenizer(folder: Path, version: int) -> str:
    """The text of a tokenizer.json. Read from one, or from vocab.json and merges.txt. Raises SpeechStreamError."""
    if (folder / "tokenizer.json").is_file():
        found = _json(folder / "tokenizer.json")
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        found = built(folder)
    else:
        raise SpeechStreamError(
            f"{folder} has neither tokenizer.json nor vocab.json and merges.txt, without which no text is read"
        )
    model, added = (
        found.get(k) if isinstance(found, dict) else None for k in ("model", "added_tokens")
    )
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not isinstance(added, list):
        raise SpeechStreamError(f"the tokenizer of {folder} is not one of Qwen's kind")
    known = {str(a.get("content")) for a in added if isinstance(a, dict)}
    ids = [i for i in vocabulary.values() if type(i) is int]
    ids += [a["id"] for a in added if isinstance(a, dict) and type(a.get("id")) is int]
    following = max(ids, default=-1) + 1
    for mark in (*BASE, *MARKS, *(MARKS_3 if version == 3 else ())):
        if mark not in known:
            added.append(_token(following, mark))
            following += 1
    return json.dumps({**found, "added_tokens": added}, ensure_ascii=False)


def _token(number: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **flags, "special": True}


def built(folder: Path) -> dict[str, Any]:
    """A tokenizer.json, without added tokens, of vocab.json and merges.txt. Raises SpeechStreamError."""
    vocabulary = _json(folder / "vocab.json")
    if not isinstance(vocabulary, dict) or any(type(i) is not int for i in vocabulary.values()):
        raise SpeechStreamError(f"{folder / 'vocab.json'} is no vocabulary")
    lines = _text(folder / "merges.txt").splitlines()
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocabulary.keys():
            raise SpeechStreamError(
                f"{folder / 'merges.txt'} joins {' '.join(merge)[:40]!r}, which vocab.json does not know"
            )
    return {"version": "1.0", "added_tokens": [], **byte_level(vocabulary, merges, "qwen2")}


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SpeechStreamError(f"{path} is too long to be what its name says")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpeechStreamError(f"{path} cannot be read as text") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise SpeechStreamError(f"{path} is damaged: it is not JSON") from error
