"""What a chunk of the streaming flow decoder costs as the stream grows, beside solving the whole prefix again.

    python -m tools.bench_flow                                       # a small U-Net of CosyVoice 2's kind
    python -m tools.bench_flow --network dit --chunks 1 10 100 500 --picture flow.png
    python -m tools.bench_flow --size full --steps 4 --chunks 1 2 5 10

Random weights: speed does not depend on them. `stream` is one step with the caches of each solver step; `prefix` is the
same network under the same mask on all frames so far, which is what decoders without these caches do for every chunk
(CosyVoice 2 in its public form). One stream, one thread, the quickest of `--repeats` runs; run it on a machine that does
nothing else. Beyond --longest frames the prefix is left out.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from speechstream.nn.flow import FlowDecoder, FlowState
from speechstream.nn.flow_config import DiTConfig, FlowConfig, UNetConfig, WindowConfig
from tools._pictures import COLOURS

MEL_RATE = 50  # frames a second of both systems
PREFIX_TURNS = 2  # of the repeats: the long ones take seconds

SIZES = {
    ("unet", "small"): FlowConfig(
        condition_dim=80,
        speaker_dim=80,
        prompt=True,
        windows=WindowConfig(25, 2),
        unet=UNetConfig(dim=64, mid_blocks=2, layers_per_block=2, heads=2, head_dim=32, ff_dim=256),
    ),
    ("unet", "full"): FlowConfig(
        condition_dim=80,
        speaker_dim=80,
        prompt=True,
        windows=WindowConfig(50, 2),
        unet=UNetConfig(),
    ),
    ("dit", "small"): FlowConfig(
        condition_dim=80,
        speaker_dim=80,
        windows=WindowConfig(24, 1, (0, 3), (1,)),
        dit=DiTConfig(dim=128, layers=4, heads=4, head_dim=32, ff_dim=256, rotary_heads=1),
    ),
    ("dit", "full"): FlowConfig(
        speaker_dim=320,
        windows=WindowConfig(24, 1, (0, 20), (10,)),
        dit=DiTConfig(rotary_heads=1),
    ),
}


def milliseconds(work: Callable[[], object]) -> float:
    """How long a call takes."""
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


def measure(config: FlowConfig, chunks: list[int], repeats: int, longest: int) -> list[dict]:
    """For each chunk number: milliseconds of its step, of the prefix up to it (or None), and the state's bytes.

    The chunks take turns, so that whatever else the machine does falls on all of them.
    """
    torch.manual_seed(0)
    decoder = FlowDecoder(config).eval().requires_grad_(False)
    speaker = torch.randn(1, config.speaker_dim)
    block = config.windows.block
    given = torch.randn(1, block + config.lookahead, config.condition_dim)
    state, done, states = decoder.init_state(1, speaker), 0, {}
    for number in chunks:
        while done < number - 1:
            _, state = decoder.step(given, state)
            done += 1
        states[number] = state
    rows = [
        {"chunk": n, "stream": math.inf, "prefix": None, "bytes": size(states[n])} for n in chunks
    ]
    for turn in range(repeats):
        for row in rows:
            before = states[row["chunk"]]
            took = milliseconds(lambda: decoder.step(given, before))
            row["stream"] = min(row["stream"], took)
            frames = row["chunk"] * block
            if turn < PREFIX_TURNS and frames <= longest:
                x = torch.randn(1, frames, config.condition_dim)
                took = milliseconds(lambda: decoder(x, speaker, full=True))
                row["prefix"] = min(row["prefix"] or math.inf, took)
    return rows


def size(state: FlowState) -> int:
    """Bytes of a state."""
    return sum(t.numel() * t.element_size() for t in vars(state).values())


def report(row: dict, block: int) -> None:
    prefix, ratio = "", ""
    if row["prefix"] is not None:
        prefix, ratio = f"{row['prefix']:.1f}", f"{row['prefix'] / row['stream']:.1f}"
    seconds = row["chunk"] * block / MEL_RATE
    print(
        f"{row['chunk']:6} {seconds:8.1f} s {row['stream']:10.1f} ms {prefix:>10} ms {ratio:>8} "
        f"{row['bytes'] / 1e6:9.2f} MB",
        flush=True,
    )


def picture(rows: list[dict], title: str, path: Path) -> None:
    """Both costs against the chunk's number, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, label, colour in (
        ("stream", "a step with caches for each solver step", COLOURS[0]),
        ("prefix", "solving the whole prefix again", COLOURS[1]),
    ):
        known = [r for r in rows if r[name] is not None]
        axes.plot(
            [r["chunk"] for r in known], [r[name] for r in known], "o-", color=colour, label=label
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("chunk of the stream")
    axes.set_ylabel("milliseconds for this chunk")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--network", choices=("unet", "dit"), default="unet")
    add("--size", choices=("small", "full"), default="small")
    add("--steps", type=int, default=5, help="of the solver; default: 5")
    add("--guidance", type=float, default=0.7, help="0: none; default: 0.7")
    add("--chunks", nargs="+", type=int, default=[1, 2, 5, 10, 20, 50, 100, 200, 500])
    add("--repeats", type=int, default=15)
    add("--longest", type=int, default=5000, help="frames of the longest prefix; default: 5000")
    add("--picture", type=Path, help="PNG of both costs")
    args = parser.parse_args()
    config = dataclasses.replace(
        SIZES[args.network, args.size], steps=args.steps, guidance=args.guidance
    )
    torch.set_num_threads(1)
    block = config.windows.block
    print(
        f"{args.network}, {args.size}: {args.steps} steps, guidance {args.guidance}, {block} frames a chunk "
        f"({1000 * block // MEL_RATE} ms), {config.lookahead} ahead; "
        f"{config.stream_bytes() / 1e6:.2f} MB a stream by the formula"
    )
    print(f"{'chunk':>6} {'stream':>10} {'step':>13} {'prefix':>13} {'ratio':>8} {'state':>12}")
    rows = measure(config, sorted(set(args.chunks)), args.repeats, args.longest)
    for row in rows:
        report(row, block)
    costs = [r["stream"] for r in rows]
    print(f"dearest step / cheapest step: {max(costs) / min(costs):.2f}")
    if args.picture:
        picture(
            rows, f"flow decoder, {args.network}, {args.size}, {args.steps} steps", args.picture
        )
        print(args.picture)


if __name__ == "__main__":
    main()
