"""Choose the cross-attention heads that tell when words end, by their error against dated references.

    python heads.py BUNDLE --features work/features/train --labels work/labels.jsonl --dates work/dates.jsonl \
        --vocabulary work/vocabulary --tokenizer BASE/tokenizer.json

The heads that openai/whisper publishes were chosen on another encoder and by another measure. Here heads are added to
a set, or taken from it, for as long as the mean error of word ends on training utterances falls; an error counts 300 ms
at most, and words before a pause are left out: the recogniser takes their ends from the pause. The result goes to
`export.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

from speechstream import bundle
from speechstream.asr.timing import token_spans
from speechstream.asr.vocabulary import Vocabulary
from speechstream.export.bundle import read_whisper
from speechstream.nn.whisper import Whisper
from data import Utterances, collate
from train import FLOOR, Labels

CHUNK = 128        # frames: words are confirmed, and dated, from chunks of 2560 ms
TAIL = 100         # mel frames of silence after each utterance
CAP_S = 0.3        # a larger error is no worse
PAUSE_S = 0.1
BEST = 20          # heads that are looked at further, by their error alone

Head = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Dated:
    attention: dict[Head, np.ndarray]  # (tokens, frames) each
    last: np.ndarray                   # of each word that counts, its last token
    ends: np.ndarray                   # and its end in seconds


@torch.no_grad()
def attentions(model: Whisper, mel: np.ndarray, tokens: list[int], skip: int) -> dict[Head, np.ndarray]:
    """Where each head looks when it reads `tokens`, whose first `skip` are the prompt and whose last is the end."""
    x, lengths = collate([mel], [FLOOR], TAIL)
    memory, out = model.decoder.memory(model.encoder(x, lengths, CHUNK)), {}
    for head in [(i, j) for i in range(model.config.decoder_layers) for j in range(model.config.heads)]:
        model.decoder.config = dataclasses.replace(model.config, alignment_heads=(head,))
        weights = model.decoder.step(torch.tensor([tokens[:-1]]), model.decoder.init_state(1), *memory)[1]
        out[head] = weights[0, skip - 1: -1].numpy()
    return out


def collect(args: argparse.Namespace) -> list[Dated]:
    """Utterances drawn alike from each corpus, which is the folder their audio is in."""
    model = read_whisper(bundle.load(args.bundle))
    vocabulary = Vocabulary(args.vocabulary / "vocabulary.json")
    labels, utterances = Labels(args.labels, args.vocabulary, args.tokenizer), Utterances(args.features)
    dates = {(r := json.loads(line))["audio"]: r for line in open(args.dates)}
    found, counts = [], {}
    for i in np.random.default_rng(0).permutation(len(utterances.rows)):
        audio = utterances.rows[i]["audio"]
        corpus, row = str(Path(audio).parent), dates.get(audio)
        if row is None or audio not in labels.rows or counts.get(corpus, 0) == args.utterances:
            continue
        tokens, skip = labels.tokens(audio), len(labels.prompt)
        spans = vocabulary.words(tokens[skip:-1])
        if len(spans) != len(row["ends"]):
            continue
        counted = [n for n in range(len(spans) - 1) if row["starts"][n + 1] - row["ends"][n] < PAUSE_S]
        last = np.array([spans[n][1] - 1 for n in counted], int)
        ends = np.array([row["ends"][n] for n in counted])
        found.append(Dated(attentions(model, utterances.mel(i), tokens, skip), last, ends))
        counts[corpus] = counts.get(corpus, 0) + 1
    return found


def error(dated: list[Dated], heads: tuple[Head, ...]) -> tuple[float, float]:
    """Mean, each error CAP_S at most, and median absolute error of the word ends, in seconds."""
    each = [np.abs(token_spans(np.mean([d.attention[h] for h in heads], 0))[d.last, 1] * 0.02 - d.ends)
            for d in dated if len(d.last)]
    all_ = np.concatenate(each)
    return float(np.minimum(all_, CAP_S).mean()), float(np.median(all_))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    for name in ("features", "labels", "dates", "vocabulary"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--utterances", type=int, default=50, help="of each corpus")
    args = parser.parse_args()
    dated = collect(args)
    print(f"{len(dated)} utterances, {sum(len(d.last) for d in dated)} words")
    single = {(h,): error(dated, (h,)) for h in dated[0].attention}
    ranked = sorted(single, key=single.get)[:BEST]
    heads, best = ranked[0], single[ranked[0]]
    while True:
        print(f"{heads}: mean {1000 * best[0]:.1f} ms, median {1000 * best[1]:.0f} ms", flush=True)
        near = [heads + r for r in ranked if r[0] not in heads]
        near += [tuple(h for h in heads if h != out) for out in heads if len(heads) > 1]
        tried = {tuple(sorted(h)): error(dated, h) for h in near}
        chosen = min(tried, key=tried.get)
        if tried[chosen][0] >= best[0] - 0.0005:  # half a millisecond is worth no head
            return
        heads, best = chosen, tried[chosen]


if __name__ == "__main__":
    main()
