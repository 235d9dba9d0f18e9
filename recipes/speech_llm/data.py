"""Utterances for `train.py`: stacked frames, the language model's hidden states, tokens and their frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.common.precision import autocast, matmul_dtype
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


def written(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file that may still be written to: the last one is left out while it is not whole."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)


class Data:
    """What `prepare.py` and `hidden.py` have written so far."""

    def __init__(
        self, path: Path, hearing: Hearing, dim: int, text_dim: int, delay: int, begins: list[bool]
    ):
        """begins: of each token, whether it begins a word."""
        self.hearing, self.dim, self.text_dim, self.delay = hearing, dim, text_dim, delay
        self.begins = np.array(begins)
        self.step = hearing.stack * FRAME_S
        self.path = path
        self._stacked: dict[str, Tensor] = {}
        self.reload()

    def reload(self) -> None:
        """Take what has been written until now; utterances may have other numbers than before."""
        texts: dict[str, list[dict[str, Any]]] = {}
        sounds = texts_rows = 0
        for r in written(self.path.with_suffix(".text.jsonl")):
            texts.setdefault(r["audio"], []).append(r)
            texts_rows = r["start"] + len(r["next"])
        self.rows = []
        for r in written(self.path.with_suffix(".jsonl")):
            sounds = r["start"] + r["frames"]
            if t := texts.get(r["audio"]):
                place = r["audio"], str(r.get("source")), r["start"], r["frames"], r["chunk"]
                told = tuple((h["start"], tuple(h["next"]), tuple(h["last"])) for h in t)
                said = tuple(t[0]["tokens"]), tuple(t[0]["times"])
                self.rows.append(Utterance(*place, *said, told))
        self.sound, self.text = (
            np.memmap(self.path.with_suffix(end), np.float16, "r", shape=shape)
            for end, shape in (
                (".bin", (sounds, self.dim)),
                (".text.bin", (texts_rows, self.text_dim)),
            )
        )

    @torch.no_grad()
    def stacked(self, n: int) -> Tensor:
        """(T, width) float16, computed once."""
        r = self.rows[n]
        if r.audio not in self._stacked:
            frames = r.frames // self.hearing.stack * self.hearing.stack
            x = torch.from_numpy(np.asarray(self.sound[r.start : r.start + frames], np.float32))
            with autocast():
                self._stacked[r.audio] = self.hearing.stacked(x[None], r.chunk)[0].half()
        return self._stacked[r.audio]

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
            pad(xs, batch_first=True).to(matmul_dtype()),
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
