"""What the recogniser knows at every pause of recordings: one file of arrays for each recording.

    python -m recipes.end_of_turn.prepare MANIFEST.jsonl --out work/train --count 300 [--worker 0/2]

Each recording is heard as a conversation hears it. At 128 ms of silence a copy of the stream is ended, as
`speechstream.duplex` does, and what the head would be given is stored. Recordings that are done are skipped, so the command
can be interrupted and given again; several workers share a folder.

MANIFEST.jsonl: "audio" (relative to it), "speaker", "source" on each line. A source whose name begins with one of `--joined`
is read on from line to line by one speaker: whether a recording ends with a sentence is then asked of the recogniser, which
hears the next one behind it; elsewhere each recording is a whole sentence.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipes.common.args import parser
from speechstream.asr.recognizer import Recognizer, Stream
from speechstream.asr.whisper.family import WhisperFamily, WhisperSegment
from speechstream.audio.vad import SAMPLE_RATE
from speechstream.duplex.session import RULES
from speechstream.events import Final
from speechstream.runtime.requests import Work
from speechstream.runtime.session import load_vad
from tools._turn_pauses import CLOSING, DECIDE, WINDOW_S, find_pauses, read, with_tail

LATENCY_MS = 1280  # the copy's last pass is the same for all
JOIN_S = 6.0


class Listening(WhisperFamily):
    """The recogniser's encoder without its decoder: it writes nothing."""

    def _decode(self, s: WhisperSegment, final: bool) -> Work[WhisperSegment]:
        yield from ()
        return s


class Recorder:
    """In the place of a head: keeps what it is given."""

    def __init__(self) -> None:
        self.last: np.ndarray | None = None

    def __call__(self, frames: np.ndarray) -> float:
        self.last = frames
        return 0.0


def boundary(words: Sequence[Any], at: float) -> str:
    """The mark behind the last word that has ended by then: one of . ? ! , or ""."""
    before = [w.text for w in words if (w.start + w.end) / 2 < at]
    last = before[-1][-1:] if before else ""
    return last if last in (*CLOSING, ",") else "," if last in ";:-—" and last else ""


def hear(
    samples: np.ndarray, recognizer: Recognizer, vad: Any, marks: bool
) -> Iterator[dict[str, Any]]:
    """What is known at each pause of a recording (n,) at 16 kHz. marks: with the mark that stands there in the whole."""
    sound = with_tail(samples)
    recorder = Recorder()
    stream = Stream(recognizer.core(LATENCY_MS, rules=RULES).telling(recorder))
    whole = recognizer.transcribe(samples, SAMPLE_RATE).words if marks else ()
    finals: list[str] = []
    at = 0
    for pause in find_pauses(sound, vad):
        decided = round((pause.start + DECIDE * WINDOW_S) * SAMPLE_RATE)
        if decided > len(sound):
            return
        finals += [e.text for e in stream.push(sound[at:decided]) if isinstance(e, Final)]
        at, recorder.last = decided, None
        said = [e for e in stream.fork().finish() if isinstance(e, Final)]
        if recorder.last is None:
            continue
        yield {
            "start": pause.start,
            "seconds": pause.seconds,
            "own_tail": len(samples) / SAMPLE_RATE - pause.start,
            "text": [*finals, *(f.text for f in said)],
            "mark": boundary(whole, pause.start + 0.1),
            "frames": recorder.last.astype(np.float16),
        }


def save(path: Path, about: dict[str, Any], decisions: list[dict[str, Any]]) -> None:
    arrays, rows = {}, []
    for i, d in enumerate(decisions):
        arrays[f"frames.{i}"] = d["frames"]
        rows.append({k: v for k, v in d.items() if k != "frames"})
    arrays["about"] = np.array(json.dumps({**about, "decisions": rows}))
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    temporary.replace(path)


def choose(rows: list[dict[str, Any]], sources: Sequence[str], count: int, seed: int) -> list[int]:
    """Indices of rows, so many of each source; one after the other in turn, so that any beginning is a fair sample."""
    of: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        name = next((s for s in sources if row["source"].startswith(s)), None)
        if name is not None and row["speaker"] is not None:
            of[name].append(i)
    rng = random.Random(seed)
    for found in of.values():
        rng.shuffle(found)
    queues = [found[:count] for found in of.values()]
    return [q[n] for n in range(count) for q in queues if n < len(q)]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("manifest", type=Path)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--count", type=int, default=10_000, help="recordings of each source")
    p.add_argument("--sources", nargs="+", default=[""], help="what their names begin with")
    p.add_argument("--joined", nargs="*", default=[])
    p.add_argument("--not-speakers-of", type=Path, help="a manifest whose speakers are left out")
    p.add_argument("--encoder-only", action="store_true", help="without words; a third of the time")
    p.add_argument("--worker", default="0/1")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    rows = [json.loads(line) for line in args.manifest.read_text(encoding="utf-8").splitlines()]
    held = set()
    if args.not_speakers_of:
        lines = args.not_speakers_of.read_text(encoding="utf-8").splitlines()
        held = {json.loads(line)["speaker"] for line in lines} - {None}
    number, workers = map(int, args.worker.split("/"))
    recognizer, vad = Recognizer.load(), load_vad()
    if args.encoder_only:
        f = recognizer.family
        recognizer.family = Listening(f.runner, f.decoder, f.features)
    args.out.mkdir(parents=True, exist_ok=True)
    for i in choose(rows, args.sources, args.count, args.seed)[number::workers]:
        row, path = rows[i], args.out / f"{i:05d}.npz"
        if path.exists() or row["speaker"] in held:
            continue
        samples = read(args.manifest.parent / row["audio"])
        about = {k: row[k] for k in ("audio", "speaker", "source")}
        about["ends"] = True
        joined = any(row["source"].startswith(s) for s in args.joined)
        if joined:
            about["ends"] = None
            after = rows[i + 1] if i + 1 < len(rows) else row
            if after is not row and after["speaker"] == row["speaker"]:
                size = round(JOIN_S * SAMPLE_RATE)
                first, second = samples[-size:], read(args.manifest.parent / after["audio"])[:size]
                words = recognizer.transcribe(np.concatenate([first, second]), SAMPLE_RATE).words
                about["ends"] = boundary(words, len(first) / SAMPLE_RATE) in CLOSING
        save(path, about, list(hear(samples, recognizer, vad, joined)))
        print(path.name, row["source"], flush=True)


if __name__ == "__main__":
    main()
