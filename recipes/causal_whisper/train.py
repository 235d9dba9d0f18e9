"""Turn Whisper into a chunk-causal streaming model.

The student begins as a copy of the offline model. Each batch draws one chunk size. Three losses share one pass:

- distillation: squared error of the student's features to those of the frozen offline encoder on the clean signal,
  relative to their variance;
- the decoder's cross-entropy on the labels, part of the utterances cut at a chunk's end with only the words that had
  ended by then (CarelessWhisper's setting), which also teaches it to stop where the sound stops; once the decoder stays
  as it is (`--decoder-lr 0`), its divergence from what it says of the offline encoder's features takes the place of half of it;
- CTC on pairs of frames, its gradient kept from the encoder: a fresh head's would drown the other two.

The transducer's gate is trained afterwards, see `gate.py`.

The budget is wall-clock time, shared by warm-up and cosine decay; a killed run continues from its last checkpoint.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from speechstream.convert.whisper import load_whisper
from speechstream.nn.whisper import Whisper
from recipes.causal_whisper.data import RAW_FLOOR, Utterances, batches, collate
from recipes.causal_whisper.text import words

FLOOR = -0.75  # the deployed floor, (log10 energy + 4) / 4 at log10 energy = -7
CHUNKS = [
    4,
    8,
    16,
    32,
    64,
    128,
    None,
]  # 80, 160, 320, 640, 1280 ms; 2560 ms confirms words; offline
CHANCES = [0.06, 0.12, 0.14, 0.14, 0.12, 0.22, 0.20]
ALIGNMENT_HEADS = (
    (3, 1),
    (3, 3),
    (4, 1),
    (5, 1),
)  # (layer, head): they tell word ends best, see heads.py
IGNORE = -100


class Labels:
    """Token ids of each utterance, whole or cut after its first n words."""

    def __init__(self, path: Path | None, vocabulary: Path, tokenizer: str):
        trimmed = json.loads((vocabulary / "vocabulary.json").read_text())
        self.row = {original: i for i, original in enumerate(trimmed["ids"])}
        self.ids, self.end, self.prompt = trimmed["ids"], trimmed["end"], trimmed["prompt"]
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.small = Tokenizer.from_file(str(vocabulary / "ctc.json"))
        self.rows = {(r := json.loads(line))["audio"]: r for line in open(path)} if path else {}

    def tokens(self, audio: str, count: int | None = None) -> list[int]:
        text = " ".join(self.rows[audio]["text"].replace('"', "").split()[:count])
        ids = self.tokenizer.encode(" " + text, add_special_tokens=False).ids if text else []
        return self.prompt + [self.row[i] for i in ids if i in self.row] + [self.end]

    def ctc(self, audio: str) -> list[int]:
        return self.small.encode(" ".join(words(self.rows[audio]["text"]))).ids


def augment(mel: Tensor, lengths: Tensor, rng: np.random.Generator) -> Tensor:
    """Level, stationary noise and SpecAugment on (B, mels, frames), in units of (log10 energy + 4) / 4."""
    B, mels, frames = mel.shape
    out = mel.clone()
    for b in range(B):
        out[b] += rng.uniform(-0.3, 0.1)  # -12 to +4 dB
        if (
            rng.random() < 0.3
        ):  # noise of a random smooth colour, 5 to 40 dB below the loudest frame
            knots = rng.uniform(-0.15, 0.15, 6)
            colour = np.interp(np.linspace(0, 5, mels), np.arange(6), knots)
            level = float(out[b].max()) - rng.uniform(5, 40) / 40
            noise = torch.from_numpy(
                (level + colour[:, None] + 0.06 * rng.standard_normal((mels, frames))).astype("f")
            )
            out[b] = torch.logaddexp(out[b] * 4 * math.log(10), noise * 4 * math.log(10)) / (
                4 * math.log(10)
            )
    out = out.clamp(min=FLOOR)
    for b in range(B):
        if (
            rng.random() < 0.5
        ):  # half are left whole: the student must first of all hear what the teacher hears
            continue
        for _ in range(2):
            width = int(rng.integers(0, 16))
            at = int(rng.integers(0, mels - width))
            out[b, at : at + width] = FLOOR
        for _ in range(int(lengths[b]) // 150):
            width = int(rng.integers(0, 12))
            at = int(rng.integers(0, 2 * int(lengths[b]) - width))
            out[b, :, at : at + width] = FLOOR
    return out


def load(path: Path, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in load_file(path).items() if k.startswith(prefix)}


def fitting(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Those of the weights that the network has in the same shape: a head may change, all else must be there."""
    own = network.state_dict()
    if missing := [n for n in own if n not in weights and not n.startswith(("ctc.", "gate."))]:
        raise ValueError(f"the checkpoint lacks {', '.join(missing)}")
    return {n: w for n, w in weights.items() if n in own and own[n].shape == w.shape}


class Run:
    """Everything a checkpoint holds: student, its average, Adam's moments, steps and seconds spent."""

    def __init__(self, args: argparse.Namespace, labels: Labels):
        self.folder, self.args = args.out, args
        self.folder.mkdir(parents=True, exist_ok=True)
        base = load_whisper(args.checkpoint, left=args.left)
        self.teacher = copy.deepcopy(base.encoder).bfloat16().requires_grad_(False)
        config = dataclasses.replace(
            base.config,
            vocabulary=len(labels.ids),
            ctc_vocabulary=labels.small.get_vocab_size(),
            ctc_width=args.ctc_width,
            ctc_blocks=args.ctc_blocks,
            alignment_heads=ALIGNMENT_HEADS,
        )
        self.student = Whisper(config)
        weights = base.state_dict()
        weights["decoder.token_embedding.weight"] = weights["decoder.token_embedding.weight"][
            labels.ids
        ]
        self.student.load_state_dict(weights, strict=False)
        self.student.encoder.requires_grad_(args.lr > 0)
        self.student.decoder.requires_grad_(args.decoder_lr > 0)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        groups = [
            {"params": list(self.student.encoder.parameters()), "peak": args.lr},
            {"params": list(self.student.decoder.parameters()), "peak": args.decoder_lr},
            {"params": list(self.student.ctc.parameters()), "peak": 1e-3},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.seconds = 0, 0.0
        (self.folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
        if (self.folder / "state.json").exists():
            self.resume()

    def moments(self) -> dict[str, Tensor]:
        names = {p: n for n, p in self.student.named_parameters()}
        return {
            f"{key}.{names[p]}": s[key]
            for p, s in self.optimiser.state.items()
            for key in ("exp_avg", "exp_avg_sq")
        }

    def save(self) -> None:
        parts = {
            "student.": self.student.state_dict(),
            "average.": self.average.state_dict(),
            "adam.": self.moments(),
        }
        save_file(
            {p + k: v.contiguous() for p, d in parts.items() for k, v in d.items()},
            self.folder / "new.safetensors",
        )
        (self.folder / "new.safetensors").rename(self.folder / "checkpoint.safetensors")
        (self.folder / "state.json").write_text(
            json.dumps({"step": self.step, "seconds": self.seconds})
        )

    def resume(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        for network, prefix in ((self.student, "student."), (self.average, "average.")):
            network.load_state_dict(fitting(load(path, prefix), network), strict=False)
        moments = load(path, "adam.")
        state = json.loads((self.folder / "state.json").read_text())
        self.step, self.seconds = state["step"], state["seconds"]
        for name, p in self.student.named_parameters():
            if f"exp_avg.{name}" in moments and moments[f"exp_avg.{name}"].shape == p.shape:
                self.optimiser.state[p] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": moments[f"exp_avg.{name}"],
                    "exp_avg_sq": moments[f"exp_avg_sq.{name}"],
                }

    def schedule(self) -> None:
        part = min(1.0, self.seconds / (60 * self.args.minutes))
        scale = min(1.0, (self.step + 1) / 40) * (
            0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * part))
        )
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * scale

    def update(self, loss: Tensor) -> float:
        self.schedule()
        loss.backward()
        norm, *_ = [
            float(
                nn.utils.clip_grad_norm_(part.parameters(), 1.0)
            )  # each its own: scales differ by decades
            for part in (self.student.encoder, self.student.decoder, self.student.ctc)
        ]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(0.995, 1 - 1 / (1 + self.step / 5))  # a short memory at first
        with torch.no_grad():
            for a, p in zip(self.average.parameters(), self.student.parameters()):
                a.lerp_(p, 1 - keep)
        return norm


def ctc_loss(
    run: Run, labels: Labels, audio: list[str], features: Tensor, lengths: Tensor, chunk: int | None
) -> Tensor:
    pieces = [labels.ctc(a) for a in audio]
    with torch.autocast("cpu", torch.bfloat16):
        said = run.student.ctc_log_probs(features, lengths, chunk)
    return F.ctc_loss(
        said.float().transpose(0, 1),
        torch.tensor([i for p in pieces for i in p]),
        lengths // 2,
        torch.tensor([len(p) for p in pieces]),
        zero_infinity=True,
    )


def losses(
    run: Run, labels: Labels, utterances: Utterances, group: list[int], rng: np.random.Generator
) -> tuple[dict[str, Tensor], int | None]:
    """The three losses of one batch and the chunk that was drawn."""
    chunk = CHUNKS[rng.choice(len(CHUNKS), p=CHANCES)]
    mels = [utterances.mel(i) for i in group]
    tail = int(rng.integers(20, 100)) // 2 * 2
    batch, lengths = collate(mels, [FLOOR] * len(mels), tail)
    noisy = augment(batch, lengths, rng)
    with torch.autocast("cpu", torch.bfloat16):
        features = run.student.encoder(noisy, lengths, chunk)
    audio = [utterances.rows[i]["audio"] for i in group]
    known = [b for b, a in enumerate(audio) if a in labels.rows]
    out = (
        {
            "ctc": ctc_loss(
                run,
                labels,
                [audio[b] for b in known],
                features[known].detach(),
                lengths[known],
                chunk,
            )
        }
        if known
        else {}
    )
    if not run.args.lr:  # the CTC head alone
        return out, chunk

    clean, _ = collate(mels, [max(RAW_FLOOR / 4 + 1, m.max() - 2) for m in mels], tail)
    with torch.no_grad():
        target = run.teacher(clean.bfloat16(), lengths).float()
    real = (torch.arange(target.shape[1]) < lengths[:, None])[..., None]
    count = real.sum() * target.shape[2]
    mean = (target * real).sum((0, 1)) / real.sum()
    variance = (((target - mean) * real) ** 2).sum() / count
    out["distil"] = (((features.float() - target) * real) ** 2).sum() / count / variance
    if known:
        visible, rows = lengths[known].clone(), []
        for n, b in enumerate(known):
            ends, count = labels.rows[audio[b]]["ends"], None
            if ends and chunk is not None and rng.random() < 0.4:  # cut at a chunk's end
                cut = chunk * int(rng.integers(1, 2 + int(lengths[b]) // chunk))
                cut = max(cut, 25) // chunk * chunk or chunk
                if cut < lengths[b]:
                    visible[n] = cut
                    count = sum(e <= cut * 0.02 + 0.02 for e in ends)
            rows.append(torch.tensor(labels.tokens(audio[b], count)))
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=labels.end)
        target_tokens = nn.utils.rnn.pad_sequence(
            [r[1:] for r in rows], batch_first=True, padding_value=IGNORE
        )
        target_tokens[:, : len(labels.prompt) - 1] = IGNORE
        with torch.autocast("cpu", torch.bfloat16):
            mask = torch.arange(features.shape[1]) < visible[:, None]
            read = features[known]
            share = run.args.decoder_share
            read = share * read + (1 - share) * read.detach()
            logits = run.student.decoder(tokens[:, :-1], read, mask).float()
        out["decoder"] = F.cross_entropy(
            logits.flatten(0, 1), target_tokens.flatten(), ignore_index=IGNORE
        )
        if not run.args.decoder_lr:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                wanted = run.student.decoder(tokens[:, :-1], target[known], mask).float()
            scored = target_tokens != IGNORE
            wanted, said = wanted[scored].log_softmax(-1), logits[scored].log_softmax(-1)
            out["imitation"] = (wanted.exp() * (wanted - said)).sum(-1).mean()
    return out, chunk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="offline Whisper")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--features", type=Path, nargs="+", required=True)
    parser.add_argument("--labels", type=Path, help="without: distillation alone")
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument(
        "--lr",
        type=float,
        default=2e-4,
        help="of the encoder; 0 trains the CTC head and nothing else",
    )
    parser.add_argument("--decoder-lr", type=float, default=4e-5)
    parser.add_argument(
        "--decoder-share",
        type=float,
        default=0.1,
        help="share of the decoder's gradient that reaches the "
        "encoder: in full it is fifty times the distillation's",
    )
    parser.add_argument("--ctc-width", type=int, default=512, help="hidden units of the CTC head")
    parser.add_argument("--ctc-blocks", type=int, default=2, help="of the CTC head")
    parser.add_argument("--left", type=int, default=400)
    parser.add_argument("--frames", type=int, default=7000, help="mel frames in a batch")
    parser.add_argument("--report", type=int, default=20, help="steps between lines")
    args = parser.parse_args()
    torch.manual_seed(0)
    labels = Labels(args.labels, args.vocabulary, args.tokenizer)
    run = Run(args, labels)
    sources = [
        (u, i) for path in args.features for u in [Utterances(path)] for i in range(len(u.rows))
    ]
    merged = Merged(sources)
    rng = np.random.default_rng(run.step)
    weights, log, saved = (
        {"distil": 1.0, "decoder": 1.0, "imitation": 1.0, "ctc": 0.2},
        {},
        time.time(),
    )
    if not args.decoder_lr:
        weights["decoder"] = 0.5
    run.student.train()
    while run.seconds < 60 * args.minutes:
        for group in batches([r["frames"] + 60 for r in merged.rows], args.frames, rng):
            began = time.time()
            parts, chunk = losses(run, labels, merged, group, rng)
            norm = run.update(sum(weights[k] * v for k, v in parts.items()))
            run.seconds += time.time() - began
            for k, v in parts.items():
                log.setdefault(k, []).append(float(v.detach()))
            log.setdefault("audio", []).append(sum(merged.rows[i]["frames"] for i in group) / 100)
            log.setdefault("wall", []).append(time.time() - began)
            log.setdefault("norm", []).append(norm)
            if run.step % args.report == 0:
                m = {k: np.mean(v) for k, v in log.items()}
                print(
                    f"{run.step} {run.seconds / 60:.1f}min "
                    + " ".join(
                        f"{k} {m[k]:.3f}"
                        for k in ("distil", "decoder", "imitation", "ctc", "norm")
                        if k in m
                    )
                    + f" x{m['audio'] / m['wall']:.1f} rt",
                    flush=True,
                )
                log = {}
            if time.time() - saved > 240 or run.seconds >= 60 * args.minutes:
                run.save()
                saved = time.time()
            if run.seconds >= 60 * args.minutes:
                break


class Merged:
    """Several sets of utterances as one."""

    def __init__(self, sources: list[tuple[Utterances, int]]):
        self.sources = sources
        self.rows = [u.rows[i] for u, i in sources]

    def mel(self, i: int) -> np.ndarray:
        utterances, n = self.sources[i]
        return utterances.mel(n)


if __name__ == "__main__":
    main()
