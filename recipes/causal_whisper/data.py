"""Utterances on disk as one array of log-mel frames, and batches of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from speechstream.audio.features import SAMPLE_RATE, LogMel

RAW_FLOOR = -10.0  # Whisper's own clamp: keeps what any later floor needs


def read_manifest(path: Path) -> list[dict]:
    with open(path) as lines:
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
    with open(out.with_suffix(".jsonl"), "w") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


class Utterances:
    """What `extract` wrote. `mel(i)` is (frames, mels) float32, (log10 energy + 4) / 4, floored at RAW_FLOOR."""

    def __init__(self, path: Path):
        self.rows = read_manifest(path.with_suffix(".jsonl"))
        self.frames = np.load(path.with_suffix(".npy"), mmap_mode="r")

    def mel(self, i: int) -> np.ndarray:
        row = self.rows[i]
        return np.asarray(self.frames[row["start"] : row["start"] + row["frames"]], np.float32)


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
