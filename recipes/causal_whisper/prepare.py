"""Log-mel features of the manifests train.jsonl, unlabelled.jsonl and dev.jsonl.

python -m recipes.causal_whisper.prepare DATA work/features
"""

from __future__ import annotations

from pathlib import Path

from recipes.causal_whisper.data import extract
from recipes.common.args import parser


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("data", type=Path)
    p.add_argument("out", type=Path)
    args = p.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in ("dev", "unlabelled", "train"):
        extract(args.data / f"{name}.jsonl", args.out / name)
        print(name, flush=True)


if __name__ == "__main__":
    main()
