"""A client of the server's own protocol, that survives dropped connections (docs/serve_stream.md).

    async with Client("ws://127.0.0.1:8000/v1/stream", listen={"sample_rate": 48000}, key=KEY) as client:
        await client.sound(block)          # bytes, in the encoding that `listen` names
        await client.finish()
        async for event in client: ...     # events as everywhere: Partial, Final, Audio, ...

What the server has not taken is kept and sent again after a drop, and events are counted, so no word is lost or
doubled. Needs speechstream[serve].
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from speechstream.errors import SpeechStreamError
from speechstream.events import Event, Failed, from_json

UNTAKEN_BYTES = 8 << 20  # kept to be sent again; beyond it, `sound` and `text` wait
WAITING = 256  # events that are not taken; beyond it, the server is not read
RETRY_S = 0.1  # between attempts to connect, doubled up to a second
FOR_GOOD = (1000, 1007, 1009, 1011, 1013, 4004, 4009)  # codes of a close that ends a session
_BYTES = {"uint8": 1, "int16": 2, "int24": 3, "int32": 4, "float32": 4, "float64": 8}
_NOTES = ("flushed", "cancelled")


@dataclass(frozen=True)
class Sent:
    """A message, and what it adds to the counts of what the server has taken."""

    data: str | bytes
    kind: str  # "samples", "characters" or "commands"
    amount: int


class Client:
    """One session. Iterate over its events; they end when all was said, or with a SpeechStreamError.

    url: of /v1/stream; listen, speak: as in the protocol's `start`; key: sent as a bearer's. `flush` and `cancel`
    are answered in the iteration by {"type": "flushed"} and {"type": "cancelled"}.
    """

    def __init__(
        self,
        url: str,
        listen: Mapping[str, Any] | None = None,
        speak: Mapping[str, Any] | None = None,
        key: str | None = None,
    ):
        self._url, self._key = url, key
        self._start: dict[str, Any] = {"type": "start"}
        self._start |= {} if listen is None else {"listen": dict(listen)}
        self._start |= {} if speak is None else {"speak": dict(speak)}
        asked = dict(listen or {})
        encoding = asked.get("encoding", "int16")
        self._frame = _BYTES.get(str(encoding), 1) * int(asked.get("channels", 1))
        self._odd = b""
        self._token: str | None = None
        self._received = 0
        self._taken = {"samples": 0, "characters": 0, "commands": 0}
        self._kept: deque[Sent] = deque()  # not taken yet
        self._kept_bytes = 0
        self._next = 0  # the first of them that was not sent on this connection
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._events: asyncio.Queue[Any] = asyncio.Queue(WAITING)
        self._task: asyncio.Task[None] | None = None
        self._over = False
        self._socket: Any = None
        self.resumed = 0  # times

    async def __aenter__(self) -> Client:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over = True
        if self._socket is not None:
            await self._socket.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sound(self, data: bytes) -> None:
        """Send sound, cut anywhere; wait while too much of it was not taken."""
        data = self._odd + data
        whole = len(data) // self._frame * self._frame
        self._odd = data[whole:]
        if whole:
            await self._send(Sent(data[:whole], "samples", whole // self._frame))

    async def text(self, text: str) -> None:
        """Send text to be spoken."""
        if text:
            message = json.dumps({"type": "text", "text": text})
            await self._send(Sent(message, "characters", len(text)))

    async def flush(self, of: str | None = None) -> None:
        """Have all that was sent be said. of: "listen" or "speak"."""
        await self._command("flush", of)

    async def finish(self, of: str | None = None) -> None:
        """No more comes."""
        await self._command("finish", of)

    async def cancel(self) -> None:
        """Say no more of what was to be said."""
        await self._command("cancel", None)

    async def __aiter__(self) -> AsyncIterator[Event | dict[str, Any]]:
        while (event := await self._events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event

    async def _command(self, kind: str, of: str | None) -> None:
        message = {"type": kind} | ({} if of is None else {"of": of})
        await self._send(Sent(json.dumps(message), "commands", 1))

    async def _send(self, one: Sent) -> None:
        while self._kept_bytes > UNTAKEN_BYTES and not self._over:
            self._room.clear()
            await self._room.wait()
        self._kept.append(one)
        self._kept_bytes += len(one.data)
        self._news.set()

    # The connection.

    async def _run(self) -> None:
        try:
            await self._go_on()
            end: SpeechStreamError | None = None
        except SpeechStreamError as error:
            end = error
        self._over = True
        self._room.set()
        await self._events.put(end)

    async def _go_on(self) -> None:
        """Connect, again and again, until the session is over. Raises SpeechStreamError where it fails."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed, InvalidStatus

        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        wait_s, until, last = RETRY_S, None, ""
        while True:
            try:
                async with connect(
                    self._url, additional_headers=headers, max_size=None
                ) as self._socket:
                    resume_s = await self._greet(self._socket)
                    wait_s, until = RETRY_S, time.monotonic() + resume_s
                    await self._talk(self._socket)
                    return
            except ConnectionClosed as closed:
                end = closed.rcvd
                full = end is not None and end.code == 1013 and self._token is not None
                if end is not None and end.code in FOR_GOOD and not full:
                    raise SpeechStreamError(end.reason or f"closed with {end.code}") from None
                last = end.reason if end is not None else "the connection dropped"
            except InvalidStatus as refused:
                raise SpeechStreamError(_refusal(refused.response)) from None
            except (OSError, asyncio.TimeoutError) as error:
                last = str(error)
            if until is None or time.monotonic() > until:
                raise SpeechStreamError(f"{self._url} cannot be reached: {last}")
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, 1.0)

    async def _greet(self, socket: Any) -> float:
        """Start or resume. Returns how long the server keeps a dropped session."""
        resume = {"type": "resume", "token": self._token, "received": self._received}
        await socket.send(json.dumps(self._start if self._token is None else resume))
        answer = json.loads(await socket.recv())
        if answer["type"] == "error":
            raise SpeechStreamError(answer["message"])
        self.resumed += answer["type"] == "resumed"
        self._token = answer["token"]
        self._trim(answer)
        self._next = 0
        return float(answer["resume_s"])

    def _trim(self, taken: Mapping[str, Any]) -> None:
        """Forget what the server has taken, which is the first part of what was sent."""
        new = {kind: taken[kind] - count for kind, count in self._taken.items()}
        while self._kept:
            one = self._kept[0]
            part = min(new[one.kind], one.amount)
            if not part:
                break
            self._kept.popleft()
            new[one.kind] -= part
            self._taken[one.kind] += part
            self._kept_bytes -= len(one.data)
            self._next -= 1
            if part < one.amount:  # sound that was taken in part
                assert isinstance(one.data, bytes)
                rest = one.data[part * self._frame :]
                self._kept.appendleft(Sent(rest, one.kind, one.amount - part))
                self._kept_bytes += len(rest)
                self._next += 1
                break
        self._room.set()

    async def _talk(self, socket: Any) -> None:
        sending = asyncio.ensure_future(self._sender(socket))
        try:
            await self._receiver(socket)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _sender(self, socket: Any) -> None:
        while True:
            while self._next < len(self._kept):
                self._next += 1
                await socket.send(self._kept[self._next - 1].data)
            self._news.clear()
            await self._news.wait()

    async def _receiver(self, socket: Any) -> None:
        """Take messages until the session is done."""
        encoding = "int16"
        if "speak" in self._start:
            encoding = self._start["speak"].get("encoding", "int16")
        while True:
            message = json.loads(await socket.recv())
            kind = message["type"]
            if kind == "taken":
                self._trim(message)
                continue
            if kind == "error":
                raise SpeechStreamError(message["message"])
            if kind == "audio":
                message["pcm"] = _floats(await socket.recv(), encoding)
            self._received = message.pop("seq")
            if kind == "done":
                return
            event = message if kind in _NOTES else from_json(message)
            if isinstance(event, Failed):
                raise SpeechStreamError(event.message)
            await self._events.put(event)


def _floats(data: bytes, encoding: str) -> str:
    """Sound as events carry it."""
    if encoding == "int16":
        data = (np.frombuffer(data, "<i2").astype("<f4") / np.float32(32767)).tobytes()
    return base64.b64encode(data).decode()


def _refusal(response: Any) -> str:
    text = (response.body or b"").decode("utf-8", "replace")[:200]
    return f"the server refused the connection with status {response.status_code}: {text}"
