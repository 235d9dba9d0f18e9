"""Deepgram's live protocol, `WS /v1/listen`, for the clients that speak it already.

`protocol.Listening` is the protocol without a socket; `listen` joins it with a WebSocket and an engine. See
https://developers.deepgram.com/reference.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np

from speechstream.asr.recognizer import Recognizer
from speechstream.errors import SpeechStreamError
from speechstream.serve.deepgram.options import Options, read_options
from speechstream.serve.deepgram.protocol import Command, Listening
from speechstream.serve.engine import Engine, Refused, Stream
from speechstream.serve.media import RATE, Media
from speechstream.serve.sockets import (
    BROKEN,
    NORMAL,
    RESTART,
    Draining,
    Ended,
    Idle,
    Sound,
    deny,
    feed,
    first,
    opened,
    parsed,
)

if TYPE_CHECKING:
    from starlette.websockets import WebSocket


def error(reason: str) -> dict[str, Any]:
    """An error message."""
    return {"type": "Error", "variant": "SchemaError", "description": reason, "message": reason}


def nearest(recognizer: Recognizer, latency_ms: int) -> int | None:
    """The latency of the model that is nearest to what is wanted; None: it hears whole utterances."""
    return min(recognizer.latencies, key=lambda ms: abs(ms - latency_ms), default=None)


async def listen(websocket: WebSocket, engine: Engine) -> None:
    """Serve one connection until it is closed."""
    request_id = str(uuid.uuid4())
    headers = {"dg-request-id": request_id}
    try:
        languages = engine.recognizer.card.get("languages") or ("en",)
        options = read_options(websocket.query_params.multi_items(), languages)
        connection = _Connection(engine, options, request_id)
    except Refused as refused:
        await _denied(websocket, 503, "SERVICE_UNAVAILABLE", str(refused), headers)
        return
    except (ValueError, SpeechStreamError) as failure:
        await _denied(websocket, 400, "INVALID_QUERY_PARAMETER", str(failure), headers)
        return
    try:
        await _run(websocket, connection, headers)
    finally:
        connection.drop()


async def _run(websocket: WebSocket, connection: _Connection, headers: Mapping[str, str]) -> None:
    # a browser's key comes as a second subprotocol, and it is the first that is answered
    offered = [p for p in websocket.scope.get("subprotocols", []) if p in ("token", "bearer")]
    async with opened(
        websocket, connection.engine, error, next(iter(offered), None), headers
    ) as socket:
        await connection.run(socket)


async def _denied(
    websocket: WebSocket, status: int, code: str, reason: str, headers: Mapping[str, str]
) -> None:
    body = {"err_code": code, "err_msg": reason, "request_id": headers["dg-request-id"]}
    ascii_reason = reason.encode("ascii", "replace").decode().replace("\n", " ")[:200]
    await deny(websocket, status, body, {**headers, "dg-error": ascii_reason})


class _Connection:
    """A socket, the stream that hears it now, and the protocol between them."""

    def __init__(self, engine: Engine, options: Options, request_id: str):
        self.engine, self.options = engine, options
        created = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        self.protocol = Listening(
            options, request_id, created.replace("+00:00", "Z"), engine.recognizer.card
        )
        self.media: Media | None = None
        if options.dtype is None:
            self.options = options = replace(options, sample_rate=RATE)
            self.media = Media(self._push)
        dtype = options.dtype or "float32"
        self.sound = Sound(dtype, options.sample_rate, options.channels, engine.limits)
        self.stream = self._open()
        self.digest = hashlib.sha256()
        self.closing: Ended | None = None
        self.resting = False  # all that was said has been sent
        self.settled = asyncio.Event()

    def _open(self) -> Stream:
        options, recognizer = self.options, self.engine.recognizer
        rules = recognizer.rules
        if options.silence_s is not None:
            rules = replace(rules, silence_s=options.silence_s)
        latency_ms = nearest(recognizer, options.latency_ms)
        words = dict(options.hotwords) or None
        return self.engine.listen(latency_ms, options.sample_rate, rules, words)

    @property
    def seconds(self) -> float:
        return self.sound.samples / self.sound.sample_rate

    async def run(self, socket: Any) -> None:
        try:
            await first(self._write(socket), self._read(socket))
        except Idle:
            reason = "NET-0001: no sound and no KeepAlive came in time"
            raise Ended(BROKEN, reason) from None
        finally:
            self.drop()  # a client that reads slowly may still read why it is closed
        if self.closing is not None:
            raise self.closing

    async def _read(self, socket: Any) -> None:
        while True:
            try:
                message = await socket.receive()
            except Draining:
                await self._close(
                    Ended(RESTART, "the server is about to end; connect again", False)
                )
                continue
            if self.closing is not None:
                continue
            if message == b"":
                # how clients closed before there was CloseStream; Deepgram still takes it so
                await self._close(Ended(NORMAL, "", False))
            elif isinstance(message, bytes):
                await self._hear(socket, message)
            elif (command := self.protocol.command(parsed(message))) is Command.CLOSE:
                await self._close(Ended(NORMAL, "", False))
            elif command is Command.FINALIZE:
                await self._finalize()
            elif command is Command.CONFIGURE:
                await socket.send(self.protocol.unconfigured())

    async def _hear(self, socket: Any, data: bytes) -> None:
        self.digest.update(data)
        if self.media is not None:
            await self.media.feed(data)
        else:
            for block in self.sound.blocks(data):
                await feed(self.stream, block)
        if self.resting and self.stream.quiet:
            for message in self.protocol.heard(self.seconds - self.stream.waiting_s):
                await socket.send(message)

    async def _push(self, block: np.ndarray) -> None:
        """Sound out of a container."""
        self.sound.count(len(block))
        await feed(self.stream, np.clip(block, -1.0, 1.0))

    async def _finalize(self) -> None:
        """All words so far; nothing more is read before they are said."""
        self.protocol.finalizing = True
        self.settled.clear()
        self.stream.finish()
        await self.settled.wait()

    async def _close(self, how: Ended) -> None:
        if self.closing is None:
            if self.media is not None:
                await self.media.end()
            self.closing = how
            self.stream.finish()

    def drop(self) -> None:
        """Give up what is still heard."""
        self.stream.close()
        if self.media is not None:
            self.media.close()

    async def _write(self, socket: Any) -> None:
        while True:
            self.resting = True
            async for event in self.stream:
                self.resting = False
                for message in self.protocol.events([event, *self.stream.ready()]):
                    await socket.send(message)
                self.resting = True
            self.resting = False
            for message in self.protocol.settled(self.seconds):
                await socket.send(message)
            if self.closing is not None:
                digest = self.digest.hexdigest()
                await socket.send(self.protocol.metadata(self.seconds, digest))
                return
            self.stream = self._open()
            self.settled.set()
