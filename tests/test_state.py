"""Stream state as a value: what goes in comes out, what was given is left alone, and hostile bytes are refused."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from speechstream import state as S
from speechstream.errors import SpeechStreamError

torch = pytest.importorskip(
    "torch", reason="the state of torch networks is tested where torch is installed"
)


@dataclass(frozen=True)
class Inner:
    conv: Any
    frames: Any


@dataclass(frozen=True)
class Outer:
    keys: Any
    inner: Inner
    absent: Any = None


def numpy_state(streams, seed=0):
    g = np.random.default_rng(seed)
    return Outer(
        g.standard_normal((streams, 2, 3), dtype=np.float32),
        Inner(g.integers(-128, 127, (streams, 5)).astype(np.int8), g.integers(0, 1 << 40, streams)),
    )


def torch_state(streams, seed=0):
    return S.unflatten(
        numpy_state(0), {n: torch.from_numpy(a) for n, a in S.fields(numpy_state(streams, seed))}
    )


def arrays(state):
    return {n: np.array(a) for n, a in S.fields(state)}


def same(a, b):
    a, b = arrays(a), arrays(b)
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a
    )


kinds = pytest.mark.parametrize("make", [numpy_state, torch_state], ids=["numpy", "torch"])


@kinds
def test_fields_flatten_unflatten(make):
    state = make(3)
    assert list(S.flatten(state)) == ["keys", "inner.conv", "inner.frames"]
    again = S.unflatten(state, S.flatten(state))
    assert same(again, state) and again.absent is None
    flat = S.flatten(state)
    del flat["inner.conv"]
    with pytest.raises(ValueError, match="'inner.conv' is missing"):
        S.unflatten(state, flat)


@kinds
def test_stack_is_the_inverse_of_select(make):
    parts = [make(n, seed=n) for n in (1, 2, 3)]
    batch = S.stack(parts)
    assert S.batch_size(batch) == 6
    assert same(S.select(batch, 0), parts[0])
    assert same(S.select(batch, [1, 2]), parts[1])
    assert same(S.select(batch, range(3, 6)), parts[2])
    assert same(S.select(batch, np.int64(5)), S.select(parts[2], 2))
    assert same(S.stack([S.select(batch, [5, 0]), S.select(batch, [])]), S.select(batch, [5, 0]))


@kinds
def test_select_copies(make):
    batch = make(3)
    before = arrays(batch)
    for index in (1, [0, 1, 2], slice(None)):
        rows = list(range(3)) if isinstance(index, slice) else index
        S.select(batch, rows).keys[:] = 7
    assert all(np.array_equal(before[n], a) for n, a in arrays(batch).items())


@kinds
def test_put_replaces_rows_of_a_copy(make):
    batch, part = make(4), make(2, seed=9)
    before = arrays(batch)
    new = S.put(batch, [3, 1], part)
    assert all(np.array_equal(before[n], a) for n, a in arrays(batch).items()), (
        "the state given is left alone"
    )
    for name, a in arrays(new).items():
        expected = before[name].copy()
        expected[3], expected[1] = arrays(part)[name]
        assert np.array_equal(a, expected)
    assert same(S.put(batch, 2, S.select(part, 0)), S.put(batch, [2], S.select(part, [0])))


@kinds
def test_stack_refuses_other_shapes(make):
    with pytest.raises(ValueError, match="at least one"):
        S.stack([])
    other = S.unflatten(make(1), {**S.flatten(make(1)), "keys": make(1).keys[:, :1]})
    with pytest.raises(ValueError, match=r"'keys': cannot stack \(1, 1, 3\) with \(1, 2, 3\)"):
        S.stack([make(1), other])
    with pytest.raises(ValueError, match="nothing"):
        S.stack([make(1), make(1).inner])


@kinds
def test_describe_and_sizes(make):
    state = make(2)
    assert S.nbytes(state) == 2 * (6 * 4 + 5 + 8)
    assert S.describe(state).splitlines() == [
        "keys          (2, 2, 3)  float32",
        "inner.conv    (2, 5)     int8",
        "inner.frames  (2,)       int64",
        "74 bytes, 2 stream(s)",
    ]


@kinds
@pytest.mark.parametrize("streams", [0, 1, 3])
def test_bytes_round_trip(make, streams):
    state = make(streams)
    read = S.from_bytes(S.to_bytes(state), make(1))
    assert all(isinstance(a, np.ndarray) for _, a in S.fields(read)) and same(read, state)
    read.keys[:] = 1  # its own memory, writable
    strided = S.unflatten(
        numpy_state(2), {**S.flatten(numpy_state(2)), "keys": np.zeros((3, 2, 2), np.float32).T}
    )
    assert same(S.from_bytes(S.to_bytes(strided), numpy_state(1)), strided)


def test_bytes_of_another_model_are_refused():
    data = S.to_bytes(numpy_state(2))
    like = S.flatten(numpy_state(1))
    for name, a in (
        ("keys", np.zeros((1, 2, 4), np.float32)),
        ("keys", np.zeros((1, 2, 3), np.float64)),
    ):
        with pytest.raises(SpeechStreamError, match="expected"):
            S.from_bytes(data, S.unflatten(numpy_state(1), {**like, name: a}))
    with pytest.raises(SpeechStreamError, match="keys is nothing"):
        S.from_bytes(S.to_bytes(numpy_state(1).inner), numpy_state(1))


def hostile(header, body=b""):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(8),
        b"\xff" * 8,
        hostile(b"{"),
        hostile(b"\xff"),
        hostile(3),
        hostile(None),
        hostile([3]),
        hostile([{}]),
        hostile([{"name": "keys", "shape": [1], "dtype": "|O"}], bytes(8)),
        hostile([{"name": "keys", "shape": [-1], "dtype": "<f4"}], bytes(8)),
        hostile([{"name": "keys", "shape": [1 << 70], "dtype": "<f4"}]),
        hostile([{"name": "keys", "shape": [1 << 32, 1 << 32], "dtype": "<f4"}]),
        hostile([{"name": "keys", "shape": ["a"], "dtype": "<f4"}]),
        hostile([{"name": "keys", "shape": None, "dtype": "<f4"}]),
        hostile([{"name": [], "shape": [1], "dtype": "<f4"}], bytes(4)),
        hostile([{"name": "keys", "shape": [1], "dtype": "rm -rf"}], bytes(4)),
        hostile([{"name": "keys", "shape": [1], "dtype": None}], bytes(8)),
        hostile([{"name": "keys", "shape": [1], "dtype": ","}], bytes(8)),
        hostile([{"name": "keys", "shape": [1], "dtype": "<f4,<f4"}], bytes(8)),
        hostile([{"name": "keys", "shape": [2, 2, 3], "dtype": "<f4"}], bytes(47)),
        hostile(b"[" * 100_000),
    ],
    ids=range(23),
)
def test_hostile_bytes_are_one_error(data):
    with pytest.raises(SpeechStreamError) as caught:
        S.from_bytes(data, numpy_state(1))
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_bytes_never_raise_anything_else(data):
    good = bytearray(S.to_bytes(numpy_state(1)))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    for damaged in (bytes(good), bytes(good[:cut])):
        try:
            state = S.from_bytes(damaged, numpy_state(1))
        except SpeechStreamError:
            continue
        assert [n for n, _ in S.fields(state)] == ["keys", "inner.conv", "inner.frames"]
