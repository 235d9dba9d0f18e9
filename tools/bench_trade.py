"""Calls of a speech LLM's networks and their time, with drafts and without, in pairs on the same recordings.

    python -m tools.bench_trade --manifest dev.jsonl --model work/bundle --latency 160 640 offline --limit 4
    python -m tools.bench_trade --manifest dev.jsonl --model work/bundle --memory 60

Each recording is heard both ways, in turns which first; seconds are of the processor. The texts must be the same: where one is
not, it is shown and counted. --memory: what a stream holds of the language model after the transcripts of so many minutes of speech.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tools.evaluate_asr import Utterance, latency, offline_one, read_manifest, stream_one

PARTS = ("hear", "read", "look")  # encoder, language model, joint
WORDS_A_MINUTE = 150
READ = 64  # tokens read at once for --memory


class Counted:
    """Counts calls, rows and seconds of an engine's functions while it runs."""

    def __init__(self, networks: Any):
        self.calls: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.rows = 0
        for name in PARTS:
            setattr(networks, name, self._wrapped(name, getattr(networks, name)))

    def _wrapped(self, name: str, run: Any) -> Any:
        def counted(*inputs: Any) -> Any:
            began = time.process_time()
            out = run(*inputs)
            self.seconds[name] += time.process_time() - began
            self.calls[name] += 1
            self.rows += inputs[0]["tokens"].size if name == "read" else 0
            return out

        return counted

    def take(self) -> dict[str, Any]:
        found = {
            "calls": dict(self.calls),
            "seconds": dict(self.seconds),
            "rows": self.rows,
        }
        self.calls.clear()
        self.seconds.clear()
        self.rows = 0
        return found


def heard(asr: Any, u: Utterance, at: str, tail: float) -> tuple[str, float]:
    """The text, and the processor's seconds."""
    timer = time.process_time
    result = (
        offline_one(asr, u, timer) if at == "offline" else stream_one(asr, u, int(at), tail, timer)
    )
    return result.text, result.compute_s


def compared(asr: Any, utterances: list[Utterance], at: str, tail: float) -> dict[str, Any]:
    """Of one latency: sums with drafts and without, and the recordings of which the texts differ."""
    family = asr.family
    guesser, counted, differ = family.guesser, Counted(family.networks), []
    ways: dict[str, Counter] = {"plain": Counter(), "drafts": Counter()}
    for n, u in enumerate(utterances):
        texts = {}
        for way in sorted(ways, reverse=bool(n % 2)):
            family.guesser = guesser if way == "drafts" else None
            counted.take()
            texts[way], seconds = heard(asr, u, at, tail)
            found = counted.take()
            ways[way]["seconds"] += seconds
            ways[way]["rows"] += found["rows"]
            for name in PARTS:
                ways[way][f"{name} calls"] += found["calls"].get(name, 0)
                ways[way][f"{name} seconds"] += found["seconds"].get(name, 0.0)
        if len(set(texts.values())) > 1:
            differ.append({"audio": u.name, **texts})
    family.guesser = guesser
    for name in PARTS:
        delattr(family.networks, name)  # what is counted next is not counted twice
    return {"latency": at, **{w: dict(c) for w, c in ways.items()}, "differ": differ}


def held(asr: Any, utterances: list[Utterance], minutes: float) -> list[tuple[float, int]]:
    """Minutes of speech and the bytes of the language model's rows behind its transcript, read again and again if it is short."""
    import numpy as np

    from speechstream.asr.guess import Guesser
    from speechstream.asr.speech_llm.networks import Read, empty
    from speechstream.nn.speech_llm_state import TEXT

    family, rows = asr.family, empty(asr.family.config)
    spell = Guesser([b"", *family.vocabulary.pieces], ["<blank>"]).pieces
    words = [w for u in utterances for w in u.text.lower().split()]
    tokens, count = [0], 0
    while count < minutes * WORDS_A_MINUTE:
        tokens += spell(f" {words[count % len(words)]}".encode())
        count += 1
    found: list[tuple[float, int]] = []
    none = np.zeros((0, family.config.text.dim), np.float32)
    for at in range(0, len(tokens), READ):
        part = tuple(tokens[at : at + READ])
        read = Read(family.networks, none, part, rows).run()
        rows = read.behind(rows, np.array([TEXT] * len(part)), family.config)
        size = rows.keys.nbytes + rows.values.nbytes
        found.append(((at + len(part)) / len(tokens) * minutes, size))
    return found


def main(arguments: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--manifest", type=Path, required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--engine", choices=("onnx", "torch"), default="onnx")
    p.add_argument("--latency", nargs="+", type=latency, default=["640"], metavar="MS")
    p.add_argument("--limit", type=int, help="at most so many recordings of each set")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--tail", type=float, default=1.0, metavar="S")
    p.add_argument("--memory", type=float, metavar="MINUTES")
    p.add_argument("--json", type=Path)
    args = p.parse_args(arguments)
    import speechstream

    utterances = read_manifest(args.manifest, None, args.limit, args.seed)
    asr = speechstream.Recognizer.load(args.model, engine=args.engine, drafts=not args.memory)
    if args.memory:
        sizes = held(asr, utterances, args.memory)
        for minutes, size in (sizes[len(sizes) // 10], sizes[-1]):
            print(f"{minutes:.0f} minutes: {size / 1e6:.1f} MB")
        return
    found = [compared(asr, utterances, at, args.tail) for at in args.latency]
    for row in found:
        print(f"{row['latency']}: {len(row['differ'])} of {len(utterances)} texts differ")
        for way in ("plain", "drafts"):
            print(f"  {way}: {json.dumps({k: round(v, 2) for k, v in row[way].items()})}")
        for d in row["differ"]:
            print(f"  {d}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
