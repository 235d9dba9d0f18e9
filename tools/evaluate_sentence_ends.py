"""End of turn by the marks that a speech LLM writes: false cut-offs against the delay that is added, and by silence alone.

    python -m tools.evaluate_sentence_ends MANIFEST.jsonl --model BUNDLE [--limit 60] [--picture trade.png]

The rule and the pauses are those of `tools.evaluate_turns`: every pause within a recording is a hold, the silence behind it
an end, so that only sources count whose recordings are whole sentences (`SOURCES`). 128 ms into a pause a copy of the
stream is ended; the score is the probability of the mark that ends a sentence (`SpeechLlmFamily.sentence_end`), 0 where
the last that was written is none. Each line is the least share of cut-offs within a mean delay. Besides, of the ends: how
long after the last word's end in the sound the mark was said, by the frame in which the gate let it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from speechstream.asr.recognizer import Recognizer
from speechstream.asr.speech_llm.family import SpeechLlmFamily, SpeechLlmSegment
from speechstream.audio.vad import SAMPLE_RATE, Vad
from speechstream.runtime.requests import drive
from speechstream.runtime.session import load_vad
from tools._turn_pauses import DECIDE, WINDOW_S, find_pauses, read, with_tail
from tools._turns import Pauses, area, best

SCORED_S = DECIDE * WINDOW_S  # of silence, when the score is known
BUDGETS_S = np.round(np.arange(0.2, 1.01, 0.05), 2)
SOURCES = ("common_voice", "speechocean")


@dataclass(frozen=True)
class Scored:
    """A pause. said: seconds from its start to the mark's frame, None where there is no mark."""

    seconds: float
    score: float
    said: float | None


def sure(family: SpeechLlmFamily, s: SpeechLlmSegment) -> float:
    """The probability of the mark that ends the sentence which has been said last, 0 where none does."""
    return 0.0 if family.sentence_end(s) is None else math.exp(s.logprobs[-1])


def pauses_of(
    family: SpeechLlmFamily, vad: Vad, samples: np.ndarray, latency_ms: int
) -> list[Scored]:
    """The pauses of samples (n,) at 16 kHz, each judged from what had been heard by then."""
    sound, mode, found, at = with_tail(samples), family.mode(latency_ms), [], 0
    segment = family.open(mode)
    for pause in find_pauses(sound, vad):
        decided = round((pause.start + SCORED_S) * SAMPLE_RATE)
        if decided > len(sound):
            break
        segment = drive(family.feed(sound[at:decided], segment, mode))
        at = decided
        ended = drive(family.finish(segment, mode))
        end = family.sentence_end(ended)
        frame = None if end is None else (ended.at[-1] + 1) * family.frame_s
        said = None if frame is None else frame - pause.start
        found.append(Scored(pause.seconds, sure(family, ended), said))
    return found


def describe(found: list[Scored]) -> tuple[str, dict[str, list[tuple[float, float]]]]:
    """A table, and the curves of its picture."""
    p = Pauses(np.array([s.seconds for s in found]))
    scores = np.array([s.score for s in found])
    systems = {"silence": (np.zeros(len(found)), 0.0), "marks": (scores, SCORED_S)}
    curves = {n: partial(best, s, p, earliest=e) for n, (s, e) in systems.items()}
    points = {n: [(float(b), f(budget=b)[0]) for b in BUDGETS_S] for n, f in curves.items()}
    marked = scores > 0
    late = [1000 * s.said for s in found if s.said is not None and not np.isfinite(s.seconds)]
    lines = [
        f"{int(p.holds.sum())} holds, {int(p.ends.sum())} ends; marks at {100 * marked[p.ends].mean():.0f} % of the "
        f"ends and {100 * marked[p.holds].mean():.0f} % of the holds; AUC {area(scores, p):.2f}",
        f"mark said {np.median(late):.0f} ms after the silence began (median; 90 %: {np.percentile(late, 90):.0f})"
        if late
        else "no mark was said",
        "| mean delay, ms | " + " | ".join(f"{name}: cut off, %" for name in points) + " |",
        "|---" * (len(points) + 1) + "|",
    ]
    for n, b in enumerate(BUDGETS_S):
        if n % 2 == 0:
            cells = " | ".join(f"{100 * of[n][1]:.1f}" for of in points.values())
            lines.append(f"| {1000 * b:.0f} | {cells} |")
    return "\n".join(lines), points


def chosen(path: Path, limit: int | None, seed: int) -> list[Path]:
    of: dict[str, list[Path]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        name = next((s for s in SOURCES if row["source"].startswith(s)), None)
        if name:
            of[name].append(path.parent / row["audio"])
    rng = random.Random(seed)
    return [f for found in of.values() for f in rng.sample(found, min(limit or 10**9, len(found)))]


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("manifest", type=Path)
    p.add_argument("--model", type=Path, required=True)
    p.add_argument("--latency", type=int, default=160)
    p.add_argument("--limit", type=int, help="recordings of each source")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--picture", type=Path)
    args = p.parse_args()
    family, vad = Recognizer.load(args.model).family, load_vad()
    if not isinstance(family, SpeechLlmFamily):
        p.error(f"{args.model} is no speech LLM")
    files = chosen(args.manifest, args.limit, args.seed)
    found = [s for f in files for s in pauses_of(family, vad, read(f), args.latency)]
    table, points = describe(found)
    print(table)
    if args.picture is not None:
        from tools._pictures import cut_offs_against_delay

        cut_offs_against_delay(points, args.picture)


if __name__ == "__main__":
    main()
