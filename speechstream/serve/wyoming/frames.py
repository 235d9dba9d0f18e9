"""Wyoming's frames on a stream of bytes: a line of JSON, and as many bytes of JSON and of samples as it says.

The reader of the package `wyoming` takes lines of any length and payloads of any size; this one has limits.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

from wyoming.event import Event, write_event

from speechstream.errors import SpeechStreamError
from speechstream.serve import strict_json


class ProtocolError(SpeechStreamError):
    """A client sent what is no event, or none that can be done here."""


async def read_event(
    reader: asyncio.StreamReader, data_bytes: int, payload_bytes: int
) -> Event | None:
    """The next event; None: the client has gone.

    data_bytes: of its JSON at most (the reader's own limit bounds the header). Raises ProtocolError.
    """
    try:
        header = _object(await reader.readuntil(b"\n"), "header")
        kind, data = header.get("type"), header.get("data") or {}
        if not isinstance(kind, str) or not isinstance(data, dict):
            raise ProtocolError("an event is a JSON object with a 'type', and 'data' as an object")
        if length := _length(header, "data_length", data_bytes):
            data = data | _object(await reader.readexactly(length), "data")
        payload = None
        if length := _length(header, "payload_length", payload_bytes):
            payload = await reader.readexactly(length)
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise ProtocolError(
            f"an event's header is one line of JSON of at most {data_bytes} bytes, this one is longer"
        ) from None
    return Event(kind, data, payload)


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(text, constants=True)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ProtocolError(f"an event's {what} is a JSON object, and this one is not")
    return value


def _length(header: dict[str, Any], name: str, most: int) -> int:
    value = header.get(name)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= most:
        raise ProtocolError(
            f"{name} is {str(value)[:40]}, expected a whole number of bytes from 0 to {most}"
        )
    return value


def encoded(event: Event) -> bytes:
    """An event as it is sent."""
    out = io.BytesIO()
    write_event(event, out)
    return out.getvalue()
