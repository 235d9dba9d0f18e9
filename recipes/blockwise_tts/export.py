"""Make a bundle of trained networks: python -m recipes.blockwise_tts.export RUN/model CODEC OUT --name NAME.

The bundle runs on onnxruntime alone: `speechstream say --voice OUT "Hello"`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from safetensors.torch import load_file

from recipes.codec_small.evaluate import load
from speechstream import bundle
from speechstream.export.acoustic import export_voice
from speechstream.export.quantize import Weights
from speechstream.nn.acoustic import AcousticConfig, AcousticModel

ACCENTS = {"a": "American", "b": "British"}
SEXES = {"f": "woman", "m": "man"}


def described(speaker: dict) -> dict:
    """A speaker with what its users are told: Kokoro's names begin with the accent and the sex, as in bf_emma."""
    accent, sex = speaker["name"][:1], speaker["name"][1:2]
    who = f"{ACCENTS.get(accent, '')} {SEXES.get(sex, '')}".strip()
    told = {"description": f"{who}, taught by Kokoro's {speaker['name']}".lstrip(", ")}
    if accent == "b" and sex in SEXES:
        told["language"] = "en-GB"
    return {**{k: speaker[k] for k in ("name", "pitch_hz", "level_db")}, **told}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("codec", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument(
        "--card",
        type=Path,
        default=None,
        help="a JSON file with more of the card: measured figures, date",
    )
    parser.add_argument(
        "--louder",
        action="append",
        default=[],
        metavar="SPEAKER=DB",
        help="added to the loudness that the model predicts for a speaker",
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="SPEAKER", help="leave a speaker out"
    )
    parser.add_argument("--bits", type=int, choices=(32, 8), default=8, help="of the matrices")
    parser.add_argument(
        "--keep",
        type=Path,
        default=None,
        metavar="BUNDLE",
        help="take over the acoustic model's graphs of this bundle byte for byte: only the codec is new",
    )
    parser.add_argument(
        "--keep-codec",
        type=Path,
        default=None,
        metavar="BUNDLE",
        help="take over the codec's graph of this bundle byte for byte: only the acoustic model is new",
    )
    args = parser.parse_args(arguments)
    about = json.loads((args.model / "config.json").read_text())
    weights = load_file(args.model / "model.safetensors")
    left = [k for k, s in enumerate(about["speakers"]) if s["name"] not in args.without]
    about["speakers"] = [about["speakers"][k] for k in left]
    about["config"]["speakers"] = len(left)
    weights["speaker.weight"] = weights["speaker.weight"][left]
    model = AcousticModel(AcousticConfig.from_dict(about["config"]))
    model.load_state_dict(weights)
    card = {
        "name": args.name,
        "licence": "Apache-2.0",
        "description": f"English streaming synthesis: {len(about['speakers'])} voices, 80 ms at a time",
        "training_data": [{"name": "speech made with Kokoro-82M", "licence": "Apache-2.0"}],
        "languages": ["en"],
        "steps": about["step"],
        "minutes": about["minutes"],
    }
    card |= json.loads(args.card.read_text()) if args.card else {}
    louder = dict(given.split("=") for given in args.louder)
    speakers = [
        described(s) | ({"energy_db": float(louder[s["name"]])} if s["name"] in louder else {})
        for s in about["speakers"]
    ]
    made = export_voice(
        model, load(args.codec), args.out, speakers, card, weights=Weights(args.bits)
    )
    kept = [(args.keep, n) for n in ("text.onnx", "acoustic.onnx")] if args.keep else []
    kept += [(args.keep_codec, "codec.onnx")] if args.keep_codec else []
    for source, name in kept:
        shutil.copy(bundle.load(source).file(name), args.out / name)
    if kept:
        made = bundle.write(
            args.out, made.task, made.architecture, made.config, made.card, list(made.files)
        )
    print(json.dumps({"bytes": made.nbytes, "files": made.files}))


if __name__ == "__main__":
    main()
