"""Train trunk, heads and joint; encoder and language model are frozen, and what they say was computed before.

    python -m recipes.speech_llm.train work/train --out work/run --vocabulary work/vocabulary.json --llm model.gguf

The sum over all alignments is hard to learn (`recipes/causal_whisper/README.md`, Decoders); here it is known when each
token was said, and every cell has its target: of the gate, whether the token whose turn it is has been said by a frame,
and soon after it is said, of the joint, which one it is. What is taken to have been written before has errors now and
then (`hidden.py`). Besides, of each frame: whether anybody speaks, and, where `weights` asks for it, which token's
embedding it should be to the language model. A run that was broken off goes on from its last checkpoint.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.common.args import parser, read_config
from recipes.common.checkpoint import save_json, save_tensors
from recipes.common.logging import Means, report
from recipes.common.precision import autocast, matmul_dtype
from recipes.common.schedule import warmup_cosine
from recipes.speech_llm.data import Batch, Data
from recipes.speech_llm.free import BUNDLE, CONFIG, words_wrong, write
from recipes.speech_llm.start import begin, read_compact
from recipes.speech_llm.vocabulary import Compact
from speechstream.nn.speech_llm import Reader, SpeechLlm

SCALE = 8.0  # of the cosine between a frame's embedding and a token's


@dataclass(frozen=True)
class Cells:
    """Where the joint is asked: utterance, frame, state, frames since the last token, whether the next has been said."""

    row: Tensor
    t: Tensor
    u: Tensor
    since: Tensor
    due: Tensor
    token: Tensor  # the next one; -1 where it is not asked for


def cells(b: Batch, rng: np.random.Generator) -> Cells:
    """Of each state: soon after its token was said, some time before, and just before or just after the one before it."""
    found: list[list[np.ndarray]] = []
    for n, (said, frames) in enumerate(zip(b.said, b.frames.tolist())):
        upto, last, count = b.next[n], b.last[n], len(b.next[n])
        u = np.arange(count)
        ends = np.append(said, frames)[upto]
        tokens = np.append(b.tokens[n], -1)[upto]
        late = rng.choice(4, count, p=(0.55, 0.25, 0.12, 0.08))
        begin = np.maximum(last, 0)
        some = begin + (rng.random(count) * np.maximum(ends - begin, 0)).astype(int)
        near = ends - 1 - rng.choice(3, count, p=(0.5, 0.3, 0.2))
        sooner = begin - rng.choice(3, count, p=(0.6, 0.2, 0.2))
        for t in (ends + late, some, np.where(rng.random(count) < 0.5, near, sooner)):
            t = np.where(t < 0, 0, t)
            at = np.minimum(np.where(tokens < 0, np.minimum(t, frames - 1), t), frames - 1)
            before = last + np.where(t == last, 0, rng.integers(-1, 2, count))
            since = at - np.clip(np.where(last < 0, -1, before), -1, at)
            due = at >= ends
            found.append([np.full(count, n), at, u, since, due, np.where(due, tokens, -1)])
    return Cells(*(torch.from_numpy(np.concatenate(a)) for a in zip(*found)))


def gridded(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cells of utterances `rows` (N,) as a grid (count, most), and which of its places are real."""
    sizes = torch.bincount(rows, minlength=count)
    grid = torch.zeros(count, int(sizes.max()), dtype=torch.int64)
    real = torch.arange(grid.shape[1]) < sizes[:, None]
    grid[real] = torch.argsort(rows, stable=True)
    return grid, real


def losses(model: SpeechLlm, b: Batch, config: dict, rng: np.random.Generator) -> dict[str, Tensor]:
    """Of a batch, each averaged over what it is scored on."""
    drop, hearing = config["dropout"] if model.training else 0.0, model.hearing
    kept = torch.rand(*b.x.shape[:2], 1) >= drop  # of its frames; of what the trunk gives, values
    x = hearing.trunk(b.x * kept)
    audio, sound, quiet = hearing.heads(F.dropout(x, drop, model.training))
    table, c = model.reader.model.embed_tokens.weight, model.config
    text = model.joint.text(F.dropout(b.hidden, config["text_dropout"], model.training))
    with torch.no_grad():
        frames = b.x[..., : c.stack * c.sound.dim].reshape(len(b.x), -1, c.sound.dim)
        keys, values = hearing.memory(F.pad(frames, (0, 0, c.look - c.stack, 0)))
    asked = cells(b, rng)
    grid, real = gridded(asked.row, len(b.x))
    row, t, u = asked.row[grid], asked.t[grid], asked.u[grid]
    said = text[row, u]
    if model.training:  # now and then what is said must be heard without the words before
        said = said * (torch.rand(said.shape[:2]) >= config["without_text"])[..., None]
    blank = torch.full((len(b.x),), c.look - c.stack)
    odds, z = model.joint(audio[row, t], said, asked.since[grid], t * c.stack, blank, keys, values)
    odds, z, which = odds[real].float(), z[real], grid[real]
    wanted = asked.due[which].float()
    gate = F.binary_cross_entropy_with_logits(odds, wanted)
    y = asked.token[which]
    on = y >= 0
    r, u = asked.row[which[on]], asked.u[which[on]]
    with torch.no_grad():
        prior = (b.hidden[r, u] @ table.T).float().log_softmax(-1)
    y = y[on]
    scores = (model.joint.out(z[on]) + model.joint.prior * prior).float()
    token = F.cross_entropy(scores, y, label_smoothing=config["smoothing"])
    spoken = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(s) for s in b.spoken], batch_first=True, padding_value=-2
    )
    silence = F.binary_cross_entropy_with_logits(
        quiet[spoken >= -1].float(), (spoken[spoken >= -1] == -1).float()
    )
    found = {
        "token": token,
        "gate": gate,
        "quiet": silence,
        "right": (scores.argmax(-1) == y).float().mean().detach(),
        "prior": (prior.argmax(-1) == y).float().mean(),
        "gate_right": ((odds > 0) == (wanted > 0)).float().mean().detach(),
    }
    if config["weights"].get("sound"):
        heard, unit = sound[spoken >= 0], F.normalize(table, dim=-1)
        likeness = SCALE * 2 * F.normalize(heard.float(), dim=-1) @ unit.T
        found["sound"] = F.cross_entropy(likeness, spoken[spoken >= 0])
    return found


def groups(data: Data, rows: list[int], config: dict, rng: np.random.Generator) -> list[list[int]]:
    """Utterances of like length, in random order, none longer than a batch."""
    lengths = {n: data.rows[n].frames // data.hearing.stack for n in rows}
    noisy = np.array([lengths[n] for n in rows]) * rng.uniform(0.9, 1.1, len(rows))
    found: list[list[int]] = [[]]
    for i in (rows[j] for j in np.argsort(noisy)):
        longest = max([lengths[i], *(lengths[j] for j in found[-1])])
        if found[-1] and longest * (len(found[-1]) + 1) > config["batch_frames"]:
            found.append([])
        found[-1].append(i)
    rng.shuffle(found)
    return found


def trained(model: SpeechLlm) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def taken(name: str) -> bool:
    """Whether a weight begins as one of Whisper's, and so learns slowly."""
    return name.startswith(("joint.blocks", "joint.out", "joint.ln.")) and not name.endswith(
        (".place", ".fresh")
    )


def measure(
    model: SpeechLlm, reader: Reader, data: Data, compact: Compact, held: list[int], config: dict
) -> None:
    """Report the losses of utterances held out, and what it makes of recordings by itself, an example among them."""
    rng, held_out = np.random.default_rng(0), Means()
    with torch.no_grad(), autocast():
        for group in groups(data, held, config, rng):
            found = losses(model.eval(), data.batch(group, rng), config, rng)
            held_out.add(**{n: float(v) for n, v in found.items()})
    report(held_out=len(held), **held_out.take())
    rows = held[: config["free"]]
    written = write(model, reader, [data.stacked(n) for n in rows], compact.begins)
    pairs = [
        (compact.text(data.rows[n].tokens), compact.text(w.tokens)) for n, w in zip(rows, written)
    ]
    report(words_wrong=words_wrong(pairs), reference=pairs[1][0][:120], says=pairs[1][1][:120])


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("data", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--vocabulary", type=Path, required=True)
    p.add_argument("--llm", type=Path, required=True)
    p.add_argument("--bundle", type=Path, default=BUNDLE)
    p.add_argument("--config", type=Path, default=CONFIG)
    p.add_argument("--minutes", type=float)
    p.add_argument("--held-out", type=int, default=40, help="utterances that only measure")
    args = p.parse_args(arguments)
    config = read_config(args.config, minutes=args.minutes)
    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    compact = read_compact(args.vocabulary, args.llm)
    model = begin(args.bundle, args.llm, compact, config["sizes"])
    reader = copy.deepcopy(model.reader).to(matmul_dtype())
    c, parameters = model.config, trained(model)
    model.joint.gate[-1].bias.data.fill_(-1.0)
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for n, p in parameters.items() if taken(n)], "share": config["taken_lr"]},
            {"params": [p for n, p in parameters.items() if not taken(n)], "share": 1.0},
        ],
        lr=0.0,
        betas=(0.9, 0.98),
        weight_decay=config["weight_decay"],
    )
    step, spent = 0, 0.0
    if (args.out / "trained.safetensors").exists():
        model.load_state_dict(load_file(args.out / "trained.safetensors"), strict=False)
        optimiser.load_state_dict(torch.load(args.out / "optimiser.pt", weights_only=True))
        log = json.loads((args.out / "progress.json").read_text(encoding="utf-8"))
        step, spent = log["step"], log["minutes"]
    data = Data(args.data, model.hearing, c.sound.dim, c.text.dim, config["delay"], compact.begins)
    held, others = list(range(args.held_out)), list(range(args.held_out, len(data.rows)))
    kept = {data.rows[n].audio for n in held}
    report(utterances=len(others), hours=sum(data.rows[n].frames for n in others) * 0.02 / 3600)
    means, began, saved, order = Means(), time.time(), time.time(), []
    free = time.time()
    while (minutes := spent + (time.time() - began) / 60) < config["minutes"]:
        rng = np.random.default_rng((config["seed"], step))
        if not order:  # what `prepare.py` and `hidden.py` have added meanwhile is taken as well
            data.reload()
            others = [n for n, r in enumerate(data.rows) if r.audio not in kept]
            order = groups(data, others, config, rng)
        rate = config["lr"] * warmup_cosine(
            step, config["warmup"], minutes / config["minutes"], config["lr_floor"]
        )
        for group in optimiser.param_groups:
            group["lr"] = rate * group["share"]
        batch = data.batch(order.pop(), rng)
        with autocast():
            found = losses(model.train(), batch, config, rng)
        loss = sum(w * found[n] for n, w in config["weights"].items() if w)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), config["clip"])
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        means.add(**{n: float(v.detach()) for n, v in found.items()})
        step += 1
        if step % config["report_every"] == 0:
            report(step=step, minutes=minutes, **means.take())
        if time.time() - saved > config["save_seconds"]:
            save(model, optimiser, args.out, step, spent + (time.time() - began) / 60)
            saved = time.time()
        if time.time() - free > 60 * config["free_minutes"]:
            measure(model, reader, data, compact, held, config)
            free = time.time()
    save(model, optimiser, args.out, step, spent + (time.time() - began) / 60)
    measure(model, reader, data, compact, held, config)


def save(
    model: SpeechLlm, optimiser: torch.optim.Optimizer, out: Path, step: int, minutes: float
) -> None:
    save_tensors({n: p.detach() for n, p in trained(model).items()}, out / "trained.safetensors")
    torch.save(optimiser.state_dict(), out / "optimiser.part")
    (out / "optimiser.part").replace(out / "optimiser.pt")
    save_json({"step": step, "minutes": minutes}, out / "progress.json")


if __name__ == "__main__":
    main()
