"""What prepare.py wrote, as windows of equal length out of its streams."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from recipes.common.seeding import step_rng

HELD_OUT_EVERY = 100  # streams, one of them is held out


@dataclass(frozen=True)
class Batch:
    """B windows of T frames, and E events: moments at which a phoneme may end."""

    text: Tensor  # (B, T, subframes, row_dim)
    elapsed: Tensor  # (B, T, subframes): sub-frames that the phoneme has lasted, this one included
    codes: Tensor  # (B, levels, T)
    before: Tensor  # (B, levels, T): of the frames before; -1: there is none
    hidden: Tensor  # (B, T, dim): what the teacher gives its depth-wise decoder
    at: Tensor  # (E,) row of the flattened (B, T) that foretells the event
    rows: Tensor  # (E, row_dim)
    lasted: Tensor  # (E,) sub-frames
    ends: Tensor  # (E,) float32: 1 where it ends


def events(counts: np.ndarray, subframes: int) -> tuple[np.ndarray, ...]:
    """For sub-frames of each symbol of a clause (N,): frame, symbol, sub-frames it has lasted, and whether it ends (E,),
    of each moment at which one may end, in their order.

    Before each sub-frame, the phoneme of the one before may end, then the next after none, and so on; at the clause's
    end its last phoneme does. What happens before or in a frame is foretold by the frame before it, and the first frame
    is the first symbol's.
    """
    symbol = np.repeat(np.arange(len(counts)), counts + 1)
    begins = np.cumsum(counts + 1) - (counts + 1)
    lasted = np.arange(len(symbol)) - begins[symbol]
    passed = (np.cumsum(counts) - counts)[symbol] + lasted  # sub-frames
    real = passed >= subframes
    return (
        passed[real] // subframes - 1,
        symbol[real],
        lasted[real],
        (lasted == counts[symbol])[real],
    )


class Streams:
    """All parts of a folder, each frame by its number; the frames of a stream follow each other."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "teacher" / "config.json").read_text())
        self.depth = load_file(folder / "teacher" / "depth.safetensors")
        self.teacher, self.frame_rate = about["acoustic"], about["frame_rate"]
        self.subframes = self.teacher["subframes"]
        parts = [load_file(f) for f in sorted(folder.glob("[0-9]*.safetensors"))]
        if not parts:
            raise SystemExit(f"{folder} has no parts; prepare.py writes them")
        self.rows, self.hidden = (np.concatenate([p[n] for p in parts]) for n in ("rows", "hidden"))
        self.codes = np.concatenate([p["codes"] for p in parts], 1)
        counts = np.concatenate([p["counts"] for p in parts]).astype(np.int64)
        clauses = np.concatenate([p["clauses"] for p in parts])
        self.symbol = np.repeat(np.arange(len(counts)), counts)  # of each sub-frame
        self.elapsed = (
            np.arange(1, len(self.symbol) + 1) - (np.cumsum(counts) - counts)[self.symbol]
        )
        found, symbols, frames = [], 0, 0
        for n, t, _ in clauses:
            frame, symbol, lasted, ends = events(counts[symbols : symbols + n], self.subframes)
            found.append((frame + frames, symbol + symbols, lasted, ends))
            symbols, frames = symbols + n, frames + t
        self.events = tuple(np.concatenate(a) for a in zip(*found))
        ends = np.cumsum(clauses[:, 1])
        self.last = np.r_[clauses[1:, 2] != clauses[:-1, 2], True]  # clauses of their streams
        self.spans = np.stack(
            [np.r_[0, ends[self.last][:-1]], ends[self.last]], 1
        )  # frames of streams
        held = clauses[self.last, 2] % HELD_OUT_EVERY == 0
        self.split = {h: self.spans[held == h] for h in (False, True)}
        self.first = np.zeros(frames, bool)
        self.first[self.spans[:, 0]] = True

    def starts(self, held: bool, count: int, frames: int, rng: np.random.Generator) -> np.ndarray:
        """First frames of `count` windows at random, every frame of the streams as likely; a stream that is shorter is
        followed by the next."""
        spans = self.split[held]
        sizes = spans[:, 1] - spans[:, 0]
        chosen = spans[rng.choice(len(spans), count, p=sizes / sizes.sum())]
        room = np.maximum(chosen[:, 1] - chosen[:, 0] - frames, 0)
        starts = chosen[:, 0] + rng.integers(0, room + 1)
        return np.minimum(starts, len(self.first) - frames)

    def random(self, step: int, count: int, frames: int, seed: int) -> Batch:
        """The training batch of a step: it depends on the seed and the step alone."""
        return self.batch(self.starts(False, count, frames, step_rng(seed, step)), frames)

    def batch(self, starts: np.ndarray, frames: int) -> Batch:
        """Windows that begin at these frames."""
        at = starts[:, None] + np.arange(frames)
        sub = (at[..., None] * self.subframes) + np.arange(self.subframes)
        none = self.first[at]
        before = np.where(
            none[..., None], -1, self.codes[:, at - 1].transpose(1, 2, 0).astype(np.int64)
        )
        before[:, 0] = -1
        frame, symbol, lasted, ends = self.events
        spans = zip(np.searchsorted(frame, starts), np.searchsorted(frame, starts + frames))
        chosen = [np.arange(a, b) for a, b in spans]
        rows = [frame[c] - s + k * frames for k, (c, s) in enumerate(zip(chosen, starts))]
        e = np.concatenate(chosen)
        arrays = (
            self.rows[self.symbol[sub]].astype(np.float32),
            self.elapsed[sub],
            np.ascontiguousarray(self.codes[:, at].transpose(1, 0, 2)).astype(np.int64),
            np.ascontiguousarray(before.transpose(0, 2, 1)),
            self.hidden[at].astype(np.float32),
            np.concatenate(rows),
            self.rows[symbol[e]].astype(np.float32),
            lasted[e],
            ends[e].astype(np.float32),
        )
        return Batch(*map(torch.from_numpy, arrays))
