"""Steps that fail or are left half-way: no other stream notices, and every slot is given back once."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.family import Mode
from speechstream.asr.recognizer import Recognizer
from speechstream.events import Failed, Final, Word
from speechstream.runtime.session import load_vad

LOUD = 0.7  # what the network of these tests cannot bear


@dataclass(frozen=True)
class Ask:
    """A request that fails for sound that is too loud."""

    x: Any
    key = None

    def run(self) -> None:
        if self.x is not None and (np.abs(self.x) > LOUD).any():
            raise RuntimeError("too loud")

    def run_many(self, requests: Any) -> list:
        return [r.run() for r in requests]


@dataclass(frozen=True)
class Held:
    slot: Any
    samples: int = 0


class Counted:
    """A family that says "hm", and which of its slots are held."""

    latencies = (320,)
    batch_size = 1

    def __init__(self):
        self.held, self.next = set(), 0

    def take(self) -> int:
        self.next += 1
        self.held.add(self.next)
        return self.next

    def mode(self, latency_ms):
        return Mode((16,))

    def open(self, mode):
        return Held(self.take())

    def feed(self, x, segment, mode):
        yield Ask(x)
        return replace(segment, samples=segment.samples + len(x))

    def finish(self, segment, mode, rest=None):
        yield Ask(None)
        return segment

    def close(self, segment):
        self.held.remove(segment.slot)  # KeyError where it was given back before

    def text(self, segment):
        return "", "hm"

    def words(self, segment, spoken_from):
        return [Word("hm", 0.0, 0.1)]

    def resident(self):
        return self

    def read(self, segment):
        return replace(segment, slot=None)

    def write(self, segment, mode):
        return replace(segment, slot=self.take())


class Loudness:
    """What is not silent is speech."""

    def init_state(self, batch=1):
        return load_vad().init_state(batch)

    def step(self, x, state):
        return (np.abs(x.reshape(1, -1, 512)).max(2) > 0.005).astype(float), state


@pytest.fixture
def asr():
    return Recognizer(Counted(), EndpointRules(silence_s=0.1), vad=Loudness())


def sound(*parts):
    return np.concatenate([np.full(int(16_000 * s), level, np.float32) for s, level in parts])


def begun(asr, pool):
    sid = pool.open()
    pool.push(sid, sound((1, 0.3)))
    pool.step()
    return sid


def test_a_step_that_closes_opens_and_fails_harms_nobody(asr):
    pool = asr.pool(3)
    bad, good = begun(asr, pool), begun(asr, pool)
    pool.push(bad, sound((0.2, 0), (0.25, 0.9)))
    pool.push(good, sound((0.3, 0)))
    pool.finish(good)
    said = pool.step()
    assert said[bad] == [Failed("RuntimeError: too loud")]
    assert any(isinstance(e, Final) for e in said[good])
    assert len(pool) == 0 and not asr.family.held


def test_a_step_that_opens_and_fails_gives_its_slot_back(asr):
    pool = asr.pool(1)
    sid = pool.open()
    pool.push(sid, sound((0.3, 0), (0.2, 0.9)))
    assert isinstance(pool.step()[sid][-1], Failed)
    assert not asr.family.held


@pytest.mark.parametrize("stop", range(16))
def test_a_stream_may_be_closed_within_any_step(asr, stop):
    pool = asr.pool(2)
    sid = begun(asr, pool)
    pool.push(sid, sound((0.2, 0), (0.25, 0.3)))
    for _ in range(stop):
        pool.step(budget_s=1e-9)
    pool.close(sid)
    assert not asr.family.held


@pytest.mark.parametrize("stop", range(4))
def test_a_fork_of_a_stream_that_ends_ends_too(asr, stop):
    pool = asr.pool(2)
    sid = begun(asr, pool)
    pool.finish(sid)
    for _ in range(stop):
        pool.step(budget_s=1e-9)
    if sid in pool:
        pool.fork(sid)
    for _ in range(8):
        pool.step()
    assert len(pool) == 0 and not asr.family.held


def test_a_stream_whose_step_failed_is_over_until_it_is_rolled_back(asr):
    stream = asr.stream()
    stream.push(sound((0.5, 0.3)))
    state = stream.state
    with pytest.raises(ValueError, match="finite|NaN"):
        stream.push(np.full(10, np.nan, np.float32))
    stream.push(sound((0.1, 0.3)))  # a wrong argument changes nothing
    with pytest.raises(RuntimeError, match="too loud"):
        stream.push(sound((0.2, 0.9)))
    with pytest.raises(ValueError, match="finished"):
        stream.push(sound((0.1, 0.3)))
    with pytest.raises(ValueError, match="NoneType"):
        stream.rollback(None)
    stream.rollback(state)
    assert any(isinstance(e, Final) for e in stream.finish())
    assert not asr.family.held
