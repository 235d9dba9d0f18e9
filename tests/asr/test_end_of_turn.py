"""The end-of-turn head: its features against closed forms, and the same probability however a stream is driven."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from speechstream.asr.end_of_turn import EndOfTurn, pooled
from speechstream.asr.recognizer import Stream
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, from_json, to_json
from speechstream.runtime.requests import drive


@pytest.fixture(scope="module")
def asr(embedded_asr):
    return embedded_asr


@pytest.fixture(scope="module")
def speech(fixtures_dir):
    read = [
        soundfile.read(fixtures_dir / f"austen_{n}.flac", dtype="float32")[0]
        for n in ("0880", "0930")
    ]
    silence = np.zeros(16_000, np.float32)
    return np.concatenate([read[0], silence, read[1]])


def finals(events):
    return [e for e in events if isinstance(e, Final)]


def stream(asr, head, speech, block):
    s = Stream(asr.core(640).telling(head))
    said = [e for at in range(0, len(speech), block) for e in s.push(speech[at : at + block])]
    return finals(said + s.finish())


def test_finals_tell_it_however_the_stream_is_driven(asr, speech):
    head = asr.end_of_turn
    told = stream(asr, head, speech, len(speech))
    assert len(told) == 2 and all(0 <= f.end_of_turn <= 1 for f in told)
    assert stream(asr, head, speech, 5003) == told
    core = asr.core(640).telling(head)  # on caches that are values
    events, state = drive(core.step(speech, core.init_state()))
    more, _ = drive(core.step(None, state))
    assert finals(events + more) == told
    silent = stream(asr, None, speech, len(speech))
    assert silent == [replace(f, end_of_turn=None) for f in told]
    assert [from_json(to_json(f)) for f in (*told, *silent)] == [*told, *silent]
    assert "end_of_turn" not in to_json(silent[0])


def test_an_event_with_no_probability_is_refused():
    event = to_json(Final("Yes.", (), 0.0, 1.0, end_of_turn=0.5))
    with pytest.raises(ValueError, match="between 0 and 1"):
        from_json({**event, "end_of_turn": 1.5})


def test_a_head_is_a_file_of_its_own(tmp_path, asr):
    path = tmp_path / "head.safetensors"
    asr.end_of_turn.save(path)
    again = EndOfTurn.load(path)
    assert again.bias == asr.end_of_turn.bias
    assert np.array_equal(again.weights, asr.end_of_turn.weights)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SpeechStreamError, match="no end-of-turn head"):
        EndOfTurn.load(path)
    with pytest.raises(SpeechStreamError, match="no end-of-turn head"):
        EndOfTurn.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="another encoder"):
        again(np.ones((3, 16), np.float32))


def test_short_stretches_are_averaged_as_far_as_they_go():
    frames = np.arange(60, dtype=np.float32).reshape(30, 2)
    means = [frames[-n:].mean(0) for n in (4, 24, 30)]
    assert pooled(frames).tolist() == np.concatenate(means).tolist()
    assert pooled(frames[:1]).tolist() == [0, 1] * 3
    head = EndOfTurn(np.array([1, 0, 0, 0, 0, 0], np.float32), -55.0)
    assert head(frames) == pytest.approx(0.5)  # the last four frames' first value is 55 in the mean
