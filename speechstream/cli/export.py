"""`speechstream export`: a model as ONNX graphs that onnxruntime runs without this package."""

from __future__ import annotations

import argparse

from speechstream.cli import EXIT_ERROR
from speechstream.errors import SpeechStreamError

EXAMPLES = """examples:
  speechstream export BUNDLE --onnx graphs/                     fp32
  speechstream export BUNDLE --onnx graphs/ --int8 --check      and compare with torch, on made-up speech
  speechstream export BUNDLE --onnx graphs/ --check talk.flac   and compare with torch, on a recording

The graph of an encoder serves all batches and chunk sizes. A FastConformer's folder is a bundle:
  speechstream transcribe talk.flac --model graphs/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLES
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="the folder of a model, or of a codec")
    add("--onnx", required=True, metavar="DIR", help="the folder to write the graphs into")
    bits = parser.add_mutually_exclusive_group()
    bits.add_argument("--int8", dest="bits", action="store_const", const=8, default=32,
                      help="weights in 8 bits, one scale a channel")
    bits.add_argument("--int4", dest="bits", action="store_const", const=4, help="weights in 4 bits, in blocks of 64")
    add("--check", nargs="*", metavar="AUDIO", help="run the graphs against torch on recordings (default: made-up "
        "speech) and print the largest differences; exit code 2 where fp32 graphs differ by more than 1e-3")


def run(args: argparse.Namespace) -> int:
    try:
        from speechstream.export.standalone import export, open_source
    except ModuleNotFoundError as error:
        raise SpeechStreamError(f"exporting needs {error.name}: pip install speechstream[train]") from error
    source = open_source(args.bundle)
    paths = export(source, args.onnx, args.bits)
    for path in paths.values():
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    if args.check is None:
        return 0
    from speechstream.export.check import TOLERANCE, compare, table
    rows = compare(source, paths, args.check)
    print(table(rows))
    if args.bits == 32 and any(not row.error <= TOLERANCE * max(1.0, row.largest) for row in rows):
        raise SpeechStreamError(f"the graphs differ from torch by more than {TOLERANCE:g}: see the table")
    return 0
