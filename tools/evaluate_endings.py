"""Words that are lost where sound ends right behind speech.

    python -m tools.evaluate_endings MANIFEST.jsonl [--clips 100] [--words 50] [--latency offline 320]

Each recording is cut where its last word ends, and single words are cut out of recordings. What is heard of a cut is
compared with what is heard of it before a second of silence: words missing at the end, or said twice, are counted.
MANIFEST.jsonl: an object with "audio", a path relative to the manifest, on each line.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
import soundfile as sf

import speechstream as ss
from tools._scoring import english_normaliser

SILENCE_S = 1.0


def cuts(asr: ss.Recognizer, manifest: Path, clips: int, words: int) -> tuple[list, list]:
    """(samples, rate) of recordings cut at the end of their last word, and of single words."""
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
            whole.append((x[: int(found[-1].end * rate)], rate))
        if len(single) < words:
            long = [w for w in found[1:] if 0.25 <= w.end - w.start <= 0.6]
            if long:
                w = rng.choice(long)
                single.append((x[int(w.start * rate) : int(w.end * rate)], rate))
    return whole, single


def compare(asr: ss.Recognizer, sounds: list, latency_ms: int | None) -> dict[str, int]:
    """Over all sounds: words heard with silence behind, and of them those that are missing or doubled without."""
    normalise = english_normaliser()
    said = lost = more = differ = 0
    for x, rate in sounds:
        silent = np.concatenate([x, np.zeros(int(SILENCE_S * rate), np.float32)])
        with_silence = normalise(asr.transcribe(silent, rate, latency_ms=latency_ms).text).split()
        without = normalise(asr.transcribe(x, rate, latency_ms=latency_ms).text).split()
        said += len(with_silence)
        lost += max(len(with_silence) - len(without), 0)
        more += max(len(without) - len(with_silence), 0)
        differ += with_silence != without
    return {"cuts": len(sounds), "words": said, "lost": lost, "added": more, "texts differ": differ}


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
