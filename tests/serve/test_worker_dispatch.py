"""The streams of workers that die at any moment: what is told is what one who never died would have said."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from toys import Scene, alone

from speechstream.events import Audio, Failed, Final
from speechstream.serve import networks
from speechstream.serve.workers.dispatch import HANG_S, LIVES, PATIENCE_S


@pytest.fixture(autouse=True)
def many_snapshots(monkeypatch):
    monkeypatch.setattr(networks, "PAUSE_S", 0.5)
    monkeypatch.setattr(networks, "SPEECH_S", 1.0)
    monkeypatch.setattr(networks, "SNAPSHOT_SHARE", 1e9)


def same(told, expected):
    """Events equal, sound by its samples whatever its blocks."""
    quiet = [[e for e in events if not isinstance(e, Audio)] for events in (told, expected)]
    assert quiet[0] == quiet[1]
    sound = [
        np.concatenate([np.zeros(0), *(e.pcm for e in events if isinstance(e, Audio))])
        for events in (told, expected)
    ]
    np.testing.assert_array_equal(*sound)
    words = [
        [w for e in events if isinstance(e, Audio) for w in e.words] for events in (told, expected)
    ]
    assert words[0] == words[1]


WORDS = st.lists(st.integers(0, 3), min_size=1, max_size=12)
TEXTS = st.text("abc", min_size=1, max_size=6)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whenever_a_worker_dies_every_word_is_told_once(data):
    """Three streams on two workers; pushes, steps, messages, snapshots, holds and deaths in any order."""
    scene, kinds = Scene(), ("hear", "speak", "hear")
    given_, deaths = {key: [] for key in range(3)}, 0
    for key, kind in enumerate(kinds):
        scene.open(key, kind)
    for _ in range(data.draw(st.integers(5, 60))):
        what = data.draw(
            st.sampled_from("push push step step deliver deliver deliver kill tick hold".split())
        )
        key, worker = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 1))
        if what == "push":
            x = data.draw(TEXTS if kinds[key] == "speak" else WORDS)
            given_[key].append(x if isinstance(x, str) else np.float32(x))
            scene.push(key, x)
        elif what == "step":
            scene.step(worker)
        elif what == "deliver":
            scene.deliver(worker, data.draw(st.integers(1, 6)))
        elif what == "kill" and deaths < 3:
            deaths += worker in scene.processes
            scene.kill(worker)
        elif what == "tick":
            scene.tick(data.draw(st.sampled_from([0.1, 0.6])))
        elif what == "hold":
            scene.do("hold", key, True)
            scene.do("hold", key, False)
    for key in range(3):
        scene.do("finish", key)
    scene.settle()
    assert scene.over == {0, 1, 2}
    for key, kind in enumerate(kinds):
        same(scene.told[key], alone(kind, given_[key]))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_twin_tells_what_comes_after_it_was_made(data):
    """Its source may end, and the worker die, while the twin is made."""
    scene, deaths = Scene(), 0
    scene.settle()
    scene.open(0)
    before = data.draw(st.lists(WORDS, max_size=4))
    for x in before:
        scene.push(0, x)
        if data.draw(st.booleans()):
            scene.step(0), scene.step(1)
            scene.deliver(0, 3), scene.deliver(1, 3)
    scene.do("fork", 1, 0, scene.now)
    after = data.draw(WORDS)
    scene.push(1, after)
    ends = data.draw(st.booleans())
    for _ in range(data.draw(st.integers(0, 8))):
        what, worker = (
            data.draw(st.sampled_from(("step", "deliver", "kill"))),
            data.draw(st.integers(0, 1)),
        )
        if what == "step":
            scene.step(worker)
        elif what == "deliver":
            scene.deliver(worker, 2)
        elif deaths < 2:
            deaths += 1
            scene.kill(worker)
    scene.do("drop", 0, scene.now) if ends else scene.do("finish", 0)
    scene.do("finish", 1)
    scene.settle()
    whole = alone("hear", [np.float32(x) for x in before])
    if not ends:
        same(scene.told[0], whole)
    twin = alone("hear", [np.float32(x) for x in (*before, after)])
    told = scene.told[1]
    assert told == twin[len(twin) - len(told) :]
    known = len([e for e in scene.told.get(0, []) if isinstance(e, Final)])
    finals = [e for e in twin if isinstance(e, Final)]
    assert len([e for e in told if isinstance(e, Final)]) >= len(finals) - known or ends


@pytest.mark.parametrize("ends", [False, True])
def test_what_is_under_way_when_a_twin_is_made_is_not_told_by_it_twice(ends):
    """A sentence of the source is in the socket; the twin has it behind it, tells one more, and is heard again."""
    scene = Scene(2)
    scene.settle()
    scene.open(0)
    (number,) = [n for n, p in scene.processes.items() if len(p.table.pool)]
    scene.push(0, [1, 0, 0, 0])
    scene.step(number)  # has said it; nobody has read it
    scene.processes[number].table._saves = False
    scene.do("fork", 1, 0, scene.now)
    if ends:
        scene.do("drop", 0, scene.now)
    scene.push(1, [2, 0, 0, 0])
    scene.step(number)
    scene.deliver(number, 100)
    assert [e.text for e in scene.told[1] if isinstance(e, Final)] == ["2"]
    scene.kill(number)
    scene.do("finish", 1)
    scene.settle()
    assert [e.text for e in scene.told[1] if isinstance(e, Final)] == ["2"]


def test_what_was_saved_is_not_heard_again():
    scene = Scene()
    scene.settle()
    scene.open(0)
    for _ in range(10):
        scene.push(0, [1, 2, 0, 0])
        scene.settle()
    journal = scene.dispatch._streams[0].journal
    assert journal.count >= 8 and len(journal.inputs) <= 2
    assert scene.dispatch.counts.snapshots >= 3


def test_what_is_said_within_a_sentence_is_saved_as_what_was_added():
    scene = Scene(2)
    scene.settle()
    scene.open(0)
    for _ in range(12):
        scene.push(0, [1, 2, 3, 4])
        scene.settle()
    assert len(scene.dispatch._streams[0].journal.opening) >= 3
    (number,) = [n for n, p in scene.processes.items() if len(p.table.pool)]
    scene.kill(number)
    scene.do("finish", 0)
    scene.settle()
    same(scene.told[0], alone("hear", [np.float32([1, 2, 3, 4])] * 12))


def test_a_stream_that_workers_die_of_fails_alone():
    """The others are told all, and the workers live on."""
    scene = Scene(2)
    scene.settle()
    for key in range(4):
        scene.open(key)
        scene.push(key, [1, 2, 3])
    scene.push(2, [-1])
    for _ in range(200):
        scene.settle()
        if 2 in scene.over:
            break
    assert scene.told[2][-1] == Failed(
        f"this stream was given up, as {LIVES} workers have died while they heard it"
    )
    assert scene.dispatch.counts.deaths == LIVES and scene.dispatch.counts.given_up == 1
    for key in (0, 1, 3):
        scene.do("finish", key)
    scene.settle()
    assert scene.over == {0, 1, 2, 3} and scene.dispatch.ready == 2
    for key in (0, 1, 3):
        same(scene.told[key], alone("hear", [np.float32([1, 2, 3])]))


def test_who_was_beside_a_suspect_is_not_blamed():
    """Four streams have yet to be heard again when a suspect kills their worker."""
    scene = Scene(2)
    scene.settle()
    scene.kill(1)
    for key in range(5):
        scene.open(key)
    streams = scene.dispatch._streams
    for key in range(5):
        streams[key].deaths = 1
    streams[4].deaths, streams[4].trial = 2, True
    scene.kill(0)
    assert [streams[key].deaths for key in range(5)] == [1, 1, 1, 1, 3]


def test_a_stream_that_was_there_by_chance_is_not_blamed():
    scene = Scene(2)
    scene.settle()
    scene.open(0)
    for _ in range(3 * LIVES):
        scene.push(0, [1, 2, 0, 0])
        scene.settle()
        scene.kill(0), scene.kill(1)
        scene.settle(1.0)
    scene.do("finish", 0)
    scene.settle()
    same(scene.told[0], alone("hear", [np.float32([1, 2, 0, 0])] * 3 * LIVES))


def test_a_worker_that_hangs_is_ended_and_its_stream_goes_on():
    scene = Scene(2)
    scene.settle()
    scene.open(0)
    scene.push(0, [1, 0, 0, 0])
    (number,) = [n for n, p in scene.processes.items() if len(p.table.pool)]
    stopped, other = scene.processes[number], 1 - number
    before = scene.pid
    for _ in range(int(HANG_S / 0.5) + 2):
        scene.step(other)
        scene.processes[other].out.append(scene.processes[other]._message(BEAT))
        scene.deliver(other, 100)
        scene.tick(0.5)
    assert scene.processes.get(number) is not stopped and scene.pid > before
    assert scene.dispatch.counts.deaths == 1
    scene.do("finish", 0)
    scene.settle()
    same(scene.told[0], alone("hear", [np.float32([1, 0, 0, 0])]))


BEAT = {"say": "beat", "rss": 1, "steps": 1, "busy_s": 0.1, "step_s": 0.0}


def test_who_has_nothing_to_do_may_be_silent_and_a_stopped_server_blames_nobody():
    scene = Scene(2)
    scene.settle()
    scene.tick(0.5)
    for _ in range(20):
        scene.tick(0.9)  # nobody has a stream
    scene.open(0)
    scene.deliver(0), scene.deliver(1)
    scene.tick(100.0)  # as a machine that slept
    scene.tick(0.1)
    assert scene.dispatch.counts.deaths == 0


def test_a_worker_that_works_on_one_step_for_ever_is_ended():
    scene = Scene(2)
    scene.settle()
    scene.dispatch.heard(0, BEAT | {"step_s": 1000.0}, b"", scene.now)
    scene.act()
    assert scene.dispatch.counts.deaths == 1 and 0 not in scene.processes


@pytest.mark.parametrize(
    "head",
    [
        {},
        {"say": "hello"},
        {"say": 3},
        {"say": "beat"},
        {"say": "news", "id": 7},
        {"say": "news", "id": 0, "events": [], "waiting": -1.0, "seen": 0, "over": False},
        {"say": "news", "id": 0, "events": [], "waiting": 0.0, "seen": 99, "over": False},
        {"say": "news", "id": 0, "events": [], "waiting": 0.0, "seen": 0, "over": True},
        {"say": "news", "id": 0, "events": [{}], "waiting": 0.0, "seen": 0, "over": False},
        {"say": "saved", "id": 0, "seen": 0},
        {"say": "ready", "models": ["another"], "pid": 1},
    ],
)
def test_a_worker_that_says_what_none_would_is_ended(head):
    scene = Scene(2)
    scene.settle()
    scene.open(0)
    scene.push(0, [1, 2, 0, 0])
    number = next(s.worker.number for s in scene.dispatch._streams.values())
    scene.dispatch.heard(number, head, b"", scene.now)
    scene.act()
    assert scene.dispatch.counts.deaths == 1 and number not in scene.processes
    scene.do("finish", 0)
    scene.settle()
    same(scene.told[0], alone("hear", [np.float32([1, 2, 0, 0])]))


def test_a_dead_worker_is_replaced_later_and_later():
    scene, waits = Scene(2), []
    for _ in range(6):
        scene.kill(0)
        waits.append(scene.dispatch.workers[0].due - scene.now)
        while 0 not in scene.processes:
            scene.tick(0.5)
    assert waits[0] < 1 and waits == sorted(waits) and waits[-1] > 10
    scene.deliver(0)
    for _ in range(60):
        scene.tick(0.9)
    scene.kill(0)  # after a long life
    assert scene.dispatch.workers[0].due == scene.now


def test_without_workers_a_stream_waits_and_then_is_told():
    scene = Scene(2)
    scene.open(0)
    scene.push(0, [1, 2])
    scene.kill(0), scene.kill(1)
    scene.dispatch.tick(scene.now + PATIENCE_S + 1)
    scene.act()
    assert isinstance(scene.told[0][-1], Failed) and "no worker" in scene.told[0][-1].message


def test_streams_move_to_a_worker_that_has_come_back():
    scene = Scene(2)
    scene.settle()
    for key in range(6):
        scene.open(key)
    scene.kill(0)
    scene.settle()
    for _ in range(6):
        for key in range(6):
            scene.push(key, [1, 2, 0, 0])
        scene.settle()
    shares = sorted(w.streams for w in scene.dispatch.workers)
    assert shares == [3, 3] and scene.dispatch.counts.moved >= 2
    for key in range(6):
        scene.do("finish", key)
    scene.settle()
    for key in range(6):
        same(scene.told[key], alone("hear", [np.float32([1, 2, 0, 0])] * 6))


def test_snapshots_are_given_and_asked_for_again_after_a_death():
    scene = Scene(2)
    scene.settle()
    scene.open(0)
    scene.push(0, [1, 2, 0, 0])
    number = scene.dispatch.ask(0)
    scene.kill(0), scene.kill(1)
    scene.act()
    scene.settle()
    assert scene.answers[number].data and not scene.answers[number].error
    missing = scene.dispatch.ask(5)
    scene.act()
    assert "over" in scene.answers[missing].error


def test_the_end_tells_everybody():
    scene = Scene(2)
    scene.open(0)
    scene.do("stop")
    assert isinstance(scene.told[0][-1], Failed) and not scene.processes
    scene.tick(1000.0)
    assert not scene.processes
