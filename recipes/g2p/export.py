"""Pack the dictionary and measure the network.

    python -m recipes.g2p.export --work work --out speechstream/text/en/data

Writes lexicon.bin and copies g2p.npz; prints sizes and the held-out error rates as the shipped int8 network has them.
"""

import argparse
import json
import pathlib
import re
import shutil
import zlib

import numpy as np

from recipes.g2p.measure import distance
from speechstream.text.en.lexicon import Network


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--measure", action="store_true")
    args = parser.parse_args()
    words = json.loads((args.work / "words.json").read_text())
    split = json.loads((args.work / "split.json").read_text())
    network = Network(dict(np.load(args.work / "g2p.npz")))
    for name in ("random", "family") if args.measure else ():
        for source in ("gold", "silver", "cmu", None):
            items = [w for w in split[name] if source in (None, words[w]["s"])]
            errors = count = wrong = 0
            for w in items:
                hyp = re.findall("[ˈˌ]?.", network(w))
                ref = re.findall("[ˈˌ]?.", words[w]["p"])
                e = distance(hyp, ref)
                errors, count, wrong = errors + e, count + len(ref), wrong + (e > 0)
            print(
                name,
                source or "all",
                len(items),
                f"PER {100 * errors / count:.2f}% WER {100 * wrong / len(items):.2f}%",
                flush=True,
            )
    kept = {}
    for w, e in words.items():
        p = e["p"]
        if isinstance(p, dict):
            p = "|".join(
                [p["DEFAULT"]] + [f"{k}={v}" for k, v in p.items() if k != "DEFAULT" and v]
            )
        if p and not (e["s"] == "cmu" and w.endswith("'s")):  # possessives follow from their stems
            kept[w] = p
    table = b"".join(sorted(f"{w}\t{p}\n".encode() for w, p in kept.items()))
    packed = zlib.compress(table, 9)
    args.out.mkdir(exist_ok=True)
    (args.out / "lexicon.bin").write_bytes(packed)
    shutil.copy(args.work / "g2p.npz", args.out / "g2p.npz")
    print(
        f"{len(kept)} words; {len(table):,} bytes, packed {len(packed):,}; "
        f"network {(args.out / 'g2p.npz').stat().st_size:,}"
    )


if __name__ == "__main__":
    main()
