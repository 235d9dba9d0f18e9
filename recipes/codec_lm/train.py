"""Train the codec language model: python -m recipes.codec_lm.train DATA OUT [--config config.yaml] [--minutes M].

DATA is what prepare.py wrote. At each frame the model is given the phonemes of its sub-frames and the true codes of
the frame before, with noise, and predicts the frame's codes, what its teacher gave its own depth-wise decoder for them
(features to imitate, as in FitNets, arXiv:1412.6550), and when the next phonemes end. The depth-wise decoder begins
with the teacher's weights. The budget is wall-clock time over all starts, shared by warm-up and cosine decay; starting
again with the same OUT goes on where it stopped. OUT/model holds the averaged weights.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.codec_lm.data import Batch, Streams
from recipes.common import ema
from recipes.common.args import read_config
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
from recipes.common.seeding import seed_step
from speechstream.nn.codec_lm import CodecLm
from speechstream.nn.codec_lm_config import CodecLmConfig

HERE = Path(__file__).parent
CLIP = 1.0  # norm of the gradient
AVERAGE_EVERY = 4  # steps
VALIDATION = 24  # windows


def losses(
    model: CodecLm, batch: Batch, share: float = 1.0, noise: float = 0.0, drop: float = 0.0
) -> dict[str, Tensor]:
    """All losses of a batch, and shares of right codes. `share`: of the frames, at random, that the depth-wise decoder
    is shown. `noise`: of the history at most, in units of its spread; each window has its own strength. `drop`: of the
    frames before, how many are not given."""
    latents = model.latent(batch.before.clamp(min=0)) / model.spread
    known = (batch.before[:, 0] >= 0) & (torch.rand(latents.shape[:2]) >= drop)
    latents = latents + noise * torch.rand(len(latents), 1, 1) * torch.randn_like(latents)
    hidden = model.hidden(batch.text, batch.elapsed, latents, known).flatten(0, 1)
    logits = model.pace(hidden[batch.at], batch.rows, batch.lasted)
    pace = F.binary_cross_entropy_with_logits(logits.float(), batch.ends)
    given = model.to_depth(hidden)
    difference = (given.float() - batch.hidden.flatten(0, 1)).square().mean()
    codes = batch.codes.transpose(0, 1).flatten(1)
    if share < 1:
        there = torch.randperm(len(given))[: max(round(share * len(given)), 1)]
        given, codes = given[there], codes[:, there]
    logits, codes = model.depth(given.unsqueeze(0), codes.unsqueeze(0)), codes.unsqueeze(0)
    entropy = F.cross_entropy(logits.float().flatten(0, 2), codes.flatten(), reduction="none")
    right = (logits.argmax(-1) == codes).float()
    return {
        "codes": entropy.mean(),
        "hidden": difference / batch.hidden.var(),
        "pace": pace,
        "first_loss": entropy.unflatten(0, codes.shape)[:, 0].mean(),
        "first_level": right[:, 0].mean(),
        "all_levels": right.mean(),
    }


class Run:
    """Everything a checkpoint holds: the model, its average, Adam's moments, steps and seconds spent."""

    def __init__(self, config: dict, data: Streams, out: Path) -> None:
        self.config, self.data, self.out = config, data, out
        torch.manual_seed(config["seed"])
        t = data.teacher
        sizes = {
            "row_dim": data.rows.shape[1],
            "subframes": t["subframes"],
            "levels": sum(t["groups"]),
            "codebook_size": t["codebook_size"],
            "code_dim": t["code_dim"],
            "depth_input": t["decoder_dim"],
            "depth_dim": t["depth_dim"],
            "depth_blocks": t["depth_blocks"],
        }
        self.model = CodecLm(CodecLmConfig.from_dict({**sizes, **config["model"]}))
        self.model.take_depth({n: torch.from_numpy(a) for n, a in data.depth.items()})
        self.average = ema.start(self.model).eval()
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True
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
        batch = self.data.random(self.step, c["batch"], c["frames"], c["seed"])
        with torch.autocast("cpu", torch.bfloat16) if c["autocast"] else nullcontext():
            parts = losses(
                self.model, batch, c["depth_share"], c["history_noise"], c["history_drop"]
            )
        total = sum(c[name] * parts[name] for name in ("codes", "hidden", "pace"))
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimiser.step()
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            keep = min(c["average"], self.step / (self.step + 10)) ** AVERAGE_EVERY
            ema.update(self.average, self.model, keep)
        return {
            "rate": rate,
            "norm": float(norm),
            **{k: float(v.detach()) for k, v in parts.items()},
        }

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Losses of the averaged weights on windows of held-out streams."""
        starts = self.data.starts(True, VALIDATION, self.config["frames"], np.random.default_rng(0))
        return {
            k: float(v)
            for k, v in losses(self.average, self.data.batch(starts, self.config["frames"])).items()
        }

    def save(self) -> None:
        """Write everything; a broken-off save leaves the one before."""
        self.out.mkdir(parents=True, exist_ok=True)
        tensors = with_prefix(self.model.state_dict(), "model.")
        tensors |= with_prefix(self.average.state_dict(), "average.")
        tensors |= optimiser_state(self.optimiser, self.model)
        file = f"training-{self.step}.safetensors"
        save_tensors(tensors, self.out / file)
        state = {"step": self.step, "seconds": self.seconds, "file": file}
        save_json(state, self.out / "state.json")
        for old in self.out.glob("training-*.safetensors"):
            if old.name != file:
                old.unlink()
        save_tensors(self.average.state_dict(), self.out / "model" / "model.safetensors")
        about = {
            "config": self.model.config.to_dict(),
            "step": self.step,
            "minutes": round(self.seconds / 60, 1),
        }
        save_json(about, self.out / "model" / "config.json", indent=1)

    def _resume(self) -> None:
        state = json.loads((self.out / "state.json").read_text())
        tensors = load_file(self.out / state["file"])
        for prefix, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict(select_prefix(tensors, prefix))
        restore_optimiser(self.optimiser, self.model, tensors, state["step"])
        self.step, self.seconds = state["step"], state["seconds"]


def main(arguments: list[str] | None = None) -> Run:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="what prepare.py wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument("--minutes", type=float, default=None, help="the whole budget")
    parser.add_argument("--steps", type=int, default=None, help="stop at this step")
    args = parser.parse_args(arguments)
    config = read_config(args.config, minutes=args.minutes)
    data = Streams(args.data)
    run = Run(config, data, args.out)
    hours = len(data.codes[0]) / data.frame_rate / 3600
    parameters = sum(p.numel() for p in run.model.parameters())
    report(parameters=parameters, hours=hours, step=run.step, minutes=run.seconds / 60)
    last, means = time.monotonic(), Means()
    saved = reported = run.seconds
    while run.seconds < 60 * config["minutes"] and (args.steps is None or run.step < args.steps):
        means.add(**run.train_step())
        now = time.monotonic()
        run.seconds, last = run.seconds + now - last, now
        if run.seconds - reported > 30 or run.step == 1:
            reported = run.seconds
            report(step=run.step, minutes=run.seconds / 60, **means.take())
        if run.seconds - saved > 60 * config["save_minutes"]:
            saved = run.seconds
            run.save()
            report(step=run.step, held=run.validate())
    run.save()
    report(step=run.step, held=run.validate())
    return run


if __name__ == "__main__":
    main()
