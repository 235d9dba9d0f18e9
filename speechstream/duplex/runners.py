"""Who runs an agent beside a conversation: in threads, or in the conversation's own time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

from speechstream.duplex.agent import Agent
from speechstream.duplex.events import AgentEnd, AgentFailed, AgentText, Message
from speechstream.duplex.spoken import AgentSound
from speechstream.errors import SpeechStreamError

AgentEvent = AgentText | AgentSound | AgentEnd | AgentFailed


class Runner(Protocol):
    """Who runs an agent beside the conversation."""

    def ask(self, reply: int, messages: tuple[Message, ...], now: float) -> None:
        """Begin to answer."""

    def cancel(self, reply: int) -> None:
        """Nobody waits for it any more."""

    def poll(self, now: float) -> list[AgentEvent]:
        """What has come since."""

    def close(self) -> None:
        """Cancel all."""


class Threaded:
    """An agent in a thread for each answer, which only posts what comes. For live conversations."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._news: queue.SimpleQueue[tuple[type, int, str]] = queue.SimpleQueue()
        self._running: dict[int, tuple[threading.Event, Any]] = {}

    def ask(self, reply: int, messages: tuple[Message, ...], now: float) -> None:
        cancelled = threading.Event()
        answer = self._agent([{"role": m.role, "content": m.content} for m in messages])
        self._running[reply] = (cancelled, answer)
        threading.Thread(
            target=self._run, args=(reply, answer, cancelled), name="agent", daemon=True
        ).start()

    def cancel(self, reply: int) -> None:
        cancelled, answer = self._running.pop(reply, (None, None))
        if cancelled is not None:
            cancelled.set()
            close = getattr(answer, "close", None)
            if close is not None:
                with suppress(ValueError):  # a generator that is running ends at its next piece
                    close()

    def poll(self, now: float) -> list[AgentEvent]:
        found: list[AgentEvent] = []
        while not self._news.empty():
            kind, reply, text = self._news.get()
            if kind is AgentText:
                found.append(AgentText(reply, text, now))
                continue
            self._running.pop(reply, None)
            found.append(
                AgentEnd(reply, now) if kind is AgentEnd else AgentFailed(reply, text, now)
            )
        return found

    def close(self) -> None:
        for reply in list(self._running):
            self.cancel(reply)

    def _run(self, reply: int, answer: Any, cancelled: threading.Event) -> None:
        try:
            for text in answer:
                if cancelled.is_set():
                    return
                self._news.put((AgentText, reply, text))
            self._news.put((AgentEnd, reply, ""))
        except SpeechStreamError as error:
            self._news.put((AgentFailed, reply, str(error)))
        except Exception as error:  # of a callable that is not ours: said, and the thread is over
            self._news.put((AgentFailed, reply, f"the agent failed: {error or type(error)}"))


class Timed:
    """An agent in the conversation's own time: the first piece after `first_s`, each next one after `each_s`."""

    def __init__(self, agent: Agent, first_s: float = 0.0, each_s: float = 0.0) -> None:
        self._agent, self._first, self._each = agent, first_s, each_s
        self._answers: dict[int, tuple[Iterator[str], float]] = {}

    def ask(self, reply: int, messages: tuple[Message, ...], now: float) -> None:
        pieces = iter(self._agent([{"role": m.role, "content": m.content} for m in messages]))
        self._answers[reply] = (pieces, now + self._first)

    def cancel(self, reply: int) -> None:
        self._answers.pop(reply, None)

    def poll(self, now: float) -> list[AgentEvent]:
        found: list[AgentEvent] = []
        for reply, (pieces, due) in list(self._answers.items()):
            while due <= now and reply in self._answers:
                try:
                    found.append(AgentText(reply, next(pieces), now))
                    due += self._each
                    self._answers[reply] = (pieces, due)
                except StopIteration:
                    found.append(AgentEnd(reply, now))
                    self.cancel(reply)
                except SpeechStreamError as error:
                    found.append(AgentFailed(reply, str(error), now))
                    self.cancel(reply)
        return found

    def close(self) -> None:
        self._answers.clear()
