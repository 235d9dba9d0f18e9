"""Train the letter-to-sound network: letters through residual convolutions, two CTC frames a letter.

    python -m recipes.g2p.train --work work --minutes 30

Writes work/g2p.npz (int8 weights with one scale an output channel) and prints the phone error rate of the held-out words.
"""

import json
import pathlib
import random
import re
import time

import numpy as np
import torch
from rapidfuzz.distance.Levenshtein import distance
from torch import nn
from torch.nn import functional as F

from recipes.common import ema
from recipes.common.args import parser, read_config

LETTERS = "abcdefghijklmnopqrstuvwxyz'-"  # 0 is padding
VOWELS = "AIOWYiuæɑɔəɛɜɪʊʌᵻᵊ"
CONSONANTS = "bdfhjklmnpstvwzðŋɡɹɾʃʒʤʧθʔ"
UNITS = (
    [""] + list(CONSONANTS) + [m + v for v in VOWELS for m in ("", "ˈ", "ˌ")]
)  # 0 is CTC's blank
SLOTS = 2  # CTC frames a letter
UNIT_ID = {u: i for i, u in enumerate(UNITS)}
CONFIG = pathlib.Path(__file__).parent / "config.yaml"
SOURCES = {"gold": 0, "silver": 1, "cmu": 2}


def units(p):
    return [UNIT_ID[u] for u in re.findall(r"[ˈˌ]?.", p)]


class Block(nn.Module):
    def __init__(self, d, h, k=5, dropout=0.1):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.a = nn.Linear(k * d, h)
        self.b = nn.Linear(h, d)
        self.k, self.drop = k, nn.Dropout(dropout)

    def forward(self, x, mask):
        y = self.norm(x) * mask
        r = self.k // 2
        y = F.pad(y, (0, 0, r, r))
        n = x.shape[1]
        y = torch.cat([y[:, i : i + n] for i in range(self.k)], -1)
        return x + self.drop(self.b(F.relu(self.a(y))))


class G2P(nn.Module):
    def __init__(self, d=128, h=256, blocks=5):
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS) + 1, d)
        self.source = nn.Embedding(3, d)
        self.blocks = nn.ModuleList(Block(d, h) for _ in range(blocks))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, SLOTS * len(UNITS))

    def forward(self, x, source):
        mask = (x > 0).unsqueeze(-1).to(torch.float32)
        y = (self.letters(x) + self.source(source)[:, None]) * mask
        for b in self.blocks:
            y = b(y, mask)
        y = self.head(self.norm(y))
        return y.reshape(x.shape[0], x.shape[1] * SLOTS, len(UNITS))


def greedy(logits, length):
    ids = logits[: length * SLOTS].argmax(-1).tolist()
    return [i for n, i in enumerate(ids) if i and (n == 0 or ids[n - 1] != i)]


def batches(items, size, rng):
    rng.shuffle(items)
    out = []
    for i in range(0, len(items), size * 40):
        pool = sorted(items[i : i + size * 40], key=lambda t: len(t[0]))
        out += [pool[j : j + size] for j in range(0, len(pool), size)]
    rng.shuffle(out)
    return out


def tensors(batch):
    n = max(len(b[0]) for b in batch)
    x = torch.zeros(len(batch), n, dtype=torch.long)
    for i, b in enumerate(batch):
        x[i, : len(b[0])] = torch.tensor(b[0])
    return x, torch.tensor([b[2] for b in batch])


def evaluate(model, items):
    model.eval()
    wrong = errors = count = bare = 0
    with torch.no_grad():
        for i in range(0, len(items), 512):
            part = items[i : i + 512]
            logits = model(*tensors(part))
            for row, b in zip(logits, part):
                hyp = [UNITS[u] for u in greedy(row, len(b[0]))]
                ref = [UNITS[u] for u in b[1]]
                e = distance(hyp, ref)
                errors, wrong, count = errors + e, wrong + (e > 0), count + len(ref)
                bare += distance([u[-1] for u in hyp], [u[-1] for u in ref])
    model.train()
    return {
        "per": round(100 * errors / count, 2),
        "per_no_stress": round(100 * bare / count, 2),
        "wer": round(100 * wrong / len(items), 2),
        "words": len(items),
    }


def main(arguments=None):
    p = parser(__doc__)
    p.add_argument("--work", type=pathlib.Path, required=True)
    p.add_argument("--config", type=pathlib.Path, default=CONFIG)
    p.add_argument("--minutes", type=float, help="instead of the configuration's")
    args = p.parse_args(arguments)
    config = read_config(args.config, minutes=args.minutes)
    torch.set_num_threads(config["threads"])
    torch.manual_seed(config["seed"])
    rng = random.Random(config["seed"])
    words = json.loads((args.work / "words.json").read_text())
    split = json.loads((args.work / "split.json").read_text())
    held = set(split["held"])

    def item(w):
        e = words[w]
        p = e["p"] if isinstance(e["p"], str) else e["p"]["DEFAULT"]
        lw = w.lower()
        if not re.fullmatch(r"[a-z][a-z'-]{1,23}", lw) or (w.isupper()):
            return None
        if any(c not in LETTERS for c in lw) or not p:
            return None
        x, y = [LETTERS.index(c) + 1 for c in lw], units(p)
        need = len(y) + sum(a == b for a, b in zip(y, y[1:]))
        return (x, y, SOURCES[e["s"]], w) if need <= SLOTS * len(x) else None

    items = [i for w in words if w not in held for i in [item(w)] if i]
    tests = {k: [i for w in split[k] for i in [item(w)] if i] for k in ("random", "family")}
    model = G2P(**config["network"])
    n = sum(p.numel() for p in model.parameters())
    print(f"{len(items)} words, {n} parameters", flush=True)
    opt = torch.optim.AdamW(
        model.parameters(), weight_decay=config["weight_decay"], betas=(0.9, 0.98)
    )
    average = ema.start(model)
    begin, step, epoch = time.time(), 0, 0
    done = lambda: (time.time() - begin) / (60 * config["minutes"])
    while done() < 1:
        total = 0.0
        for batch in batches(items, config["batch"], rng):
            t = done()
            if t >= 1:
                break
            lr = (
                config["lr"]
                * min(1, (step + 1) / config["warmup"])
                * (1 - t) ** config["decay_power"]
            )
            for g in opt.param_groups:
                g["lr"] = lr
            x, s = tensors(batch)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x, s)
            logp = logits.float().log_softmax(-1).transpose(0, 1)
            y = torch.tensor([u for b in batch for u in b[1]])
            loss = F.ctc_loss(
                logp,
                y,
                torch.tensor([len(b[0]) * SLOTS for b in batch]),
                torch.tensor([len(b[1]) for b in batch]),
                zero_infinity=True,
            )
            opt.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            opt.step()
            step += 1
            total = 0.99 * total + 0.01 * loss.item()
            d = min(config["ema"], step / (step + 100))
            if step % 4 == 0:
                ema.update(average, model, d**4)
        epoch += 1
        print(
            epoch,
            step,
            f"{(time.time() - begin) / 60:.1f} min",
            f"{total:.4f}",
            evaluate(model, tests["random"]),
            flush=True,
        )
        torch.save(average.state_dict(), args.work / "ema.pt")
    model.load_state_dict(average.state_dict())
    for k, v in tests.items():
        print("final", k, evaluate(model, v))
        gold = [i for i in v if i[2] == 0]
        print("final", k, "gold", evaluate(model, gold))
    save(model, args.work / "g2p.npz")


def save(model, path):
    """int8 per output channel; embeddings with the 'gold' source folded in; norms in float32."""
    out = {
        "letters": (model.letters.weight + model.source.weight[0])
        .detach()
        .numpy()
        .astype(np.float16)
    }
    layers = {f"{i}{n}": getattr(b, n) for i, b in enumerate(model.blocks) for n in "ab"} | {
        "head": model.head
    }
    for name, layer in layers.items():
        w = layer.weight.detach().numpy()
        scale = np.abs(w).max(1) / 127
        out[name + ".w"] = np.round(w / scale[:, None]).astype(np.int8)
        out[name + ".s"] = scale.astype(np.float32)
        out[name + ".c"] = layer.bias.detach().numpy().astype(np.float32)
    for name, norm in [(f"{i}n", b.norm) for i, b in enumerate(model.blocks)] + [("n", model.norm)]:
        out[name + ".g"], out[name + ".o"] = (
            norm.weight.detach().numpy(),
            norm.bias.detach().numpy(),
        )
    np.savez_compressed(path, **out)


if __name__ == "__main__":
    main()
