"""What a request brings and what goes back in pieces, with limits on bytes, parts and patience."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from speechstream.serve import strict_json
from speechstream.serve.engine import Limits
from speechstream.serve.problems import Problem, wrong
from speechstream.serve.sockets import within

T = TypeVar("T")

FIELDS = 1200  # of a form: a thousand keywords and the others
FIELD_BYTES = 64 << 10
SLOWEST = (
    500  # bytes a second of a body, below the thriftiest codec: a place is not held byte by byte
)
DRAIN_BYTES, DRAIN_S = (
    8 << 20,
    5.0,
)  # of a refused body: a client that still sends would not read why


def check_type(request: Request, expected: str, hint: str) -> None:
    """Raises a Problem for a body of another type."""
    got = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if got != expected:
        raise Problem(
            415, f"the body must be {expected}, got {got[:80] or 'no Content-Type'}; {hint}"
        )


def limited(request: Request, most: int, patience_s: float) -> Receive:
    """The request's `receive` with a limit on the bytes and on the wait for each piece.

    Raises a Problem: 413 at once where the header tells of too much, 408 where nothing comes, or on the whole next to
    nothing.
    """
    too_large = Problem(413, f"the body is larger than the {most} bytes that this server takes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and len(length) > 18 or int(length or 0) > most:
        raise too_large
    seen, waited = 0, 0.0

    async def receive() -> Message:
        nonlocal seen, waited
        began = time.monotonic()
        try:
            message = await within(patience_s, request.receive())
        except asyncio.TimeoutError:
            raise Problem(408, f"nothing of the body has come for {patience_s:g} seconds") from None
        seen += len(message.get("body", b""))
        waited += time.monotonic() - began
        if seen > most:
            raise too_large
        if waited > patience_s + seen / SLOWEST:
            raise Problem(408, f"the body comes at less than {SLOWEST} bytes a second")
        return message

    return receive


async def drain(request: Request) -> None:
    """Read on and throw away, for a moment."""
    if request.headers.get("expect", "").lower() == "100-continue":
        return  # it waits for our word before it sends

    async def read() -> None:
        seen, more = 0, True
        while more and seen < DRAIN_BYTES:
            message = await request.receive()
            seen += len(message.get("body", b""))
            more = message.get("more_body", False)

    try:
        await within(DRAIN_S, read())
    except asyncio.TimeoutError:
        pass


async def read_json(request: Request, most: int, limits: Limits) -> dict[str, Any]:
    """A JSON object. Raises a Problem."""
    check_type(request, "application/json", "send that Content-Type with it")
    data, receive = bytearray(), limited(request, most, limits.slow_s)
    async for piece in Request(request.scope, receive).stream():
        data += piece
    try:
        value = strict_json.loads(data)
    except ValueError as error:
        raise wrong(f"the body is not JSON: {error}"[:200]) from None
    if not isinstance(value, dict):
        raise wrong("the body must be a JSON object")
    return value


async def read_form(request: Request, limits: Limits) -> FormData:
    """A multipart form, its file on disk. Close it. Raises a Problem."""
    check_type(request, "multipart/form-data", "curl makes it with -F file=@talk.flac")
    receive = limited(request, limits.upload_bytes, limits.slow_s)
    try:
        return await Request(request.scope, receive).form(
            max_files=1, max_fields=FIELDS, max_part_size=FIELD_BYTES
        )
    except HTTPException as error:
        raise wrong(f"the form cannot be read: {error.detail}") from None


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work, and stop it when the client has gone: ClientDisconnect is raised then."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


class Streamed(StreamingResponse):
    """Pieces as they come. Where the client has gone, or does not read for `slow_s`, the work is stopped.

    kept: what is given back at the end, however it comes.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        media_type: str,
        slow_s: float,
        kept: AsyncExitStack,
    ):
        # a proxy that gathers the answer would undo the streaming
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(pieces, media_type=media_type, headers=headers)
        self._pieces, self._slow_s, self._kept = pieces, slow_s, kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def patient(message: Message) -> None:
            try:
                await within(self._slow_s, send(message))
            except asyncio.TimeoutError:
                abort = scope.get("state", {}).get("abort")
                if abort is not None:  # an orderly end would wait for this reader too
                    abort()
                raise ClientDisconnect from None

        async with self._kept:
            try:
                await super().__call__(scope, receive, patient)
            finally:
                await self._pieces.aclose()


def event(value: dict[str, Any], name: str | None = None) -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
