"""The form of a text: the same in a live stream and offline, and what is stable only grows."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from speechstream import Recognizer
from speechstream.asr.endpoint import EndpointRules
from speechstream.asr.family import Mode
from speechstream.asr.form import TextForm
from speechstream.events import Final, Partial, Word

RATE, WORD_S = 16000, 0.2

FORMS = [TextForm(n, p) for n in ("digits", "words", "asis") for p in (True, False)]
VOCABULARY = (
    "one two three twenty hundred and to dollars fifty cents percent, $2 $12.50, 5 12 3 km March 3rd 2024 25% 10-20 "
    "3:30 p.m. the dog. it's well-known \u2014 USD million 1/2 3.14 -5 second, first a oh point p m"
).split()


@dataclass(frozen=True)
class Script:
    samples: int = 0
    over: bool = False


class Reader:
    """A family that reads one word of a text in every 0.2 s of sound; the last two are not certain yet."""

    latencies, batch_size = (80,), 1

    def __init__(self, text: str):
        self.said = text.split()

    def mode(self, latency_ms: Any) -> Mode:
        return Mode((1,))

    def open(self, mode: Mode) -> Script:
        return Script()

    def feed(self, x, segment, mode):
        yield from ()
        return replace(segment, samples=segment.samples + len(x))

    def finish(self, segment, mode, rest=None):
        yield from ()
        return replace(segment, over=True)

    def close(self, segment) -> None:
        pass

    def _heard(self, segment):
        words = self.said[: int(segment.samples / RATE / WORD_S)]
        return words, len(words) if segment.over else max(len(words) - 2, 0)

    def text(self, segment):
        words, stable = self._heard(segment)
        return " ".join(words[:stable]), " ".join(words[stable:])

    def words(self, segment, spoken_from):
        words, stable = self._heard(segment)
        return [
            Word(w, i * WORD_S, (i + 1) * WORD_S, 0.5 + 0.01 * i)
            for i, w in enumerate(words[:stable])
        ]

    def resident(self):
        return self

    def identity(self):
        return {"family": "reader"}

    def declared(self, mode):
        return {"": Script}

    def check(self, segment, samples, mode) -> None:
        pass

    def read(self, segment):
        return segment

    def write(self, segment, mode):
        return segment


class Speaking:
    """A voice activity detector that hears somebody all the time."""

    def __init__(self, vad):
        self.vad = vad

    def init_state(self):
        return self.vad.init_state()

    def step(self, x, state):
        p, state = self.vad.step(x, state)
        return np.ones_like(p), state


def reading(text, form):
    plain = Recognizer(Reader(text), EndpointRules(before_s=0), form=form)
    plain._vad = Speaking(plain._vad)
    return plain


TEXT = "It cost twelve dollars and fifty cents, that is twenty five percent more. Call one two three four."
WRITTEN = {
    "digits": "It cost $12.50, that is 25% more. Call 1 2 3 4.",
    "asis": TEXT,
    "words": TEXT,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_live_stream_writes_what_is_written_offline(form):
    asr = reading(TEXT, form)
    x = np.full(int(RATE * WORD_S * (len(TEXT.split()) + 0.5)), 0.01, np.float32)
    offline = asr.transcribe(x, RATE)
    expected = WRITTEN[form.numbers]
    if not form.punctuation:
        expected = expected.replace(", ", " ").replace(". ", " ").rstrip(".")
    assert offline.text == expected
    with asr.stream(80, RATE) as stream:
        events = [e for i in range(0, len(x), 800) for e in stream.push(x[i : i + 800])]
        events += stream.finish()
    (final,) = [e for e in events if isinstance(e, Final)]
    assert final.text == expected == " ".join(w.text for w in final.words)
    stable = ""
    for partial in (e for e in events if isinstance(e, Partial)):
        assert partial.stable.startswith(stable) and expected.startswith(partial.stable)
        stable = partial.stable
    assert len(stable.split()) > len(expected.split()) / 2


def test_the_form_is_of_one_stream_and_stays_with_its_snapshot():
    asr = reading("twenty five people came", TextForm())
    x = np.full(int(RATE * WORD_S * 4.5), 0.01, np.float32)
    stream = asr.stream(80, RATE, form=TextForm("digits"))
    stream.push(x[:8000])
    again = asr.resume(stream.to_bytes())
    events = again.push(x[8000:]) + again.finish()
    assert [e.text for e in events if isinstance(e, Final)] == ["25 people came"]
    assert asr.transcribe(x, RATE).text == "twenty five people came"


def test_a_word_written_for_several_lasts_as_long_as_they_do():
    said = "it cost two million dollars now".split()
    words = [Word(w, float(i), i + 0.5, 0.9 - 0.1 * i) for i, w in enumerate(said)]
    written = TextForm("digits").words(words)
    assert [w.text for w in written] == ["it", "cost", "$2", "million", "now"]
    assert (written[2].start, written[3].end) == (2.0, 4.5)
    assert written[2].confidence == pytest.approx(0.5)
    assert 2.0 < written[2].end == written[3].start < 4.5
    assert written[0] == words[0] and written[4] == words[5]
    back = TextForm("words").words([Word("$12.50,", 1.0, 3.0, 0.5)])
    assert " ".join(w.text for w in back) == "twelve dollars and fifty cents,"
    assert back[0].start == 1.0 and back[-1].end == 3.0
    assert all(a.end == b.start for a, b in zip(back, back[1:]))


@pytest.mark.parametrize(
    "marked, bare",
    [
        ("Well, it's well-known: $3.50!", "Well it's well-known $3.50"),
        ("(At 3:30 p.m.) \u201cno\u201d", "At 3:30 p.m. no"),
        ("yes\u2014no... -5 degrees, 25%.", "yes no -5 degrees 25%"),
        ("\u2026 \u2014 .", ""),
    ],
)
def test_without_punctuation_case_and_numbers_stay(marked, bare):
    form = TextForm(punctuation=False)
    assert form.partial(marked, "")[0] == bare
    words = form.words([Word(w, 0.0, 1.0) for w in marked.split()])
    assert " ".join(w.text for w in words) == bare


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=10), st.sampled_from(FORMS))
def test_what_is_stable_only_grows_to_the_final_text(said, form):
    final = form.words([Word(w, float(i), i + 1.0, 0.5) for i, w in enumerate(said)])
    assert all(" " not in w.text and w.start <= w.end for w in final)
    assert all(a.end <= b.start for a, b in zip(final, final[1:]))
    texts, stable = [w.text for w in final], []
    for n in range(len(said) + 1):
        now = form.partial(" ".join(said[:n]), " ".join(said[n : n + 2]))[0].split()
        assert now[: len(stable)] == stable and texts[: len(now)] == now
        stable = now


@pytest.mark.parametrize("wrong", [{"numbers": "roman"}, {"numbers": None}, {"punctuation": "off"}])
def test_a_form_that_there_is_not_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TextForm(**wrong)
