"""What this checkout hears and says, to compare with another one: texts, word times, sound, CPU time.

    python -m tools.compare_output --manifest dev.jsonl --out before/      # in one checkout
    python -m tools.compare_output --manifest dev.jsonl --out after/       # in the other
    python -m tools.compare_output before/ after/

The manifest has a line of JSON for each recording: "audio" (relative to it) and "source". Of each source the first
`--count` recordings are heard offline and at two latencies; the first 20 held-out sentences of the voice's recipe are
spoken. The comparison prints every difference, and exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import soundfile as sf

LATENCIES_MS = (None, 640, 160)
BLOCK_S = 0.1
HELD_OUT = Path(__file__).parents[1] / "recipes" / "blockwise_tts" / "heldout.txt"


def hear(manifest: Path, count: int) -> dict:
    """Text and words of recordings at each latency, and CPU time over audio time."""
    import speechstream as ss

    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    taken: dict[str, list] = {}
    for row in rows:
        same = taken.setdefault(row["source"].split()[0], [])
        if len(same) < count:
            same.append(row)
    asr, out = ss.Recognizer.load(), {}
    for latency in LATENCIES_MS:
        begun, seconds = time.process_time(), 0.0
        for row in (r for rows in taken.values() for r in rows):
            x, rate = sf.read(manifest.parent / row["audio"], dtype="float32")
            seconds += len(x) / rate
            size = int(BLOCK_S * rate)
            with asr.stream(latency_ms=latency, sample_rate=rate) as stream:
                events = [e for i in range(0, len(x), size) for e in stream.push(x[i : i + size])]
                events += stream.finish()
            finals = [e for e in events if type(e).__name__ == "Final"]
            out[f"{row['audio']} at {latency or 'offline'}"] = {
                "text": " ".join(f.text for f in finals),
                "words": [[w.text, w.start, w.end] for f in finals for w in f.words],
            }
        print(f"{latency or 'offline'}: CPU {(time.process_time() - begun) / seconds:.4f} of audio")
    return out


def say(folder: Path) -> dict:
    """Sound and words of sentences; the sound goes to `folder`."""
    import speechstream as ss

    tts, out, first = ss.Synthesizer.load(), {}, []
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    for n, sentence in enumerate([line.strip() for line in lines if line.strip()][:20]):
        begun = time.process_time()
        with tts.stream() as stream:
            stream.push(sentence)
            stream.end()
            blocks = [next(stream)]
            first.append(time.process_time() - begun)
            blocks += list(stream)
        np.save(folder / f"{n}.npy", np.concatenate([b.pcm for b in blocks]))
        out[sentence] = [[w.text, w.start, w.end] for b in blocks for w in b.words]
    print(f"first block: CPU {1000 * np.median(first):.1f} ms (median)")
    return out


def compare(one: Path, other: Path) -> int:
    """Print the differences: how many there are."""
    a, b = (json.loads((p / "output.json").read_text(encoding="utf-8")) for p in (one, other))
    words = different = times = 0
    for name, heard in a["heard"].items():
        words += len(heard["text"].split())
        if heard["text"] != b["heard"][name]["text"]:
            different += 1
            print(f"{name}\n  {heard['text']}\n  {b['heard'][name]['text']}")
        elif heard["words"] != b["heard"][name]["words"]:
            times += 1
    sounds = 0.0
    for n, sentence in enumerate(a["said"]):
        x, y = np.load(one / f"{n}.npy"), np.load(other / f"{n}.npy")
        sounds = max(sounds, np.abs(x - y).max() if x.shape == y.shape else np.inf)
        times += a["said"][sentence] != b["said"][sentence]
    print(
        f"{len(a['heard'])} transcripts of {words} words: {different} differ; {times} differ in times "
        f"only; {len(a['said'])} sentences: sound differs by at most {sounds:.1e}"
    )
    return different + times + (sounds > 1e-6)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="two folders to compare")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--count", type=int, default=20, help="recordings of each source")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if len(args.folders) == 2:
        return int(compare(*args.folders) > 0)
    if args.folders or not (args.manifest and args.out):
        parser.error("give two folders to compare, or --manifest and --out")
    args.out.mkdir(parents=True, exist_ok=True)
    output = {"heard": hear(args.manifest, args.count), "said": say(args.out)}
    (args.out / "output.json").write_text(json.dumps(output, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
