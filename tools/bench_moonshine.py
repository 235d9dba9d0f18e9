"""Processor time of a streaming Moonshine at the released sizes of the tiny one, random weights, beside transformers'.

    python -m tools.bench_moonshine [RECORDING]

One thread, processor time, everything in one run. Random weights never end a text, so that all of the tokens that a
second may have are written: a trained model writes fewer. Needs transformers 5.24 or later.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from speechstream import Recognizer
from speechstream.audio.features import SAMPLE_RATE
from speechstream.cli import main as command
from speechstream.runtime.requests import drive
from speechstream.state import nbytes
from tools.make_tiny_moonshine import write

SECONDS = 10
DEFAULT = Path(__file__).parents[1] / "tests" / "fixtures" / "austen_0880.flac"


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and the result."""
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("recording", nargs="?", default=DEFAULT, type=Path)
    x = _sound(parser.parse_args().recording)
    import transformers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.MoonshineStreamingConfig(num_key_value_heads=8)
    model = transformers.MoonshineStreamingForConditionalGeneration(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "src", model)
        with contextlib.redirect_stdout(io.StringIO()):
            command(["convert", f"{folder}/src", "-o", f"{folder}/out"])
        family = Recognizer.load(f"{folder}/out").family
    mode, spent = family.mode(None), []
    segment = family.open(mode)
    for at in range(0, len(x), SAMPLE_RATE):
        block = x[at : at + SAMPLE_RATE]
        took, segment = timed(lambda s=segment, b=block: drive(family.feed(b, s, mode)))
        spent.append(took)
    alone, done = timed(lambda: drive(family.finish(segment, mode)))
    drafted = replace(segment, tokens=done.tokens, logprobs=done.logprobs)
    again, same = timed(lambda: drive(family.finish(drafted, mode)))
    given = {
        "input_values": torch.from_numpy(x)[None],
        "attention_mask": torch.ones(1, len(x), dtype=torch.long),
    }
    with torch.inference_mode():
        theirs_heard, _ = timed(lambda: model.model.encoder(**given))
        theirs, out = timed(
            lambda: model.generate(**given, max_new_tokens=len(done.tokens), do_sample=False)
        )
    equal = out[0, 1:].tolist() == list(done.tokens) == list(same.tokens)
    kept = segment.cache
    rows = [
        ("hearing a second, ms: the first, the last", 1e3 * spent[0], 1e3 * spent[-1]),
        (f"hearing {SECONDS} s, s: here, transformers", sum(spent), theirs_heard),
        (f"hearing and writing, s, {len(done.tokens)} tokens", sum(spent) + alone, theirs),
        ("writing anew, s: without and with a draft", alone, again),
        (
            "state, MB: encoder, what was heard",
            nbytes(kept.encoder) / 1e6,
            nbytes(kept.memory) / 1e6,
        ),
    ]
    for name, one, other in rows:
        print(f"{name:50} {one:9.3f} {other:9.3f}   {other / max(one, 1e-9):6.2f}")
    print(f"tokens equal transformers': {equal}")


def _sound(path: Path) -> np.ndarray:
    """A recording at 16 kHz, repeated or cut to whole seconds."""
    import soundfile as sf

    x, rate = sf.read(path, dtype="float32", always_2d=True)
    if rate != SAMPLE_RATE:
        raise SystemExit(f"{path} has {rate} Hz, expected {SAMPLE_RATE}")
    return np.resize(x[:, 0], SECONDS * SAMPLE_RATE)


if __name__ == "__main__":
    main()
