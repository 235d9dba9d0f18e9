"""Phone and word error rates of the exported int8 network on the held-out words.

python -m recipes.g2p.evaluate --work work
"""

import json
import pathlib
import re

import numpy as np
from rapidfuzz.distance.Levenshtein import distance

from recipes.common.args import parser
from speechstream.text.en.lexicon import Network


def main(arguments=None):
    p = parser(__doc__)
    p.add_argument("--work", type=pathlib.Path, required=True)
    args = p.parse_args(arguments)
    words = json.loads((args.work / "words.json").read_text())
    split = json.loads((args.work / "split.json").read_text())
    network = Network(dict(np.load(args.work / "g2p.npz")))
    for name in ("random", "family"):
        for source in ("gold", "silver", "cmu", None):
            items = [w for w in split[name] if source in (None, words[w]["s"])]
            errors = count = wrong = 0
            for w in items:
                hypothesis = re.findall("[ˈˌ]?.", network(w))
                reference = re.findall("[ˈˌ]?.", words[w]["p"])
                e = distance(hypothesis, reference)
                errors, count, wrong = errors + e, count + len(reference), wrong + (e > 0)
            print(
                name,
                source or "all",
                len(items),
                f"PER {100 * errors / count:.2f}% WER {100 * wrong / len(items):.2f}%",
                flush=True,
            )


if __name__ == "__main__":
    main()
