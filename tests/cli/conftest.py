"""How the tests of the command line run it, and recordings whose transcript by the fake recogniser is known."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from fake_recognizer import Recognizer as FakeRecognizer

import speechstream
from speechstream.cli import main

REPO = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_recognizer.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


def hear_interrupts():
    """A shell's background jobs inherit a deaf ear to SIGINT: the commands under test must not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class _Descriptors:
    """Standard input, output and error of this process for a while: pipes, as another program would hold them.

    They are descriptors 0, 1 and 2, so what a library in C writes is seen too.
    """

    def __init__(self, data):
        self.data, self.read = data, {1: b"", 2: b""}

    def __enter__(self):
        self.kept = [(number, os.dup(number)) for number in (0, 1, 2)]
        self.streams = sys.stdin, sys.stdout, sys.stderr
        ends = {number: os.pipe() for number in (0, 1, 2)}
        for number, (reading, writing) in ends.items():
            ours, theirs = (writing, reading) if number == 0 else (reading, writing)
            os.dup2(theirs, number)
            os.close(theirs)
            ends[number] = ours
        jobs = [(self._write, ends[0]), *((self._read, ends[n], n) for n in (1, 2))]
        self.threads = [threading.Thread(target=do, args=given) for do, *given in jobs]
        for thread in self.threads:
            thread.start()
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = (open(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
        return self

    def _write(self, number):
        with open(number, "wb", buffering=0) as file, contextlib.suppress(BrokenPipeError):
            file.write(self.data or b"")

    def _read(self, number, name):
        with open(number, "rb") as file:
            self.read[name] = file.read()

    def __exit__(self, *exc):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdin, sys.stdout, sys.stderr = self.streams
        for number, kept in self.kept:
            os.dup2(kept, number)
            os.close(kept)
        for thread in self.threads:
            thread.join()


@contextlib.contextmanager
def _fake():
    """The fake recogniser in the place of the real one."""
    names = vars(speechstream)
    kept = {k: names[k] for k in ("Recognizer",) if k in names}
    names["Recognizer"] = FakeRecognizer
    try:
        yield
    finally:
        del names["Recognizer"]
        names.update(kept)


class Cli:
    """The command line with the fake recogniser or (`real_cli`, `here`) the embedded model.

    A call with nothing but arguments and data runs in this process where `within` is set; `start`, and a call that says
    something of the process (its environment, its descriptors), begin one.
    """

    environment = ENVIRONMENT

    def __init__(self, cwd, program, within=False):
        self.cwd, self.program, self.within = cwd, program, within

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
        if self.within and not options:
            return self._here(list(map(str, arguments)), data)
        if data is not None:
            options["stdin"] = subprocess.PIPE
        process = self.start(*arguments, **options)
        out, err = process.communicate(data, timeout=300)
        return subprocess.CompletedProcess(
            arguments, process.returncode, (out or b"").decode(), (err or b"").decode()
        )

    def _here(self, arguments, data):
        before = os.getcwd()
        os.chdir(self.cwd)
        try:
            with (
                _fake() if self.program == [str(FAKE)] else contextlib.nullcontext(),
                _Descriptors(data) as held,
            ):
                try:
                    code = main(arguments)
                except SystemExit as end:
                    code = end.code or 0
        finally:
            os.chdir(before)
        out, err = (held.read[n].decode() for n in (1, 2))
        return subprocess.CompletedProcess(arguments, code, out, err)


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path, [str(FAKE)], within=True)


@pytest.fixture
def real_cli(tmp_path):
    """Always a process of its own."""
    return Cli(tmp_path, ["-m", "speechstream"])


@pytest.fixture
def here(tmp_path):
    """The real command line, within this process where it can be."""
    return Cli(tmp_path, ["-m", "speechstream"], within=True)


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
