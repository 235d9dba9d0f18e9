"""A language model that chooses among what the decoder considers."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="makes the tiny model")
pytest.importorskip("onnx")

from speechstream.asr.prior import LONGEST, Judge, Prior
from speechstream.asr.whisper.attention import AttentionDecoder
from speechstream.runtime.requests import drive
from tests.tiny import make_tiny, read_speech, recognizer


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
        return batch

    def propose(self, tokens, state):
        assert len(tokens) == state and all(0 < len(t) < LONGEST for t in tokens)
        rows = [np.tile(self.scores, (len(t), 1)) for t in tokens]
        return type("Said", (), {"logits": rows})()


def test_texts_are_judged_token_by_token():
    prior = Prior(Spelling(), 0.5)
    logp = Spelling.scores - np.log(np.exp(Spelling.scores).sum())
    expected = [logp[list(b" " + t.encode())].sum() for t in ("abc", "z")]
    np.testing.assert_allclose(prior.judge(["abc", "z"]), expected)
    np.testing.assert_allclose(Judge(prior, ("abc", "z")).run(), np.array(expected) / 2)
    assert np.isfinite(prior.judge(["word " * 500])[0])
    for weight in (0, -1, 11):
        with pytest.raises(ValueError, match="weight of a prior"):
            Prior(Spelling(), weight)
    with pytest.raises(ValueError, match="beam must be 2"):
        AttentionDecoder(None, beam=1, prior=prior)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny(tmp_path_factory.mktemp("tiny"))


class Telling(Prior):
    """Prefers what has the most of a letter, and notes what it was asked."""

    def judge(self, texts):
        self.asked.append(texts)
        return [float(t.count("e")) for t in texts]


def test_what_a_search_considers_is_weighed_again_and_only_that(tiny, fixtures_dir):
    asr = recognizer(tiny)
    family, sound = asr.family, read_speech(fixtures_dir)[0][:24000]

    def heard(prior):
        decoder = type(family.decoder)(family.decoder.vocabulary, beam=4, prior=prior)
        one = family._on(family.runner, decoder)
        mode = one.mode(None)
        return drive(one.finish(one.open(mode), mode, sound)), one

    plain, _ = heard(None)
    prior = Telling(Spelling(), 10.0)
    object.__setattr__(prior, "asked", [])
    chosen, one = heard(prior)
    considered = list(prior.asked)
    assert considered and all(len(set(texts)) > 1 for texts in considered)
    text, other = (one.decoder.text(s.hypothesis)[0] for s in (chosen, plain))
    assert other in considered[-1]
    assert text.count("e") == max(t.count("e") for t in considered[-1])
    assert one.identity()["prior"] == 10.0 and "prior" not in family.identity()
    same, _ = heard(type("Same", (Telling,), {"judge": lambda s, t: [0.0] * len(t)})(Spelling()))
    assert same.hypothesis.tokens == plain.hypothesis.tokens
