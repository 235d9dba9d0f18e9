"""Pack the dictionary beside the trained network.

    python -m recipes.g2p.export --work work --out speechstream/text/en/data

Writes lexicon.bin, copies g2p.npz, and prints their sizes.
"""

import argparse
import json
import pathlib
import shutil
import zlib


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    words = json.loads((args.work / "words.json").read_text())
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
