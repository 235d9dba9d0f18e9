"""What the frozen language model makes of each transcript, and of transcripts with errors, and when each token is said.

    python -m recipes.speech_llm.hidden work/train --vocabulary work/vocabulary.json --llm model.gguf

Reads work/train.jsonl as far as `prepare.py` has written it and continues where it ended. OUT.text.bin holds hidden
states, float16 (m + 1, dim): after no, one, ... all of the m tokens of a history. OUT.text.jsonl has for each history
the tokens of the text, the seconds at which each has been said, and for each of the m + 1 states which token comes next
and which was the last (-1: none; between two: one that nobody said came there). A history is the text itself or, in
some `--share` of the texts, the text with tokens replaced, left out and put in, as a recogniser writes it: it is to find
its way after its own errors. `--round 2` writes another history of each text. A word's letters are all said where the
word ends, so that it has been heard before it is spelt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.common.args import parser
from recipes.common.logging import report
from recipes.common.precision import matmul_dtype
from recipes.speech_llm.start import read_compact
from recipes.speech_llm.vocabulary import Compact
from speechstream.convert.llm import load_llm
from speechstream.nn.llm import Llm

MARK_S = 0.6  # after a word's letters, at which its mark is said at the latest
POOL, BATCH = 256, 1500  # histories sorted together; tokens in a batch, padding included
REPLACED, LEFT_OUT, PUT_IN = 0.06, 0.015, 0.03  # of the tokens of a history with errors


@dataclass(frozen=True)
class History:
    """What is taken to have been written: tokens (m,), and of each of the m + 1 states the next and the last."""

    tokens: list[int]
    next: list[int]
    last: list[float]


def dated(row: dict[str, Any], compact: Compact) -> tuple[list[int], list[float]]:
    """Tokens, and the second at which each has been said."""
    tokens: list[int] = []
    times: list[float] = []
    for ids, (letters, mark) in zip(compact.words(row["text"]), row["ends"]):
        pieces = [compact.pieces[i].decode("utf-8", "replace").strip() for i in ids]
        spoken = max((n for n, p in enumerate(pieces) if any(map(str.isalnum, p))), default=-1)
        marked = max(letters, min(mark, letters + MARK_S))
        for n, i in enumerate(ids):
            at = letters if n <= spoken else marked
            tokens.append(i)
            times.append(round(max(at, times[-1] if times else 0.0), 3))
    return tokens, times


def with_errors(
    tokens: list[int],
    others: list[int],
    rng: np.random.Generator,
    letters: Sequence[int] = (),
    inside: float = 0.0,
) -> History:
    """others: tokens of other texts, of which errors are made; letters: those that go on with a word.

    inside: behind how many of the tokens a word goes on though it is over.
    """
    said: list[int] = []
    following, last = [0], [-1.0]

    def say(token: int, upto: int, where: float) -> None:
        said.append(token)
        following.append(upto)
        last.append(where)

    for n, token in enumerate(tokens):
        draw = rng.random()
        if draw < REPLACED:
            say(others[rng.integers(len(others))], n + 1, n)
        elif draw < REPLACED + LEFT_OUT:
            following[-1] = n + 1
        else:
            say(token, n + 1, n)
        if len(letters) and rng.random() < inside:
            again = said[-1:] if rng.random() < 0.3 else []
            for extra in (*again, *rng.choice(letters, rng.integers(1, 4)).tolist()):
                say(extra, n + 1, n)
        if rng.random() < PUT_IN:  # in the same frame or later
            again = said[-1] if rng.random() < 0.6 and said else others[rng.integers(len(others))]
            where = n if rng.random() < 0.6 else round(n + rng.random(), 2)
            for _ in range(rng.integers(1, 3)):
                say(again, n + 1, where)
    return History(said, following, last)


def as_written(tokens: list[int]) -> History:
    count = len(tokens)
    return History(tokens, list(range(count + 1)), [float(n) for n in range(-1, count)])


def main(arguments: list[str] | None = None) -> None:
    p = parser(__doc__)
    p.add_argument("data", type=Path)
    p.add_argument("--vocabulary", type=Path, required=True)
    p.add_argument("--llm", type=Path, required=True)
    p.add_argument("--round", type=int, default=1, help="of how many histories of a text this is")
    p.add_argument("--share", type=float, default=0.6, help="of the histories that have errors")
    p.add_argument("--inside", type=float, default=0.0, help="see `with_errors`")
    p.add_argument("--limit", type=int, help="of histories in this call")
    args = p.parse_args(arguments)
    torch.set_num_threads(1)
    compact, said = read_compact(args.vocabulary, args.llm), load_llm(args.llm)
    model = Llm(said.config).requires_grad_(False).eval()
    state = {n: torch.from_numpy(said.values(n)) for n in said.names}
    model.load_state_dict(state, strict=not said.config.tied)
    model.to(matmul_dtype())
    ids = torch.tensor(compact.ids)
    index, data = args.data.with_suffix(".text.jsonl"), args.data.with_suffix(".text.bin")
    done, at = {}, 0
    if index.exists():
        for line in open(index, encoding="utf-8"):
            row = json.loads(line)
            done[row["audio"]] = done.get(row["audio"], 0) + 1
            at = row["start"] + len(row["history"]) + 1
    with open(args.data.with_suffix(".jsonl"), encoding="utf-8") as lines:
        rows = [r for line in lines if done.get((r := json.loads(line))["audio"], 0) < args.round]
    texts = [(r["audio"], *dated(r, compact)) for r in rows[: args.limit]]
    others = [i for _, tokens, _ in texts for i in tokens]
    letters = [i for i in others if compact.goes_on(i)]
    rng = np.random.default_rng((args.round, at))
    histories = [
        with_errors(t, others, rng, letters, args.inside)
        if rng.random() < args.share
        else as_written(t)
        for _, t, _ in texts
    ]
    dim = said.config.dim
    with open(data, "r+b" if done else "wb") as f, open(index, "a", encoding="utf-8") as out:
        f.seek(at * dim * 2)
        f.truncate()
        for first in range(0, len(texts), POOL):
            pool = slice(first, first + POOL)
            group = sorted(zip(texts[pool], histories[pool]), key=lambda t: len(t[1].tokens))
            while group:
                count = max(BATCH // (len(group[-1][1].tokens) + 1), 1)
                batch, group = group[-count:], group[:-count]
                tokens = torch.nn.utils.rnn.pad_sequence(
                    [ids[[0, *h.tokens]] for _, h in batch], batch_first=True
                )
                with torch.inference_mode():
                    x, _ = model.hidden(
                        model.model.embed_tokens(tokens), model.init_state(len(tokens))
                    )
                for ((audio, one, times), h), states in zip(batch, x):
                    f.write(states[: len(h.tokens) + 1].half().numpy().tobytes())
                    line = {"audio": audio, "start": at, "tokens": one, "times": times}
                    line |= {"history": h.tokens, "next": h.next, "last": h.last}
                    out.write(json.dumps(line) + "\n")
                    at += len(h.tokens) + 1
            f.flush()
            out.flush()
            report(texts=first + POOL, of=len(texts), tokens=at)


if __name__ == "__main__":
    main()
