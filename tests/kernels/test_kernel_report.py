"""The compile report: what its gates reject, and one kernel compiled for a GPU on whatever machine this is."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class Limits:
    max_registers: int = 128
    max_spills: int = 0
    min_wide: float = 0.8


def test_gates():
    environment = dict(os.environ)
    try:
        from tools import kernel_report as report
    finally:  # the tool turns the interpreter off for its own process
        os.environ.update(environment)
    good = {"registers": 128, "spills": 0, "shared": 1000, "wide": 0.9, "bulk": 0}
    assert report.gates(Limits(), 90, good) == []
    for change, word in (
        ({"registers": 129}, "registers"),
        ({"spills": 1}, "spill"),
        ({"wide": 0.5}, "16-byte"),
        ({"shared": 228 * 1024}, "shared"),
    ):
        found = report.gates(Limits(), 90, good | change)
        assert len(found) == 1 and word in found[0]


def test_the_kernels_compile_without_a_gpu():
    """For sm_90, within their gates: registers, spills, shared memory and width of the loads."""
    run = subprocess.run(
        [sys.executable, "-m", "tools.kernel_report", "--fast"],
        cwd=REPO,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = [
        line
        for line in run.stdout.splitlines()
        if re.search(r" 90 .* w\d+ +\d+", line) and "over:" not in line
    ]
    assert len(passed) == 8
    for line in passed:
        registers, spills = map(int, re.search(r"w\d+ +(\d+) +(\d+)", line).groups())
        assert 16 <= registers <= 255 and spills == 0
    step = next(line for line in passed if line.startswith("attention_step.rope "))
    assert "HMMA" in step  # matrix instructions
