"""Phone and word error rates on the held-out words: of the exported int8 network, and of the reader's way, which takes an
inflected form from its stem where the words that were trained on have it.

python -m recipes.g2p.evaluate --work work
"""

import json
import pathlib
import re

import numpy as np
from rapidfuzz.distance.Levenshtein import distance

from recipes.common.args import parser
from speechstream.text.en.lexicon import Network, inflected


def main(arguments=None):
    p = parser(__doc__)
    p.add_argument("--work", type=pathlib.Path, required=True)
    args = p.parse_args(arguments)
    words = json.loads((args.work / "words.json").read_text())
    split = json.loads((args.work / "split.json").read_text())
    network = Network(dict(np.load(args.work / "g2p.npz")))
    held = set(split["held"])
    trained = {w: entry["p"] for w, entry in words.items() if w not in held}
    ways = {
        "network": network,
        "with endings": lambda w: _plain(inflected(w, trained.get)) or network(w),
    }
    for name in ("random", "family"):
        for source in ("gold", "silver", "cmu", None):
            items = [w for w in split[name] if source in (None, words[w]["s"])]
            for way, say in ways.items():
                errors = count = wrong = 0
                for w in items:
                    hypothesis = re.findall("[ˈˌ]?.", say(w))
                    reference = re.findall("[ˈˌ]?.", _plain(words[w]["p"]))
                    e = distance(hypothesis, reference)
                    errors, count, wrong = errors + e, count + len(reference), wrong + (e > 0)
                rates = f"PER {100 * errors / count:.2f}% WER {100 * wrong / len(items):.2f}%"
                print(name, source or "all", len(items), way, rates, flush=True)


def _plain(entry):
    """One pronunciation of an entry, which may have several by part of speech."""
    return entry["DEFAULT"] if isinstance(entry, dict) else entry


if __name__ == "__main__":
    main()
