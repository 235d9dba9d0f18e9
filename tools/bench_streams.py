"""How many live streams one core serves, and what a batch gains: printed as ratios against one stream alone.

    python -m tools.bench_streams                         # the embedded model
    python -m tools.bench_streams --fastconformer fp32 int8  # a 17 x 512 FastConformer of random weights, fp32 and int8
    python -m tools.bench_streams --model BUNDLE --latency 160 640 --streams 1 8 32 --seconds 8 [FILE ...]

Every stream is pushed the same recordings, each from another place, in blocks of 20 ms, and the pool is stepped after
every block: real time's order of events as fast as the core can. Streams per core = seconds of audio heard by all
streams / seconds of work, on one thread: voice activity, features, networks and search. Run it on a machine that does
nothing else.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from speechstream import bundle
from speechstream.asr.recognizer import SAMPLE_RATE, Recognizer
from speechstream.audio.io import blocks
from speechstream.audio.resample import Resampler

BLOCK = SAMPLE_RATE // 50
FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
LATENCIES_MS = (160, 560, 640, 1120, 1280)  # those of them that a model has


class Sizes:
    """Networks, their calls and the requests in them."""

    def __init__(self, networks):
        self.networks, self.calls, self.rows = networks, 0, 0

    def __getattr__(self, name):
        return getattr(self.networks, name)

    def count(self, rows: int) -> None:
        self.calls, self.rows = self.calls + 1, self.rows + rows

    def encode_in_place(self, x, *rest):
        self.count(len(x))
        return self.networks.encode_in_place(x, *rest)

    def decode(self, tokens, *rest):
        self.count(len(tokens))
        return self.networks.decode(tokens, *rest)

    def slots(self):
        slots = self.networks.slots()
        step = slots.step
        slots.step = lambda given, inputs: (self.count(len(given)), step(given, inputs))[1]
        return slots


def speech(files: list[Path]) -> np.ndarray:
    """The recordings one after another, at 16 kHz."""
    parts = []
    for path in files:
        with blocks(path) as source:
            samples = np.concatenate([b.reshape(len(b), -1).mean(1) for b in source])
        parts.append(Resampler(source.rate, SAMPLE_RATE)(samples))
    return np.concatenate(parts)


def alone(asr: Recognizer, sound: np.ndarray, latency: int) -> float:
    """Seconds of work for one stream outside any pool."""
    begun = time.perf_counter()
    with asr.stream(latency) as stream:
        for i in range(0, len(sound), BLOCK):
            stream.push(sound[i : i + BLOCK])
        stream.finish()
    return time.perf_counter() - begun


def together(asr: Recognizer, sounds: list[np.ndarray], latency: int) -> tuple[float, float]:
    """Seconds of work for all streams, and how many requests there were to a call."""
    runner = asr.family.runner
    sizes = runner.networks = Sizes(runner.networks)
    pool = asr.pool(len(sounds))
    try:
        begun = time.perf_counter()
        sids = [pool.open(latency) for _ in sounds]
        for i in range(0, len(sounds[0]), BLOCK):
            for sid, sound in zip(sids, sounds):
                pool.push(sid, sound[i : i + BLOCK])
            pool.step()
        for sid in sids:
            pool.finish(sid)
        pool.step()
        return time.perf_counter() - begun, sizes.rows / max(sizes.calls, 1)
    finally:
        runner.networks = sizes.networks


def fastconformer(folder: Path, weights: str) -> Path:
    """A bundle of the paper's large encoder with a CTC head and random weights: speed does not depend on them."""
    import torch

    from speechstream.audio.nemo_mel import NemoMelConfig
    from speechstream.export.fastconformer import (
        describe_model,
        export_fastconformer,
        write_fastconformer,
    )
    from speechstream.export.quantize import FORMS
    from speechstream.nn.checkpoints import Checkpoint
    from speechstream.nn.conformer import ConformerConfig
    from speechstream.nn.fastconformer import FastConformer, FastConformerConfig

    torch.manual_seed(0)
    pieces = tuple(("\u2581" if i % 2 else "") + f"t{i}" for i in range(1024))
    model = FastConformer(FastConformerConfig(ConformerConfig(), len(pieces))).eval()
    one = Checkpoint(model, NemoMelConfig(), pieces, None)
    b = write_fastconformer(
        one, folder, {"name": f"17 x 512, {weights}", "licence": "none"}, graphs=False
    )
    graph = export_fastconformer(one.model, describe_model(one), FORMS[weights])["encoder"]
    (folder / "encoder.onnx").write_bytes(graph.SerializeToString())
    bundle.write(folder, b.task, b.architecture, b.config, b.card, [*b.files, "encoder.onnx"])
    return folder


def measure(name: str, asr: Recognizer, sound: np.ndarray, args: argparse.Namespace) -> None:
    n = min(int(args.seconds * SAMPLE_RATE), len(sound))
    sounds = [
        np.roll(sound, -i * len(sound) // max(args.streams))[:n] for i in range(max(args.streams))
    ]
    latencies = args.latency or [ms for ms in LATENCIES_MS if ms in asr.latencies]
    alone(asr, sounds[0][: 4 * SAMPLE_RATE], latencies[0])  # to warm up
    for latency in latencies:
        cost = [alone(asr, s, latency) for s in sounds[:4]]  # several, for speech differs
        base = n / SAMPLE_RATE / (sum(cost) / len(cost))
        print(f"{name:20} {latency:5} ms {'alone':>8} {base:17.1f} {'1.00':>14}", flush=True)
        for count in args.streams:
            seconds, rows = together(asr, sounds[:count], latency)
            rate = count * n / SAMPLE_RATE / seconds
            print(
                f"{name:20} {latency:5} ms {count:8} {rate:17.1f} {rate / base:14.2f} {rows:16.2f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, default=sorted(FIXTURES.glob("*.flac")))
    parser.add_argument(
        "--latency", nargs="+", type=int, metavar="MS", help="default: about 160, 600 and 1200"
    )
    parser.add_argument("--streams", nargs="+", type=int, default=[8])
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of audio for each stream; default: 8"
    )
    parser.add_argument("--engine", choices=("onnx", "torch"), default="onnx")
    parser.add_argument("--model", help="the folder of a bundle; default: the embedded one")
    parser.add_argument(
        "--fastconformer",
        nargs="+",
        choices=("fp32", "int8", "int8-blocks", "int4"),
        metavar="WEIGHTS",
        help="measure a 17 x 512 FastConformer of random weights instead: fp32, int8, int8-blocks or int4",
    )
    args = parser.parse_args()
    sound = speech(args.files)
    print(
        f"{'model':20} {'latency':>8} {'streams':>8} {'streams per core':>17} {'against alone':>14} "
        f"{'requests a call':>16}"
    )
    if args.fastconformer:
        for weights in args.fastconformer:
            with tempfile.TemporaryDirectory() as folder:
                asr = Recognizer.load(fastconformer(Path(folder), weights), engine=args.engine)
            measure(f"17 x 512, {weights}", asr, sound, args)
    else:
        asr = Recognizer.load(args.model, engine=args.engine)
        measure(str(asr.card.get("name", "model"))[:20], asr, sound, args)


if __name__ == "__main__":
    main()
