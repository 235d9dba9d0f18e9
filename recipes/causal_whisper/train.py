"""Turn Whisper into a chunk-causal streaming model.

The student begins as a copy of the offline model. Each batch draws one chunk size. Three losses share one pass:

- distillation: squared error of the student's features to those of the frozen offline encoder on the clean signal,
  relative to their variance;
- the decoder's cross-entropy on the labels, part of the utterances cut at a chunk's end with only the words that had
  ended by then (CarelessWhisper's setting), which also teaches it to stop where the sound stops; once the decoder stays
  as it is (`--decoder-lr 0`), its divergence from what it says of the offline encoder's features takes the place of half of it;
- CTC on pairs of frames, its gradient kept from the encoder: a fresh head's would drown the other two.

The transducer's blank model is trained afterwards, by `train_transducer.py`.

    python -m recipes.causal_whisper.train --checkpoint BASE --tokenizer BASE/tokenizer.json --vocabulary VOCABULARY \
        --features FEATURES/train --labels labels.jsonl --out RUN

The budget is wall-clock time, shared by warm-up and cosine decay; a killed run continues from its last checkpoint.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.causal_whisper.data import FLOOR, RAW_FLOOR, Labels, Merged, batches, collate
from recipes.common import ema
from recipes.common.args import parser, read_config
from recipes.common.checkpoint import (
    optimiser_state,
    restore_optimiser,
    save_json,
    save_tensors,
    select_prefix,
    with_prefix,
)
from recipes.common.logging import Means, report
from recipes.common.schedule import warmup_cosine
from speechstream.convert.whisper import load_whisper
from speechstream.nn.whisper import Whisper

CONFIG = Path(__file__).parent / "config.yaml"
IGNORE = -100  # a token without loss


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


def fitting(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Those of the weights that the network has in the same shape: a head may change, all else must be there."""
    own = network.state_dict()
    if missing := [n for n in own if n not in weights and not n.startswith(("ctc.", "gate."))]:
        raise ValueError(f"the checkpoint lacks {', '.join(missing)}")
    return {n: w for n, w in weights.items() if n in own and own[n].shape == w.shape}


class Run:
    """Everything a checkpoint holds: student, its average, Adam's moments, steps and seconds spent."""

    def __init__(self, checkpoint: str, out: Path, labels: Labels, config: dict):
        self.folder, self.config = out, config
        base = load_whisper(checkpoint, left_context=config["left_context"])
        self.teacher = copy.deepcopy(base.encoder).bfloat16().requires_grad_(False)
        sizes = dataclasses.replace(
            base.config,
            vocab_size=len(labels.ids),
            ctc_vocab_size=labels.small.get_vocab_size(),
            ctc_dim=config["ctc"]["dim"],
            ctc_blocks=config["ctc"]["blocks"],
            alignment_heads=tuple(map(tuple, config["alignment_heads"])),
        )
        self.student = Whisper(sizes)
        weights = base.state_dict()
        embedding = "decoder.token_embedding.weight"
        weights[embedding] = weights[embedding][labels.ids]
        self.student.load_state_dict(weights, strict=False)
        self.student.encoder.requires_grad_(config["lr"] > 0)
        self.student.decoder.requires_grad_(config["decoder_lr"] > 0)
        self.average = ema.start(self.student)
        groups = [
            {"params": list(part.parameters()), "peak": config[rate]}
            for part, rate in zip(self._parts(), ("lr", "decoder_lr", "ctc_lr"))
        ]
        self.optimiser = torch.optim.AdamW(
            groups, lr=0.0, betas=(0.9, 0.98), weight_decay=config["weight_decay"]
        )
        self.step, self.seconds = 0, 0.0
        save_json(dataclasses.asdict(sizes), out / "config.json")
        if (out / "state.json").exists():
            self._resume()

    def _parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.student.encoder, self.student.decoder, self.student.ctc

    def save(self) -> None:
        tensors = with_prefix(self.student.state_dict(), "student.")
        tensors |= with_prefix(self.average.state_dict(), "average.")
        tensors |= with_prefix(optimiser_state(self.optimiser, self.student), "adam.")
        save_tensors(tensors, self.folder / "checkpoint.safetensors")
        save_json({"step": self.step, "seconds": self.seconds}, self.folder / "state.json")

    def _resume(self) -> None:
        tensors = load_file(self.folder / "checkpoint.safetensors")
        for network, prefix in ((self.student, "student."), (self.average, "average.")):
            weights = fitting(select_prefix(tensors, prefix), network)
            network.load_state_dict(weights, strict=False)
        state = json.loads((self.folder / "state.json").read_text())
        self.step, self.seconds = state["step"], state["seconds"]
        moments = select_prefix(tensors, "adam.")
        restore_optimiser(self.optimiser, self.student, moments, self.step)

    def update(self, loss: Tensor) -> float:
        """One step of the optimiser; returns the norm of the encoder's gradient."""
        c = self.config
        progress = self.seconds / (60 * c["minutes"])
        scale = warmup_cosine(self.step, c["warmup"], progress, c["lr_floor"])
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * scale
        loss.backward()
        # each part by itself: their scales differ by decades
        norm, *_ = [
            float(nn.utils.clip_grad_norm_(part.parameters(), c["clip"])) for part in self._parts()
        ]
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(c["ema"], 1 - 1 / (1 + self.step / 5))  # a short memory at first
        ema.update(self.average, self.student, decay)
        return norm


def draw_chunk(config: dict, rng: np.random.Generator) -> int | None:
    """A batch's chunk in encoder frames, or None for the whole utterance."""
    return config["chunks"][rng.choice(len(config["chunks"]), p=config["chunk_probabilities"])]


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
    run: Run, labels: Labels, utterances: Merged, group: list[int], rng: np.random.Generator
) -> tuple[dict[str, Tensor], int | None]:
    """The three losses of one batch and the chunk that was drawn."""
    chunk = draw_chunk(run.config, rng)
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
    if not run.config["lr"]:  # the CTC head alone
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
            if (
                ends and chunk is not None and rng.random() < run.config["cut_probability"]
            ):  # cut at a chunk's end
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
            share = run.config["decoder_share"]
            read = share * read + (1 - share) * read.detach()
            logits = run.student.decoder(tokens[:, :-1], read, mask).float()
        out["decoder"] = F.cross_entropy(
            logits.flatten(0, 1), target_tokens.flatten(), ignore_index=IGNORE
        )
        if not run.config["decoder_lr"]:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                wanted = run.student.decoder(tokens[:, :-1], target[known], mask).float()
            scored = target_tokens != IGNORE
            wanted, said = wanted[scored].log_softmax(-1), logits[scored].log_softmax(-1)
            out["imitation"] = (wanted.exp() * (wanted - said)).sum(-1).mean()
    return out, chunk


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("--checkpoint", required=True, help="offline Whisper")
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--features", type=Path, nargs="+", required=True)
    p.add_argument("--labels", type=Path, help="without: distillation alone")
    p.add_argument("--vocabulary", type=Path, required=True)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--config", type=Path, default=CONFIG)
    for name in ("minutes", "lr", "decoder-lr", "decoder-share"):
        p.add_argument(f"--{name}", type=float, help="instead of the configuration's")
    p.add_argument("--batch-frames", type=int, help="instead of the configuration's")
    args = p.parse_args(arguments)
    names = ("minutes", "lr", "decoder_lr", "decoder_share", "batch_frames")
    config = read_config(args.config, **{name: getattr(args, name) for name in names})
    torch.manual_seed(config["seed"])
    labels = Labels(args.labels, args.vocabulary, args.tokenizer)
    train(Run(args.checkpoint, args.out, labels, config), labels, Merged.of(args.features))


def train(run: Run, labels: Labels, utterances: Merged) -> None:
    """Steps until the budget is spent."""
    config, means, saved = run.config, Means(), time.time()
    rng, budget = np.random.default_rng(run.step), 60 * config["minutes"]
    weights = config["weights"]
    if not config["decoder_lr"]:
        weights = weights | {"decoder": config["frozen_decoder_weight"]}
    frames = [row["frames"] + 60 for row in utterances.rows]
    run.student.train()
    while run.seconds < budget:
        for group in batches(frames, config["batch_frames"], rng):
            began = time.time()
            parts, chunk = losses(run, labels, utterances, group, rng)
            norm = run.update(sum(weights[name] * loss for name, loss in parts.items()))
            took = time.time() - began
            run.seconds += took
            audio = sum(utterances.rows[i]["frames"] for i in group) / 100
            means.add(
                **{name: float(loss.detach()) for name, loss in parts.items()},
                norm=norm,
                audio_s=audio,
                wall_s=took,
            )
            if run.step % config["report_every"] == 0:
                report(step=run.step, minutes=run.seconds / 60, **means.take())
            if time.time() - saved > config["save_seconds"] or run.seconds >= budget:
                run.save()
                saved = time.time()
            if run.seconds >= budget:
                break


if __name__ == "__main__":
    main()
