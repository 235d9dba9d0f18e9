"""Where a server's workers run: processes of this machine, or actors of a Ray cluster (`serve.workers.ray_actors`).

process = place.start(loading)                   # returns at once
sock = await process.connection()                # once it is there
process.kill()
process.wait(5)
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Protocol

from speechstream.errors import SpeechStreamError

START = "import sys; sys.path[:] = {path!r}; from speechstream.serve.workers.worker import main; main({number}, {level}, {json})"


@dataclass(frozen=True)
class Loading:
    """What the workers load, as `Recognizer.load` and `Synthesizer.load` take it, and how they write their log."""

    model: str | None = None
    voice: str | None = None
    engine: str = "onnx"
    device: str = "cpu"
    log_json: bool = False
    log_level: int = logging.WARNING
    prior: str | None = None


class Process(Protocol):
    """A worker. name: for the log."""

    name: str

    async def connection(self) -> socket.socket:
        """Our end of the socket between us. Raises OSError where it cannot come about."""

    def kill(self) -> None:
        """End it, whatever it is at. May be called again."""

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, after so long at most."""


class Place(Protocol):
    """Where workers run."""

    def start(self, loading: Loading) -> Process:
        """Start one. Raises OSError where it cannot be started."""


class Here:
    """Processes of this machine, each with one end of a socket pair and nothing else of this one."""

    def __init__(self) -> None:
        if sys.platform == "win32":
            raise SpeechStreamError("workers need Linux or macOS; leave --workers away")

    def start(self, loading: Loading) -> _Child:
        return _Child(loading)


class _Child:
    def __init__(self, loading: Loading):
        self._ours, theirs = socket.socketpair()
        code = START.format(
            path=sys.path, number=theirs.fileno(), level=loading.log_level, json=loading.log_json
        )
        try:
            # a session of its own: Ctrl-C of a terminal would come before the worker can ignore it
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            self._ours.close()
            raise
        finally:
            theirs.close()
        self.pid, self.name = self._process.pid, f"the process {self._process.pid}"

    async def connection(self) -> socket.socket:
        return self._ours

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True
