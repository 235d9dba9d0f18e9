"""The batched search against a plain loop over one utterance, on networks small enough to be tables."""

from dataclasses import dataclass

import numpy as np
import pytest

from speechstream.asr.transducer import GreedyTransducer

BLANK, DIM = 5, 8


@dataclass(frozen=True)
class Last:
    tokens: np.ndarray  # (B,)


class Tables:
    """Scores depend on the frame, the last token and how many tokens there were modulo 3."""

    def __init__(self, durations=(), seed=0):
        random = np.random.RandomState(seed)
        self.embed = random.standard_normal((BLANK + 1, DIM))
        self.out = random.standard_normal((DIM, BLANK + 1 + len(durations)))
        self.out[:, BLANK] *= 2

    def init(self, batch):
        return Last(np.full(batch, -1, np.int64))

    def predict(self, tokens, state):
        count = (state.tokens + 1) % 3
        return self.embed[tokens] + 0.3 * count[:, None], Last(count)

    def join(self, x, g):
        return np.tanh(x + g) @ self.out


def plain(tables, x, durations, max_symbols):
    """One utterance, one symbol at a time, as the papers write it."""
    g, state = tables.predict(np.array([BLANK]), tables.init(1))
    found, t = [], 0
    while t < len(x):
        for _count in range(1, max_symbols + 1):
            scores = tables.join(x[t][None], g)[0]
            token = int(scores[: BLANK + 1].argmax())
            jump = (
                durations[int(scores[BLANK + 1 :].argmax())] if durations else int(token == BLANK)
            )
            if token == BLANK:
                jump = max(jump, 1)
            else:
                p = np.exp(scores[: BLANK + 1])
                found.append((token, t, t + max(1, jump), np.log(p[token] / p.sum())))
                g, state = tables.predict(np.array([token]), state)
            t += jump
            if jump:
                break
        else:
            t += 1
    return found


@pytest.mark.parametrize("durations", [(), (0, 1, 2, 4), (1, 2)])
@pytest.mark.parametrize("max_symbols", [1, 3, 10])
def test_blocks_of_unsynchronised_streams_equal_a_plain_loop(durations, max_symbols):
    tables, random = Tables(durations), np.random.RandomState(1)
    search = GreedyTransducer(
        tables.predict, tables.join, tables.init, BLANK, durations, max_symbols
    )
    streams = [random.standard_normal((n, DIM)) * 2 for n in (1, 7, 30, 23)]
    state, found, given = search.init_state(4), [[] for _ in streams], [0] * 4
    while any(g < len(s) for g, s in zip(given, streams)):
        counts = [int(random.randint(0, min(6, len(s) - g) + 1)) for g, s in zip(given, streams)]
        block = np.zeros((4, max(counts), DIM))
        for i, (n, s) in enumerate(zip(counts, streams)):
            block[i, :n] = s[given[i] : given[i] + n]
            given[i] += n
        tokens, state = search.step(block, state, np.array(counts))
        for all_, new in zip(found, tokens):
            all_ += new
    emitted = 0
    for got, x in zip(found, streams):
        expected = plain(tables, x, durations, max_symbols)
        assert [(t.token, t.start, t.end) for t in got] == [e[:3] for e in expected]
        np.testing.assert_allclose([t.logprob for t in got], [e[3] for e in expected], atol=1e-6)
        emitted += len(got)
    assert 5 < emitted  # the tables do emit
    np.testing.assert_array_equal(state.frames, [len(s) for s in streams])


def test_a_state_can_be_resumed_twice():
    tables = Tables()
    search = GreedyTransducer(tables.predict, tables.join, tables.init, BLANK)
    x = np.random.RandomState(2).standard_normal((1, 12, DIM)) * 2
    _, kept = search.step(x[:, :5], search.init_state(1))
    first, second = search.step(x[:, 5:], kept)[0], search.step(x[:, 5:], kept)[0]
    assert first == second and search(x)[0][-len(first[0]) :] == first[0]


def test_wrong_arguments_are_named():
    tables = Tables()
    with pytest.raises(ValueError, match="max_symbols"):
        GreedyTransducer(tables.predict, tables.join, tables.init, BLANK, max_symbols=0)
    search = GreedyTransducer(tables.predict, tables.join, tables.init, BLANK)
    with pytest.raises(ValueError, match="lengths"):
        search.step(np.zeros((1, 3, DIM)), search.init_state(1), np.array([4]))
