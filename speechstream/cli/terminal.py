"""What is drawn on a terminal: the sentence being spoken, and how far a recording has come."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

_UP, _CLEAR_DOWN, _DIM, _PLAIN = "\x1b[{}A", "\x1b[J", "\x1b[2m", "\x1b[0m"


def is_terminal(stream: TextIO) -> bool:
    """Whether text on this stream can be redrawn."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


class Sentence:
    """A sentence that is drawn again and again in the same place: its stable part plain, the rest dim.

    It is cut into lines here, not by the terminal, so that it is known how many there are to draw over; of a sentence
    that fills the screen the end is shown.
    """

    def __init__(self, stream: TextIO):
        from rich.console import Console  # only a terminal needs it

        self._stream = stream
        self._console = Console(file=stream, highlight=False)
        self._lines = 0  # drawn now, the cursor stands at the end of the last

    def show(self, stable: str, unstable: str) -> None:
        """Draw in place of what was drawn before."""
        from rich.text import Text

        size = self._console.size
        text = Text.assemble((stable, ""), " " if stable and unstable else "", (unstable, "dim"))
        lines = text.wrap(self._console, max(size.width - 1, 1))[-max(size.height - 1, 1) :]
        drawn = "\n".join(self._ansi(line) for line in lines)
        self._put(self._erase() + drawn)
        self._lines = len(lines) if drawn else 0

    def clear(self) -> None:
        """Take it away; the cursor stands where it began."""
        if self._lines:
            self._put(self._erase())
            self._lines = 0

    def _erase(self) -> str:
        if not self._lines:
            return ""
        return "\r" + (_UP.format(self._lines - 1) if self._lines > 1 else "") + _CLEAR_DOWN

    def _ansi(self, line) -> str:
        parts, text = [], line.plain.rstrip()
        dim = next((span.start for span in line.spans if span.style == "dim"), len(text))
        for part, style in ((text[:dim], ""), (text[dim:], _DIM)):
            parts.append(f"{style}{part}{_PLAIN}" if style and part else part)
        return "".join(parts)

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


@contextmanager
def progress(name: str, duration: float | None, shown: bool) -> Iterator[Callable[[float], None]]:
    """A progress bar on stderr, gone when it is done; a function to tell it how many seconds are done."""
    if not shown:
        yield lambda seconds: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[place]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        whole = "" if duration is None else f" / {_clock(duration)}"
        task = bar.add_task(os.path.basename(name).replace("[", r"\["), total=duration, place="")

        def done(seconds: float) -> None:
            bar.update(task, completed=seconds, place=_clock(seconds) + whole)

        yield done


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
    )
