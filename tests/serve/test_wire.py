"""Messages between the server and its workers: whatever comes in whatever pieces, and what nobody would say."""

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from speechstream.duplex.events import VoiceActivity
from speechstream.events import Audio, Failed, Final, Partial, Word
from speechstream.serve.workers import wire


@given(st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=20)), max_size=5), st.data())
@settings(max_examples=50, deadline=None)
def test_messages_come_whole_from_any_pieces(messages, data):
    sent = b"".join(b"".join(wire.pack({"a": a}, body)) for a, body in messages)
    frames, got = wire.Frames(), []
    while sent:
        size = data.draw(st.integers(1, len(sent)))
        got += list(frames.feed(sent[:size]))
        sent = sent[size:]
    assert got == [({"a": a}, body) for a, body in messages]


@given(st.binary(min_size=8, max_size=100))
@settings(max_examples=100, deadline=None)
def test_garbage_is_an_error_or_waits_for_more(data):
    try:
        list(wire.Frames().feed(data))
    except ValueError:
        pass


@pytest.mark.parametrize("head", [b"", b"[]", b"{", b"\xff\xff", b"1" * 10])
def test_a_head_that_is_none_is_an_error(head):
    with pytest.raises(ValueError):
        list(wire.Frames().feed(wire.LENGTHS.pack(len(head), 0) + head))


def test_events_arrive_as_they_were():
    events = [
        VoiceActivity(0.25, 1.1),
        Audio(np.arange(3, dtype=np.float32), 0.1, (Word("a", 0.1, 0.2),)),
        Partial("a", "b", 1 / 3),
        Audio(np.zeros(0, np.float32), 0.2),
        Final("a", (Word("a", 0.1, 1 / 7, 0.5),), 0.0, 1.0),
        Failed("no"),
    ]
    said, sound = wire.pack_events(events)
    got = wire.unpack_events(json.loads(json.dumps(said)), sound)
    for a, b in zip(events, got, strict=True):
        if isinstance(a, Audio):
            np.testing.assert_array_equal(a.pcm, b.pcm)
            assert (a.start, a.words, a.phonemes) == (b.start, b.words, b.phonemes)
        else:
            assert a == b


@pytest.mark.parametrize(
    "said",
    [
        None,
        ["a"],
        [{"type": "nothing"}],
        [{"type": "partial", "stable": 1, "unstable": "", "time": 0}],
        [{"type": "audio", "pcm": "", "start": 0, "words": [], "phonemes": [], "samples": 3}],
        [{"type": "audio", "pcm": "", "start": 0, "words": [], "phonemes": [], "samples": -1}],
        [{"type": "voice_activity", "speech": "x", "now": 0, "duration": 0, "end_of_turn": None}],
        [],
    ],
)
def test_events_that_are_none_are_an_error(said):
    with pytest.raises(ValueError):
        wire.unpack_events(said, b"\0" * 8)


@pytest.mark.parametrize("x", ["text ü", np.float32([0.5, -1]), np.int16([[1, 2], [3, 4]])])
def test_inputs_arrive_as_they_were(x):
    head, body = wire.pack_input(x)
    got = wire.unpack_input(json.loads(json.dumps(head)), body)
    assert (
        type(got) is type(x)
        and np.array_equal(got, x)
        and (isinstance(x, str) or got.dtype == x.dtype)
    )
