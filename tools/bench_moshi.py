"""What a frame of a Moshi costs at random weights as its stream grows: 80 ms of sound in, 80 ms of sound and text out.

    python -m tools.bench_moshi [--size small|published] [--frames 750] [--threads 1] [--device cpu] [--dtype float32]

CPU time of this process where the device is the CPU, so that others on the machine disturb it less; otherwise the wall's.
Random weights cost what trained ones do. "published" is the size of the released ones: 31 GB in 32 bits.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import numpy as np
import torch

from speechstream.duplex.moshi.torch import TorchNetworks
from speechstream.nn.llm_config import LlmConfig
from speechstream.nn.mimi_config import MimiConfig, SEANetConfig, TransformerConfig
from speechstream.nn.moshi import Moshi
from speechstream.nn.moshi_config import DepthConfig, FrameSampling, MoshiConfig
from speechstream.state import nbytes


def sizes(name: str) -> MoshiConfig:
    """ "small" has the released rates and levels, and a window of 20 s."""
    large = name == "published"
    layers, window = (32, 3000) if large else (6, 250)
    shared: dict[str, Any] = {"window": window, "window_layers": tuple(range(layers))}
    shared |= {"layers": layers, "context": window, "tied": False, "norm_eps": 1e-8}
    if large:
        text = LlmConfig(32000, 4096, heads=32, kv_heads=32, ff_dim=11264, **shared)
        return MoshiConfig(MimiConfig(), text, DepthConfig())
    codec = MimiConfig(
        seanet=SEANetConfig(dim=128, filters=8),
        transformer=TransformerConfig(dim=128, layers=2, heads=4, ff_dim=512),
        n_codebooks=8,
        code_dim=32,
    )
    text = LlmConfig(8000, 512, heads=8, kv_heads=8, ff_dim=1408, **shared)
    return MoshiConfig(codec, text, DepthConfig(256, 3, 4, 4, 64, 704))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("small", "published"), default="small")
    parser.add_argument("--frames", type=int, default=750)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    args = parser.parse_args()
    torch.manual_seed(0)
    c = sizes(args.size)
    with torch.device(args.device):
        model = Moshi(c)
    networks = TorchNetworks(model, FrameSampling(), 0, args.device, args.threads, args.dtype)
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    rng, state, costs = np.random.default_rng(0), networks.start(), []
    for n in range(args.frames):
        pcm = 0.1 * rng.standard_normal(c.codec.frame_size).astype(np.float32)
        begun = clock()
        state = networks.step(pcm, state)[
            -1
        ]  # its sound comes to the processor, so that all is done
        costs.append(1000 * (clock() - begun))
        if not (n + 1) % 125:
            print(
                f"frames {n - 123:4d} to {n + 1:4d}: {median(costs[-125:]):6.1f} ms each in the median, "
                f"{nbytes(state) / 2**20:6.1f} MiB remembered",
                flush=True,
            )


if __name__ == "__main__":
    main()
