"""Train the transducer's gate of a finished run, and nothing else: minutes on one core.

    python gate.py work/frozen --vocabulary work/vocabulary --tokenizer BASE/tokenizer.json --features work/features/train \\
        --labels work/labels.jsonl

A transducer's likelihood, summed over all alignments, cannot teach this gate. Its prediction network hears the audio:
it knows at the first frame that there are tokens to come, and the most likely path emits them all at once, there or in
the last silence. So the time comes from the decoder itself: its alignment heads' attention to the whole utterance says by
which pair of frames a token has been heard, and the gate is taught to say so, for each token and each pair near it.
Half of the utterances are cut at a chunk's end, as a stream is: there the attention knows less than it did of the whole.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recipes.causal_whisper.data import Utterances, batches, collate
from recipes.causal_whisper.merge_checkpoints import read
from speechstream.asr.whisper.timing import token_spans
from speechstream.nn.whisper import Whisper, WhisperConfig
from speechstream.nn.whisper_heads import Gate, looked, pairs
from recipes.causal_whisper.train import ALIGNMENT_HEADS, CHANCES, CHUNKS, FLOOR, Labels, fitting

BEFORE, AFTER = (
    10,
    25,
)  # pairs before a token's turn comes and after it has passed that are all looked at
ELSEWHERE = 0.03  # of all other pairs
WIDTH = 256
BATCH = 6  # utterances
RATE = 2e-3


@dataclass
class Example:
    """What the gate is given of an utterance, or of its beginning, and the pair in which each of U tokens has been said."""

    features: Tensor  # (T, width)
    hidden: Tensor  # (U + 1, width) after u tokens
    alignment: Tensor  # (U + 1, T)
    said: np.ndarray  # (U,)


def said_in(alignment: np.ndarray) -> np.ndarray:
    """Attention (n, T) of n tokens in order to the pair of frames in which each ends, (n,)."""
    return (token_spans(alignment)[:, 1] - 1) // 2


def gate_loss(gate: Gate, examples: list[Example], rng: np.random.Generator) -> Tensor:
    """Binary cross-entropy of "token u has been said by pair t", averaged over the cells (t, u) that are looked at.

    What follows the last token has not been said in any pair.
    """
    rows, wanted = [], []
    for e in examples:
        t, end = np.arange(len(e.features) // 2), len(e.features)
        turn, due = np.append(0, e.said)[:, None], np.append(e.said, end)[:, None]
        near = ((t >= turn - BEFORE) & (t <= due + AFTER)) | (
            rng.random((len(due), len(t))) < ELSEWHERE
        )
        u, t = (torch.from_numpy(i) for i in near.nonzero())
        audio, text = gate.audio(pairs(e.features[None].float())[0]), gate.text(e.hidden.float())
        rows.append(gate(audio[t], text[u], looked(e.alignment.float())[u, t]))
        wanted.append(t >= torch.from_numpy(due[:, 0])[u])
    return F.binary_cross_entropy_with_logits(torch.cat(rows), torch.cat(wanted).float())


@torch.no_grad()
def examples(
    model: Whisper, labels: Labels, utterances: Utterances, hours: float, rng: np.random.Generator
) -> list[Example]:
    """So many hours of the labelled utterances, each once, in chunks as they are drawn in `train.py`."""
    known = [i for i, r in enumerate(utterances.rows) if r["audio"] in labels.rows]
    known = [known[i] for i in rng.permutation(len(known))]
    heard = np.cumsum([utterances.rows[i]["frames"] for i in known])
    known, out = known[: int(np.searchsorted(heard, hours * 360_000)) + 1], []
    for group in batches([utterances.rows[i]["frames"] + 60 for i in known], 7000, rng):
        chosen, chunk = [known[g] for g in group], CHUNKS[rng.choice(len(CHUNKS), p=CHANCES)]
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


def fit(gate: Gate, data: list[Example], steps: int, rng: np.random.Generator) -> None:
    with (
        torch.no_grad()
    ):  # attention is few numbers among many, and decides: its weights begin large and learn fast
        gate.looked.weight.mul_(4)
        gate.audio.bias.sub_(gate.looked.weight[:, 0] / 2)
    groups = [
        {
            "params": [*gate.audio.parameters(), *gate.text.parameters(), *gate.out.parameters()],
            "peak": RATE,
        },
        {"params": list(gate.looked.parameters()), "peak": 4 * RATE},
    ]
    optimiser, log, order = (
        torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01),
        [],
        [],
    )
    for step in range(steps):
        for group in groups:
            group["lr"] = (
                group["peak"]
                * min(1.0, (step + 1) / 20)
                * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
            )
        order = (
            order
            if len(order) >= BATCH
            else rng.permutation(np.arange(max(len(data), BATCH)) % len(data)).tolist()
        )
        loss = gate_loss(gate, [data[order.pop()] for _ in range(BATCH)], rng)
        loss.backward()
        nn.utils.clip_grad_norm_(gate.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        log.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            print(f"{step + 1} {np.mean(log[-50:]):.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=1.5, help="of speech, drawn at random")
    parser.add_argument("--steps", type=int, default=600, help=f"of {BATCH} utterances")
    args = parser.parse_args()
    torch.manual_seed(0)
    rng, began = np.random.default_rng(0), time.time()
    weights, config, _ = read(args.run)
    config |= {"alignment_heads": ALIGNMENT_HEADS, "gate_width": WIDTH}
    model = Whisper(WhisperConfig(**config)).requires_grad_(False)
    average = {
        n.removeprefix("average."): w for n, w in weights.items() if n.startswith("average.")
    }
    model.load_state_dict(
        {n: w for n, w in fitting(average, model).items() if not n.startswith("gate.")},
        strict=False,
    )
    data = examples(
        model,
        Labels(args.labels, args.vocabulary, args.tokenizer),
        Utterances(args.features),
        args.hours,
        rng,
    )
    print(f"{len(data)} utterances in {time.time() - began:.0f} s", flush=True)
    gate = model.gate.requires_grad_(True)
    fit(gate, data, args.steps, rng)
    weights = load_file(args.run / "checkpoint.safetensors")  # as it is now
    weights |= {
        f"{part}.gate.{n}": p.detach().clone()
        for part in ("student", "average")
        for n, p in gate.named_parameters()
    }
    save_file(
        {n: w for n, w in weights.items() if not n.startswith("adam.") or ".gate." not in n},
        args.run / "new.safetensors",
    )
    (args.run / "new.safetensors").rename(args.run / "checkpoint.safetensors")
    (args.run / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
