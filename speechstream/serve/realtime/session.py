"""The configuration of a Realtime session: OpenAI's `session` object, read, checked and shown.

What is taken and has no effect (tracing, truncation, noise reduction, ...) is not shown again, so that a client sees
what holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from speechstream.asr.endpoint import EndpointRules
from speechstream.duplex.config import ConversationConfig
from speechstream.serve.names import VOICES, voice as voice_of

Json = dict[str, Any]

REALTIME, TRANSCRIPTION = "realtime", "transcription"
DELAYS = {"minimal": 80, "low": 160, "medium": 320, "high": 640, "xhigh": 1280}  # ms
TALK_DELAY = "low"  # of the recogniser in a conversation, where nothing is said
EAGERNESS = {"low": 8.0, "medium": 4.0, "auto": 4.0, "high": 2.0}  # the longest wait, in seconds
WAITS = {  # short_s, normal_s, long_s of a conversation
    "low": (0.6, 1.2, 2.8),
    "medium": (0.3, 0.6, 1.4),
    "auto": (0.3, 0.6, 1.4),
    "high": (0.2, 0.4, 0.8),
}
PACES = {  # and what scales sure_s and pause_mean_s, the delays where a head tells whether the user has finished
    "low": 2.0,
    "medium": 1.0,
    "auto": 1.0,
    "high": 0.6,
}
SEGMENT_S = (
    0.32  # of silence closes a stretch of speech where the turn's end is decided by its words
)
RATES = (8_000, 48_000)  # Hz of audio/pcm that are taken; the protocol's own is 24000
MOST_TEXT = 100_000  # characters of instructions
MOST_KEYWORDS = 200
WORDS = "words"  # of `include`, an addition of ours: words with their times in transcripts
MOST_TOOLS = 128
# Taken, and without effect.
UNUSED = frozenset(
    "include max_output_tokens parallel_tool_calls prompt reasoning tracing truncation".split()
)


class Invalid(ValueError):
    """A client's mistake. param: the path of the field at fault."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value"):
        super().__init__(message)
        self.message, self.param, self.code = message, param, code


@dataclass(frozen=True)
class Offer:
    """What the server's models have."""

    voices: tuple[str, ...]
    latencies: tuple[int, ...] = tuple(DELAYS.values())  # ms
    languages: tuple[str, ...] = ("en",)
    rate: int = 24_000  # Hz, of the voice
    instructions: str = ""
    tools: bool = False  # whether the agent calls functions

    def voice(self, name: str) -> str:
        """The speaker that a voice's name stands for: its own, or one of OpenAI's for some speaker."""
        return voice_of(name, self.voices)


@dataclass(frozen=True)
class Format:
    """Of sound on the wire. rate in Hz; audio/pcm is 16-bit little endian, mono."""

    type: str = "audio/pcm"
    rate: int = 24_000

    @property
    def dtype(self) -> str:
        """One of `audio.pcm.TYPES`."""
        return {"audio/pcm": "int16", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}[self.type]

    def shown(self) -> Json:
        return {"type": self.type} | ({"rate": self.rate} if self.type == "audio/pcm" else {})


@dataclass(frozen=True)
class Transcription:
    """How the user's sound is written. keywords: phrases to expect (hot words)."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None
    delay: str | None = None
    keywords: tuple[str, ...] = ()

    def shown(self) -> Json:
        found = {k: v for k, v in vars(self).items() if v}
        return found | ({"keywords": list(self.keywords)} if self.keywords else {})


@dataclass(frozen=True)
class TurnDetection:
    """Who notices that the user has begun, and has finished. Times in ms; they are those of "server_vad" alone."""

    type: str = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    eagerness: str = "auto"  # of "semantic_vad"
    create_response: bool = True
    interrupt_response: bool = True

    def shown(self, responds: bool) -> Json:
        names = ["eagerness"]
        if self.type == "server_vad":
            names = ["threshold", "prefix_padding_ms", "silence_duration_ms"]
        names += ["create_response", "interrupt_response"] if responds else []
        return {"type": self.type} | {n: getattr(self, n) for n in names}


@dataclass(frozen=True)
class Session:
    """All that `session.update` sets."""

    type: str = REALTIME
    model: str = "speechstream"
    instructions: str = ""
    modality: str = "audio"
    input: Format = Format()
    output: Format = Format()
    voice: str = ""
    speed: float = 1.0
    transcription: Transcription | None = None
    turns: TurnDetection | None = field(default_factory=TurnDetection)
    words: bool = False  # whether transcripts have words with times
    tools: tuple[Json, ...] = ()
    tool_choice: Any = "auto"

    @property
    def automatic(self) -> bool:
        """Whether the conversation itself decides when a turn ends, and what interrupts."""
        t = self.turns
        spoken = self.type == REALTIME and t is not None
        return spoken and t.create_response and t.interrupt_response  # type: ignore[union-attr]

    @property
    def latency_ms(self) -> int:
        """The recogniser's."""
        delay = self.transcription.delay if self.transcription else None
        return DELAYS[delay or (TALK_DELAY if self.type == REALTIME else "medium")]

    def rules(self) -> EndpointRules:
        """Where a stretch of speech begins and ends."""
        t = self.turns
        if t is None:
            return EndpointRules()
        if t.type == "semantic_vad":
            own_end = SEGMENT_S if self.automatic else WAITS[t.eagerness][1]
            return EndpointRules(silence_s=own_end)
        return EndpointRules(
            onset=t.threshold,
            release=max(0.7 * t.threshold, 0.01),
            silence_s=t.silence_duration_ms / 1000,
            before_s=t.prefix_padding_ms / 1000,
        )

    def conversation(self) -> ConversationConfig:
        """The delays of the conversation. With "server_vad" sound alone decides: any speech interrupts, and silence of
        a set length ends a turn."""
        t = self.turns or TurnDetection()
        if t.type == "semantic_vad":
            short, normal, long = WAITS[t.eagerness]
            pace, usual = PACES[t.eagerness], ConversationConfig()
            return ConversationConfig(
                sure_s=pace * usual.sure_s,
                pause_mean_s=pace * usual.pause_mean_s,
                short_s=short,
                normal_s=normal,
                long_s=long,
                longest_pause_s=EAGERNESS[t.eagerness],
            )
        silence = t.silence_duration_ms / 1000
        return ConversationConfig(
            onset=t.threshold,
            release=max(0.7 * t.threshold, 0.01),
            end_of_turn=False,
            sure_s=silence,
            short_s=silence,
            normal_s=silence,
            long_s=silence,
            longest_pause_s=silence,
            learning=0.0,
            preempt_s=min(0.12, silence),
            onset_s=0.06,
            pause_s=0.06,
            long_speech_s=0.06,
        )

    def shown(self) -> Json:
        """The `session` object of `session.created` and `session.updated`."""
        responds = self.type == REALTIME
        heard: Json = {
            "format": self.input.shown(),
            "transcription": self.transcription.shown() if self.transcription else None,
            "turn_detection": self.turns.shown(responds) if self.turns else None,
        }
        if not responds:
            return {"type": self.type, "audio": {"input": heard}}
        spoken = {"format": self.output.shown(), "voice": self.voice, "speed": self.speed}
        return {
            "type": self.type,
            "model": self.model,
            "instructions": self.instructions,
            "output_modalities": [self.modality],
            "audio": {"input": heard, "output": spoken},
            "tools": list(self.tools),
            "tool_choice": self.tool_choice,
        }


def opening(offer: Offer, transcription: bool = False, model: str | None = None) -> Session:
    """The session of a new connection."""
    name = (model or "speechstream")[:200]
    session = Session(model=name, voice=offer.voices[0], instructions=offer.instructions)
    if transcription:
        session = replace(session, type=TRANSCRIPTION, transcription=Transcription(model))
    return session


def updated(session: Session, asked: Any, offer: Offer) -> Session:
    """The session after `session.update`. Raises Invalid, and then nothing of it holds."""
    table = mapping(asked, "session")
    kind = table.get("type", session.type)
    if kind not in (REALTIME, TRANSCRIPTION):
        raise Invalid(
            f"session.type must be realtime or transcription, got {short(kind)}", "session.type"
        )
    if kind != session.type:
        session = opening(offer, kind == TRANSCRIPTION, session.model)
    readers: dict[str, Callable[[Any, Session], Session]] = {
        "type": lambda v, s: s,
        "audio": lambda v, s: _audio(v, s, offer),
        "include": lambda v, s: replace(
            s, words=WORDS in strings([] if v is None else v, "session.include")
        ),
    }
    if kind == REALTIME:
        readers |= {
            "model": lambda v, s: replace(s, model=text(v, "session.model", 200)),
            "instructions": lambda v, s: replace(s, instructions=text(v, "session.instructions")),
            "output_modalities": lambda v, s: replace(
                s, modality=modality(v, "session.output_modalities")
            ),
            "tools": lambda v, s: replace(s, tools=tools(v, "session.tools", offer)),
            "tool_choice": lambda v, s: replace(
                s, tool_choice=tool_choice(v, "session.tool_choice")
            ),
        }
    return _each(table, "session", readers, session)


def _each(
    table: Mapping[str, Any],
    path: str,
    readers: Mapping[str, Callable[[Any, Session], Session]],
    session: Session,
    unused: frozenset[str] = UNUSED,
) -> Session:
    for key, value in table.items():
        if key in unused and key not in readers:
            continue
        if key not in readers:
            known = ", ".join(sorted(readers))
            raise Invalid(
                f"{path}.{key[:60]} is no parameter of a {session.type} session; there are {known}",
                f"{path}.{key[:60]}",
                "unknown_parameter",
            )
        session = readers[key](value, session)
    return session


def _audio(value: Any, session: Session, offer: Offer) -> Session:
    readers: dict[str, Callable[[Any, Session], Session]] = {
        "input": lambda v, s: _input(v, s, offer)
    }
    if session.type == REALTIME:
        readers["output"] = lambda v, s: _output(v, s, offer)
    return _each(mapping(value, "session.audio"), "session.audio", readers, session)


def _input(value: Any, session: Session, offer: Offer) -> Session:
    path = "session.audio.input"
    readers: dict[str, Callable[[Any, Session], Session]] = {
        "format": lambda v, s: replace(s, input=audio_format(v, f"{path}.format")),
        "transcription": lambda v, s: replace(s, transcription=_transcription(v, s, offer)),
        "turn_detection": lambda v, s: replace(s, turns=_turns(v, s)),
    }
    return _each(mapping(value, path), path, readers, session, frozenset(["noise_reduction"]))


def _output(value: Any, session: Session, offer: Offer) -> Session:
    path = "session.audio.output"
    readers: dict[str, Callable[[Any, Session], Session]] = {
        "format": lambda v, s: replace(s, output=audio_format(v, f"{path}.format")),
        "voice": lambda v, s: replace(s, voice=voice(v, f"{path}.voice", offer)),
        "speed": lambda v, s: replace(s, speed=number(v, f"{path}.speed", 0.25, 4.0)),
    }
    return _each(mapping(value, path), path, readers, session)


def _transcription(value: Any, session: Session, offer: Offer) -> Transcription | None:
    path = "session.audio.input.transcription"
    if value is None:
        return None
    table = mapping(value, path)
    found = session.transcription or Transcription()
    for key, v in table.items():
        where = f"{path}.{key[:60]}"
        if key == "delay":
            delay = None if v is None else choice(v, where, tuple(DELAYS))
            if delay is not None and DELAYS[delay] not in offer.latencies:
                raise Invalid(f"this server's model has no delay {delay!r}", where)
            found = replace(found, delay=delay)
        elif key in ("model", "prompt"):
            said: Any = None if v is None else text(v, where)
            found = replace(found, **{key: said})
        elif key == "language":
            found = replace(found, language=None if v is None else _language(v, where, offer))
        elif key == "languages":
            for one in strings(v, where):
                _language(one, where, offer)
        elif key == "keywords":
            found = replace(found, keywords=strings(v, where))
        else:
            raise Invalid(f"{where} is no parameter of a transcription", where, "unknown_parameter")
    return found


def _language(value: Any, path: str, offer: Offer) -> str:
    name = text(value, path, 40)
    if name and name.lower().split("-")[0] not in offer.languages:
        heard = ", ".join(offer.languages)
        raise Invalid(f"this server hears {heard}; {path} asks for {name!r}", path)
    return name


def _turns(value: Any, session: Session) -> TurnDetection | None:
    path = "session.audio.input.turn_detection"
    if value is None:
        return None
    table = mapping(value, path)
    kind = choice(table.get("type"), f"{path}.type", ("server_vad", "semantic_vad"))
    found = session.turns
    if found is None or found.type != kind:
        found = TurnDetection(kind)
    for key, v in table.items():
        where = f"{path}.{key[:60]}"
        if key == "type" or (v is None and hasattr(found, key)):
            continue
        if key in ("create_response", "interrupt_response"):
            if not isinstance(v, bool):
                raise Invalid(f"{where} must be true or false, got {short(v)}", where)
            flag: Any = v
            found = replace(found, **{key: flag})
        elif key == "idle_timeout_ms":
            if v is not None:
                raise Invalid("this server has no idle timeout; leave it null", where)
        elif kind == "semantic_vad" and key == "eagerness":
            found = replace(found, eagerness=choice(v, where, tuple(EAGERNESS)))
        elif kind == "server_vad" and key == "threshold":
            found = replace(found, threshold=min(max(number(v, where, 0, 1), 0.02), 0.98))
        elif kind == "server_vad" and key == "prefix_padding_ms":
            found = replace(found, prefix_padding_ms=whole(v, where, 0, 2_000))
        elif kind == "server_vad" and key == "silence_duration_ms":
            found = replace(found, silence_duration_ms=whole(v, where, 100, 10_000))
        else:
            raise Invalid(f"{where} is no parameter of {kind}", where, "unknown_parameter")
    return found


# Values, with the sentence for those that are wrong.


def short(value: Any) -> str:
    """A value for a message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{path} must be an object, got {short(value)}", path, "invalid_type")
    return value


def text(value: Any, path: str, most: int = MOST_TEXT) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{path} must be a string, got {short(value)}", path, "invalid_type")
    if len(value) > most:
        raise Invalid(f"{path} has {len(value)} characters, at most {most} are taken", path)
    return value


def strings(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MOST_KEYWORDS:
        raise Invalid(
            f"{path} must be an array of at most {MOST_KEYWORDS} strings, got {short(value)}", path
        )
    return tuple(text(v, path, 200) for v in value)


def number(value: Any, path: str, least: float, most: float) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or not least <= value <= most:
        raise Invalid(f"{path} must be a number from {least} to {most}, got {short(value)}", path)
    return float(value)


def whole(value: Any, path: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise Invalid(
            f"{path} must be a whole number from {least} to {most}, got {short(value)}", path
        )
    return value


def choice(value: Any, path: str, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise Invalid(f"{path} must be one of {', '.join(known)}, got {short(value)}", path)
    return value


def modality(value: Any, path: str) -> str:
    """ "text" or "audio"."""
    if value not in (["text"], ["audio"]):
        raise Invalid(f'{path} must be ["text"] or ["audio"], got {short(value)}', path)
    return str(value[0])


def tools(value: Any, path: str, offer: Offer) -> tuple[Json, ...]:
    """Functions that the client can call."""
    if value in (None, []):
        return ()
    if not offer.tools:
        why = "this server's agent calls no functions; leave the tools out"
        raise Invalid(why, path, "unsupported_value")
    if not isinstance(value, list) or len(value) > MOST_TOOLS:
        raise Invalid(f"{path} must be an array of at most {MOST_TOOLS} tools", path)
    return tuple(_tool(v, f"{path}[{n}]") for n, v in enumerate(value))


def _tool(value: Any, path: str) -> Json:
    table = mapping(value, path)
    choice(table.get("type"), f"{path}.type", ("function",))
    name = text(table.get("name"), f"{path}.name", 64)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise Invalid(
            f"{path}.name must be letters, digits, _ and -, got {short(name)}", f"{path}.name"
        )
    found: Json = {"type": "function", "name": name}
    if table.get("description") is not None:
        found["description"] = text(table["description"], f"{path}.description")
    if table.get("parameters") is not None:
        found["parameters"] = dict(mapping(table["parameters"], f"{path}.parameters"))
    return found


def tool_choice(value: Any, path: str) -> Any:
    """ "auto", "none", "required", or one function."""
    if isinstance(value, dict):
        choice(value.get("type"), f"{path}.type", ("function",))
        return {"type": "function", "name": text(value.get("name"), f"{path}.name", 64)}
    return "auto" if value is None else choice(value, path, ("auto", "none", "required"))


def voice(value: Any, path: str, offer: Offer) -> str:
    """A voice's name, one of the server's or one of OpenAI's, which stands for some of the server's."""
    name = value.get("id") if isinstance(value, dict) else value
    if not isinstance(name, str) or name not in (*offer.voices, *VOICES):
        known = ", ".join(offer.voices)
        raise Invalid(f"{path} must be one of {known}, got {short(value)}", path)
    return name


def audio_format(value: Any, path: str) -> Format:
    table = mapping(value, path)
    kind = choice(table.get("type"), f"{path}.type", ("audio/pcm", "audio/pcmu", "audio/pcma"))
    rate = table.get("rate")
    if kind != "audio/pcm":
        if rate not in (None, 8_000):
            raise Invalid(f"{kind} has 8000 Hz, got {short(rate)}", f"{path}.rate")
        return Format(kind, 8_000)
    return Format(kind, 24_000 if rate is None else whole(rate, f"{path}.rate", *RATES))
