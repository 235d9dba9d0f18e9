"""Write the voice as a bundle: python -m recipes.codec_lm.export RUN/model VOICE OUT [--temperature T] [--pace P].

VOICE is the block-wise voice that taught it, "default" the embedded one; its text encoder and its codec are a part of
the bundle.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file

from speechstream import bundle
from speechstream.export.codec_lm import export_codec_lm
from speechstream.nn.codec_lm import CodecLm
from speechstream.nn.codec_lm_config import CodecLmConfig
from speechstream.tts.codec_lm.network import Sampling


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="what train.py wrote")
    parser.add_argument("voice")
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", default="codec-lm-english")
    parser.add_argument("--speaker", type=int, default=0, help="the teacher's")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="of the codes; 0: the likeliest"
    )
    parser.add_argument(
        "--pace", type=float, default=0.0, help="1: durations are drawn; 0: their median"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    about = json.loads((args.model / "config.json").read_text())
    model = CodecLm(CodecLmConfig.from_dict(about["config"]))
    model.load_state_dict(load_file(args.model / "model.safetensors"))
    teacher = bundle.load(bundle.embedded("tts") if args.voice == "default" else args.voice)
    card = {
        "name": args.name,
        "licence": teacher.card["licence"],
        "description": f"English streaming synthesis by a language model over codes, taught by {teacher.card['name']}",
        "training_data": [
            {"name": f"codes made by {teacher.card['name']}", "licence": teacher.card["licence"]},
            *teacher.card.get("training_data", []),
        ],
        "languages": ["en"],
        "steps": about["step"],
        "minutes": about["minutes"],
    }
    sampling = Sampling(args.temperature, args.pace, args.seed)
    export_codec_lm(model, teacher, args.out, card, args.speaker, sampling)


if __name__ == "__main__":
    main()
