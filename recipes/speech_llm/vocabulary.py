"""The compact vocabulary: those of the language model's tokens that transcripts need.

    python -m recipes.speech_llm.vocabulary DATA/train.jsonl --llm model.gguf --out work/vocabulary.json

Token 0 begins a text; the others are the language model's own pieces that occur often enough in the training
transcripts, and all single letters and marks, so that every word can be written: one whose tokens are not all among
them is spelt with the merges that are left.
"""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from recipes.causal_whisper.text import is_cased, sentence
from recipes.common.args import parser
from recipes.common.checkpoint import save_json
from speechstream.asr.biasing import byte_encoder
from speechstream.convert.llm import load_llm
from speechstream.lm.tokens import Tokenizer

LEAST = 6  # occurrences
START = "<|endoftext|>"
ALWAYS = [f"{space}{c}" for c in string.ascii_letters + string.digits for space in ("", " ")]
ALWAYS += list(".,?!;:'-\"") + [" "]


class Compact:
    """ids: the language model's id of each compact token. Tokens 1 and up are text."""

    def __init__(self, path: Path, tokenizer: Tokenizer):
        self.ids: list[int] = json.loads(path.read_text(encoding="utf-8"))
        self.tokenizer = tokenizer
        pieces = tokenizer.pieces()
        self.pieces = [pieces[i] or b"" for i in self.ids]
        self.begins = [p.startswith(b" ") for p in self.pieces]  # a word
        self._letters = {p[0] for p in self.pieces if len(p) == 1}
        self._number = {i: n for n, i in enumerate(self.ids)}
        self._spell = byte_encoder(self.pieces)

    def goes_on(self, token: int) -> bool:
        """Whether it is letters that go on with a word."""
        return not self.begins[token] and self.pieces[token].isalnum()

    def text(self, tokens: Iterable[int]) -> str:
        return b"".join(self.pieces[i] for i in tokens).decode("utf-8", "replace").strip()

    def words(self, text: str) -> list[list[int]]:
        """The tokens of each word, the space before it and the marks behind it included."""
        found = []
        for word in text.split():
            ids = self.tokenizer.encode(" " + word)
            if all(i in self._number for i in ids):
                found.append([self._number[i] for i in ids])
            else:
                known = "".join(c for c in word if self._letters.issuperset(c.encode()))
                found.append(self._spell(" " + known) if known else [])
        return found


def choose(texts: Iterable[str], tokenizer: Tokenizer, least: int = LEAST) -> list[int]:
    """Ids, in the order of the language model's own."""
    counts: Counter[int] = Counter()
    for text in texts:
        written = text if is_cased(text) else sentence(text)
        counts.update(i for w in written.split() for i in tokenizer.encode(" " + w))
    known = {p: i for i, p in enumerate(tokenizer.pieces()) if p}
    chosen = {i for i, n in counts.items() if n >= least}
    chosen |= {known[p.encode()] for p in ALWAYS if p.encode() in known}
    start = tokenizer.id(START)
    if start is None:
        raise ValueError(f"the language model's tokenizer has no {START}")
    return [start, *sorted(chosen - tokenizer.special)]


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("manifest", type=Path)
    p.add_argument("--llm", type=Path, required=True, help="a .gguf file or a folder")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--least", type=int, default=LEAST)
    args = p.parse_args(arguments)
    tokenizer = Tokenizer(load_llm(args.llm).tokenizer)
    with open(args.manifest, encoding="utf-8") as lines:
        texts = [t for line in lines if (t := json.loads(line).get("text"))]
    ids = choose(texts, tokenizer, args.least)
    save_json(ids, args.out)
    compact = Compact(args.out, tokenizer)
    words = [w for t in texts[:2000] for w in compact.words(t if is_cased(t) else sentence(t))]
    whole = sum(len(w) == 1 for w in words)
    print(
        f"{len(ids)} tokens; {sum(map(len, words)) / len(words):.2f} a word, {whole / len(words):.2f} whole"
    )


if __name__ == "__main__":
    main()
