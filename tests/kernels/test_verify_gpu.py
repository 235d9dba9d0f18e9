"""The GPU command, rehearsed on a CPU: what fails is recorded, and the rest goes on."""

import sys
import time
from xml.etree import ElementTree

from tools.kernels import benchmarks, gpu_checks, verify_gpu


def test_a_failure_is_recorded_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_checks, "GROUPS", {"no such group": None, "residual": None})
    monkeypatch.setattr(verify_gpu, "PARTS_END", {"no such part": 1.0})
    monkeypatch.setattr(
        sys, "argv", ["verify_gpu", "--device", "cpu", "--out", str(tmp_path / "RESULTS.md")]
    )
    assert verify_gpu.main() == 1
    report = (tmp_path / "RESULTS.md").read_text()
    assert "- no such group: 0 of 0 checks passed; ended with 1" in report and "KeyError" in report
    assert "- residual: 3 of 3 checks passed\n" in report
    assert "The benchmark no such part ended with 2" in report and "invalid choice" in report


def test_what_does_not_end_is_ended(tmp_path):
    code = "import subprocess, sys, time; print('begun', flush=True); time.sleep(60)"
    process = verify_gpu.start([sys.executable, "-c", code], tmp_path / "log", True)
    while not (tmp_path / "log").read_text():
        time.sleep(0.01)
    assert verify_gpu.finish(process, time.monotonic()) == "did not end in its time"
    assert process.poll() is not None


def test_the_plot(tmp_path):
    """Drawn without a plotting library, which a lent machine may not have."""
    path = tmp_path / "plot.svg"
    benchmarks.draw(
        [(B, c, left, B / 1024) for B in (1, 64, 1024) for c in (1, 16) for left in (70, 256)],
        str(path),
    )
    svg = ElementTree.parse(path).getroot()
    lines = svg.findall("{*}polyline")
    assert len(lines) == 4 and all(len(line.get("points").split()) == 3 for line in lines)
    ends = [line.get("points").split()[-1].split(",") for line in lines]
    assert len({y for _, y in ends}) == 1  # the same share, the same height
