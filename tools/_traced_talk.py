"""`speechstream talk` that also writes when each step of an answer happened, for evaluate_talk_live.

    SPEECHSTREAM_TRACE=trace.json python -m tools._traced_talk --llm URL

Times are those of time.monotonic, which all processes of a computer share.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from speechstream.cli import main
from speechstream.duplex import session as sessions
from speechstream.duplex.events import (
    Action,
    AgentText,
    Ask,
    DuplexEvent,
    Foresee,
    Foreseen,
    Say,
    SpeechReady,
)

HEARD = 1e-3  # a sample that is no silence


class Traced(sessions.Session):
    """Notes (time, what, more) of each step."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.notes: list[tuple[float, str, float]] = []
        self._captured = 0.0  # when the microphone's newest sample was
        self._loud = False
        super().__init__(*args, **options)

    def push(self, block: np.ndarray, at: float | None = None) -> None:
        if at is not None:
            self._captured = at + len(block) / sessions.SAMPLE_RATE
        super().push(block, at)

    def pull(self, count: int, at: float | None = None) -> np.ndarray:
        pcm = super().pull(count, at)
        loud = bool(np.abs(pcm).max() > HEARD)
        if loud and not self._loud:
            self.notes.append((time.monotonic(), "pulled", at or 0.0))
        self._loud = loud
        return pcm

    def _step(self, event: DuplexEvent) -> None:
        if isinstance(event, (Foreseen, AgentText, SpeechReady)):
            self._note(event)
        super()._step(event)

    def _do(self, a: Action) -> None:
        if isinstance(a, (Ask, Say, Foresee)):
            self._note(a)
        super()._do(a)

    def _note(self, what: DuplexEvent | Action) -> None:
        """With when the last window of speech was captured."""
        spoke = self._captured - (self.now - self.state.last_speech)
        self.notes.append((time.monotonic(), type(what).__name__, spoke))

    def close(self) -> None:
        super().close()
        Path(os.environ["SPEECHSTREAM_TRACE"]).write_text(json.dumps(self.notes), encoding="utf-8")


if __name__ == "__main__":
    sessions.Session = Traced  # type: ignore[misc]
    sys.exit(main(["talk", *sys.argv[1:]]))
