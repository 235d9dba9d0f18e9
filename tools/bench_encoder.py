"""Milliseconds a FastConformer encoder takes for a chunk, ours and others', on one thread: a table and a picture.

    python -m tools.bench_encoder                               # 17 x 512, left 70, chunks of 80, 160, 560, 1120 ms
    python -m tools.bench_encoder --batch 1 8 --weights fp32 int8 --picture encoder.png --keep /var/tmp/graphs

Weights are random: speed does not depend on them. Rows, each where it can be had:

    onnxruntime's products   the encoder's matrix products alone, same shapes and process: the ceiling of our fp32
    ours, fp32 / int8 ...    the exported graph, all latencies and batches from one file
    ... int8-widened         int8 as older graphs are read without VNNI: uint8 weights, sums in 32 bits (on request)
    ... fp16 caches          the same with keys and values of streams in 16 bits
    NeMo, NeMo ONNX          `cache_aware_stream_step`, and its own export in onnxruntime (needs nemo_toolkit[asr])
    NeMo ONNX, int8          that export with its weights quantised by onnxruntime's own tool, a scale a channel
    Hugging Face             the Nemotron streaming port of transformers, in torch

Figures are medians with all rows taken in turn, several rounds, so that a busy machine is busy for all of them.
"share" is the ceiling's time over ours, "streams" how many live streams a core serves (audio time over work).
"""

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.quantization import quantize_dynamic

from speechstream.asr.whisper.onnx import session
from speechstream.export.fastconformer import export_fastconformer
from speechstream.export.graph import Writer
from speechstream.export.quantize import FORMS
from speechstream.nn.conformer import ConformerConfig
from speechstream.nn.fastconformer import FastConformer, FastConformerConfig
from speechstream.runtime.graph import Graph
from speechstream.state import flatten, select

FRAME_MS = 80
FRAMES_HEARD = 200  # of the streams measured: caches are full
COLOURS = (
    "#000000",
    "#0072b2",
    "#56b4e9",
    "#009e73",
    "#d55e00",
    "#e69f00",
    "#cc79a7",
    "#999999",
    "#882255",
    "#44aa99",
    "#aa4499",
    "#ddcc77",
    "#332288",
    "#661100",
)
Step = Callable[[int, int], Callable[[], object]]  # (chunk, batch) to what is timed
WIDENED = "-widened"


def products(c: ConformerConfig) -> list[tuple[int, int]]:
    """(K, N) of the matrices that every frame is multiplied by."""
    D, F = c.dim, c.ff_dim
    return [(D, F), (F, D), (D, 3 * D), (D, D), (D, 2 * D), (D, D), (D, F), (F, D)] * c.layers


def ceiling(c: ConformerConfig, folder: Path) -> Step:
    """The products alone, each with weights of its own, so that they come from memory as the encoder's do."""
    path = folder / "products.onnx"
    if not path.exists():
        w, rng = Writer(), np.random.default_rng(0)
        x = {n: w.input(f"x{n}", "float32", ["rows", n]) for n in {c.dim, c.ff_dim}}
        for i, (k, n) in enumerate(products(c)):
            weight = rng.standard_normal((n, k), dtype=np.float32)
            w.output(
                f"y{i}",
                w.linear(x[k], f"w{i}", weight, np.zeros(n, np.float32)),
                "float32",
                ["rows", n],
            )
        path.write_bytes(w.model().SerializeToString())
    one = session(path)

    def step(chunk: int, batch: int):
        feed = {f"x{n}": np.ones((chunk * batch, n), np.float32) for n in {c.dim, c.ff_dim}}
        return lambda: one.run(None, feed)

    return step


def ours(c: ConformerConfig, weights: str, half: bool, folder: Path) -> Step:
    path = folder / f"{c.position}-{weights}{'-fp16-caches' * half}.onnx"
    if not path.exists():
        torch.manual_seed(0)
        model = FastConformer(FastConformerConfig(c, 8))
        form = FORMS[weights.removesuffix(WIDENED)]
        encoder = export_fastconformer(model, weights=form, half=half)["encoder"]
        if weights.endswith(WIDENED):
            encoder.producer_name = "older"  # its sums are not known to fit into 16 bits
        path.write_bytes(encoder.SerializeToString())
    graph = Graph(path)
    print(
        f"{path.stem}: {path.stat().st_size / 1e6:.0f} MB, and for each stream "
        f"{sum(a.nbytes for a in flatten(graph.init_state()).values()) / 1e6:.2f} MB of state",
        flush=True,
    )

    def step(chunk: int, batch: int):
        rng = np.random.default_rng(0)
        state = graph.init_state(batch)
        for name, a in flatten(state).items():
            a[:] = FRAMES_HEARD if name == "frames" else rng.standard_normal(a.shape)
        feed = {
            "features": rng.standard_normal(
                (batch, c.subsampling * chunk, c.n_mels), dtype=np.float32
            ),
            "lengths": np.full(batch, c.subsampling * chunk),
        }
        slots = graph.slots()
        opened = [slots.open() for _ in range(batch)]
        for i, slot in enumerate(opened):
            slots.write(slot, select(state, i))
        return lambda: slots.step(opened, feed)

    return step


def nemo_encoder(c: ConformerConfig, chunk: int):
    from nemo.collections.asr.modules import ConformerEncoder

    encoder = ConformerEncoder(
        feat_in=c.n_mels,
        n_layers=c.layers,
        d_model=c.dim,
        causal_downsampling=True,
        subsampling="dw_striding",
        subsampling_factor=c.subsampling,
        subsampling_conv_channels=c.subsampling_channels,
        ff_expansion_factor=c.ff_dim // c.dim,
        n_heads=c.heads,
        xscaling=False,
        att_context_size=[c.left_context, chunk - 1],
        att_context_style="chunked_limited",
        conv_kernel_size=c.kernel,
        conv_norm_type="layer_norm",
        conv_context_size="causal",
    ).eval()
    encoder.setup_streaming_params()
    return encoder


def nemo_sizes(encoder) -> tuple[int, int]:
    """Feature frames of a step, and the encoder frames of history that it subsamples again and drops."""
    s = encoder.streaming_cfg
    size, before = (
        v[1] if isinstance(v, list) else v for v in (s.chunk_size, s.pre_encode_cache_size)
    )
    return size + before, s.drop_extra_pre_encoded


def nemo(c: ConformerConfig) -> Step:
    import nemo.collections.asr  # noqa: F401  only to know at once whether it is there

    def step(chunk: int, batch: int):
        encoder = nemo_encoder(c, chunk)
        frames, drop = nemo_sizes(encoder)
        cache = list(encoder.get_initial_cache_state(batch_size=batch))
        cache[2] = torch.full_like(cache[2], c.left_context)
        x, lengths = torch.randn(batch, c.n_mels, frames), torch.full((batch,), frames)
        return lambda: encoder.cache_aware_stream_step(
            processed_signal=x,
            processed_signal_length=lengths,
            cache_last_channel=cache[0],
            cache_last_time=cache[1],
            cache_last_channel_len=cache[2],
            keep_all_outputs=False,
            drop_extra_pre_encoded=drop,
        )

    return step


def nemo_onnx(c: ConformerConfig, folder: Path, bits: int) -> Step:
    import nemo.collections.asr  # noqa: F401

    def step(chunk: int, batch: int):
        path = whole = folder / f"nemo-{chunk}.onnx"
        if not whole.exists():
            encoder = nemo_encoder(c, chunk)
            encoder.export_cache_support = True
            encoder.export(str(whole), onnx_opset_version=17)
        if bits == 8:
            path = folder / f"nemo-{chunk}-8.onnx"
            if not path.exists():
                quantize_dynamic(whole, path, per_channel=True, op_types_to_quantize=["MatMul"])
        one = session(path)
        frames = nemo_sizes(nemo_encoder(ConformerConfig(layers=1), chunk))[0]
        feed = {
            "audio_signal": np.random.default_rng(0).standard_normal(
                (batch, c.n_mels, frames), dtype=np.float32
            ),
            "length": np.full(batch, frames),
            "cache_last_channel_len": np.full(batch, c.left_context),
            "cache_last_channel": np.zeros((batch, c.layers, c.left_context, c.dim), np.float32),
            "cache_last_time": np.zeros((batch, c.layers, c.dim, c.kernel - 1), np.float32),
        }
        return lambda: one.run(None, {i.name: feed[i.name] for i in one.get_inputs()})

    return step


def hugging_face(c: ConformerConfig) -> Step:
    from transformers import DynamicCache
    from transformers.models.nemotron_asr_streaming import modeling_nemotron_asr_streaming as port

    config = port.NemotronAsrStreamingEncoderConfig(
        hidden_size=c.dim,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        intermediate_size=c.ff_dim,
        conv_kernel_size=c.kernel,
        subsampling_conv_channels=c.subsampling_channels,
        num_mel_bins=c.n_mels,
        sliding_window=c.left_context + 1,
        scale_input=False,
    )
    encoder = port.NemotronAsrStreamingEncoder(config).eval()

    def step(chunk: int, batch: int):
        cache, padding = (
            DynamicCache(config=config),
            port.NemotronAsrStreamingEncoderCausalConvPaddingCache(),
        )
        x = torch.randn(batch, c.subsampling * chunk, c.n_mels)
        run = lambda: encoder(
            x,
            past_key_values=cache,
            padding_cache=padding,
            use_cache=True,
            num_lookahead_tokens=chunk - 1,
        )
        with torch.inference_mode():
            for _ in range(-(-c.left_context // chunk)):
                run()
        return run

    return step


def measure(steps: dict[str, Step], chunks: list[int], batches: list[int], rounds: int) -> dict:
    """Median seconds by (row, chunk, batch), the rows taken in turn."""
    out = {}
    for batch in batches:
        for chunk in chunks:
            timed, taken = {}, {}
            for name, step in list(steps.items()):
                try:
                    timed[name] = step(chunk, batch)
                    with torch.inference_mode():
                        timed[name]()
                except (
                    Exception
                ) as error:  # of somebody else's software: the row is left out and says why
                    print(
                        f"{name} cannot be measured: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
                    )
                    timed.pop(name, None)
                    del steps[name]
            for _ in range(rounds if chunk * batch < 32 else max(3, rounds // 3)):
                for name, run in timed.items():
                    begun = time.perf_counter()
                    with torch.inference_mode():
                        run()
                    taken.setdefault(name, []).append(time.perf_counter() - begun)
            out |= {(name, chunk, batch): float(np.median(t)) for name, t in taken.items()}
    return out


def table(results: dict, chunks: list[int], batches: list[int], top: str, flops: float) -> str:
    names = list(dict.fromkeys(name for name, _, _ in results))
    lines = []
    for batch in batches:
        head = "".join(f"{f'{FRAME_MS * c} ms':>28}" for c in chunks)
        lines += [
            "",
            f"batch {batch}".ljust(26) + head,
            " " * 26 + "  ms/chunk   share  streams" * len(chunks),
        ]
        for name in names:
            cells = []
            for c in chunks:
                t = results.get((name, c, batch))
                best = results.get((top, c, batch))
                cells.append(
                    " " * 28
                    if t is None
                    else f"{1e3 * t:10.1f}{best / t:8.2f}{batch * c * FRAME_MS / 1e3 / t:9.1f} "
                )
            lines.append(f"{name:26}" + "".join(cells).rstrip())
        rates = "".join(
            f"{flops * batch * c / results[top, c, batch] / 1e9:27.0f} " for c in chunks
        )
        lines.append(f"{'GFLOP/s of the ceiling':26}" + rates.rstrip())
    return "\n".join(lines)


def picture(results: dict, chunks: list[int], batches: list[int], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(batches), figsize=(5 * len(batches) + 2.5, 4.2), layout="constrained", squeeze=False
    )
    names = list(dict.fromkeys(name for name, _, _ in results))
    for panel, batch in zip(axes[0], batches):
        for name, colour in zip(names, itertools.cycle(COLOURS)):
            y = [1e3 * results.get((name, c, batch), np.nan) for c in chunks]
            style = "--" if name == names[0] else "-"
            panel.plot(
                range(len(chunks)), y, style, marker="o", markersize=4, color=colour, label=name
            )
        panel.set_xticks(range(len(chunks)), [f"{FRAME_MS * c} ms" for c in chunks])
        panel.set_title(f"{batch} stream{'s' * (batch > 1)} a call, one thread", fontsize=10)
        panel.set_ylim(0)
        panel.set_ylabel("ms for a chunk")
        panel.grid(axis="y", alpha=0.3)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside right upper",
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", nargs="+", type=int, default=[80, 160, 560, 1120], metavar="MS")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument(
        "--weights", nargs="+", default=list(FORMS), choices=[*FORMS, "int8" + WIDENED]
    )
    parser.add_argument(
        "--position",
        nargs="+",
        choices=("rope", "relative"),
        default=["relative"],
        help="relative is what NeMo's checkpoints have, and what NeMo and Hugging Face run here",
    )
    parser.add_argument("--layers", type=int, default=17)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--alone", action="store_true", help="only our own rows and the ceiling")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the graphs here, to make them only once"
    )
    parser.add_argument("--picture", type=Path, default=Path("bench_encoder.png"))
    a = parser.parse_args()
    torch.set_num_threads(1)
    chunks = [ms // FRAME_MS for ms in a.chunks]
    if any(ms % FRAME_MS or ms <= 0 for ms in a.chunks):
        parser.error(f"chunks must be multiples of {FRAME_MS} ms, got {a.chunks}")
    size = {"layers": a.layers, "dim": a.dim, "ff_dim": 4 * a.dim}
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.keep or Path(temporary)
        folder = folder / f"{a.layers}x{a.dim}"
        folder.mkdir(parents=True, exist_ok=True)
        c = ConformerConfig(position=a.position[0], **size)
        top = "onnxruntime's products"
        makers: dict[str, Callable[[], Step]] = {top: lambda: ceiling(c, folder)}
        for position in a.position:
            for weights in a.weights:
                for half in (False, True) if weights == "fp32" else (False,):
                    name = (
                        f"ours, {weights}"
                        + f" {position}" * (len(a.position) > 1)
                        + ", fp16 caches" * half
                    )
                    makers[name] = lambda p=position, w=weights, h=half: ours(
                        ConformerConfig(position=p, **size), w, h, folder
                    )
        if not a.alone:
            makers |= {
                "NeMo ONNX": lambda: nemo_onnx(c, folder, 32),
                "NeMo ONNX, int8": lambda: nemo_onnx(c, folder, 8),
                "NeMo": lambda: nemo(c),
                "Hugging Face": lambda: hugging_face(c),
            }
        steps = {}
        for name, make in makers.items():
            try:
                steps[name] = make()
            except ImportError as error:
                print(f"{name} is not installed here ({error.name}): left out")
        flops = 2.0 * sum(k * n for k, n in products(c))
        print(
            f"{a.layers} x {a.dim}, left {c.left_context}, onnxruntime {ort.__version__}, torch {torch.__version__}, "
            f"{flops / 1e9:.3f} GFLOP a frame in its products"
        )
        results = measure(steps, chunks, a.batch, a.rounds)
    print(table(results, chunks, a.batch, top, flops))
    picture(results, chunks, a.batch, a.picture)
    print(f"\n{a.picture}")


if __name__ == "__main__":
    main()
