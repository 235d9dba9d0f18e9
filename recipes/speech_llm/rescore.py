"""Whether a language model chooses better among what the default decoder considers: n-best rescoring.

    python -m recipes.speech_llm.rescore list DATA/train.jsonl work/nbest_train.jsonl --limit 40
    python -m recipes.speech_llm.rescore list DATA/dev.jsonl work/nbest_dev.jsonl --limit 40
    python -m recipes.speech_llm.rescore weigh work/nbest_train.jsonl work/nbest_dev.jsonl

`list` hears each recording offline with the embedded recogniser and a beam of eight, and writes what the beam considered:
of each hypothesis the decoder's log-probability (from the first doubt on: they agree before it), that of the language
model (SmolLM2-135M-Instruct, its own tokens), and that of the decoder without sound, its internal language model.
`weigh` chooses the weights on the first file and counts words wrong on the second. Interrupted, `list` goes on where it
ended.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.args import parser
from speechstream import Recognizer
from speechstream.asr import beam as beams
from speechstream.asr.search import log_softmax
from speechstream.asr.whisper.attention import AttentionDecoder
from speechstream.export.brain import embedded
from speechstream.lm.model import LanguageModel
from tools._scoring import Errors, count_errors, english_normaliser
from tools.evaluate_asr import set_name

BEAM = 8
MOST = 6  # hypotheses that the language model reads
START = "<|endoftext|>"  # what its texts were divided by

Row = dict[str, Any]


class Listing(AttentionDecoder):
    """The default decoder, and what its last search considered."""

    found: list[list[tuple[float, list[int]]]]  # of each stretch of speech

    def rescore(self, d, model, state, limit, end, final):  # type: ignore[no-untyped-def]
        if not final:
            return d, state
        found = yield from beams.search(
            self, self.beam, d, model, state, limit, end, final, limit + 1
        )
        self.found.append([(score, list(h.tokens)) for score, h, _ in found])
        _, best, read = max(found, key=lambda f: f[0])
        return best, read


@dataclass
class Scorer:
    """Log-probabilities of texts by the language model, and of tokens by the decoder that hears nothing."""

    lm: LanguageModel
    family: Any

    def text(self, texts: list[str]) -> tuple[list[float], int]:
        """Of each, and how many tokens were read."""
        start = self.lm.tokenizer.id(START)
        ids = [[start, *self.lm.tokenizer.encode(" " + t)] for t in texts]
        said = self.lm.propose([i[:-1] for i in ids], self.lm.init_state(len(ids))).logits
        return [_along(logits, i[1:]) for logits, i in zip(said, ids)], sum(map(len, ids))

    def without_sound(self, tokens: list[list[int]]) -> list[float]:
        networks, v = self.family.networks, self.family.decoder.vocabulary
        t = networks.decoder_state().keys
        silent = np.zeros((1, t.shape[1], t.shape[2], 16, t.shape[4]), np.float32)
        found = []
        for one in tokens:
            fed = np.array([v.prompt + one], np.int64)
            said, _ = networks.decode(
                fed,
                silent,
                silent,
                np.ones((1, 16), bool),
                networks.decoder_state(),
                len(v.prompt) - 1,
            )
            found.append(_along(said.logits[0][:, : v.end + 1], [*one, v.end]))
        return found


def _along(logits: np.ndarray, ids: list[int]) -> float:
    scores = log_softmax(logits.astype(np.float64))
    return float(scores[np.arange(len(ids)), ids].sum())


def list_hypotheses(manifest: Path, out: Path, limit: int, seed: int) -> None:
    asr = Recognizer.load()
    family: Any = asr.family
    decoder = Listing(family.decoder.vocabulary, beam=BEAM)
    family.decoder = decoder
    scorer = Scorer(LanguageModel.load(embedded()), family)
    done = {r["audio"] for r in _rows(out)} if out.exists() else set()
    with open(out, "a", encoding="utf-8") as f:
        for row in _chosen(manifest, limit, seed):
            if row["audio"] in done:
                continue
            decoder.found, began = [], time.process_time()
            asr.transcribe(manifest.parent / row["audio"])
            heard = time.process_time() - began
            began = time.process_time()
            row |= {"lm_tokens": 0, "heard_s": heard, "segments": []}
            for found in decoder.found:
                best = sorted(found, key=lambda h: -h[0])[:MOST]
                texts = [family.decoder.vocabulary.text(t) for _, t in best]
                lm, internal = [0.0] * len(best), [0.0] * len(best)
                if len(set(texts)) > 1 and all(texts):
                    lm, tokens = scorer.text(texts)
                    internal = scorer.without_sound([t for _, t in best])
                    row["lm_tokens"] += tokens
                scores = [s for s, _ in best]
                row["segments"].append([list(h) for h in zip(texts, scores, lm, internal)])
            row["lm_s"] = time.process_time() - began
            f.write(json.dumps(row) + "\n")
            f.flush()


def _chosen(manifest: Path, limit: int, seed: int) -> list[Row]:
    """At most `limit` recordings of each set, the sets in turn."""
    sets: dict[str, list[Row]] = {}
    for row in _rows(manifest):
        if row.get("text"):
            sets.setdefault(set_name(row["source"]), []).append(row)
    for name in sorted(sets):
        random.Random(seed).shuffle(sets[name])
    turns = itertools.zip_longest(*(sets[n][:limit] for n in sorted(sets)))
    return [row for turn in turns for row in turn if row]


def _rows(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


class Counted:
    """Recordings whose word errors can be counted for any choice among their hypotheses."""

    def __init__(self, path: Path):
        self.normal, self.rows = english_normaliser(), list(_rows(path))
        self.sets = [set_name(r["source"]) for r in self.rows]

    def chosen(self, lm: float, internal: float, word: float) -> list[str]:
        """The texts with the best scores under these weights."""

        def score(h: list[Any]) -> float:
            total: float = h[1] + lm * h[2] - internal * h[3] + word * len(h[0].split())
            return total

        return [" ".join(max(s, key=score)[0] for s in r["segments"]) for r in self.rows]

    def best_pick(self) -> list[str]:
        """Of each stretch of speech the hypothesis that is most like the reference, found one after the other."""
        texts = []
        for r in self.rows:
            picks = [max(s, key=lambda h: h[1])[0] for s in r["segments"]]
            for i, s in enumerate(r["segments"]):
                trials = [[*picks[:i], h[0], *picks[i + 1 :]] for h in s]
                picks = min(trials, key=lambda p: self._errors(r, " ".join(p)).total)
            texts.append(" ".join(picks))
        return texts

    def _errors(self, row: Row, text: str) -> Errors:
        return count_errors(self.normal(row["text"]).split(), self.normal(text).split())

    def wer(self, texts: list[str]) -> dict[str, float]:
        """Words wrong in percent, by set."""
        sums: dict[str, Errors] = {}
        for name, text, row in zip(self.sets, texts, self.rows):
            one = self._errors(row, text)
            for n in (name, "all"):
                sums[n] = sums.get(n, Errors()) + one
        return {n: round(100 * e.wer, 2) for n, e in sorted(sums.items())}


def weigh(train: Path, dev: Path) -> None:
    a, b = Counted(train), Counted(dev)
    grid = itertools.product(
        np.arange(0, 0.65, 0.05), (0.0, 0.5, 1.0), (0.0, 0.25, 0.5, 1.0)
    )  # of the second, a share of the first
    tried = [(a.wer(a.chosen(lm, lm * i, w))["all"], lm, lm * i, w) for lm, i, w in grid]
    _, lm, internal, word = min(tried)
    print(f"chosen on {len(a.rows)}: lm {lm:.2f}, internal {internal:.2f}, word {word:.2f}")
    for name, c in (("train", a), ("dev", b)):
        print(name, len(c.rows), "decoder  ", c.wer(c.chosen(0, 0, 0)))
        print(name, len(c.rows), "rescored ", c.wer(c.chosen(lm, internal, word)))
        print(name, len(c.rows), "best pick", c.wer(c.best_pick()))
        read = sum(r["lm_tokens"] for r in c.rows)
        lm_s, heard = sum(r["lm_s"] for r in c.rows), sum(r["heard_s"] for r in c.rows)
        print(name, f"tokens read {read}, {lm_s / max(heard, 1e-9):.2f} of the recogniser's time")
    print("dev along the language model's weight, no other:")
    for lm in np.arange(0, 0.65, 0.1):
        print(f"  {lm:.1f}", b.wer(b.chosen(lm, 0, 0)), b.wer(b.chosen(lm, lm, 0)))


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    parts = p.add_subparsers(dest="part", required=True)
    one = parts.add_parser("list")
    one.add_argument("manifest", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--limit", type=int, default=40, help="recordings of each set")
    one.add_argument("--seed", type=int, default=0)
    two = parts.add_parser("weigh")
    two.add_argument("train", type=Path)
    two.add_argument("dev", type=Path)
    args = p.parse_args(arguments)
    if args.part == "list":
        list_hypotheses(args.manifest, args.out, args.limit, args.seed)
    else:
        weigh(args.train, args.dev)


if __name__ == "__main__":
    main()
