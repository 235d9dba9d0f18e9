"""What the encoder of a trained recogniser makes of each utterance, for a FastConformer to learn from.

    python -m recipes.fastconformer.distill_targets OUT/train                    # the embedded model's; after the manifest
    python -m recipes.fastconformer.distill_targets OUT/train --model BUNDLE

OUT/train.teacher.npy holds float16 (frames of 20 ms, DIMS): the features of the causal Whisper's encoder, the whole
utterance heard at once, as their first DIMS principal components, each of mean 0 and deviation 1 (features of Whisper
have a few dimensions that outweigh all others). Each cut is given its place there as its custom field `teacher`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet
from torch import Tensor

from recipes.fastconformer.prepare import RATE
from speechstream import bundle
from speechstream.audio.features import LogMel
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.whisper import Whisper

DIMS = 64
SAMPLE = 400  # utterances that the components are found from
BATCH_S = 60.0  # of audio, padding included


def groups(cuts: list, seconds: float) -> list[list]:
    """Cuts of like length, so many seconds together."""
    out: list[list] = [[]]
    for cut in sorted(cuts, key=lambda c: c.duration):
        if out[-1] and cut.duration * (len(out[-1]) + 1) > seconds:
            out.append([])
        out[-1].append(cut)
    return out


@torch.no_grad()
def features(model: Whisper, cuts: list) -> list[Tensor]:
    """(frames, width) of each cut."""
    mel = LogMel()
    heard = [torch.from_numpy(mel(cut.resample(RATE).load_audio()[:1])[0]) for cut in cuts]
    lengths = torch.tensor([m.shape[1] // 2 for m in heard])
    x = torch.full(
        (len(cuts), heard[0].shape[0], 2 * int(lengths.max()) + 1),
        min(float(m.min()) for m in heard),
    )
    for row, m, n in zip(x, heard, lengths.tolist()):
        row[:, : 2 * n] = m[:, : 2 * n]
    with torch.autocast("cpu", torch.bfloat16):
        y = model.encoder(x, lengths)
    return [a[:n].float() for a, n in zip(y, lengths.tolist())]


def components(rows: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """The mean (width,) of rows (n, width), and what turns the rest into whitened components, (width, dims)."""
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh(
        (rows - mean).T.double() @ (rows - mean).double() / len(rows)
    )
    best = values.argsort(descending=True)[:dims]
    return mean, (vectors[:, best] / values[best].clamp(min=1e-6).sqrt()).float()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", type=Path, help="without .jsonl.gz")
    parser.add_argument(
        "--model", type=Path, help="the bundle of a causal Whisper; default: the embedded one"
    )
    parser.add_argument("--dims", type=int, default=DIMS)
    a = parser.parse_args()
    model = read_whisper(bundle.load(a.model or bundle.embedded("asr")))
    path = f"{a.manifest}.jsonl.gz"
    cuts = list(CutSet.from_file(path).to_eager())
    sample = np.random.default_rng(0).permutation(len(cuts))[:SAMPLE]
    mean, turn = components(
        torch.cat(
            [y for g in groups([cuts[i] for i in sample], BATCH_S) for y in features(model, g)]
        ),
        a.dims,
    )
    parts, at = [], 0
    for i, group in enumerate(plan := groups(cuts, BATCH_S)):
        for cut, y in zip(group, features(model, group)):
            parts.append(((y - mean) @ turn).numpy().astype(np.float16))
            cut.custom = {**(cut.custom or {}), "teacher": [at, len(y)]}
            at += len(y)
        if i % 100 == 0:
            print(f"{i} of {len(plan)} batches", flush=True)
    np.save(f"{a.manifest}.teacher.npy", np.concatenate(parts))
    CutSet.from_cuts(cuts).to_file(path)


if __name__ == "__main__":
    main()
