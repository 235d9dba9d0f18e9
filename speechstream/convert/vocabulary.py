"""The vocabulary inside a GGUF file as a tokenizer.json, the form that the `tokenizers` library reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speechstream.errors import SpeechStreamError

SPECIAL, USER_DEFINED, BYTE = 3, 4, 6  # kinds of tokens
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How text is cut into words before pairs are merged, by llama.cpp's names: digits apart, then the words.
_CUTS = {
    "default": (False, _GPT2),
    "gpt-2": (False, _GPT2),
    "smollm": (True, _GPT2),
    "llama-bpe": (False, _WORDS % "{1,3}"),
    "llama3": (False, _WORDS % "{1,3}"),
    "qwen2": (False, _WORDS % ""),
    "tekken": (False, _CASED),
}


def from_gguf(meta: dict[str, Any], path: Path) -> tuple[str, list[str]]:
    """The text of a tokenizer.json, and the tokens. Raises SpeechStreamError for what is missing or not understood."""
    model = meta.get("tokenizer.ggml.model")
    tokens = _list(meta, "tokens", str, path)
    kinds = _list(meta, "token_type", int, path) if "tokenizer.ggml.token_type" in meta else []
    kinds = kinds or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise SpeechStreamError(f"{path}: its lists of tokens and of their kinds differ in length")
    if model == "gpt2":
        built = _byte_level(meta, tokens, path)
    elif model == "llama":
        built = _sentencepiece(meta, tokens, kinds, path)
    else:
        raise SpeechStreamError(
            f"{path} has a tokenizer of the kind {str(model)[:40]!r}; supported are 'gpt2' and 'llama'"
        )
    built["added_tokens"] = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == SPECIAL,
        }
        for i, (token, kind) in enumerate(zip(tokens, kinds))
        if kind in (SPECIAL, USER_DEFINED) and token
    ]
    return json.dumps({"version": "1.0", **built}, ensure_ascii=False), tokens


def _list(meta: dict[str, Any], key: str, kind: type, path: Path) -> list[Any]:
    found = meta.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not found or type(found[0]) is not kind:
        raise SpeechStreamError(f"{path} has no usable list tokenizer.ggml.{key}")
    return found


def _numbered(tokens: list[str]) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    for i, token in enumerate(tokens):
        vocabulary.setdefault(token, i)
    return vocabulary


def _bpe(vocabulary: dict[str, int], merges: list[list[str]], fallback: bool) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fallback,
        "byte_fallback": fallback,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": [m for m in merges if all(p in vocabulary for p in (*m, "".join(m)))],
    }


def _byte_level(meta: dict[str, Any], tokens: list[str], path: Path) -> dict[str, Any]:
    cut = meta.get("tokenizer.ggml.pre", "default")
    if cut not in _CUTS:
        raise SpeechStreamError(
            f"{path} cuts words in a way that is not known here ({str(cut)[:40]!r}); known are {', '.join(_CUTS)}"
        )
    merges = [m.split(" ", 1) for m in _list(meta, "merges", str, path)]
    return byte_level(_numbered(tokens), merges, cut)


def byte_level(vocabulary: dict[str, int], merges: list[list[str]], cut: str) -> dict[str, Any]:
    """A byte-level BPE that cuts words in one of `_CUTS`, as the parts of a tokenizer.json."""
    digits, words = _CUTS[cut]
    steps: list[dict[str, Any]] = [
        {
            "type": "Split",
            "pattern": {"Regex": words},
            "behavior": "Isolated",
            "invert": False,
        },
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    if digits:
        steps.insert(0, {"type": "Digits", "individual_digits": True})
    model = _bpe(vocabulary, [m for m in merges if len(m) == 2], False)
    model["ignore_merges"] = cut in ("llama-bpe", "llama3", "tekken")
    return {
        "normalizer": {"type": "NFC"} if cut == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": model,
    }


def _sentencepiece(
    meta: dict[str, Any], tokens: list[str], kinds: list[int], path: Path
) -> dict[str, Any]:
    """A BPE of sentencepiece: it merges the neighbours whose piece scores best, which is a rank for each way to cut it."""
    scores = _list(meta, "scores", float, path)
    if len(scores) != len(tokens):
        raise SpeechStreamError(f"{path}: its lists of tokens and of their scores differ in length")
    mergeable = {
        t: s for t, s, k in zip(tokens, scores, kinds) if k not in (SPECIAL, USER_DEFINED, BYTE, 2)
    }
    found = []
    for token in mergeable:
        if len(token) > 256:
            raise SpeechStreamError(f"{path} has a token of {len(token)} letters")
        cuts = ((token[:i], token[i:]) for i in range(1, len(token)))
        found += [[a, b] for a, b in cuts if a in mergeable and b in mergeable]
    ids = {t: i for i, t in enumerate(tokens)}
    found.sort(key=lambda m: (-mergeable[m[0] + m[1]], ids[m[0]], ids[m[1]]))
    space: list[dict[str, Any]] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    strip = []
    if meta.get("tokenizer.ggml.add_space_prefix", True):
        space.insert(0, {"type": "Prepend", "prepend": "▁"})
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    model = _bpe(_numbered(tokens), found, True)
    model["unk_token"] = tokens[kinds.index(2)] if 2 in kinds else None
    return {
        "normalizer": {"type": "Sequence", "normalizers": space},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *strip,
            ],
        },
        "model": model,
    }
