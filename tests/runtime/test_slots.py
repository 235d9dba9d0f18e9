"""Rows of resident states under any schedule, against a dictionary of states that are values."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from speechstream.runtime.slots import Rows


@dataclass(frozen=True)
class State:
    total: np.ndarray  # (B, 3)
    steps: np.ndarray  # (B,)


def new():
    return State(np.zeros((1, 3), np.float32), np.zeros(1, np.int64))


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(("open", "close", "gather", "runs", "write", "read")),
        st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True),
    ),
    max_size=60,
)


@settings(deadline=None, derandomize=True, database=None, max_examples=150)
@given(OPERATIONS)
def test_any_schedule_keeps_each_state(operations):
    rows, expected, count = Rows(new()), {}, 0
    for what, slots in operations:
        slots = [s for s in slots if (s in expected) != (what == "open")]
        count += 1
        if what == "open":
            for slot in slots:
                rows.open(slot)
                expected[slot] = np.zeros(4)
        elif what == "close":
            for slot in slots:
                rows.close(slot)
                del expected[slot]
        elif what == "write":
            for slot in slots:
                rows.write(slot, State(np.full((1, 3), count, np.float32), np.array([count])))
                expected[slot] = np.full(4, count)
        elif slots and what in ("gather", "runs"):
            groups = [rows.gather(slots)] if what == "gather" else rows.runs(slots)
            assert sorted(i for order, _ in groups for i in order) == list(range(len(slots)))
            for order, where in groups:
                state = rows.view(where)
                for row, i in enumerate(order):
                    assert (state.total[row] == expected[slots[i]][:3]).all()
                    state.total[row] += slots[i] + 1
                    state.steps[row] += 1
                    expected[slots[i]] = expected[slots[i]] + [*[slots[i] + 1] * 3, 1]
        assert len(rows) == len(expected)
        for slot, values in expected.items():
            found = rows.read(slot)
            assert (found.total[0] == values[:3]).all() and found.steps[0] == values[3]


def test_a_slot_that_is_not_open_cannot_be_closed():
    rows = Rows(new())
    rows.open(3)
    rows.close(3)
    with pytest.raises(KeyError):
        rows.close(3)
