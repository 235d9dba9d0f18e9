"""Each channel of a call is heard as if the other were not there."""

import json

import numpy as np
import pytest
import soundfile as sf

import speechstream as ss
from speechstream.events import Final, Transcript, from_json, to_json

RATE = 16000


@pytest.fixture(scope="module")
def asr():
    return ss.Recognizer.load(beam=1)


@pytest.fixture(scope="module")
def call(fixtures_dir):
    """A reading on the left, and its first words on the right a second later."""
    left = sf.read(fixtures_dir / "austen_0880.flac", dtype="float32")[0]
    right = left[: 2 * RATE]
    x = np.zeros((len(left) + RATE, 2), np.float32)
    x[: len(left), 0] = left
    x[RATE : RATE + len(right), 1] = right
    return x


def test_a_split_call_is_what_its_channels_say_alone(asr, call, tmp_path):
    sf.write(tmp_path / "call.flac", call, RATE)
    heard = asr.transcribe(tmp_path / "call.flac", channels="split")
    assert [s.channel for s in heard.segments] == ["left", "right"]
    assert heard.segments[0].start <= heard.segments[1].start
    for i, label in enumerate(("left", "right")):
        alone = asr.transcribe(tmp_path / "call.flac", channels=label)
        assert heard.channels[label].text == alone.text != ""
        assert heard.channels[label].words == alone.words
        assert asr.transcribe(call, RATE, channels=i + 1).text == alone.text
    assert asr.transcribe(call, RATE, channels="split") == heard


def test_a_silent_channel_says_nothing(asr, call):
    one_sided = call * np.array([1, 0], np.float32)
    heard = asr.transcribe(one_sided, RATE, channels="split")
    assert list(heard.channels) == ["left"]


def test_live_events_name_their_channel_and_do_not_depend_on_blocks(asr, call):
    said = []
    for block in (1600, 7321):
        with asr.split_stream(320, RATE) as stream:
            events = [
                e for i in range(0, len(call), block) for e in stream.push(call[i : i + block])
            ]
            events += stream.finish()
        assert {e.channel for e in events} == {"left", "right"}
        said.append([(e.channel, e.text) for e in events if isinstance(e, Final)])
        assert all(from_json(json.loads(json.dumps(to_json(e)))) == e for e in events)
        assert [e.time for e in events if hasattr(e, "stable")] == sorted(
            e.time for e in events if hasattr(e, "stable")
        )
    assert said[0] == said[1]
    for i, (label, text) in enumerate(sorted(said[0])):
        alone = asr.transcribe(call[:, i], RATE, latency_ms=320)
        assert (label, text) == (("left", "right")[i], alone.text)


def test_blocks_that_do_not_fit_are_refused(asr):
    with asr.split_stream(320, RATE) as stream:
        stream.push(np.zeros((160, 2), np.float32))
        with pytest.raises(ValueError, match="hears 2 channel.*has 3"):
            stream.push(np.zeros((160, 3), np.float32))
        stream.finish()
        with pytest.raises(ValueError, match="finished"):
            stream.push(np.zeros((160, 2), np.float32))


def test_an_event_of_one_stream_has_no_channel_in_json():
    final = Final("a", (), 0.0, 1.0)
    assert "channel" not in to_json(final)
    assert Transcript((final,), 1.0).channels == {}
