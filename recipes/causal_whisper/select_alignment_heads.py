"""Choose the cross-attention heads that tell when words end, by the error of their word ends against a forced alignment.

    python -m recipes.causal_whisper.select_alignment_heads BUNDLE --features work/features/train --labels work/labels.jsonl --alignments work/alignments.jsonl \
        --vocabulary work/vocabulary --tokenizer BASE/tokenizer.json

The heads that openai/whisper publishes were chosen on another encoder and by another measure. Here sets grow head by
head, the best few of each size going on, by the mean error of word ends on training utterances; an error counts 300 ms
at most, and words before a pause are left out: the recogniser takes their ends from the pause. The best set of each
size is printed; one of small bias goes to `export.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch

from recipes.causal_whisper.data import FLOOR, Labels, Utterances, collate
from recipes.common.alignment import read_alignments
from speechstream import bundle
from speechstream.asr.timing import token_spans
from speechstream.asr.whisper.vocabulary import Vocabulary
from speechstream.nn.checkpoints import read_whisper
from speechstream.nn.whisper import Whisper

CHUNK = 128  # frames: words are confirmed, and dated, from chunks of 2560 ms
TAIL = 100  # mel frames of silence after each utterance
CAP_S = 0.3  # a larger error is no worse
PAUSE_S = 0.1
BEST = 16  # heads that are looked at further, by their error alone
BEAM = 4  # sets of each size that grow
MOST = 5  # heads in a set

Head = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Dated:
    attention: dict[Head, np.ndarray]  # (tokens, frames) each
    last: np.ndarray  # of each word that counts, its last token
    ends: np.ndarray  # and its end in seconds


@torch.no_grad()
def attentions(
    model: Whisper, mel: np.ndarray, tokens: list[int], skip: int
) -> dict[Head, np.ndarray]:
    """Where each head looks when it reads `tokens`, whose first `skip` are the prompt and whose last is the end."""
    x, lengths = collate([mel], [FLOOR], TAIL)
    keys, values = model.decoder.memory(model.encoder(x, lengths, CHUNK))
    queries: list[torch.Tensor] = []
    layers = [block.cross_attn for block in model.decoder.blocks]
    hooks = [a.query.register_forward_hook(lambda _, __, y: queries.append(y)) for a in layers]
    model.decoder.step(torch.tensor([tokens[:-1]]), model.decoder.init_state(1), keys, values)
    for hook in hooks:
        hook.remove()
    out = {}
    for i, (attention, query) in enumerate(zip(layers, queries)):
        q = attention.split(query)
        weights = (q * q.shape[-1] ** -0.5 @ keys[:, i].transpose(-1, -2)).softmax(-1)
        out |= {(i, j): weights[0, j, skip - 1 : -1].numpy() for j in range(model.config.heads)}
    return out


def collect(args: argparse.Namespace) -> list[Dated]:
    """Utterances drawn alike from each corpus, which is the folder their audio is in."""
    model = read_whisper(bundle.load(args.bundle))
    vocabulary = Vocabulary(args.vocabulary / "vocabulary.json")
    labels, utterances = (
        Labels(args.labels, args.vocabulary, args.tokenizer),
        Utterances(args.features),
    )
    alignments = read_alignments(args.alignments)
    found, counts = [], {}
    for i in np.random.default_rng(0).permutation(len(utterances.rows)):
        audio = utterances.rows[i]["audio"]
        corpus, row = str(Path(audio).parent), alignments.get(audio)
        if row is None or audio not in labels.rows or counts.get(corpus, 0) == args.utterances:
            continue
        tokens, skip = labels.tokens(audio), len(labels.prompt)
        spans = vocabulary.words(tokens[skip:-1])
        if len(spans) != len(row["ends"]):
            continue
        counted = [
            n for n in range(len(spans) - 1) if row["starts"][n + 1] - row["ends"][n] < PAUSE_S
        ]
        last = np.array([spans[n][1] - 1 for n in counted], int)
        ends = np.array([row["ends"][n] for n in counted])
        found.append(Dated(attentions(model, utterances.mel(i), tokens, skip), last, ends))
        counts[corpus] = counts.get(corpus, 0) + 1
    return found


def error(dated: list[Dated], heads: tuple[Head, ...]) -> tuple[float, float, float]:
    """Errors of the word ends in seconds: the mean, each counting CAP_S at most, the median, and the bias.

    The bias is taken out of the other two: single heads are early or late, and some such go well together.
    """
    signed = np.concatenate(
        [
            token_spans(np.mean([d.attention[h] for h in heads], 0))[d.last, 1] * 0.02 - d.ends
            for d in dated
            if len(d.last)
        ]
    )
    bias = np.median(signed)
    rest = np.abs(signed - bias)
    return float(np.minimum(rest, CAP_S).mean()), float(np.median(rest)), float(bias)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    for name in ("features", "labels", "alignments", "vocabulary"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--utterances", type=int, default=50, help="of each corpus")
    args = parser.parse_args()
    dated = collect(args)
    print(f"{len(dated)} utterances, {sum(len(d.last) for d in dated)} words")
    tried = {(h,): error(dated, (h,)) for h in dated[0].attention}
    ranked = [h for (h,) in sorted(tried, key=tried.get)[:BEST]]
    for _ in range(MOST):
        best = sorted(tried, key=tried.get)[:BEAM]
        mean, median, bias = (1000 * s for s in tried[best[0]])
        print(
            f"{best[0]}: mean {mean:.1f} ms, median {median:.0f} ms, bias {bias:+.0f} ms",
            flush=True,
        )
        larger = {tuple(sorted((*heads, h))) for heads in best for h in ranked if h not in heads}
        tried = {heads: error(dated, heads) for heads in sorted(larger)}


if __name__ == "__main__":
    main()
