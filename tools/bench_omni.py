"""What a thinker-talker costs at random weights: hearing a block, a token with its code, a chunk of sound, the first sound.

    python -m tools.bench_omni [--size small|published] [--chunks 500] [--threads 1] [--device cpu]

CPU time of this process where the device is the CPU, so that others on the machine disturb it less; otherwise the wall's.
Random weights cost what trained ones do. "published" is the size of Qwen2.5-Omni-7B: 60 GB in 32 bits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

from speechstream.asr.omni.torch import TorchNetworks
from speechstream.nn.flow_config import DiTConfig, FlowConfig, WindowConfig
from speechstream.nn.llm_config import LlmConfig, RopeConfig
from speechstream.nn.omni import Omni
from speechstream.nn.omni_config import OmniConfig, OmniEncoderConfig, TalkerConfig
from speechstream.nn.token2wav import Token2Wav
from speechstream.nn.vocoder_config import BigVganConfig
from speechstream.state import nbytes


def sizes(name: str) -> OmniConfig:
    """ "small" has the kinds of layers, windows and rates of the published one."""
    large = name == "published"
    rope = RopeConfig(1e6)
    dim = 3584 if large else 512
    shared: dict[str, Any] = {"qkv_bias": True, "tied": False, "rope": rope, "norm_eps": 1e-6}
    if large:
        shared |= {"layers": 28, "heads": 28, "kv_heads": 4, "head_dim": 128, "ff_dim": 18944}
    else:
        shared |= {"layers": 6, "heads": 8, "kv_heads": 2, "head_dim": 64, "ff_dim": 1536}
    thinker = LlmConfig(vocab_size=152064 if large else 8000, dim=dim, **shared)
    talker = LlmConfig(vocab_size=8448, dim=dim if large else 256, **shared)
    encoder = (
        OmniEncoderConfig()
        if large
        else OmniEncoderConfig(dim=256, layers=6, heads=4, ff_dim=1024, out_dim=dim)
    )
    dit = DiTConfig(rotary_heads=1) if large else DiTConfig(64, 6, 2, 32, 128, rotary_heads=1)
    windows = WindowConfig(24, 1, (0, 20) if large else (0, 5), (10,) if large else (2,))
    flow = FlowConfig(
        speaker_dim=320,
        tokens=8194,
        windows=windows,
        dit=dit,
        solver="rk4",
        steps=9 if large else 3,
        guidance=0.5,
    )
    vocoder = BigVganConfig() if large else BigVganConfig(dim=64)
    return OmniConfig(
        encoder, thinker, TalkerConfig(talker, dim, 8293, 8292, 8294, 8296), flow, vocoder
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("small", "published"), default="small")
    parser.add_argument("--chunks", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    c = sizes(args.size)
    with torch.device(args.device):
        model, decoder = Omni(c), Token2Wav(c.flow, c.vocoder, 16)
    speaker = (torch.randn(320), torch.randn(320))
    dtype = "float32" if args.device == "cpu" else "bfloat16"
    networks = TorchNetworks(model, decoder, {"one": speaker}, args.device, args.threads, dtype)
    clock = time.process_time if args.device == "cpu" else time.perf_counter

    def cost(do: Callable[[], Any]) -> tuple[float, Any]:
        """Milliseconds, and what it gave."""
        began = clock()
        found = do()
        if args.device != "cpu":
            torch.cuda.synchronize()
        return 1000 * (clock() - began), found

    rng = np.random.default_rng(0)
    mel = rng.standard_normal((c.encoder.n_mels, c.encoder.block)).astype(np.float32)
    state = networks.read(range(40), networks.start())[1]
    blocks = []
    for _ in range(15):
        ms, state = cost(lambda: networks.hear(mel, state))
        blocks.append(ms)
    print(
        f"a block of 2 s heard: {median(blocks[1:4]):.1f} ms at first, {median(blocks[-3:]):.1f} after 30 s"
    )
    print(f"what is read, after 30 s: {nbytes(state) / 2**20:.1f} MiB")

    first, (logits, state) = cost(
        lambda: networks.read([1, 2, 3], networks.hear(mel[:, :60], state, True))
    )
    think, speak, thinker = [], [], state.thinker
    voice, codes = networks.voice("one", 0), list[int]()
    ms, (logits, features, thinker) = cost(lambda: networks.think(int(logits.argmax()), thinker))
    more, (scores, talker) = cost(lambda: networks.begin(features, 5, state.talker))
    first += ms + more
    sound = np.zeros(0)
    while not len(sound):
        codes.append(int(scores[:8000].argmax()))
        ms, (logits, features, thinker) = cost(
            lambda: networks.think(int(logits.argmax()), thinker)
        )
        more, (scores, talker) = cost(lambda: networks.speak(codes[-1], features, talker))
        last, (sound, voice) = cost(lambda: networks.sound(codes[-1:], voice, False))
        think.append(ms)
        speak.append(more)
        first += ms + more + last
    print(f"a token: {median(think):.1f} ms; its code: {median(speak):.1f} ms")
    print(f"from the end of the turn to the first sound: {first:.0f} ms, {len(codes)} codes")

    chunks = []
    for _ in range(args.chunks):
        some = rng.integers(0, 8000, 12)
        ms, (sound, voice) = cost(lambda: networks.sound(some, voice, False))
        chunks.append(ms)
    ends = median(chunks[: len(chunks) // 5]), median(chunks[-len(chunks) // 5 :])
    print(
        f"240 ms of sound: {ends[0]:.1f} ms in the first fifth of {args.chunks} chunks, {ends[1]:.1f} in the last"
    )
    print(f"what the decoder remembers: {nbytes(voice) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
