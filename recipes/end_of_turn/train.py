"""Train the head on what `prepare` has stored: a logistic regression, whose strength of shrinkage is chosen by speakers held out.

    python -m recipes.end_of_turn.train work/train --out work/end_of_turn.npz

Within each source, pauses and ends weigh the same: else the head would learn to tell the sources apart by their microphones.
It takes a minute; there is nothing to resume.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from recipes.common.args import parser
from recipes.common.logging import report
from recipes.end_of_turn.data import Decision, load, matrix
from speechstream.asr.end_of_turn import SCALARS, EndOfTurn
from tools._turns import Pauses, area

FOLDS = 8
SHRINK_SCALARS = 1e-3
SHRINK_POOLED = (0.03, 0.1, 0.3, 1.0, 3.0)
STEPS = 30
CLOSING = (".", "?", "!")


def fold(speaker: str) -> int:
    """Of a speaker: the same on every machine."""
    return hashlib.sha256(speaker.encode()).digest()[0] % FOLDS


def weights(decisions: list[Decision]) -> np.ndarray:
    """(N,) each source the same for holds and ends. A pause between two sentences is both: it does not count."""
    keys = [(d.source, d.over) for d in decisions]
    counted = [d.over or d.mark not in CLOSING for d in decisions]
    count = Counter(k for k, c in zip(keys, counted) if c)
    total = Counter(d.source for d, c in zip(decisions, counted) if c)
    w = [total[k[0]] / 2 / count[k] if c else 0.0 for k, c in zip(keys, counted)]
    return np.array(w)


def fit(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, shrink: np.ndarray
) -> tuple[np.ndarray, float]:
    """Weights (n,) and bias that maximise the weighted likelihood less shrink * theta^2 / 2 (Newton's method).

    x (N, n) standardised; the sum is taken over examples: N x N systems where there are fewer of them than features.
    """
    n = x.shape[1]
    a = np.concatenate([x, np.ones((len(x), 1))], 1)
    penalty = np.append(shrink, 1e-6) * w.sum()
    theta = np.zeros(n + 1)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(a @ theta, -30, 30)))
        gradient = a.T @ (w * (y - p)) - penalty * theta
        curvature = w * p * (1 - p) + 1e-9
        # Woodbury: the penalty is diagonal
        scaled = a / penalty
        inner = np.diag(1 / curvature) + a @ scaled.T
        step = (gradient / penalty) - scaled.T @ np.linalg.solve(inner, a @ (gradient / penalty))
        theta = theta + step
        if np.abs(step).max() < 1e-4:
            break
    return theta[:-1], float(theta[-1])


def standardised(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    known = x[w > 0]
    mean, scale = known.mean(0), known.std(0) + 1e-3
    return (x - mean) / scale, mean, scale


def shrinkage(n: int, pooled: float) -> np.ndarray:
    return np.where(np.arange(n) < SCALARS, SHRINK_SCALARS, pooled)


def held_out(decisions: list[Decision], x: np.ndarray, pooled: float) -> np.ndarray:
    """(N,) log odds, of each fold by a head that has not heard its speakers."""
    folds = np.array([fold(d.speaker) for d in decisions])
    y, out = np.array([d.over for d in decisions], float), np.zeros(len(x))
    for k in range(FOLDS):
        w = weights(decisions) * (folds != k)
        z, _, _ = standardised(x, w)
        theta, bias = fit(z[w > 0], y[w > 0], w[w > 0], shrinkage(x.shape[1], pooled))
        out[folds == k] = z[folds == k] @ theta + bias
    return out


def main() -> None:
    p = parser(__doc__)
    p.add_argument("work", type=Path)
    p.add_argument("--out", type=Path, required=True)
    args = p.parse_args()
    decisions = load(args.work)
    x, y = matrix(decisions), np.array([d.over for d in decisions], float)
    found = []
    for pooled in SHRINK_POOLED:
        odds = held_out(decisions, x, pooled)
        w = weights(decisions)
        loss = float((w * np.logaddexp(0, np.where(y > 0, -odds, odds))).sum() / w.sum())
        auc = {
            s: area(odds[i], Pauses(np.where(y[i] > 0, np.inf, 1.0)))
            for s in sorted({d.source for d in decisions})
            if (i := np.array([d.source == s and v > 0 for d, v in zip(decisions, w)])).any()
        }
        report(shrink=pooled, loss=loss, auc=auc)
        found.append((loss, pooled))
    _, pooled = min(found)
    w = weights(decisions)
    z, mean, scale = standardised(x, w)
    theta, bias = fit(z[w > 0], y[w > 0], w[w > 0], shrinkage(x.shape[1], pooled))
    # the standardisation goes into the weights
    head = EndOfTurn((theta / scale).astype(np.float32), float(bias - (theta / scale) @ mean))
    head.save(args.out)
    report(decisions=len(x), ends=int(y.sum()), shrink=pooled, bytes=args.out.stat().st_size)


if __name__ == "__main__":
    main()
