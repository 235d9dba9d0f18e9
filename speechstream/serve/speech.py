"""`POST /v1/audio/speech`: sound leaves while the text is still being spoken."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from speechstream.errors import SpeechStreamError
from speechstream.events import Audio, Failed
from speechstream.serve import names
from speechstream.serve.bodies import Streamed, event, read_json, unless_gone
from speechstream.serve.encoders import FORMATS, Encoder, encoder_of
from speechstream.serve.engine import Engine, Stream
from speechstream.serve.problems import Problem, wrong
from speechstream.serve.settings import Settings

CHARACTER_BYTES = 6  # of JSON, at most: \uXXXX
REST_BYTES = 64 << 10  # of the other fields
CHEAP = ("wav", "pcm")  # encoded on the event loop


@dataclass(frozen=True)
class Wanted:
    """A request, checked."""

    text: str
    voice: str
    form: str = "mp3"
    speed: float = 1.0
    sse: bool = False

    @classmethod
    def read(cls, body: dict[str, Any], engine: Engine, settings: Settings) -> Wanted:
        """Raises a Problem that names the field."""
        body = {name: value for name, value in body.items() if value is not None}
        fields = ("model", "input", "voice", "response_format", "speed", "stream_format")
        for name in body:
            if name == "instructions" and body[name] != "":
                raise wrong(
                    "instructions are not followed by this voice; leave them out, speed is a field of its own",
                    "instructions",
                )
            if name not in (*fields, "instructions"):
                raise wrong(f"{name[:80]!r} is not known; expected {', '.join(fields)}", name[:80])
        names.check_model(_text(body, "model"), engine, settings, "tts")
        text = _text(body, "input")
        if text is None:
            raise wrong("input is missing: the text to speak", "input", "missing")
        if len(text) > engine.limits.characters:
            raise wrong(
                f"input has {len(text)} characters, this server takes {engine.limits.characters} at once",
                "input",
                "string_above_max_length",
            )
        form = _text(body, "response_format") or "mp3"
        if form not in FORMATS:
            raise wrong(
                f"response_format {form[:40]!r} is not known; expected one of {', '.join(FORMATS)}",
                "response_format",
            )
        how = _text(body, "stream_format") or "audio"
        if how not in ("audio", "sse"):
            raise wrong(f"stream_format is audio or sse, got {how[:40]!r}", "stream_format")
        speed = body.get("speed", 1.0)
        if isinstance(speed, bool) or not isinstance(speed, (int, float)) or not 0.25 <= speed <= 4:
            raise wrong(f"speed is a number from 0.25 to 4, got {speed!r:.40}", "speed")
        voice = names.voice(_voice(body), engine.synthesizer.voices)
        text = text.encode("utf-8", "replace").decode("utf-8")  # halves of surrogate pairs
        return cls(text, voice, form, float(speed), how == "sse")


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise wrong(f"{name} must be a string, got {type(value).__name__}", name)
    return value


def _voice(body: dict[str, Any]) -> str | None:
    """OpenAI's clients give a name, or an object with the id of a voice."""
    if isinstance(body.get("voice"), dict):
        found = body["voice"].get("id")
        if not isinstance(found, str):
            raise wrong('voice must be a name, or an object as in {"id": "..."}', "voice")
        return found
    return _text(body, "voice")


async def speech(request: Request) -> Response:
    """The endpoint."""
    began, state = time.perf_counter(), request.app.state
    engine: Engine = state.engine
    async with AsyncExitStack() as kept:
        kept.enter_context(engine.seat("speech"))
        most = CHARACTER_BYTES * engine.limits.characters + REST_BYTES
        wanted = Wanted.read(await read_json(request, most, engine.limits), engine, state.settings)
        try:
            encoder = encoder_of(wanted.form, engine.synthesizer.sample_rate)
            stream = engine.speak(wanted.voice, wanted.speed)
        except (ValueError, SpeechStreamError) as error:
            raise wrong(str(error)) from error
        kept.callback(stream.close)
        await stream.push(wanted.text)
        stream.finish()
        first = await unless_gone(request, _next(stream))
        if first is None:
            raise wrong("nothing to say: the input has no words", "input")
        state.metrics.first_sound(time.perf_counter() - began)
        sound = _Sound(first, stream, encoder, wanted.form in CHEAP)
        if wanted.sse:
            pieces, media = (
                sound.events(wanted.text, engine.synthesizer.sample_rate),
                "text/event-stream",
            )
        else:
            pieces, media = sound.pieces(), FORMATS[wanted.form].media_type
        return Streamed(pieces, media, engine.limits.slow_s, kept.pop_all())


async def _next(stream: Stream) -> Audio | None:
    """The next block that has sound. Raises a Problem."""
    async for said in stream:
        if isinstance(said, Failed):
            raise Problem(500, f"the text could not be spoken: {said.message}")
        if isinstance(said, Audio) and len(said.pcm):
            return said
    return None


class _Sound:
    """A stream's sound as encoded pieces. samples: so far."""

    def __init__(self, first: Audio, stream: Stream, encoder: Encoder, cheap: bool):
        self._block: Audio | None = first
        self._stream, self._encoder, self._cheap = stream, encoder, cheap
        self.samples = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        while self._block is not None:
            pcm, encode = self._block.pcm, self._encoder.encode
            self.samples += len(pcm)
            data = encode(pcm) if self._cheap else await asyncio.to_thread(encode, pcm)
            if data:
                yield data
            self._block = await _next(self._stream)
        if data := await asyncio.to_thread(self._encoder.finish):
            yield data

    async def events(self, text: str, rate: int) -> AsyncGenerator[bytes, None]:
        """The same as server-sent events. The tokens of `usage` are words in and tenths of a second out."""
        try:
            async for data in self.pieces():
                audio = base64.b64encode(data).decode()
                yield event({"type": "speech.audio.delta", "audio": audio})
        except Problem as problem:
            yield event(problem.body(), "error")
            return
        words, tenths = len(text.split()), round(10 * self.samples / rate)
        usage = {"input_tokens": words, "output_tokens": tenths, "total_tokens": words + tenths}
        yield event({"type": "speech.audio.done", "usage": usage})
