"""Utterances on disk as one array of log-mel frames, and batches of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer
from torch import Tensor

from recipes.causal_whisper.text import words
from speechstream.audio.features import SAMPLE_RATE, LogMel

FLOOR = (
    -0.75
)  # what the deployed model hears of silence: (log10 energy + 4) / 4 at log10 energy = -7
RAW_FLOOR = -10.0  # Whisper's own clamp: keeps what any later floor needs


def read_manifest(path: Path) -> list[dict]:
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def extract(manifest: Path, out: Path) -> None:
    """Write OUT.npy, float16 (frames, mels) of all utterances in a row, and OUT.jsonl, the manifest with their places."""
    features, rows, at = LogMel(floor=RAW_FLOOR), [], 0
    parts = []
    for row in read_manifest(manifest):
        samples, rate = soundfile.read(manifest.parent / row["audio"], dtype="float32")
        if rate != SAMPLE_RATE:
            raise ValueError(f"{row['audio']} is at {rate} Hz, expected {SAMPLE_RATE}")
        mel = features(samples[None])[0].T.astype(np.float16)
        mel = mel[: len(mel) // 2 * 2]
        parts.append(mel)
        rows.append({**row, "start": at, "frames": len(mel)})
        at += len(mel)
    np.save(out.with_suffix(".npy"), np.concatenate(parts))
    with open(out.with_suffix(".jsonl"), "w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


class Utterances:
    """What `extract` wrote. `mel(i)` is (frames, mels) float32, (log10 energy + 4) / 4, floored at RAW_FLOOR."""

    def __init__(self, path: Path):
        self.rows = read_manifest(path.with_suffix(".jsonl"))
        self.frames = np.load(path.with_suffix(".npy"), mmap_mode="r")

    def mel(self, i: int) -> np.ndarray:
        row = self.rows[i]
        return np.asarray(self.frames[row["start"] : row["start"] + row["frames"]], np.float32)


class Merged:
    """Several sets of utterances as one."""

    def __init__(self, sources: list[tuple[Utterances, int]]):
        self.sources = sources
        self.rows = [u.rows[i] for u, i in sources]

    @classmethod
    def of(cls, paths: list[Path]) -> Merged:
        sets = [Utterances(path) for path in paths]
        return cls([(u, i) for u in sets for i in range(len(u.rows))])

    def mel(self, i: int) -> np.ndarray:
        utterances, n = self.sources[i]
        return utterances.mel(n)


class Labels:
    """Token ids of each utterance, whole or cut after its first n words."""

    def __init__(self, path: Path | None, vocabulary: Path, tokenizer: str):
        trimmed = json.loads((vocabulary / "vocabulary.json").read_text())
        self.row = {original: i for i, original in enumerate(trimmed["ids"])}
        self.ids, self.end, self.prompt = trimmed["ids"], trimmed["end"], trimmed["prompt"]
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.small = Tokenizer.from_file(str(vocabulary / "ctc.json"))
        self.rows = (
            {(r := json.loads(line))["audio"]: r for line in open(path, encoding="utf-8")}
            if path
            else {}
        )

    def tokens(self, audio: str, count: int | None = None) -> list[int]:
        text = " ".join(self.rows[audio]["text"].replace('"', "").split()[:count])
        ids = self.tokenizer.encode(" " + text, add_special_tokens=False).ids if text else []
        return self.prompt + [self.row[i] for i in ids if i in self.row] + [self.end]

    def ctc(self, audio: str) -> list[int]:
        return self.small.encode(" ".join(words(self.rows[audio]["text"]))).ids


def collate(mels: list[np.ndarray], floors: list[float], tail: int) -> tuple[Tensor, Tensor]:
    """Stack utterances, each padded with its floor and followed by `tail` frames of it.

    Returns mel (B, mels, 2T + 1) and the lengths in encoder frames, tail included.
    """
    lengths = torch.tensor([(len(m) + tail) // 2 for m in mels])
    batch = torch.empty(len(mels), mels[0].shape[1], 2 * int(lengths.max()) + 1)
    for row, mel, floor in zip(batch, mels, floors):
        row.fill_(floor)
        row[:, : len(mel)] = torch.from_numpy(np.maximum(mel, floor).T)
    return batch, lengths


def batches(
    frames: list[int], budget: int, rng: np.random.Generator | None = None
) -> list[list[int]]:
    """Group utterances of like length so that each batch holds at most `budget` frames, padding included."""
    noise = rng.uniform(0.9, 1.1, len(frames)) if rng is not None else np.ones(len(frames))
    groups, group = [], []
    for i in np.argsort(np.array(frames) * noise):
        longest = max([frames[i]] + [frames[j] for j in group])
        if group and longest * (len(group) + 1) > budget:
            groups.append(group)
            group = []
        group.append(int(i))
    groups.append(group)
    if rng is not None:
        rng.shuffle(groups)
    return groups
