"""Take a voice's bundle apart, to train its networks further: python -m recipes.blockwise_tts.from_bundle BUNDLE OUT.

Writes OUT/codec and OUT/model, as the two train.py do: `python -m recipes.codec_small.train DATA RUN --codec OUT/codec` trains
the decoder on with the same codes, `python -m recipes.blockwise_tts.train DATA RUN --model OUT/model` the acoustic model. Optimisers begin anew.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file

from speechstream import bundle
from speechstream.export.acoustic import read_voice


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    b = bundle.load(args.bundle)
    model, codec = read_voice(b)
    about = {
        "config": model.config.to_dict(),
        "speakers": b.config["speakers"],
        "step": 0,
        "minutes": 0,
    }
    for name, network, config in (
        ("codec", codec, codec.config.to_dict()),
        ("model", model, about),
    ):
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        save_file(
            {n: t.contiguous() for n, t in network.state_dict().items()},
            folder / "model.safetensors",
        )


if __name__ == "__main__":
    main()
