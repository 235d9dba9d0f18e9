"""Log-mel features of the manifests (train.jsonl, unlabelled.jsonl, dev.jsonl): DATA to OUT."""

import sys
from pathlib import Path

from recipes.causal_whisper.data import extract

if __name__ == "__main__":
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    for name in ("dev", "unlabelled", "train"):
        extract(data / f"{name}.jsonl", out / name)
        print(name, flush=True)
