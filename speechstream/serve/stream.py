"""The server's own protocol, `WS /v1/stream`: events as everywhere else, and connections that may drop.

A session belongs to a token, not to a connection: where the connection drops, it is kept for `limits.resume_s`, and
another connection goes on with it. What is said is numbered, and the last of it is kept to be said again; what is
heard is counted, so that the client knows from where to send again. No word is lost or doubled so.
docs/serve_stream.md has the protocol, message by message.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from speechstream.asr.endpoint import EndpointRules
from speechstream.config import read
from speechstream.events import (
    Audio,
    Endpoint,
    Event,
    Failed,
    Final,
    Partial,
    SpeechStarted,
    Word,
    to_json,
)
from speechstream.serve.engine import Engine, Stream
from speechstream.serve.guard import subprotocol
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
    feed,
    first,
    opened,
    parsed,
    within,
)
from speechstream.tts.stream import CHARACTERS_PER_S

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

UNKNOWN = 4004  # the code of a close: there is nothing to be resumed, start again
TAKEN_OVER = 4009  # another connection has resumed this session
KEPT_BYTES = 4 << 20  # that were sent and may be asked for again
UNSENT_BYTES = 256 << 10  # that wait to be sent, about; beyond it the models wait
ENTRY_BYTES = 200  # of an event, beside its text and sound
TAKEN_S = 0.5  # of sound: so often the client is told what was taken
TAKEN_CHARACTERS = 500  # or of text
LONGEST_BEFORE_S = 2.0
MOST_HOTWORDS = 200  # they are compiled while others wait
START_S = 10.0  # in which the first message must come
_log = logging.getLogger("speechstream.serve")
_SOUND = {"int16": "<i2", "float32": "<f4"}


@dataclass(frozen=True)
class Listen:
    """How a session hears. latency_ms: None is the model's own; endpointing: of `asr.endpoint.EndpointRules`, what differs."""

    sample_rate: int = 16_000
    encoding: str = "int16"
    channels: int = 1
    latency_ms: int | None = None
    endpointing: dict[str, float] = field(default_factory=dict)
    hotwords: dict[str, float] | tuple[str, ...] = ()


@dataclass(frozen=True)
class Speak:
    """How a session speaks. encoding: int16 or float32, little endian, mono."""

    voice: str | None = None
    speed: float = 1.0
    encoding: str = "int16"
    markup: bool = False

    def __post_init__(self) -> None:
        if self.encoding not in _SOUND:
            raise ValueError(
                f"speak.encoding is {self.encoding[:40]!r}, expected one of {', '.join(_SOUND)}"
            )


@dataclass(frozen=True)
class Start:
    """The first message of a session."""

    listen: Listen | None = None
    speak: Speak | None = None

    def __post_init__(self) -> None:
        if self.listen is None and self.speak is None:
            raise ValueError('start needs "listen" or "speak" or both, each an object')


@dataclass(frozen=True)
class Resume:
    """The first message of another connection. received: the number of the last event that came whole."""

    token: str
    received: int = 0


@dataclass(frozen=True)
class Entry:
    """One event to be said: JSON values, and the sound that follows it in a message of its own."""

    event: Mapping[str, Any]
    sound: bytes | None = None
    last: Ended | None = None  # the connection ends behind it

    @property
    def size(self) -> int:
        text = len(self.event.get("text", "")) + 100 * len(self.event.get("words", ()))
        return ENTRY_BYTES + text + len(self.sound or b"")


class Log:
    """What a session says, numbered from 1 in the order in which it is sent first; the last of it is kept."""

    def __init__(self, kept_bytes: int = KEPT_BYTES, unsent_bytes: int = UNSENT_BYTES):
        self._most, self._ahead = kept_bytes, unsent_bytes
        self._unsent: deque[Entry] = deque()
        self._sent: deque[Entry] = deque()  # the last of them
        self.last = 0  # the number of the last one sent
        self.unsent, self.kept = 0, 0  # bytes

    @property
    def full(self) -> bool:
        """Whether so much waits that no more should come."""
        return self.unsent > self._ahead

    @property
    def oldest(self) -> int:
        """The number of the first one that is kept."""
        return self.last - len(self._sent) + 1

    def put(self, entry: Entry) -> None:
        self._unsent.append(entry)
        self.unsent += entry.size

    def after(self, number: int) -> Entry | None:
        """The entry that follows the one of this number, and may so be sent for the first time; None: not yet."""
        if number < self.last:
            return self._sent[number + 1 - self.oldest]
        if not self._unsent:
            return None
        entry = self._unsent.popleft()
        self.unsent -= entry.size
        self._sent.append(entry)
        self.last += 1
        self.kept += entry.size
        while self.kept > self._most and len(self._sent) > 1:
            self._forget()
        return entry

    def received(self, number: int) -> None:
        """The client has all up to this number. Raises ValueError for one that was not sent."""
        if number > self.last:
            raise ValueError(f"event {number} was not sent yet, the last was {self.last}")
        while self._sent and self.oldest <= number:
            self._forget()

    def drop_sound(self) -> int:
        """Forget the sound that was not sent yet; returns its bytes."""
        dropped = [e for e in self._unsent if e.sound is not None]
        self._unsent = deque(e for e in self._unsent if e.sound is None)
        self.unsent -= sum(e.size for e in dropped)
        return sum(len(e.sound or b"") for e in dropped)

    def ends_with(self, kind: str) -> bool:
        """Whether the last event of those that wait is of this type."""
        return bool(self._unsent) and self._unsent[-1].event.get("type") == kind

    def _forget(self) -> None:
        self.kept -= self._sent.popleft().size


def moved(event: Event, seconds: float, characters: int = 0) -> Event:
    """An event of a stream that began so many seconds, and characters of text, after its session."""

    def at(time: float) -> float:
        return round(time + seconds, 3)

    def word(w: Word) -> Word:
        span = None if w.span is None else (w.span[0] + characters, w.span[1] + characters)
        return replace(w, start=at(w.start), end=at(w.end), span=span)

    if isinstance(event, (SpeechStarted, Endpoint)):
        return replace(event, time=at(event.time), decided=at(event.decided))
    if isinstance(event, Partial):
        return replace(event, time=at(event.time))
    if isinstance(event, Final):
        words = tuple(map(word, event.words))
        return replace(event, words=words, start=at(event.start), end=at(event.end))
    if isinstance(event, Audio):
        phonemes = tuple(replace(p, start=at(p.start), end=at(p.end)) for p in event.phonemes)
        words = tuple(map(word, event.words))
        return replace(event, words=words, start=at(event.start), phonemes=phonemes)
    return event


class Half:
    """One direction of a session: streams of the engine, one after the other, that look like one.

    What comes while a stream says its last words waits for the next one: text and commands in `later`, sound by not
    being read.
    """

    def __init__(self, name: str, opener: Callable[[], Stream]):
        self.name, self._opener = name, opener
        self.stream = opener()
        self.offset = 0.0  # seconds before this stream
        self.before, self.characters = 0, 0  # characters before this stream, and up to now
        self.settled = asyncio.Event()  # this stream takes more
        self.settled.set()
        self.later: deque[tuple[str, str]] = deque()
        self.asked = False  # the client has said that no more comes
        self.finishing = False  # the stream was told so
        self.over = False
        self.cuts = 0  # how often it was cancelled
        self.fresh = True  # this stream was given no text

    @property
    def waiting(self) -> float:
        """Characters that are still to be spoken, about."""
        text = sum(len(text) for kind, text in self.later)
        return self.stream.waiting_s * CHARACTERS_PER_S + text

    async def hear(self, block: np.ndarray) -> None:
        """Push sound, when there is room for it."""
        await self.settled.wait()
        await feed(self.stream, block)

    async def take(self, kind: str, text: str = "") -> None:
        """Take a "text", "flush" or "finish". Does not wait."""
        if kind == "finish":
            self.asked = True
        if not self.settled.is_set():
            # many flushes at once are one, so that what waits is bounded by the text
            if text or kind == "finish" or not self.later or self.later[-1][0] != "flush":
                self.later.append((kind, text))
        elif kind == "text":
            await feed(self.stream, text)
            self.characters += len(text)
            self.fresh = False
        else:
            self.finishing = kind == "finish"
            self.settled.clear()
            self.stream.finish()

    async def restart(self, offset: float, fresh: bool) -> None:
        """Go on with a new stream. fresh: forget what has come for it."""
        self.stream.close()
        self.stream, self.offset, self.before = self._opener(), offset, self.characters
        self.fresh = True
        self.settled.set()
        later, self.later = self.later, deque()
        for kind, text in [] if fresh else later:
            await self.take(kind, text)


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
        size = np.dtype(_SOUND[self.start.speak.encoding]).itemsize  # type: ignore[union-attr]
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
            if self._done:
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
            keep = end.code == UNKNOWN or self._done
            raise
        finally:
            self.owner = None
            if not owner.evicted:
                self._park() if keep and not self.engine.draining.is_set() else self.drop()
            owner.released.set()

    @property
    def _done(self) -> bool:
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
        """Wait for another connection for a while. As many may as may be connected; the oldest gives way."""
        sessions, limits = self.engine.resumable, self.engine.limits
        sessions[self.name] = sessions.pop(self.name)
        self.parked = True
        self._expiry = asyncio.get_running_loop().call_later(limits.resume_s, self.drop)
        parked = [s for s in sessions.values() if isinstance(s, Session) and s.parked]
        for session in parked[: max(len(parked) - limits.sessions, 0)]:
            session.drop()

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


def listening(engine: Engine, listen: Listen) -> Callable[[], Stream]:
    """What opens the streams that a session hears with. Raises ValueError for what cannot be."""
    recognizer = engine.recognizer
    rules = read(EndpointRules, asdict(recognizer.rules) | listen.endpointing, "listen.endpointing")
    longest = recognizer.rules.longest_s
    if rules.longest_s > longest or rules.before_s > LONGEST_BEFORE_S:
        raise ValueError(
            f"listen.endpointing: longest_s may be {longest:g} and before_s {LONGEST_BEFORE_S:g} s at most, "
            f"got {rules.longest_s:g} and {rules.before_s:g}"
        )
    if len(listen.hotwords) > MOST_HOTWORDS:
        raise ValueError(f"listen.hotwords may be {MOST_HOTWORDS}, got {len(listen.hotwords)}")
    latency = listen.latency_ms
    if latency is None and recognizer.latencies:
        latency = min(recognizer.latencies, key=lambda ms: abs(ms - 320))
    words = listen.hotwords or None
    return lambda: engine.listen(latency, listen.sample_rate, rules, words)


def encoded(pcm: np.ndarray, encoding: str) -> bytes:
    """Mono float32 samples as bytes."""
    if encoding == "float32":
        return pcm.astype("<f4").tobytes()
    return np.clip(np.rint(pcm * 32767.0), -32768, 32767).astype("<i2").tobytes()


def error(reason: str) -> dict[str, Any]:
    """An error message."""
    return {"type": "error", "message": reason}


def _number(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name!r} must be a whole number from 0, got {str(value)[:40]!r}")
    return value


async def stream(websocket: WebSocket, engine: Engine) -> None:
    """Serve one connection until it is closed."""
    async with opened(websocket, engine, error, subprotocol(websocket)) as socket:
        try:
            message = await within(START_S, socket.receive())
        except asyncio.TimeoutError:
            raise Ended(POLICY, f"no message came within {START_S:g} s") from None
        if isinstance(message, bytes):
            raise ValueError("the first message must be JSON of type start or resume, got bytes")
        asked = parsed(message)
        if asked.get("type") == "start":
            session = Session(engine, read(Start, asked, "start", besides=("type",)))
            engine.resumable[session.name] = session
            await session.run(socket, None)
        elif asked.get("type") == "resume":
            resume = read(Resume, asked, "resume", besides=("type",))
            await _found(engine, resume.token).run(socket, resume.received)
        else:
            kind = str(asked.get("type"))[:40]
            raise ValueError(f"the first message must be of type start or resume, got {kind!r}")


def _found(engine: Engine, token: str) -> Session:
    """The session of a token. Raises Ended, the same for what never was and what is over."""
    session = engine.resumable.get(token.partition(".")[0])
    if not isinstance(session, Session) or not session.is_token(token):
        raise Ended(UNKNOWN, "no session is kept for this token; start again")
    return session
