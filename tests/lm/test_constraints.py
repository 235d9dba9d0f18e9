"""The trie of token sequences against searches that look at every sequence and every beginning of a text."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from speechstream.lm.constraints import MAX_LENGTH, TokenTrie

V = 6
SEQUENCES = st.lists(
    st.lists(st.integers(0, V - 1), min_size=1, max_size=5), min_size=1, max_size=8
)
TEXT = st.lists(st.integers(0, V - 1), max_size=14)


@st.composite
def tries(draw, with_bonuses=True):
    sequences = draw(SEQUENCES)
    bonuses = None
    if with_bonuses:
        bonuses = [[draw(st.integers(0, 8)) / 4 for _ in s] for s in sequences]
    boundary = np.array(draw(st.lists(st.booleans(), min_size=V, max_size=V)))
    return sequences, bonuses, boundary, TokenTrie(sequences, V, bonuses, boundary)


def bonus(sequences, bonuses, beginning):
    """Of each token of a beginning the greatest that a sequence which begins so gives it."""
    total = 0.0
    for d in range(len(beginning)):
        total += max(
            b[d] for s, b in zip(sequences, bonuses) if s[: d + 1] == list(beginning[: d + 1])
        )
    return total


def expected_score(sequences, bonuses, boundary, text):
    """The score of a text: by beginnings (tuples) and searches over all sequences, no automaton."""
    beginnings = {tuple(s[:d]) for s in sequences for d in range(len(s) + 1)}

    def longest(read):
        return next(tuple(read[i:]) for i in range(len(read) + 1) if tuple(read[i:]) in beginnings)

    def open_bonus(node):
        """What is not confirmed yet: the bonus from the last place where a sequence had ended at a boundary."""
        counted = 0
        for d in range(1, len(node)):
            if list(node[:d]) in sequences and boundary[node[d]]:
                counted = d
        return bonus(sequences, bonuses, node) - bonus(sequences, bonuses, node[:counted])

    def found(node):
        ends = [node[i:] for i in range(len(node)) if list(node[i:]) in sequences]
        return open_bonus(ends[0]) if ends else 0.0

    total = 0.0
    for i, token in enumerate(text):
        if boundary[token]:
            total += found(longest(text[:i]))
    return total + open_bonus(longest(text))


@settings(max_examples=150, deadline=None)
@given(tries(), TEXT)
def test_the_score_of_a_text_is_what_a_search_over_all_sequences_gives(trie, text):
    sequences, bonuses, boundary, trie = trie
    node, total = np.zeros(1, np.int64), 0.0
    for i, token in enumerate(text):
        dense = trie.scores(node)[0]
        node, score = trie.advance(node, np.array([token]))
        assert dense[token] == pytest.approx(score[0], abs=1e-5)
        total += float(score[0])
        assert total == pytest.approx(
            expected_score(sequences, bonuses, boundary, text[: i + 1]), abs=1e-4
        )
    assert trie.walk(text)[-1] == node[0] == trie.node(text)
    assert trie.score(text) == pytest.approx(total, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(tries(), st.lists(TEXT, min_size=1, max_size=5), st.integers(0, 1000))
def test_hypotheses_are_moved_together_as_alone(trie, texts, seed):
    trie = trie[3]
    rng = np.random.default_rng(seed)
    nodes = np.array([trie.node(t) for t in texts])
    tokens = rng.integers(0, V, len(texts))
    new, scores = trie.advance(nodes, tokens)
    for i, (n, t) in enumerate(zip(nodes, tokens)):
        alone, score = trie.advance(np.array([n]), np.array([t]))
        assert new[i] == alone[0] and scores[i] == score[0]
    logits = rng.standard_normal((len(texts), V)).astype(np.float32)
    best = trie.best(logits, nodes)
    assert (best == (logits + trie.scores(nodes)).argmax(-1)).all()


@settings(max_examples=60, deadline=None)
@given(tries(with_bonuses=False), TEXT, st.booleans())
def test_a_closed_set_lets_its_sequences_through_and_nothing_else(trie, text, repeat):
    sequences, _, _, trie = trie
    node = np.zeros(1, np.int64)
    for token in text:
        allowed = trie.allowed(node, repeat)[0]
        for t in range(V):
            assert allowed[t] == (trie.follow(node, np.array([t]), repeat)[0] >= 0)
        new = trie.follow(node, np.array([token]), repeat)
        if new[0] < 0:
            break
        node = new
    for s in sequences:
        node = np.zeros(1, np.int64)
        for i, token in enumerate(s):
            below = [q[i] for q in sequences if q[:i] == s[:i] and len(q) > i]
            assert set(np.flatnonzero(trie.allowed(node)[0])) == set(below)
            node = trie.follow(node, np.array([token]))
        assert trie.final[node[0]] and sequences[trie.sequence[node[0]]] == s


def test_a_name_in_a_longer_word_is_taken_back():
    ann, a, ual, says = range(4)
    trie = TokenTrie([[ann], [ann, a]], 4, [[2.0], [2.0, 1.0]], np.array([1, 0, 0, 1], bool))
    assert trie.score([ann]) == 2.0
    assert trie.score([ann, ual]) == 0.0
    assert trie.score([ann, ual, says]) == 0.0
    assert trie.score([ann, says]) == 2.0
    assert trie.score([ann, a, says]) == 3.0
    assert trie.ending(np.array([trie.node([ann])]))[0] == 0.0  # an end keeps what was found
    assert trie.ending(np.array([trie.node([ann, ual])]))[0] == 0.0


def test_what_breaks_off_is_taken_back():
    trie = TokenTrie([[0, 1, 2]], 4, [[1.0, 2.0, 3.0]])
    assert [trie.score([0, 1, 2, 3][:n]) for n in range(1, 5)] == [1.0, 3.0, 6.0, 6.0]
    assert trie.score([0, 1, 3]) == 0.0
    assert trie.score([0, 1, 0]) == 1.0
    assert trie.ending(np.array([trie.node([0, 1])]))[0] == -3.0


def test_the_arrays_do_not_change():
    trie = TokenTrie([[0, 1]], 3)
    with pytest.raises(ValueError, match="read-only"):
        trie.held[0] = 1


@pytest.mark.parametrize(
    "sequences, bonuses, problem",
    [
        ([], None, "at least one of them"),
        ([[]], None, "1 to 256 tokens"),
        ([[0] * (MAX_LENGTH + 1)], None, "1 to 256 tokens"),
        ([[5]], None, "tokens must be 0 to 4"),
        ([[-1]], None, "tokens must be 0 to 4"),
        ([[1, 2]], [[1.0]], "a bonus for each token"),
        ([[1]], [[float("nan")]], "finite"),
        ([[1]], [[-1.0]], "at least 0"),
    ],
)
def test_what_is_no_set_of_sequences_is_refused(sequences, bonuses, problem):
    with pytest.raises(ValueError, match=problem):
        TokenTrie(sequences, 5, bonuses)
