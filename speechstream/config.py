"""Configurations are read strictly: an unknown key, a missing one or a wrong type is said in one sentence.

`read` makes a frozen dataclass of what a JSON file of our own holds, by the types of its fields. `Section` reads
the configurations that others wrote, key by key, where only some of the keys are ours to know.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T")

LARGEST = 1 << 40  # of whole numbers: beyond any size, and small enough to multiply


def read(kind: type[T], data: Any, name: str = "", besides: Collection[str] = ()) -> T:
    """A dataclass from a JSON object, its fields' dataclasses and tuples included.

    name: what the object is called in messages; besides: keys of somebody else that may stand there. Raises ValueError for keys that are unknown or missing and for
    values of another type, and what the dataclass itself raises.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{name or 'the configuration'} is {_short(data)}, expected an object")
    types_of = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    prefix = f"{name}." if name else ""
    for key in data:
        if key not in fields and key not in besides:
            raise ValueError(
                f"{prefix}{str(key)[:80]} is not known; expected {', '.join(fields)}"[:400]
            )
    given = {}
    for key, field in fields.items():
        if key in data:
            given[key] = read_value(types_of[key], data[key], f"{prefix}{key}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{prefix}{key} is missing")
    return kind(**given)


def read_value(kind: Any, value: Any, name: str) -> Any:
    """A value of a field of this type, which may be a tuple, a dict or a dataclass. Raises ValueError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        others = [a for a in arguments if a is not types.NoneType]
        if len(others) == 1:
            return read_value(others[0], value, name)
        for other in others:
            try:
                return read_value(other, value, name)
            except ValueError:
                continue
    elif origin is tuple and isinstance(value, (list, tuple)):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(read_value(arguments[0], v, f"{name}[{i}]") for i, v in enumerate(value))
        if len(arguments) == len(value):
            return tuple(
                read_value(a, v, f"{name}[{i}]") for i, (a, v) in enumerate(zip(arguments, value))
            )
    elif dataclasses.is_dataclass(kind):
        return read(typing.cast(type, kind), value, name)
    elif kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    elif kind is int and type(value) is int and abs(value) < LARGEST:
        return value
    elif kind in (bool, str) and type(value) is kind:
        return value
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {
            read_value(arguments[0], k, name): read_value(arguments[1], v, f"{name}.{str(k)[:80]}")
            for k, v in value.items()
        }
    raise ValueError(f"{name} is {_short(value)}, expected {_called(kind)}")


class Section:
    """A JSON or YAML object of somebody else's, and where it stands in its file.

    Every getter takes the default that holds where the key is absent or null; without one the key is required.
    Raises ValueError, naming the key.
    """

    def __init__(self, data: Any, name: str = ""):
        if not isinstance(data, Mapping):
            raise ValueError(f"{name or 'the configuration'} is {_short(data)}, expected an object")
        self._data, self.name = data, name

    def __contains__(self, key: str) -> bool:
        """Whether the key has a value other than null."""
        return self._data.get(key) is not None

    @property
    def keys(self) -> tuple[str, ...]:
        """All keys that stand there."""
        return tuple(self._data)

    def raw(self, key: str, default: Any = None) -> Any:
        """Whatever is there."""
        return self._data.get(key, default)

    def section(self, key: str) -> Section:
        """An object below this one; an empty one where there is none."""
        value = self._data.get(key)
        return Section({} if value is None else value, self._path(key))

    def integer(self, key: str, *default: int) -> int:
        return self._get(int, key, default)

    def number(self, key: str, *default: float) -> float:
        return self._get(float, key, default)

    def flag(self, key: str, *default: bool) -> bool:
        return self._get(bool, key, default)

    def text(self, key: str, *default: str) -> str:
        return self._get(str, key, default)

    def integers(self, key: str, *default: tuple[int, ...]) -> tuple[int, ...]:
        return self._get(tuple[int, ...], key, default)

    def _get(self, kind: Any, key: str, default: tuple[Any, ...]) -> Any:
        if key in self:
            return read_value(kind, self._data[key], self._path(key))
        if default:
            return default[0]
        raise ValueError(f"{self._path(key)} is missing")

    def _path(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


def _short(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, (list, tuple)):
        return "a list"
    return reprlib.repr(value)


def _called(kind: Any) -> str:
    """A type in the words of its readers."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if a is types.NoneType else _called(a) for a in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a list, each of it {_called(arguments[0])}"
        return f"a list of {len(arguments)}"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(kind):
        return "an object"
    return {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "a text",
    }.get(kind, str(kind))
