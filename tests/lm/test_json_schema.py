"""JSON of a schema: whatever is written parses and is valid, and what is valid can be written."""

import json

import numpy as np
import pytest

pytest.importorskip("tokenizers", reason="needs the [llm] extra")

from speechstream.lm.generate import Sampling, generate
from speechstream.lm.json_schema import JsonSchema
from speechstream.lm.tokens import Tokenizer, _byte_letters

jsonschema = pytest.importorskip("jsonschema", reason="the oracle of these tests")

LETTERS = {b: c for c, b in _byte_letters().items()}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NAMES = ["a", "b", "name", 'with "quotes"', "größe", "", "a b", "\n"]


def byte_level(extra=()):
    """A tokenizer of bytes, longer tokens and an end marker, as GPT-2's are written."""
    pieces = [LETTERS[b] for b in range(256)]
    pieces += ["".join(LETTERS[b] for b in e.encode()) for e in extra]
    model = {"type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": []}
    end = {"id": len(pieces), "content": "<end>", "special": True, "single_word": False}
    end |= {"lstrip": False, "rstrip": False, "normalized": False}
    return Tokenizer(
        json.dumps(
            {
                "version": "1.0",
                "model": model,
                "added_tokens": [end],
                "decoder": BYTES,
            }
        )
    )


EXTRA = ('{"', '": ', '", "', "true", "fal", '"a"', "é", "日本", "12", "-", '"}', "]}", "0.", "\\u")
TOKENIZER = byte_level(EXTRA)
PIECES = TOKENIZER.pieces()


def random_schema(rng, depth=0):
    kinds = ["string", "number", "integer", "boolean", "null", "enum", "const", "several"]
    kind = rng.choice(kinds + ["object", "array"] * (3 if depth < 3 else 0))
    if kind == "object":
        names = list(rng.permutation(NAMES)[: rng.integers(0, 5)])
        found = {"type": "object", "properties": {n: random_schema(rng, depth + 1) for n in names}}
        found["required"] = [n for n in names if rng.random() < 0.5]
        if rng.random() < 0.5:
            found["additionalProperties"] = False
        return found
    if kind in ("array", "string"):
        low, high = ("minItems", "maxItems") if kind == "array" else ("minLength", "maxLength")
        found = {"type": str(kind), "description": "some"}
        if kind == "array":
            found["items"] = random_schema(rng, depth + 1)
        least = int(rng.integers(0, 3))
        if rng.random() < 0.5:
            found[low] = least
        if rng.random() < 0.5:
            found[high] = least + int(rng.integers(0, 3))
        return found
    if kind == "enum":
        every = [1, "two", None, [3, {"four": True}], "größer", 2.5, "tw", False, {}]
        return {"enum": [every[i] for i in rng.permutation(len(every))[: rng.integers(1, 5)]]}
    if kind == "const":
        return {"const": {"x": ["y", 1]}, "title": "that"}
    if kind == "several":
        return {"type": ["null", "integer", "string"], "maxLength": 3}
    return {"type": str(kind)}


def random_text(schema, rng, most):
    """Tokens drawn evenly from those allowed, until the text may end and a coin says so, or nothing follows."""
    state, found = schema.start, []
    while True:
        if schema.complete(state) and (rng.random() < 0.3 or len(found) >= most):
            return found
        allowed = np.flatnonzero(schema.allowed(state, most - len(found)))
        if not len(allowed):
            return found
        token = int(rng.choice(allowed))
        state = schema.step(state, token)
        found.append(token)


def test_whatever_is_written_is_valid():
    rng = np.random.default_rng(0)
    for _ in range(60):
        schema = random_schema(rng)
        constraint = JsonSchema(schema, TOKENIZER)
        for most in (constraint.shortest, constraint.shortest + 5, 200):
            tokens = random_text(constraint, rng, most)
            text = b"".join(PIECES[t] for t in tokens)
            value = json.loads(text.decode(), parse_constant=pytest.fail)
            jsonschema.validate(value, schema)
            assert len(tokens) <= max(most, constraint.shortest) and constraint.accepts(text)
            assert TOKENIZER.decode(tokens) == text.decode()
            json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair


def random_value(schema, rng):
    if "enum" in schema:
        return schema["enum"][rng.integers(len(schema["enum"]))]
    if "const" in schema:
        return schema["const"]
    kind = schema["type"]
    kind = kind if isinstance(kind, str) else kind[rng.integers(len(kind))]
    if kind == "object":
        names = [n for n in schema["properties"] if n in schema["required"] or rng.random() < 0.5]
        return {n: random_value(schema["properties"][n], rng) for n in names}
    least = schema.get("minItems", schema.get("minLength", 0))
    size = int(rng.integers(least, schema.get("maxItems", schema.get("maxLength", least + 3)) + 1))
    if kind == "array":
        return [random_value(schema["items"], rng) for _ in range(size)]
    return {
        "string": "".join('aZ "\\\n\x00é日\U0001f600/\x7f'[i] for i in rng.integers(0, 11, size)),
        "number": float(np.round(rng.normal() * 10.0 ** rng.integers(-5, 9), 3)),
        "integer": int(rng.integers(-(10**9), 10**9)),
        "boolean": bool(rng.integers(2)),
        "null": None,
    }[kind]


def test_what_is_valid_is_accepted_and_what_is_accepted_is_valid():
    rng, refused = np.random.default_rng(1), 0
    for _ in range(60):
        schema = random_schema(rng)
        constraint = JsonSchema(schema, TOKENIZER)
        for _ in range(10):
            value = random_value(schema, rng)
            text = json.dumps(value, ensure_ascii=bool(rng.integers(2)))
            if "\\ud8" not in text:  # of pairs of surrogates only the letter itself is written
                # names, enums and constants have one spelling each
                fixed = any(word in str(schema) for word in ("enum", "const", "größe"))
                assert fixed or constraint.accepts(text.encode()), (schema, text)
            assert constraint.accepts(json.dumps(value, ensure_ascii=False).encode())
            broken = bytearray(text.encode())
            for _ in range(int(rng.integers(1, 3))):
                at = int(rng.integers(len(broken)))
                broken[at : at + int(rng.integers(2))] = bytes(
                    rng.choice([*b'{}[],:"0-.ate\\\xc3'], 1)
                )
            if constraint.accepts(bytes(broken)):
                jsonschema.validate(json.loads(bytes(broken).decode()), schema)
            else:
                refused += 1
    assert refused > 300


class Endless:
    """A model whose logits are random, with the state's place in the model's protocol."""

    class State:
        def __init__(self, read):
            self.tokens = np.array([read])

    def __init__(self, size):
        self.size = size

    def free(self, state):
        return 100

    def logits(self, tokens, read):
        rng = np.random.default_rng([read, *tokens])
        return rng.normal(size=self.size).astype(np.float32) * 3

    def propose(self, tokens, state):
        read = int(state.tokens[0])
        rows = [self.logits(tokens[0][i : i + 1], read + i) for i in range(len(tokens[0]))]

        class Proposal:
            logits = [np.stack(rows)]

        Proposal.state = state
        return Proposal

    def accept(self, proposal, count):
        return self.State(int(proposal.state.tokens[0]) + count[0])


@pytest.mark.parametrize("stop", [(), (len(PIECES) - 1,)])
def test_a_model_writes_a_tool_call_and_stops(stop):
    schema = {
        "type": "object",
        "properties": {
            "tool": {"enum": ["weather", "wake"]},
            "days": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
            "note": {"type": "string"},
        },
        "required": ["tool", "days"],
    }
    model, constraint = Endless(len(PIECES)), JsonSchema(schema, TOKENIZER)
    for seed in range(12):
        for sampling in (
            Sampling(1.0, seed=seed, most=60),
            Sampling(most=60, seed=seed),
            Sampling(most=60, seed=seed, draft=4),
        ):
            first = model.logits([seed], 0)
            steps = generate(model, first, model.State(0), sampling, stop, (1, 2), constraint)
            tokens = [t for s in steps for t in s.tokens]
            assert len(tokens) <= 60
            jsonschema.validate(json.loads(TOKENIZER.decode(tokens)), schema)
            if not sampling.temperature:
                plain = Sampling(most=60)
                again = generate(model, first, model.State(0), plain, stop, (), constraint)
                assert tokens == [t for s in again for t in s.tokens]


def test_letters_are_never_cut_where_they_could_not_be_finished():
    pieces = ["{", "}", '"', "a", "é", "Ã"]  # the last is the first byte of é alone
    model = {"type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": []}
    as_text = Tokenizer(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    assert as_text.pieces() == [p.encode() for p in pieces]
    as_bytes = Tokenizer(json.dumps({"version": "1.0", "model": model, "decoder": BYTES}))
    assert as_bytes.pieces()[4:] == [b"\xe9", b"\xc3"]
    string = JsonSchema({"type": "string"}, as_bytes)
    after = string.step(string.start, 2)
    assert string.allowed(after).tolist() == [True, True, True, True, False, False]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (True, "must be an object"),
        ({}, "must say its type"),
        ({"type": "text"}, "type must be one of"),
        ({"type": {}}, "type must be one of"),
        ({"type": "string", "pattern": "a+"}, "'pattern' is not supported"),
        ({"type": "integer", "minimum": 3}, "'minimum' is not supported"),
        ({"anyOf": [{"type": "null"}]}, "must say its type"),
        ({"$ref": "#/x", "type": "object"}, "'\\$ref' is not supported"),
        ({"type": "array"}, "what its items are"),
        ({"type": "array", "items": {}}, "must say its type"),
        ({"type": "object", "required": ["a"]}, "among the properties"),
        ({"type": "object", "properties": []}, "an object of schemas"),
        ({"type": "object", "additionalProperties": {"type": "null"}}, "true or false"),
        ({"enum": []}, "not empty"),
        ({"enum": [float("nan")]}, "must be JSON"),
        ({"const": "\ud800"}, "must be JSON"),
        ({"const": 1, "type": "string"}, "of type string"),
        ({"const": 1, "enum": [1]}, "stand alone"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "below"),
        ({"type": "string", "maxLength": -1}, "whole number"),
        ({"type": "string", "maxLength": 20_000}, "too large"),
    ],
)
def test_what_is_not_of_the_closed_part_is_refused(schema, words):
    with pytest.raises(ValueError, match=words) as error:
        JsonSchema(schema, TOKENIZER)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def test_a_deep_schema_is_refused():
    schema = {"type": "null"}
    for _ in range(40):
        schema = {"type": "array", "items": schema}
    with pytest.raises(ValueError, match="deep"):
        JsonSchema(schema, TOKENIZER)
