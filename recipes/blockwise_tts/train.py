"""Train the acoustic model and the depth-wise decoder: python -m recipes.blockwise_tts.train DATA OUT [--config config.yaml] [--minutes M].

DATA is what pack.py wrote. One pass predicts durations, pitch and energy of every symbol, and the codes of every frame
from the true ones of them (FastSpeech 2's training). The budget is wall-clock time over all starts, shared by warm-up
and cosine decay; starting again with the same OUT goes on where it stopped. OUT/model holds the averaged weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.common import ema
from recipes.common.checkpoint import (
    optimiser_state,
    restore_optimiser,
    save_json,
    save_tensors,
    select_prefix,
    with_prefix,
)
from recipes.common.schedule import warmup_cosine
from recipes.common.seeding import seed_step, step_rng
from speechstream.nn.acoustic import AcousticConfig, AcousticModel
from speechstream.text.en.phonemes import SYMBOLS
from speechstream.tts.blockwise.acoustic import regulate

HERE = Path(__file__).parent
CLIP = 1.0  # norm of the gradient
ABSENT = -100  # a code past a stretch's end


@dataclass(frozen=True)
class Batch:
    """C clauses of N symbols at most, and B stretches of T frames at most."""

    ids: Tensor  # (C, N)
    speaker: Tensor  # (C,)
    lengths: Tensor  # (C,) symbols
    prosody: Tensor  # (C, N, 3): log sub-frames, pitch, energy
    gather: Tensor  # (B, T * subframes): row of the flattened (C, N) that each sub-frame belongs to
    scalars: Tensor  # (B, T * subframes, 4)
    codes: Tensor  # (B, levels, T), ABSENT past the end

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, n).to(device) for n in self.__dataclass_fields__))


class Clauses:
    """What pack.py wrote, and stretches of consecutive clauses of one speaker from it."""

    def __init__(
        self, folder: Path, segment_s: float, shares: str | dict[str, float] | None = None
    ) -> None:
        """shares: of the stretches that the speakers begin, see speaker_shares; None: as there is of each."""
        self.index = json.loads((folder / "index.json").read_text())
        arrays = load_file(folder / "data.safetensors")
        self.arrays = {k: v.numpy() for k, v in arrays.items()}
        self.codebooks = arrays["codebooks"]
        self.rows = self.index["rows"]
        self.symbols = np.cumsum([0] + [r["symbols"] for r in self.rows])
        self.frames = np.cumsum([0] + [r["frames"] for r in self.rows])
        self.segment = segment_s / self.index["frame_s"]
        self.split = {
            held: [i for i, r in enumerate(self.rows) if r["held"] == held]
            for held in (False, True)
        }
        speakers = np.array([self.rows[i]["speaker"] for i in self.split[False]])
        self.shares = None
        if shares is not None:
            wanted = speaker_shares(shares, [s["name"] for s in self.index["speakers"]])
            each = wanted[speakers] / np.bincount(speakers)[speakers]
            self.shares = each / each.sum()

    def stretch(self, row: int) -> list[int]:
        """The clauses from `row` on that fill a segment; at a track's end fewer."""
        rows, first, count = [], self.rows[row], 0
        while (
            row < len(self.rows)
            and count < self.segment
            and (self.rows[row]["held"], self.rows[row]["speaker"])
            == (first["held"], first["speaker"])
        ):
            count += self.rows[row]["frames"]
            rows.append(row)
            row += 1
        return rows

    def random(self, step: int, size: int, seed: int) -> Batch:
        """The training batch of a step: it depends on the seed and the step alone."""
        rng = step_rng(seed, step)
        rows = self.split[False]
        return self.batch([self.stretch(int(i)) for i in rng.choice(rows, size, p=self.shares)])

    def batch(self, stretches: list[list[int]]) -> Batch:
        """Collate stretches of clauses."""
        a, subframes = self.arrays, self.index["subframes"]
        flat = [i for rows in stretches for i in rows]
        width = max(self.rows[i]["symbols"] for i in flat)
        longest = max(sum(self.rows[i]["frames"] for i in rows) for rows in stretches)
        ids, prosody = (
            np.zeros((len(flat), width), np.int64),
            np.zeros((len(flat), width, 3), np.float32),
        )
        gather = np.zeros((len(stretches), longest * subframes), np.int64)
        scalars = np.zeros((len(stretches), longest * subframes, 4), np.float32)
        codes = np.full((len(stretches), a["codes"].shape[0], longest), ABSENT, np.int64)
        c = 0
        for b, rows in enumerate(stretches):
            at = 0
            for i in rows:
                part = slice(self.symbols[i], self.symbols[i + 1])
                counts, n = a["counts"][part].astype(np.int64), self.rows[i]["symbols"]
                ids[c, :n] = a["ids"][part]
                durations = (
                    a["durations"][part] if "durations" in a else np.log(np.maximum(counts, 0.5))
                )
                prosody[c, :n] = np.stack([durations, a["pitch"][part], a["energy"][part]], 1)
                index, values = regulate(counts, a["pitch"][part], a["energy"][part])
                gather[b, at : at + len(index)] = c * width + index
                scalars[b, at : at + len(index)] = values
                codes[b, :, at // subframes : at // subframes + self.rows[i]["frames"]] = a[
                    "codes"
                ][:, self.frames[i] : self.frames[i + 1]]
                at, c = at + len(index), c + 1
        speaker = np.array([self.rows[i]["speaker"] for i in flat])
        lengths = np.array([self.rows[i]["symbols"] for i in flat])
        return Batch(
            *map(torch.from_numpy, (ids, speaker, lengths, prosody, gather, scalars, codes))
        )


def speaker_shares(given: str | dict[str, float], names: list[str]) -> np.ndarray:
    """The share of each speaker: "even", or those of some by their names, and the others have the rest evenly.

    Raises ValueError for what are no shares of these speakers.
    """
    some = {} if given == "even" else given
    if isinstance(some, str) or not set(some) <= set(names):
        raise ValueError(f"{given!r} are no shares of the speakers {', '.join(names)}")
    rest, others = 1 - sum(some.values()), len(names) - len(some)
    if min([*some.values(), rest + 1e-9]) < 0 or (rest > 1e-9 and not others):
        raise ValueError(f"{given!r}: shares are 0 or more, and their sum is 1")
    return np.array([some.get(n, max(rest, 0) / max(others, 1)) for n in names])


def losses(
    model: AcousticModel, batch: Batch, codebooks: Tensor, share: float = 1.0
) -> dict[str, Tensor]:
    """All losses of a batch, and the share of right codes at the first and at all levels. `share`: of the frames, at
    random, that the depth-wise decoder is shown."""
    encodings, predicted = model.text(batch.ids, batch.speaker, batch.lengths)
    present = torch.arange(batch.ids.shape[1], device=batch.ids.device) < batch.lengths.unsqueeze(1)
    errors = (predicted.float() - batch.prosody).square()[present].mean(0)
    rows = encodings.flatten(0, 1)[batch.gather]
    frames = torch.cat([rows, batch.scalars.to(rows.dtype)], -1).unflatten(
        1, (-1, model.config.subframes)
    )
    hidden = model.hidden(frames)
    there = torch.nonzero(batch.codes[:, 0].flatten() >= 0)[:, 0]
    if share < 1:
        there = there[
            torch.randperm(len(there), device=there.device)[: max(round(share * len(there)), 1)]
        ]
    hidden = hidden.flatten(0, 1)[there].unsqueeze(0)  # (1, M, dim)
    codes = batch.codes.transpose(0, 1).flatten(1)[:, there].unsqueeze(0)  # (1, levels, M)
    logits = model.depth(hidden, codes)
    entropy = F.cross_entropy(logits.float().flatten(0, 2), codes.flatten())
    vectors = torch.stack(
        [F.embedding(codes[:, k], codebooks[k]) for k in range(codes.shape[1])], 2
    )
    targets = torch.stack([p.sum(2) for p in vectors.split(list(model.config.groups), 2)], 2)
    difference = (
        (model.depth.latent(hidden).float().unflatten(-1, targets.shape[2:]) - targets)
        .square()
        .mean()
    )
    right = (logits.argmax(-1) == codes).float()
    return {
        "codes": entropy,
        "latent": difference / targets.var().clamp(min=1e-6),
        "duration": errors[0],
        "pitch": errors[1],
        "energy": errors[2],
        "first_level": right[:, 0].mean(),
        "all_levels": right.mean(),
    }


class Run:
    """Everything a checkpoint holds: the model, its average, Adam's moments, steps and seconds spent."""

    def __init__(self, config: dict, data: Clauses, out: Path) -> None:
        self.config, self.data, self.out = config, data, out
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(config["seed"])
        i = data.index
        sizes = {
            "symbols": len(SYMBOLS),
            "speakers": len(i["speakers"]),
            "subframes": i["subframes"],
            "groups": (i["levels"],),
            "codebook_size": i["bins"],
            "code_dim": i["code_dim"],
        }
        self.model = AcousticModel(AcousticConfig.from_dict({**sizes, **config["model"]}))
        self.model.depth.set_codebooks(data.codebooks)
        self.model.to(self.device)
        self.codebooks = data.codebooks.to(self.device)
        self.average = ema.start(self.model).eval()
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.step, self.seconds = 0, 0.0
        if (out / "state.json").exists():
            self._resume()

    def train_step(self) -> dict[str, float]:
        """One step; returns the losses."""
        c = self.config
        progress = self.seconds / (60 * c["minutes"])
        rate = c["rate"] * warmup_cosine(self.step, c["warmup"], progress, 0.02)
        self.optimiser.param_groups[0]["lr"] = rate
        seed_step(c["seed"], self.step)
        self.model.train()
        with self._autocast():
            batch = self.data.random(self.step, c["batch"], c["seed"]).to(self.device)
            parts = losses(self.model, batch, self.codebooks, c["depth_share"])
        total = sum(
            c[name] * parts[name] for name in ("codes", "latent", "duration", "pitch", "energy")
        )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.step += 1
        keep = min(c["average"], self.step / (self.step + 10))
        ema.update(self.average, self.model, keep)
        return {"rate": rate, **{k: float(v.detach()) for k, v in parts.items()}}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses of the averaged weights on all held-out clauses, each by itself."""
        rows = self.data.split[True]
        if not rows:
            return {}
        batches = [
            self.data.batch([[i] for i in rows[k : k + 8]]).to(self.device)
            for k in range(0, len(rows), 8)
        ]
        parts = [losses(self.average, b, self.codebooks) for b in batches]
        return {k: sum(float(p[k]) for p in parts) / len(parts) for k in parts[0]}

    def _autocast(self):
        return (
            torch.autocast(self.device, torch.bfloat16)
            if self.config["autocast"]
            else nullcontext()
        )

    def save(self) -> None:
        """Write everything; a broken-off save leaves the one before."""
        self.out.mkdir(parents=True, exist_ok=True)
        tensors = with_prefix(self.model.state_dict(), "model.")
        tensors |= with_prefix(self.average.state_dict(), "average.")
        tensors |= optimiser_state(self.optimiser, self.model)
        save_tensors(tensors, self.out / f"training-{self.step}.safetensors")
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "file": f"training-{self.step}.safetensors",
        }
        save_json(state, self.out / "state.json")
        for old in self.out.glob("training-*.safetensors"):
            if old.name != state["file"]:
                old.unlink()
        folder = self.out / "model"
        folder.mkdir(exist_ok=True)
        save_tensors(self.average.state_dict(), folder / "model.safetensors")
        about = {
            "config": self.model.config.to_dict(),
            "speakers": self.data.index["speakers"],
            "step": self.step,
            "minutes": round(self.seconds / 60, 1),
        }
        save_json(about, folder / "config.json", indent=1)

    def _resume(self) -> None:
        state = json.loads((self.out / "state.json").read_text())
        tensors = load_file(self.out / state["file"], device=self.device)
        for prefix, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict(select_prefix(tensors, prefix))
        restore_optimiser(self.optimiser, self.model, tensors, state["step"])
        self.step, self.seconds = state["step"], state["seconds"]


def begin_with(folder: Path, run: Run) -> None:
    """Take over trained weights. Speakers that these have not begin as the one whose pitch is nearest to theirs.

    Raises ValueError where the data's first speakers are not those of the weights.
    """
    old = json.loads((folder / "config.json").read_text())["speakers"]
    new = run.data.index["speakers"]
    if [s["name"] for s in new[: len(old)]] != [s["name"] for s in old]:
        raise ValueError(
            f"the model speaks as {', '.join(s['name'] for s in old)}; the data must have them first, in this order"
        )
    weights = load_file(folder / "model.safetensors", device=run.device)
    near = [
        min(range(len(old)), key=lambda k: abs(math.log(old[k]["pitch_hz"] / s["pitch_hz"])))
        for s in new
    ]
    weights["speaker.weight"] = weights["speaker.weight"][near]
    for network in (run.model, run.average):
        network.load_state_dict(weights)


def main(arguments: list[str] | None = None) -> Run:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="what pack.py wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument(
        "--minutes",
        type=float,
        default=None,
        help="the whole budget, instead of the configuration's",
    )
    parser.add_argument(
        "--model", type=Path, default=None, help="begin with the weights of this folder"
    )
    parser.add_argument("--steps", type=int, default=None, help="stop at this step")
    args = parser.parse_args(arguments)
    config = yaml.safe_load(args.config.read_text())
    config["minutes"] = args.minutes or config["minutes"]
    run = Run(config, Clauses(args.data, config["segment_s"], config["speaker_shares"]), args.out)
    if args.model and not run.step:
        begin_with(args.model, run)
    print(
        json.dumps(
            {
                "parameters": sum(p.numel() for p in run.model.parameters()),
                "step": run.step,
                "minutes": round(run.seconds / 60, 1),
            }
        ),
        flush=True,
    )
    last = time.monotonic()
    saved = reported = run.seconds
    while run.seconds < 60 * config["minutes"] and (args.steps is None or run.step < args.steps):
        report = run.train_step()
        now = time.monotonic()
        run.seconds, last = run.seconds + now - last, now
        if run.seconds - reported > 30 or run.step == 1:
            reported = run.seconds
            print(
                json.dumps(
                    {
                        "step": run.step,
                        "minutes": round(run.seconds / 60, 2),
                        **{k: round(v, 5) for k, v in report.items()},
                    }
                ),
                flush=True,
            )
        if run.seconds - saved > 60 * config["save_minutes"]:
            saved = run.seconds
            run.save()
            print(
                json.dumps(
                    {"step": run.step, "held": {k: round(v, 4) for k, v in run.validate().items()}}
                ),
                flush=True,
            )
    run.save()
    print(
        json.dumps({"step": run.step, "held": {k: round(v, 4) for k, v in run.validate().items()}}),
        flush=True,
    )
    return run


if __name__ == "__main__":
    main()
