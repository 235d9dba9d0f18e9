"""Configurations are read strictly: what is wrong is named, and what is right comes back as it was written."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from speechstream.config import Section, read


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...]
    pair: tuple[int, float] = (1, 0.5)


@dataclass(frozen=True)
class Outer:
    dim: int
    inner: Inner
    name: str = "x"
    rate: float = 1.0
    limit: int | None = 3
    on: bool = True
    table: dict[str, int] | None = None
    other: Any = None

    def __post_init__(self):
        if self.dim < 1:
            raise ValueError(f"dim must be positive, got {self.dim}")


GOOD = {"dim": 4, "inner": {"sizes": [1, 2]}}


@pytest.mark.parametrize(
    "value",
    [
        Outer(4, Inner((1, 2))),
        Outer(1, Inner(()), "a", 2.5, None, False, {"b": 7}, [1, {"c": None}]),
    ],
)
def test_what_was_written_as_json_is_read_back(value):
    assert read(Outer, json.loads(json.dumps(asdict(value)))) == value


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dim": "4"}, "dim is '4', expected a whole number"),
        ({"dim": 4.0}, "dim is 4.0, expected a whole number"),
        ({"dim": True}, "dim is True, expected a whole number"),
        ({"dim": 1 << 60}, "dim is 1152921504606846976, expected a whole number"),
        ({"dim": 0}, "dim must be positive, got 0"),
        ({"dims": 4}, "dims is not known; expected dim, inner"),
        ({"inner": None}, "inner is null, expected an object"),
        ({"inner": {}}, "inner.sizes is missing"),
        ({"inner": {"sizes": [1, "2"]}}, "inner.sizes[1] is '2', expected a whole number"),
        ({"inner": {"sizes": 1}}, "inner.sizes is 1, expected a list, each of it a whole number"),
        ({"inner": {"sizes": [], "pair": [1]}}, "inner.pair is a list, expected a list of 2"),
        ({"inner": {"sizes": [], "size": 1}}, "inner.size is not known; expected sizes, pair"),
        ({"rate": float("nan")}, "rate is nan, expected a finite number"),
        ({"limit": "x"}, "limit is 'x', expected a whole number"),
        ({"on": 1}, "on is 1, expected true or false"),
        ({"name": b"x"}, "name is b'x', expected a text"),
        ({"table": {"a": "b"}}, "table.a is 'b', expected a whole number"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError) as error:
        read(Outer, {**GOOD, **change})
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_what_is_no_object_is_refused(data):
    with pytest.raises(ValueError, match="the configuration is .*, expected an object"):
        read(Outer, data)


def test_keys_of_others_are_let_alone():
    assert read(Outer, {**GOOD, "bits": 8}, besides=("bits",)) == Outer(4, Inner((1, 2)))


def test_a_section_of_somebody_elses_file():
    c = Section({"a": 1, "b": {"c": [1, 2], "d": None, "e": 1}, "s": "t", "f": True}, "x.yaml")
    assert c.integer("a") == 1 and c.text("s") == "t" and c.flag("f")
    assert c.section("b").integers("c") == (1, 2) and c.section("b").number("e") == 1.0
    assert c.section("b").integer("d", 7) == 7 and "d" not in c.section("b")
    assert c.section("none").integer("z", 5) == 5
    for wrong, message in (
        (lambda: c.integer("none"), "x.yaml.none is missing"),
        (lambda: c.integer("s"), "x.yaml.s is 't', expected a whole number"),
        (lambda: c.section("a"), "x.yaml.a is 1, expected an object"),
        (lambda: c.section("b").integer("d"), "x.yaml.b.d is missing"),
    ):
        with pytest.raises(ValueError) as error:
            wrong()
        assert str(error.value) == message
