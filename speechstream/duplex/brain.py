"""A language model of our own as the agent of a conversation: it reads while the user still speaks.

    session = Session(recognizer, synthesizer, BrainRunner(Brain.load(path)))

What the user has said for certain is read ahead (Stream2LLM's append); what changes afterwards is read anew from where it
differs, for the brain's memory is rolled back to what both have in common. One thread owns the brain, and does the newest
thing it was asked.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

from speechstream.duplex.agent import Messages
from speechstream.duplex.events import AgentEnd, AgentFailed, AgentText, Message
from speechstream.errors import SpeechStreamError
from speechstream.lm.brain import Brain

LONGEST_REPLY = 120  # tokens: a minute of speech
SYSTEM = (
    "You are a friendly assistant in a spoken conversation. Answer in one or two short sentences."
)

AgentEvent = AgentText | AgentEnd | AgentFailed


class BrainRunner:
    """See the module. `read`, `ask`, `cancel` and `poll` return at once; called with messages it is a plain agent."""

    def __init__(self, brain: Brain, longest: int = LONGEST_REPLY) -> None:
        self._brain = brain
        self._sampling = replace(brain.sampling, most=longest)
        self._news: queue.SimpleQueue[tuple[type, int, str]] = queue.SimpleQueue()
        self._wanted = threading.Condition()
        self._asked: deque[tuple[int, Messages]] = deque()
        self._ahead: Messages | None = None  # what may be read when nothing is asked
        self._cancelled: set[int] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="brain", daemon=True)
        self._thread.start()

    def __call__(self, messages: Messages) -> Iterator[str]:
        return self._brain.chat(messages, self._sampling)

    def read(self, messages: tuple[Message, ...]) -> None:
        """The conversation so far, its last message perhaps not whole."""
        with self._wanted:
            self._ahead = plain(messages)
            self._wanted.notify()

    def ask(self, reply: int, messages: tuple[Message, ...], now: float) -> None:
        with self._wanted:
            self._asked.append((reply, plain(messages)))
            self._ahead = None
            self._wanted.notify()

    def cancel(self, reply: int) -> None:
        with self._wanted:
            self._cancelled.add(reply)

    def poll(self, now: float) -> list[AgentEvent]:
        found: list[AgentEvent] = []
        while not self._news.empty():
            kind, reply, text = self._news.get()
            if kind is AgentEnd:
                found.append(AgentEnd(reply, now))
            else:
                found.append(kind(reply, text, now))
        return found

    def close(self) -> None:
        """The thread ends at its next token."""
        with self._wanted:
            self._closed = True
            self._wanted.notify()

    def _run(self) -> None:
        while True:
            with self._wanted:
                while not (self._asked or self._ahead or self._closed):
                    self._wanted.wait()
                if self._closed:
                    return
                asked = self._asked.popleft() if self._asked else None
                ahead, self._ahead = self._ahead, None
            if asked is not None:
                self._answer(*asked)
            elif ahead is not None:
                self._prefill(ahead)

    def _prefill(self, messages: Messages) -> None:
        try:
            # with the beginning of the answer: if the turn ends here, the first word is known already
            self._brain.prefill(messages, reply=True)
        except (SpeechStreamError, ValueError):
            return  # said when it is asked in earnest

    def _answer(self, reply: int, messages: Messages) -> None:
        try:
            for text in self._brain.chat(messages, self._sampling):
                if self._closed or reply in self._cancelled:
                    self._cancelled.discard(reply)
                    return
                self._news.put((AgentText, reply, text))
            self._news.put((AgentEnd, reply, ""))
        except (
            Exception
        ) as error:  # of a model that is not ours: said, and the next one is answered
            self._news.put(
                (AgentFailed, reply, f"the brain failed: {error or type(error).__name__}")
            )


def plain(messages: tuple[Message, ...]) -> Messages:
    """As agents take them."""
    return [{"role": m.role, "content": m.content} for m in messages]
