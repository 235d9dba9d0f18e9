"""What every WebSocket protocol of the server shares: limits, deadlines, odd bytes, JSON, and endings with a reason.

    async def listen(websocket, engine):
        async with opened(websocket, engine, lambda text: {"type": "Error", "description": text}) as socket:
            await first(read(socket), write(socket))    # until one of the two ends or raises

    async def read(socket):
        sound = Sound("int16", 16_000, 1, engine.limits)
        while True:
            message = await socket.receive()
            if isinstance(message, bytes):
                for block in sound.blocks(message):
                    await feed(stream, block)
            else:
                message = parsed(message)

A protocol raises `Ended`, or a ValueError or SpeechStreamError whose sentence is meant for the client, wherever that
happens; `opened` tells the client once, closes with the reason, and logs nobody's words. One message is read at a
time, so that a protocol that waits for the engine holds up its client through TCP; one is written at a time, so that
a client that does not read holds up its own stream, and nobody else's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from speechstream.audio.pcm import TYPES, decoder
from speechstream.audio.recording import check_rate
from speechstream.audio.samples import as_samples
from speechstream.errors import SpeechStreamError
from speechstream.serve import strict_json
from speechstream.serve.engine import Engine, Limits, Refused, Stream

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

T = TypeVar("T")

NORMAL, DATA, POLICY, TOO_BIG, BROKEN, RESTART, LATER = 1000, 1007, 1008, 1009, 1011, 1012, 1013
REASON_BYTES = 123  # of a close frame at most (RFC 6455, 5.5)
LINGER_S = 10.0  # a client that did not read may still read why it was closed
ANSWER_S = 2.0  # in which a client that reads answers a close
BLOCK_S = 1.0  # sound is decoded and pushed in blocks of at most this
DEPTH = 64  # of JSON
_log = logging.getLogger("speechstream.serve")


class Ended(Exception):
    """The connection ends now, with this code and reason. told: whether an error message goes before."""

    def __init__(self, code: int, reason: str, told: bool = True):
        super().__init__(reason)
        self.code, self.reason, self.told = code, reason, told


class Gone(Ended):
    """The client is not there any more. code: that of its close frame; 1005 or 1006 where there was none."""

    def __init__(self, code: int = 1006):
        super().__init__(code, "the client has gone", told=False)


class Idle(Ended):
    """Nothing came in or went out for too long."""

    def __init__(self, seconds: float):
        super().__init__(POLICY, f"nothing was sent for {seconds:g} s")


class Slow(Ended):
    """The client does not read."""

    def __init__(self, seconds: float):
        super().__init__(POLICY, f"nothing was read for {seconds:g} s", told=False)


class Draining(Ended):
    """The server is about to end. A protocol may catch it once, and say the last words."""

    def __init__(self) -> None:
        super().__init__(RESTART, "the server is about to end; connect again in a moment", False)


class Socket:
    """An accepted WebSocket. One task receives while others may send."""

    def __init__(self, websocket: WebSocket, engine: Engine):
        self.websocket, self.limits = websocket, engine.limits
        self.closed = False
        self._draining = engine.draining
        self._drained: asyncio.Future[Any] | None = None  # None as well where it was said
        self._receiving: asyncio.Future[Any] | None = None
        self._sending = asyncio.Lock()
        self._active = time.monotonic()
        if not self._draining.is_set():
            self._drained = asyncio.ensure_future(self._draining.wait())

    async def receive(self) -> str | bytes:
        """The next message. May be cancelled: the next call takes the message.

        Raises Gone where the client has closed, Idle where nothing came in or went out for limits.idle_s, Ended (1009)
        for a message above limits.message_bytes; once, Draining.
        """
        if self.closed:
            raise Gone
        self._active = time.monotonic()  # a client cannot be blamed while it was not read
        if self._receiving is None:
            self._receiving = asyncio.ensure_future(self.websocket.receive())
        while not self._receiving.done():
            left = self._active + self.limits.idle_s - time.monotonic()
            if left <= 0:
                raise Idle(self.limits.idle_s)
            news = {self._receiving} | ({self._drained} if self._drained else set())
            await asyncio.wait(news, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if self._drained is not None and self._drained.done():
                self._drained = None
                raise Draining
        message, self._receiving = self._receiving.result(), None
        if message["type"] == "websocket.disconnect":
            self.closed = True
            raise Gone(message.get("code") or 1006)
        data: bytes | str | None = message.get("bytes")
        if data is None:
            data = str(message.get("text") or "")
        if len(data) > self.limits.message_bytes:
            most = self.limits.message_bytes
            raise Ended(TOO_BIG, f"a message has {len(data)} bytes, at most {most} are taken")
        return data

    async def send(self, message: str | bytes | Mapping[str, Any]) -> None:
        """Send text, bytes, or an object as JSON; wait while the client is slow.

        Raises Slow where it does not read for limits.slow_s, Gone where it is not there.
        """
        data = message if isinstance(message, (str, bytes)) else dumped(message)
        try:
            await within(self.limits.slow_s, self._send(data))
        except asyncio.TimeoutError:
            raise Slow(self.limits.slow_s) from None
        self._active = time.monotonic()

    async def _send(self, data: str | bytes) -> None:
        async with self._sending:
            if self.closed:
                raise Gone
            try:
                if isinstance(data, bytes):
                    await self.websocket.send_bytes(data)
                else:
                    await self.websocket.send_text(data)
            except _closed_errors():
                self.closed = True
                raise Gone from None

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close with a reason, once; a client that has not read may for a while."""
        if self._receiving is not None:
            self._receiving.cancel()
        if self._drained is not None:
            self._drained.cancel()
        if self.closed:
            return
        self.closed = True
        try:
            await within(LINGER_S, self.websocket.close(code, shortened(reason)))
        except asyncio.TimeoutError:
            pass
        except _closed_errors():
            pass

    async def answered(self) -> bool:
        """After `close`: whether the client answers with 1000, and so has all that was sent before. Waits a moment."""
        answer = self.websocket.scope.get("state", {}).get("answered")
        if answer is None:
            return False  # not our server: nobody tells
        try:
            return bool(await within(ANSWER_S, asyncio.shield(answer)) == NORMAL)
        except asyncio.TimeoutError:
            return False


def _closed_errors() -> tuple[type[Exception], ...]:
    """What a send raises where the connection is over."""
    from starlette.websockets import WebSocketDisconnect

    return RuntimeError, OSError, WebSocketDisconnect


@asynccontextmanager
async def opened(
    websocket: WebSocket,
    engine: Engine,
    failed: Callable[[str], Mapping[str, Any]],
    subprotocol: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Socket]:
    """Accept a WebSocket, and close it whatever happens inside. failed: an error message of the protocol."""
    pairs = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in (headers or {}).items()]
    socket = Socket(websocket, engine)
    code, reason, told = NORMAL, "", False
    try:
        try:
            await websocket.accept(subprotocol, pairs)
        except _closed_errors():
            socket.closed = True
        yield socket
    except Ended as end:
        code, reason, told = end.code, end.reason, end.told
    except Refused as error:
        code, reason, told = LATER, str(error), True
    except (ValueError, SpeechStreamError) as error:
        code, reason, told = POLICY, str(error), True
    except asyncio.CancelledError:
        code, reason = RESTART, "the server ends"
        raise
    except Exception:  # ours
        _log.exception("a connection has failed")
        code, reason, told = BROKEN, "the server has failed; this is a fault of its own", True
    finally:
        try:
            if told and not socket.closed:
                await socket.send(failed(reason))
        except Ended:
            pass
        await socket.close(code, reason)


async def within(seconds: float, work: Awaitable[T]) -> T:
    """The result of what may take so long. Raises asyncio.TimeoutError.

    `asyncio.wait_for` before Python 3.12 forgets that it was cancelled where the work ends at that moment.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
        elif not task.cancelled():
            task.exception()  # also where nobody asks for it
    if not task.done():
        raise asyncio.TimeoutError
    return task.result()


async def first(*work: Coroutine[Any, Any, None]) -> None:
    """Run several until one ends, and cancel the others; raises what it raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:  # in their order, where two ended at once
        if task in done:
            task.result()


async def feed(stream: Stream, x: np.ndarray | str) -> None:
    """Push into a stream. Where it has failed, this waits for ever: whoever takes its events says why."""
    try:
        await stream.push(x)
    except SpeechStreamError:
        if not stream.over:
            raise
        await asyncio.Event().wait()


async def deny(
    websocket: WebSocket, status: int, body: Mapping[str, Any], headers: Mapping[str, str] = {}
) -> None:
    """Answer the handshake with an HTTP error in place of accepting it."""
    from starlette.responses import JSONResponse

    try:
        if "websocket.http.response" in websocket.scope.get("extensions", {}):
            answer = JSONResponse(dict(body), status, dict(headers))
            await websocket.send_denial_response(answer)
        else:
            await websocket.close(POLICY)
    except _closed_errors():
        pass


class Sound:
    """PCM that comes in messages cut anywhere, as blocks of samples. dtype: one of `audio.pcm.TYPES`.

    samples: frames that were given so far. Raises ValueError for a type, a rate or channels that there are not.
    """

    def __init__(self, dtype: str, sample_rate: int, channels: int, limits: Limits):
        if dtype not in TYPES:
            raise ValueError(
                f"encoding {dtype[:40]!r} is not supported, expected one of {', '.join(TYPES)}"
            )
        self._decoder = decoder(dtype, channels)
        self.sample_rate, self.samples = check_rate(sample_rate), 0
        self._most = limits.session_s * self.sample_rate
        self._session_s = limits.session_s
        self._rest = b""

    def restart(self, samples: int) -> None:
        """Go on behind so many, with a message that begins with a whole frame: what was given after them is not."""
        self._rest, self.samples = b"", samples

    def blocks(self, data: bytes) -> Iterator[np.ndarray]:
        """Whole frames, float32 (n, channels), BLOCK_S at most at once; what is left over waits for the next call.

        Raises ValueError for samples that are no numbers or far too loud, Ended after limits.session_s of sound.
        """
        data = self._rest + data
        whole = len(data) // self._decoder.frame * self._decoder.frame
        self._rest = data[whole:]
        size = max(int(BLOCK_S * self.sample_rate), 1) * self._decoder.frame
        for at in range(0, whole, size):
            block = as_samples(self._decoder.decode(data[at : min(at + size, whole)]))
            self.count(len(block))
            yield block

    def count(self, samples: int) -> None:
        """So many more have come. Raises Ended after limits.session_s of sound."""
        self.samples += samples
        if self.samples > self._most:
            raise Ended(POLICY, f"a connection may bring {self._session_s:g} s of sound")


def parsed(text: str) -> dict[str, Any]:
    """A message of JSON, an object. Raises ValueError, in words for the client, for anything else."""
    try:
        value = strict_json.loads(text)
        _check_depth(value)
    except ValueError as error:
        raise ValueError(f"a text message must be a JSON object: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise ValueError(f"a text message must be a JSON object, got {type(value).__name__}")
    return value


def _check_depth(value: Any, depth: int = DEPTH) -> None:
    if not depth:
        raise ValueError("it is nested too deeply")
    if isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            _check_depth(one, depth - 1)


def dumped(message: Mapping[str, Any]) -> str:
    """A message as JSON text, short; in ASCII, so that halves of characters cannot break a connection."""
    return json.dumps(message, allow_nan=False, separators=(",", ":"))


def shortened(reason: str) -> str:
    """A reason that fits in a close frame."""
    data = reason.encode("utf-8", "replace")
    if len(data) <= REASON_BYTES:
        return data.decode()
    return data[: REASON_BYTES - 3].decode("utf-8", "ignore") + "…"
