"""Hours of speech through one stream: does memory stay flat, does a chunk's time, and is any text lost?

    python -m tools.soak_asr --manifest dev.jsonl --hours 10

Recordings of the manifest follow each other in random order, with pauses of 0.1 to 10 s between them (so that some run
together and some do not), in blocks of 100 ms through one stream. Every half hour of audio a line tells the resident
memory, the processing time over audio time and the word errors of that half hour; words belong to the recording
during which they were said. The same recordings each in a stream of its own are the measure of what is lost.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tools._scoring import Errors, count_errors, english_normaliser

RATE = 16_000
REPORT_S = 1800
SETTLED_S = 40  # no segment is longer: what was said before has been written


@dataclass
class Said:
    """A recording in the stream, from `start` to `end` seconds of it, and the words that were heard in it."""

    text: str
    start: float
    end: float
    words: list[str] = field(default_factory=list)


def resident_mb() -> tuple[float, float]:
    """Memory of this process now, not its peak: its own, and pages of files that are mapped (libraries, weights: the
    embeddings of words are read when they are first said), which the system may take back."""
    with open("/proc/self/status", encoding="utf-8") as f:
        kb = {
            name: int(rest.split()[0])
            for name, _, rest in (x.partition(":") for x in f)
            if name[:3] == "Rss"
        }
    return (kb["RssAnon"] + kb["RssShmem"]) / 1024, kb["RssFile"] / 1024


def samples_of(path: Path) -> np.ndarray:
    """A recording, mono at 16 kHz."""
    from speechstream.audio import Resampler, read, to_mono

    samples, rate = read(path)
    samples = to_mono(samples)
    return samples if rate == RATE else Resampler(rate, RATE)(samples[None])[0]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--hours", type=float, default=10)
    parser.add_argument("--latency", type=int, default=640)
    parser.add_argument("--beam", type=int)
    parser.add_argument("--model", help="a bundle's folder; the embedded one by default")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from speechstream import Final, Recognizer
    from speechstream.runtime.memory import trim

    rows = [json.loads(line) for line in open(args.manifest, encoding="utf-8")]
    asr, rng, normal = (
        Recognizer.load(args.model, beam=args.beam),
        random.Random(args.seed),
        english_normaliser(),
    )

    def errors(reference: str, words: list[str]) -> Errors:
        return count_errors(normal(reference).split(), normal(" ".join(words)).split())

    stream, heard, open_ = asr.stream(args.latency), 0.0, []
    began, reported, first, part, whole = time.process_time(), 0.0, None, Errors(), Errors()

    def take(events: list) -> None:
        for word in (w for e in events if isinstance(e, Final) for w in e.words):
            middle = (word.start + word.end) / 2
            min(open_, key=lambda s: max(s.start - middle, middle - s.end)).words.append(word.text)

    def settle(before: float) -> None:
        nonlocal part, whole
        while open_ and open_[0].end < before:
            done = open_.pop(0)
            count = errors(done.text, done.words)
            part, whole = part + count, whole + count

    while heard < 3600 * args.hours:
        row = rng.choice(rows)
        samples = samples_of(args.manifest.parent / row["audio"])
        open_.append(Said(row["text"], heard, heard + len(samples) / RATE))
        pause = rng.choice([0.1, 0.5, 2, 10])
        samples = np.concatenate([samples, np.zeros(int(RATE * pause), np.float32)])
        for i in range(0, len(samples), RATE // 10):
            take(stream.push(samples[i : i + RATE // 10]))
        heard += len(samples) / RATE
        if heard - reported >= REPORT_S and pause == 10:  # nobody speaks: what is held, is kept
            settle(heard - SETTLED_S)
            trim()  # a live stream would have had the time to: this one has seconds for a minute
            spent, (memory, files) = time.process_time() - began, resident_mb()
            first = memory if first is None else first
            print(
                f"{heard / 3600:5.2f} h  {memory:6.1f} MB ({memory - first:+.1f}), of files {files:.1f}  time / audio time "
                f"{spent / (heard - reported):.3f}  WER {100 * part.wer:.1f} %, {100 * part.deletions / part.words:.1f} % "
                f"left out, of {part.words} words",
                flush=True,
            )
            began, reported, part = time.process_time(), heard, Errors()
    take(stream.finish())
    settle(float("inf"))
    print(
        f"one stream of {heard / 3600:.1f} h: WER {100 * whole.wer:.2f} %, {100 * whole.deletions / whole.words:.2f} % left out"
    )

    rng, heard, alone = random.Random(args.seed), 0.0, {}
    for row in rows:
        own = asr.transcribe(samples_of(args.manifest.parent / row["audio"]), RATE, args.latency)
        alone[row["audio"]] = errors(row["text"], [own.text])
    counted = Errors()
    while heard < 3600 * args.hours:  # the same draw again
        row = rng.choice(rows)
        counted += alone[row["audio"]]
        heard += row["duration_s"] + rng.choice([0.1, 0.5, 2, 10])
    print(
        f"each alone: WER {100 * counted.wer:.2f} %, {100 * counted.deletions / counted.words:.2f} % left out"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
