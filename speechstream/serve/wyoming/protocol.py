"""Wyoming without sockets: what the events of a client ask for, and what is written of a recognition.

Both are pure: `Protocol.step(event, state) -> (commands, state)` and `Writing.step(event) -> (events, writing)`.
Events and their fields are those of the package `wyoming` 1.10 (Hansen, https://github.com/OHF-Voice/wyoming).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from wyoming.asr import Transcribe, TranscriptChunk
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Info, TtsProgram, TtsVoice
from wyoming.ping import Pong

from speechstream import __version__
from speechstream.asr.biasing import HotWords
from speechstream.audio import pcm
from speechstream.audio.recording import check_rate
from speechstream.audio.samples import MAX_CHANNELS
from speechstream.events import Event as SpeechEvent, Final, Partial
from speechstream.serve.engine import Engine, Limits
from speechstream.serve.wyoming.frames import ProtocolError

NAME = "speechstream"
HOME = "https://github.com/speechstream/speechstream"
PHRASES = 1000  # names and terms of a request that become hot words
WIDTHS = {1: "uint8", 2: "int16", 3: "int24", 4: "int32"}


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
        for same in (_tag, _base):  # the very one, or another kind of the language
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


def blocks(hear: Hear) -> Iterator[np.ndarray]:
    """Samples (n, channels) in blocks of a second at most."""
    kind = pcm.decoder(WIDTHS[hear.format.width], hear.format.channels)
    size = kind.frame * hear.format.rate
    for at in range(0, len(hear.data), size):
        yield kind.decode(hear.data[at : at + size])


def _tag(language: str) -> str:
    """A tag as it is compared: en_GB and en-gb are one."""
    return language.replace("_", "-").lower()


def _base(language: str) -> str:
    """The language of a tag, without its country."""
    return _tag(language).split("-")[0]


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
