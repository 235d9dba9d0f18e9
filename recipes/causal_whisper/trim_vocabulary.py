"""Trim Whisper's multilingual vocabulary to the pieces that English needs, and train the CTC head's small one.

A piece is kept if it is a single byte, or if the tokenizer uses it for any word of a pronouncing dictionary or of the
references, as written, capitalised or in capitals, with and without a space before it. Writes vocabulary.json:
{"pieces": [...], "ids": [...], "end": n, "prompt": [...]}, ids being rows of the original embedding.
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from recipes.causal_whisper.text import sentence, words

SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument(
        "--dictionary", type=Path, required=True, help="one word a line, pronunciation after it"
    )
    parser.add_argument(
        "--manifest", type=Path, required=True, help="whose texts the CTC pieces are trained on"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ctc-pieces", type=int, default=512)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(args.tokenizer)
    lexicon = {
        line.split()[0].split("(")[0]
        for line in args.dictionary.read_text().splitlines()
        if line.strip()
    }
    labels = [
        t if t != t.lower() and t != t.upper() else sentence(t)
        for line in open(args.manifest, encoding="utf-8")
        if (t := json.loads(line)["text"])
    ]
    texts = (
        set(labels)
        | {str(n) for n in range(2100)}
        | set(string.punctuation)
        | {f" {p}" for p in string.punctuation}
    )
    for word in lexicon:
        for form in (word, word.capitalize()):
            texts |= {form, " " + form}
    texts |= {" " + w.upper() for w in lexicon if len(w) <= 4}
    kept = {
        i for e in tokenizer.encode_batch(sorted(texts), add_special_tokens=False) for i in e.ids
    }
    kept |= set(range(256))  # Whisper's first 256 ids are the single bytes
    special = [tokenizer.token_to_id(s) for s in SPECIAL]
    ids = sorted(kept - set(special)) + special
    pieces = [tokenizer.id_to_token(i) for i in ids]
    args.out.mkdir(parents=True, exist_ok=True)
    at = len(ids) - len(special)
    vocabulary = {
        "pieces": pieces,
        "ids": ids,
        "end": at,
        "prompt": [at + 1, at + 2, at + 3, at + 4],
    }
    (args.out / "vocabulary.json").write_text(json.dumps(vocabulary))

    small = Tokenizer(models.BPE())
    small.normalizer = normalizers.Lowercase()
    small.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=args.ctc_pieces,
        special_tokens=["<blank>"],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz'▁"),
    )
    small.train_from_iterator((" ".join(words(t)) for t in labels), trainer)
    small.save(str(args.out / "ctc.json"))
    print(f"{len(ids)} pieces kept; {small.get_vocab_size()} CTC pieces")


if __name__ == "__main__":
    main()
