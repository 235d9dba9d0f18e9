"""What `session.update` asks for, read strictly: the session's fields one by one, each checked against what the server offers.

Everything raises `fields.Invalid` for what it does not take.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from speechstream.serve.names import VOICES
from speechstream.serve.realtime.fields import (
    Invalid,
    Json,
    choice,
    mapping,
    number,
    short,
    strings,
    text,
    whole,
)
from speechstream.serve.realtime.session import (
    DELAYS,
    EAGERNESS,
    REALTIME,
    TRANSCRIPTION,
    Format,
    Offer,
    Session,
    Transcription,
    TurnDetection,
    opening,
)

RATES = (8_000, 48_000)  # Hz of audio/pcm that are taken; the protocol's own is 24000
WORDS = "words"  # of `include`, an addition of ours: words with their times in transcripts
MOST_TOOLS = 128
# Taken, and without effect.
UNUSED = frozenset(
    "include max_output_tokens parallel_tool_calls prompt reasoning tracing truncation".split()
)


def known_model(name: Any, path: str, known: tuple[str, ...]) -> str:
    """The name of a model. Raises Invalid for one that is not here."""
    found = text(name, path, 200)
    if known and found not in known:
        why = (
            f"the model {short(found)} does not exist here; this server has {', '.join(known[:3])}"
        )
        raise Invalid(f"{why}, and OpenAI's names for them", path, "model_not_found")
    return found


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
            "model": lambda v, s: replace(s, model=known_model(v, "session.model", offer.models)),
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
        elif key == "model" and v is not None:
            found = replace(found, model=known_model(v, where, offer.hearing))
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
