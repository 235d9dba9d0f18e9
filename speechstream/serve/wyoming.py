"""Wyoming, the voice protocol of Home Assistant, on a TCP port of its own: recognition and synthesis.

    async with start(engine, "127.0.0.1", 10300) as port: ...

`Protocol` says what an event of a client asks for, `Writing` what is written of a recognition; both are pure.
`Connection` joins them with a socket and the engine. What a connection asks for is done in order, one recognition
and one synthesis at a time, which may overlap. An error is told in one `error` event and ends the connection:
clients of which some pass over that event wait for an answer or the end.

Events and their fields are those of the package `wyoming` 1.10 (Hansen, https://github.com/OHF-Voice/wyoming). Its
reader takes headers of any length and payloads of any size, so the frames are read here.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from speechstream import __version__
from speechstream.asr.biasing import HotWords
from speechstream.audio import pcm
from speechstream.audio.recording import check_rate
from speechstream.audio.samples import MAX_CHANNELS
from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Event as SpeechEvent, Failed, Final, Partial
from speechstream.serve.engine import Engine, Limits, Refused, Stream

try:
    from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error
    from wyoming.event import Event, write_event
    from wyoming.info import AsrModel, AsrProgram, Attribution, Info, TtsProgram, TtsVoice
    from wyoming.ping import Pong
    from wyoming.tts import SynthesizeStopped
except ImportError as missing:
    raise SpeechStreamError(
        "the Wyoming server needs the package wyoming; pip install speechstream[serve]"
    ) from missing

NAME = "speechstream"
HOME = "https://github.com/speechstream/speechstream"
HEADER_BYTES = 64 << 10  # of an event besides its text
PAYLOAD_BYTES = 4 << 20  # of an event at most: two minutes at 16 kHz
SPARE = 64  # connections beyond the seats: they ask what there is, or wait
PHRASES = 1000  # names and terms of a request that become hot words
SEND_BYTES = (
    64 << 10
)  # that the kernel keeps for a client: sound is not made far ahead of a slow one
LINGER_S = (
    2.0  # what still comes after an error is read, or the client's system drops the error with it
)
WIDTHS = {1: "uint8", 2: "int16", 3: "int24", 4: "int32"}
_log = logging.getLogger("speechstream.serve")


class ProtocolError(SpeechStreamError):
    """A client sent what is no event, or none that can be done here."""


class TooSlow(SpeechStreamError):
    """A client does not read."""


class Idle(SpeechStreamError):
    """A client sends nothing."""


# What there is.


def describe(engine: Engine) -> Info:
    """Models, languages and voices, as clients are told them."""
    asr, tts = engine.recognizer, engine.synthesizer
    by = Attribution(NAME, HOME)
    model = AsrModel(
        str(asr.card.get("name", NAME)),
        by,
        True,
        asr.card.get("description"),
        None,
        list(asr.card.get("languages", ["en"])),
    )
    voices = [
        # Home Assistant shows the description in place of the name
        TtsVoice(
            s.name,
            by,
            True,
            f"{s.name} ({s.description})" if s.description else s.name,
            None,
            [s.language],
        )
        for s in tts.speakers
    ]
    about = "Streaming speech recognition and synthesis"
    return Info(
        asr=[
            AsrProgram(
                NAME,
                by,
                True,
                about,
                __version__,
                [model],
                supports_transcript_streaming=True,
                # The transcript ends with audio-stop and no earlier: somebody else must say where the command ends.
                requires_external_vad=True,
                prefers_auto_gain_enabled=False,
                prefers_noise_reduction_enabled=False,
            )
        ],
        tts=[
            TtsProgram(
                NAME, by, True, about, __version__, voices, supports_synthesize_streaming=True
            )
        ],
    )


# What a client asks for.


@dataclass(frozen=True)
class Format:
    """Of samples: Hz, bytes of each, and how many at a time."""

    rate: int
    width: int
    channels: int

    def __str__(self) -> str:
        return f"{self.rate} Hz, {self.width} bytes, {self.channels} channels"


@dataclass(frozen=True)
class Send:
    """Answer."""

    event: Event


@dataclass(frozen=True)
class Listen:
    """Begin to hear. phrases: hot words."""

    format: Format
    phrases: tuple[str, ...]
    language: str | None


@dataclass(frozen=True)
class Hear:
    """Whole frames of samples."""

    data: bytes
    format: Format


@dataclass(frozen=True)
class EndListening:
    """The sound is over."""


@dataclass(frozen=True)
class Speak:
    """Begin to speak. streamed: the client is told when all is said."""

    voice: str | None
    markup: bool
    streamed: bool


@dataclass(frozen=True)
class Say:
    """More text."""

    text: str


@dataclass(frozen=True)
class EndSpeaking:
    """The text is over."""


Command = Send | Listen | Hear | EndListening | Speak | Say | EndSpeaking


@dataclass(frozen=True)
class State:
    """What a connection remembers between two events of its client."""

    asked: Transcribe | None = None  # of the sound that is to come
    hearing: Format | None = None  # within a sound
    frames: int = 0  # of it
    rest: bytes = b""  # of a frame that is not whole yet
    speaking: bool = False  # between synthesize-start and synthesize-stop
    characters: int = 0  # of the text since


Answer = tuple[list[Command], State]


class Protocol:
    """`step(event, state)` is pure: the commands that an event of a client stands for."""

    def __init__(self, info: Info, limits: Limits):
        self.info, self.limits = info, limits
        self._steps: dict[str, Callable[[Event, State], Answer]] = {
            "describe": self._describe,
            "ping": self._ping,
            "select-program": self._select,
            "transcribe": self._transcribe,
            "audio-start": self._audio_start,
            "audio-chunk": self._audio_chunk,
            "audio-stop": self._audio_stop,
            "synthesize": self._synthesize,
            "synthesize-start": self._synthesize_start,
            "synthesize-chunk": self._synthesize_chunk,
            "synthesize-stop": self._synthesize_stop,
        }

    def step(self, event: Event, state: State) -> Answer:
        """Events of other types are passed over, as the protocol has it. Raises ProtocolError."""
        step = self._steps.get(event.type)
        if step is None:
            return [], state
        # null is what is not there
        data = {name: value for name, value in event.data.items() if value is not None}
        return step(Event(event.type, data, event.payload), state)

    def _describe(self, event: Event, state: State) -> Answer:
        return [Send(self.info.event())], state

    def _ping(self, event: Event, state: State) -> Answer:
        return [Send(Pong(_text(event, "text", None)).event())], state

    def _select(self, event: Event, state: State) -> Answer:
        _one_of(_text(event, "name"), [NAME], "program")
        return [], state

    # Recognition

    def _transcribe(self, event: Event, state: State) -> Answer:
        model, language = self.info.asr[0].models[0], _text(event, "language", None)
        _one_of(_text(event, "name", None), [model.name, NAME], "model")
        if language not in (None, "", "auto") and not any(
            _base(language) == _base(known) for known in model.languages
        ):
            raise ProtocolError(
                f"this server hears {', '.join(model.languages)}, and not {language[:40]!r}"
            )
        asked = Transcribe(
            language=language or None,
            transcript_names=_texts(event, "transcript_names"),
            transcript_terms=_texts(event, "transcript_terms"),
        )
        return [], replace(state, asked=asked)

    def _audio_start(self, event: Event, state: State) -> Answer:
        found = _format(event)
        if state.hearing is None:
            return self._listen(found, state)
        self._same(found, state.hearing)
        return [], state

    def _audio_chunk(self, event: Event, state: State) -> Answer:
        found, commands = _format(event), list[Command]()
        if state.hearing is None:  # there are clients that send no audio-start
            commands, state = self._listen(found, state)
        else:
            self._same(found, state.hearing)
        size = found.width * found.channels
        data = state.rest + (event.payload or b"")
        whole = len(data) // size * size
        frames = state.frames + whole // size
        if frames > self.limits.session_s * found.rate:
            raise ProtocolError(
                f"a sound may last {self.limits.session_s:g} s on this server, and this one is longer"
            )
        if whole:
            commands.append(Hear(data[:whole], found))
        return commands, replace(state, frames=frames, rest=data[whole:])

    def _audio_stop(self, event: Event, state: State) -> Answer:
        commands = list[Command]()
        if state.hearing is None:
            if state.asked is None:
                return [], state  # a satellite says so of what nobody asked for
            commands, state = self._listen(Format(16_000, 2, 1), state)
        return [*commands, EndListening()], replace(state, hearing=None, rest=b"")

    @staticmethod
    def _listen(found: Format, state: State) -> Answer:
        asked = state.asked or Transcribe()
        named = (asked.transcript_names or []) + (asked.transcript_terms or [])
        listen = Listen(found, phrases(named), asked.language)
        return [listen], replace(state, asked=None, hearing=found, frames=0, rest=b"")

    @staticmethod
    def _same(found: Format, before: Format) -> None:
        if found != before:
            raise ProtocolError(f"the sound was {before}, and is {found} without an audio-stop")

    # Synthesis

    def _synthesize(self, event: Event, state: State) -> Answer:
        text = _text(event, "text")
        if state.speaking:
            # for servers that read no chunks, Home Assistant repeats the text within them
            return ([], state) if state.characters else self._say(text, state)
        commands, _ = self._say(text, State())
        return [self._speak(event, streamed=False), *commands, EndSpeaking()], state

    def _synthesize_start(self, event: Event, state: State) -> Answer:
        if state.speaking:
            raise ProtocolError("synthesize-start came again without a synthesize-stop before it")
        return [self._speak(event, streamed=True)], replace(state, speaking=True, characters=0)

    def _synthesize_chunk(self, event: Event, state: State) -> Answer:
        if not state.speaking:
            raise ProtocolError("synthesize-chunk came without a synthesize-start before it")
        return self._say(_text(event, "text"), state)

    def _synthesize_stop(self, event: Event, state: State) -> Answer:
        if not state.speaking:
            raise ProtocolError("synthesize-stop came without a synthesize-start before it")
        return [EndSpeaking()], replace(state, speaking=False)

    def _speak(self, event: Event, streamed: bool) -> Speak:
        written = _text(event, "text_format", "text")
        _one_of(written, ["text", "ssml"], "text_format")
        return Speak(self._voice(event), written == "ssml", streamed)

    def _say(self, text: str, state: State) -> Answer:
        characters = state.characters + len(text)
        if characters > self.limits.characters:
            raise ProtocolError(
                f"a text may have {self.limits.characters} characters on this server, this one has more"
            )
        return ([Say(text)] if text else []), replace(state, characters=characters)

    def _voice(self, event: Event) -> str | None:
        """The speaker's name; None: any will do."""
        voice = Event("voice", _field(event, "voice", dict, {}))
        wanted = _text(voice, "speaker", None) or _text(voice, "name", None)
        language = _text(voice, "language", None)
        voices = self.info.tts[0].voices
        if wanted:
            return _one_of(wanted, [v.name for v in voices], "voice")
        if not language:
            return None
        for same in (str.lower, _base):  # the very one, or another kind of the language
            for v in voices:
                if same(v.languages[0]) == same(language):
                    return v.name
        known = ", ".join(sorted({v.languages[0] for v in voices}))
        raise ProtocolError(f"the voices of this server speak {known}, and not {language[:40]!r}")


def phrases(named: list[str]) -> tuple[str, ...]:
    """Names and terms that may be hot words, the first PHRASES of them: a home has names that nobody can say."""
    found: dict[str, None] = {}
    for name in named:
        try:
            ((text, _),) = HotWords(((name, 1.0),)).phrases
        except ValueError:
            continue
        found[text] = None
        if len(found) == PHRASES:
            break
    return tuple(found)


def _base(language: str) -> str:
    """The language of a tag, without its country."""
    return language.replace("_", "-").split("-")[0].lower()


def _one_of(given: str | None, known: list[str], what: str) -> str | None:
    if given and given not in known:
        there = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        raise ProtocolError(f"this server has no {what} {given[:80]!r}; it has {there}")
    return given


_REQUIRED = object()


def _field(event: Event, name: str, kind: type, default: Any = _REQUIRED) -> Any:
    value = event.data.get(name, default)
    if value is _REQUIRED:
        raise ProtocolError(f"{event.type} needs {name!r}")
    if value is not default and type(value) is not kind:
        raise ProtocolError(
            f"{name!r} of {event.type} is {str(value)[:40]!r}, expected {kind.__name__}"
        )
    return value


def _text(event: Event, name: str, default: Any = _REQUIRED) -> Any:
    """A text that can be written as UTF-8: JSON can hold halves of characters."""
    value = _field(event, name, str, default)
    return value if value is default else value.encode("utf-8", "replace").decode()


def _texts(event: Event, name: str) -> list[str]:
    return [x for x in _field(event, name, list, []) if isinstance(x, str)]


def _format(event: Event) -> Format:
    rate, width, channels = (_field(event, name, int) for name in ("rate", "width", "channels"))
    if width not in WIDTHS:
        raise ProtocolError(f"samples of {str(width)[:40]} bytes came, expected 1, 2, 3 or 4")
    if not 1 <= channels <= MAX_CHANNELS:
        raise ProtocolError(f"{str(channels)[:40]} channels came, expected 1 to {MAX_CHANNELS}")
    try:
        return Format(check_rate(rate, "rate"), width, channels)
    except ValueError as error:
        raise ProtocolError(str(error)) from error


# What is written of a recognition.


@dataclass(frozen=True)
class Writing:
    """A transcript as far as it was written. Only what stays is written, so clients can append."""

    done: str = ""  # of stretches that are final
    shown: int = 0  # characters that were written of the next one

    def step(self, event: SpeechEvent) -> tuple[list[Event], Writing]:
        """Take an event of the recogniser."""
        final = isinstance(event, Final)
        text = event.text if isinstance(event, Final) else ""
        if isinstance(event, Partial):
            text = event.stable
        if not text:
            return [], self
        piece = f" {text}" if self.done else text
        new = piece[self.shown :]
        events = [TranscriptChunk(new).event()] if new else []
        return events, Writing(self.done + piece) if final else replace(self, shown=len(piece))


# Frames.


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
        value = json.loads(text)
    except (ValueError, RecursionError):
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


def blocks(hear: Hear) -> Iterator[np.ndarray]:
    """Samples (n, channels) in blocks of a second at most."""
    kind = pcm.decoder(WIDTHS[hear.format.width], hear.format.channels)
    size = kind.frame * hear.format.rate
    for at in range(0, len(hear.data), size):
        yield kind.decode(hear.data[at : at + size])


# The shell.


@dataclass(frozen=True)
class Job:
    """A stream of the engine, and who writes what it says."""

    stream: Stream
    task: asyncio.Task[None]


class Connection:
    """One client."""

    def __init__(
        self,
        engine: Engine,
        protocol: Protocol,
        latency_ms: int | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ):
        self._engine, self._protocol, self._latency_ms = engine, protocol, latency_ms
        self._reader, self._writer = reader, writer
        self._limits = engine.limits
        self._state = State()
        self._hearing: Job | None = None
        self._speaking: Job | None = None
        self._sending = asyncio.Lock()
        self._error: Exception | None = None
        self._reading: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waits_since: float | None = None  # for the client's next event

    async def run(self, refused: Refused | None = None) -> None:
        """Serve until the client goes or an error ends it. refused: there is no room."""
        try:
            if refused is not None:
                self._error = refused
            else:
                await self._serve()
            self._give_up()
            if isinstance(self._error, TooSlow):
                self._writer.transport.abort()
            elif isinstance(self._error, SpeechStreamError):
                await self._tell(self._error)
            self._writer.close()
            await asyncio.wait_for(self._writer.wait_closed(), self._limits.slow_s)
        except (OSError, asyncio.TimeoutError):
            self._writer.transport.abort()
        except BaseException:
            self._writer.transport.abort()
            raise
        finally:
            self._give_up()

    async def _serve(self) -> None:
        self._reading = asyncio.ensure_future(self._guarded(self._read))
        self._watch()
        await asyncio.wait([self._reading])
        # Who has sent all may have closed one direction only, and wait for the answer.
        ended = [job.task for job in self._jobs if job.stream.finished]
        if ended and self._error is None:
            await asyncio.wait(ended)

    @property
    def _jobs(self) -> list[Job]:
        return [job for job in (self._hearing, self._speaking) if job is not None]

    def _give_up(self) -> None:
        """Stop all work."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reading is not None:
            self._reading.cancel()
        for job in self._jobs:
            job.task.cancel()

    async def _guarded(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do a part of the work; what goes wrong there ends the connection."""
        try:
            await work(*arguments)
        except Exception as error:
            if not isinstance(error, (SpeechStreamError, OSError)):
                _log.exception("a Wyoming connection has failed")
                error = SpeechStreamError("the server has failed at this request")
            if self._error is None:
                self._error = error
            if self._reading is not None and self._reading is not asyncio.current_task():
                self._reading.cancel()

    # Reading

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        data_bytes = _header_bytes(self._limits)
        payload_bytes = min(PAYLOAD_BYTES, self._limits.message_bytes)
        while True:
            self._waits_since = loop.time()
            event = await read_event(self._reader, data_bytes, payload_bytes)
            self._waits_since = None
            if event is None:
                return
            commands, self._state = self._protocol.step(event, self._state)
            for command in commands:
                await self._do(command)
            await asyncio.sleep(0)  # events that lie there already must not keep others waiting

    def _watch(self) -> None:
        """Look from time to time whether the client still sends."""
        loop, limit = asyncio.get_running_loop(), self._limits.idle_s
        since = self._waits_since
        answering = any(job.stream.finished and not job.task.done() for job in self._jobs)
        quiet = 0.0 if since is None or answering else loop.time() - since
        if quiet >= limit:
            if self._error is None:
                self._error = Idle(f"nothing came for {limit:g} s, so the connection ends")
            assert self._reading is not None
            self._reading.cancel()
        else:
            self._timer = loop.call_later(limit - quiet, self._watch)

    async def _do(self, command: Command) -> None:
        match command:
            case Send(event):
                await self._send(event)
            case Listen():
                await self._listen(command)
            case Hear() if self._hearing is not None:
                for block in blocks(command):
                    await self._hearing.stream.push(block)
                    await asyncio.sleep(0)
            case EndListening() if self._hearing is not None:
                self._hearing.stream.finish()
            case Speak(voice, markup, streamed):
                await _over(self._speaking)
                self._speaking = self._begin(
                    lambda: self._engine.speak(voice, markup=markup), self._say, streamed
                )
            case Say(text) if self._speaking is not None:
                await self._speaking.stream.push(text)
            case EndSpeaking() if self._speaking is not None:
                self._speaking.stream.finish()

    async def _listen(self, command: Listen) -> None:
        await _over(self._hearing)
        engine, rate = self._engine, command.format.rate
        words = await asyncio.to_thread(self._compiled, command)
        self._hearing = self._begin(
            lambda: engine.listen(self._latency_ms, rate, hotwords=words),
            self._write,
            command.language,
        )

    def _compiled(self, command: Listen) -> HotWords | None:
        """Hot words of the request and of the server, ready for the recogniser: many take a while.

        None: those of the server alone.
        """
        asr = self._engine.recognizer
        if not command.phrases or (asr.hotwords is not None and asr.hotwords.closed):
            return None
        ours = () if asr.hotwords is None else asr.hotwords.phrases
        words = HotWords(ours + tuple((text, 1.0) for text in command.phrases))
        try:
            asr.core(self._latency_ms, command.format.rate, hotwords=words)
        except ValueError as error:  # names help, and are not needed
            _log.warning("a request's names are not used as hot words: %s", str(error)[:80])
            return None
        return words

    def _begin(
        self, opened: Callable[[], Stream], work: Callable[..., Awaitable[None]], *arguments: Any
    ) -> Job:
        """Take a seat, open a stream and let its words or its sound be written. work: is given the stream and what gives
        both back."""
        with ExitStack() as stack:
            stack.enter_context(self._engine.seat("wyoming"))
            stream = opened()
            stack.callback(stream.close)
            kept = stack.pop_all()
            task = asyncio.ensure_future(self._guarded(work, stream, kept.close, *arguments))
            task.add_done_callback(lambda _: kept.close())
        return Job(stream, task)

    # Writing

    async def _write(
        self, stream: Stream, give_back: Callable[[], None], language: str | None
    ) -> None:
        """The transcript."""
        languages = self._protocol.info.asr[0].models[0].languages
        language = languages[0] if len(languages) == 1 else language
        await self._send(TranscriptStart(language=language).event())
        writing = Writing()
        async for event in stream:
            if isinstance(event, Failed):
                raise SpeechStreamError(event.message)
            events, writing = writing.step(event)
            for one in events:
                await self._send(one)
        give_back()  # who has the last event may ask for more, here or elsewhere
        await self._send(Transcript(writing.done, language=language).event())
        await self._send(TranscriptStop().event())

    async def _say(self, stream: Stream, give_back: Callable[[], None], streamed: bool) -> None:
        """The sound: 16 bits, mono."""
        rate, samples = self._engine.synthesizer.sample_rate, 0
        begun = False
        async for event in stream:
            if isinstance(event, Failed):
                raise SpeechStreamError(event.message)
            if not isinstance(event, Audio) or not len(event.pcm):
                continue
            if not begun:
                begun = True
                await self._send(AudioStart(rate, 2, 1, timestamp=0).event())
            data = (np.clip(event.pcm, -1, 1) * 32767).round().astype("<i2").tobytes()
            chunk = AudioChunk(rate, 2, 1, data, timestamp=samples * 1000 // rate)
            samples += len(event.pcm)
            await self._send(chunk.event())
        give_back()
        if not begun:
            await self._send(AudioStart(rate, 2, 1, timestamp=0).event())
        await self._send(AudioStop(timestamp=samples * 1000 // rate).event())
        if streamed:
            await self._send(SynthesizeStopped().event())

    async def _send(self, event: Event) -> None:
        """Raises TooSlow where the client does not read."""
        async with self._sending:
            self._writer.write(encoded(event))
            try:
                await asyncio.wait_for(self._writer.drain(), self._limits.slow_s)
            except asyncio.TimeoutError:
                raise TooSlow(f"the client has not read for {self._limits.slow_s:g} s") from None

    async def _tell(self, error: SpeechStreamError) -> None:
        """Say what is wrong, and let the client see the end of the connection."""
        code = {Refused: "refused", ProtocolError: "bad-request", Idle: "idle"}
        text = str(error).encode("utf-8", "replace").decode()
        await self._send(Error(text, code.get(type(error), "failed")).event())
        self._writer.write_eof()
        try:
            await asyncio.wait_for(self._drained(), LINGER_S)
        except asyncio.TimeoutError:
            pass

    async def _drained(self) -> None:
        while await self._reader.read(HEADER_BYTES):
            await asyncio.sleep(0)


async def _over(job: Job | None) -> None:
    """Wait for the end of the request before."""
    if job is not None:
        await asyncio.wait([job.task])


def _header_bytes(limits: Limits) -> int:
    """Of an event's JSON at most: the longest text in UTF-8, and the rest."""
    return 4 * limits.characters + HEADER_BYTES


@asynccontextmanager
async def start(
    engine: Engine, host: str, port: int, latency_ms: int | None = 320
) -> AsyncIterator[int]:
    """Serve on host and port (0: a free one, which is given) until the context is left.

    latency_ms: of the recognition, for a model that has it. Raises SpeechStreamError where the address cannot be had.
    """
    protocol = Protocol(describe(engine), engine.limits)
    if latency_ms not in engine.recognizer.latencies:
        latency_ms = next(iter(engine.recognizer.latencies), None)
    tasks: set[asyncio.Task[Any]] = set()
    served: set[asyncio.Task[Any]] = set()  # of them, those that were not turned away

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        most = engine.limits.sessions + SPARE
        refused = None
        if len(served) >= most:
            refused = Refused(f"{most} clients are connected already; try again later", 5)
        else:
            served.add(task)
            task.add_done_callback(served.discard)
        try:
            await Connection(engine, protocol, latency_ms, reader, writer).run(refused)
        except asyncio.CancelledError:
            pass  # the server ends; asyncio of Python 3.11 would log it as a fault

    try:
        limit = _header_bytes(engine.limits)
        server = await asyncio.start_server(connected, host, port, limit=limit)
    except OSError as error:
        raise SpeechStreamError(
            f"the Wyoming server cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
