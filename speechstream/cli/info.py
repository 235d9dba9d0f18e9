"""`speechstream info`: the version, the engines, and what a bundle's card says."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle",
        nargs="?",
        metavar="BUNDLE",
        help="the folder of a model; default: the embedded ones",
    )


def run(args: argparse.Namespace) -> int:
    import speechstream
    from speechstream import bundle

    print(f"speechstream {speechstream.__version__}, Python {platform.python_version()}")
    for name, found in engines().items():
        print(f"engine {name}: {found}")
    for path in [args.bundle] if args.bundle else map(bundle.embedded, bundle.EMBEDDED):
        model = bundle.load(path)
        print(
            f"\nmodel: {model.path}\ntask: {model.task}\narchitecture: {model.architecture}\n"
            f"size: {_size(model.nbytes)}"
        )
        for name, size in model.files.items():
            print(f"  {name}  {_size(size)}")
        print("\n".join(["", *render(model.card)]))
    return 0


def engines() -> dict[str, str]:
    """What can run a network here, without importing torch."""
    try:
        import onnxruntime

        providers = (
            p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers()
        )
        onnx = f"onnxruntime {onnxruntime.__version__} ({', '.join(providers)})"
    except ImportError as error:
        onnx = f"onnxruntime cannot be loaded: {error}"
    try:
        torch = f"torch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        torch = "torch is not installed (pip install speechstream[train])"
    return {"onnx": onnx, "torch": torch}


def render(value: Any, indent: int = 0) -> Iterator[str]:
    """Lines of a card: whatever JSON it holds, lists of objects and objects of objects as tables."""
    margin = " " * indent
    if isinstance(value, dict):
        rows = list(value.values())
        if len(rows) > 1 and all(_is_row(r) for r in rows):
            yield from _table([{"": name, **row} for name, row in value.items()], margin)
            return
        for name, item in value.items():
            if isinstance(item, (dict, list)) and item:
                yield f"{margin}{_words(name)}:"
                yield from render(item, indent + 2)
            else:
                yield f"{margin}{_words(name)}: {_text(item)}"
    elif isinstance(value, list) and value and all(_is_row(r) for r in value):
        yield from _table(value, margin)
    elif isinstance(value, list):
        for item in value:
            yield from render(item, indent)
    else:
        yield margin + _text(value)


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and not any(isinstance(v, (dict, list)) for v in value.values())


def _table(rows: list[dict], margin: str) -> Iterator[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_words(c) for c in columns]] + [
        [_text(row.get(c, "")) for c in columns] for row in rows
    ]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        yield margin + "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths)).rstrip()


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    return (
        " ".join(str(value).split()) if not isinstance(value, bool) else ("yes" if value else "no")
    )


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count:,} bytes"
