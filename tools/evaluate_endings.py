"""Words that are lost where sound ends right behind speech.

    python -m tools.evaluate_endings MANIFEST.jsonl [--clips 100] [--words 50] [--latency offline 320]

Each recording is cut where its last word ends, and single words are cut out of recordings. What is heard of a cut, and of
the same cut before a second of silence, is aligned word by word (Levenshtein, after Whisper's normaliser) with what is heard
of the recording before it was cut, a second of silence behind it; of a single word, with the cut before silence. Counted
are words lost, added and changed; what is lost more often without the silence is lost to the ending.
MANIFEST.jsonl: an object with "audio", a path relative to the manifest, on each line.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

import speechstream as ss
from tools._scoring import Errors, count_errors, english_normaliser

SILENCE_S = 1.0


@dataclass(frozen=True)
class Cut:
    """Samples that end right behind a word, and those that they were cut from; None for a word without its sentence."""

    samples: np.ndarray
    rate: int
    whole: np.ndarray | None = None

    def silent(self, samples: np.ndarray) -> np.ndarray:
        """With silence behind."""
        return np.concatenate([samples, np.zeros(int(SILENCE_S * self.rate), np.float32)])


def cuts(asr: ss.Recognizer, manifest: Path, clips: int, words: int) -> tuple[list, list]:
    """Recordings cut at the end of their last word, and single words."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(0)
    rng.shuffle(rows)
    whole, single = [], []
    for row in rows:
        if len(whole) >= clips and len(single) >= words:
            break
        x, rate = sf.read(manifest.parent / row["audio"], dtype="float32")
        segments = asr.transcribe(x, rate).segments
        found = [w for s in segments for w in s.words]
        if len(found) < 2:
            continue
        if len(whole) < clips:
            whole.append(Cut(x[: int(found[-1].end * rate)], rate, x))
        if len(single) < words:
            long = [w for w in found[1:] if 0.25 <= w.end - w.start <= 0.6]
            if long:
                w = rng.choice(long)
                single.append(Cut(x[int(w.start * rate) : int(w.end * rate)], rate))
    return whole, single


def compare(asr: ss.Recognizer, sounds: list[Cut], latency_ms: int | None) -> dict[str, object]:
    """Over all sounds: words heard of the whole, and what of them is otherwise in the cuts, without and with silence."""
    normalise = english_normaliser()
    errors, words, differ = {"without": Errors(), "with": Errors()}, 0, 0
    for cut in sounds:

        def heard(samples: np.ndarray, rate: int = cut.rate) -> list[str]:
            return normalise(asr.transcribe(samples, rate, latency_ms=latency_ms).text).split()

        bare, silent = heard(cut.samples), heard(cut.silent(cut.samples))
        reference = silent if cut.whole is None else heard(cut.silent(cut.whole))
        words += len(reference)
        errors["without"] += count_errors(reference, bare)
        errors["with"] += count_errors(reference, silent)
        differ += bare != silent
    counted = {
        f"{name} silence": f"{e.deletions} lost, {e.insertions} added, {e.substitutions} changed"
        for name, e in errors.items()
    }
    return {"cuts": len(sounds), "words": words, **counted, "texts differ": differ}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--words", type=int, default=50)
    parser.add_argument("--latency", nargs="+", default=["offline", "320"])
    parser.add_argument("--decoder")
    args = parser.parse_args()
    asr = ss.Recognizer.load(decoder=args.decoder)
    whole, single = cuts(asr, args.manifest, args.clips, args.words)
    for latency in args.latency:
        milliseconds = None if latency == "offline" else int(latency)
        for name, sounds in (("recordings", whole), ("single words", single)):
            print(latency, name, compare(asr, sounds, milliseconds), flush=True)


if __name__ == "__main__":
    main()
