"""Train the transducer's blank model of a finished run, and nothing else: minutes on one core.

    python -m recipes.causal_whisper.train_transducer work/frozen --vocabulary work/vocabulary \\
        --tokenizer BASE/tokenizer.json --features work/features/train --labels work/labels.jsonl

The gate is the complement of HAT's blank probability: has token u been said by pair of frames t? A transducer's
likelihood, summed over all alignments, cannot teach it. The prediction network attends to the audio: at the first
frame it already knows that tokens will come, and the most likely path emits them all at once, there or in the last
silence. So the target comes from the attention of the decoder's alignment heads to the whole utterance, which says by
which pair of frames a token has been said; the gate is trained on each token and each pair near it. Half of the
utterances are cut at a chunk's end, as in a stream, where the attention has less to go by.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.causal_whisper.data import FLOOR, Labels, Utterances, batches, collate
from recipes.causal_whisper.merge_checkpoints import read
from recipes.causal_whisper.train import CONFIG, draw_chunk, fitting
from recipes.common.args import parser, read_config
from recipes.common.checkpoint import save_json, save_tensors, select_prefix
from recipes.common.logging import report
from recipes.common.schedule import warmup_cosine
from speechstream.asr.timing import token_spans
from speechstream.nn.whisper import Whisper, WhisperConfig
from speechstream.nn.whisper_heads import Gate, looked, pairs


@dataclass
class Example:
    """The gate's input for an utterance or its beginning, and the pair of frames in which each of its U tokens ends."""

    features: Tensor  # (T, width)
    hidden: Tensor  # (U + 1, width) after u tokens
    alignment: Tensor  # (U + 1, T)
    said: np.ndarray  # (U,)


def said_in(alignment: np.ndarray) -> np.ndarray:
    """Attention (n, T) of n tokens in order to the pair of frames in which each ends, (n,)."""
    return (token_spans(alignment)[:, 1] - 1) // 2


def gate_loss(
    gate: Gate, examples: list[Example], config: dict, rng: np.random.Generator
) -> Tensor:
    """Binary cross-entropy of "token u has been said by pair t", averaged over the cells (t, u) that are scored.

    What follows the last token has not been said in any pair.
    """
    rows, wanted = [], []
    for e in examples:
        t, end = np.arange(len(e.features) // 2), len(e.features)
        turn, due = np.append(0, e.said)[:, None], np.append(e.said, end)[:, None]
        near = ((t >= turn - config["before"]) & (t <= due + config["after"])) | (
            rng.random((len(due), len(t))) < config["elsewhere"]
        )
        u, t = (torch.from_numpy(i) for i in near.nonzero())
        audio, text = gate.audio(pairs(e.features[None].float())[0]), gate.text(e.hidden.float())
        rows.append(gate(audio[t], text[u], looked(e.alignment.float())[u, t]))
        wanted.append(t >= torch.from_numpy(due[:, 0])[u])
    return F.binary_cross_entropy_with_logits(torch.cat(rows), torch.cat(wanted).float())


@torch.no_grad()
def examples(
    model: Whisper, labels: Labels, utterances: Utterances, config: dict, rng: np.random.Generator
) -> list[Example]:
    """`transducer.hours` of the labelled utterances, each once, in chunks drawn as `train.py` draws them."""
    known = [i for i, r in enumerate(utterances.rows) if r["audio"] in labels.rows]
    known = [known[i] for i in rng.permutation(len(known))]
    heard = np.cumsum([utterances.rows[i]["frames"] for i in known])
    known, out = (
        known[: int(np.searchsorted(heard, config["transducer"]["hours"] * 360_000)) + 1],
        [],
    )
    frames = [utterances.rows[i]["frames"] + 60 for i in known]
    for group in batches(frames, config["batch_frames"], rng):
        chosen, chunk = [known[g] for g in group], draw_chunk(config, rng)
        mel, lengths = collate(
            [utterances.mel(i) for i in chosen],
            [FLOOR] * len(chosen),
            int(rng.integers(10, 50)) * 2,
        )
        with torch.autocast("cpu", torch.bfloat16):
            features = model.encoder(mel.clamp(min=FLOOR), lengths, chunk)
        for i, x, frames in zip(chosen, features, lengths.tolist()):
            out.append(
                example(
                    model,
                    labels.tokens(utterances.rows[i]["audio"])[:-1],
                    len(labels.prompt),
                    x[:frames],
                    chunk,
                    rng,
                )
            )
    return out


def example(
    model: Whisper,
    tokens: list[int],
    prompt: int,
    features: Tensor,
    chunk: int | None,
    rng: np.random.Generator,
) -> Example:
    """The whole utterance, or what there is of it by the end of a chunk."""

    def hear(count: int, frames: int) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            hidden, alignment = model.decoder.hidden(
                torch.tensor([tokens[: prompt + count]]), features[None, :frames], align=True
            )
        return hidden[0, prompt - 1 :], alignment[0, prompt - 1 :]

    count, frames = len(tokens) - prompt, len(features)
    hidden, alignment = hear(count, frames)
    said = said_in(alignment[:-1].numpy())
    if chunk is not None and chunk < frames and rng.random() < 0.5:
        frames = chunk * int(rng.integers(1, 1 + frames // chunk))
        said = said[2 * said + 2 <= frames]
        hidden, alignment = hear(len(said), frames)
    return Example(features[:frames].half(), hidden.half(), alignment.half(), said)


def fit(gate: Gate, data: list[Example], config: dict, rng: np.random.Generator) -> None:
    """Train for `steps`; `config` is the configuration's `transducer`."""
    with (
        torch.no_grad()
    ):  # the attention is few inputs among many, and decides: large weights, a high rate
        gate.looked.weight.mul_(4)
        gate.audio.bias.sub_(gate.looked.weight[:, 0] / 2)
    others = [*gate.audio.parameters(), *gate.text.parameters(), *gate.out.parameters()]
    groups = [
        {"params": others, "peak": config["lr"]},
        {"params": list(gate.looked.parameters()), "peak": 4 * config["lr"]},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01)
    size, steps, recent, order = config["batch"], config["steps"], [], []
    for step in range(steps):
        for group in groups:
            group["lr"] = group["peak"] * warmup_cosine(step, config["warmup"], step / steps, 0.02)
        if len(order) < size:
            order = rng.permutation(np.arange(max(len(data), size)) % len(data)).tolist()
        loss = gate_loss(gate, [data[order.pop()] for _ in range(size)], config, rng)
        loss.backward()
        nn.utils.clip_grad_norm_(gate.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        recent.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            report(step=step + 1, loss=float(np.mean(recent[-50:])))


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("run", type=Path)
    p.add_argument("--vocabulary", type=Path, required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--features", type=Path, required=True)
    p.add_argument("--labels", type=Path, required=True)
    p.add_argument("--config", type=Path, default=CONFIG)
    args = p.parse_args(arguments)
    config = read_config(args.config)
    torch.manual_seed(config["seed"])
    rng, began = np.random.default_rng(config["seed"]), time.time()
    weights, sizes, _ = read(args.run)
    heads = tuple(map(tuple, config["alignment_heads"]))
    sizes |= {"alignment_heads": heads, "gate_dim": config["transducer"]["dim"]}
    model = Whisper(WhisperConfig(**sizes)).requires_grad_(False)
    average = fitting(select_prefix(weights, "average."), model)
    model.load_state_dict(
        {n: w for n, w in average.items() if not n.startswith("gate.")}, strict=False
    )
    labels = Labels(args.labels, args.vocabulary, args.tokenizer)
    data = examples(model, labels, Utterances(args.features), config, rng)
    report(utterances=len(data), seconds=time.time() - began)
    gate = model.gate.requires_grad_(True)
    fit(gate, data, config["transducer"], rng)
    weights = load_file(args.run / "checkpoint.safetensors")  # as it is now
    weights |= {
        f"{part}.gate.{n}": p.detach().clone()
        for part in ("student", "average")
        for n, p in gate.named_parameters()
    }
    save_tensors(
        {n: w for n, w in weights.items() if not n.startswith("adam.") or ".gate." not in n},
        args.run / "checkpoint.safetensors",
    )
    save_json(sizes, args.run / "config.json")


if __name__ == "__main__":
    main()
