"""The outermost layers: each request gets a number, a line in the log and a place in the metrics; then the guard.

A line has the time, the route, the status, seconds and bytes: no query, no name of a file, no message, for these may
hold somebody's words or keys.
"""

from __future__ import annotations

import json
import logging
import time
import traceback
import uuid
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from speechstream.serve.bodies import drain
from speechstream.serve.guard import Guard, subprotocol
from speechstream.serve.metrics import Metrics
from speechstream.serve.problems import Problem

GONE = 499  # nginx's word for a client that did not wait
UNAUTHORIZED, FORBIDDEN = 3000, 3003  # close codes registered at IANA for them
_log = logging.getLogger("speechstream.serve")


class Door:
    """Numbers, log lines, metrics; and an error that was not foreseen becomes a 500 without details."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]):
        self.app, self.metrics, self.paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        began, number = time.perf_counter(), uuid.uuid4().hex
        status, size = 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            elif message["type"] == "websocket.accept":
                status = 101
            elif message["type"] == "websocket.close":
                status = message.get("code", 1000) if status == 101 else 403
            size += sum(len(message.get(part) or b"") for part in ("body", "bytes", "text"))
            await send(message)

        try:
            await self.app(scope, receive, counted)
        except ClientDisconnect:
            status = GONE
        except Exception as error:
            _log.error(
                "%s in request %s:\n%s",
                type(error).__name__,
                number,
                "".join(traceback.format_tb(error.__traceback__)),
            )
            if not status and scope["type"] == "http":
                problem = Problem(500, f"the server has failed; its log has more under {number}")
                await problem.response()(scope, receive, counted)
            status = status if status >= 400 else 500
        path = self.route(scope)
        seconds = time.perf_counter() - began
        self.metrics.request(path, status, seconds)
        _log.info(
            "request",
            extra={
                "fields": {
                    "request": number,
                    "method": scope.get("method", "WS"),
                    "path": path,
                    "status": status,
                    "seconds": round(seconds, 4),
                    "bytes": size,
                }
            },
        )

    def route(self, scope: Scope) -> str:
        """The path if it is a route of ours, and never what somebody made up."""
        path = scope["path"]
        if path in self.paths:
            return str(path)
        return "/v1/models/{id}" if path.startswith("/v1/models/") else "other"


class Guarded:
    """Nobody passes whom the guard does not let. open: paths that need no key."""

    def __init__(self, app: ASGIApp, guard: Guard, open: Collection[str]):
        self.app, self.guard, self.open = app, guard, frozenset(open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            try:
                if scope["type"] == "websocket" or scope["path"] not in self.open:
                    self.guard.check(HTTPConnection(scope))
            except Problem as problem:
                await refuse(problem, scope, receive, send)
                return
        await self.app(scope, receive, send)


async def refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error. A web page cannot read the answer to a handshake, so its WebSocket is closed with the
    reason instead; other clients get the status."""
    if scope["type"] == "http":
        request = Request(scope, receive)
        if _has_body(request.headers):
            await drain(request)
        await problem.response()(scope, receive, send)
        return
    websocket = WebSocket(scope, receive, send)
    await websocket.receive()  # the handshake
    if problem.status == 401 and "origin" in websocket.headers:
        await websocket.accept(subprotocol(websocket))
        await websocket.close(UNAUTHORIZED, problem.message[:120])
    else:
        await websocket.send_denial_response(problem.response())


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        value = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        } | getattr(record, "fields", {})
        return json.dumps(value, ensure_ascii=False)


class Plain(logging.Formatter):
    """A log record as a line to read."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        said = " ".join(f"{k}={v}" for k, v in fields.items())
        return f"{self.formatTime(record, '%H:%M:%S')} {record.getMessage()} {said}".rstrip()
