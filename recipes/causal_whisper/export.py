"""Write the bundle: the averaged weights of a training run, in 8 bits, with their card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file

from recipes.causal_whisper.train import CONFIG
from recipes.common.args import read_config
from recipes.common.checkpoint import select_prefix
from speechstream.export.bundle import write_whisper
from speechstream.export.quantize import FP32, INT8
from speechstream.nn.whisper import Whisper, WhisperConfig

CARD = {
    "name": "causal-whisper-base",
    "description": "English streaming recognition: OpenAI's Whisper base, its encoder made chunk-causal",
    "licence": "Apache-2.0; derived from Whisper base (MIT)",
    "training_data": [
        {"name": "LibriSpeech train-clean (7.2 h)", "licence": "CC BY 4.0"},
        {
            "name": "Common Voice delta 2023, validated (2.3 h) and unlabelled (1.6 h)",
            "licence": "CC0",
        },
        {"name": "Common Voice v1, validated (4.4 h)", "licence": "CC0"},
        {"name": "speechocean762 train (2.9 h)", "licence": "CC BY 4.0"},
    ],
    "languages": ["en"],
}


def read_run(run: Path, part: str = "average.") -> Whisper:
    """The network of a training run: its running average, or with part "student." the last iterate."""
    config = json.loads((run / "config.json").read_text())
    config["alignment_heads"] = tuple(map(tuple, read_config(CONFIG)["alignment_heads"]))
    model = Whisper(WhisperConfig(**config))
    model.load_state_dict(select_prefix(load_file(run / "checkpoint.safetensors"), part))
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--fp32", action="store_true")
    parser.add_argument("--measured", type=Path, help="JSON of tools/evaluate_asr.py, for the card")
    args = parser.parse_args()
    card = {
        **CARD,
        **({"measured": json.loads(args.measured.read_text())} if args.measured else {}),
    }
    write_whisper(read_run(args.run), args.out, args.vocabulary, card, FP32 if args.fp32 else INT8)


if __name__ == "__main__":
    main()
