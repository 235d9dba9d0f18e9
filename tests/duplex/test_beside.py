"""The recogniser and the voice of a live conversation, in threads, against the same in the caller's time."""

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechstream.duplex.ears import Ears
from speechstream.duplex.events import Foreseen, Label, Say, SpeechReady
from speechstream.duplex.mouth import AHEAD_S, Mouth
from speechstream.duplex.output import Output
from speechstream.errors import SpeechStreamError
from speechstream.events import Final, Partial

FIXTURES = Path(__file__).parents[1] / "fixtures"
BLOCK = np.zeros(320, np.float32)
LONGEST_S = 60.0  # a test that waits so long has failed


class Request:
    def __init__(self, gate):
        self.gate = gate

    def run(self):
        assert self.gate.wait(LONGEST_S)


class Stream:
    """Says each block's number; where its gate is shut, it takes for ever."""

    def __init__(self):
        self.gate, self.reached = threading.Event(), threading.Event()
        self.state, self.blocks, self.closed = "new", 0, False

    def push(self, pcm):
        self.reached.set()
        assert self.gate.wait(LONGEST_S)
        if np.isnan(pcm).any():
            raise SpeechStreamError("no sound")
        self.blocks += 1
        return [Partial("", str(self.blocks), 0.0)]

    def rollback(self, state):
        self.blocks = 0

    def fork(self):
        return self

    def finishing(self):
        try:
            for _ in range(2):
                self.reached.set()
                yield Request(self.gate)
            return [Final("all", (), 0.0, 1.0)]
        finally:
            self.closed = True


@pytest.fixture
def stream(monkeypatch):
    made = Stream()
    monkeypatch.setattr("speechstream.duplex.ears.Stream", lambda core: made)
    return made


@pytest.fixture
def ears(stream):
    made = Ears(None, beside=True)
    yield made
    stream.gate.set()
    made.close()


def texts(ears):
    return [e.event.text for e in ears.poll(0.0)]


def test_who_brings_sound_waits_for_nothing(stream, ears):
    for _ in range(3):
        ears.hear(BLOCK, 0.0)
    assert texts(ears) == [] and ears.behind_s == pytest.approx(0.06)
    stream.gate.set()
    ears.wait()
    assert texts(ears) == ["1", "2", "3"] and ears.behind_s == 0


def test_of_what_was_before_a_restart_nothing_is_said(stream, ears):
    for _ in range(3):
        ears.hear(BLOCK, 0.0)
    assert stream.reached.wait(LONGEST_S)
    ears.restart()
    ears.hear(BLOCK, 0.0)
    stream.gate.set()
    ears.wait()
    assert texts(ears) == ["1"]


def test_what_is_foreseen_has_its_number_and_what_is_given_up_is_not_said(stream, ears):
    ears.foresee(7)
    assert stream.reached.wait(LONGEST_S)
    ears.give_up()
    stream.gate.set()
    ears.wait()
    assert ears.poll(0.0) == [] and stream.closed
    ears.foresee(8)
    ears.wait()
    assert ears.poll(2.5) == [Foreseen("all", 2.5, None, 8)]


def test_what_goes_wrong_in_the_thread_is_raised_by_who_polls_and_it_goes_on(stream, ears):
    stream.gate.set()
    ears.hear(np.full(320, np.nan, np.float32), 0.0)
    ears.wait()
    with pytest.raises(SpeechStreamError, match="no sound"):
        ears.poll(0.0)
    ears.hear(BLOCK, 0.0)
    ears.wait()
    assert texts(ears) == ["1"]


def test_both_hear_and_foresee_the_same(embedded_asr):
    recognizer = embedded_asr
    pcm, _ = soundfile.read(FIXTURES / "austen_0880.flac", dtype="float32")
    said = []
    for beside in (False, True):
        ears = Ears(recognizer.core(160, 16_000), beside)
        for at in range(0, len(pcm), 1600):
            ears.hear(pcm[at : at + 1600], 1.0)
        ears.foresee(1)
        ears.wait()
        said.append(ears.poll(3.0))
        ears.close()
    assert said[0] == said[1] and isinstance(said[0][-1], Foreseen)
    assert said[0][-1].text == recognizer.transcribe(pcm, 16_000).text


def test_both_make_the_same_sound_and_no_more_than_is_needed(embedded_tts):
    synthesizer = embedded_tts
    text = "The harbour lies on the north side of the island. Ships have come here for long."
    whole = synthesizer.synthesize(text).pcm
    for beside in (False, True):
        output = Output(synthesizer.sample_rate)
        mouth = Mouth(synthesizer.core(), output, beside)
        mouth.say(Say(Label(1, 1, 0), text, True))
        parts, made = [], []
        for _ in range(round(len(whole) / 2400) + 10):
            mouth.wait()
            made += mouth.made(1.0)
            assert output.waiting < (AHEAD_S + 1.5) * output.sample_rate
            parts.append(output.pull(2400))
        heard = np.concatenate(parts)
        count = sum(e.samples for e in made if isinstance(e, SpeechReady))
        assert made[-1].last and count == len(whole)
        np.testing.assert_array_equal(heard[:count], whole)
        mouth.close()


def test_speech_that_was_stopped_is_not_heard(embedded_tts):
    synthesizer = embedded_tts
    output = Output(synthesizer.sample_rate)
    mouth = Mouth(synthesizer.core(), output, beside=True)
    mouth.say(Say(Label(1, 1, 0), "One, two, three, four, five.", True))
    mouth.stop()
    output.stop(Label(1, 1, 0))
    mouth.wait()
    assert not output.pull(24_000)[480:].any()
    mouth.say(Say(Label(2, 2, 1), "Six.", True))
    mouth.wait()
    assert {e.label for e in mouth.made(0.0) if e.samples} >= {Label(2, 2, 1)}
    assert np.abs(output.pull(24_000)).max() > 0.01
    mouth.close()
