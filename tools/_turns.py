"""The arithmetic of evaluate_turns.py: policies over scores, without models or files.

As eot-bench has it (github.com/livekit/eot-bench): every pause within a turn is a hold, the last one its end; a policy acts
`action` seconds after the last word where the score exceeds `threshold`, and after `timeout` seconds where it does not. A
hold that outlasts this is cut off; at an end, it is the latency. Holds shorter than 0.2 s or longer than 5 s do not count.
Besides, what this package does: the delay grows evenly with the log odds that are missing (`Waiting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SHORTEST_S, LONGEST_S = 0.2, 5.0
ACTIONS = np.round(np.arange(0.1, 1.01, 0.05), 2)
FLOORS = (0.15, 0.2, 0.3)
PACES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)
LONGEST_WAIT_S = 2.5
TIMEOUTS = np.round(np.concatenate([np.arange(0.2, 1.6, 0.05), np.arange(1.6, 3.01, 0.2)]), 2)


@dataclass(frozen=True)
class Policy:
    """Never acts on the score where the threshold is infinite: silence alone."""

    threshold: float
    action: float
    timeout: float

    def delays(self, scores: np.ndarray) -> np.ndarray:
        return np.where(scores > self.threshold, self.action, self.timeout)


@dataclass(frozen=True)
class Waiting:
    """`floor` seconds where the log odds of the score reach `enough`, `pace` seconds longer for each that is missing."""

    enough: float
    floor: float
    pace: float

    def delays(self, scores: np.ndarray) -> np.ndarray:
        missing = np.maximum(self.enough - log_odds(scores), 0)
        return np.minimum(self.floor + self.pace * missing, LONGEST_WAIT_S)


def log_odds(scores: np.ndarray) -> np.ndarray:
    """Of probabilities; of 0 and 1 those of 1 in a million."""
    p = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


@dataclass(frozen=True)
class Pauses:
    """Pauses with their lengths in seconds, infinite at ends; those of other lengths than count are left out."""

    seconds: np.ndarray

    @property
    def ends(self) -> np.ndarray:
        return ~np.isfinite(self.seconds)

    @property
    def holds(self) -> np.ndarray:
        return (self.seconds >= SHORTEST_S) & (self.seconds <= LONGEST_S)


def rates(delays: np.ndarray, p: Pauses, weights: np.ndarray | None = None) -> tuple[float, float]:
    """The share of holds that are cut off, and the mean latency at ends."""
    w = np.ones(len(delays)) if weights is None else weights
    cut = float((w * (delays < p.seconds))[p.holds].sum() / max(w[p.holds].sum(), 1e-9))
    return cut, float((w * delays)[p.ends].sum() / max(w[p.ends].sum(), 1e-9))


def best(
    scores: np.ndarray, p: Pauses, budget: float, earliest: float, weights: np.ndarray | None = None
) -> tuple[float, Policy | Waiting]:
    """The least share of holds cut off with a mean latency within the budget, and the policy. scores: probabilities.
    earliest: when they are known."""
    return min(
        best_policy(scores, p, budget, earliest, weights),
        best_waiting(scores, p, budget, earliest, weights),
        key=lambda found: found[0],
    )


def best_waiting(
    scores: np.ndarray, p: Pauses, budget: float, earliest: float, weights: np.ndarray | None = None
) -> tuple[float, Policy | Waiting]:
    """The best of the `Waiting` kind."""
    found: tuple[float, Policy | Waiting] = (np.inf, Waiting(0.0, budget, 0.0))
    odds = np.quantile(log_odds(scores), np.linspace(0, 1, 41))
    for floor in (f for f in FLOORS if earliest <= f < budget):
        for pace in PACES:
            for enough in odds:
                policy = Waiting(float(enough), floor, pace)
                cut, latency = rates(policy.delays(scores), p, weights)
                if latency <= budget + 1e-9 and cut < found[0]:
                    found = cut, policy
    return found


def best_policy(
    scores: np.ndarray, p: Pauses, budget: float, earliest: float, weights: np.ndarray | None = None
) -> tuple[float, Policy | Waiting]:
    """The best of eot-bench's kind, with all thresholds between scores."""
    w = np.ones(len(scores)) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    s, seconds, v = scores[order], p.seconds[order], w[order]
    ends, holds = Pauses(seconds).ends, Pauses(seconds).holds
    v_end, v_hold = v * ends / (v * ends).sum(), v * holds / (v * holds).sum()
    # with the first k acted upon
    share = np.concatenate([[0.0], np.cumsum(v_end)])
    between = np.concatenate([[True], s[:-1] > s[1:], [True]])
    at = {t: v_hold * (seconds > t) for t in {*ACTIONS.tolist(), *TIMEOUTS.tolist()}}
    summed = {t: np.concatenate([[0.0], np.cumsum(a)]) for t, a in at.items()}
    found: tuple[float, Policy | Waiting] = (np.inf, Policy(np.inf, 0.0, budget))
    for timeout in TIMEOUTS.tolist():
        late = summed[timeout][-1] - summed[timeout]
        for action in ACTIONS[(ACTIONS >= earliest - 1e-9) & (ACTIONS <= timeout)].tolist():
            latency = share * action + (1 - share) * timeout
            cut = np.where(between & (latency <= budget + 1e-9), summed[action] + late, np.inf)
            k = int(cut.argmin())
            if cut[k] < found[0] - 1e-12:
                edges = np.concatenate([[np.inf], (s[:-1] + s[1:]) / 2, [-np.inf]])
                found = (float(cut[k]), Policy(float(edges[k]), action, timeout))
    return found


def area(scores: np.ndarray, p: Pauses) -> float:
    """The probability that an end scores higher than a hold (AUC), ties counting half."""
    ends, holds = np.sort(scores[p.ends]), scores[p.holds]
    below = np.searchsorted(ends, holds, "left") + np.searchsorted(ends, holds, "right")
    return float(1 - below.mean() / 2 / len(ends))


def resampled(groups: Sequence[str], count: int, seed: int = 0) -> np.ndarray:
    """(count, N) weights: how often each pause is drawn when its group (speaker) is, with replacement."""
    names = sorted(set(groups))
    index = np.array([names.index(g) for g in groups])
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), count)
    return drawn[:, index].astype(float)
