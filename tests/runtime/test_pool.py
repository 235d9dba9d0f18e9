"""Streams in a pool against each stream alone: the same events, whatever the arrival, and from a snapshot on."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.stream import RecognitionCore
from speechstream.errors import SpeechStreamError
from speechstream.events import Failed, Final
from speechstream.runtime.pool import Pool
from speechstream.runtime.requests import drive
from tests.tiny import alone, arrive, read_speech, recognizer, sounds


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    return read_speech(fixtures_dir)


class Counting:
    """Networks, and the sizes of their batches."""

    def __init__(self, networks):
        self.networks, self.sizes = networks, {"encode": [], "decode": []}

    def __getattr__(self, name):
        return getattr(self.networks, name)

    def encode_in_place(self, mel, *rest):
        self.sizes["encode"].append(len(mel))
        return self.networks.encode_in_place(mel, *rest)

    def decode(self, tokens, *rest):
        self.sizes["decode"].append(len(tokens))
        return self.networks.decode(tokens, *rest)


@pytest.mark.parametrize("decoder, streams", [("attention", 24), ("transducer", 12), ("beam", 8)])
def test_unsynchronised_streams_equal_each_alone(tiny, speech, decoder, streams):
    asr, clips = recognizer(tiny, "int8", decoder), sounds(speech, streams, 2.4)
    counting = asr.family.runner.networks = Counting(asr.family.networks)
    got = arrive(asr.pool(streams), clips, seed=1)
    sizes = {name: list(found) for name, found in counting.sizes.items()}
    for clip, events in zip(clips, got):
        assert events == alone(asr, clip)
    assert sum(any(isinstance(e, Final) for e in events) for events in got) > streams / 2
    assert max(sizes["encode"]) > 1 and np.mean(sizes["encode"]) > 1.05
    if decoder == "attention":
        assert max(sizes["decode"]) > 4


@pytest.mark.parametrize("kind", ["fp32", "torch"])
def test_other_networks_too(tiny, speech, kind):
    asr, clips = recognizer(tiny, kind), sounds(speech, 6, 2.0, seed=3)
    for clip, events in zip(clips, arrive(asr.pool(6), clips, seed=4)):
        assert [e.text for e in events if isinstance(e, Final)] == [
            e.text for e in alone(asr, clip) if isinstance(e, Final)
        ]


def pure(core, x, size):
    """All events of the core on states as values."""
    state, events = core.init_state(), []
    for at in range(0, len(x), size):
        said, state = drive(core.step(x[at : at + size], state))
        events += said
    said, state = drive(core.step(None, state))
    assert core.over(state)
    return events + said


@pytest.mark.parametrize("decoder", ["attention", "transducer", "ctc", "beam"])
def test_the_pure_core_equals_the_stream_and_changes_nothing(tiny, speech, decoder):
    asr = recognizer(tiny, "int8", decoder)
    x, rate, latency = sounds(speech, 2, 2.4, seed=7)[1]
    core = asr.core(latency, rate)
    expected = alone(asr, (x, rate, latency))
    assert pure(core, x, 1777) == expected
    state, _ = core.init_state(), None
    for at in range(0, len(x) // 2, 4000):
        before = core.to_bytes(state)
        _, after = drive(core.step(x[at : at + 4000], state))
        assert core.to_bytes(state) == before  # and the same step again gives the same
        assert core.to_bytes(drive(core.step(x[at : at + 4000], state))[1]) == core.to_bytes(after)
        state = after


@pytest.mark.parametrize("decoder", ["attention", "transducer", "ctc"])
@pytest.mark.parametrize("seed", range(2))
def test_forks_and_rollbacks_equal_a_stream_that_was_never_forked(tiny, speech, decoder, seed):
    asr, rng = recognizer(tiny, "int8", decoder), np.random.default_rng(seed)
    x, rate, latency = sounds(speech, 4, 2.4, seed=seed + 20)[int(rng.integers(4))]
    cut = int(rng.integers(len(x) // 4, len(x)))
    one = asr.stream(latency, rate)
    before = one.push(x[:cut])
    state, twin = one.state, one.fork()
    moved = asr.resume(one.to_bytes())
    other = np.flip(x).copy()
    rest = one.push(x[cut:]) + one.finish()
    assert before + rest == alone(asr, (x, rate, latency))
    assert moved.push(x[cut:]) + moved.finish() == rest
    elsewhere = twin.push(other) + twin.finish()
    assert elsewhere == alone(asr, (np.concatenate([x[:cut], other]), rate, latency))[len(before) :]
    one.rollback(state)  # also after the end
    assert one.push(x[cut:]) + one.finish() == rest


def test_a_pool_admits_as_many_as_it_has_slots(tiny):
    pool = recognizer(tiny).pool(2)
    first, second = pool.open(), pool.open(160, 8000)
    with pytest.raises(SpeechStreamError, match="all 2 slots of the pool are taken"):
        pool.open()
    pool.close(first)
    pool.close(first)
    third = pool.open()
    assert third not in (first, second) and len(pool) == 2 and second in pool
    for use in (pool.finish, pool.waiting, pool.snapshot, lambda sid: pool.push(sid, np.zeros(1))):
        with pytest.raises(SpeechStreamError, match=f"stream {first} is not open"):
            use(first)
    pool.finish(third)
    pool.finish(third)
    with pytest.raises(SpeechStreamError, match="finished"):
        pool.push(third, np.zeros(10, np.float32))
    pool.step()
    assert third not in pool
    for wrong in (0, -1, 1.5, None):
        with pytest.raises(ValueError, match="at least one slot"):
            Pool(wrong)
    with pytest.raises(ValueError, match="latency_ms must be one of"):
        pool.open(123)


def test_a_failing_stream_harms_nobody(tiny, speech):
    asr, clips = recognizer(tiny), sounds(speech, 3, 2.0, seed=5)
    expected = [alone(asr, clip) for clip in clips]
    core = asr.core(160, 16000)

    class Bad(RecognitionCore):
        def step(self, x, state):
            yield from ()
            raise RuntimeError("its own fault")

    pool = asr.pool(8)
    bad = pool.open_core(Bad(core.family, core.vad, core.rules, 160, 16000))
    pool.push(bad, np.zeros(8000, np.float32))
    said = {}
    sids = [pool.open(latency, rate) for _, rate, latency in clips]
    for sid, (x, _, _) in zip(sids, clips):
        pool.push(sid, x)
        pool.finish(sid)
    with pytest.raises(ValueError):
        pool.push(bad, np.full(10, np.nan, np.float32))
    for sid, events in pool.step().items():
        said[sid] = events
    assert said[bad] == [Failed("RuntimeError: its own fault")]
    assert [said[sid] for sid in sids] == expected and len(pool) == 0


def test_a_budget_ends_a_step_and_a_backlog_delays_only_itself(tiny, speech):
    asr = recognizer(tiny)
    x, rate = speech[0], speech[1]
    pool = asr.pool(2)
    busy, brief = pool.open(80, rate), pool.open(320, rate)
    pool.push(busy, np.tile(x, 3))
    pool.push(brief, x[: rate // 2])
    begun = time.monotonic()
    pool.step(budget_s=0.02)
    assert time.monotonic() - begun < 5 and pool.waiting(busy) > 1
    pool.finish(brief)
    turns = 0
    while brief in pool:
        pool.step(budget_s=0.001)
        turns += 1
    assert pool.waiting(busy) > 1 and turns < 200
    pool.close(busy)


def test_two_models_and_two_kinds_of_stream_share_a_pool(tiny, speech):
    """Any core goes into any pool."""
    one, two = recognizer(tiny, "int8"), recognizer(tiny, "fp32", "ctc")
    clip = sounds(speech, 1, 2.0, seed=9)[0]
    x, rate, latency = clip
    pool = Pool(4)
    a, b = pool.open_core(one.core(latency, rate)), pool.open_core(two.core(latency, rate))
    for sid in (a, b):
        pool.push(sid, x)
        pool.finish(sid)
    assert pool.step() == {a: alone(one, clip), b: alone(two, clip)}


RESUME = """
import pickle, sys
sys.path.insert(0, {repo!r})
from tests.tiny import recognizer
asr = recognizer({folder!r}, {kind!r}, {decoder!r})
pool = asr.pool(1)
given = pickle.load(open({path!r}, "rb"))
sid = pool.resume(given["snapshot"])
events = []
if given["rest"] is not None:
    pool.push(sid, given["rest"])
    pool.finish(sid)
while sid in pool:
    events += pool.step().get(sid, [])
pickle.dump(events, open({path!r}, "wb"))
"""


@pytest.mark.parametrize("kind, decoder", [("int8", "attention"), ("torch", "ctc")])
def test_a_snapshot_goes_on_in_another_process(tiny, speech, tmp_path, kind, decoder):
    import pickle

    asr = recognizer(tiny, kind, decoder)
    clip = sounds(speech, 5, 2.4, seed=11)[4]
    x, rate, latency = clip
    pool = asr.pool(1)
    sid = pool.open(latency, rate)
    pool.push(sid, x[: len(x) // 2])
    before = pool.step(budget_s=0.0).get(sid, [])  # some of it waits in the queue
    data = pool.snapshot(sid)
    assert pool.snapshot(sid) == data
    path = tmp_path / "moved"
    for rest, _finished in ((x[len(x) // 2 :], False),):
        path.write_bytes(pickle.dumps({"snapshot": data, "rest": rest}))
        script = RESUME.format(
            repo=str(Path(__file__).parents[2]),
            folder=str(tiny),
            kind=kind,
            decoder=decoder,
            path=str(path),
        ).replace(repr(str(tiny)), f"__import__('pathlib').Path({str(tiny)!r})")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert before + pickle.loads(path.read_bytes()) == alone(asr, clip)
    pool.push(sid, x[len(x) // 2 :])  # and it goes on here unchanged
    pool.finish(sid)
    assert before + pool.step()[sid] == alone(asr, clip)


def test_a_snapshot_keeps_the_rules_of_its_stream(tiny, speech):
    asr, (x, rate, latency) = recognizer(tiny), sounds(speech, 1, 2.4)[0]
    rules = EndpointRules(silence_s=0.1, longest_s=0.8)
    stream = asr.stream(latency, rate, rules=rules)
    before, cut = stream.push(x[: len(x) // 2]), len(x) // 2
    moved, pool = asr.resume(stream.to_bytes()), asr.pool(2)
    sid = pool.open(latency, rate, rules=rules)
    pool.push(sid, x[:cut])
    pool.step()
    sid = pool.resume(pool.snapshot(sid))
    pool.push(sid, x[cut:])
    pool.finish(sid)
    rest = stream.push(x[cut:]) + stream.finish()
    assert moved.push(x[cut:]) + moved.finish() == rest
    assert [e for events in pool.step().values() for e in events] == rest
    assert before + rest != alone(asr, (x, rate, latency))  # the recogniser's own rules


def test_an_ended_stream_with_undelivered_events_can_be_moved(tiny, speech):
    asr = recognizer(tiny)
    clip = sounds(speech, 1, 2.0, seed=13)[0]
    x, rate, latency = clip
    pool = asr.pool(3)
    sid = pool.open(latency, rate)
    pool.push(sid, x)
    pool.finish(sid)
    twin = pool.fork(sid)
    moved = asr.pool(1)
    sid2 = moved.resume(pool.snapshot(sid))
    said = pool.step()
    assert said[sid] == said[twin] == moved.step()[sid2] == alone(asr, clip)
    assert len(pool) == len(moved) == 0


def test_a_stream_that_is_dropped_leaves_nothing_behind(tiny, speech):
    """Its caches go at once, without the garbage collector and without `finish`."""
    asr, (x, rate) = recognizer(tiny), speech
    stream = asr.stream(160, rate)
    stream.push(x[: 2 * rate])
    assert stream.state.segment is not None
    pool = asr.pool(1)
    sid = pool.open(160, rate)
    pool.push(sid, x[: 2 * rate])
    pool.step()
    gone = weakref.ref(stream), weakref.ref(pool)
    gc.disable()
    try:
        del stream, pool
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_two_threads_cannot_push_to_one_stream(tiny, speech):
    asr, (x, rate) = recognizer(tiny), speech
    stream, errors = asr.stream(160, rate), []

    class Slow(Counting):
        def encode_in_place(self, mel, *rest):
            inside.set()
            assert go_on.wait(20)
            return super().encode_in_place(mel, *rest)

    inside, go_on = threading.Event(), threading.Event()
    asr.family.runner.networks = Slow(asr.family.networks)
    stream = asr.stream(160, rate)
    first = threading.Thread(target=stream.push, args=(x[: 2 * rate],))
    first.start()
    assert inside.wait(20)
    try:
        stream.push(x[:10])
    except SpeechStreamError as error:
        errors.append(str(error))
    go_on.set()
    first.join()
    assert len(errors) == 1 and "two threads" in errors[0]
    stream.push(x[2 * rate : 3 * rate])  # and it goes on
    assert stream.finish()
