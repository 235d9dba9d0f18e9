"""What recognising costs on one thread, beside faster-whisper in the same run, and which networks the time goes to.

    python -m tools.bench_asr dev.jsonl --faster-whisper FOLDER            # ratios, 3 minutes of reading and short files
    python -m tools.bench_asr dev.jsonl --profile --latency offline 320    # calls of each network and their share

FOLDER holds Whisper in CTranslate2's form (model.bin, config.json, tokenizer.json, vocabulary.txt). The manifest is that
of tools.evaluate_asr. Reading: its LibriSpeech recordings, joined without pauses up to --seconds. Short files: --files of
the others, each by itself. Time is this process's processor time, user and system, so that other processes count less; on
a busy machine the ratios still move by a tenth, because caches are shared. The order alternates from round to round.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from speechstream.asr.recognizer import SAMPLE_RATE, Recognizer
from tools.evaluate_asr import latency, set_name
from tools.soak_asr import samples_of

BLOCK = SAMPLE_RATE // 50
WARM_S = 5  # of audio, heard before anything is measured


def heard(asr: Recognizer, x: np.ndarray, latency: str) -> float:
    """Seconds of the processor for samples (n,): as a file, or as a live stream in blocks of 20 ms."""
    began = time.process_time()
    if latency == "offline":
        asr.transcribe(x, sample_rate=SAMPLE_RATE)
    else:
        with asr.stream(int(latency)) as stream:
            for at in range(0, len(x), BLOCK):
                stream.push(x[at : at + BLOCK])
            stream.finish()
    return time.process_time() - began


def faster_whisper(folder: Path) -> Callable[[np.ndarray], float]:
    """Offline Whisper through CTranslate2, int8, greedy, one thread: the same measure."""
    from faster_whisper import WhisperModel

    model = WhisperModel(
        str(folder), device="cpu", compute_type="int8", cpu_threads=1, local_files_only=True
    )

    def run(x: np.ndarray) -> float:
        began = time.process_time()
        segments, _ = model.transcribe(
            x,
            language="en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            without_timestamps=len(x) <= 30 * SAMPLE_RATE,
        )
        list(segments)
        return time.process_time() - began

    return run


class Counted:
    """A session that counts its calls by their size."""

    def __init__(self, session: Any, name: str, into: dict):
        self._session, self._name, self._into = session, name, into

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(
        self, outputs: Any, feed: dict[str, np.ndarray], options: Any = None
    ) -> list[np.ndarray]:
        began = time.process_time()
        answer: list[np.ndarray] = self._session.run(outputs, feed, options)
        if "mel" in feed:
            size = f"{feed['mel'].shape[2] // 2:4d} frames"
        elif "features" in feed:
            size = f"{feed['features'].shape[1]:4d} frames"
        else:
            rows, tokens = feed["tokens"].shape
            size = f"{rows} x {1 << (tokens - 1).bit_length()} tokens or fewer"
        spent = self._into[f"{self._name}, {size}"]
        spent[0] += 1
        spent[1] += time.process_time() - began
        return answer


def profile(asr: Recognizer, x: np.ndarray, latencies: list[str]) -> None:
    """Print calls, milliseconds a call and share of the time of each network, by the size of the call."""
    into: dict[str, list] = defaultdict(lambda: [0, 0.0])
    networks = asr.family.networks
    graphs = {n: getattr(networks, n) for n in ("encoder", "decoder", "ctc")}
    kept = {n: g for n, g in graphs.items() if g is not None}  # the head may be in the encoder's
    for name, session in kept.items():
        setattr(networks, name, Counted(session, name, into))
    for ms in latencies:
        into.clear()
        whole = heard(asr, x, ms)
        print(f"\n{ms}: {whole / len(x) * SAMPLE_RATE:.4f} s per second of audio")
        for name, (calls, spent) in sorted(into.items(), key=lambda i: -i[1][1]):
            print(
                f"  {name:36s}{calls:6d} calls {1000 * spent / calls:7.2f} ms {spent / whole:6.1%}"
            )
        rest = whole - sum(spent for _, spent in into.values())
        print(f"  {'all else':36s}{rest / whole:25.1%}", flush=True)
    for name, session in kept.items():
        setattr(networks, name, session)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("manifest", type=Path)
    add("--faster-whisper", type=Path, metavar="FOLDER")
    add("--model", help="a bundle's folder; the embedded one by default")
    add("--latency", nargs="+", type=latency, default=["offline", "640", "160"])
    add("--seconds", type=float, default=180, help="of joined reading")
    add("--files", type=int, default=20, help="short ones")
    add("--rounds", type=int, default=3)
    add("--profile", action="store_true")
    args = parser.parse_args(arguments)

    rows = [json.loads(line) for line in open(args.manifest, encoding="utf-8")]
    folder = args.manifest.parent
    joined, short = np.zeros(0, np.float32), []
    for row in (r for r in rows if set_name(r["source"]).startswith("LibriSpeech")):
        if len(joined) >= args.seconds * SAMPLE_RATE:
            break
        joined = np.concatenate([joined, samples_of(folder / row["audio"])])
    joined = joined[: int(args.seconds * SAMPLE_RATE)]
    others = [r for r in rows if not set_name(r["source"]).startswith("LibriSpeech")]
    for row in random.Random(0).sample(others, min(args.files, len(others))):
        short.append(samples_of(folder / row["audio"]))

    asr = Recognizer.load(args.model)
    for ms in args.latency:
        heard(asr, joined[: WARM_S * SAMPLE_RATE], ms)
    if args.profile:
        profile(asr, joined, args.latency)
        return
    ways: dict[str, Callable[[np.ndarray], float]] = {
        ms: (lambda x, ms=ms: heard(asr, x, ms)) for ms in args.latency
    }
    if args.faster_whisper:
        ways["faster-whisper"] = faster_whisper(args.faster_whisper)
        ways["faster-whisper"](joined[: WARM_S * SAMPLE_RATE])
    for what, sounds in (("joined reading", [joined]), ("short files", short)):
        audio = sum(map(len, sounds)) / SAMPLE_RATE
        took: dict[str, list[float]] = {name: [] for name in ways}
        for n in range(args.rounds):
            for name in list(ways) if n % 2 else list(ways)[::-1]:
                took[name].append(sum(ways[name](x) for x in sounds) / audio)
        print(f"{what}, {audio:.0f} s, median of {args.rounds} rounds:")
        for name, values in took.items():
            pairs = zip(values, took.get("faster-whisper", ()))
            ratio = f"  {median(a / b for a, b in pairs):.2f} x" if args.faster_whisper else ""
            print(f"  {name:16s}{median(values):8.4f} s per second of audio{ratio}", flush=True)


if __name__ == "__main__":
    main()
