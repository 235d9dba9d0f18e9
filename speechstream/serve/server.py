"""The server: uvicorn with our limits, an end that drains, and Wyoming on a port of its own.

A first SIGTERM or Ctrl-C ends it in order: whoever comes is told to come again later, the WebSockets' handlers see
`engine.draining` and say their last words, requests in progress are answered, up to `limits.drain_s`. A second one
ends it at once. Whatever a thread of it is at then, the process is gone `END_S` later.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from speechstream.errors import SpeechStreamError
from speechstream.serve import encoders
from speechstream.serve.app import create_app
from speechstream.serve.door import JsonLines, Plain
from speechstream.serve.engine import Engine
from speechstream.serve.problems import Problem
from speechstream.serve.settings import Settings

KEEP_ALIVE_S = 30
HEAD_S = 20.0  # until a connection has sent a whole request's head
HEAD_BYTES = 64 << 10
PING_S = 20.0
# Of a WebSocket at once: as tiny frames they take some 10 ms, for which all others wait.
PARSED_BYTES = 16 << 10
POLL_S = 0.05
END_S = 15.0  # behind `limits.drain_s`, in which threads may end what they are at
CONNECTIONS = 64, 4  # so many, and so many for each seat: who waits for a seat is told so
_log = logging.getLogger("speechstream.serve")


class Framed(h11.Connection):
    """Requests whose end is told in one way only. h11 takes the chunks where a length is given too; a proxy before it
    may take the length, and then what one client sends as a body is another's request (RFC 9112, 6.3)."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if b"transfer-encoding" in names and (
                b"content-length" in names or event.http_version < b"1.1"
            ):
                raise h11.RemoteProtocolError("the end of the body is told in two ways", 400)
        return event


class Protocol(H11Protocol):
    """HTTP that does not wait for ever for a request's head. `scope["state"]["abort"]` drops the connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.conn = Framed(h11.SERVER, HEAD_BYTES)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "abort": transport.abort}
        self._head = self.loop.call_later(HEAD_S, self._look)
        self._waits = True  # for a head, since the last look

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._head.cancel()  # from here on another protocol has the connection
        super().handle_websocket_upgrade(event)

    def _look(self) -> None:
        """Drop a connection that had begun no request, or only its head, at this look and the one before."""
        between = self.timeout_keep_alive_task is not None  # nothing has come since the last answer
        waits = not between and (self.cycle is None or self.cycle.response_complete)
        if waits and self._waits:
            self.transport.abort()
            return
        self._waits = waits
        self._head = self.loop.call_later(HEAD_S, self._look)


class WebSockets(WebSocketsSansIOProtocol):
    """WebSockets that keep little of what a client sends in bad faith, and wait for one that is only busy."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # of what was read, not parsed yet; nothing more is read before
        self._rest: deque[bytes] = deque()
        self._answered: asyncio.Future[int | None] = self.loop.create_future()
        self.app_state = {**self.app_state, "answered": self._answered}
        self._heard = self.loop.time()  # when something came
        self._whole = bytearray()  # of a message in fragments

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        if len(data) > PARSED_BYTES and self.handshake_initiated:
            self._rest += (data[i : i + PARSED_BYTES] for i in range(0, len(data), PARSED_BYTES))
            self.transport.pause_reading()
            self._parse_next()
        elif self._rest:
            self._rest.append(data)
        else:
            self._parse(data)

    def _parse_next(self) -> None:
        """Parse a piece of what was read, and the next one when others had their turn."""
        if self._rest:
            self._parse(self._rest.popleft())
        if self._rest:
            self.loop.call_soon(self._parse_next)
        elif not (self.read_paused or self.transport.is_closing()) and self.writable.is_set():
            self.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        while self._rest:
            self._parse(self._rest.popleft())
        if not self._answered.done():
            self._answered.set_result(None)
        super().connection_lost(exc)

    def _parse(self, data: bytes) -> None:
        if self.conn.parser_exc is not None:
            return  # it is being closed for what came before
        super().data_received(data)
        if (
            not self.handshake_initiated
        ):  # its head came whole and cannot be read: nobody else would end it
            problem = Problem(431, "the handshake cannot be read: a line of it may have 8192 bytes")
            body = problem.response().body
            head = f"HTTP/1.1 431 \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(f"{head}connection: close\r\n\r\n".encode() + body)
            self.transport.close()

    def keepalive_timeout(self) -> None:
        """A pong that has not come may wait behind sound that was not read yet: who sends, or is not read, lives."""
        waited = self.ping_timeout or PING_S
        if not self.transport.is_reading() or self.loop.time() - self._heard < waited:
            self.pong_timer = self.loop.call_later(waited, self.keepalive_timeout)
            return
        super().keepalive_timeout()

    def pause_writing(self) -> None:
        """A client that does not read is not read either: each of its pings would wait for it as a pong."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not (self.read_paused or self._rest):
            self.transport.resume_reading()

    async def receive(self) -> Any:
        message = await super().receive()
        if self._rest or not self.writable.is_set():
            self.transport.pause_reading()
        return message

    def handle_close(self, event: Frame) -> None:
        """A client that answers a close has all that was sent before it: `scope["state"]["answered"]` has its code."""
        if self.close_sent and self.conn.close_rcvd is not None and not self._answered.done():
            self._answered.set_result(self.conn.close_rcvd.code)
        super().handle_close(event)

    def handle_cont(self, event: Frame) -> None:
        """Join a message as it comes: its size has a limit, the number of its fragments has none."""
        self._whole = bytearray(self.frames.pop()) if self.frames else self._whole
        self._whole += event.data
        if event.fin:
            self.frames, self._whole = [bytes(self._whole)], bytearray()
            self.send_receive_event_to_app()


class Server(uvicorn.Server):
    """ended: the signal that has asked for the end; cut: whether somebody was cut off by it."""

    def __init__(self, config: uvicorn.Config, engine: Engine):
        super().__init__(config)
        self.engine = engine
        self.ended: int | None = None
        self.cut = False
        self._drain: asyncio.Task[None] | None = None
        self.last = threading.Timer(engine.limits.drain_s + END_S, self._gone)
        self.last.daemon = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On the main thread, between two steps of the loop."""
        if self.ended is not None:
            self.should_exit = self.force_exit = self.cut = True
            return
        self.ended = sig
        self.engine.draining.set()
        self.last.start()

    def _gone(self) -> None:
        """The end of the process where a thread does not come to its own: nobody may have to kill it."""
        _log.error("the server ends though some of its work has not")
        os._exit(128 + (self.ended or 0))

    async def on_tick(self, counter: int) -> bool:
        if self.ended is not None and self._drain is None:
            self._drain = asyncio.ensure_future(self._drained())
        return await super().on_tick(counter)

    async def _drained(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self.engine.limits.drain_s
        while self.engine.sessions and loop.time() < until:
            await asyncio.sleep(POLL_S)
        self.cut = self.cut or bool(self.engine.sessions)
        self.should_exit = True


def configure(engine: Engine, settings: Settings) -> uvicorn.Config:
    """uvicorn's configuration, loaded."""
    limits = engine.limits
    config = uvicorn.Config(
        create_app(engine, settings),
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws=WebSockets,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
        root_path=settings.root_path,
        limit_concurrency=CONNECTIONS[0] + CONNECTIONS[1] * limits.sessions,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=HEAD_BYTES,
        ws_max_size=limits.message_bytes,
        ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S,
        ws_per_message_deflate=False,  # of sound it would save nothing, and cost what all others wait for
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
    )
    config.load()
    return config


def check_tls(settings: Settings) -> None:
    """Raises SpeechStreamError for a certificate and a key that cannot be used together."""
    if settings.certificate is None:
        return

    def password() -> str:  # without it OpenSSL would ask at the terminal, where nobody may be
        raise SpeechStreamError(
            f"{settings.private_key} has a passphrase, which this server cannot ask for; write the key without one, "
            "as openssl pkey does, into a file that only the server may read"
        )

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            settings.certificate, settings.private_key, password
        )
    except (ssl.SSLError, OSError) as error:
        raise SpeechStreamError(
            f"the certificate or its key cannot be used: {error}; TLS needs PEM files that belong together"
        ) from error


def run(
    engine: Engine,
    settings: Settings,
    sock: socket.socket,
    wyoming_sock: socket.socket | None = None,
    ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve until a signal, and return an exit code: 0, or 128 + the signal where somebody was cut off.

    sock, wyoming_sock: of `ports.listening`; without the second one Wyoming is not spoken. ready: called once
    connections are taken. Raises SpeechStreamError where it cannot begin.
    """
    server = Server(configure(engine, settings), engine)
    encoders.warm()

    async def serve() -> None:
        async with AsyncExitStack() as kept:
            task = asyncio.ensure_future(server.serve(sockets=[sock]))
            while not server.started and not task.done():
                await asyncio.sleep(POLL_S)
            if not task.done():
                if wyoming_sock is not None:
                    from speechstream.serve.wyoming.server import start

                    await kept.enter_async_context(start(engine, wyoming_sock))
                ready()
            await task

    try:
        asyncio.run(serve())
    finally:
        server.last.cancel()
    return 128 + server.ended if server.cut and server.ended is not None else 0


def log(as_json: bool, level: int) -> None:
    """Write the server's log to stderr, and nothing of the models' own: their warnings quote the text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Plain())
    served, whole = logging.getLogger("speechstream.serve"), logging.getLogger("speechstream")
    served.handlers, whole.handlers = [handler], [logging.NullHandler()]
    served.propagate = whole.propagate = False
    served.setLevel(level)
    logging.getLogger("uvicorn.error").handlers = [logging.NullHandler()]
    logging.getLogger("uvicorn.error").propagate = False
