"""What `speechstream talk` says of a conversation, and where its sound is written."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from speechstream.cli import tell
from speechstream.errors import SpeechStreamError


class Report:
    """Both sides' text as it is settled, the state, and how long the user waited."""

    def __init__(self, quiet: bool) -> None:
        from speechstream.cli.terminal import is_terminal

        self.quiet, self.state = quiet, is_terminal(sys.stderr) and not quiet
        self.waits: list[float] = []
        self.stopped_speaking: float | None = None
        self.began_speaking: float | None = None
        self.silences: list[float] = []  # from the user's onset until the assistant was silent
        self.lag = self.longest_lag = 0.0  # seconds behind the microphone
        self.longest_wait = 0.0  # of sound for the recogniser
        self._written = 0

    def action(self, action: Any, now: float) -> None:
        from speechstream.duplex.events import Error, Pause, Show

        if isinstance(action, Error):
            tell(action.text)
        elif isinstance(action, Pause) and self.began_speaking is not None:
            self.silences.append(now + self.lag - self.began_speaking)
        elif isinstance(action, Show) and self.state:
            sys.stderr.write(f"\r\x1b[K[{action.phase}] {action.user[-60:]}")
            sys.stderr.flush()

    def event(self, event: Any, state: Any) -> None:
        from speechstream.duplex.conversation import DECIDING, THINKING
        from speechstream.duplex.events import Played

        self.longest_lag = max(self.longest_lag, self.lag)
        self.began_speaking = state.since if state.phase == DECIDING else None
        if state.phase == THINKING:
            self.stopped_speaking = state.last_speech
        elif isinstance(event, Played) and self.stopped_speaking is not None:
            self.waits.append(event.now + self.lag - self.stopped_speaking)
            self.stopped_speaking = None

    def history(self, state: Any, whole: bool = False) -> None:
        """Print what has become history since; `whole`: and what was heard of the answer that is being given."""
        done = [m for m in (state.messages if whole else state.history) if m.role != "system"]
        for m in done[max(self._written - state.forgotten, 0) :]:
            if self.state:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()
            print(f"{'you' if m.role == 'user' else 'bot'}: {m.content}", flush=True)
        self._written = state.forgotten + len(done)

    def end(self, session: Any = None) -> None:
        """How long the user waited, and what the echo canceller did."""
        if self.quiet:
            return
        if self.waits:
            waits = f"from the end of speech to the first sound {spread(self.waits)}"
            tell(f"{len(self.waits)} answer(s); {waits}")
        if self.silences:
            silent = f"from your first sound to its silence {spread(self.silences)}"
            tell(f"{len(self.silences)} time(s) it was spoken into; {silent}")
        if self.longest_lag > 0.1:
            tell(f"the computer was up to {1000 * self.longest_lag:.0f} ms behind the microphone")
        if self.longest_wait > 0.2:
            tell(f"the recogniser was up to {1000 * self.longest_wait:.0f} ms behind it")
        echo = getattr(session, "echo", None)
        if echo is not None:
            where = "no echo was found" if echo.delay_s is None else f"{1000 * echo.delay_s:.0f} ms"
            tell(f"echo: {where}, {echo.loss_db:.0f} dB taken away")


def spread(values: list[float]) -> str:
    """The median and the longest, in milliseconds."""
    ordered = sorted(values)
    return f"{1000 * ordered[len(ordered) // 2]:.0f} ms in the median, {1000 * ordered[-1]:.0f} ms at most"


def canceller(args: argparse.Namespace, rate: int) -> Any:
    """The echo canceller, or None and a sentence where it is not installed."""
    from speechstream.audio.echo import EchoCanceller

    try:
        return EchoCanceller(rate)
    except SpeechStreamError as error:
        if not args.quiet:
            tell(str(error))
        return None


def both(user: Any, rate: int, out: Any, out_rate: int) -> Any:
    """(n, 2) float32 at out_rate: the user left, the assistant right."""
    import numpy as np

    from speechstream.audio.resample import Resampler

    resampler = Resampler(rate, out_rate)
    head, state = resampler.step(user[None], resampler.init_state())
    heard = np.concatenate([head[0], resampler.finish(state)[0]])
    sides = np.zeros((max(len(heard), len(out)), 2), np.float32)
    sides[: len(heard), 0], sides[: len(out), 1] = heard, out
    return sides


def write(path: str, pcm: Any, rate: int) -> None:
    import soundfile

    try:
        soundfile.write(path, pcm, rate)
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise SpeechStreamError(f"{path} cannot be written: {error}") from error
