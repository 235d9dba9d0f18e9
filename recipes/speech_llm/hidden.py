"""What the frozen language model makes of each transcript, computed once, and when each of its tokens is said.

    python -m recipes.speech_llm.hidden work/train --vocabulary work/vocabulary.json --llm model.gguf

Reads work/train.jsonl as far as `prepare.py` has written it and continues where it ended: OUT.text.bin holds the hidden
states after no, one, ... all tokens of a text, float16 (U + 1, dim), OUT.text.jsonl the tokens and the seconds at which
each has been said. A word's letters share the time from the end of the word before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from recipes.common.args import parser
from recipes.common.logging import report
from recipes.speech_llm.start import read_compact
from recipes.speech_llm.vocabulary import Compact
from speechstream.convert.llm import load_llm
from speechstream.nn.llm import Llm

LETTER_S = 0.1  # a word takes no longer a letter, whatever the pause before it
MARK_S = 0.6  # after a word's letters, at which its mark is said at the latest
POOL, BATCH = 256, 1500  # utterances sorted together; tokens in a batch, padding included


def dated(row: dict[str, Any], compact: Compact) -> tuple[list[int], list[float]]:
    """Tokens, and the second at which each has been said."""
    tokens: list[int] = []
    times: list[float] = []
    before = 0.0
    for word, ids, (letters, mark) in zip(
        row["text"].split(), compact.words(row["text"]), row["ends"]
    ):
        pieces = [compact.pieces[i].decode("utf-8", "replace").strip() for i in ids]
        is_mark = [not any(c.isalnum() for c in p) for p in pieces]
        spoken = sum(len(p) for p, m in zip(pieces, is_mark) if not m) or 1
        begin = max(before, letters - LETTER_S * len(word))
        done = 0
        for i, piece, quiet in zip(ids, pieces, is_mark):
            done += 0 if quiet else len(piece)
            at = begin + (max(letters, begin) - begin) * done / spoken
            if quiet and done >= spoken:
                at = max(at, min(mark, letters + MARK_S))
            tokens.append(i)
            times.append(round(at, 3))
        before = letters
    for n in range(1, len(times)):
        times[n] = max(times[n], times[n - 1])
    return tokens, times


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("data", type=Path)
    p.add_argument("--vocabulary", type=Path, required=True)
    p.add_argument("--llm", type=Path, required=True)
    args = p.parse_args(arguments)
    torch.set_num_threads(1)
    compact, said = read_compact(args.vocabulary, args.llm), load_llm(args.llm)
    model = Llm(said.config).requires_grad_(False).eval()
    state = {n: torch.from_numpy(said.values(n)) for n in said.names}
    model.load_state_dict(state, strict=not said.config.tied)
    model.bfloat16()
    ids = torch.tensor(compact.ids)
    index, data = args.data.with_suffix(".text.jsonl"), args.data.with_suffix(".text.bin")
    done, at = set(), 0
    if index.exists():
        for line in open(index, encoding="utf-8"):
            row = json.loads(line)
            done.add(row["audio"])
            at = row["start"] + len(row["tokens"]) + 1
    with open(args.data.with_suffix(".jsonl"), encoding="utf-8") as lines:
        rows = [r for line in lines if (r := json.loads(line))["audio"] not in done]
    texts = [(r["audio"], *dated(r, compact)) for r in rows]
    dim = said.config.dim
    with open(data, "r+b" if done else "wb") as f, open(index, "a", encoding="utf-8") as out:
        f.seek(at * dim * 2)
        f.truncate()
        for first in range(0, len(texts), POOL):
            group = sorted(texts[first : first + POOL], key=lambda t: len(t[1]))
            while group:
                longest = len(group[-1][1]) + 1
                batch, group = (
                    group[-max(BATCH // longest, 1) :],
                    group[: -max(BATCH // longest, 1)],
                )
                rows_ = [ids[[0, *t]] for _, t, _ in batch]
                tokens = torch.nn.utils.rnn.pad_sequence(rows_, batch_first=True)
                with torch.inference_mode():
                    x, _ = model.hidden(
                        model.model.embed_tokens(tokens), model.init_state(len(tokens))
                    )
                for (audio, one, times), h in zip(batch, x):
                    f.write(h[: len(one) + 1].half().numpy().tobytes())
                    line = {"audio": audio, "start": at, "tokens": one, "times": times}
                    out.write(json.dumps(line) + "\n")
                    at += len(one) + 1
            f.flush()
            out.flush()
            report(texts=first + POOL, of=len(texts), tokens=at)


if __name__ == "__main__":
    main()
