"""What is told once, and what is dropped when a stream is heard again."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from speechstream.duplex.events import VoiceActivity
from speechstream.events import (
    Audio,
    Endpoint,
    Failed,
    Final,
    Partial,
    Phoneme,
    SpeechStarted,
    Word,
)
from speechstream.serve.replay import Journal, due

RATE = 100


def heard(sentences):
    """What a recogniser says of sentences, each of so many partials; one activity for each window."""
    events, now = [], 0.0
    for number, partials in enumerate(sentences):
        events.append(SpeechStarted(now, now))
        for i in range(partials):
            now += 0.32
            events.append(VoiceActivity(0.9, now))
            events.append(Partial(f"{number}", f"{i}", now))
        events += [Final(f"{number}", (), 0.0, now), Endpoint(now, now)]
    return events


def spoken(pcm, words, cuts):
    """The same speech in blocks that end at these samples."""
    ends = sorted({c for c in cuts if c < len(pcm)} | {len(pcm)})
    blocks, begin = [], 0
    for end in ends:
        inside = tuple(w for w in words if begin <= w.start * RATE < end)
        sounds = tuple(Phoneme(w.text, w.start, w.end) for w in inside)
        blocks.append(Audio(pcm[begin:end], begin / RATE, inside, sounds))
        begin = end
    return blocks


@given(st.lists(st.integers(0, 3), max_size=4), st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_heard_again_is_told_once(sentences, data):
    """Snapshots and deaths anywhere: the listener is told what one who never died would have said."""
    events = heard(sentences)
    journal, got, at, saved = Journal("state 0"), [], 0, 0
    while at < len(events):
        what = data.draw(st.sampled_from("say say say save die".split()))
        if what == "say":
            got += journal.told_of(events[at : at + 1])
            at += 1
        elif what == "save":
            journal.save(f"state {at}", 0)
            saved = at
        else:
            opening, _ = journal.again()
            assert opening == f"state {saved}"
            at = saved
    assert got == events


@given(
    st.lists(st.integers(1, 60), max_size=4), st.lists(st.integers(1, 60), max_size=4), st.data()
)
@settings(max_examples=100, deadline=None)
def test_speech_in_other_blocks_is_told_to_the_sample(cuts, others, data):
    pcm = np.arange(60, dtype=np.float32)
    words = tuple(Word(str(i), i / 10, (i + 1) / 10) for i in range(6))
    first, again = spoken(pcm, words, cuts), spoken(pcm, words, others)
    journal = Journal("opening", RATE)
    got = journal.told_of(first[: data.draw(st.integers(0, len(first)))])
    journal.again()
    got += journal.told_of(again)
    np.testing.assert_array_equal(np.concatenate([b.pcm for b in got]), pcm)
    assert [w for b in got for w in b.words] == list(words)
    assert [p.text for b in got for p in b.phonemes] == [w.text for w in words]
    assert all(b.start == pytest.approx(b.pcm[0] / RATE) for b in got if len(b.pcm))


def test_a_sentence_that_comes_in_other_partials_is_told_once():
    """Another batch may round otherwise: the number of partials is nothing to count on."""
    first = [
        SpeechStarted(0, 0),
        Partial("", "a", 0.3),
        Partial("a", "b", 0.6),
        Final("a b", (), 0, 1),
    ]
    journal = Journal(None)
    assert journal.told_of(first) == first
    journal.again()
    more = [Partial("x", "y", 0.3), Partial("x", "y", 0.9)]
    assert journal.told_of([first[0], *more, first[3], Endpoint(1, 1)]) == [Endpoint(1, 1)]
    assert not journal.behind


def test_only_partials_that_heard_more_are_told():
    journal = Journal(None)
    journal.told_of([SpeechStarted(0, 0), Partial("a", "", 0.6)])
    journal.again()
    later = Partial("a", "b", 0.9)
    assert journal.told_of([SpeechStarted(0, 0), Partial("", "a", 0.3), later]) == [later]


def test_partials_at_one_time_are_all_told_while_nothing_is_heard_again():
    twice = [Partial("", "a", 0.3), Partial("a", "b", 0.3)]
    assert Journal(None).told_of(twice) == twice


def test_a_failure_is_always_told():
    journal = Journal(None)
    journal.told_of([Final("a", (), 0, 1)])
    journal.again()
    assert journal.told_of([Failed("no")]) == [Failed("no")]


def test_inputs_are_kept_until_a_snapshot_has_them():
    journal = Journal("opening")
    assert [journal.push(x, 0.5) for x in "abc"] == [1, 2, 3]
    journal.save("state", 2)
    assert journal.again() == ("state", ["c"]) and journal.seconds == 0.5
    assert journal.push("d", 0.5) == 4 and journal.seconds_after(3) == 0.5
    journal.save("later", 1)  # which it cannot be: nothing is lost
    assert journal.again() == ("later", ["c", "d"])


def test_a_twin_goes_its_own_way():
    journal = Journal("opening")
    journal.push("a", 1.0)
    journal.told_of([Final("a", (), 0, 1)])
    twin = journal.fork()
    twin.push("b", 1.0)
    twin.again()
    assert twin.told_of([Final("a", (), 0, 1), Final("b", (), 1, 2)]) == [Final("b", (), 1, 2)]
    assert journal.again() == ("opening", ["a"])


def test_snapshots_are_due_in_pauses_earlier():
    assert due(2.0, True) and not due(2.0, False) and due(10.0, False) and not due(1.9, True)
