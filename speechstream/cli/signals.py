"""Ctrl-C and SIGTERM as an orderly end.

A first signal asks: what has been heard is still decoded and written. A second one ends at once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """Raised by a signal where there is nothing to finish. Not an Exception: no recovery may swallow it."""


class Interrupts:
    """Within its `with`, `.signal` tells which signal has asked for the end, or is None."""

    def __init__(self):
        self.signal: int | None = None
        self._at_once, self._previous = False, {}

    @property
    def exit_code(self) -> int:
        """As shells count: 128 and the signal's number. 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this, even a first signal raises Interrupted: nothing would be lost by it."""
        self._at_once = True
        try:
            if self.signal is not None:
                raise Interrupted
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame) -> None:
        again, self.signal = self.signal is not None, int(number)
        if again or self._at_once:
            raise Interrupted
