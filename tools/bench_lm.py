"""Reading and writing speed of a language model, beside llama.cpp's in the same run where `xllamacpp` is installed.

python tools/bench_lm.py                      # the embedded brain
python tools/bench_lm.py model.gguf --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from speechstream.convert.llm import load_llm
from speechstream.export.brain import gguf
from speechstream.export.llm import write_llm
from speechstream.lm.brain import Brain
from speechstream.lm.generate import Sampling, generate
from speechstream.lm.model import LanguageModel
from speechstream.nn.llm_config import KvConfig

TEXT = "The rain had stopped before noon, and the square was full of people who had waited for it. "
QUESTIONS = [
    "What is the capital of France?",
    "Tell me a joke.",
    "Why is the sky blue?",
    "Who wrote Hamlet?",
    "Name three colours.",
]


def memory() -> float:
    """Resident megabytes of this process."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return float("nan")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


class LlamaCpp:
    """The same file in llama.cpp, through its server without a socket."""

    def __init__(self, path: Path, threads: int):
        import xllamacpp

        p = xllamacpp.CommonParams()
        p.model.path = str(path)
        p.n_ctx, p.cpuparams.n_threads, p.cpuparams_batch.n_threads = 4096, threads, threads
        p.warmup = False
        self.server = xllamacpp.Server(p)

    def write(self, prompt: list[int], count: int) -> dict:
        """llama.cpp's reply to tokens: its own timings, and the text."""
        request = {
            "prompt": prompt,
            "n_predict": count,
            "temperature": 0,
            "cache_prompt": False,
        }
        return self.server.handle_completions(request)


def speed(model: LanguageModel, ids: list[int], count: int) -> tuple[float, float]:
    """Tokens read and written a second."""
    begin = time.perf_counter()
    logits, state = model.step([ids], model.init_state())
    middle = time.perf_counter()
    written = sum(len(s.tokens) for s in generate(model, logits[0], state, Sampling(most=count)))
    return len(ids) / (middle - begin), written / (time.perf_counter() - middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf", nargs="?", help="default: the embedded brain's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--read", type=int, default=256)
    parser.add_argument("--write", type=int, default=48)
    args = parser.parse_args()
    with nullcontext(Path(args.gguf)) if args.gguf else gguf() as path:
        compare(path, args)


def compare(path: Path, args: argparse.Namespace) -> None:
    """Print all of it."""
    with tempfile.TemporaryDirectory() as folder:
        b = write_llm(load_llm(path), folder, {"name": path.stem, "licence": "its own"})
        before = memory()
        brain = Brain.load(folder, threads=args.threads)
        measure(args, path, brain)
        print(
            f"bundle {b.nbytes / 1e6:.0f} MB, process {memory():.0f} MB, of it {memory() - before:.0f} since loading"
        )


def measure(args: argparse.Namespace, path: Path, brain: Brain) -> None:
    model = brain.model
    ids = (model.tokenizer.encode(TEXT) * args.read)[: args.read]
    try:
        other = LlamaCpp(path, args.threads)
    except ModuleNotFoundError:
        other = None
        print("without xllamacpp: no comparison")
    ours, theirs = [], []
    for _ in range(args.rounds):  # in turns, so that both meet the same machine
        ours.append(speed(model, ids, args.write))
        if other:
            t = other.write(ids, args.write)["timings"]
            theirs.append((t["prompt_per_second"], t["predicted_per_second"]))
    for name, found in (("speechstream", ours), ("llama.cpp", theirs)):
        if found:
            read, wrote = (statistics.median(c) for c in zip(*found))
            print(f"{name:13} reads {read:6.1f} and writes {wrote:5.1f} tokens a second")
    same = 0
    for question in QUESTIONS if other else []:
        prompt = model.tokenizer.encode(model.chat.render(asked(question)))
        logits, state = model.step([prompt], model.init_state())
        steps = generate(model, logits[0], state, Sampling(most=16), model.chat.stop)
        text = model.tokenizer.decode([t for s in steps for t in s.tokens])
        same += text.strip() == other.write(prompt, 16)["choices"][0]["text"].strip()
    if other:
        print(
            f"the text of 16 greedy tokens equal to llama.cpp's: {same} of {len(QUESTIONS)} replies"
        )
    first_tokens(brain)
    drafts(model)
    prefixes(path)


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def first_tokens(brain: Brain) -> None:
    """From the end of a turn to the reply's first piece, by what had been read until then."""
    cases = {
        "all, the beginning of the reply too": (True, ""),
        "the user's words": (False, ""),
        "the user's words but for the last three": (True, " and why not"),
    }
    for name, (reply, more) in cases.items():
        times = []
        for question in QUESTIONS * 2:
            brain.prefill(asked(question), reply)
            begin = time.perf_counter(), time.process_time()
            next(brain.chat(asked(question + more)), "")
            end = time.perf_counter(), time.process_time()
            times.append([1000 * (b - a) for a, b in zip(begin, end)])
        wall, processor = (statistics.median(t) for t in zip(*times))
        print(
            f"to the first piece, having read {name}: {wall:.1f} ms, processor {processor:.1f} ms"
        )


def drafts(model: LanguageModel) -> None:
    """Greedy decoding with drafts from the text itself: runs of the network and processor time, the tokens being equal."""
    notes = "Anna Berg, 14 Mill Lane, Tuesday 9:15. Tom Reed, 3 High Street, Friday 10:40. "
    prompts = {
        "a text to copy": f"Repeat this list word for word:\n{notes * 2}",
        "questions": QUESTIONS[2],
    }
    for name, prompt in prompts.items():
        ids = model.tokenizer.encode(model.chat.render(asked(prompt)))
        logits, state = model.step([ids], model.init_state())
        plain = None
        for draft in (0, 4, 10):
            begin = time.process_time()
            sampling = Sampling(most=96, draft=draft)
            steps = list(generate(model, logits[0], state, sampling, model.chat.stop, ids))
            seconds = time.process_time() - begin
            text = [t for s in steps for t in s.tokens]
            plain = plain or (text, seconds)
            print(
                f"drafts of {draft:2} for {name}: {len(text)} tokens in {len(steps)} runs, {plain[1] / seconds:.2f} times "
                f"as fast, {'equal' if text == plain[0] else 'NOT equal'}"
            )


def prefixes(path: Path, streams: int = 16, length: int = 512) -> None:
    """Many streams after one prompt: the prompt's keys and values once, or in each of them."""
    one = load_llm(path)
    for shared in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            card = {"name": path.stem, "licence": "its own"}
            write_llm(one, folder, card, kv=KvConfig(shared=shared))
            model = LanguageModel.load(folder)
            ids = (model.tokenizer.encode(TEXT) * length)[:length]
            if shared:
                prefix = model.prefix(ids)
                state = model.init_state(streams, prefix)
            else:
                prefix, state = (
                    None,
                    model.select(model.step([ids], model.init_state())[1], [0] * streams),
                )
            times = []
            for t in range(6):
                begin = time.process_time()
                _, state = model.step([[100 + t]] * streams, state)
                times.append(1000 * (time.process_time() - begin))
            size = state.nbytes + (prefix.nbytes if prefix else 0)
            print(
                f"{streams} streams after {length} tokens, {'shared' if shared else 'each its own'}: {size / 1e6:.0f} MB, "
                f"{statistics.median(times):.0f} ms of processor time a step"
            )


if __name__ == "__main__":
    main()
