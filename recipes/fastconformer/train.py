"""Train a FastConformer with CTC and a transducer: one look-ahead drawn for each batch, the same on all processes.

    torchrun --nproc-per-node 8 -m recipes.fastconformer.train large.yaml DATA/train.jsonl.gz DATA/train.model RUN
    python -m recipes.fastconformer.train small.yaml DATA/train.jsonl.gz DATA/train.model RUN          # one process

Start it again with the same RUN to go on from its last checkpoint. RUN/bundle holds the averaged (EMA) network.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.distributed as dist
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recipes.common import ema
from recipes.common.checkpoint import save_torch
from recipes.common.schedule import warmup_cosine
from recipes.fastconformer.data import PHONES, SLOTS, augment, loader
from recipes.fastconformer.prepare import LOG_MEL
from speechstream.audio.nemo_mel import NemoMelConfig
from speechstream.config import read
from speechstream.export.fastconformer import write_fastconformer
from speechstream.nn.checkpoints import Checkpoint
from speechstream.nn.conformer import ConformerConfig
from speechstream.nn.fastconformer import FastConformer, FastConformerConfig
from speechstream.nn.transducer import JoinerConfig, PredictorConfig, transducer_loss


def network(c: dict) -> FastConformerConfig:
    encoder = read(ConformerConfig, c["encoder"], "encoder")
    predictor = read(
        PredictorConfig, {"vocab_size": c["vocab_size"], **c["predictor"]}, "predictor"
    )
    return FastConformerConfig(
        encoder,
        c["vocab_size"],
        True,
        predictor,
        JoinerConfig(
            c["vocab_size"],
            encoder.dim,
            predictor.dim,
            c["joiner_dim"],
            durations=tuple(c["durations"]),
        ),
    )


@torch.no_grad()
def initialise(model: FastConformer, x: Tensor) -> None:
    """Scale the subsampling so that on features x (B, T, mels) each of its layers gives mean 0 and deviation 1.

    Mishkin and Matas 2016, All You Need Is a Good Init. With torch's own initialisation one part in a hundred of what
    the first block receives is signal, the rest a constant, and training stands still for hundreds of steps.
    """

    def normalise(layer: nn.Module, _, out: Tensor) -> Tensor:
        shape = (1, -1, 1, 1) if out.ndim == 4 else (-1,)
        others = [d for d in range(out.ndim) if d != (1 if out.ndim == 4 else 2)]
        std, mean = torch.std_mean(out, others)
        std = std.clamp(min=1e-3)
        layer.weight /= std.view(-1, *[1] * (layer.weight.ndim - 1))
        layer.bias.copy_((layer.bias - mean) / std)
        return (out - mean.view(shape)) / std.view(shape)

    s = model.encoder.subsampling
    hooks = [
        layer.register_forward_hook(normalise) for layer in (*s.depthwise, *s.pointwise, s.out)
    ]
    model.encoder(x)
    for hook in hooks:
        hook.remove()


def path_loss(model: FastConformer, y: Tensor, predicted: Tensor, path: Tensor) -> Tensor:
    """Negative log likelihood of one path through the transducer's lattice, summed over the batch.

    A frame gives its token, if it has one, and then blank: T + U scores, where the sum over all paths needs T * U.
    """
    blank, joiner = model.config.vocab_size, model.joiner
    emits = (path >= 0) & (path != blank)
    before = emits.cumsum(1) - emits.long()  # tokens emitted before each frame
    encoded, predicted = joiner.project_encoder(y), joiner.project_predictor(predicted)
    row = torch.arange(len(path), device=path.device)[:, None].expand_as(path)

    def scores(at: Tensor, tokens: Tensor) -> Tensor:
        return joiner.combine(encoded[at], predicted[row[at], tokens[at]]).float()

    known = path >= 0
    return F.cross_entropy(scores(known, before), path[known], reduction="sum") + F.cross_entropy(
        scores(emits, before + 1), torch.full_like(path, blank)[emits], reduction="sum"
    )


class Losses(nn.Module):
    """Network and losses in one forward, which DistributedDataParallel needs.

    The phones of the alignment, and what the teacher has made of the sound, are asked of the encoder's middle layer by
    heads of their own, which are thrown away.
    """

    def __init__(self, model: FastConformer, c: dict):
        super().__init__()
        self.model, self.ctc_weight = model, c["ctc_weight"]
        self.phone_weight, self.teacher_weight = c["phone_weight"], c["teacher_weight"]
        dim = model.config.encoder.dim
        self.phones = nn.Linear(dim, SLOTS * len(PHONES)) if self.phone_weight else None
        self.teacher = nn.Linear(dim, SLOTS * c["teacher_dims"]) if self.teacher_weight else None
        self.middle = len(model.encoder.layers) // 2

    def forward(
        self,
        x: Tensor,
        frames: Tensor,
        targets: Tensor,
        tokens: Tensor,
        path: Tensor,
        phones: Tensor,
        teacher: Tensor,
        lookahead: int,
        aligned: bool,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the batch, and its parts: those of the heads a token.

        aligned: the heads follow `path` in the utterances that have one; the others are for CTC alone.
        """
        m, heard = self.model, []
        hook = m.encoder.layers[self.middle].register_forward_hook(
            lambda _, __, out: heard.append(out[0])
        )
        y, lengths = m.encoder(x, frames, lookahead), m.encoder.output_lengths(frames)
        hook.remove()
        scores, predicted = m.ctc(y).float().log_softmax(-1), m.predictor(targets)
        free = (path < 0).all(1) if aligned else torch.ones_like(tokens, dtype=torch.bool)
        ctc = scores.new_zeros(())
        if free.any():
            ctc = F.ctc_loss(
                scores[free].transpose(0, 1),
                targets[free],
                lengths[free],
                tokens[free],
                blank=m.config.vocab_size,
                reduction="sum",
                zero_infinity=True,
            )
        if aligned:
            ctc = ctc + F.nll_loss(scores.transpose(1, 2), path, ignore_index=-1, reduction="sum")
            transducer = path_loss(m, y, predicted, path) / tokens[~free].sum().clamp(min=1)
        else:
            transducer = (
                transducer_loss(m.joiner, y, predicted, targets, lengths, tokens).sum()
                / tokens.sum()
            )
        parts = {"ctc": ctc / tokens.sum(), "transducer": transducer}
        loss = self.ctc_weight * parts["ctc"] + (1 - self.ctc_weight) * transducer
        if self.phones is not None:
            said = self.phones(heard[0]).float().unflatten(-1, (SLOTS, len(PHONES))).flatten(0, 2)
            phone = F.cross_entropy(said, phones.flatten(), ignore_index=-1, reduction="sum")
            parts["phone"] = phone / (phones >= 0).sum().clamp(min=1)
            loss = loss + self.phone_weight * parts["phone"]
        if self.teacher is not None:
            known = teacher.isfinite()
            error = (
                self.teacher(heard[0]).float().view(teacher.shape) - teacher.nan_to_num()
            ).square() * known
            parts["teacher"] = error.sum() / known.sum().clamp(
                min=1
            )  # 1 is what the mean of all speech would give
            loss = loss + self.teacher_weight * parts["teacher"]
        return loss, parts


def rate(step: int, c: dict) -> float:
    """Linear warm-up, then a cosine to zero."""
    progress = (step - c["warmup"]) / max(1, c["steps"] - c["warmup"])
    return c["rate"] * warmup_cosine(step, c["warmup"], progress)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("config", "manifest", "tokenizer", "run"):
        parser.add_argument(name, type=Path)
    parser.add_argument(
        "--steps", type=int, help="stop after this many, whatever the configuration plans"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that read audio")
    a = parser.parse_args()
    c = yaml.safe_load(a.config.read_text())
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    gpu = torch.cuda.is_available()
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpu else torch.device("cpu")
    )
    if world > 1:
        dist.init_process_group("nccl" if gpu else "gloo")
    a.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(c["seed"])
    model = FastConformer(network(c)).to(device).train()
    step, epoch, skip, checkpoint = (
        0,
        0,
        0,
        a.run / "last.pt",
    )  # skip: batches of this epoch already drawn
    if not checkpoint.exists():
        first = next(
            (b for b in loader(str(a.manifest), str(a.tokenizer), c, 0, 0, rank, world, 0) if b),
            None,
        )
        if first:
            initialise(model, first["x"][:, : first["frames"].min()].to(device))
    averaged = ema.start(model)  # in training mode: eval() would fold tables it must not
    losses = Losses(model, c).to(device)
    wrapped = DistributedDataParallel(losses) if world > 1 else losses
    optimiser = torch.optim.AdamW(
        losses.parameters(), c["rate"], betas=(0.9, 0.98), weight_decay=c["weight_decay"]
    )
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        losses.load_state_dict(saved["losses"]), averaged.load_state_dict(saved["ema"])
        optimiser.load_state_dict(saved["optimiser"])
        step, epoch, skip = saved["step"], saved["epoch"], saved["skip"]
    last, seconds, started = min(a.steps or c["steps"], c["steps"]), 0.0, time.monotonic()
    while step < last:
        fresh = step if skip == 0 else -1
        for batch in loader(
            str(a.manifest), str(a.tokenizer), c, epoch, skip, rank, world, a.workers
        ):
            skip += 1
            usable = torch.tensor(int(bool(batch)), device=device)
            if world > 1:
                dist.all_reduce(usable, dist.ReduceOp.MIN)
            if not usable:
                continue
            draw = np.random.default_rng([c["seed"], step])  # the same on all processes
            lookahead = int(draw.choice(c["encoder"]["lookaheads"]))
            torch.manual_seed(
                hash((c["seed"], step, rank))
            )  # of dropout: the same in a resumed run
            x = batch.pop("x")
            if step >= c["augment_from"]:
                x = augment(x, batch["frames"], np.random.default_rng([c["seed"], step, rank + 1]))
            for group in optimiser.param_groups:
                group["lr"] = rate(step, c)
            cast = (
                torch.autocast(device.type, torch.bfloat16)
                if c["bf16"]
                else contextlib.nullcontext()
            )
            with cast:
                loss, parts = wrapped(
                    x.to(device),
                    **{k: v.to(device) for k, v in batch.items()},
                    lookahead=lookahead,
                    aligned=step < c["aligned_steps"],
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(losses.parameters(), c["clip"])
            if not torch.isfinite(norm):
                raise SystemExit(
                    f"step {step}: the gradient is not finite; lower the rate, or turn bf16 off"
                )
            optimiser.step()
            ema.update(averaged, model, min(c["ema"], (1 + step) / (10 + step)), buffers=True)
            step, seconds = step + 1, seconds + float(batch["frames"].sum()) / 100 * world
            if rank == 0 and (step == 1 or step % 20 == 0):
                print(
                    json.dumps(
                        {
                            "step": step,
                            "loss": round(loss.item(), 4),
                            "lookahead": lookahead,
                            **{k: round(v.item(), 4) for k, v in parts.items()},
                            "rate": round(rate(step, c), 7),
                            "norm": round(norm.item(), 3),
                            "audio_per_second": round(seconds / (time.monotonic() - started), 1),
                        }
                    ),
                    flush=True,
                )
            if step % c["save_every"] == 0 or step == last:
                if rank == 0:
                    save_torch(
                        checkpoint,
                        losses=losses.state_dict(),
                        ema=averaged.state_dict(),
                        optimiser=optimiser.state_dict(),
                        step=step,
                        epoch=epoch,
                        skip=skip,
                    )
                if step == last:
                    break
        else:
            if step == fresh:
                raise SystemExit(
                    f"{a.manifest} gives no batch: are its utterances longer than {c['max_seconds']} s?"
                )
            epoch, skip = epoch + 1, 0
    if rank == 0:
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(a.tokenizer))
        tokens = tuple(tokenizer.id_to_piece(i) for i in range(c["vocab_size"]))
        one = Checkpoint(
            averaged.eval(),
            NemoMelConfig(n_mels=c["encoder"]["n_mels"], **LOG_MEL),
            tokens,
            a.tokenizer.read_bytes(),
        )
        write_fastconformer(
            one,
            a.run / "bundle",
            {
                "name": a.run.name,
                "licence": "of the training data",
                "steps": step,
                "configuration": c,
            },
        )
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
