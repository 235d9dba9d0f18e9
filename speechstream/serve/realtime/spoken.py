"""An agent that hears and speaks itself behind a Realtime connection: which of the client's sound it is given, and when.

Where the conversation decides about turns, sound is given to the agent as far as the recogniser has heard it, for then it
is known whether it belongs to a turn. Where the client does, all of it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from speechstream.audio.resample import Resampler
from speechstream.audio.samples import to_mono
from speechstream.duplex.conversation import State
from speechstream.duplex.events import Message
from speechstream.duplex.spoken import RATE, AgentSound, SpokenEvent, SpokenRunner
from speechstream.serve.realtime.fields import Json


class Spoken:
    """The agent's side of one connection. tell: called on another thread with what the agent says.

    sounds: what the reply that is given or prepared has said, all of it, for it may have to begin again.
    """

    def __init__(self, agent: Any, tell: Callable[[SpokenEvent], None]):
        self.agent = agent
        self.sounds: list[AgentSound] = []
        self._tell = tell
        self._runner: SpokenRunner | None = None
        self._instructions = ""
        self._resampler: Resampler | None = None
        self._resampling: Any = None
        self._waiting: deque[np.ndarray] = deque()  # at 16 kHz, not given out
        self._given = 0  # samples of the connection's sound that were given out, at 16 kHz

    def instruct(self, instructions: str) -> None:
        """What the conversation begins with, until the agent has heard anything."""
        self._instructions = instructions

    @property
    def runner(self) -> SpokenRunner:
        """The conversation's thread, begun when it is first needed."""
        if self._runner is None:
            self._runner = SpokenRunner(self.agent, self._instructions, self._tell)
        return self._runner

    def take(self, pcm: np.ndarray, rate: int) -> None:
        """Sound of the client's, at its rate."""
        if self._resampler is None or self._resampler.rate_in != rate:
            self._resampler = Resampler(rate, RATE)
            self._resampling = self._resampler.init_state()
        x, self._resampling = self._resampler.step(to_mono(pcm)[None], self._resampling)
        self._waiting.append(x[0])

    def reach(self, heard: float, phase: str) -> None:
        """The conversation was in this phase up to `heard` seconds of the connection's sound."""
        x = self._next(round(heard * RATE) - self._given)
        if len(x):
            self.runner.sound(x, phase)

    def give(self) -> None:
        """All sound is the turn's."""
        x = self._next(sum(map(len, self._waiting)))
        if len(x):
            self.runner.hear(x)

    def clear(self) -> None:
        """The client has taken its sound back."""
        self._next(sum(map(len, self._waiting)))
        if self._runner is not None:
            self._runner.drop()

    def follow(self, before: State, after: State, whole: bool) -> None:
        """The conversation went from one state to another. whole: by the client's wish."""
        if self._runner is not None:
            self._runner.follow(before, after, whole)

    def ask(self, reply: int, messages: Sequence[Json], speaker: str, aloud: bool) -> None:
        """Begin to answer. messages: of which the last counts, where the turn has no sound."""
        self.sounds = []
        last = messages[-1] if messages else {"role": "", "content": ""}
        self.runner.ask(reply, (Message(last["role"], str(last["content"])),), 0.0, speaker, aloud)

    def cancel(self, reply: int) -> None:
        if self._runner is not None:
            self._runner.cancel(reply)

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()

    def _next(self, count: int) -> np.ndarray:
        found: list[np.ndarray] = [np.zeros(0, np.float32)]
        while count > 0 and self._waiting:
            x = self._waiting.popleft()
            if len(x) > count:
                self._waiting.appendleft(x[count:])
                x = x[:count]
            found.append(x)
            count -= len(x)
            self._given += len(x)
        return np.concatenate(found)
