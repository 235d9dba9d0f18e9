"""The arithmetic of tools/evaluate_turns.py against counting by hand."""

import itertools

import numpy as np
import pytest

from tools._turns import ACTIONS, TIMEOUTS, Pauses, Policy, Waiting, area, best, rates, resampled


def scene(seed, n=40):
    rng = np.random.default_rng(seed)
    seconds = np.where(rng.random(n) < 0.5, np.inf, rng.exponential(0.5, n))
    scores = np.round(rng.normal(np.where(np.isinf(seconds), 1.0, 0.0)), 1)  # with ties
    return 1 / (1 + np.exp(-scores)), Pauses(seconds)


def test_rates_are_counted():
    p = Pauses(np.array([0.1, 0.3, 0.5, 0.9, 6.0, np.inf, np.inf]))
    cut, latency = rates(np.array([0.05, 0.2, 0.6, 0.6, 0.2, 0.2, 0.4]), p)
    assert cut == pytest.approx(2 / 3)  # of 0.3, 0.5 and 0.9; shorter and longer ones do not count
    assert latency == pytest.approx(0.3)


@pytest.mark.parametrize("seed", range(3))
def test_no_policy_of_the_grid_is_better(seed):
    scores, p = scene(seed)
    cut, policy = best(scores, p, 0.4, earliest=0.2)
    assert rates(policy.delays(scores), p)[0] == pytest.approx(cut)
    assert rates(policy.delays(scores), p)[1] <= 0.4 + 1e-9
    for t, a, o in itertools.product(np.arange(0, 1, 0.1), ACTIONS[2::3], TIMEOUTS[::4]):
        if a <= o:
            found, latency = rates(Policy(t, a, o).delays(scores), p)
            assert found >= cut - 1e-12 or latency > 0.4


def test_waiting_grows_with_the_log_odds_that_are_missing():
    delays = Waiting(enough=2.0, floor=0.2, pace=0.1).delays(
        1 / (1 + np.exp([-3.0, -2.0, 0.0, 99.0]))
    )
    assert delays == pytest.approx([0.2, 0.2, 0.4, 0.2 + 0.1 * (2 + np.log(1e6))], abs=1e-5)


def test_weights_are_repetitions():
    scores, p = scene(5)
    twice = np.repeat(np.arange(len(scores)), 2)
    doubled = best(scores[twice], Pauses(p.seconds[twice]), 0.5, 0.1)[0]
    assert doubled == pytest.approx(best(scores, p, 0.5, 0.1, np.full(len(scores), 2.0))[0])


def test_area_is_the_share_of_pairs_in_order():
    scores, p = scene(7)
    pairs = [(e > h) + 0.5 * (e == h) for e in scores[p.ends] for h in scores[p.holds]]
    assert area(scores, p) == pytest.approx(np.mean(pairs))


def test_speakers_are_drawn_whole():
    w = resampled(["a", "a", "b", "c", "c"], 50)
    assert (w[:, 0] == w[:, 1]).all() and (w[:, 3] == w[:, 4]).all()
    assert (w[:, [0, 2, 3]].sum(1) == 3).all()
