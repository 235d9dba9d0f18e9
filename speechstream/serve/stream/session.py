"""What a token stands for: both directions of a session, what they said, and who is connected."""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from speechstream.events import Audio, Event, Failed, to_json
from speechstream.serve.engine import Engine
from speechstream.serve.sockets import (
    BROKEN,
    NORMAL,
    POLICY,
    RESTART,
    Draining,
    Ended,
    Gone,
    Slow,
    Socket,
    Sound,
    first,
    parsed,
)
from speechstream.serve.stream.half import Half, listening, moved
from speechstream.serve.stream.log import Entry, Log
from speechstream.serve.stream.messages import SOUND, Start

UNKNOWN = 4004  # the code of a close: there is nothing to be resumed, start again
TAKEN_OVER = 4009  # another connection has resumed this session
TAKEN_S = 0.5  # of sound: so often the client is told what was taken
TAKEN_CHARACTERS = 500  # or of text
_log = logging.getLogger("speechstream.serve")


class Session:
    """What a token stands for: both directions, what they said, and who is connected."""

    def __init__(self, engine: Engine, start: Start):
        self.engine, self.start = engine, start
        self.name, self._secret = secrets.token_urlsafe(9), secrets.token_urlsafe(24)
        self.log = Log()
        self.changed, self.room = asyncio.Event(), asyncio.Event()
        self.samples, self.characters, self.commands = 0, 0, 0  # taken
        self.told = self._taken()
        self.spoken = 0  # samples that were said
        self.owner: Owner | None = None
        self.draining = False
        self._expiry: asyncio.TimerHandle | None = None
        self.dropped = False
        self.parked = False  # nobody is connected
        self.halves: dict[str, Half] = {}
        self.sound: Sound | None = None
        self._pumps: list[asyncio.Future[None]] = []
        try:
            self._open()
        except BaseException:
            self.drop()
            raise
        self._pumps += [asyncio.ensure_future(self._pump(half)) for half in self.halves.values()]

    def _open(self) -> None:
        if (listen := self.start.listen) is not None:
            self.sound = Sound(
                listen.encoding, listen.sample_rate, listen.channels, self.engine.limits
            )
            opener = listening(self.engine, listen)
            self.halves["listen"] = Half("listen", opener)
        if (speak := self.start.speak) is not None:
            self.halves["speak"] = Half(
                "speak", lambda: self.engine.speak(speak.voice, speak.speed, speak.markup)
            )

    @property
    def token(self) -> str:
        return f"{self.name}.{self._secret}"

    def is_token(self, token: str) -> bool:
        """Compared in constant time."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def half(self, name: str) -> Half:
        """Raises ValueError where the session does not do that."""
        if name not in ("listen", "speak"):
            raise ValueError(f'"of" must be "listen" or "speak", got {name[:40]!r}')
        if name not in self.halves:
            raise ValueError(
                f'this session does not {name[:40]}: it was started without "{name[:40]}"'
            )
        half = self.halves[name]
        if half.asked:
            raise ValueError(f"no more may come after finish, of {name}")
        return half

    # What the client sends.

    async def hear(self, data: bytes) -> None:
        """A message of sound. Its samples count as taken one block after the other."""
        half = self.half("listen")
        assert self.sound is not None
        for block in self.sound.blocks(data):
            await half.hear(block)
            self.samples += len(block)
            if self._much_taken():
                self.changed.set()

    async def obey(self, message: Mapping[str, Any]) -> None:
        """A JSON message. Raises ValueError for what is wrong."""
        kind = message.get("type")
        if kind == "text":
            await self._say(message)
        elif kind == "received":
            self.log.received(_number(message, "seq"))
        elif kind in ("flush", "finish", "cancel"):
            for half in self._meant(kind, message):
                await (self._cancel(half) if kind == "cancel" else half.take(kind))
            self.commands += 1
        else:
            raise ValueError(
                f"a message of type {str(kind)[:40]!r} is not known; expected text, flush, finish, cancel or received"
            )

    async def _say(self, message: Mapping[str, Any]) -> None:
        half, text, most = self.half("speak"), message.get("text"), self.engine.limits.characters
        if not isinstance(text, str):
            raise ValueError(f'a text message needs "text", got {str(text)[:40]!r}')
        if not text:
            return
        if half.waiting + len(text) > most:
            raise Ended(POLICY, f"more than {most} characters wait to be spoken")
        await half.take("text", text)
        self.characters += len(text)
        if self._much_taken():
            self.changed.set()

    def _meant(self, kind: str, message: Mapping[str, Any]) -> list[Half]:
        """The directions that a command is for: the one it names, or all that it can be for."""
        name = message.get("of")
        if kind == "cancel":  # also after finish
            if "speak" not in self.halves:
                self.half("speak")
            return [self.halves["speak"]]
        if name is not None:
            return [self.half(str(name))]
        return [half for half in self.halves.values() if not half.asked]

    async def _cancel(self, half: Half) -> None:
        """Say no more of what was to be said."""
        size = np.dtype(SOUND[self.start.speak.encoding]).itemsize  # type: ignore[union-attr]
        self.spoken -= self.log.drop_sound() // size
        self.room.set()
        if not self.log.ends_with("cancelled"):
            self._put(Entry({"type": "cancelled"}))
        if half.over or (half.fresh and half.settled.is_set()):
            return
        half.cuts += 1
        if half.asked:  # nothing comes behind it
            half.finishing = True
            half.stream.close()
            half.later.clear()
        else:
            await half.restart(self._seconds(half), fresh=True)

    # What the engine says.

    async def _pump(self, half: Half) -> None:
        try:
            while not half.over:
                await self._take_events(half)
        except Exception:  # ours
            _log.exception("a session has failed")
            reason = "the server has failed; this is a fault of its own"
            self._put(self._entry(half, Failed(reason)))

    async def _take_events(self, half: Half) -> None:
        """All that one stream says."""
        stream, cuts = half.stream, half.cuts
        async for event in stream:
            while self.log.full and cuts == half.cuts:
                self.room.clear()
                await self.room.wait()
            if cuts != half.cuts:
                break
            self._put(self._entry(half, event))
            if isinstance(event, Failed):
                half.over = True
                return
        if stream is not half.stream:
            return
        if half.finishing:
            half.over = True
            if self.done:
                code = RESTART if self.draining else NORMAL
                self._put(Entry({"type": "done"}, last=Ended(code, "", told=False)))
            return
        self._put(Entry({"type": "flushed", "of": half.name}))
        await half.restart(self._seconds(half), fresh=False)

    def _seconds(self, half: Half) -> float:
        """How long the session has been heard, or spoken."""
        if half.name == "listen":
            assert self.sound is not None
            return self.samples / self.sound.sample_rate
        return self.spoken / self.engine.synthesizer.sample_rate

    def _entry(self, half: Half, event: Event) -> Entry:
        if isinstance(event, Failed):
            end = Ended(BROKEN, event.message, told=False)
            return Entry({**to_json(event), "of": half.name}, last=end)
        event = moved(event, half.offset, half.before)
        if not isinstance(event, Audio):
            return Entry(to_json(event))
        self.spoken += len(event.pcm)
        fields = to_json(replace(event, pcm=event.pcm[:0])) | {"samples": len(event.pcm)}
        del fields["pcm"]
        return Entry(fields, encoded(event.pcm, self.start.speak.encoding))  # type: ignore[union-attr]

    def _put(self, entry: Entry) -> None:
        self.log.put(entry)
        self.changed.set()

    # Who is connected.

    async def run(self, socket: Socket, received: int | None) -> None:
        """Serve one connection, in place of the one that may be there; then the session is kept or dropped.

        received: the number of the last event that its client has; None: this is the first connection.
        """
        while self.owner is not None:
            await self.owner.evict()
        if self.dropped:
            raise Ended(UNKNOWN, "no session is kept for this token; start again")
        if self._expiry is not None:
            self._expiry.cancel()
        self.parked = False
        owner = self.owner = Owner()
        keep = False
        try:
            await self._greet(socket, received)
            await first(
                self._write(socket, received or 0), self._read(socket), owner.until_evicted()
            )
        except (Gone, Slow) as end:
            keep = end.code != NORMAL
            raise
        except Ended as end:
            # what was said last may not have arrived
            keep = end.code == UNKNOWN or self.done
            raise
        finally:
            self.owner = None
            if not owner.evicted:
                self._park() if keep and not self.engine.draining.is_set() else self.drop()
            owner.released.set()

    @property
    def done(self) -> bool:
        """Whether all was said."""
        return all(half.over for half in self.halves.values())

    async def _greet(self, socket: Socket, received: int | None) -> None:
        log, limits = self.log, self.engine.limits
        if received is not None and not log.oldest - 1 <= received <= log.last:
            raise Ended(
                UNKNOWN,
                f"of this session events {log.oldest} to {log.last} are kept, it cannot go on behind {received}; "
                "start again",
            )
        self.told = self._taken()
        about: dict[str, Any] = {"token": self.token, "resume_s": limits.resume_s, **self.told}
        if self.sound is not None:
            self.sound.restart(self.samples)
        if self.start.speak is not None:
            rate = self.engine.synthesizer.sample_rate
            about["speak"] = {"sample_rate": rate, "encoding": self.start.speak.encoding}
        await socket.send({"type": "started" if received is None else "resumed", **about})

    def _taken(self) -> dict[str, int]:
        return {
            "samples": self.samples,
            "characters": self.characters,
            "commands": self.commands,
        }

    async def _read(self, socket: Socket) -> None:
        while True:
            try:
                message = await socket.receive()
            except Draining:
                self.draining = True
                for half in self.halves.values():
                    if not half.asked:
                        await half.take("finish")
                continue
            if self.draining:
                continue
            if isinstance(message, bytes):
                await self.hear(message)
            else:
                await self.obey(parsed(message))

    async def _write(self, socket: Socket, number: int) -> None:
        while True:
            await self._tell_taken(socket)
            entry = self.log.after(number)
            if entry is None:
                if self.log.end is not None:  # the client had all when it came back
                    raise self.log.end
                self.changed.clear()
                await self.changed.wait()
                continue
            self.room.set()
            number += 1
            await socket.send({**entry.event, "seq": number})
            if entry.sound is not None:
                await socket.send(entry.sound)
            if entry.last is not None:
                raise entry.last

    async def _tell_taken(self, socket: Socket) -> None:
        if self._much_taken():
            self.told = self._taken()
            await socket.send({"type": "taken", **self.told})

    def _much_taken(self) -> bool:
        """Whether the client should be told: it keeps what was not taken."""
        rate = self.sound.sample_rate if self.sound is not None else 1
        return (
            self.samples - self.told["samples"] >= TAKEN_S * rate
            or self.characters - self.told["characters"] >= TAKEN_CHARACTERS
        )

    def _park(self) -> None:
        """Wait for another connection for a while. As many may as may be connected; those that have said all give way
        first, then the oldest."""
        sessions, limits = self.engine.resumable, self.engine.limits
        sessions[self.name] = sessions.pop(self.name)
        self.parked = True
        self._expiry = asyncio.get_running_loop().call_later(limits.resume_s, self.drop)
        parked = [s for s in sessions.values() if isinstance(s, Session) and s.parked]
        parked.sort(key=lambda s: not s.done)
        for session in parked[: max(len(parked) - limits.sessions, 0)]:
            session.drop()

    def forget(self) -> None:
        """Drop the session where nobody is connected: its client has all of it."""
        if self.parked:
            self.drop()

    def drop(self) -> None:
        """The session is over; nobody can resume it. May be called again."""
        if self._expiry is not None:
            self._expiry.cancel()
        self.dropped = True
        for half in self.halves.values():
            half.stream.close()
        for pump in self._pumps:
            pump.cancel()
        self.engine.resumable.pop(self.name, None)


class Owner:
    """One connection's hold on its session."""

    def __init__(self) -> None:
        self._evicted, self.released = asyncio.Event(), asyncio.Event()

    @property
    def evicted(self) -> bool:
        """Whether another connection waits for it to let go."""
        return self._evicted.is_set()

    async def evict(self) -> None:
        """Have it let go, and wait until it has."""
        self._evicted.set()
        await self.released.wait()

    async def until_evicted(self) -> None:
        await self._evicted.wait()
        raise Ended(TAKEN_OVER, "another connection has taken over this session", told=False)


def encoded(pcm: np.ndarray, encoding: str) -> bytes:
    """Mono float32 samples as bytes."""
    if encoding == "float32":
        return pcm.astype("<f4").tobytes()
    return np.clip(np.rint(pcm * 32767.0), -32768, 32767).astype("<i2").tobytes()


def _number(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name!r} must be a whole number from 0, got {str(value)[:40]!r}")
    return value
