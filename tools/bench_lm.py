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
    times, same = [], 0
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        brain.prefill(messages)
        begin = time.perf_counter()
        next(brain.chat(messages), "")
        times.append(1000 * (time.perf_counter() - begin))
        if other:
            prompt = model.tokenizer.encode(model.chat.render(messages))
            logits, state = model.step([prompt], model.init_state())
            steps = generate(model, logits[0], state, Sampling(most=16), model.chat.stop)
            text = model.tokenizer.decode([t for s in steps for t in s.tokens])
            reply = other.write(prompt, 16)
            same += text.strip() == reply["choices"][0]["text"].strip()
    print(
        f"from the end of a turn to its first piece, prefilled: {statistics.median(times):.0f} ms"
    )
    if other:
        print(
            f"the text of 16 greedy tokens equal to llama.cpp's: {same} of {len(QUESTIONS)} replies"
        )


if __name__ == "__main__":
    main()
