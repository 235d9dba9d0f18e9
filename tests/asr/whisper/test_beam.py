"""Beam search against trying every transcript, with a decoder of random opinions."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from speechstream.asr import beam
from speechstream.asr.whisper.attention import AttentionDecoder
from speechstream.asr.whisper.networks import Decoded, DecoderState, Encoded
from speechstream.asr.whisper.vocabulary import Vocabulary
from tests.asr.whisper.heard import Heard

END, PROMPT, LONGEST = 4, [5, 6], 5


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    pieces = [f"\u0120w{i}" for i in range(END)] + ["<end>", "<a>", "<b>"]
    path.write_text(json.dumps({"pieces": pieces, "end": END, "prompt": PROMPT}))
    return Vocabulary(path)


class Opinions:
    """Random logits for each prefix; after LONGEST tokens the end. `sure`: how decided it is."""

    name = "opinions"

    def __init__(self, seed, sure=1.5):
        self.seed, self.sure, self.calls = seed, sure, 0

    def logits(self, prefix):
        if len(prefix) >= LONGEST:
            return np.array([0, 0, 0, 0, 30.0])
        return self.sure * np.random.default_rng([self.seed, *prefix, 99]).standard_normal(END + 1)

    def decoder_state(self, batch=1):
        empty = np.zeros((1, 1, 1, 0, 1), np.float32)
        return DecoderState(empty, empty, np.zeros(1, np.int64))

    def decode(self, tokens, keys, values, mask, state, first=0):
        self.calls += 1
        B, n = tokens.shape
        assert keys.shape[0] == values.shape[0] == mask.shape[0] == 1 and B == state.keys.shape[0]
        read = np.concatenate([state.keys[:, 0, 0, :, 0], tokens], 1).astype(int)
        logits = np.full((B, n, END + 3), 99.0, np.float32)
        for b, i in itertools.product(range(B), range(n)):
            logits[b, i, : END + 1] = self.logits(
                read[b, len(PROMPT) : state.keys.shape[3] + i + 1].tolist()
            )
        cache = read[:, None, None, :, None].astype(np.float32)
        return (
            Decoded(logits[:, first:], np.ones((B, n, keys.shape[3]), np.float32)),
            DecoderState(cache, cache, state.tokens + n),
        )


def run(vocabulary, engine, width, stable=()):
    memory, decoder = Heard(), AttentionDecoder(vocabulary, beam=width)
    memory.put(
        0,
        Encoded(*[np.zeros((1, 1, 1, 100, 1), np.float32)] * 2, np.zeros((1, 50, 3), np.float32)),
        True,
    )
    h = decoder.init_state(engine.decoder_state())
    h = replace(
        h,
        tokens=tuple(stable),
        stable=len(stable),
        probabilities=(1.0,) * len(stable),
        rows=(np.ones(100, np.float32),) * len(stable),
    )
    return memory.extend(decoder, engine, h, final=True)


def log_probs(engine, prefix):
    z = engine.logits(prefix)
    return z - np.log(np.exp(z).sum())


def everything(engine, first):
    """All transcripts after `first` whose end is what the decoder would choose there, with their log probability."""
    out = {}
    for n in range(LONGEST - len(first) + 1):
        for rest in itertools.product(range(END), repeat=n):
            tokens = [*first, *rest]
            steps = [log_probs(engine, tokens[:i]) for i in range(len(first), len(tokens) + 1)]
            if steps[-1].argmax() == END:
                out[tuple(tokens)] = sum(p[t] for p, t in zip(steps, [*rest, END]))
    return out


@pytest.mark.parametrize("stable", [(), (2,), (1, 3)])
@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_the_best_transcript(vocabulary, monkeypatch, seed, stable):
    monkeypatch.setattr(beam, "DOUBT", 1.1)  # all is in doubt
    monkeypatch.setattr(beam, "BEHIND", 1e9)  # and nothing is dropped
    engine = Opinions(seed)
    scores = everything(engine, stable)
    h = run(vocabulary, engine, width=1500, stable=stable)  # more than there are transcripts
    assert scores[tuple(h.tokens)] == pytest.approx(max(scores.values()))
    for i, token in enumerate(h.tokens[len(stable) :], len(stable)):
        assert h.probabilities[i] == pytest.approx(
            np.exp(log_probs(engine, list(h.tokens[:i]))[token]), rel=1e-4
        )


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_is_never_worse_than_greedy(vocabulary, seed):
    engine = Opinions(seed)
    scores = everything(engine, ())
    best, first = run(vocabulary, engine, width=4), run(vocabulary, engine, width=1)
    assert tuple(best.tokens) in scores and best.stable == len(best.tokens) == len(best.rows)
    assert scores[tuple(best.tokens)] >= scores[tuple(first.tokens)] - 1e-6


class Habits(Opinions):
    """Opinions that go by the last token alone: behind one that differs all goes on as before."""

    def logits(self, prefix):
        if len(prefix) >= LONGEST:
            return super().logits(prefix)
        # nobody ends early
        return super().logits(prefix[-1:]) - np.array([0, 0, 0, 0, 9.0])


def test_what_is_read_ahead_changes_nothing_and_saves_calls(vocabulary, monkeypatch):
    heard = {}
    for ahead in (3, 0):
        monkeypatch.setattr(beam, "AHEAD", ahead)
        monkeypatch.setattr(beam, "MOST_AHEAD", 2 * ahead)
        engines = [Habits(seed, sure) for seed in range(12) for sure in (0.5, 1.5)]
        found = [run(vocabulary, engine, width=3) for engine in engines]
        heard[ahead] = [(h.tokens, h.probabilities) for h in found], sum(e.calls for e in engines)
    for (tokens, odds), (others, other_odds) in zip(heard[3][0], heard[0][0]):
        assert tokens == others and odds == pytest.approx(other_odds)
    assert heard[3][1] < heard[0][1]


def test_the_best_alone_is_found_with_fewer_calls(vocabulary, monkeypatch):
    search, heard = beam.search, {}
    for only_best in (True, False):
        monkeypatch.setattr(beam, "search", lambda *a, best=only_best: search(*a[:-1], best))
        engines = [Opinions(seed, sure) for seed in range(12) for sure in (0.5, 1.5)]
        found = [[*run(vocabulary, engine, width=3).tokens] for engine in engines]
        scores = [
            sum(log_probs(e, h[:i])[t] for i, t in enumerate([*h, END]))
            for e, h in zip(engines, found)
        ]
        heard[only_best] = np.array(scores), sum(e.calls for e in engines)
    assert (heard[True][0] >= heard[False][0] - 1e-6).all()
    assert heard[True][1] < heard[False][1]


def test_where_nothing_is_in_doubt_nothing_is_searched(vocabulary):
    sure = Opinions(3, sure=200)
    one, many = run(vocabulary, sure, width=1), sure.calls
    sure.calls = 0
    assert run(vocabulary, sure, width=4).tokens == one.tokens and sure.calls == many


def test_a_beam_has_hypotheses(vocabulary):
    with pytest.raises(ValueError, match="at least 1"):
        AttentionDecoder(vocabulary, beam=0)
