"""Drafts for a speech LLM's language model: with good ones, bad ones and none it says the same, of random weights and sound."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the [train] extra")
pytest.importorskip("onnx", reason="writes the graphs")

from speechstream import Recognizer, bundle
from speechstream.asr.guess import MOST
from speechstream.asr.speech_llm.family import CTC, load
from speechstream.asr.speech_llm.networks import Read
from speechstream.errors import SpeechStreamError
from speechstream.runtime.requests import drive
from tools.make_tiny_speech_llm import HEARD, PIECES, tiny, write

pytestmark = pytest.mark.filterwarnings("ignore")


class Oracle:
    """Drafts that know what will be said, and are wrong as often as they are told to be."""

    def __init__(self, truth, wrong, rng, letters):
        self.truth, self.wrong, self.rng, self.letters = truth, wrong, rng, letters

    def text(self, best):
        return b"", np.zeros(0)

    def after(self, heard, odds, tokens, final):
        following = self.truth[len(tokens) : len(tokens) + int(self.rng.integers(MOST + 1))]
        wrong = self.rng.random(len(following)) < self.wrong
        other = self.rng.integers(1, len(PIECES) + 1, len(following))
        return [int(o) if w else t for t, w, o in zip(following, wrong, other)]


def sound(seed, seconds=3.0):
    """Noise in syllables."""
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.random(round(seconds * 5) + 1), 3200)[: round(seconds * 16000)]
    return (rng.standard_normal(len(loud)) * loud * 0.2).astype(np.float32)


def said(family, x, latency, seed=0):
    """The finished segment of sound in blocks of any size, and how often the language model was called."""
    mode, rng, calls = family.mode(latency), np.random.default_rng(seed), 0

    def counted(work):
        nonlocal calls
        answer = None
        while True:
            try:
                request = work.send(answer)
            except StopIteration as done:
                return done.value
            calls += isinstance(request, Read)
            answer = request.run()

    segment, at = family.open(mode), 0
    while at < len(x):
        n = int(rng.integers(1, 9000))
        segment = counted(family.feed(x[at : at + n], segment, mode))
        at += n
        family.check(segment, min(at, len(x)), mode)
    return counted(family.finish(segment, mode)), calls


def drafting(family, truth, wrong, seed=0):
    """The family with the oracle's drafts; truth None: without drafts."""
    other = copy.copy(family)
    letters = family.guesser.letters
    rng = np.random.default_rng(seed)
    other.guesser = None if truth is None else Oracle(list(truth), wrong, rng, letters)
    other._began = []
    return other


@pytest.fixture(scope="module", params=[(2, 10), (3, 0), (5, 0)], ids=lambda p: f"{p[0]}-{p[1]}")
def family(request, tmp_path_factory):
    """Of weights that are drawn; one whose language model hears, and two that do not."""
    seed, window = request.param
    model = tiny(seed, sound_window=window)
    path = write(tmp_path_factory.mktemp("drafts") / str(seed), model, graphs=False)
    return load(bundle.load(path), "torch", "cpu", 1, None, None, True)


@pytest.mark.parametrize("latency", [160, 640, None])
def test_drafts_change_nothing_but_the_number_of_calls(family, latency):
    x = sound(1)
    plain, most = said(drafting(family, None, 0), x, latency)
    assert plain.tokens
    own = copy.copy(family)  # that drafts from what its CTC head hears
    oracles = [drafting(family, plain.tokens, wrong) for wrong in (0.0, 0.3, 1.0)]
    for drafts in (own, *oracles):
        segment, calls = said(drafts, x, latency, 1)
        assert segment.tokens == plain.tokens and segment.at == plain.at
        np.testing.assert_allclose(segment.logprobs, plain.logprobs, atol=1e-4)
        np.testing.assert_allclose(segment.rows.keys, plain.rows.keys, atol=1e-4)
        np.testing.assert_allclose(segment.prior, plain.prior, atol=1e-4)
        assert np.array_equal(segment.rows.places, plain.rows.places)
        assert calls <= most


def test_good_drafts_save_most_calls_and_bad_ones_cost_none(family):
    if family.config.hears:
        pytest.skip("it is read again after each sound")
    x = sound(1)
    plain, most = said(drafting(family, None, 0), x, None)
    assert most == len(plain.tokens) + 1 > 8
    good = drafting(family, plain.tokens, 0.0)
    assert said(good, x, None)[1] < 0.5 * most
    assert said(drafting(family, plain.tokens, 1.0), x, None)[1] <= most


def test_a_stream_moves_on_with_tokens_that_are_read_and_not_said(tmp_path):
    path = write(tmp_path / "tiny", tiny(3, sound_window=0), graphs=False)
    asr, x = Recognizer.load(path, engine="torch", drafts=True), sound(1)
    family = asr.family
    plain, _ = said(drafting(family, None, 0), x, 160)
    family.guesser = Oracle(
        list(plain.tokens), 0.0, np.random.default_rng(0), family.guesser.letters
    )
    mode = family.mode(160)
    segment, drafted = family.open(mode), 0
    for at in range(0, len(x), 2560):
        segment = drive(family.feed(x[at : at + 2560], segment, mode))
        drafted += bool(segment.draft)
    assert drafted > 3
    expected = events(asr.stream(160, 16000), x)
    stream, before, moved = asr.stream(160, 16000), [], 0
    for at in range(0, len(x), 2560):
        before += stream.push(x[at : at + 2560])
        state = stream.state.segment
        if state is not None and state.decoding.draft:
            stream, moved = asr.resume(stream.to_bytes()), moved + 1
    assert [str(e) for e in before + stream.finish()] == expected
    assert moved or not any("Final" in e for e in expected)


def events(stream, x):
    found = []
    for at in range(0, len(x), 2560):
        found += stream.push(x[at : at + 2560])
    return [str(e) for e in found + stream.finish()]


def test_a_head_s_pieces_that_do_not_fit_are_refused(tmp_path):
    path = write(tmp_path / "tiny", tiny(3, ctc_vocab_size=5), graphs=False)
    with pytest.raises(SpeechStreamError, match=f"{CTC} has {len(HEARD)} pieces, the head 5"):
        Recognizer.load(path, engine="torch")
    path = write(tmp_path / "deaf", tiny(3, ctc_vocab_size=0), graphs=False)
    with pytest.raises(SpeechStreamError, match="no CTC head to draft from"):
        Recognizer.load(path, engine="torch", drafts=True)
