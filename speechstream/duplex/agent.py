"""Who answers: a Python callable, an OpenAI-compatible endpoint, or a bot that needs neither.

An agent is called with the messages of the conversation, a list of {"role", "content"}, and gives text piece by piece.
What it cannot do it raises as SpeechStreamError with one sentence. Leaving the iteration (`close`) cancels it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from speechstream.errors import SpeechStreamError

Messages = Sequence[Mapping[str, str]]
Agent = Callable[[Messages], Iterable[str]]

KEY_VARIABLE = "OPENAI_API_KEY"
MAX_LINE = 1 << 20  # bytes of one line of a stream; a chunk of a reply has a few hundred
MAX_BODY = 1 << 16  # bytes that are read of an error


class EchoBot:
    """Says what the user said."""

    def __call__(self, messages: Messages) -> Iterator[str]:
        yield f"You said: {last_words(messages)}"


class RuleBot:
    """Answers a few questions by rule, for demonstrations without a model; what it does not know it repeats."""

    RULES = (
        (r"\b(hello|hi|good (morning|day|evening))\b", "Hello! What can I do for you?"),
        (r"\bhow are you\b", "I am well, thank you. And you?"),
        (r"\b(who|what) are you\b", "I am a small program that listens and speaks."),
        (r"\b(bye|goodbye|good night)\b", "Goodbye!"),
        (r"\bthank(s| you)\b", "You are welcome."),
        (r"\bcount\b", "One, two, three, four, five, six, seven, eight, nine, ten."),
        (r"\b(story|tell me)\b", "Once upon a time there was a machine that had learned to wait "
         "until others had finished. It listened to the rain, and to the wind, and in the end to us."),
    )  # fmt: skip

    def __call__(self, messages: Messages) -> Iterator[str]:
        said = last_words(messages)
        for pattern, answer in self.RULES:
            if re.search(pattern, said, re.IGNORECASE):
                yield answer
                return
        yield f"You said: {said}"


def last_words(messages: Messages) -> str:
    """What the user said last."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")


class ChatCompletions:
    """An endpoint that speaks OpenAI's chat completions with streaming (server-sent events).

        agent = ChatCompletions("http://127.0.0.1:11434/v1", "qwen2.5:1.5b")
        for piece in agent(messages): ...

    url: up to and without "/chat/completions". key: None takes $OPENAI_API_KEY. connect_s and read_s: seconds until
    there must be a connection, and until each next line. options: further fields of the request (temperature, ...).
    Raises ValueError for what is no URL. Each call opens one connection; closing its iterator closes it.
    """

    def __init__(
        self,
        url: str,
        model: str = "",
        key: str | None = None,
        connect_s: float = 5.0,
        read_s: float = 20.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} has no valid port: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the agent's address must be http://... or https://..., got {url!r}")
        if parts.username or parts.password:
            raise ValueError(f"the key belongs in ${KEY_VARIABLE}, not in the address")
        self.host, self.port, self.secure = parts.hostname, port, parts.scheme == "https"
        self.path = parts.path.rstrip("/") + "/chat/completions"
        self.model, self.connect_s, self.read_s = model, connect_s, read_s
        self._key = os.environ.get(KEY_VARIABLE, "") if key is None else key
        if not self._key.isprintable() or not self._key.isascii():
            raise ValueError("the agent's key has characters that no key has")
        self.options = dict(options or {})

    @property
    def name(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host

    def __call__(self, messages: Messages) -> Request:
        return Request(self, messages)


class Request:
    """One answer of an endpoint: an iterator of text. `close`, from any thread, ends it at once."""

    def __init__(self, agent: ChatCompletions, messages: Messages) -> None:
        self._agent, self._messages = agent, messages
        self._connection: http.client.HTTPConnection | None = None
        self._closed = threading.Event()
        self._pieces = self._run()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def close(self) -> None:
        self._closed.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):  # already closed by the other side
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> Iterator[str]:
        agent = self._agent
        make = http.client.HTTPSConnection if agent.secure else http.client.HTTPConnection
        connection = make(agent.host, agent.port, timeout=agent.connect_s)
        try:
            connection.connect()
            connection.sock.settimeout(agent.read_s)
            self._connection = connection
            if self._closed.is_set():
                return
            body = {"messages": [dict(m) for m in self._messages], "stream": True, **agent.options}
            if agent.model:
                body["model"] = agent.model
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
            if agent._key:
                headers["Authorization"] = f"Bearer {agent._key}"
            connection.request("POST", agent.path, json.dumps(body).encode(), headers)
            response = connection.getresponse()
            if response.status != 200:
                raise SpeechStreamError(self._refusal(response))
            yield from self._events(response)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not self._closed.is_set():
                raise SpeechStreamError(self._failure(error)) from error
        finally:
            connection.close()

    def _events(self, response: http.client.HTTPResponse) -> Iterator[str]:
        """The text of a stream of server-sent events, or of a whole answer in JSON."""
        name = self._agent.name
        if "json" in response.headers.get("Content-Type", ""):
            yield from self._texts(json.loads(response.read(MAX_LINE)), "message")
            return
        ended = False
        while not self._closed.is_set() and (line := response.readline(MAX_LINE + 1)):
            if len(line) > MAX_LINE:
                raise SpeechStreamError(f"the agent at {name} sent a line without end")
            if not line.startswith(b"data:"):
                continue  # a comment, another field, or the end of an event
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            try:
                event = json.loads(data)
            except ValueError as error:
                raise SpeechStreamError(
                    f"the agent at {name} sent what is no JSON: {data[:60]!r}"
                ) from error
            yield from self._texts(event, "delta")
            ended = ended or _finished(event)
        if not ended and not self._closed.is_set():
            raise SpeechStreamError(f"the agent at {name} broke off in the middle of its answer")

    def _texts(self, event: Any, field: str) -> Iterator[str]:
        if isinstance(event, dict) and event.get("error"):
            raise SpeechStreamError(
                f"the agent at {self._agent.name} failed: {_message(event['error'])}"
            )
        choices = event.get("choices") if isinstance(event, dict) else None
        if not isinstance(choices, list):
            raise SpeechStreamError(
                f"the agent at {self._agent.name} does not speak chat completions: {str(event)[:80]}"
            )
        for choice in choices[:1]:  # none in the last event, which counts tokens
            part = choice.get(field) if isinstance(choice, dict) else None
            text = part.get("content") if isinstance(part, dict) else None
            if isinstance(text, str) and text:
                yield text

    def _refusal(self, response: http.client.HTTPResponse) -> str:
        name, status = self._agent.name, response.status
        try:
            found = json.loads(response.read(MAX_BODY))
            detail = _message(found.get("error", "") if isinstance(found, dict) else "")
        except (ValueError, http.client.HTTPException):
            detail = ""
        said = f": {detail}" if detail else ""
        if status in (401, 403):
            return f"the agent at {name} refused the key (HTTP {status}); set ${KEY_VARIABLE}{said}"
        if status == 404:
            return (
                f"the agent at {name} knows no {self._agent.path} or no such model (HTTP 404){said}"
            )
        if status == 429:
            after = response.headers.get("Retry-After", "")
            later = f"; it asks to wait {after[:20]} s" if after else ""
            return f"the agent at {name} has too many requests (HTTP 429){later}{said}"
        return f"the agent at {name} failed (HTTP {status}){said}"

    def _failure(self, error: Exception) -> str:
        name = self._agent.name
        if isinstance(error, TimeoutError):
            return f"the agent at {name} was silent for too long"
        if isinstance(error, ssl.SSLError):
            return f"the agent at {name} gave no secure connection: {error}"
        if isinstance(error, ConnectionRefusedError):
            return f"nobody answers at {name}; is the agent running?"
        if isinstance(error, http.client.IncompleteRead | ConnectionError):
            return f"the agent at {name} broke off in the middle of its answer"
        if isinstance(error, OSError):
            return f"the agent at {name} cannot be reached: {error}"
        return (
            f"the agent at {name} sent what cannot be understood: {error or type(error).__name__}"
        )


def _finished(event: Any) -> bool:
    choices = event.get("choices")
    return any(isinstance(c, dict) and c.get("finish_reason") for c in choices or ())


def _message(error: Any) -> str:
    text = error.get("message", "") if isinstance(error, dict) else error
    return " ".join(str(text).split())[:200]
