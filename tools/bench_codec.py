"""Time one Mimi frame (80 ms) decoded and encoded: our ONNX graphs, and the moshi package where it is installed.

All run in one process on the same random weights, one after the other in turns, so that what else the machine does
falls on all alike. Reported for each: the median and the least milliseconds a frame, and the process's CPU time a frame,
which other programs disturb less. The difference of the outputs is checked first.

    python -m tools.bench_codec [--frames 60] [--threads 1] [--levels 32] [--graphs FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from speechstream.convert.mimi import convert_weights
from speechstream.export.codec import export_codec
from speechstream.nn.mimi import Mimi, MimiConfig
from speechstream.tts.codec import CodecDecoder, CodecEncoder

FRAME_MS = 80


def machine(threads: int) -> dict:
    """What the numbers were measured on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": load,
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def random_weights(levels: int) -> tuple[Mimi, object | None]:
    """Our Mimi and, where it is installed, moshi's with the same random weights."""
    torch.manual_seed(0)
    try:
        from make_mimi_goldens import random_moshi  # beside this file

        peer = random_moshi(None, levels)
    except ImportError:
        return Mimi().eval(), None
    ours = Mimi(MimiConfig()).eval()
    ours.load_state_dict(convert_weights(peer.state_dict(), ours.config))
    return ours, peer


def time_in_turns(steps: dict[str, Callable[[], None]], frames: int) -> dict[str, dict[str, float]]:
    """Run the steps in turns; milliseconds a call for each."""
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(frames):
        for name, step in steps.items():
            c, w = time.process_time(), time.perf_counter()
            step()
            wall[name].append(1e3 * (time.perf_counter() - w))
            cpu[name].append(1e3 * (time.process_time() - c))
    skip = min(5, frames // 4)  # the first ones warm up
    return {
        name: {
            "median_ms": round(float(np.median(wall[name][skip:])), 2),
            "least_ms": round(min(wall[name][skip:]), 2),
            "cpu_ms": round(float(np.median(cpu[name][skip:])), 2),
        }
        for name in steps
    }


class Streamed:
    """A step with its state kept between calls, for timing."""

    def __init__(self, step: Callable, state: object, x: object) -> None:
        self.step, self.state, self.x = step, state, x

    def __call__(self) -> None:
        _, self.state = self.step(self.x, self.state)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--levels", type=int, default=32, help="code levels that are encoded and decoded"
    )
    parser.add_argument(
        "--graphs",
        type=Path,
        default=None,
        help="keep the graphs here, or use those of an earlier run with as many levels",
    )
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    report = {"machine": machine(args.threads), "levels": args.levels}
    ours, peer = random_weights(args.levels)
    folder = args.graphs or Path(tempfile.mkdtemp(prefix="codec-"))
    if not (folder / "decoder.onnx").is_file():
        export_codec(ours, folder, levels=args.levels)
    encoder = CodecEncoder(folder / "encoder.onnx", args.threads)
    decoder = CodecDecoder(folder / "decoder.onnx", args.threads)

    audio = (
        np.random.default_rng(0)
        .normal(scale=0.1, size=(1, 1, 4 * decoder.frame_size))
        .astype(np.float32)
    )
    codes = encoder(audio)
    x, c = torch.from_numpy(audio), torch.from_numpy(codes)
    report["difference"] = {
        "torch_codes": int((ours.encode(x, args.levels).numpy() != codes).sum()),
        "torch_audio": float(np.abs(ours.decode(c).numpy() - decoder(codes)).max()),
    }
    frame, code = audio[..., : decoder.frame_size], codes[..., :1]
    steps = {
        "decode": {"ours": Streamed(decoder.step, decoder.init_state(), code)},
        "encode": {"ours": Streamed(encoder.step, encoder.init_state(), frame)},
    }
    if peer is not None:
        report["machine"]["moshi"] = importlib.metadata.version("moshi")
        report["difference"]["moshi_codes"] = int((peer.encode(x).numpy() != codes).sum())
        report["difference"]["moshi_audio"] = float(
            np.abs(peer.decode(c).numpy() - decoder(codes)).max()
        )
        peer.streaming_forever(1)
        steps["decode"]["moshi"] = lambda: peer.decode(c[..., :1])
        steps["encode"]["moshi"] = lambda: peer.encode(x[..., : decoder.frame_size])
    print(
        f"{report['machine']['cpu']}, {args.threads} thread(s), load {report['machine']['load_before']}; "
        f"outputs differ by {report['difference']}"
    )
    for direction, runs in steps.items():
        times = report[direction] = time_in_turns(runs, args.frames)
        for name, t in times.items():
            ratio = (
                f", {t['least_ms'] / times['ours']['least_ms']:.2f} times ours"
                if name != "ours"
                else ""
            )
            print(
                f"{direction} {name:6} {t['median_ms']:8.2f} ms a frame (least {t['least_ms']:.2f}, CPU "
                f"{t['cpu_ms']:.2f}), RTF {t['median_ms'] / FRAME_MS:.3f}{ratio}"
            )
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
