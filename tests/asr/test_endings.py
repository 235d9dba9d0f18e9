"""No word is lost where sound ends or a long segment is cut, and first words are dated where they begin."""

import json

import numpy as np
import pytest
import soundfile as sf

from speechstream.asr.endpoint import EndpointRules
from speechstream.events import Final
from tools._scoring import count_errors, english_normaliser

RATE = 16000


@pytest.fixture(scope="module")
def asr(embedded_asr):
    return embedded_asr


@pytest.fixture(scope="module")
def readings(fixtures_dir):
    """Samples and reference by the number of each reading."""
    found = json.loads((fixtures_dir / "transcripts.json").read_text(encoding="utf-8"))
    return {
        r["file"][7:11]: (sf.read(fixtures_dir / r["file"], dtype="float32")[0], r) for r in found
    }


def said(text):
    return english_normaliser()(text).split()


CUTS = {  # reading, seconds from and to, gain
    "within a sentence": ("0880", 0, 2.74, 1),
    "behind a long one": ("0890", 0, 5.09, 1),
    "a single word": ("0880", 1.48, 2.11, 1),
    "quiet speech": ("0880", 0, 9, 0.1),
}


@pytest.mark.parametrize("latency", [None, 320])
@pytest.mark.parametrize("cut", CUTS)
def test_the_last_word_is_there_without_silence_behind(asr, readings, cut, latency):
    name, begin, end, gain = CUTS[cut]
    x = readings[name][0][int(begin * RATE) : int(end * RATE)] * np.float32(gain)
    silent = np.concatenate([x, np.zeros(2 * RATE, np.float32)])
    heard = asr.transcribe(x, RATE, latency_ms=latency)
    assert heard.text and heard.text == asr.transcribe(silent, RATE, latency_ms=latency).text
    words = [w for s in heard.segments for w in s.words]
    assert words[-1].end <= len(x) / RATE + 0.03  # and no time lies behind the sound


@pytest.mark.parametrize("latency", [None, 320])
def test_quick_rules_do_not_cost_the_last_word(asr, readings, latency):
    x, rules = readings["0890"][0], EndpointRules(silence_s=0.1)
    heard = asr.transcribe(x, RATE, latency_ms=latency, rules=rules)
    assert heard.text == asr.transcribe(x, RATE, latency_ms=latency).text
    assert heard.segments[-1].words[-1].end <= heard.segments[-1].end <= len(x) / RATE


@pytest.mark.parametrize("latency", [None, 320])
@pytest.mark.parametrize("command", ["Stop", "Seven", "Turn it on", "One"])
def test_a_command_that_breaks_off_does_not_say_its_end_twice(asr, command, latency, embedded_tts):
    tts = embedded_tts
    pcm = tts.synthesize(f"{command}.").pcm
    loud = np.flatnonzero(np.abs(pcm) > 0.05 * np.abs(pcm).max())
    clipped = pcm[loud[0] : loud[-1]]
    heard = said(asr.transcribe(clipped, tts.sample_rate, latency_ms=latency).text)
    assert 1 <= len(heard) <= len(command.split()) + 1
    assert all(a != b for a, b in zip(heard, heard[1:]))


@pytest.mark.parametrize("name", ["0870", "0880", "0920", "0930"])
@pytest.mark.parametrize("silence", [0.0, 0.7])
def test_a_first_word_begins_where_it_is_said(asr, readings, name, silence):
    x, reference = readings[name]
    x = np.concatenate([np.zeros(int(silence * RATE), np.float32), x[: 3 * RATE]])
    with asr.stream(320, RATE) as stream:
        events = stream.push(x) + stream.finish()
    first = next(e for e in events if isinstance(e, Final)).words[0]
    assert abs(first.start - silence - reference["words"][0]["start"]) <= 0.1


@pytest.mark.parametrize("latency", [None, 640])
def test_a_long_stretch_without_pauses_loses_nothing_at_its_cuts(asr, readings, latency):
    order = ["0870", "0890", "0920", "0880", "0930"] * 2  # 49 s; a segment has 24 s at most
    x = np.concatenate([readings[n][0] for n in order])
    reference = said(" ".join(readings[n][1]["text"] for n in order))
    found = asr.transcribe(x, RATE, latency_ms=latency)
    assert len(found.segments) > 2
    errors = count_errors(reference, said(found.text))
    assert errors.deletions <= 2 and errors.insertions <= 3
