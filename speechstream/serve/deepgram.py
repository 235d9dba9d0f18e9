"""Deepgram's live protocol, `WS /v1/listen`, for the clients that speak it already.

`Listening` is the protocol without a socket: the client's messages and the recogniser's events go in, Deepgram's
messages come out. `listen` joins it with a WebSocket and an engine. See https://developers.deepgram.com/reference.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from speechstream.asr.biasing import MAX_WEIGHT
from speechstream.asr.recognizer import Recognizer
from speechstream.audio.recording import check_rate
from speechstream.audio.samples import MAX_CHANNELS
from speechstream.errors import SpeechStreamError
from speechstream.events import Endpoint, Event, Failed, Final, Partial, SpeechStarted, Word
from speechstream.serve.engine import Engine, Refused, Stream
from speechstream.serve.media import RATE, Media, is_available
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

ENCODINGS = {"linear16": "int16", "linear32": "int32", "mulaw": "mulaw", "alaw": "alaw"}
CONTAINERS = ("ogg-opus", "flac")  # or no encoding: what the first bytes tell
LATENCY_MS = 320  # where the client names none, the latency nearest to it
SHORTEST_ENDPOINT_MS = 100  # a shorter silence lies within words
SHORTEST_GAP_MS = 1000  # of utterance_end_ms, Deepgram's own
MOST_HOTWORDS = 200
REFUSED = {  # what would change what a client gets, and is not there
    "callback": "results come over this connection",
    "detect_entities": "entities are not found",
    "diarize": "speakers are not told apart",
    "diarize_model": "speakers are not told apart",
    "redact": "nothing is redacted",
    "replace": "nothing is replaced",
    "search": "nothing is searched for",
}
WITHOUT_EFFECT = ("profanity_filter", "numerals", "dictation", "filler_words", "measurements")
IGNORED = (  # they say nothing about what is heard
    "callback_method extra mip_opt_out no_delay tag tier version language_hint detect_language"
).split()
_OFF = ("", "false", "0", "none")


@dataclass(frozen=True)
class Options:
    """What a connection asks for, from its query."""

    dtype: str | None = "int16"  # None: in a container
    sample_rate: int = 16_000
    channels: int = 1
    latency_ms: int = LATENCY_MS
    interim_results: bool = False
    silence_s: float | None = None  # None: the recogniser's own rule
    speech_final: bool = True
    gap_s: float | None = None  # of an UtteranceEnd
    vad_events: bool = False
    punctuate: bool = False
    hotwords: tuple[tuple[str, float], ...] = ()
    warnings: tuple[Mapping[str, str], ...] = ()


class Command(Enum):
    """What a message asks the engine for."""

    CONFIGURE = "Configure"
    FINALIZE = "Finalize"
    CLOSE = "CloseStream"


def read_options(query: Iterable[tuple[str, str]], languages: Sequence[str] = ("en",)) -> Options:
    """A connection's query; languages: those of the model. Raises ValueError for what is wrong or cannot be done."""
    pairs = list(query)
    given = dict(pairs)
    _refuse(given, languages)
    warnings: list[Mapping[str, str]] = [
        _warning(name, "it has no effect here")
        for name in WITHOUT_EFFECT
        if given.get(name, "").lower() not in _OFF
    ]
    known = {*_READ, *REFUSED, *WITHOUT_EFFECT, *IGNORED}
    warnings += [_warning(name, "it is not known here") for name in given if name not in known]
    hotwords, weak = _hotwords(pairs)
    warnings += weak
    silence_s, speech_final, short = _endpointing(given.get("endpointing", "true"))
    warnings += short
    return Options(
        _dtype(given),
        check_rate(_whole(given, "sample_rate", 16_000, 1)),
        _channels(given),
        _whole(given, "latency_ms", LATENCY_MS, 1),
        _flag(given, "interim_results"),
        silence_s,
        speech_final,
        _gap(given),
        _flag(given, "vad_events"),
        _flag(given, "punctuate") or _flag(given, "smart_format"),
        hotwords,
        tuple(warnings[:32]),
    )


_READ = (
    "channels encoding endpointing interim_results keyterm keywords language latency_ms model multichannel punctuate "
    "sample_rate smart_format utterance_end_ms vad_events"
).split()


def _refuse(given: Mapping[str, str], languages: Sequence[str]) -> None:
    for name, why in REFUSED.items():
        if given.get(name, "").lower() not in _OFF:
            raise ValueError(f"{name}={given[name][:40]} cannot be done here: {why}")
    language = given.get("language", "multi").lower()
    if language.split("-")[0] not in ("multi", *languages):
        raise ValueError(
            f"language={language[:40]} is not heard by this model; expected {', '.join(languages)[:80]}"
        )


def _warning(name: str, message: str) -> Mapping[str, str]:
    return {"parameter": name[:80], "type": "unsupported", "message": message}


def _dtype(given: Mapping[str, str]) -> str | None:
    """The type of samples; None: the sound comes in a container that says it."""
    encoding = given.get("encoding", "").lower()
    if encoding in ("", *CONTAINERS):
        if not is_available():
            raise ValueError(
                "sound in a container needs PyAV on the server, pip install speechstream[media]; "
                f"without it encoding must be one of {', '.join(ENCODINGS)}, with a sample_rate"
            )
        return None
    if encoding not in ENCODINGS:
        known = ", ".join((*ENCODINGS, *CONTAINERS))
        raise ValueError(f"encoding={encoding[:40]} is not supported; expected one of {known}")
    if "sample_rate" not in given:
        raise ValueError(f"encoding={encoding} needs a sample_rate, in Hz")
    return ENCODINGS[encoding]


def _channels(given: Mapping[str, str]) -> int:
    channels = _whole(given, "channels", 1, 1)
    if channels > MAX_CHANNELS:
        raise ValueError(f"channels={channels} are too many, expected at most {MAX_CHANNELS}")
    if channels > 1 and _flag(given, "multichannel"):
        raise ValueError(
            "multichannel=true cannot be done here: the channels are heard as one; open a connection for each"
        )
    return channels


def _flag(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name, "false").lower()
    if value not in ("true", "false", "1", "0"):
        raise ValueError(f"{name}={value[:40]} is not supported, expected true or false")
    return value in ("true", "1")


def _whole(given: Mapping[str, str], name: str, default: int, least: int) -> int:
    value = given.get(name)
    if value is None:
        return default
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) >= least):
        raise ValueError(f"{name}={value[:40]} is no whole number from {least}")
    return int(value)


def _endpointing(value: str) -> tuple[float | None, bool, list[Mapping[str, str]]]:
    """Seconds of silence that end an utterance, whether its end is told, and warnings."""
    if value.lower() in ("true", "false"):
        return None, value.lower() == "true", []
    ms = _whole({"endpointing": value}, "endpointing", 0, 0)
    if ms >= SHORTEST_ENDPOINT_MS:
        return ms / 1000, True, []
    warning = _warning("endpointing", f"{SHORTEST_ENDPOINT_MS} ms are the shortest here")
    return SHORTEST_ENDPOINT_MS / 1000, True, [warning]


def _gap(given: Mapping[str, str]) -> float | None:
    if given.get("utterance_end_ms", "").lower() in ("", "false"):
        return None
    ms = _whole(given, "utterance_end_ms", 0, SHORTEST_GAP_MS)
    if not _flag(given, "interim_results"):
        raise ValueError("utterance_end_ms needs interim_results=true")
    return ms / 1000


def _hotwords(
    pairs: list[tuple[str, str]],
) -> tuple[tuple[tuple[str, float], ...], list[Mapping[str, str]]]:
    """keyterm and keywords, the latter with an intensifier behind a colon, and warnings."""
    found, warnings = {value: 1.0 for name, value in pairs if name == "keyterm"}, []
    for name, value in pairs:
        if name != "keywords":
            continue
        word, colon, number = value.rpartition(":")
        if not colon:
            word, number = value, "1"
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if math.isnan(weight):
            raise ValueError(f"keywords={value[:40]}: {number[:40]!r} is no number")
        if weight <= 0:
            warnings.append(_warning("keywords", "words cannot be made less likely here"))
        else:
            found[word] = min(weight, MAX_WEIGHT)
    if len(found) > MOST_HOTWORDS:
        raise ValueError(
            f"{len(found)} keyterms and keywords are too many, expected {MOST_HOTWORDS}"
        )
    return tuple(found.items()), warnings


@dataclass
class Listening:
    """The protocol of one connection. Times of events are seconds from the last `opened`."""

    options: Options
    request_id: str
    created: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    offset: float = 0.0  # seconds heard by the streams before this one
    finalizing: bool = False
    _since: float = 0.0  # where the stretch begins that was not said finally
    _speaking: float | None = None  # since when somebody speaks
    _words: bool = False  # an interim result showed words behind the last final one
    _last: float | None = None  # where the last word ended, until that was told
    _held: dict[str, Any] | None = None  # the last final result of a Finalize

    def command(self, message: Mapping[str, Any]) -> Command | None:
        """What a JSON message asks for. Raises ValueError for one that is not known."""
        kind = message.get("type")
        if kind == "KeepAlive":
            return None
        try:
            return Command(kind)
        except ValueError:
            raise ValueError(
                f"a message of type {str(kind)[:40]!r} is not known; expected KeepAlive, Finalize or CloseStream"
            ) from None

    def events(self, batch: list[Event]) -> list[dict[str, Any]]:
        """What the recogniser said at one moment. Raises Ended where it has failed."""
        out: list[dict[str, Any]] = []
        for n, event in enumerate(batch):
            ended = n + 1 < len(batch) and isinstance(batch[n + 1], Endpoint)
            if isinstance(event, SpeechStarted):
                out += self.heard(self._at(event.time))  # nobody spoke before
                out += self._started(event)
            elif isinstance(event, Partial):
                out += self._partial(event)
            elif isinstance(event, Final):
                out += self._final(event, ended)
            elif isinstance(event, Endpoint):
                out += self._endpoint(event, n > 0 and isinstance(batch[n - 1], Final))
            elif isinstance(event, Failed):
                raise Ended(BROKEN, event.message)
        return out

    def heard(self, seconds: float) -> list[dict[str, Any]]:
        """So much of the connection's sound has been judged, and all its events were given: is an utterance over?"""
        gap, last = self.options.gap_s, self._last
        if gap is None or last is None or self._words or seconds < last + gap:
            return []
        if self._speaking is not None and self._speaking < last + gap:
            return []  # words may come
        self._last = None
        return [{"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": last}]

    def settled(self, seconds: float) -> list[dict[str, Any]]:
        """The stream has ended after so much of the connection's sound; another one begins, or the end."""
        out = []
        if self.finalizing:
            held = self._held or self._result(self._since, max(seconds, self._since), [], True)
            out.append({**held, "from_finalize": True})
        self.finalizing, self._held = False, None
        self._speaking, self._words, self.offset = None, False, seconds
        self._since = seconds
        return out + self.heard(seconds)

    def unconfigured(self) -> dict[str, Any]:
        """The answer to Configure."""
        return {
            "type": "ConfigureFailure",
            "request_id": self.request_id,
            "code": "CONFIGURE_KEYTERMS_NOT_SUPPORTED",
            "description": "a stream keeps what its query has said; connect again with other keyterms",
        }

    def metadata(self, seconds: float, sha256: str) -> dict[str, Any]:
        """The last message."""
        model = self._model()
        found = {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self.request_id,
            "sha256": sha256,
            "created": self.created,
            "duration": round(seconds, 3),
            "channels": self.options.channels,
            "models": [model["uuid"]],
            "model_info": {model["uuid"]: model["info"]},
        }
        return found | ({"warnings": list(self.options.warnings)} if self.options.warnings else {})

    def _started(self, event: SpeechStarted) -> list[dict[str, Any]]:
        self._speaking = self._since = self._at(event.time)
        if not self.options.vad_events:
            return []
        return [{"type": "SpeechStarted", "channel": [0, 1], "timestamp": self._since}]

    def _partial(self, event: Partial) -> list[dict[str, Any]]:
        self._words = True
        if not self.options.interim_results:
            return []
        text = event.text if self.options.punctuate else bare(event.text)
        return [self._result(self._since, self._at(event.time), [], False, text=text)]

    def _final(self, event: Final, ended: bool) -> list[dict[str, Any]]:
        words = [replace(w, start=self._at(w.start), end=self._at(w.end)) for w in event.words]
        self._words = False
        end = self._at(event.end)
        self._last = words[-1].end if words else end
        text = event.text if self.options.punctuate else bare(event.text)
        told = ended and self.options.speech_final
        result = self._result(self._at(event.start), end, words, True, told, text)
        self._since = end
        if not self.finalizing:
            return [result]
        before, self._held = self._held, result
        return [before] if before else []

    def _endpoint(self, event: Endpoint, said: bool) -> list[dict[str, Any]]:
        start, self._speaking, self._words = self._since, None, False
        self._since = self._at(event.time)
        if said or not self.options.speech_final:
            return []
        return [self._result(min(start, self._since), self._since, [], True, True)]

    def _at(self, seconds: float) -> float:
        return round(seconds + self.offset, 3)

    def _result(
        self,
        start: float,
        end: float,
        words: list[Word],
        final: bool,
        speech_final: bool = False,
        text: str = "",
    ) -> dict[str, Any]:
        sure = [w.confidence or 0.0 for w in words]
        alternative = {
            "transcript": text,
            "confidence": round(sum(sure) / len(sure), 3) if sure else 0.0,
            "words": [one for w in words if (one := self._word(w))],
        }
        model = self._model()
        return {
            "type": "Results",
            "channel_index": [0, 1],
            "duration": round(end - start, 3),
            "start": start,
            "is_final": final,
            "speech_final": speech_final,
            "from_finalize": False,
            "channel": {"alternatives": [alternative]},
            "metadata": {
                "request_id": self.request_id,
                "model_info": model["info"],
                "model_uuid": model["uuid"],
            },
        }

    def _word(self, word: Word) -> dict[str, Any] | None:
        plain = bare(word.text)
        if not plain:
            return None
        found = {
            "word": plain,
            "start": word.start,
            "end": word.end,
            "confidence": word.confidence or 0.0,
        }
        return found | ({"punctuated_word": word.text} if self.options.punctuate else {})

    def _model(self) -> dict[str, Any]:
        name = str(self.card.get("name", "speechstream"))
        info = {"name": name, "version": str(self.card.get("version", "1")), "arch": "speechstream"}
        return {"uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, name)), "info": info}


def bare(text: str) -> str:
    """A text as Deepgram writes it without `punctuate`: small letters, and no punctuation around words."""
    words = []
    for word in text.lower().split():
        kept = [i for i, c in enumerate(word) if c.isalnum() or c in "%$€£°&+"]
        if kept:
            words.append(word[kept[0] : kept[-1] + 1])
    return " ".join(words)


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
            if isinstance(message, bytes):
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
