"""What goes between the listening process and its workers: a head in JSON and a body in bytes, each with its length.

    writer.writelines(pack({"do": "push", "id": 7, "count": 1, **about}, body))
    for head, body in frames.feed(data): ...

Nothing that is read is executed. Where the other side sends what it never would, a ValueError says so.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from speechstream.duplex.events import VoiceActivity
from speechstream.events import Audio, from_json, to_json

LENGTHS = struct.Struct("<II")  # of the head and of the body
MOST_HEAD = 4 << 20
MOST_BODY = 1 << 30
TYPES = ("<f4", "<i2", "<i4", "<f8")  # of samples

Json = dict[str, Any]


def pack(head: Json, *bodies: bytes) -> list[bytes]:
    """A message, in pieces."""
    said = json.dumps(head, separators=(",", ":"), allow_nan=False).encode()
    size = sum(map(len, bodies))
    if len(said) > MOST_HEAD or size > MOST_BODY:
        raise ValueError(f"a message of {len(said)} and {size} bytes is too long")
    return [LENGTHS.pack(len(said), size) + said, *bodies]


class Frames:
    """Messages from a stream of bytes that comes in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Json, bytes]]:
        """The messages that these bytes complete. Raises ValueError for what is none."""
        self._buffer += data
        while len(self._buffer) >= LENGTHS.size:
            head, body = LENGTHS.unpack_from(self._buffer)
            if not 0 < head <= MOST_HEAD or body > MOST_BODY:
                raise ValueError(f"a message of {head} and {body} bytes")
            at, end = LENGTHS.size + head, LENGTHS.size + head + body
            if len(self._buffer) < end:
                return
            said = json.loads(self._buffer[LENGTHS.size : at])
            if not isinstance(said, dict):
                raise ValueError(f"a message that is {type(said).__name__}")
            rest = bytes(memoryview(self._buffer)[at:end])
            del self._buffer[:end]
            yield said, rest


def field(head: Json, name: str, *kinds: type) -> Any:
    """A field of a message. Raises ValueError where it is not there, or not of these types exactly."""
    value = head.get(name)
    if type(value) not in kinds:
        raise ValueError(f"{name} is {str(value)[:40]!r}")
    return value


def apart(sizes: Sequence[int], body: bytes) -> list[bytes]:
    """A body of several pieces as those."""
    ends = np.cumsum([0, *sizes])
    return [body[a:b] for a, b in zip(ends, ends[1:])]


def pack_input(x: np.ndarray | str) -> tuple[Json, bytes]:
    """A block of samples, or text, as fields of a head and a body."""
    if isinstance(x, str):
        return {"text": x}, b""
    a = np.ascontiguousarray(x)
    a = a.astype(a.dtype.newbyteorder("<"), copy=False)
    if a.dtype.str not in TYPES:
        a = a.astype("<f4")
    return {"dtype": a.dtype.str, "shape": list(a.shape)}, a.tobytes()


def unpack_input(head: Json, body: bytes) -> np.ndarray | str:
    """What `pack_input` was given. Raises ValueError."""
    if "text" in head:
        return str(field(head, "text", str))
    if head.get("dtype") not in TYPES:
        raise ValueError(f"samples are {str(head.get('dtype'))[:40]!r}")
    samples: np.ndarray = np.frombuffer(body, head["dtype"]).reshape(field(head, "shape", list))
    return samples


def pack_events(events: Sequence[Any]) -> tuple[list[Json], bytes]:
    """Events as JSON values, and their sound."""
    said, sound = [], []
    for event in events:
        if isinstance(event, VoiceActivity):
            said.append({"type": "voice_activity", **vars(event)})
        elif isinstance(event, Audio):
            sound.append(np.ascontiguousarray(event.pcm, "<f4").tobytes())
            said.append(to_json(replace(event, pcm=event.pcm[:0])) | {"samples": len(event.pcm)})
        else:
            said.append(to_json(event))
    return said, b"".join(sound)


def unpack_events(said: Any, sound: bytes) -> list[Any]:
    """What `pack_events` was given. Raises ValueError."""
    if not isinstance(said, list):
        raise ValueError("events are no list")
    events: list[Any] = []
    at = 0
    for value in said:
        if not isinstance(value, dict):
            raise ValueError("an event is no object")
        if value.get("type") == "voice_activity":
            events.append(_activity(value))
            continue
        event = from_json(value)
        if isinstance(event, Audio):
            end = at + 4 * field(value, "samples", int)
            if not at <= end <= len(sound):
                raise ValueError("an event has more sound than came with it")
            pcm = np.frombuffer(sound[at:end], "<f4").astype(np.float32)
            if not np.isfinite(pcm).all():
                raise ValueError("an event's sound is not finite")
            event, at = replace(event, pcm=pcm), end
        events.append(event)
    if at != len(sound):
        raise ValueError("there is sound that belongs to no event")
    return events


def _activity(value: Json) -> VoiceActivity:
    speech, now, duration = (
        float(field(value, n, float, int)) for n in ("speech", "now", "duration")
    )
    end = field(value, "end_of_turn", float, int, type(None))
    return VoiceActivity(speech, now, duration, end)
