"""A pool under any order of what may happen to it: each stream says what it says alone.

Hypothesis opens, feeds, forks, moves, closes and ends streams of several rates and latencies, also in the middle of
steps that a budget interrupts; what each stream said is compared with a stream of its own that heard the same.
"""

import functools

import numpy as np
import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from speechstream.errors import SpeechStreamError
from speechstream.events import Failed
from tests.tiny import alone, read_speech, recognizer, sounds

SLOTS = 5


class Life:
    """A stream of the pool: the samples it was given, and what it has said."""

    def __init__(self, clip, at=0, heard=(), said=()):
        self.clip, self.at = clip, at
        self.heard, self.said = list(heard), list(said)
        self.sid = None
        self.ended = False

    def next_block(self, size):
        x = np.take(self.clip[0], range(self.at, self.at + size), mode="wrap")
        self.at += size
        self.heard.append(x)
        return x


class Streams(RuleBasedStateMachine):
    asr, clips, expected = None, (), None
    streams = Bundle("streams")

    def __init__(self):
        super().__init__()
        self.pool = self.asr.pool(SLOTS)
        self.lives = {}

    @rule(target=streams, which=st.integers(0, 3))
    def open(self, which):
        life = Life(self.clips[which])
        self.admit(life, lambda: self.pool.open(life.clip[2], life.clip[1]))
        return life

    @rule(life=streams, ms=st.sampled_from((7, 60, 250, 900)))
    def push(self, life, ms):
        if life.sid is not None and not life.ended:
            self.pool.push(life.sid, life.next_block(life.clip[1] * ms // 1000))

    @rule(budget=st.sampled_from((None, 0.0, 1e-9, 0.002)))
    def step(self, budget):
        for sid, events in self.pool.step(budget).items():
            self.lives[sid].said += events
        self.forget_the_ended()

    @rule(target=streams, life=streams)
    def fork(self, life):
        twin = Life(life.clip, life.at, life.heard, life.said)
        if life.sid is not None:
            twin.ended = life.ended
            self.admit(twin, lambda: self.pool.fork(life.sid))
        return twin

    @rule(life=streams)
    def move(self, life):
        if life.sid is not None:
            data = self.pool.snapshot(life.sid)
            self.pool.close(life.sid)
            del self.lives[life.sid]
            life.sid = None
            self.admit(life, lambda: self.pool.resume(data))

    @rule(life=consumes(streams))
    def close(self, life):
        if life.sid is not None:
            self.pool.close(life.sid)
            del self.lives[life.sid]

    @rule(life=streams)
    def finish(self, life):
        if life.sid is not None:
            self.pool.finish(life.sid)
            life.ended = True

    @invariant()
    def slots_are_counted(self):
        assert len(self.pool) == len(self.lives) <= SLOTS

    def teardown(self):
        for sid in list(self.lives):
            self.pool.finish(sid)
            self.lives[sid].ended = True
        while len(self.pool):
            self.step(None)
        assert self.pool.step() == {}

    def admit(self, life, enter):
        if len(self.pool) < SLOTS:
            life.sid = enter()
            self.lives[life.sid] = life
        else:
            with pytest.raises(SpeechStreamError, match="slots"):
                enter()

    def forget_the_ended(self):
        for sid in [s for s in self.lives if s not in self.pool]:
            life = self.lives.pop(sid)
            life.sid = None
            assert not any(isinstance(e, Failed) for e in life.said)
            x = np.concatenate([np.zeros(0, np.float32), *life.heard])
            assert life.said == type(self).expected(x.tobytes(), *life.clip[1:])


@pytest.mark.parametrize("decoder", ["attention", "transducer", "ctc"])
def test_any_order_gives_what_each_stream_gives_alone(tiny, fixtures_dir, decoder):
    asr = recognizer(tiny, "int8", decoder)

    @functools.lru_cache(maxsize=256)
    def expected(data, rate, latency):
        return alone(asr, (np.frombuffer(data, np.float32), rate, latency))

    class Machine(Streams):
        pass

    Machine.asr, Machine.clips = asr, sounds(read_speech(fixtures_dir), 4, 2.4, seed=5)
    Machine.expected = staticmethod(expected)
    Machine.TestCase.settings = settings(
        max_examples=5,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    Machine.TestCase().runTest()
