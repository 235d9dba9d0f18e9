"""`speechstream export`: a model as ONNX graphs that onnxruntime runs without this package."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from speechstream.errors import SpeechStreamError

if TYPE_CHECKING:
    from speechstream.export.quantize import Weights

EXAMPLES = """examples:
  speechstream export BUNDLE --onnx graphs/                     fp32
  speechstream export BUNDLE --onnx graphs/ --int8 --check      and compare with torch, on made-up speech
  speechstream export BUNDLE --onnx graphs/ --check talk.flac   and compare with torch, on a recording

The graph of an encoder serves all batches and chunk sizes. A FastConformer's folder is a bundle:
  speechstream transcribe talk.flac --model graphs/

  speechstream export BUNDLE --sherpa model/ --latency 560      the same model for sherpa-onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="the folder of a model, or of a codec")
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--onnx", metavar="DIR", help="the folder to write the graphs into")
    form.add_argument(
        "--sherpa", metavar="DIR", help="write a streaming FastConformer as sherpa-onnx loads it"
    )
    add(
        "--latency",
        type=int,
        metavar="MS",
        help="the chunk of --sherpa; default: the model's first",
    )
    weights = parser.add_mutually_exclusive_group()
    for name, text in (
        (
            "int8",
            "weights in 8 bits, one scale a channel: the fastest for batches and chunks of a second",
        ),
        ("int8-blocks", "weights in 8 bits, a scale for 256 of them: the fastest for one stream"),
        ("int4", "weights in 4 bits, a scale for 64 of them: the smallest"),
    ):
        weights.add_argument(
            f"--{name}", dest="weights", action="store_const", const=name, help=text
        )
    add(
        "--fp16-caches",
        action="store_true",
        help="of a FastConformer: streams keep their keys and values in 16 bits, "
        "which is half the memory",
    )
    add(
        "--check",
        nargs="*",
        metavar="AUDIO",
        help="run the graphs against torch on recordings (default: made-up "
        "speech) and print the largest differences; exit code 2 where fp32 graphs differ by more than 1e-3",
    )


def run(args: argparse.Namespace) -> int:
    try:
        from speechstream.export.quantize import FORMS
        from speechstream.export.standalone import export, open_source
    except ModuleNotFoundError as error:
        raise SpeechStreamError(
            f"exporting needs {error.name}: pip install speechstream[train]"
        ) from error
    weights = FORMS[args.weights or "fp32"]
    if args.sherpa:
        return for_sherpa(args, weights)
    if args.latency is not None:
        raise SpeechStreamError(
            "--latency goes with --sherpa: one graph of --onnx serves all latencies"
        )
    source = open_source(args.bundle)
    paths = export(source, args.onnx, weights, args.fp16_caches)
    for path in paths.values():
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    if args.check is None:
        return 0
    from speechstream.export.check import TOLERANCE, compare, table

    rows = compare(source, paths, args.check)
    print(table(rows))
    if (
        weights.bits == 32
        and not args.fp16_caches
        and any(not row.error <= TOLERANCE * max(1.0, row.largest) for row in rows)
    ):
        raise SpeechStreamError(
            f"the graphs differ from torch by more than {TOLERANCE:g}: see the table"
        )
    return 0


def for_sherpa(args: argparse.Namespace, weights: Weights) -> int:
    from speechstream.export.sherpa import write_sherpa
    from speechstream.nn.checkpoints import read_fastconformer

    if args.check is not None:
        raise SpeechStreamError("--check goes with --onnx")
    if args.fp16_caches:
        raise SpeechStreamError("--fp16-caches goes with --onnx")
    one = read_fastconformer(args.bundle)
    e, f = one.model.config.encoder, one.features
    known = {
        round(1000 * (r + 1) * e.subsampling * f.hop / f.sample_rate): r + 1 for r in e.lookaheads
    }
    if args.latency is not None and args.latency not in known:
        raise SpeechStreamError(
            f"--latency {args.latency} is not possible with this model; expected one of "
            f"{', '.join(map(str, known))} ms"
        )
    for path in write_sherpa(one, args.sherpa, known.get(args.latency), weights):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0
