"""Train the CTC head of a finished bundle on features that `ctc_features.py` has written, and nothing else.

    python -m recipes.causal_whisper.train_ctc BUNDLE --features work/ctc/train --dev work/ctc/dev --out work/ctc/run

The head begins as the bundle's; blocks that it lacks begin as the identity. Of utterances that were encoded with all that follows,
half are heard as the recogniser hears them when it confirms words: 1920 ms at a time with what follows. Time masks on the
features and dropout behind each activation are for training alone. The budget is wall-clock time; a killed run continues
from its last checkpoint. OUT/head.safetensors holds the running average, named as in the network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from recipes.causal_whisper.ctc_features import Store, encoded
from recipes.causal_whisper.data import batches, read_manifest
from recipes.causal_whisper.text import words
from recipes.causal_whisper.train import CONFIG
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
from speechstream import bundle
from speechstream.asr import search
from speechstream.asr.ctc import Greedy
from speechstream.asr.guess import read_pieces
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.whisper import Encoder
from speechstream.nn.whisper_heads import CtcHead, pairs
from tools._scoring import Errors, count_errors, english_normaliser

CONFIRM = 48  # pairs of frames
DEV_EVERY = 3  # of the development recordings one is looked at while training


class Features:
    """What `ctc_features.py` has written so far: rows, and features (frames, dim) of each."""

    def __init__(self, path: Path, dim: int):
        data = path.with_suffix(".bin")
        size = data.stat().st_size // (2 * dim)
        self.data = (
            np.memmap(data, np.float16, "r", shape=(size, dim)) if size else np.zeros((0, dim))
        )
        rows = read_whole_lines(path.with_suffix(".jsonl"))
        self.rows = [r for r in rows if r["start"] + r["frames"] <= len(self.data)]

    def __getitem__(self, i: int) -> Tensor:
        r = self.rows[i]
        return torch.from_numpy(self.data[r["start"] : r["start"] + r["frames"]].astype("f"))


def read_whole_lines(path: Path) -> list[dict]:
    """The rows of a manifest that is still being written."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def grown(weights: dict[str, Tensor], dim: int, pieces: int, config: dict) -> CtcHead:
    """A head of `config`'s size that says what one with these weights says: further blocks add nothing yet."""
    head = CtcHead(dim, config["dim"], pieces, config["blocks"])
    for block in head.blocks:
        nn.init.zeros_(block.mlp[2].weight)
        nn.init.zeros_(block.mlp[2].bias)
    for name in ("out.weight", "out.bias"):  # the first pieces of a BPE are those of a smaller one
        weights[name] = weights[name][:pieces]
    head.load_state_dict(weights, strict=False)
    return head


def add_dropout(head: CtcHead, p: float) -> None:
    for block in head.blocks:
        block.mlp[1].register_forward_hook(
            lambda module, inputs, output: F.dropout(output, p, module.training)
        )


def masked(x: Tensor, lengths: list[int], config: dict, rng: np.random.Generator) -> Tensor:
    """Pairs (B, P, D), some runs of them replaced by the mean."""
    mean = x.mean((0, 1))
    for b, n in enumerate(lengths):
        for _ in range(int(rng.poisson(n * config["masks_per_pair"]))):
            width = int(rng.integers(1, config["mask_pairs"] + 1))
            at = int(rng.integers(0, max(n - width, 1)))
            x[b, at : at + width] = mean
    return x


def windowed(head: CtcHead, x: Tensor, real: Tensor, chunk: int) -> Tensor:
    """Scores (B, P, pieces) of pairs heard `chunk` at a time with as many of those that follow as the head can see."""
    ahead = sum(b.conv.kernel_size[0] // 2 for b in head.blocks)
    count = -(-x.shape[1] // chunk)
    fill = (0, 0, 0, count * chunk + ahead - x.shape[1])
    x, real = (
        F.pad(a, fill).unfold(1, chunk + ahead, chunk).flatten(0, 1).transpose(1, 2)
        for a in (x, real)
    )
    return head(x, real)[:, :chunk].unflatten(0, (-1, count)).flatten(1, 2)


def heard(head: CtcHead, x: Tensor, real: Tensor, chunk: int | None, whole: bool) -> Tensor:
    """Log-probabilities (B, P, pieces); chunk in frames, that the features were encoded in; None: with what follows."""
    if chunk is not None and chunk < 2 * CONFIRM:
        scores = head(x, real, chunk // 2)
    elif whole:
        scores = head(x, real)
    else:
        scores = windowed(head, x, real, CONFIRM)[:, : x.shape[1]]
    return scores.float().log_softmax(-1)


def stacked(features: list[Tensor]) -> tuple[Tensor, Tensor, list[int]]:
    """Pairs (B, P, 2 dim) of some utterances, which of them are real (B, P, 1), and how many."""
    x = nn.utils.rnn.pad_sequence([pairs(f[None])[0] for f in features], batch_first=True)
    lengths = [len(f) // 2 for f in features]
    return (
        x,
        (torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None])[..., None].to(x.dtype),
        lengths,
    )


class Run:
    """Head, average, optimiser, and where the training is."""

    def __init__(self, head: CtcHead, out: Path, config: dict):
        self.head, self.average, self.out, self.config = head, ema.start(head), out, config
        self.optimiser = torch.optim.AdamW(
            head.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step, self.seconds = 0, 0.0
        if (out / "state.json").exists():
            tensors = load_file(out / "checkpoint.safetensors")
            head.load_state_dict(select_prefix(tensors, "head."))
            self.average.load_state_dict(select_prefix(tensors, "average."))
            state = json.loads((out / "state.json").read_text(encoding="utf-8"))
            self.step, self.seconds = state["step"], state["seconds"]
            restore_optimiser(self.optimiser, head, select_prefix(tensors, "adam."), self.step)
        add_dropout(self.head, config["dropout"])

    def save(self) -> None:
        tensors = with_prefix(self.head.state_dict(), "head.")
        tensors |= with_prefix(self.average.state_dict(), "average.")
        tensors |= with_prefix(optimiser_state(self.optimiser, self.head), "adam.")
        save_tensors(tensors, self.out / "checkpoint.safetensors")
        save_tensors(with_prefix(self.average.state_dict(), "ctc."), self.out / "head.safetensors")
        save_json({"step": self.step, "seconds": self.seconds}, self.out / "state.json")

    def update(self, loss: Tensor) -> None:
        c = self.config
        scale = warmup_cosine(self.step, c["warmup"], self.seconds / (60 * c["minutes"]), 0.01)
        for group in self.optimiser.param_groups:
            group["lr"] = c["lr"] * scale
        loss.backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        ema.update(self.average, self.head, min(c["ema"], 1 - 1 / (1 + self.step / 5)))


def batch_loss(
    run: Run, sets: list[Features], where: list[tuple[int, int]], tokenizer: Tokenizer, rng
) -> Tensor:
    rows = [sets[s].rows[i] for s, i in where]
    x, real, lengths = stacked([sets[s][i] for s, i in where])
    x = x + run.config["noise"] * x.std((0, 1)) * torch.randn_like(x)
    x = masked(x, lengths, run.config, rng)
    with torch.autocast("cpu", torch.bfloat16):
        said = heard(run.head, x, real, rows[0]["chunk"], rng.random() < 0.5)
    pieces = [tokenizer.encode(" ".join(words(r["text"]))).ids for r in rows]
    return F.ctc_loss(
        said.transpose(0, 1),
        torch.tensor([i for p in pieces for i in p]),
        torch.tensor(lengths),
        torch.tensor([len(p) for p in pieces]),
        zero_infinity=True,
    )


def grouped(
    sets: list[Features], budget: int, rng: np.random.Generator
) -> list[list[tuple[int, int]]]:
    """Batches (set, row) of utterances encoded in chunks of one length, in random order."""
    kinds: dict[int | None, list[tuple[int, int]]] = {}
    for s, features in enumerate(sets):
        for i, row in enumerate(features.rows):
            kinds.setdefault(row["chunk"], []).append((s, i))
    groups = [
        [kind[g] for g in group]
        for kind in kinds.values()
        for group in batches([sets[s].rows[i]["frames"] for s, i in kind], budget, rng)
    ]
    return [groups[g] for g in rng.permutation(len(groups))]


def usable(features: Features, least: float) -> Features:
    """Only rows with words; of what was transcribed, only what is confident and not out of proportion."""
    features.rows = [
        r
        for r in features.rows
        if words(r["text"] or "")
        and r.get("confidence", 0.0) >= least
        and len(words(r["text"])) < r["frames"] / 8
    ]
    return features


@torch.no_grad()
def error_rates(head: CtcHead, dev: Features, pieces: list[str]) -> dict[str, float]:
    """Words wrong in percent by set, greedily, as they are confirmed."""
    normalise, errors = english_normaliser(), {}
    training, head = head.training, head.eval()
    for i, row in enumerate(dev.rows):
        x, real, _ = stacked([dev[i]])
        with torch.autocast("cpu", torch.bfloat16):
            said = heard(head, x, real, row["chunk"], False)
        tokens = Greedy()(said.numpy())[0]
        text = " ".join(w.text for w in search.words(tokens, pieces, 0.04))
        name = row["source"].split("_")[0]
        errors[name] = errors.get(name, Errors()) + count_errors(
            normalise(row["text"]).split(), normalise(text).split()
        )
    head.train(training)
    return {name: round(100 * e.wer, 2) for name, e in sorted(errors.items())}


@dataclass
class Speech:
    """Where features are, of a width; who writes more of them, a batch when asked; what errors are counted on."""

    paths: list[Path]
    dim: int
    new: Iterator[float] | None
    dev: Features | None


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("bundle", type=Path)
    p.add_argument("--features", type=Path, nargs="+", required=True)
    p.add_argument("--dev", type=Path, help="report the words wrong of these now and then")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--pieces", type=Path, help="ctc.json of other pieces than the bundle's")
    p.add_argument("--head", type=Path, help="begin with this head instead of the bundle's")
    p.add_argument(
        "--audio", type=Path, help="a manifest, encoded into the first of --features meanwhile"
    )
    p.add_argument("--minutes", type=float)
    p.add_argument("--config", type=Path, default=CONFIG)
    args = p.parse_args(arguments)
    config = read_config(args.config)["ctc"]
    config |= {"minutes": args.minutes} if args.minutes else {}
    b = bundle.load(args.bundle)
    table = args.pieces or b.file("ctc.json")
    tokenizer, pieces = Tokenizer.from_file(str(table)), read_pieces(table)
    torch.manual_seed(config["seed"])
    model = read_whisper(b).requires_grad_(False)
    weights = select_prefix(load_file(args.head), "ctc.") if args.head else model.ctc.state_dict()
    head = grown(weights, model.config.dim, len(pieces), config)
    run = Run(head.train(), args.out, config)
    dim = model.config.dim
    dev = Features(args.dev, dim) if args.dev else None
    if dev:
        dev.rows = dev.rows[::DEV_EVERY]
    new = None
    if args.audio:
        new = encoding(model.encoder, args.audio, args.features[0], dim, config["seed"] + run.step)
    train(run, Speech(args.features, dim, new, dev), tokenizer, pieces)


def encoding(encoder: Encoder, manifest: Path, out: Path, dim: int, seed: int) -> Iterator[float]:
    """Encode what `out` lacks of a manifest, then all of it again and again in other tempi; yields seconds of audio."""
    rng, store = np.random.default_rng(seed), Store(out)
    known = {r["audio"] for r in Features(out, dim).rows}
    rows = [r for r in read_manifest(manifest) if r["duration_s"] < 30]
    left, perturb = [r for r in rows if r["audio"] not in known], False
    while True:
        for found, x, lengths, chunk in encoded(encoder, left, manifest.parent, perturb, None, rng):
            store.add(found, x, lengths, chunk)
            yield sum(r["duration_s"] for r in found)
        left, perturb = rows, True


def train(run: Run, speech: Speech, tokenizer: Tokenizer, pieces: list[str]) -> None:
    """Steps until the budget is spent."""
    config, means = run.config, Means()
    while run.seconds < 60 * config["minutes"]:
        rng = np.random.default_rng(run.step)
        sets = [usable(Features(f, speech.dim), config["least_confidence"]) for f in speech.paths]
        hours = sum(r["frames"] for s in sets for r in s.rows) / 180_000
        report(step=run.step, utterances=sum(len(s.rows) for s in sets), hours=hours)
        more = speech.new if hours < config["hours"] else None
        for where in grouped(sets, config["batch_frames"], rng)[: config["regroup_every"]]:
            began = time.time()
            if more is not None and rng.random() < config["encode"]:
                means.add(encoded_s=next(more))
            loss = batch_loss(run, sets, where, tokenizer, rng)
            run.update(loss)
            run.seconds += time.time() - began
            means.add(loss=float(loss.detach()), seconds=time.time() - began)
            if run.step % config["report_every"] == 0:
                report(step=run.step, minutes=run.seconds / 60, **means.take())
            if run.step % config["save_every"] == 0 or run.seconds >= 60 * config["minutes"]:
                run.save()
                if speech.dev:
                    report(step=run.step, **error_rates(run.average, speech.dev, pieces))
            if run.seconds >= 60 * config["minutes"]:
                break


if __name__ == "__main__":
    main()
