"""Lhotse cuts to batches of features and tokens."""

from __future__ import annotations

import itertools

import numpy as np
import sentencepiece
import torch
from lhotse import CutSet
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import DataLoader, Dataset

from prepare import normalise
from speechstream.audio.nemo_mel import NemoMel, NemoMelConfig

RATE = 16000


class Utterances(Dataset):
    """A batch of cuts to features (B, T, mels), frames (B,), targets (B, U) and tokens (B,).

    Utterances without text, or with more tokens than encoder frames, which CTC cannot align, are left out.
    """

    def __init__(self, tokenizer: str, features: int):
        self.mel = NemoMel(NemoMelConfig(features=features))
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=tokenizer)

    def __getitem__(self, cuts: CutSet) -> dict[str, torch.Tensor]:
        rows = []
        for cut in cuts:
            mel = self.mel(cut.resample(RATE).load_audio()[:1])[0].T
            ids = self.tokenizer.encode(normalise(" ".join(s.text for s in cut.supervisions)))
            if ids and len(mel) // 8 > len(ids):
                rows.append((torch.from_numpy(mel), torch.tensor(ids)))
        if not rows:
            return {}
        pad = torch.nn.utils.rnn.pad_sequence
        return {"x": pad([m for m, _ in rows], batch_first=True), "frames": torch.tensor([len(m) for m, _ in rows]),
                "targets": pad([t for _, t in rows], batch_first=True),
                "tokens": torch.tensor([len(t) for _, t in rows])}


class Rest:
    """What a sampler gives after its first `skip` batches: it is deterministic, so this resumes an epoch exactly."""

    def __init__(self, sampler: DynamicBucketingSampler, skip: int):
        self.sampler, self.skip = sampler, skip

    def __iter__(self):
        return itertools.islice(iter(self.sampler), self.skip, None)


def loader(manifest: str, tokenizer: str, c: dict, epoch: int, skip: int, rank: int, world: int,
           workers: int) -> DataLoader:
    """The batches of an epoch for this process, without the first `skip`."""
    cuts, longest = CutSet.from_file(manifest).to_eager(), c["max_seconds"]
    kept = cuts.filter(lambda cut: 0.3 <= cut.duration <= longest).to_eager()
    if rank == 0 and len(kept) < len(cuts):
        print(f"left out {len(cuts) - len(kept)} of {len(cuts)} utterances outside 0.3 to {longest} s", flush=True)
    sampler = DynamicBucketingSampler(kept, max_duration=c["batch_seconds"], num_buckets=c["buckets"], shuffle=True,
                                      seed=c["seed"], rank=rank, world_size=world)
    sampler.set_epoch(epoch)
    data = Utterances(tokenizer, c["encoder"]["features"])
    return DataLoader(data, sampler=Rest(sampler, skip), batch_size=None, num_workers=workers)


def augment(x: torch.Tensor, frames: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """SpecAugment on (B, T, mels): two bands of up to 27 mels, and a stretch of up to 5 % in each 2 s, to the mean."""
    x = x.clone()
    for i, n in enumerate(frames.tolist()):
        fill = x[i, :n].mean()
        for _ in range(2):
            width = int(rng.integers(0, min(27, x.shape[2]) + 1))
            start = int(rng.integers(0, x.shape[2] - width + 1))
            x[i, :, start:start + width] = fill
        for _ in range(n // 200):
            width = int(rng.integers(0, max(1, n // 20)))
            start = int(rng.integers(0, n - width + 1))
            x[i, start:start + width] = fill
    return x
