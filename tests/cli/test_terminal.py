"""What stands on the screen, read from a terminal emulated in a few lines."""

import os
import re
import select
import struct
import subprocess
import time

import numpy as np
import pytest

fcntl = pytest.importorskip("fcntl", reason="pseudo-terminals are a Unix thing")
import termios

from speechstream.cli.terminal import Sentence


class Screen:
    """A terminal of a given width that knows newline, carriage return, up, clear to the end, and colours."""

    def __init__(self, columns=40, rows=10):
        self.columns, self.rows, self.lines, self.row, self.column = columns, rows, [""], 0, 0

    def feed(self, text):
        for token in re.findall(r"\x1b\[\??\d*(?:;\d+)*[A-Za-z]|.|\n|\r", text, re.S):
            if token == "\n":
                self.row, self.column = self.row + 1, 0
            elif token == "\r":
                self.column = 0
            elif token.startswith("\x1b"):
                self._escape(token)
            else:
                if self.column == self.columns:
                    self.row, self.column = self.row + 1, 0
                self._grow()
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + token + line[self.column + 1 :]
                self.column += 1
            self._grow()

    def _escape(self, token):
        if token.endswith("A"):
            self.row = max(self.row - int(token[2:-1] or 1), 0)
        elif token.endswith("J"):
            self.lines = self.lines[: self.row] + [self.lines[self.row][: self.column]]
        elif not token.endswith("m"):
            raise AssertionError(f"unexpected control sequence {token!r}")

    def _grow(self):
        while len(self.lines) <= self.row:
            self.lines.append("")

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")


class Pty:
    """A process on a pseudo-terminal, and the screen it has drawn."""

    def __init__(self, columns=40, rows=10):
        self.main, self.side = os.openpty()
        fcntl.ioctl(self.side, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen, self.drawn = Screen(columns, rows), ""

    def until(self, condition, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not condition(self):
            if select.select([self.main], [], [], 0.1)[0]:
                try:
                    text = os.read(self.main, 65536).decode().replace("\r\n", "\n")
                except OSError:  # everybody else has closed it
                    break
                self.drawn += text
                self.screen.feed(text)
        assert condition(self), self.drawn


def test_a_sentence_is_redrawn_and_then_final(cli):
    pty = Pty()
    process = cli.start(
        "transcribe",
        "-",
        "--raw",
        "8000",
        stdin=subprocess.PIPE,
        stdout=pty.side,
        env={**cli.environment, "TERM": "xterm"},
    )
    for seconds, text in ((1.0, "word0 word1"), (0.5, "word0 word1 word2")):
        process.stdin.write(np.zeros(round(8000 * seconds), "<i2").tobytes())
        process.stdin.flush()
        pty.until(lambda p: p.screen.text == text)
    assert "\x1b[2mword2" in pty.drawn, "what may still change is dim"
    process.stdin.write(np.zeros(8000, "<i2").tobytes())
    process.stdin.flush()
    pty.until(lambda p: p.screen.text == "word0 word1 word2 word3\nword4")
    process.stdin.close()
    pty.until(lambda p: p.screen.text == "word0 word1 word2 word3\nword4 tail20000")
    assert process.wait(120) == 0
    os.close(pty.main), os.close(pty.side)


def test_a_progress_bar_on_stderr_alone(cli, wav):
    pty = Pty(columns=80)
    env = {**cli.environment, "TERM": "xterm"}
    process = cli.start(
        "transcribe", wav("a.wav", 5.0), stdout=subprocess.PIPE, stderr=pty.side, env=env
    )
    out = process.communicate(timeout=120)[0]
    assert out.count(b"\n") == 3 and b"\x1b" not in out
    os.close(pty.side)
    drawn = b""
    try:
        while piece := os.read(pty.main, 65536):
            drawn += piece
    except OSError:
        pass
    os.close(pty.main)
    assert b"0:05 / 0:05" in drawn


class Tty:
    """A stream that says it is a terminal."""

    def __init__(self, screen):
        self.screen = screen

    def write(self, text):
        self.screen.feed(text)

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.fixture
def sentence(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "4")
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen(20, 4)
    return Sentence(Tty(screen)), screen


def test_long_sentences_wrap_and_shrink_again(sentence):
    drawn, screen = sentence
    screen.feed("before\n")
    drawn.show("one two three four five", "six seven")
    assert screen.text == "before\none two three four\nfive six seven"
    drawn.show("one two", "")
    assert screen.text == "before\none two"
    drawn.clear()
    assert screen.text == "before"
    drawn.show("", "")
    assert screen.text == "before"


def test_of_a_sentence_longer_than_the_screen_the_end_is_shown(sentence):
    drawn, screen = sentence
    drawn.show(" ".join(f"word{i:02}" for i in range(30)), "now")
    assert screen.text.count("\n") == 2 and screen.text.endswith("word29 now")


def test_brackets_are_text_not_markup(sentence):
    drawn, screen = sentence
    drawn.show("[red]a[/red]", "")
    assert screen.text == "[red]a[/red]"
