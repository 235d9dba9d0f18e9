"""A conversation without turns: a model that hears and speaks at once (`duplex.moshi`), its microphone and its loudspeaker.

    session = FullDuplexSession(agent)
    session.push(block)              # of the microphone
    speaker.write(session.pull(480)) # of the loudspeaker, at session.sample_rate

Nothing here decides who speaks: no recogniser, no voice activity, no barge-in; the model is given all sound, its own echo taken
out, and what it says is played. Like `duplex.session.Session` it owns no device, and `pull` may be called from another thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np

from speechstream.audio.resample import Resampler
from speechstream.audio.samples import to_mono
from speechstream.duplex.session import EchoCanceller
from speechstream.duplex.spoken import RATE, Piece

S = TypeVar("S")

MOST_WAITING_S = 0.5  # of speech not played yet; a machine that was held up would be late for ever


class FullDuplexAgent(Protocol[S]):
    """A model that hears and speaks at once. S is a value."""

    sample_rate: int  # of its speech

    def open(self, system: str = "") -> S:
        """A conversation in which nothing was said."""

    def exchange(self, pcm: np.ndarray, state: S) -> tuple[Piece, S]:
        """The user's sound, float32 at 16 kHz, any length, to its own of the same time, as far as that is certain."""


def is_full_duplex(agent: Any) -> bool:
    """Whether an agent hears and speaks at once."""
    return hasattr(agent, "exchange") and hasattr(agent, "sample_rate")


class FullDuplexSession:
    """See the module. sample_rate_in: of what is pushed. tell: is given the text as it is spoken."""

    behind_s = 0.0  # `push` has heard all that it was given

    def __init__(
        self,
        agent: FullDuplexAgent[Any],
        sample_rate_in: int = RATE,
        echo: EchoCanceller | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.agent, self.sample_rate, self.echo = agent, agent.sample_rate, echo
        self.state = agent.open()
        self.compute_s = 0.0  # spent within push
        self._tell = tell
        self._resampler = Resampler(sample_rate_in, RATE)
        self._resampling = self._resampler.init_state()
        self._lock = threading.Lock()
        self._waiting = np.zeros(0, np.float32)  # to be played
        self._heard = 0  # samples at 16 kHz
        self._offset = 0.0  # seconds that `tick` was ahead of them

    @property
    def now(self) -> float:
        """Seconds on the microphone's clock."""
        return self._heard / RATE + self._offset

    def push(self, block: np.ndarray, at: float | None = None) -> None:
        """The microphone's next sound: any length, (n,) or (n, channels), int16, int32 or float.

        at: when its first sample was captured; for the echo canceller. Raises ValueError for what is no sound.
        """
        began = time.perf_counter()
        pcm, self._resampling = self._resampler.step(to_mono(block)[None], self._resampling)
        x = pcm[0]
        self._heard += len(x)
        if self.echo is not None:
            x = self.echo.cancel(x, at).voice
        piece, self.state = self.agent.exchange(x, self.state)
        most = round(MOST_WAITING_S * self.sample_rate)
        with self._lock:
            self._waiting = np.concatenate([self._waiting, piece.pcm])[-most:]
        if piece.text:
            self._tell(piece.text)
        self.compute_s += time.perf_counter() - began

    def pull(self, count: int, at: float | None = None) -> np.ndarray:
        """(count,) float32: what goes to the loudspeaker now, silence where there is nothing. at: when it will be heard."""
        pcm = np.zeros(count, np.float32)
        with self._lock:
            given, self._waiting = self._waiting[:count], self._waiting[count:]
        pcm[: len(given)] = given
        if self.echo is not None:
            self.echo.played(pcm, at)
        return pcm

    def tick(self, now: float) -> None:
        """Time has passed though the microphone gave nothing."""
        self._offset += max(now - self.now, 0.0)

    def close(self) -> None:
        """Nothing is left to be ended."""


def converse_recorded(
    session: FullDuplexSession, user: np.ndarray, sample_rate: int, after_s: float = 0.0
) -> np.ndarray:
    """A recorded user (n,) of this rate, which is the session's, and silence; returns all that was played meanwhile."""
    step, played = 0.02, []
    size, count = round(step * sample_rate), round(step * session.sample_rate)
    user = np.concatenate([user, np.zeros(round(after_s * sample_rate), np.float32)])
    for at in range(0, len(user), size):
        block = np.zeros(size, np.float32)
        given = user[at : at + size]
        block[: len(given)] = given
        played.append(session.pull(count))
        session.push(block)
    return np.concatenate([np.zeros(0, np.float32), *played])
