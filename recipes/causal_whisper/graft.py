"""Begin a run with the encoder of one run and the decoder of another, moments of the encoder included.

    python graft.py work/longer work/run --out work/frozen

A decoder learns its few hours of training text by heart long before the encoder has heard enough; then the decoder of
an earlier run is the better one, to go on with at `train.py --decoder-lr 0`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path, help="the run whose averaged encoder is taken")
    parser.add_argument("decoder", type=Path, help="the run whose averaged decoder is taken")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    run, other = (load_file(p / "checkpoint.safetensors") for p in (args.encoder, args.decoder))
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
    shutil.copy(args.encoder / "config.json", args.out)
    state = json.loads((args.encoder / "state.json").read_text())
    (args.out / "state.json").write_text(json.dumps({"step": state["step"], "seconds": 0.0}))


if __name__ == "__main__":
    main()
