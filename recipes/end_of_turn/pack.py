"""Put a trained head into a recogniser's bundle.

    python -m recipes.end_of_turn.pack work/end_of_turn.safetensors --bundle FOLDER

Snapshots of streams are taken up by the same bundle only: those of before are refused.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from recipes.common.args import parser
from speechstream import bundle
from speechstream.asr.end_of_turn import WEIGHTS, EndOfTurn


def main() -> None:
    p = parser(__doc__)
    p.add_argument("head", type=Path)
    p.add_argument("--bundle", type=Path, default=bundle.MODELS / bundle.EMBEDDED["asr"])
    args = p.parse_args()
    EndOfTurn.load(args.head)
    b = bundle.load(args.bundle)
    shutil.copyfile(args.head, b.path / WEIGHTS)
    files = [*(f for f in b.files if f != WEIGHTS), WEIGHTS]
    bundle.write(b.path, b.task, b.architecture, b.config, b.card, files)
    print(f"{WEIGHTS}, {(b.path / WEIGHTS).stat().st_size} bytes, in {b.path}")


if __name__ == "__main__":
    main()
