"""What `prepare` has stored, as decisions with their features."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechstream.asr.end_of_turn import pooled


@dataclass(frozen=True)
class Decision:
    """A pause of a recording. seconds: how long it lasts, infinite at the end. over: whether the turn is.

    mark: what stands there in the whole transcript ("" too where that was not asked for).
    """

    recording: str
    audio: str
    speaker: str
    source: str
    start: float
    seconds: float
    over: bool
    mark: str
    text: str
    own_tail: float
    x: np.ndarray  # what the head is given


def load(folder: Path, keep: Callable[[str], bool] = lambda speaker: True) -> list[Decision]:
    """All decisions of a folder but the ends of which nobody knows what they are."""
    found: list[Decision] = []
    for path in sorted(folder.glob("?????.npz")):
        with np.load(path) as arrays:
            about = json.loads(str(arrays["about"]))
            if not keep(about["speaker"]):
                continue
            for i, d in enumerate(about["decisions"]):
                end = not np.isfinite(d["seconds"])
                if end and about["ends"] is None:
                    continue
                frames = arrays[f"frames.{i}"].astype(np.float32)
                if not len(frames):
                    continue
                found.append(
                    Decision(
                        path.stem,
                        about["audio"],
                        about["speaker"],
                        about["source"],
                        d["start"],
                        d["seconds"],
                        end and about["ends"],
                        d["mark"],
                        " ".join(d["text"]),
                        d["own_tail"],
                        pooled(frames),
                    )
                )
    return found


def matrix(decisions: list[Decision]) -> np.ndarray:
    """(N, n) their features."""
    return np.stack([d.x for d in decisions])
