"""Searches with hot words: a greedy transducer says other tokens and not more; a beam finds the best of everything."""

from dataclasses import dataclass

import numpy as np
import pytest

from speechstream.asr.ctc import PrefixBeam, score
from speechstream.asr.search import log_softmax
from speechstream.asr.transducer import GreedyTransducer
from speechstream.lm.constraints import TokenTrie
from speechstream.state import select, stack

V, DIM = 12, 6


@pytest.fixture(scope="module")
def networks():
    rng = np.random.default_rng(0)
    table, w = rng.standard_normal((V + 1, DIM)), rng.standard_normal((DIM, V + 1))
    return (
        lambda tokens, state: (table[tokens], state),
        lambda x, g: (x + g) @ w,
        lambda batch: np.zeros((batch, 1)),
    )


@dataclass(frozen=True)
class State:
    last: np.ndarray


def search(networks, trie=None):
    predict, join, _ = networks
    return GreedyTransducer(
        lambda t, s: (predict(t, None)[0], State(t[:, None])),
        join,
        lambda batch: State(np.zeros((batch, 1), np.int64)),
        V,
        trie=trie,
    )


def test_bonuses_choose_tokens_and_not_their_number(networks):
    x = 2 * np.random.default_rng(1).standard_normal((1, 40, DIM))
    plain = search(networks)(x)[0]
    none = search(networks, TokenTrie([[1, 2]], V, [[0.0, 0.0]]))(x)[0]
    assert none == plain and len(plain) > 10
    hot = search(networks, TokenTrie([[7, 3, 7, 3]], V, [[50.0] * 4]))(x)[0]
    assert [t.token for t in hot][:4] == [7, 3, 7, 3]
    assert hot[0].start == plain[0].start


@pytest.mark.parametrize("seed", range(3))
def test_blocks_and_company_change_nothing(networks, seed):
    rng = np.random.default_rng(seed)
    x = 2 * rng.standard_normal((3, 30, DIM))
    greedy = search(networks, TokenTrie([[7, 3], [1], [2, 2, 5]], V, [[2, 3], [2], [1, 2, 3]]))
    want = [greedy(x[i : i + 1])[0] for i in range(3)]
    state, got, at = greedy.init_state(3), [[], [], []], 0
    while at < 30:
        n = int(rng.integers(1, 7))
        out, state = greedy.step(x[:, at : at + n], state)
        state = stack([select(state, i) for i in range(3)])
        got, at = [a + b for a, b in zip(got, out)], at + n
    frames = [[(t.token, t.start, t.end) for t in tokens] for tokens in got]
    assert frames == [[(t.token, t.start, t.end) for t in tokens] for tokens in want]


def brute_force(p, trie, closed):
    """The best of all sequences of up to three tokens, by the CTC likelihood and the trie's own sum of scores."""
    found = {}
    for n in range(4):
        for tokens in np.ndindex(*(V - 1,) * n):
            tokens = [t + 1 for t in tokens]
            if closed:
                node = np.zeros(1, np.int64)
                for t in tokens:
                    node = trie.follow(node, np.array([t]), repeat=True)
                    if node[0] < 0:
                        break
                if node[0] < 0 or (tokens and not trie.final[node[0]]):
                    continue
                bonus = 0.0
            else:
                bonus = trie.score(tokens) + float(trie.ending(np.array([trie.node(tokens)]))[0])
            found[tuple(tokens)] = score(p, tokens) + bonus
    return max(found, key=found.get)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_beam_finds_what_a_search_of_everything_finds(seed, closed):
    rng = np.random.default_rng(seed)
    p = log_softmax(2 * rng.standard_normal((3, V)))
    trie = TokenTrie([[1, 2], [3], [2, 5, 4]], V, [[1, 2], [1.5], [1, 1, 1]])
    beam = PrefixBeam(64, candidates=V, prune=np.inf, trie=trie, closed=closed)
    settled, state = beam.step(p[None], beam.init_state())
    rest, _ = beam.finish(state)
    assert tuple(t.token for t in settled[0] + rest[0]) == brute_force(p, trie, closed)
