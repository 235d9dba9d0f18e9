"""What a chunk of CosyVoice's speech costs as the stream grows, beside making the whole prefix anew.

    python -m tools.bench_cosyvoice --chunks 1 2 5 10 20 50 100 200 500 --longest 100 --picture cosyvoice.png
    python -m tools.bench_cosyvoice --steps 4 --each 500 --chunks 1 2 5 10 20 50 100 200 --longest 200 --picture cost.png
    python -m tools.bench_cosyvoice --size full --chunks 1 2 5 --repeats 1

Random weights: speed does not depend on them. A chunk is a block of 25 speech tokens, a second of sound. `stream` is what this
package does: token encoder, flow and vocoder go on from their caches. `prefix` gives the same modules all tokens so far, under
the same mask, and the vocoder the last block, as the public code of CosyVoice 2 calls them for each chunk. One stream, one
thread, torch for both; processor time, the least of --repeats. Beyond --longest chunks the prefix is left out.

With --each N every one of the first N chunks is timed as it comes, and how flat the cost is is said: the median of the last
fifth of them over that of the second and third tenth, which for 500 are chunks 401 to 500 and 51 to 150.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from speechstream.nn.flow import FlowDecoder
from speechstream.nn.flow_config import FlowConfig, UNetConfig, WindowConfig
from speechstream.nn.hift import HiftVocoder
from speechstream.nn.token_config import TokenEncoderConfig
from speechstream.nn.token_encoder import TokenEncoder
from speechstream.nn.vocoder_config import HiftConfig
from tools._pictures import COLOURS

SMALL = dict(dim=64, mid_blocks=2, layers_per_block=2, heads=2, head_dim=32, ff_dim=256)


def modules(size: str, steps: int) -> tuple[TokenEncoder, FlowDecoder, HiftVocoder]:
    """Of the published sizes, or of a quarter of them."""
    full = size == "full"
    encoder = TokenEncoderConfig(left_blocks=2)
    if not full:
        small = dict(input_dim=128, dim=128, heads=4, ff_dim=256, layers=3, up_layers=2)
        encoder = dataclasses.replace(encoder, lookahead_dim=128, **small)
    flow = FlowConfig(
        condition_dim=80,
        speaker_dim=80,
        prompt=True,
        guidance=0.7,
        steps=steps,
        windows=WindowConfig(50, 2),
        unet=UNetConfig() if full else UNetConfig(**SMALL),
    )
    hift = HiftConfig() if full else HiftConfig(dim=64, pitch_dim=64)
    torch.manual_seed(0)
    made = TokenEncoder(encoder), FlowDecoder(flow), HiftVocoder(hift)
    for m in made:
        m.eval().requires_grad_(False)
    return made


def least(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of the processor."""
    times = []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return min(times)


def streaming(
    encoder: TokenEncoder, decoder: FlowDecoder, vocoder: HiftVocoder
) -> tuple[Callable[..., Any], tuple[Any, Any, Any]]:
    """What makes the next chunk of the states, and the states before the first."""
    e, ahead = encoder.config, vocoder.config.given_ahead
    tokens = torch.arange(e.block + e.lookahead)[None]
    tail = torch.zeros(1, ahead, 80)

    def step(memory: Any, flow: Any, sound: Any) -> tuple[Any, Any, Any]:
        mu, memory = encoder.step(tokens, memory)
        mel, flow = decoder.step(mu, flow)
        _, sound = vocoder.step(torch.cat([tail, mel], 1), sound)
        return memory, flow, sound

    begin = decoder.init_state(1, torch.zeros(1, 80))
    return step, (encoder.init_state(1), begin, vocoder.init_state(1))


def measure(
    size: str, steps: int, chunks: list[int], longest: int, repeats: int
) -> list[tuple[int, float, float | None]]:
    """Chunk, seconds with caches, seconds of the prefix."""
    encoder, decoder, vocoder = modules(size, steps)
    e = encoder.config
    stream, (memory, flow, sound) = streaming(encoder, decoder, vocoder)

    def prefix(n: int) -> None:
        all_tokens = torch.arange(n * e.block)[None] % e.vocab_size
        mel = decoder(encoder(all_tokens), torch.zeros(1, 80))
        vocoder(mel[:, -(e.block * e.repeats + 8) :])  # which the original keeps of the mel before

    found = []
    stream(memory, flow, sound)  # once, for what is made at a first call
    for n in range(1, max(chunks) + 1):
        if n in chunks:
            states = memory, flow, sound
            own = least(lambda states=states: stream(*states), repeats)
            other = least(lambda n=n: prefix(n), max(repeats // 3, 1)) if n <= longest else None
            ratio = "" if other is None else f"   prefix {other:8.3f} s   {other / own:6.1f} times"
            print(f"chunk {n:4d}   stream {own:7.3f} s{ratio}", flush=True)
            found.append((n, own, other))
        if size == "full" and n >= max(chunks):
            break
        memory, flow, sound = stream(memory, flow, sound)
    return found


def each(size: str, steps: int, count: int) -> list[float]:
    """Seconds of the processor of each of the first chunks of one stream."""
    step, states = streaming(*modules(size, steps))
    times = []
    step(*states)  # once, for what is made at a first call
    for n in range(1, count + 1):
        begun = time.process_time()
        states = step(*states)
        times.append(time.process_time() - begun)
        if not n % 50:
            print(
                f"chunk {n:4d}   median of 50: {statistics.median(times[-50:]):7.4f} s", flush=True
            )
    return times


def flatness(times: list[float]) -> float:
    """The median of the last fifth over that of the second and third tenth."""
    tenth = len(times) // 10
    return statistics.median(times[8 * tenth :]) / statistics.median(times[tenth : 3 * tenth])


def picture(
    found: list[tuple[int, float, float | None]], target: Path, times: list[float] | None = None
) -> None:
    """times: of every chunk, where they were measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6))
    known = [(n, other) for n, _, other in found if other is not None]
    axes.plot(*zip(*known), "o-", color=COLOURS[1], label="the whole prefix anew")
    if times:
        axes.plot(range(1, len(times) + 1), times, color=COLOURS[0], linewidth=1, label="stream")
    else:
        own = [own for _, own, _ in found]
        axes.plot([n for n, *_ in found], own, "o-", color=COLOURS[0], label="stream")
    axes.set(yscale="log", xlabel="chunk (a second each)", ylabel="seconds a chunk")
    if not times:
        axes.set(xscale="log")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--steps", type=int, default=10, help="of the flow's solver")
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100])
    parser.add_argument("--longest", type=int, default=50, help="chunks whose prefix is timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--each", type=int, default=0, metavar="N", help="time every chunk up to N")
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    if args.each and args.each < 10:
        parser.error("--each needs 10 chunks or more")
    torch.set_num_threads(1)
    with torch.no_grad():
        found = measure(args.size, args.steps, args.chunks, args.longest, args.repeats)
        times = each(args.size, args.steps, args.each) if args.each else []
    own = [t for _, t, _ in found]
    print(
        f"stream: {min(own):.3f} to {max(own):.3f} s a chunk, {max(own) / min(own) - 1:.1%} apart"
    )
    if times:
        print(f"flatness over {len(times)} chunks: {flatness(times):.3f}")
    if args.picture:
        picture(found, args.picture, times)


if __name__ == "__main__":
    main()
