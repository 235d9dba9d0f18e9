"""Check and measure every kernel on a GPU, in one call of under 8 minutes; writes a report and a plot.

    python -m tools.kernels.verify_gpu --out kernels/RESULTS.md     # and RESULTS.svg beside it
    python -m tools.kernels.verify_gpu --device cpu                 # a rehearsal at tiny shapes, in the interpreter

Run it at the top of a checkout. First the groups of `tools.kernels.gpu_checks`, side by side, one process each, which
also fills Triton's compilation cache; with them compute-sanitizer, where it is installed, on the kernels that work in
place. Then the parts of `tools.kernels.benchmarks`, one after the other, alone on the GPU. What fails, or does not end
in its time, is recorded and the rest goes on. The report is written after each part, so a call that is cut off leaves what it has found.
Exits with 1 where a check or a part failed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKS_END = 170  # seconds after the beginning; what a step saves, the next may use
PARTS_END = {"steps": 290, "training": 355, "transducer": 390, "small": 410, "streams": 470}


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "tools.kernels.verify_gpu", *args]


def start(args: list[str], log: Path, tune: bool) -> subprocess.Popen:
    """A process that writes to a file: a full pipe would stop it."""
    env = dict(os.environ) if tune else os.environ | {"SPEECHSTREAM_TUNE": "0"}
    return subprocess.Popen(
        args,
        stdout=log.open("w", encoding="utf-8"),
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, until: float) -> str:
    """Wait for a process: "" where it succeeded, or what went wrong in words."""
    try:
        code = process.wait(max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(
            process.pid, signal.SIGKILL
        )  # with its children, which would disturb the measurements
        process.wait()
        return "did not end in its time"
    return f"ended with {code}" if code else ""


def run_checks(device: str, folder: Path, until: float) -> tuple[list[str], list[str]]:
    """All groups and the sanitizer: lines of the report, and what failed."""
    from tools.kernels.gpu_checks import GROUPS, IN_PLACE

    running: dict[str, subprocess.Popen] = {}
    report, failed = [], []
    for name in GROUPS:
        if device == "cpu" and name.endswith("float16"):
            continue  # all dtypes are fp32 there
        args = command("--group", name, "--device", device)
        running[name] = start(args, folder / name, name.startswith("tuned"))
        if device == "cpu":  # few cores: one at a time
            running[name].wait()
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "/usr/local/cuda/bin/compute-sanitizer"
    )
    if device == "cuda" and sanitizer:
        for name in IN_PLACE:
            for tool in ("memcheck", "racecheck"):
                args = [
                    sanitizer,
                    "--tool",
                    tool,
                    "--error-exitcode",
                    "9",
                    *command("--group", name, "--small"),
                ]
                running[f"compute-sanitizer {tool}, {name}"] = start(
                    args, folder / f"{tool}-{name}", False
                )
    elif device == "cuda":
        report.append("- compute-sanitizer is not installed here")
    for name, process in running.items():
        wrong = finish(process, until)
        log = (
            folder / name
            if name in GROUPS
            else folder / "-".join(name.split()[1:]).replace(",", "")
        )
        lines = log.read_text(errors="replace").splitlines()
        good, bad = (sum(line.startswith(word) for line in lines) for word in ("ok", "FAIL"))
        report.append(
            f"- {name}: {good} of {good + bad} checks passed" + (f"; {wrong}" if wrong else "")
        )
        print(report[-1], flush=True)
        if wrong:
            failed.append(name)
            rest = [line[:200] for line in lines if not line.startswith("ok ")]
            report += ["", *("      " + line for line in rest[-8:]), ""]
    return report, failed


def run_part(
    name: str, device: str, plot: Path | None, folder: Path, until: float
) -> tuple[list[str], str]:
    """One part of the benchmarks: lines of the report, and what went wrong."""
    out, log = folder / f"{name}.md", folder / f"{name}.log"
    args = command(
        "--part",
        name,
        "--device",
        device,
        "--out",
        str(out),
        *(["--plot", str(plot)] if plot else []),
        "--seconds",
        str(max(0, until - time.monotonic() - 15)),
    )  # left for what is under way
    wrong = finish(start(args, log, True), until)
    lines = out.read_text().splitlines() if out.exists() else []
    if wrong:
        tail = log.read_text(errors="replace").splitlines()[-6:]
        lines += [
            "",
            f"The benchmark {name} {wrong}:",
            "",
            *("      " + line[:200] for line in tail),
        ]
    print("\n".join(lines), flush=True)
    return [*lines, ""], wrong


def device_line(device: str) -> str:
    import torch
    import triton

    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else "a CPU, in the interpreter: its times mean nothing"
    )
    return f"Device: {name}; torch {torch.__version__}, Triton {triton.__version__}, CUDA {torch.version.cuda}."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--out", help="where to write the report (Markdown); its plot goes beside it"
    )
    parser.add_argument("--skip-benchmarks", action="store_true")
    parser.add_argument("--group", help="run one group of checks and nothing else")
    parser.add_argument("--small", action="store_true", help="tiny shapes, as on a CPU")
    parser.add_argument(
        "--part", choices=PARTS_END, help="run one part of the benchmarks and nothing else"
    )
    parser.add_argument("--plot", help="where the part named steps draws")
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="after which a part begins nothing new"
    )
    args = parser.parse_args()
    if args.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    if args.group:
        from tools.kernels import gpu_checks

        return int(
            gpu_checks.run_group(args.group, args.device, args.device == "cuda" and not args.small)
            > 0
        )
    if args.part:
        from tools.kernels import benchmarks

        lines = benchmarks.run(args.part, args.device, args.plot, time.monotonic() + args.seconds)
        Path(args.out or os.devnull).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return 0
    begun = time.monotonic()
    head = [
        "# Kernels on a GPU",
        "",
        f"{datetime.date.today()}, `python -m tools.kernels.verify_gpu"
        + (f" --out {args.out}`." if args.out else "`."),
        "",
        device_line(args.device),
        "",
        "## Checks",
        "",
    ]

    def write(lines: list[str]) -> None:
        if args.out:
            seconds = f"Time of the whole call: {time.monotonic() - begun:.0f} s."
            Path(args.out).write_text("\n".join([*lines, seconds]) + "\n", encoding="utf-8")

    plot = Path(args.out).with_suffix(".svg").absolute() if args.out else None
    limit = float("inf") if args.device == "cpu" else 1.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report, failed = run_checks(args.device, folder, begun + CHECKS_END * limit)
        report = [*head, *report, ""]
        print(f"checks done after {time.monotonic() - begun:.0f} s", flush=True)
        write(report)
        for part in () if args.skip_benchmarks else PARTS_END:
            lines, wrong = run_part(
                part,
                args.device,
                plot if part == "steps" else None,
                folder,
                begun + PARTS_END[part] * limit,
            )
            report += lines
            failed += [part] if wrong else []
            write(report)
        if plot and plot.exists():
            report += [f"![Share of the copy bandwidth]({plot.name})", ""]
            write(report)
    print(
        "all checks passed" if not failed else f"failed: {', '.join(failed)}",
        f"{time.monotonic() - begun:.0f} s",
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
