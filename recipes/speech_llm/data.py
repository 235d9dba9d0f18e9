"""Utterances for `train.py`: stacked frames, the language model's hidden states, tokens and their frames."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speechstream.nn.speech_llm import Hearing

FRAME_S = 0.02


@dataclass(frozen=True)
class Utterance:
    audio: str
    source: str
    start: int  # encoder frames
    frames: int
    chunk: int | None
    tokens: tuple[int, ...]
    times: tuple[float, ...]
    histories: tuple[tuple[int, tuple[int, ...], tuple[float, ...]], ...]  # row, next, last


@dataclass(frozen=True)
class Batch:
    x: Tensor  # (B, T, width) stacked frames
    frames: Tensor  # (B,) of them real
    hidden: Tensor  # (B, m + 1, dim)
    tokens: list[list[int]]
    said: list[np.ndarray]  # (U,) frames in which each is said
    next: list[np.ndarray]  # (m + 1,) of each state, which token comes next
    last: list[np.ndarray]  # (m + 1,) frames in which the one before was said; -1 for none
    spoken: list[np.ndarray]  # (T,) the token that is being spoken in a frame, -1 for none


class Data:
    """What `prepare.py` and `hidden.py` have written so far."""

    def __init__(
        self, path: Path, hearing: Hearing, dim: int, text_dim: int, delay: int, begins: list[bool]
    ):
        """begins: of each token, whether it begins a word."""
        self.hearing, self.dim, self.text_dim, self.delay = hearing, dim, text_dim, delay
        self.begins = np.array(begins)
        texts: dict[str, list[dict[str, Any]]] = {}
        with open(path.with_suffix(".text.jsonl"), encoding="utf-8") as lines:
            for line in lines:
                r = json.loads(line)
                texts.setdefault(r["audio"], []).append(r)
        self.rows = []
        with open(path.with_suffix(".jsonl"), encoding="utf-8") as lines:
            for line in lines:
                r = json.loads(line)
                if t := texts.get(r["audio"]):
                    place = r["audio"], str(r.get("source")), r["start"], r["frames"], r["chunk"]
                    told = tuple((h["start"], tuple(h["next"]), tuple(h["last"])) for h in t)
                    said = tuple(t[0]["tokens"]), tuple(t[0]["times"])
                    self.rows.append(Utterance(*place, *said, told))
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

    def batch(self, group: list[int], rng: np.random.Generator) -> Batch:
        """rng: draws which history of each."""
        xs = [self.stacked(n) for n in group]
        rows = [self.rows[n] for n in group]
        hidden, said, spoken, following, last = [], [], [], [], []
        for r, x in zip(rows, xs):
            at, upto, before = r.histories[rng.integers(len(r.histories))]
            hidden.append(torch.from_numpy(np.array(self.text[at : at + len(upto)])))
            ends = np.array(r.times, np.float64)
            said.append(self.due(r, len(x)))
            following.append(np.array(upto))
            last.append(where(np.array(before), said[-1], len(x)))
            spoken.append(self._spoken(r, ends, len(x)))
        pad = torch.nn.utils.rnn.pad_sequence
        return Batch(
            pad(xs, batch_first=True).bfloat16(),
            torch.tensor([len(x) for x in xs]),
            pad(hidden, batch_first=True).float(),
            [list(r.tokens) for r in rows],
            said,
            following,
            last,
            spoken,
        )

    def due(self, r: Utterance, frames: int) -> np.ndarray:
        """The frame in which each token is to be said; two words never in one."""
        ends = np.array(r.times, np.float64)
        due = np.ceil(np.maximum(ends, 1e-6) / self.step - 1e-6).astype(int) - 1 + self.delay
        begins = self.begins[np.array(r.tokens, int)]
        for n in range(1, len(due)):
            due[n] = max(due[n], due[n - 1] + begins[n])
        return np.clip(due, 0, frames - 1)

    def _spoken(self, r: Utterance, ends: np.ndarray, frames: int) -> np.ndarray:
        """A token is spoken from the end of the one before to its own, for half a second at most."""
        out = np.full(frames, -1, np.int64)
        starts = np.concatenate([[0.0], ends[:-1]])
        for token, a, b in zip(r.tokens, np.maximum(starts, ends - 0.5), ends):
            out[int(a / self.step + 0.5) : int(b / self.step + 0.5)] = token
        return out


def where(last: np.ndarray, said: np.ndarray, frames: int) -> np.ndarray:
    """Frames of tokens, whole numbers those of `said`, -1 for none, others between two."""
    known = np.concatenate([[-1], said, [frames - 1]])
    return np.interp(last, np.arange(-1, len(said) + 1), known).astype(int)
