"""Agents that call functions: the client's tools, as chat completions take them, and the calls that come back.

An agent that calls functions has `with_tools(tools, choice)`, which gives an agent whose answers may hold a `ToolCall`
among their pieces of text. `ChatCompletions` is made into one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from speechstream.duplex.agent import ChatCompletions, Messages, Request
from speechstream.serve.realtime.fields import Json

MOST_CALLS = 64  # in one answer


@dataclass(frozen=True)
class ToolCall:
    """The agent wants the client to call a function. arguments: JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str


def callable_tools(agent: Any) -> bool:
    """Whether an agent can be given tools."""
    return hasattr(agent, "with_tools") or isinstance(agent, ChatCompletions)


def equipped(agent: Any, tools: Sequence[Json], choice: Any) -> Any:
    """The agent with these tools, each as in a Realtime session."""
    if not tools or choice == "none" or not callable_tools(agent):
        return agent
    if hasattr(agent, "with_tools"):
        return agent.with_tools(list(tools), choice)
    return ChatWithTools(agent, tools, choice)


class ChatWithTools:
    """An endpoint of chat completions with tools."""

    def __init__(self, agent: ChatCompletions, tools: Sequence[Json], choice: Any):
        named = [{k: v for k, v in t.items() if k != "type"} for t in tools]
        options = {"tools": [{"type": "function", "function": t} for t in named]}
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": choice["name"]}}
        self._agent = ChatCompletions.__new__(ChatCompletions)
        self._agent.__dict__.update(agent.__dict__)
        self._agent.options = {**agent.options, **options, "tool_choice": choice}

    def __call__(self, messages: Messages) -> RequestWithTools:
        return RequestWithTools(self._agent, messages)


class RequestWithTools(Request):
    """An answer whose pieces are text, and calls at its end."""

    def __init__(self, agent: ChatCompletions, messages: Messages) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        super().__init__(agent, messages)

    def __iter__(self) -> Iterator[Any]:
        yield from self._pieces
        for n, call in enumerate(self._calls.values()):
            yield ToolCall(call["id"] or f"call_{n}", call["name"], call["arguments"] or "{}")

    def _texts(self, event: Any, field: str) -> Iterator[str]:
        yield from super()._texts(event, field)
        for choice in event["choices"][:1]:
            part = choice.get(field) if isinstance(choice, dict) else None
            calls = part.get("tool_calls") if isinstance(part, dict) else None
            for n, call in enumerate(calls if isinstance(calls, list) else ()):
                self._note(call, n)

    def _note(self, call: Any, n: int) -> None:
        """A piece of a call: its id and name come first, its arguments in pieces."""
        index = call.get("index", n) if isinstance(call, dict) else None
        function = call.get("function") if isinstance(call, dict) else None
        if type(index) is not int or not isinstance(function, dict):
            return
        if index not in self._calls and len(self._calls) >= MOST_CALLS:
            return
        known = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        known["id"] = known["id"] or str(call.get("id") or "")
        known["name"] += str(function.get("name") or "")
        arguments = function.get("arguments")
        known["arguments"] += (
            arguments if isinstance(arguments, str) else json.dumps(arguments) if arguments else ""
        )
