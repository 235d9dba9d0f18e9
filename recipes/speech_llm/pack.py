"""A run as a bundle that everything runs: weights, vocabulary, graphs in 8 bits.

python -m recipes.speech_llm.pack work/run --vocabulary work/vocabulary.json --llm model.gguf --out work/bundle
"""

from __future__ import annotations

import base64
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from recipes.common.args import parser, read_config
from recipes.common.checkpoint import save_json, save_tensors
from recipes.speech_llm.start import begin, read_compact
from recipes.speech_llm.train import BUNDLE, CONFIG
from speechstream import bundle
from speechstream.asr.speech_llm.family import CTC
from speechstream.export.quantize import FORMS
from speechstream.export.speech_llm import add_graphs
from speechstream.nn.speech_llm_config import SpeechLlmBundle

CARD = {
    "name": "trade-smollm2-135m",
    "description": "English streaming recognition: SmolLM2-135M-Instruct as a transducer's prediction network over a causal Whisper base",
    "licence": "Apache-2.0; derived from Whisper base (MIT) and SmolLM2-135M-Instruct (Apache-2.0)",
    "languages": ["en"],
}


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("run", type=Path)
    p.add_argument("--vocabulary", type=Path, required=True)
    p.add_argument("--llm", type=Path, required=True)
    p.add_argument("--bundle", type=Path, default=BUNDLE)
    p.add_argument("--config", type=Path, default=CONFIG)
    p.add_argument("--out", type=Path, required=True)
    p.add_argument(
        "--weights",
        choices=[*sorted(FORMS), "none"],
        default="int8",
        help="of the graphs; none: no graphs, for the engine 'torch' alone",
    )
    args = p.parse_args(arguments)
    config = read_config(args.config)
    compact = read_compact(args.vocabulary, args.llm)
    model = begin(args.bundle, args.llm, compact, config["sizes"])
    model.load_state_dict(load_file(args.run / "trained.safetensors"), strict=False)
    model.eval().requires_grad_(False)
    args.out.mkdir(parents=True, exist_ok=True)
    weights = {n: t.to(torch.float16) for n, t in model.state_dict().items()}
    save_tensors(weights, args.out / "model.safetensors")
    (args.out / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
    pieces = [base64.b64encode(piece).decode() for piece in compact.pieces[1:]]
    save_json({"special": 1, "pieces": pieces}, args.out / "tokens.json")
    about = asdict(SpeechLlmBundle(model.config, delay=config["delay"]))
    files = ["model.safetensors", "tokens.json"]
    if model.config.ctc_vocab_size:
        shutil.copyfile(bundle.load(args.bundle).file(CTC), args.out / CTC)
        files.append(CTC)
    b = bundle.write(args.out, "asr", "speech-llm", about, CARD, files)
    if args.weights != "none":
        add_graphs(b, FORMS[args.weights])


if __name__ == "__main__":
    main()
