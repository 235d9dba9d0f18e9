"""What hot words bring and cost: rare words recalled and inserted, errors of the rest, time per second of audio.

    python -m tools.evaluate_hotwords dev.jsonl --common train.jsonl --sizes 100 1000 10000 --part report
    python -m tools.evaluate_hotwords dev.jsonl --common train.jsonl --sizes 1000 10000 --time --latency 320 --limit 20

The manifest has a JSON line for each recording: `audio` (a path, relative to the manifest), `text`. Rare are the words of
its texts that are not among the commonest of another manifest. Each recording is given the list that its rare words are in,
filled up to its size with rare words of the other recordings, then of the other manifest, then with words of the voices' lexicon
(as Le et al. 2021 do: Contextualized streaming end-to-end speech recognition). Words are compared after Whisper's English
normaliser. A rare word is recalled where the hypothesis has it in its place; a hot word is inserted where it is in the
hypothesis and the reference has another word or none in its place; the rest are all other words.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import zlib
from collections import Counter
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

BLOCK_S = 0.02


@dataclass
class Counts:
    """Of one list over recordings."""

    words: int = 0  # of the references
    rare: int = 0
    missed: int = 0  # rare words that are missed without hot words
    recalled: int = 0  # of these
    lost: int = 0  # rare words that are missed only with hot words
    inserted: int = 0  # hot words that were not said there
    inserted_before: int = 0  # the same words without hot words
    rest: int = 0
    rest_errors: int = 0
    rest_errors_before: int = 0
    errors: int = 0
    errors_before: int = 0

    def line(self) -> str:
        def percent(a: int, b: int) -> float:
            return 100 * a / max(b, 1)

        return (
            f"recalled {self.recalled}/{self.missed} of the missed ({percent(self.recalled, self.missed):.1f} %), lost "
            f"{self.lost}/{self.rare - self.missed}; hot words inserted {percent(self.inserted, self.words):.2f} % of the "
            f"words (without: {percent(self.inserted_before, self.words):.2f} %); WER of the rest "
            f"{percent(self.rest_errors, self.rest):.2f} (without: {percent(self.rest_errors_before, self.rest):.2f}), "
            f"of all {percent(self.errors, self.words):.2f} (without: {percent(self.errors_before, self.words):.2f})"
        )


def judge(
    reference: list[str], before: list[str], after: list[str], rare: set[str], hot: set[str]
) -> Counts:
    """One recording: what was said, what was understood without and with the hot words."""
    from tools._scoring import count_errors, matches

    kept = {i for i, _ in matches(reference, before)}
    found = {i for i, _ in matches(reference, after)}
    places = [i for i, w in enumerate(reference) if w in rare]
    c = Counts(words=len(reference), rare=len(places))
    c.missed = sum(i not in kept for i in places)
    c.recalled = sum(i not in kept and i in found for i in places)
    c.lost = sum(i in kept and i not in found for i in places)
    c.inserted, c.rest_errors = _others(reference, after, rare, hot)
    c.inserted_before, c.rest_errors_before = _others(reference, before, rare, hot)
    c.rest = len(reference) - len(places)
    c.errors = count_errors(reference, after).total
    c.errors_before = count_errors(reference, before).total
    return c


def _others(
    reference: list[str], said: list[str], rare: set[str], hot: set[str]
) -> tuple[int, int]:
    """Hot words that were not said, and errors in words that are not rare."""
    from tools._scoring import alignment

    inserted = errors = 0
    for i, j in alignment(reference, said):
        same = i is not None and j is not None and reference[i] == said[j]
        if same:
            continue
        inserted += j is not None and said[j] in hot
        errors += reference[i] not in rare if i is not None else j is not None
    return inserted, errors


def words_of(rows: list[dict], normalise: Any) -> Counter:
    return Counter(w for r in rows for w in normalise(r["text"]).split())


def lexicon() -> list[str]:
    """The words of the voices' pronouncing lexicon."""
    packed = resources.files("speechstream.text.en").joinpath("data/lexicon.bin").read_bytes()
    entries = zlib.decompress(packed).decode("utf-8").splitlines()
    words = (line.split("\t")[0] for line in entries)
    return [w for w in words if w.isalpha() and w.isascii() and len(w) > 3]


def listed(own: list[str], sources: list[list[str]], size: int, seed: int) -> list[str]:
    """A list of `size` words: its own, and of each source in turn what has room, drawn at random."""
    rng = random.Random(seed)
    out = dict.fromkeys(own)
    for source in sources:
        left = [w for w in source if w not in out]
        rng.shuffle(left)
        out |= dict.fromkeys(left[: max(size - len(out), 0)])
    return list(out)


def transcribed(asr: Any, audio: Any, latency: int | None, words: list[str] | None) -> str:
    samples, rate = audio
    t = asr.transcribe(samples, sample_rate=rate, latency_ms=latency, hotwords=words or None)
    return str(t.text)


def timed(asr: Any, audio: Any, latency: int | None, words: list[str] | None) -> float:
    """Seconds of the processor for a recording as a stream in blocks of 20 ms."""
    samples, rate = audio
    stream = asr.stream(latency, rate, hotwords=words or None)
    size = round(BLOCK_S * rate)
    began = time.process_time()
    for at in range(0, len(samples), size):
        stream.push(samples[at : at + size])
    stream.finish()
    return time.process_time() - began


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument(
        "--common", type=Path, required=True, help="manifest whose words are counted"
    )
    parser.add_argument("--common-size", type=int, default=5000, help="commonest words, not rare")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000, 10000])
    parser.add_argument("--latency", default="offline", help="ms, or offline")
    parser.add_argument("--decoder", choices=("attention", "transducer", "ctc"))
    parser.add_argument("--model", help="the folder of another bundle than the embedded one")
    parser.add_argument("--part", choices=("tune", "report", "all"), default="all")
    parser.add_argument("--limit", type=int, help="recordings, drawn at random")
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("--scale", type=float, nargs=3, help="nats: see asr.biasing.Scale")
    parser.add_argument("--time", action="store_true", help="measure time, not words")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)

    from speechstream.asr import biasing
    from speechstream.asr.recognizer import Recognizer
    from speechstream.audio.io import read
    from tools._scoring import english_normaliser

    if args.scale:
        biasing.ATTENTION = biasing.TRANSDUCER = biasing.CTC = biasing.Scale(*args.scale)
    normalise = english_normaliser()
    rows = [json.loads(line) for line in open(args.manifest, encoding="utf-8")]
    train = [json.loads(line) for line in open(args.common, encoding="utf-8")]
    counted = [w for w, _ in words_of(train, normalise).most_common()]
    common = set(counted[: args.common_size])
    rare_of = [
        sorted(w for w in set(normalise(r["text"]).split()) if w not in common) for r in rows
    ]
    rare_of = [[w for w in words if w.isalpha()] for words in rare_of]
    rare = {w for words in rare_of for w in words}
    others = [w for w in counted[args.common_size :] if w.isalpha() and w not in rare]
    filling = [w for w in lexicon() if w.lower() not in common | rare]
    order = list(range(len(rows)))
    random.Random(1).shuffle(order)
    half = len(order) // 2
    order = {"tune": order[:half], "report": order[half:], "all": order}[args.part][: args.limit]
    latency = None if args.latency == "offline" else int(args.latency)
    asr = Recognizer.load(args.model, decoder=args.decoder)
    print(f"{len(order)} recordings, {len(rare)} rare words, {len(filling)} others", flush=True)
    audio = {i: read(args.manifest.parent / rows[i]["audio"]) for i in order}

    def hot(i: int, size: int) -> list[str]:
        # where all of the rare words have room all recordings share one list
        seed, own = (0, sorted(rare)) if size >= len(rare) else (i, rare_of[i])
        return listed(own, [sorted(rare), others, filling], size, seed)

    if args.time:
        report_time(asr, order, audio, latency, args.sizes, hot)
        return
    before = {i: normalise(transcribed(asr, audio[i], latency, None)).split() for i in order}
    totals = {}
    for size in args.sizes:
        total = Counts()
        for i in order:
            words = hot(i, size)
            given = [(w, args.weight) for w in words]
            after = normalise(transcribed(asr, audio[i], latency, given)).split()
            spelt = {v for w in words for v in normalise(w).split()} - common
            one = judge(normalise(rows[i]["text"]).split(), before[i], after, rare, spelt)
            total = Counts(*(a + b for a, b in zip(asdict(total).values(), asdict(one).values())))
        totals[size] = asdict(total)
        print(f"{size:6d} phrases: {total.line()}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(totals, indent=1))


def report_time(
    asr: Any, order: list[int], audio: dict, latency: int | None, sizes: list[int], hot: Any
) -> None:
    """Time with each list over time without, recording by recording, the order alternating."""
    import numpy as np

    lists = {0: None} | {size: hot(order[0], size) for size in sizes}
    for words in lists.values():  # compiled, and everything loaded
        timed(asr, audio[order[0]], latency, words)
    took: dict[int, list[float]] = {size: [] for size in lists}
    for n, i in enumerate(order):
        turn = list(lists.items())
        for size, words in turn if n % 2 else reversed(turn):
            took[size].append(timed(asr, audio[i], latency, words))
    seconds = sum(len(audio[i][0]) / audio[i][1] for i in order)
    for size, values in took.items():
        ratios = np.array(values) / np.array(took[0])
        print(
            f"{size:6d} phrases: {sum(values) / seconds:.4f} s per second of audio, {sum(values) / sum(took[0]):.3f} of the "
            f"time without (median over recordings {np.median(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
