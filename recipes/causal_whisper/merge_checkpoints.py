"""Begin a run with the encoder of one run and the decoder of another, moments of the encoder included.

    python -m recipes.causal_whisper.merge_checkpoints work/longer work/run --out work/frozen

Either may be a bundle instead, without moments: `merge_checkpoints BUNDLE BUNDLE --out work/again` goes on from the embedded weights
(which are rounded to 8 bits) where no checkpoint was kept.

A decoder learns its few hours of training text by heart long before the encoder has heard enough; then the decoder of
an earlier run is the better one, to go on with at `train.py --decoder-lr 0`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from speechstream import bundle
from speechstream.nn.checkpoints import read_whisper

STEPS = 1000  # that a bundle is taken to have behind it: the running average has its full length


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict, int]:
    """A checkpoint's tensors, the network's configuration, and the steps made: of a run, or of a bundle."""
    if (path / bundle.INDEX).exists():
        model = read_whisper(bundle.load(path))
        weights = model.state_dict()
        return (
            {
                f"{part}.{n}": w.clone()
                for part in ("student", "average")
                for n, w in weights.items()
            },
            dataclasses.asdict(model.config),
            STEPS,
        )
    return (
        load_file(path / "checkpoint.safetensors"),
        json.loads((path / "config.json").read_text()),
        json.loads((path / "state.json").read_text())["step"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoder", type=Path, help="the run whose averaged encoder is taken")
    parser.add_argument("decoder", type=Path, help="the run whose averaged decoder is taken")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    (run, config, step), (other, _, _) = read(args.encoder), read(args.decoder)
    for name in run:
        part, parameter = name.split(".", 1)
        if part == "adam" and ".decoder." in name:
            run[name] = torch.zeros_like(run[name])
        elif part != "adam" and parameter.startswith("decoder."):
            run[name] = other["average." + parameter].clone()
        elif part == "student" and parameter.startswith("encoder."):
            run[name] = run["average." + parameter].clone()
    args.out.mkdir(parents=True)
    save_file(run, args.out / "checkpoint.safetensors")
    (args.out / "config.json").write_text(json.dumps(config))
    (args.out / "state.json").write_text(json.dumps({"step": step, "seconds": 0.0}))


if __name__ == "__main__":
    main()
