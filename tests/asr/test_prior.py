"""A language model that chooses among what the decoder considers."""

import numpy as np
import pytest

from speechstream import Recognizer
from speechstream.asr import beam
from speechstream.asr.incremental import Draft
from speechstream.asr.prior import LONGEST, MOST, Judge, Prior
from speechstream.asr.whisper.attention import AttentionDecoder
from speechstream.runtime.requests import answer_together, drive


def graphs():
    """What makes a small language model's graph: not without what trains and exports."""
    pytest.importorskip("torch")
    pytest.importorskip("onnx")
    import tests.lm.small

    return tests.lm.small


class Spelling:
    """In a language model's place: bytes are tokens, each as probable as its number says."""

    class tokenizer:
        @staticmethod
        def id(token):
            return 0 if token == "<|endoftext|>" else None

        @staticmethod
        def encode(text):
            return list(text.encode())

    scores = np.linspace(-3, 3, 256)

    def init_state(self, batch):
        assert batch == 1
        return 0

    def propose(self, tokens, state):
        assert len(tokens) == 1 and 0 < len(tokens[0]) + state < LONGEST
        self.read += len(tokens[0])
        rows = [np.tile(self.scores, (len(tokens[0]), 1))]
        return type("Said", (), {"logits": rows, "state": state})()

    def accept(self, proposal, count):
        return proposal.state + count[0]

    read = 0


def test_texts_are_judged_token_by_token():
    prior = Prior(Spelling(), 0.5)
    logp = Spelling.scores - np.log(np.exp(Spelling.scores).sum())
    expected = [logp[list(b" " + t.encode())].sum() for t in ("abc", "z")]
    np.testing.assert_allclose(prior.judge(["abc", "z"]), expected)
    np.testing.assert_allclose(Judge(prior, ("abc", "z")).run(), np.array(expected) / 2)
    assert np.isfinite(prior.judge(["word " * 500])[0])


def test_what_all_texts_begin_with_is_read_once():
    prior = Prior(Spelling())
    alone = [
        prior.judge([t])[0] for t in ("the same words, then", "the same words", "the same war")
    ]
    prior.model.read = 0
    np.testing.assert_allclose(
        prior.judge(["the same words, then", "the same words", "the same war"]), alone
    )
    # <|endoftext|> and " the same w" together, then what is left, each without its last letter
    assert prior.model.read == 12 + 9 + 3 + 1


def test_a_language_model_agrees_with_its_own_single_tokens():
    """The graph's log-probabilities, read token by token, are those of the texts that share a beginning."""
    small = graphs()
    model = small.as_graph(small.checkpoint())
    texts = ["said he", "said she", "sat", "said"]
    expected = []
    for text in texts:
        ids, state, total = model.tokenizer.encode(" " + text), model.init_state(), 0.0
        for a, b in zip(ids, ids[1:]):
            logits, state = model.step([[a]], state)
            total += logits[0, b] - np.logaddexp.reduce(logits[0].astype(np.float64))
        expected.append(total)
    np.testing.assert_allclose(Prior(model).judge(texts), expected, atol=1e-3)


def test_streams_that_ask_together_get_what_each_gets_alone():
    small = graphs()
    prior = Prior(small.as_graph(small.checkpoint()), 0.3)
    asked = [("he said so", "he said sew"), ("no",), ("he said so", "he said sew"), ("a", "be")]
    requests = [Judge(prior, texts) for texts in asked]
    assert len({r.key for r in requests}) == 1 and requests[0].key != Judge(Prior(None), ()).key
    assert dict(answer_together(requests)) == {i: r.run() for i, r in enumerate(requests)}


class Letters:
    """In a vocabulary's place."""

    end = 99

    @staticmethod
    def text(ids):
        return "".join(chr(97 + i) for i in ids)


class Noting(Prior):
    """Prefers what has the most of the letter e, and notes what it was asked."""

    def judge(self, texts):
        asked.append(texts)
        return [float(t.count("e")) for t in texts]


asked: list = []


def chosen(monkeypatch, considered, prior):
    """The text that `refine` takes of hypotheses (log-probability, text), and the state that goes with it."""

    def search(*_):
        yield from ()
        drafts = [Draft([ord(c) - 97 for c in text]) for _, text in considered]
        return [(score, d, text) for (score, text), d in zip(considered, drafts)]

    monkeypatch.setattr(beam, "search", search)
    asked.clear()
    decoder = AttentionDecoder(Letters(), beam=4, prior=prior)
    work = beam.refine(decoder, 4, Draft(), None, None, 50, 1.0, True, 50)
    draft, state = drive(work)
    return Letters.text(draft.tokens), state


def test_what_a_search_considers_is_weighed_again(monkeypatch):
    considered = [(-3.0, "eee"), (-1.0, "abc"), (-1.4, "bed")]
    assert chosen(monkeypatch, considered, None) == ("abc", "abc")
    assert chosen(monkeypatch, considered, Noting(Spelling(), 0.1)) == ("abc", "abc")
    assert chosen(monkeypatch, considered, Noting(Spelling(), 0.5)) == ("bed", "bed")
    assert chosen(monkeypatch, considered, Noting(Spelling(), 1.0)) == ("eee", "eee")
    assert asked == [("abc", "bed", "eee")]


def test_it_is_asked_of_few_and_only_where_there_is_a_choice(monkeypatch):
    prior = Noting(Spelling(), 1.0)
    many = [(-0.1 * n, chr(97 + n)) for n in range(9)]
    assert chosen(monkeypatch, many, prior)[0] == "e" and len(asked[0]) == MOST
    assert chosen(monkeypatch, [(-1.0, "abe")], prior)[0] == "abe" and not asked
    assert chosen(monkeypatch, [(-1.0, "ae"), (-2.0, "ae")], prior)[0] == "ae" and not asked


def test_what_it_cannot_do_is_said(embedded_asr):
    for weight in (0, -1, 11, float("nan")):
        with pytest.raises(ValueError, match="weight of a prior"):
            Prior(Spelling(), weight)
    prior = Prior(Spelling())
    with pytest.raises(ValueError, match="beam must be 2"):
        Recognizer.load(prior=prior, beam=1)
    with pytest.raises(ValueError, match="'attention'"):
        Recognizer.load(prior=prior, decoder="ctc")
    plain, other = embedded_asr, Recognizer.load(prior=prior)
    assert other.family.identity()["prior"] == 0.2 and "prior" not in plain.family.identity()
