"""Lhotse cuts to batches of features and tokens."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from lhotse import CutSet
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import DataLoader, Dataset

from recipes.fastconformer.prepare import LOG_MEL, RATE, normalise
from speechstream.audio.nemo_mel import NemoMel, NemoMelConfig

FRAME_S = 0.08  # of the encoder
SLOTS = 4  # phones a frame is asked for, one every 20 ms
PHONES = {
    p: i
    for i, p in enumerate(
        "SIL AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH "
        "T TH UH UW V W Y Z ZH".split()
    )
}


def encoder_frames(frames: int) -> int:
    """Of `frames` of features, through three causal convolutions of stride 2, as `ConvSubsampling` counts them."""
    for _ in range(3):
        frames = frames // 2 + 1
    return frames


class Utterances(Dataset):
    """A batch of cuts to features (B, T, mels), frames (B,), targets (B, U) and tokens (B,), and by the alignment, -1
    where there is none, the token or blank of each encoder frame (B, N), and its phones (B, N, SLOTS). `teacher`
    (B, N, SLOTS, dims) is what distill_targets.py has stored, NaN where there is nothing; dims is 0 where it has not run.

    Utterances without text, or with more tokens than encoder frames, which CTC cannot align, are left out. A token is
    due `delay` frames after the first one that has heard it whole.
    """

    def __init__(self, manifest: str, tokenizer: str, features: int, delay: int):
        self.mel, self.delay = NemoMel(NemoMelConfig(n_mels=features, **LOG_MEL)), delay
        stored = Path(manifest.removesuffix(".gz")).with_suffix(".npy")
        self.stored = np.load(stored, mmap_mode="r") if stored.exists() else None
        teacher = stored.with_suffix(".teacher.npy")
        self.taught = (
            np.load(teacher, mmap_mode="r") if teacher.exists() else np.zeros((0, 0), np.float16)
        )
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=tokenizer)

    def features(self, cut) -> torch.Tensor:
        if self.stored is None:
            return torch.from_numpy(self.mel(cut.resample(RATE).load_audio()[:1])[0].T)
        start, frames = cut.custom["mel"]
        return torch.from_numpy(self.stored[start : start + frames].astype(np.float32))

    def path(self, cut, ids: list[int], frames: int) -> torch.Tensor:
        """The token that each frame emits, or blank: a path that CTC allows. Tokens share a word by their letters."""
        ends = []
        for word in (w for s in cut.supervisions for w in (s.alignment or {}).get("word", ())):
            pieces = self.tokenizer.encode(normalise(word.symbol), out_type=str)
            letters = np.cumsum([max(1, len(p.strip("▁"))) for p in pieces])
            ends += [word.start + word.duration * n / letters[-1] for n in letters]
        blank = self.tokenizer.vocab_size()
        if len(ends) != len(ids):
            return torch.full((frames,), -1)
        at = [math.ceil(e / FRAME_S) + self.delay for e in ends]
        gap = [
            1 + (a == b) for a, b in zip(ids, ids[1:])
        ]  # the same token twice needs a blank between
        for i, g in enumerate(gap):
            at[i + 1] = max(at[i + 1], at[i] + g)
        at[-1] = min(at[-1], frames - 1)
        for i, g in reversed(list(enumerate(gap))):
            at[i] = min(at[i], at[i + 1] - g)
        path = torch.full((frames,), blank if at[0] >= 0 else -1)
        if at[0] >= 0:
            path[torch.tensor(at)] = torch.tensor(ids)
        return path

    def phones(self, cut, frames: int) -> torch.Tensor:
        """The phones (frames, SLOTS) whose sound each frame has just heard."""
        items = [p for s in cut.supervisions for p in (s.alignment or {}).get("phone", ())]
        slots = torch.full((frames * SLOTS,), PHONES["SIL"] if items else -1)
        slot = FRAME_S / SLOTS
        for p in items:  # slot i of the utterance is heard whole by frame i // SLOTS + 1
            slots[round(p.start / slot) + SLOTS : round((p.start + p.duration) / slot) + SLOTS] = (
                PHONES[p.symbol]
            )
        return slots.view(frames, SLOTS)

    def teacher(self, cut, frames: int) -> torch.Tensor:
        """What the teacher made of the sound that each frame has just heard, (frames, SLOTS, dims)."""
        start, count = (cut.custom or {}).get("teacher", (0, 0))
        rows = torch.full((max(frames * SLOTS, SLOTS + count), self.taught.shape[1]), torch.nan)
        rows[SLOTS : SLOTS + count] = torch.from_numpy(
            self.taught[start : start + count].astype(np.float32)
        )
        return rows[: frames * SLOTS].unflatten(0, (frames, SLOTS))

    def __getitem__(self, cuts: CutSet) -> dict[str, torch.Tensor]:
        rows = []
        for cut in cuts:
            mel = self.features(cut)
            ids = self.tokenizer.encode(normalise(" ".join(s.text for s in cut.supervisions)))
            if ids and len(mel) // 8 > len(ids):
                frames = encoder_frames(len(mel))
                rows.append(
                    (
                        mel,
                        torch.tensor(ids),
                        self.path(cut, ids, frames),
                        self.phones(cut, frames),
                        self.teacher(cut, frames),
                    )
                )
        if not rows:
            return {}
        x, targets, path, phones, teacher = zip(*rows)
        pad = lambda rows, value=0: torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=value
        )
        return {
            "x": pad(x),
            "frames": torch.tensor([len(m) for m in x]),
            "targets": pad(targets),
            "tokens": torch.tensor([len(t) for t in targets]),
            "path": pad(path, -1),
            "phones": pad(phones, -1),
            "teacher": pad(teacher, torch.nan),
        }


class Rest:
    """What a sampler gives after its first `skip` batches: it is deterministic, so this resumes an epoch exactly."""

    def __init__(self, sampler: DynamicBucketingSampler, skip: int):
        self.sampler, self.skip = sampler, skip

    def __iter__(self):
        return itertools.islice(iter(self.sampler), self.skip, None)


def loader(
    manifest: str,
    tokenizer: str,
    c: dict,
    epoch: int,
    skip: int,
    rank: int,
    world: int,
    workers: int,
) -> DataLoader:
    """The batches of an epoch for this process, without the first `skip`."""
    cuts, longest = CutSet.from_file(manifest).to_eager(), c["max_seconds"]
    kept = cuts.filter(lambda cut: 0.3 <= cut.duration <= longest).to_eager()
    if rank == 0 and len(kept) < len(cuts):
        print(
            f"left out {len(cuts) - len(kept)} of {len(cuts)} utterances outside 0.3 to {longest} s",
            flush=True,
        )
    sampler = DynamicBucketingSampler(
        kept,
        max_duration=c["batch_seconds"],
        num_buckets=c["buckets"],
        shuffle=True,
        seed=c["seed"],
        rank=rank,
        world_size=world,
    )
    sampler.set_epoch(epoch)
    data = Utterances(manifest, tokenizer, c["encoder"]["n_mels"], c["delay"])
    if c["teacher_weight"] and data.taught.shape[1] != c["teacher_dims"]:
        raise SystemExit(
            f"teacher_weight is {c['teacher_weight']}, and beside {manifest} are {data.taught.shape[1]} of "
            f"{c['teacher_dims']} components of a teacher: run distill_targets.py, or set it to 0"
        )
    return DataLoader(data, sampler=Rest(sampler, skip), batch_size=None, num_workers=workers)


def augment(x: torch.Tensor, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """SpecAugment on (B, T, mels): two bands of up to 27 mels, and a stretch of up to 5 % in each 2 s, to the mean."""
    x = x.clone()
    for i, n in enumerate(frames.tolist()):
        fill = x[i, :n].mean()
        for _ in range(2):
            width = int(rng.integers(0, min(27, x.shape[2]) + 1))
            start = int(rng.integers(0, x.shape[2] - width + 1))
            x[i, :, start : start + width] = fill
        for _ in range(n // 200):
            width = int(rng.integers(0, max(1, n // 20)))
            start = int(rng.integers(0, n - width + 1))
            x[i, start : start + width] = fill
    return x
