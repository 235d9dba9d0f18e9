"""Agents beside the event loop of a Realtime connection."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from speechstream.duplex.events import AgentEnd, AgentFailed, AgentText
from speechstream.errors import SpeechStreamError
from speechstream.serve.realtime.fields import Json
from speechstream.serve.realtime.tools import ToolCall, equipped

Agent = Callable[[list[dict[str, str]]], Any]  # gives text: an iterable, or an asynchronous one
MOST_PIECES = 100_000  # of an answer's text


class Thinking:
    """Runs an agent beside the loop: an asynchronous one as a task, any other in a thread for each answer."""

    def __init__(self, agent: Agent, tell: Callable[[type, int, Any], None]):
        self._agent, self._tell = agent, tell
        self._loop = asyncio.get_running_loop()
        self._running: dict[int, tuple[threading.Event, asyncio.Task[None] | None, list[Any]]] = {}

    def ask(
        self, reply: int, asked: tuple[Json, ...], tools: tuple[Json, ...], choice: Any
    ) -> None:
        given, agent = list(asked), equipped(self._agent, tools, choice)
        cancelled, answer = threading.Event(), list[Any]()
        if inspect.isasyncgenfunction(agent) or inspect.isasyncgenfunction(type(agent).__call__):
            task = asyncio.ensure_future(self._await(reply, agent(given)))
            self._running[reply] = cancelled, task, answer
            return
        self._running[reply] = cancelled, None, answer
        work = (reply, agent, given, cancelled, answer)
        threading.Thread(target=self._run, args=work, name="agent", daemon=True).start()

    def cancel(self, reply: int) -> None:
        """Nobody waits for it any more."""
        cancelled, task, answer = self._running.pop(reply, (threading.Event(), None, []))
        cancelled.set()
        if task is not None:
            task.cancel()
        for one in answer:
            close = getattr(one, "close", None)
            if close is not None:
                with suppress(ValueError):  # a generator that is running ends at its next piece
                    close()

    def over(self, reply: int) -> None:
        self._running.pop(reply, None)

    def close(self) -> None:
        for reply in list(self._running):
            self.cancel(reply)

    async def _await(self, reply: int, answer: AsyncIterator[str | ToolCall]) -> None:
        try:
            async for piece in answer:
                self._tell(*_piece(reply, piece))
                await asyncio.sleep(0)
            self._tell(AgentEnd, reply, "")
        except SpeechStreamError as error:
            self._tell(AgentFailed, reply, str(error))
        except Exception as error:  # of a callable that is not ours
            self._tell(AgentFailed, reply, f"the agent failed: {error or type(error).__name__}")

    def _run(
        self, reply: int, agent: Agent, given: Any, cancelled: threading.Event, answer: list[Any]
    ) -> None:
        try:
            pieces = agent(given)
            answer.append(pieces)
            for n, piece in enumerate(pieces):
                if cancelled.is_set():
                    return
                if n >= MOST_PIECES:
                    raise SpeechStreamError("the agent's answer has no end")
                self._post(*_piece(reply, piece))
            self._post(AgentEnd, reply, "")
        except SpeechStreamError as error:
            self._post(AgentFailed, reply, str(error))
        except Exception as error:  # of a callable that is not ours
            self._post(AgentFailed, reply, f"the agent failed: {error or type(error).__name__}")

    def _post(self, kind: type, reply: int, said: Any) -> None:
        with suppress(RuntimeError):  # the loop is over
            self._loop.call_soon_threadsafe(self._tell, kind, reply, said)


def _piece(reply: int, piece: Any) -> tuple[type, int, Any]:
    if isinstance(piece, ToolCall):
        return ToolCall, reply, piece
    return AgentText, reply, str(piece)
