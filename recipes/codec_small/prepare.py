"""Pack the recordings of one or more manifests: python -m recipes.codec_small.prepare OUT MANIFEST... (see data.py)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from recipes.codec_small.data import pack


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--sample-rate", type=int, default=24_000)
    parser.add_argument(
        "--min-rate", type=int, default=24_000, help="leave out recordings of a lower rate (Hz)"
    )
    args = parser.parse_args(arguments)
    index = pack(args.manifests, args.out, args.sample_rate, args.min_rate)
    hours = {
        s: round(sum(r["samples"] for r in index[s]) / args.sample_rate / 3600, 3)
        for s in ("train", "held")
    }
    print(
        json.dumps(
            {
                "utterances": {s: len(index[s]) for s in hours},
                "hours": hours,
                "below_min_rate": index["below_min_rate"],
            }
        )
    )


if __name__ == "__main__":
    main()
