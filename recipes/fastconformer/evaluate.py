"""Word error rates of a trained network, by `tools.evaluate_asr`.

    python -m recipes.fastconformer.evaluate RUN --manifest DATA/dev.jsonl --limit 60

RUN is what train.py wrote; further options are those of `tools.evaluate_asr`.
"""

from __future__ import annotations

from pathlib import Path

from recipes.common.args import parser
from tools import evaluate_asr


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("run", type=Path)
    args, rest = p.parse_known_args(arguments)
    evaluate_asr.main(["--model", str(args.run / "bundle"), *rest])


if __name__ == "__main__":
    main()
