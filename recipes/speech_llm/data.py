"""Utterances for `train.py`: stacked frames, the language model's hidden states, tokens and their frames."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechstream.nn.speech_llm import Hearing

FRAME_S = 0.02


@dataclass(frozen=True)
class Utterance:
    audio: str
    start: int  # encoder frames
    frames: int
    chunk: int | None
    text_start: int  # rows of hidden states
    tokens: tuple[int, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (B, T, width) stacked frames
    frames: Tensor  # (B,) of them real
    hidden: Tensor  # (B, U + 1, dim)
    tokens: list[list[int]]
    said: list[np.ndarray]  # (U,) frames in which each is said
    spoken: list[np.ndarray]  # (T,) the token that is being spoken in a frame, -1 for none


class Data:
    """What `prepare.py` and `hidden.py` have written so far."""

    def __init__(self, path: Path, hearing: Hearing, dim: int, text_dim: int, delay: int):
        self.hearing, self.dim, self.text_dim, self.delay = hearing, dim, text_dim, delay
        with open(path.with_suffix(".text.jsonl"), encoding="utf-8") as lines:
            texts = {(r := json.loads(line))["audio"]: r for line in lines}
        self.rows = []
        with open(path.with_suffix(".jsonl"), encoding="utf-8") as lines:
            for line in lines:
                r = json.loads(line)
                if t := texts.get(r["audio"]):
                    place = r["audio"], r["start"], r["frames"], r["chunk"], t["start"]
                    self.rows.append(Utterance(*place, tuple(t["tokens"]), tuple(t["times"])))
        self.sound = np.memmap(path.with_suffix(".bin"), np.float16, "r").reshape(-1, dim)
        self.text = np.memmap(path.with_suffix(".text.bin"), np.float16, "r").reshape(-1, text_dim)
        self.step = hearing.stack * FRAME_S
        self._stacked: dict[int, Tensor] = {}

    @torch.no_grad()
    def stacked(self, n: int) -> Tensor:
        """(T, width) float16, computed once."""
        if n not in self._stacked:
            r = self.rows[n]
            frames = r.frames // self.hearing.stack * self.hearing.stack
            x = torch.from_numpy(np.asarray(self.sound[r.start : r.start + frames], np.float32))
            with torch.autocast("cpu", torch.bfloat16):
                self._stacked[n] = self.hearing.stacked(x[None], r.chunk)[0].half()
        return self._stacked[n]

    def batch(self, group: list[int]) -> Batch:
        xs = [self.stacked(n) for n in group]
        rows = [self.rows[n] for n in group]
        hidden = [
            torch.from_numpy(np.array(self.text[r.text_start : r.text_start + len(r.tokens) + 1]))
            for r in rows
        ]
        said, spoken = [], []
        for r, x in zip(rows, xs):
            ends = np.array(r.times, np.float64)
            last = len(x) - 1
            due = np.ceil(np.maximum(ends, 1e-6) / self.step - 1e-6).astype(int) - 1 + self.delay
            said.append(np.clip(due, 0, last))
            spoken.append(self._spoken(r, ends, len(x)))
        pad = torch.nn.utils.rnn.pad_sequence
        return Batch(
            pad(xs, batch_first=True).float(),
            torch.tensor([len(x) for x in xs]),
            pad(hidden, batch_first=True).float(),
            [list(r.tokens) for r in rows],
            said,
            spoken,
        )

    def _spoken(self, r: Utterance, ends: np.ndarray, frames: int) -> np.ndarray:
        """A token is spoken from the end of the one before to its own, for half a second at most."""
        out = np.full(frames, -1, np.int64)
        starts = np.concatenate([[0.0], ends[:-1]])
        for token, a, b in zip(r.tokens, np.maximum(starts, ends - 0.5), ends):
            out[int(a / self.step + 0.5) : int(b / self.step + 0.5)] = token
        return out
