"""The gated decoder with a scripted network: nothing is said before its time, and streaming says what offline says."""

import json

import numpy as np
import pytest

from speechstream.asr.transducer import MAX_SYMBOLS
from speechstream.asr.whisper.gate import GatedDecoder
from speechstream.asr.whisper.networks import Decoded, DecoderState, Encoded, Joint
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.errors import SpeechStreamError
from tests.asr.whisper.heard import Heard

WORDS, TAILS, END, PROMPT = 30, 10, 40, [41, 42]  # 30 pieces open a word, 10 continue one
JOINT = Joint(np.zeros((2, 1), np.float32), np.ones(1, np.float32), 0.0)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    pieces = (
        [f"\u0120w{i}" for i in range(WORDS)]
        + [f"-{i}" for i in range(TAILS)]
        + ["<end>", "<a>", "<b>", "<c>"]
    )
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    path.write_text(json.dumps({"pieces": pieces, "end": END, "prompt": PROMPT}))
    return Vocabulary(path)


class Scripted:
    """Says the tokens of a script (token, pair in which it has been said), and the end with more conviction.

    A pair of frames carries its number, the text the number that is waited for, so the joint compares the two. What ended
    within the last `blurred` frames is heard wrong.
    """

    def __init__(self, script, blurred=0):
        self.script, self.blurred, self.calls = script, blurred, 0

    def decoder_state(self, batch=1):
        empty = np.zeros((1, 1, 1, 0, 1), np.float32)
        return DecoderState(empty, empty, np.zeros(1, np.int64))

    def decode(self, tokens, keys, values, mask, state, first=0):
        self.calls += 1
        read = [*state.keys[0, 0, 0, :, 0].astype(int), *tokens[0]]
        frames, before = int(mask.sum()), len(read) - tokens.shape[1]
        logits = np.zeros((1, tokens.shape[1], END + 4), np.float32)
        alignment, text = (
            np.zeros((1, tokens.shape[1], mask.shape[1]), np.float32),
            np.zeros((1, tokens.shape[1], 1), np.float32),
        )
        logits[..., END] = 20
        for n in range(tokens.shape[1]):
            u = before + n + 1 - len(PROMPT)  # tokens said so far
            token, pair = self.script[u] if 0 <= u < len(self.script) else (0, 10_000)
            if 2 * pair >= frames - self.blurred:
                token = (token + 1) % WORDS
            logits[0, n, token], text[0, n, 0] = 9, 0.5 - pair
            alignment[0, n, max(2 * pair - 6, 0) : 2 * pair + 2] = 0.1
        cache = np.array(read, np.float32).reshape(1, 1, 1, -1, 1)
        return Decoded(logits[:, first:], alignment, text), DecoderState(
            cache, cache, np.array([len(read)])
        )


def hear(memory, frames, confirmed=True):
    zeros, pairs = (
        np.zeros((1, 1, 1, frames, 1), np.float32),
        memory.frames // 2 + np.arange(frames // 2, dtype=np.float32),
    )
    memory.put(
        memory.frames,
        Encoded(zeros, zeros, np.zeros((1, frames // 2, 3), np.float32), pairs[None, :, None]),
        confirmed,
    )


def extend(decoder, engine, h, memory, final=False):
    return memory.extend(decoder, engine, h, final)


def speech(seed, pairs):
    rng, out, at = np.random.default_rng(seed), [], 2
    while at < pairs:
        out.append(
            (
                int(rng.integers(WORDS))
                if rng.random() < 0.6 or not out
                else WORDS + int(rng.integers(TAILS)),
                at,
            )
        )
        at += int(rng.integers(0, 12))
    return out


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("blurred", [0, 20])
def test_streaming_says_each_token_in_its_time(vocabulary, seed, blurred):
    script = speech(seed, 400)
    decoder, engine, memory = GatedDecoder(vocabulary, JOINT), Scripted(script, blurred), Heard()
    h, rng = decoder.init_state(engine.decoder_state()), np.random.default_rng(seed)
    while memory.frames < 800:
        hear(memory, 2 * int(rng.integers(1, 20)), confirmed=rng.random() < 0.4)
        before, old = list(h.tokens)[: h.stable], h
        h = extend(decoder, engine, h, memory)
        assert (
            list(old.tokens)[: old.stable] == before == list(h.tokens)[: old.stable]
        )  # a value, and what is stable stays
        assert (
            len(list(h.tokens))
            == len(h.rows)
            == len(h.probabilities)
            == sum(p < memory.frames // 2 for _, p in script)
        )
        right = [t for t, p in script if 2 * p < memory.frames - blurred]
        assert list(h.tokens)[: len(right)] == right
        assert list(h.tokens)[: h.stable] == [t for t, _ in script][: h.stable]
        assert (
            h.stable == 0
            or script[h.stable - 1][1] * 0.04 + 0.04 <= memory.confirmed * 0.02 - 0.5 + 1e-9
        )
    hear(memory, 40)
    h = extend(decoder, engine, h, memory, final=True)
    assert list(h.tokens) == [t for t, _ in script] and h.stable == len(script)
    text = vocabulary.text(list(h.tokens))
    assert decoder.text(h) == (text, "") and " ".join(w.text for w in decoder.words(h)) == text


def test_an_unchanged_hypothesis_costs_one_call(vocabulary):
    decoder, engine, memory = GatedDecoder(vocabulary, JOINT), Scripted(speech(1, 60)), Heard()
    hear(memory, 200)
    h = extend(decoder, engine, decoder.init_state(engine.decoder_state()), memory)
    calls = engine.calls
    hear(memory, 20, confirmed=False)
    assert extend(decoder, engine, h, memory).tokens == h.tokens and engine.calls == calls + 1


def test_a_gate_that_stays_open_says_so_much_and_no_more(vocabulary):
    decoder, engine, memory = (
        GatedDecoder(vocabulary, JOINT),
        Scripted([(i % WORDS, 0) for i in range(999)]),
        Heard(),
    )
    hear(memory, 4)
    h = extend(decoder, engine, decoder.init_state(engine.decoder_state()), memory, final=True)
    assert len(list(h.tokens)) <= 2 * MAX_SYMBOLS


def test_models_without_a_gate_are_refused(vocabulary):
    with pytest.raises(SpeechStreamError, match="no transducer"):
        GatedDecoder(vocabulary, None)
