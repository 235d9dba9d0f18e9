"""Train the head on what `prepare` has stored: a logistic regression, whose strength of shrinkage is chosen by speakers held out.

    python -m recipes.end_of_turn.train work/train --out work/end_of_turn.safetensors

Within each source, pauses and ends weigh the same: else the head would learn to tell the sources apart by their microphones.
It takes a minute; there is nothing to resume.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from recipes.common.args import parser
from recipes.common.logging import report
from speechstream.asr.end_of_turn import EndOfTurn
from tools._turn_data import Decision, load, matrix

FOLDS = 5
SHRINK = (0.1, 0.3, 1.0)
STEPS = 30
BETWEEN = 0.5
CLOSING = (".", "?", "!")


def fold(speaker: str) -> int:
    """Of a speaker: the same on every machine."""
    return hashlib.sha256(speaker.encode()).digest()[0] % FOLDS


def weights(decisions: list[Decision]) -> np.ndarray:
    """(N,) each source the same for holds and ends, and as a whole the root of its number of pauses.

    A pause between two sentences may as well be the end: it counts half.
    """
    counts = [BETWEEN if not d.over and d.mark in CLOSING else 1.0 for d in decisions]
    of: dict[tuple[str, bool], float] = defaultdict(float)
    for d, count in zip(decisions, counts):
        of[d.source, d.over] += count
    root = {s: np.sqrt(of[s, True] + of[s, False]) for s, _ in list(of)}
    w = [c / of[d.source, d.over] * root[d.source] for d, c in zip(decisions, counts)]
    return np.array(w)


def fit(x: np.ndarray, y: np.ndarray, w: np.ndarray, shrink: float) -> tuple[np.ndarray, float]:
    """Weights (n,) and bias that maximise the mean log-likelihood less shrink * |weights|^2 / 2, by Newton's method.

    x (N, n) standardised; y (N,) 0 or 1; w (N,) how much each counts. The bias is not shrunk.
    """
    a = np.concatenate([x, np.ones((len(x), 1))], 1)
    penalty = np.append(np.full(x.shape[1], shrink), 1e-6)
    share, theta = w / w.sum(), np.zeros(a.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(a @ theta, -30, 30)))
        gradient = a.T @ (share * (y - p)) - penalty * theta
        curvature = (a * (share * p * (1 - p))[:, None]).T @ a + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        theta = theta + step
        if np.abs(step).max() < 1e-5:
            break
    return theta[:-1], float(theta[-1])


def standardised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x with means of 0 and deviations of 1, and what they were."""
    mean, scale = x.mean(0), x.std(0) + 1e-3
    return (x - mean) / scale, mean, scale


def held_out(decisions: list[Decision], x: np.ndarray, shrink: float) -> np.ndarray:
    """(N,) log odds, of each fold by a head that has not heard its speakers."""
    folds = np.array([fold(d.speaker) for d in decisions])
    y, out = np.array([d.over for d in decisions], float), np.zeros(len(x))
    w = weights(decisions)
    for k in range(FOLDS):
        t = folds != k
        z, mean, scale = standardised(x[t])
        theta, bias = fit(z, y[t], w[t], shrink)
        out[~t] = (x[~t] - mean) / scale @ theta + bias
    return out


def main() -> None:
    p = parser(__doc__)
    p.add_argument("work", type=Path, nargs="+")
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    decisions: list[Decision] = []
    for folder in args.work:
        known = {d.recording for d in decisions}
        decisions += [d for d in load(folder) if d.recording not in known]
    x, y = matrix(decisions), np.array([d.over for d in decisions], float)
    w, found = weights(decisions), []
    for shrink in SHRINK:
        odds = held_out(decisions, x, shrink)
        loss = float((w * np.logaddexp(0, np.where(y > 0, -odds, odds))).sum() / w.sum())
        right = {
            s: float((w[i] * ((odds[i] > 0) == (y[i] > 0))).sum() / w[i].sum())
            for s in sorted({d.source for d in decisions})
            if (i := np.array([d.source == s for d in decisions])).any()
        }
        report(shrink=shrink, loss=loss, balanced_accuracy=right)
        found.append((loss, shrink))
    _, shrink = min(found)
    z, mean, scale = standardised(x)
    theta, bias = fit(z, y, w, shrink)
    # the standardisation goes into the weights
    head = EndOfTurn((theta / scale).astype(np.float32), float(bias - (theta / scale) @ mean))
    head.save(args.out)
    report(decisions=len(x), ends=int(y.sum()), shrink=shrink, bytes=args.out.stat().st_size)


if __name__ == "__main__":
    main()
