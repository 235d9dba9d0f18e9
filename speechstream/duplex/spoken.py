"""Agents that hear the user themselves and speak themselves: sound in, text and sound out.

A plain agent (`duplex.agent`) is told what a recogniser wrote, and a voice reads what it answers. One of these is given
the sound of the user's turn while it lasts, so that it has read it when the turn ends, and its text and its speech leave
together. Who speaks when is still decided by `duplex.conversation`, on a recogniser's words and the voice activity.

All it remembers of a conversation is a value. An answer begins as a fork of the turn's state: one that was prepared too
early is dropped, and the turn goes on as if nothing had been; of one that was broken into, `settle` keeps what was heard.
"""

from __future__ import annotations

import queue
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from speechstream.duplex.conversation import DECIDING, PAUSE, USER, State
from speechstream.duplex.events import AgentEnd, AgentFailed, AgentText, Message, SpokenWord
from speechstream.errors import SpeechStreamError

S = TypeVar("S")
A = TypeVar("A")

RATE = 16_000  # of what an agent hears
BEFORE_S = 0.5  # of sound before a turn was noticed that belongs to it
LONGEST_S = 30.0  # of sound that is kept while it is undecided whether it is a turn
CHARACTERS_S = 15.0  # spoken in a second, where nothing better is known
NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Piece:
    """What an answer goes on with. pcm: float32 at the agent's rate. words: those that begin in it, counted from the
    answer's first sample and first character. ended: no more text comes, though speech may."""

    text: str = ""
    pcm: np.ndarray = field(default_factory=lambda: NOTHING)
    words: tuple[SpokenWord, ...] = ()
    ended: bool = False


class SpokenAgent(Protocol[S, A]):
    """A model that hears and speaks. Shared by any number of conversations; S and A are values."""

    sample_rate: int  # of its speech
    speakers: tuple[str, ...]
    system: str  # what a conversation begins with where nothing else is said

    def open(self, system: str = "") -> S:
        """A conversation in which nothing was said."""

    def hear(self, pcm: np.ndarray, state: S) -> S:
        """The user says this, float32 at 16 kHz, any length; the first of a turn begins it."""

    def write(self, text: str, state: S) -> S:
        """The user writes a whole turn instead."""

    def answer(self, state: S, speaker: str | None = None) -> A:
        """The turn is over: begin to answer."""

    def step(self, answer: A) -> tuple[Piece, A]:
        """Go on, a token or so."""

    def over(self, answer: A) -> bool:
        """Whether all is said."""

    def settle(self, answer: A, heard: str) -> S:
        """The conversation after an answer of whose text this much was heard."""


@dataclass(frozen=True)
class AgentSound:
    """The agent speaks: what belongs to the text of this reply. last: it has nothing left to say."""

    reply: int
    pcm: np.ndarray
    words: tuple[SpokenWord, ...]
    now: float
    last: bool = False


SpokenEvent = AgentText | AgentSound | AgentEnd | AgentFailed


def is_spoken(agent: Any) -> bool:
    """Whether an agent hears and speaks itself."""
    return all(hasattr(agent, name) for name in ("hear", "settle", "sample_rate"))


def estimated(text: str, placed: int, samples: int, rate: int, ended: bool) -> list[SpokenWord]:
    """The words of a text, from character `placed` on, that have begun within so many samples of its speech.

    For models that do not say where in the text they are: an even pace of 15 characters a second. A last word that may
    not be whole waits until the text has ended.
    """
    found, pace = [], rate / CHARACTERS_S
    for m in re.finditer(r"\S+", text):
        if m.start() < placed or (m.end() == len(text) and not ended):
            continue
        if m.start() * pace >= samples:
            break
        found.append(SpokenWord(round(m.start() * pace), round(m.end() * pace), *m.span()))
    return found


class SpokenRunner:
    """One conversation with such an agent, in a thread that owns its state.

    tell: called in that thread with what comes; without it, `poll` gives it. `follow` and `sound` decide what of the
    user's sound is the agent's to hear; the other calls put work into a queue. None of them waits. steps: for recordings
    in their own time: there is no thread, and each `poll` does what was asked and takes so many steps.
    """

    def __init__(
        self,
        agent: SpokenAgent[Any, Any],
        system: str = "",
        tell: Callable[[SpokenEvent], None] | None = None,
        steps: int = 0,
    ) -> None:
        self.agent, self._steps = agent, steps
        self._news: queue.SimpleQueue[SpokenEvent] = queue.SimpleQueue()
        self._tell = tell or self._news.put
        self._around: deque[np.ndarray] = deque()  # sound that is not the agent's yet
        self._kept = 0  # samples of it
        self._wanted = threading.Condition()
        self._jobs: deque[Callable[[], None]] = deque()
        self._closed = False
        # the thread's own
        self._system = system
        self._base: Any = None  # the conversation, without the turn that goes on
        self._turn: Any = None  # with it
        self._answer: Any = None
        self._reply = 0  # whose answer it is
        self._going = False
        self._asked = False  # somebody waits for it
        self._aloud = True
        self._ended = False  # all of its text was told
        self._why = ""  # why the turn's sound could not be heard
        if not steps:
            threading.Thread(target=self._run, name="agent", daemon=True).start()

    # Called by the conversation's driver

    def sound(self, pcm: np.ndarray, phase: str) -> None:
        """The user's sound, float32 at 16 kHz, that was heard in this phase of the conversation."""
        self._around.append(pcm)
        self._kept += len(pcm)
        if phase in (USER, PAUSE):
            self.hear(np.concatenate(self._around))
            self._forget(0)
        else:
            self._forget(round((LONGEST_S if phase == DECIDING else BEFORE_S) * RATE))

    def _forget(self, most: int) -> None:
        while self._around and self._kept - len(self._around[0]) >= most:
            self._kept -= len(self._around.popleft())

    def follow(self, before: State, after: State, whole: bool = False) -> None:
        """The conversation went from one state to another: settle what that means for the agent.

        whole: speech that ended has been heard as far as it was written, for a client ended it, who may play it all.
        """
        old, new = before.reply, after.reply
        if old is not None and old.label is not None and (new is None or new.id != old.id):
            said = after.history != before.history  # otherwise the user goes on with the same turn
            if said and old.apology:
                self.drop()  # what could not be answered is forgotten
            elif said:
                told = (m.content for m in after.history if m.reply == old.id)
                self.settle(old.id, old.text.strip() if whole else next(told, ""))
        if before.phase in (USER, PAUSE) and after.phase not in (USER, PAUSE) and new is None:
            self.drop()

    def hear(self, pcm: np.ndarray) -> None:
        """Sound of the user's turn."""
        self._post(lambda: self._hear(pcm))

    def drop(self) -> None:
        """The turn was none: its sound counts for nothing."""
        self._post(self._drop)

    def ask(
        self,
        reply: int,
        messages: tuple[Message, ...],
        now: float,
        speaker: str | None = None,
        aloud: bool = True,
    ) -> None:
        """Begin to answer the turn: its sound, or where it has none, the last message. aloud: in speech too."""
        last = messages[-1] if messages else None
        text = last.content if last is not None and last.role == "user" else ""
        self._post(lambda: self._ask(reply, text, speaker, aloud))

    def cancel(self, reply: int) -> None:
        """Nobody waits for it any more."""
        self._post(lambda: self._cancel(reply))

    def settle(self, reply: int, heard: str) -> None:
        """The answer is over; this is what was heard of it."""
        self._post(lambda: self._settle(reply, heard))

    def poll(self, now: float) -> list[SpokenEvent]:
        """What has come since."""
        if self._steps:
            while self._jobs:
                self._do(self._jobs.popleft())
            for _ in range(self._steps):
                if self._going:
                    self._do(self._step)
        found = []
        while not self._news.empty():
            found.append(replace(self._news.get(), now=now))
        return found

    def close(self) -> None:
        """The thread ends at its next step."""
        with self._wanted:
            self._closed = True
            self._wanted.notify()

    # The thread

    def _post(self, job: Callable[[], None]) -> None:
        with self._wanted:
            self._jobs.append(job)
            self._wanted.notify()

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not (self._jobs or self._going or self._closed):
                    self._wanted.wait()
                if self._closed:
                    return
                job = self._jobs.popleft() if self._jobs else self._step
            self._do(job)

    def _do(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            # of a model that is not ours: said, and the next turn is answered
            self._going = False
            why = str(error) or type(error).__name__
            if not isinstance(error, SpeechStreamError):
                why = f"the agent failed: {why}"
            if self._asked:
                self._asked = False
                self._tell(AgentFailed(self._reply, why, 0.0))
            else:
                self._why = why  # said when an answer is asked for

    def _state(self) -> Any:
        if self._base is None:
            self._base = self.agent.open(self._system)
        return self._base if self._turn is None else self._turn

    def _hear(self, pcm: np.ndarray) -> None:
        if not self._why:
            self._turn = self.agent.hear(pcm, self._state())

    def _drop(self) -> None:
        self._turn, self._why = None, ""
        self._cancel(self._reply)

    def _ask(self, reply: int, text: str, speaker: str | None, aloud: bool) -> None:
        self._reply, self._answer, self._going, self._asked = reply, None, False, True
        self._aloud, self._ended = aloud, False
        if self._why:
            raise SpeechStreamError(self._why)
        state = self._state()
        if self._turn is None and text:
            state = self.agent.write(text, state)
        self._answer = self.agent.answer(state, speaker)
        self._going = True

    def _cancel(self, reply: int) -> None:
        if reply == self._reply:
            self._going = self._asked = False

    def _settle(self, reply: int, heard: str) -> None:
        self._cancel(reply)
        answer = self._answer if reply == self._reply else None
        self._answer, self._turn, self._why = None, None, ""
        if answer is not None:
            self._base = self.agent.settle(answer, heard)

    def _step(self) -> None:
        piece, self._answer = self.agent.step(self._answer)
        reply = self._reply
        if piece.text:
            self._tell(AgentText(reply, piece.text, 0.0))
        over = self.agent.over(self._answer)
        if (piece.ended or over) and not self._ended:
            self._ended = True
            self._tell(AgentEnd(reply, 0.0))
        if self._aloud and (len(piece.pcm) or over):
            self._tell(AgentSound(reply, piece.pcm, piece.words, 0.0, over))
        self._going = self._asked = not (over or (self._ended and not self._aloud))
