"""How the tests of the command line run it, and recordings whose transcript by the fake recogniser is known."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

REPO = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_recognizer.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


def hear_interrupts():
    """A shell's background jobs inherit a deaf ear to SIGINT: the commands under test must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Cli:
    """The command line in a process of its own, with the fake recogniser or (`real_cli`) the embedded model."""

    environment = ENVIRONMENT

    def __init__(self, cwd, program):
        self.cwd, self.program = cwd, program

    def start(self, *arguments, **options):
        options = {
            "preexec_fn": hear_interrupts,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "cwd": self.cwd,
            "env": ENVIRONMENT,
            **options,
        }
        return subprocess.Popen([sys.executable, *self.program, *map(str, arguments)], **options)

    def __call__(self, *arguments, data=None, **options):
        if data is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **options)
        out, err = process.communicate(data, timeout=300)
        return subprocess.CompletedProcess(
            arguments, process.returncode, (out or b"").decode(), (err or b"").decode()
        )


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path, [str(FAKE)])


@pytest.fixture
def real_cli(tmp_path):
    return Cli(tmp_path, ["-m", "speechstream"])


@pytest.fixture
def wav(tmp_path):
    """A function that makes a WAV of so many seconds and returns its path."""

    def make(name="a.wav", seconds=3.0, rate=8000):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        t = np.arange(round(seconds * rate)) / rate
        sf.write(path, 0.1 * np.sin(2 * np.pi * 300 * t), rate)
        return path

    return make


@pytest.fixture
def model():
    """The folder of the embedded model."""
    return REPO / "speechstream" / "models" / "causal-whisper-base"
