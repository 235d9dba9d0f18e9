"""CTC: searches, totals and alignments against the enumeration of all paths and against torch's loss."""

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch

from speechstream.asr.ctc import Greedy, PrefixBeam, align, score
from speechstream.asr.search import Token, log_softmax
from speechstream.state import describe, from_bytes, nbytes, put, select, stack, to_bytes

EXACT = {
    "beam": 100,
    "candidates": 99,
    "prune": np.inf,
    "pending": 8,
}  # no prefix of the tiny problems is ever dropped


def random_log_probs(seed, *shape, sharpness=1.5, blank=0.0):
    logits = np.random.default_rng(seed).normal(size=shape) * sharpness
    logits[..., 0] += blank
    return log_softmax(logits)


def collapse(path):
    return tuple(k for k, _ in itertools.groupby(path) if k != 0)


def enumerate_paths(log_probs):
    """Each token sequence's total log probability, and the best path that says it."""
    total, best = defaultdict(lambda: -np.inf), {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        p = sum(log_probs[t, k] for t, k in enumerate(path))
        said = collapse(path)
        total[said] = np.logaddexp(total[said], p)
        if said not in best or p > best[said][0]:
            best[said] = (p, path)
    return total, best


def spans(path):
    out, t = [], 0
    for k, run in itertools.groupby(path):
        n = len(list(run))
        if k:
            out.append((k, t, t + n))
        t += n
    return out


def flat(tokens):
    return [(t.token, t.start, t.end) for t in tokens]


def in_blocks(search, log_probs, seed, lengths=None):
    """The same frames in random blocks, each stream at its own pace."""
    rng, state = np.random.default_rng(seed), search.init_state(len(log_probs))
    ends = np.full(len(log_probs), log_probs.shape[1]) if lengths is None else lengths
    at, said = np.zeros(len(log_probs), int), [[] for _ in log_probs]
    while (at < ends).any():
        n = np.minimum(rng.integers(0, 6, len(at)), ends - at)
        block = np.full((len(at), max(n.max(), 1), log_probs.shape[2]), np.nan)
        for b in range(len(at)):
            block[b, : n[b]] = log_probs[b, at[b] : at[b] + n[b]]
        new, state = search.step(block, state, n)
        at += n
        said = [a + b for a, b in zip(said, new)]
    return said, state


# Greedy


def test_greedy_of_a_written_path():
    path = [0, 3, 3, 0, 3, 1, 1, 1, 0, 0, 2, 0, 0]
    p = np.linspace(0.5, 0.9, len(path))
    log_probs = np.full((1, len(path), 4), 0.0)
    for t, k in enumerate(path):
        log_probs[0, t] = np.log((1 - p[t]) / 3)
        log_probs[0, t, k] = np.log(p[t])
    expected = [
        Token(3, 1, 3, np.log(p[2])),
        Token(3, 4, 5, np.log(p[4])),
        Token(1, 5, 8, np.log(p[7])),
        Token(2, 10, 11, np.log(p[10])),
    ]
    greedy = Greedy()
    assert greedy(log_probs) == [expected]
    said, state = greedy.step(log_probs[:, :7], greedy.init_state())
    assert said == [expected[:2]] and greedy.pending(state) == [[Token(1, 5, 7, np.log(p[6]))]]
    assert state.blanks.tolist() == [0]
    said, state = greedy.step(log_probs[:, 7:], state)
    assert said == [expected[2:]] and greedy.pending(state) == [[]]
    assert state.blanks.tolist() == [2] and state.frames.tolist() == [13]


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_the_best_path_in_any_blocks(seed):
    log_probs = random_log_probs(seed, 4, 40, 5, blank=1.0)
    lengths = np.array([40, 0, 17, 33])
    said, state = in_blocks(Greedy(), log_probs, seed, lengths)
    whole = Greedy()(log_probs, lengths)
    assert [a + b for a, b in zip(said, Greedy().pending(state))] == whole
    for b, n in enumerate(lengths):
        path = log_probs[b, :n].argmax(-1)
        assert flat(whole[b]) == spans(path)
        assert all(t.logprob == log_probs[b, t.start : t.end, t.token].max() for t in whole[b])
        assert state.blanks[b] == len(list(itertools.takewhile(lambda k: k == 0, path[::-1])))


def test_greedy_begins_anew_after_finish():
    log_probs = np.log(np.array([[[0.1, 0.9], [0.2, 0.8]]]))
    greedy = Greedy()
    _, state = greedy.step(log_probs, greedy.init_state())
    said, state = greedy.finish(state)
    assert flat(said[0]) == [(1, 0, 2)] and greedy.finish(state)[0] == [[]]
    _, state = greedy.step(log_probs, state)
    assert flat(greedy.finish(state)[0][0]) == [
        (1, 2, 4)
    ]  # the same token again is a new one, at later frames


# Totals and alignments


@pytest.mark.parametrize("seed", range(2))
def test_score_and_alignment_agree_with_all_paths(seed):
    log_probs = random_log_probs(seed, 5, 3)
    total, best = enumerate_paths(log_probs)
    assert len(total) > 20
    for said, expected in total.items():
        assert score(log_probs, list(said)) == pytest.approx(expected, abs=1e-10)
        tokens = align(log_probs, list(said))
        assert flat(tokens) == spans(best[said][1])
        assert all(t.logprob == log_probs[t.start : t.end, t.token].max() for t in tokens)
    assert np.logaddexp.reduce(list(total.values())) == pytest.approx(0, abs=1e-10)


def test_score_agrees_with_torch_at_real_sizes():
    rng = np.random.default_rng(1)
    log_probs = random_log_probs(1, 3, 120, 400)
    tokens = rng.integers(1, 400, (3, 35))
    tokens[:, 5:9] = tokens[:, 5:6]  # repeats
    loss = torch.nn.functional.ctc_loss(
        torch.from_numpy(log_probs).transpose(0, 1),
        torch.from_numpy(tokens),
        torch.tensor([120] * 3),
        torch.tensor([35] * 3),
        reduction="none",
    )
    ours = [-score(p, list(t)) for p, t in zip(log_probs, tokens)]
    np.testing.assert_allclose(ours, loss.numpy(), rtol=1e-10)


def test_alignment_recovers_the_frames_it_was_made_from():
    rng = np.random.default_rng(2)
    path = np.repeat(rng.integers(0, 50, 60), rng.integers(1, 5, 60))
    logits = rng.normal(size=(len(path), 50))
    logits[np.arange(len(path)), path] += 25
    expected = spans(path)
    assert flat(align(log_softmax(logits), [k for k, _, _ in expected])) == expected


def test_alignment_refuses_what_cannot_be():
    log_probs = random_log_probs(0, 3, 4)
    assert align(log_probs, []) == []
    assert flat(align(log_probs, [1, 1])) == [(1, 0, 1), (1, 2, 3)]
    with pytest.raises(ValueError, match="3 frames cannot hold 3 tokens, which need at least 4"):
        align(log_probs, [1, 1, 2])
    for bad in ([0], [4], [-1]):
        with pytest.raises(ValueError, match="not blank"):
            align(log_probs, bad)
    log_probs[:, 2] = -np.inf
    with pytest.raises(ValueError, match="probability above 0"):
        align(log_probs, [1, 2])
    assert score(log_probs, [1, 2]) == -np.inf and score(log_probs, [1] * 4) == -np.inf


# Prefix beam search


@pytest.mark.parametrize("seed", range(2))
def test_wide_beam_finds_every_sequence_with_its_probability_and_frames(seed):
    log_probs = random_log_probs(seed, 5, 3)[None]
    total, best = enumerate_paths(log_probs[0])
    search = PrefixBeam(**EXACT)
    settled, state = search.step(log_probs, search.init_state())
    assert settled == [[]]  # as long as the empty sequence is possible, nothing is certain
    found = search.hypotheses(state)[0]
    assert {tuple(t.token for t in h.tokens): h.logprob for h in found} == pytest.approx(
        dict(total), abs=1e-9
    )
    assert [h.logprob for h in found] == sorted((h.logprob for h in found), reverse=True)
    for h in found:
        _, path = best[tuple(t.token for t in h.tokens)]
        assert flat(h.tokens) == spans(path)
        assert all(t.logprob == log_probs[0, t.start : t.end, t.token].max() for t in h.tokens)


def test_beam_sums_where_greedy_cannot():
    log_probs = np.log(np.array([[[0.6, 0.4], [0.6, 0.4]]]))  # "": 0.36; "a": 0.16 + 0.24 + 0.24
    assert Greedy()(log_probs) == [[]]
    search = PrefixBeam(beam=2)
    assert [t.token for t in search(log_probs)[0]] == [1]
    _, state = search.step(log_probs, search.init_state())
    np.testing.assert_allclose(
        [np.exp(h.logprob) for h in search.hypotheses(state)[0]], [0.64, 0.36]
    )


@pytest.mark.parametrize("seed", range(2))
def test_settled_tokens_change_no_result(seed):
    """Frames that leave no choice make all prefixes agree; the totals of what follows stay those of all paths."""
    log_probs = random_log_probs(seed, 6, 3)
    for t, k in ((0, 2), (1, 0), (3, 1), (5, 2)):
        log_probs[t] = -np.inf
        log_probs[t, k] = 0.0
    total, best = enumerate_paths(log_probs)
    search = PrefixBeam(**EXACT)
    settled, state = search.step(log_probs[None], search.init_state())
    settled = tuple(t.token for t in settled[0])
    assert settled and settled[0] == 2
    found = {
        settled + tuple(t.token for t in h.tokens): h.logprob for h in search.hypotheses(state)[0]
    }
    assert found == pytest.approx({k: v for k, v in total.items() if v > -np.inf}, abs=1e-9)
    for h in search.hypotheses(state)[0]:
        said = settled + tuple(t.token for t in h.tokens)
        assert flat(h.tokens) == spans(best[said][1])[len(settled) :]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("options", [{}, {"beam": 4, "candidates": 3, "prune": 5.0, "pending": 6}])
def test_beam_is_the_same_in_any_blocks(seed, options):
    search = PrefixBeam(**options)
    log_probs = random_log_probs(seed, 4, 50, 6, sharpness=3, blank=1.0)
    lengths = np.array([50, 0, 17, 33])
    settled, state = search.step(log_probs, search.init_state(4), lengths)
    said, other = in_blocks(search, log_probs, seed, lengths)
    assert said == settled
    assert to_bytes(other) == to_bytes(state)
    for b, n in enumerate(lengths):  # and alone as in company
        alone = search(log_probs[b : b + 1, :n])[0]
        assert alone == settled[b] + search.pending(state)[b]
        assert alone == sorted(alone, key=lambda t: t.start) and all(
            t.start < t.end <= n for t in alone
        )
        assert all(a.end <= b.start for a, b in zip(alone, alone[1:]))


def test_a_stream_without_end_keeps_its_size_and_its_text():
    rng = np.random.default_rng(3)
    path = np.repeat(rng.integers(0, 6, 120), rng.integers(1, 4, 120))
    logits = rng.normal(size=(1, len(path), 6)) * 1.5
    logits[0, np.arange(len(path)), path] += 6
    log_probs = log_softmax(logits)
    search = PrefixBeam(beam=4, candidates=4, pending=8)
    size, state, said = nbytes(search.init_state()), search.init_state(), []
    for t in range(0, len(path), 10):
        new, state = search.step(log_probs[:, t : t + 10], state)
        assert nbytes(state) == size
        said += new[0]
    rest, state = search.finish(state)
    assert len(said) > 60 and len(rest[0]) <= 8
    unbounded = PrefixBeam(beam=4, candidates=4, pending=len(path))
    assert [t.token for t in said + rest[0]] == [t.token for t in unbounded(log_probs)[0]]
    assert state.frames.tolist() == [len(path)] and search.pending(state) == [[]]
    new, state = search.step(log_probs[:, :20], state)
    assert all(t.start >= len(path) for t in new[0] + search.pending(state)[0])


@pytest.mark.parametrize("search", [Greedy(), PrefixBeam(beam=3, candidates=4, pending=12)])
def test_states_are_values(search):
    log_probs = random_log_probs(5, 2, 30, 6, sharpness=3)
    states, before = [], []
    for b, n in ((0, 13), (1, 21)):
        said, state = search.step(log_probs[b : b + 1, :n], search.init_state())
        states.append(state)
        before.append(said[0])
    batch = stack(states)
    kept = to_bytes(batch)
    batch = put(from_bytes(kept, batch), 1, select(batch, 1))
    rest = np.zeros((2, 17, 6)) - 1
    rest[0], rest[1, :9] = log_probs[0, 13:], log_probs[1, 21:]
    after, end = search.step(rest, batch, np.array([17, 9]))
    assert to_bytes(batch) == kept  # a step changes nothing it was given
    whole = search(log_probs)
    assert [a + b + c for a, b, c in zip(before, after, search.pending(end))] == whole
    assert "2 stream(s)" in describe(end)


def test_wrong_settings_are_refused():
    for wrong in ({"beam": 0}, {"candidates": 0}, {"prune": 0.0}, {"pending": 1}):
        with pytest.raises(ValueError, match="at least 1"):
            PrefixBeam(**wrong)
    with pytest.raises(ValueError, match="for 1 stream"):
        Greedy().step(np.zeros((2, 1, 3)), Greedy().init_state(1))
