"""What the frozen encoder makes of the speech, once, for the CTC head to be trained on.

    python -m recipes.causal_whisper.ctc_features BUNDLE DATA/train.jsonl --out work/ctc/train
    python -m recipes.causal_whisper.ctc_features BUNDLE DATA/train.jsonl --out work/ctc/perturbed --perturb --seed 1
    python -m recipes.causal_whisper.ctc_features BUNDLE DATA/unlabelled.jsonl --out work/ctc/unlabelled --transcribe

Each batch of utterances is encoded in chunks that it draws: some of them as words are confirmed, in chunks of 1920 ms that
hear the 960 ms after them, the others in those of the streams, or at once. --perturb changes tempo and pitch together,
level and noise. --transcribe asks the decoder for the text, with its mean log-probability a token.

Writes OUT.bin, float16 (frames, dim) of all utterances in a row, and OUT.jsonl, the manifest with `start`, `frames`, `chunk` (what the head's convolutions may see at a time in frames, null:
everything) and, of what was transcribed, `text` and `confidence`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.causal_whisper.data import FLOOR, RAW_FLOOR, batches, collate, read_manifest
from recipes.causal_whisper.greedy import greedy
from recipes.causal_whisper.train import augment
from recipes.common.args import parser
from speechstream import bundle
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.audio.features import SAMPLE_RATE, LogMel
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.whisper import Encoder, Whisper

CONFIRM, AHEAD = 96, 48  # frames: how `speechstream.asr.whisper` confirms words
CHUNKS = [CONFIRM, 4, 8, 16, 32, 64, 128, None]
CHANCES = [0.15, 0.05, 0.08, 0.1, 0.1, 0.12, 0.1, 0.3]
TEMPI = [0.88, 0.92, 0.96, 1.04, 1.08, 1.12]
BATCH_FRAMES = 9000  # mel frames, padding included


def confirmed(encoder: Encoder, mel: Tensor) -> Tensor:
    """mel (B, mels, 2T + 1) to features (B, T, dim), chunk by chunk with what follows each."""
    state, out = encoder.init_state(len(mel)), []
    frames = (mel.shape[2] - 1) // 2
    mel = F.pad(mel, (0, 2 * (CONFIRM + AHEAD)), value=FLOOR)
    for at in range(0, frames, CONFIRM):
        chunk = mel[:, :, 2 * at : 2 * (at + CONFIRM + AHEAD) + 1]
        features, state = encoder.step(chunk, state, CONFIRM)
        out.append(features)
    return torch.cat(out, 1)[:, :frames]


def mel_of(path: Path, tempo: float) -> np.ndarray:
    """(frames, mels) of a recording, its tempo and pitch times `tempo`."""
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE:
        raise ValueError(f"{path} is at {rate} Hz, expected {SAMPLE_RATE}")
    if tempo != 1:
        samples = soxr.resample(samples, SAMPLE_RATE * tempo, SAMPLE_RATE, quality="MQ")
    mel = LogMel(floor=RAW_FLOOR)(samples[None])[0].T
    return mel[: len(mel) // 2 * 2]


def encoded(
    encoder: Encoder,
    rows: list[dict],
    folder: Path,
    perturb: bool,
    only: int | None,
    rng: np.random.Generator,
) -> Iterator[tuple[list[dict], Tensor, Tensor, int | None]]:
    """Batches of rows with their features (B, T, dim), lengths and chunk."""
    for group in batches([int(100 * r["duration_s"]) + 60 for r in rows], BATCH_FRAMES, rng):
        chunk = CHUNKS[rng.choice(len(CHUNKS), p=CHANCES)] if only is None else only or None
        tempo = float(rng.choice(TEMPI)) if perturb else 1.0
        mels = [mel_of(folder / rows[i]["audio"], tempo) for i in group]
        mel, lengths = collate(mels, [FLOOR] * len(mels), int(rng.integers(10, 40)) * 2)
        if perturb:
            mel = augment(mel, lengths, rng)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            x = confirmed(encoder, mel) if chunk == CONFIRM else encoder(mel, lengths, chunk)
        yield [rows[i] for i in group], x, lengths, None if chunk == CONFIRM else chunk


def transcribed(
    model: Whisper, vocabulary: Vocabulary, features: Tensor, lengths: Tensor
) -> list[dict]:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        ids, scores, _ = greedy(
            model.decoder, features, lengths, lengths // 6 + 6, vocabulary.prompt, vocabulary.end
        )
    return [
        {"text": vocabulary.text(i).strip(), "confidence": round(s, 4)} for i, s in zip(ids, scores)
    ]


class Store:
    """The two files, to which utterances are added; what is there already stays."""

    def __init__(self, path: Path):
        self.data, self.index = path.with_suffix(".bin"), path.with_suffix(".jsonl")
        self.data.parent.mkdir(parents=True, exist_ok=True)
        for file in (self.data, self.index):
            file.touch()

    def add(self, rows: list[dict], x: Tensor, lengths: Tensor, chunk: int | None) -> None:
        """rows of the manifest with their features (B, T, dim)."""
        with open(self.data, "ab") as data, open(self.index, "a", encoding="utf-8") as index:
            for row, one, n in zip(rows, x, lengths.tolist()):
                at = data.tell() // (2 * x.shape[2])
                data.write(one[:n].float().numpy().astype(np.float16).tobytes())
                data.flush()
                place = {"start": at, "frames": n, "chunk": chunk}
                index.write(json.dumps({**row, **place}) + "\n")


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("bundle", type=Path)
    p.add_argument("manifest", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--perturb", action="store_true")
    p.add_argument("--transcribe", action="store_true")
    p.add_argument(
        "--chunk",
        type=int,
        help=f"for all of them: frames, {CONFIRM} as words are confirmed, 0 at once",
    )
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args(arguments)
    b = bundle.load(args.bundle)
    model, vocabulary = read_whisper(b).requires_grad_(False), Vocabulary(b.file("vocabulary.json"))
    rng = np.random.default_rng(args.seed)
    rows = [r for r in read_manifest(args.manifest) if r["duration_s"] < 30]
    began, heard, store = time.time(), 0.0, Store(args.out)
    for group, x, lengths, chunk in encoded(
        model.encoder, rows, args.manifest.parent, args.perturb, args.chunk, rng
    ):
        said = transcribed(model, vocabulary, x, lengths) if args.transcribe else [{}] * len(group)
        store.add([{**row, **text} for row, text in zip(group, said)], x, lengths, chunk)
        heard += sum(row["duration_s"] for row in group)
        print(f"{heard:.0f} s heard in {time.time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
