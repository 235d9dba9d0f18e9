"""Train trunk, heads and joint; encoder and language model are frozen, and what they say was computed before.

    python -m recipes.speech_llm.train work/train --out work/run --vocabulary work/vocabulary.json --llm model.gguf

The sum over all alignments is hard to learn (`recipes/causal_whisper/README.md`, Decoders); here it is known when each
token was said, and every cell has its target: of the gate, whether the token whose turn it is has been said by a frame,
and where it is said, of the joint, which one it is. Besides, of each frame: whether anybody speaks, and which token's
embedding it should be to the language model. A run that was broken off goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.common.args import parser, read_config
from recipes.common.checkpoint import save_json, save_tensors
from recipes.common.logging import Means, report
from recipes.common.schedule import warmup_cosine
from recipes.speech_llm.data import Batch, Data
from recipes.speech_llm.start import begin
from speechstream.nn.speech_llm import SpeechLlm

CONFIG = Path(__file__).with_name("config.yaml")
BUNDLE = Path("speechstream/models/causal-whisper-base")
SCALE = 8.0  # of the cosine between a frame's embedding and a token's


def losses(model: SpeechLlm, b: Batch, config: dict, rng: np.random.Generator) -> dict[str, Tensor]:
    """Of a batch, each averaged over what it is scored on."""
    drop = config["dropout"] if model.training else 0.0
    x = model.hearing.trunk(F.dropout(b.x, drop, model.training))
    audio, sound, quiet = model.hearing.heads(F.dropout(x, drop, model.training))
    text, table = model.joint.text(b.hidden), model.reader.model.embed_tokens.weight
    rows, ts, us, due = [], [], [], []  # of the gate: utterance, frame, tokens said, its target
    at_row, at_t, at_u, tokens = [], [], [], []
    for n, (said, frames) in enumerate(zip(b.said, b.frames.tolist())):
        t = np.arange(frames)
        turn, end = np.append(0, said)[:, None], np.append(said, frames)[:, None]
        near = ((t >= turn - config["before"]) & (t <= end + config["after"])) & (
            (t >= end - config["after"]) | (t <= turn + config["after"])
        )
        near |= rng.random(near.shape) < config["elsewhere"]
        u, t = near.nonzero()
        rows.append(np.full(len(u), n))
        ts.append(t)
        us.append(u)
        due.append(t >= end[u, 0])
        late = np.minimum(said + rng.integers(0, 2, len(said)), frames - 1)
        at_row.append(np.full(len(said), n))
        at_t.append(late)
        at_u.append(np.arange(len(said)))
        tokens.append(np.array(b.tokens[n], np.int64))
    r, t, u = (torch.from_numpy(np.concatenate(a)) for a in (rows, ts, us))
    odds, _ = model.joint(audio[r, t], text[r, u])
    wanted = torch.from_numpy(np.concatenate(due)).float()
    gate = F.binary_cross_entropy_with_logits(odds.float(), wanted)
    r, t, u, y = (torch.from_numpy(np.concatenate(a)) for a in (at_row, at_t, at_u, tokens))
    _, z = model.joint(audio[r, t], text[r, u])
    with torch.no_grad():
        prior = (b.hidden[r, u] @ table.T).float().log_softmax(-1)
    scores = (model.joint.out(z) + model.joint.prior * prior).float()
    token = F.cross_entropy(scores, y, label_smoothing=config["smoothing"])
    spoken = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(s) for s in b.spoken], batch_first=True, padding_value=-2
    )
    silence = F.binary_cross_entropy_with_logits(
        quiet[spoken >= -1].float(), (spoken[spoken >= -1] == -1).float()
    )
    heard, unit = sound[spoken >= 0], F.normalize(table, dim=-1)
    likeness = SCALE * 2 * F.normalize(heard.float(), dim=-1) @ unit.T
    return {
        "token": token,
        "gate": gate,
        "quiet": silence,
        "sound": F.cross_entropy(likeness, spoken[spoken >= 0]),
        "right": (scores.argmax(-1) == y).float().mean().detach(),
        "prior": (prior.argmax(-1) == y).float().mean(),
        "gate_right": ((odds > 0) == (wanted > 0)).float().mean().detach(),
    }


def groups(data: Data, config: dict, rng: np.random.Generator) -> list[list[int]]:
    """Utterances of like length, in random order, none longer than a batch."""
    lengths = [r.frames // data.hearing.stack for r in data.rows]
    noisy = np.array(lengths) * rng.uniform(0.9, 1.1, len(lengths))
    found: list[list[int]] = [[]]
    for i in np.argsort(noisy).tolist():
        longest = max([lengths[i], *(lengths[j] for j in found[-1])])
        if found[-1] and longest * (len(found[-1]) + 1) > config["batch_frames"]:
            found.append([])
        found[-1].append(i)
    rng.shuffle(found)
    return found


def trained(model: SpeechLlm) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


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
    ids = json.loads(args.vocabulary.read_text(encoding="utf-8"))
    model = begin(args.bundle, args.llm, ids, config["sizes"])
    c = model.config
    parameters = trained(model)
    step, spent = 0, 0.0
    if (args.out / "trained.safetensors").exists():
        model.load_state_dict(load_file(args.out / "trained.safetensors"), strict=False)
        log = json.loads((args.out / "progress.json").read_text(encoding="utf-8"))
        step, spent = log["step"], log["minutes"]
    else:
        # a frame's embedding begins as large as a token's, and nothing is said at first
        model.joint.gate.bias.data.fill_(-2.0)
    optimiser = torch.optim.AdamW(
        parameters.values(), lr=0.0, betas=(0.9, 0.98), weight_decay=config["weight_decay"]
    )
    data = Data(args.data, model.hearing, c.sound.dim, c.text.dim, config["delay"])
    held = list(range(args.held_out))
    data.rows, measured = data.rows[args.held_out :], data.rows[: args.held_out]
    report(utterances=len(data.rows), hours=sum(r.frames for r in data.rows) * 0.02 / 3600)
    means, began, saved, order = Means(), time.time(), time.time(), []
    while (minutes := spent + (time.time() - began) / 60) < config["minutes"]:
        rng = np.random.default_rng((config["seed"], step))
        order = order or groups(data, config, rng)
        rate = config["lr"] * warmup_cosine(
            step, config["warmup"], minutes / config["minutes"], config["lr_floor"]
        )
        optimiser.param_groups[0]["lr"] = rate
        batch = data.batch(order.pop())
        with torch.autocast("cpu", torch.bfloat16):
            found = losses(model.train(), batch, config, rng)
        loss = sum(config["weights"][n] * found[n] for n in config["weights"])
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), config["clip"])
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        means.add(**{n: float(v.detach()) for n, v in found.items()})
        step += 1
        if step % config["report_every"] == 0:
            report(step=step, minutes=minutes, **means.take())
        if time.time() - saved > config["save_seconds"]:
            save(model, args.out, step, spent + (time.time() - began) / 60)
            saved = time.time()
    save(model, args.out, step, spent + (time.time() - began) / 60)
    data.rows, data._stacked = measured, {}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = losses(model.eval(), data.batch(held), config, np.random.default_rng(0))
    report(held_out=len(held), **{n: float(v) for n, v in found.items()})


def save(model: SpeechLlm, out: Path, step: int, minutes: float) -> None:
    save_tensors({n: p.detach() for n, p in trained(model).items()}, out / "trained.safetensors")
    save_json({"step": step, "minutes": minutes}, out / "progress.json")


if __name__ == "__main__":
    main()
