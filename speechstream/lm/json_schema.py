"""Texts that are JSON of a given schema and nothing else, as a mask of the tokens that may follow: for tools.

    constraint = JsonSchema({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}, tokenizer)
    generate(model, logits, state, stop=stop, constraint=constraint)

A closed part of JSON schema: type (one or several), properties, required, additionalProperties (true or false: none is
written), items, minItems, maxItems, minLength, maxLength, enum, const; anything else is refused. Properties come in
the schema's order; a space may follow a comma or a colon, and there is no other white space. Numbers have at most 15 digits
before and after the point and 2 in the exponent, so that they always end and are finite.

Without references such a language is regular: the schema becomes a deterministic automaton over bytes
(`lm.automaton`), and what a token may do is found by walking its bytes (Willard and Louf,
arXiv:2307.09702). A state is the number of a node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from speechstream.lm.automaton import DEAD, MAX_NODES, Builder, deterministic, distances
from speechstream.lm.tokens import Tokenizer

MAX_DEPTH = 32  # of schemas in schemas
MAX_TOKEN = 64  # bytes; longer ones are not written
IGNORED = {"title", "description", "default", "examples", "$schema", "$comment", "deprecated"}
KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength"},
    "number": set(),
    "integer": set(),
    "boolean": set(),
    "null": set(),
}


class JsonSchema:
    """A `generate.Constraint`. Raises ValueError in one sentence for a schema that is not of the closed part."""

    def __init__(self, schema: Mapping[str, Any], tokenizer: Tokenizer):
        self._table, self._final = deterministic(*_compile(schema))
        self._left = distances(self._table, self._final)
        self._tokens = _Tokens(tokenizer.pieces())
        self.start = 1
        self._after: Callable[[int], np.ndarray] = lru_cache(maxsize=64)(self._walk)

    @property
    def shortest(self) -> int:
        """Tokens that are enough for some text, if each is a byte."""
        return int(self._left[self.start])

    def allowed(self, state: int, left: int | None = None) -> np.ndarray:
        """The tokens that may follow, (vocab_size,) bool; none at the end. left: tokens that may still be written: only
        those are allowed after which the text can end in time, or, where none can, those after which it is nearest."""
        after = self._after(state)
        found = after != DEAD
        if left is not None and left <= self._left.max() and found.any():
            away = np.where(found, self._left[after], np.iinfo(np.int64).max)
            found = away <= max(left - 1, away.min())
        return found

    def step(self, state: int, token: int) -> int:
        """The state after an allowed token."""
        node = state
        for byte in self._tokens.bytes(token):
            node = int(self._table[node, byte])
        if node == DEAD or not self._tokens.bytes(token):
            raise ValueError(f"token {token} is not allowed here")
        return node

    def complete(self, state: int) -> bool:
        """Whether the text may end here."""
        return bool(self._final[state])

    def accepts(self, text: bytes) -> bool:
        """Whether a whole text is one of those."""
        node = self.start
        for byte in text:
            node = int(self._table[node, byte])
        return bool(self._final[node])

    def _walk(self, node: int) -> np.ndarray:
        """The node after each token, DEAD where it is not allowed: (vocab_size,)."""
        t = self._tokens
        nodes = np.where(t.lengths > 0, node, DEAD)
        going = np.flatnonzero(nodes)
        for at in range(t.matrix.shape[1]):
            going = going[(t.lengths[going] > at) & (nodes[going] != DEAD)]
            if not going.size:
                break
            nodes[going] = self._table[nodes[going], t.matrix[going, at]]
        return nodes


class _Tokens:
    """The bytes of each token; of those that are never written none."""

    def __init__(self, pieces: Sequence[bytes | None]):
        alone = {p for p in pieces if p is not None and len(p) == 1}
        # parts of letters only where every letter can be finished
        parts = all(bytes([b]) in alone for b in range(0x80, 0xC0))
        kept = [p if p and len(p) <= MAX_TOKEN and (parts or _whole(p)) else b"" for p in pieces]
        self.lengths = np.array([len(p) for p in kept])
        self.matrix = np.zeros((len(kept), max(self.lengths.max(initial=0), 1)), np.uint8)
        for row, p in zip(self.matrix, kept):
            row[: len(p)] = np.frombuffer(p, np.uint8)

    def bytes(self, token: int) -> bytes:
        return self.matrix[token, : self.lengths[token]].tobytes()


def _whole(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True


def _compile(schema: Any) -> tuple[Builder, int, int]:
    b = Builder()
    start = b.node()
    return b, start, _value(b, start, schema, 0)


def _value(b: Builder, a: int, schema: Any, depth: int) -> int:
    if not isinstance(schema, Mapping):
        raise ValueError(f"a schema must be an object; got {str(schema)[:40]!r}")
    if depth > MAX_DEPTH:
        raise ValueError(f"schemas may be {MAX_DEPTH} deep at most")
    given = {k: v for k, v in schema.items() if k not in IGNORED}
    kinds = given.pop("type", None)
    kinds = kinds if isinstance(kinds, list) else [] if kinds is None else [kinds]
    for kind in kinds:
        if not isinstance(kind, str) or kind not in KEYWORDS:
            raise ValueError(f"type must be one of {', '.join(KEYWORDS)}; got {str(kind)[:40]!r}")
    end = b.node()
    if "enum" in given or "const" in given:
        for value in _values(given, kinds):
            b.skip(b.text(a, value), end)
        return end
    if not kinds:
        raise ValueError("a schema must say its type, an enum or a const")
    unknown = sorted(set(given) - set().union(*(KEYWORDS[k] for k in kinds)))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not supported in a schema of type {', '.join(kinds)}")
    for kind in kinds:
        b.skip(a, start := b.node())  # several types begin on nodes of their own
        b.skip(_of_kind(b, start, kind, given, depth), end)
    return end


def _values(given: dict[str, Any], kinds: list[str]) -> list[str]:
    """The texts of an enum or a const."""
    if len(given) != 1:
        raise ValueError(f"enum and const stand alone, with a type at most; got {sorted(given)}")
    values = given["enum"] if "enum" in given else [given["const"]]
    if not isinstance(values, list) or not values:
        raise ValueError("an enum must be a list of values, not empty")
    try:
        texts = [json.dumps(v, ensure_ascii=False, allow_nan=False) for v in values]
        for t in texts:
            t.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError("what an enum or a const holds must be JSON") from error
    if kinds:
        texts = [t for t, v in zip(texts, values) if any(_is(v, k) for k in kinds)]
    if not texts:
        raise ValueError(f"no value of the enum or const is of type {', '.join(kinds)}")
    return texts


def _is(value: Any, kind: str) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "object": isinstance(value, Mapping),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "number": number,
        "integer": number and float(value).is_integer(),
        "boolean": isinstance(value, bool),
        "null": value is None,
    }[kind]


def _of_kind(b: Builder, a: int, kind: str, given: dict[str, Any], depth: int) -> int:
    if kind == "object":
        return _object(b, a, given, depth)
    if kind == "array":
        least, most = _bounds(given, "minItems", "maxItems")
        if most is None or most > 0:
            if "items" not in given:
                raise ValueError("an array must say what its items are")
        return _array(b, a, given.get("items"), least, most, depth)
    if kind == "string":
        least, most = _bounds(given, "minLength", "maxLength")
        return b.text(b.times(b.text(a, '"'), b.letter, least, most), '"')
    if kind in ("number", "integer"):
        return b.number(a, kind == "integer")
    if kind == "null":
        return b.text(a, "null")
    return b.either(b.text(a, "true"), b.text(a, "false"))


def _array(b: Builder, a: int, items: Any, least: int, most: int | None, depth: int) -> int:
    a, end = b.text(a, "["), b.node()
    if not least:
        b.skip(a, end)
    if most != 0:
        a = _value(b, a, items, depth + 1)
        rest = None if most is None else most - max(least, 1)

        def more(n: int) -> int:
            return _value(b, b.after(n, ","), items, depth + 1)

        for _ in range(least - 1):
            a = more(a)
        b.skip(b.times(a, more, 0, rest), end)
    return b.text(end, "]")


def _object(b: Builder, a: int, given: dict[str, Any], depth: int) -> int:
    properties, required = given.get("properties", {}), given.get("required", [])
    if not isinstance(properties, Mapping) or any(not isinstance(k, str) for k in properties):
        raise ValueError("properties must be an object of schemas")
    if not isinstance(required, list) or any(r not in properties for r in required):
        raise ValueError("required must be a list of names that are among the properties")
    if not isinstance(given.get("additionalProperties", False), bool):
        raise ValueError("additionalProperties may be true or false only")
    first = b.text(a, "{")  # nothing is written yet
    later = None  # something is
    for name, schema in properties.items():
        try:
            key = json.dumps(name, ensure_ascii=False)
            key.encode()
        except UnicodeEncodeError as error:
            raise ValueError("a property's name must be text") from error
        here = b.text(first, key)
        if later is not None:
            # the same value follows, whether it is the first property or not
            here = b.either(here, b.text(b.after(later, ","), key))
        end = _value(b, b.after(here, ":"), schema, depth + 1)
        written = b.skip(end, b.node())
        if name in required:
            first = b.node()  # which cannot be reached
        elif later is not None:
            b.skip(later, written)
        later = written
    done = b.node()
    b.skip(first, done)
    if later is not None:
        b.skip(later, done)
    return b.text(done, "}")


def _bounds(given: dict[str, Any], low: str, high: str) -> tuple[int, int | None]:
    least, most = given.get(low, 0), given.get(high)
    for name, value in ((low, least), (high, most)):
        if value is not None and (type(value) is not int or not 0 <= value <= MAX_NODES):
            raise ValueError(
                f"{name} must be a whole number up to {MAX_NODES}; got {str(value)[:40]}"
            )
    if most is not None and most < least:
        raise ValueError(f"{high} is below {low}")
    return least, most
