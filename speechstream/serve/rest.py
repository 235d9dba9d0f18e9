"""OpenAI's REST interface: transcriptions, the list of models, and a sentence for translations.

Speech is in `speech`; what transcriptions ask and answer in `transcription`.
"""

from __future__ import annotations

import asyncio
import mmap
import threading
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from speechstream.audio.containers.content import Content, shown
from speechstream.audio.containers.decode import decoded
from speechstream.audio.recording import Blocks
from speechstream.errors import SpeechStreamError
from speechstream.events import Event, Failed, Final, Transcript
from speechstream.serve import names
from speechstream.serve.bodies import Streamed, event, read_form, unless_gone
from speechstream.serve.engine import Engine, Stream
from speechstream.serve.problems import Problem, wrong
from speechstream.serve.transcription import Deltas, Wanted, answer

BLOCK_S = 1.0  # of sound that is decoded at once


async def transcriptions(request: Request) -> Response:
    """POST /v1/audio/transcriptions."""
    state = request.app.state
    engine: Engine = state.engine
    async with AsyncExitStack() as kept:
        kept.enter_context(engine.seat("transcription"))
        form = await read_form(request, engine.limits)
        kept.push_async_callback(form.close)
        wanted = Wanted.read(form, engine, state.settings)
        recording = await asyncio.to_thread(Recording, wanted.file, engine.limits.session_s)
        kept.push_async_callback(recording.close)
        stream = await hearing(engine, wanted, recording.rate)
        kept.callback(stream.close)
        if wanted.stream:
            pieces = deltas(recording, stream)
            return Streamed(pieces, "text/event-stream", engine.limits.slow_s, kept.pop_all())
        transcript = await unless_gone(request, whole(recording, stream))
        body, media = answer(transcript, wanted)
        return Response(body, media_type=media)


class Recording:
    """An upload as blocks, read on threads. Raises a Problem where it cannot be read at all, or is too long."""

    def __init__(self, file: UploadFile, most_s: float):
        self._lock = threading.Lock()  # one that was given up may still be within a block
        self._most_s, self.heard_s = most_s, 0.0
        name = shown(file.filename or "the recording")[:80]
        spooled: Any = file.file
        spooled.rollover()
        spooled.flush()
        if not file.size:
            raise wrong(f"{name} is empty (0 bytes)", "file")
        data = mmap.mmap(spooled.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._blocks: Blocks = decoded(Content(name, data), BLOCK_S)
        except SpeechStreamError as error:
            raise wrong(str(error), "file", "unreadable_audio") from error
        self.rate = self._blocks.rate
        self._check(self._blocks.duration or 0.0)

    async def next(self) -> np.ndarray | None:
        """The next block; None at the end. Raises AudioDamaged where it was not whole."""
        block = await asyncio.to_thread(self._next)
        if block is not None:
            self.heard_s += len(block) / self.rate
            self._check(self.heard_s)
        return block

    async def close(self) -> None:
        await asyncio.to_thread(self._close)

    def _next(self) -> np.ndarray | None:
        with self._lock:
            return next(self._blocks, None)

    def _close(self) -> None:
        with self._lock:
            self._blocks.close()

    def _check(self, seconds: float) -> None:
        if seconds > self._most_s:
            raise Problem(
                413, f"the recording is longer than the {self._most_s:g} seconds allowed", "file"
            )


async def hearing(engine: Engine, wanted: Wanted, rate: int) -> Stream:
    """A stream for a recording. Raises a Problem for hot words that the model cannot take.

    Text that is to come while it is heard needs a live latency: the longest, which errs least.
    """
    latencies = engine.recognizer.latencies
    latency_ms = max(latencies) if wanted.stream and latencies else None
    try:
        if wanted.hotwords is not None:  # compiled on a thread, and then known
            await asyncio.to_thread(engine.recognizer.core, latency_ms, rate, wanted.hotwords)
        return engine.hear_file(latency_ms, rate, wanted.rules, wanted.hotwords)
    except ValueError as error:
        raise wrong(str(error), "keywords" if wanted.hotwords else None) from error


async def heard(recording: Recording, stream: Stream) -> AsyncGenerator[Event, None]:
    """All events, and then what was wrong with the recording: raises AudioDamaged, or a Problem."""
    feeder = asyncio.ensure_future(_feed(recording, stream))
    try:
        async for said in stream:
            if isinstance(said, Failed):
                raise Problem(500, f"the recording could not be heard: {said.message}")
            yield said
        await feeder
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


async def _feed(recording: Recording, stream: Stream) -> None:
    try:
        while (block := await recording.next()) is not None:
            await stream.push(block)
    finally:
        stream.finish()


def damaged(error: SpeechStreamError, text: str) -> Problem:
    """A recording that was not whole, with what was heard of it."""
    return Problem(400, str(error), "file", "damaged_audio", transcript=text)


async def whole(recording: Recording, stream: Stream) -> Transcript:
    """All of a recording. Raises a Problem."""
    finals: list[Final] = []
    try:
        async with aclosing(heard(recording, stream)) as events:
            async for said in events:
                if isinstance(said, Final):
                    finals.append(said)
    except SpeechStreamError as error:
        raise damaged(error, Transcript(tuple(finals), recording.heard_s).text) from error
    return Transcript(tuple(finals), recording.heard_s)


async def deltas(recording: Recording, stream: Stream) -> AsyncGenerator[bytes, None]:
    """Server-sent events. The tokens of `usage` are tenths of a second in and words out."""
    text = Deltas()
    try:
        async with aclosing(heard(recording, stream)) as events:
            async for said in events:
                if added := text.step(said):
                    yield event({"type": "transcript.text.delta", "delta": added})
    except SpeechStreamError as error:
        yield event(damaged(error, text.text).body(), "error")
        return
    except Problem as problem:
        yield event(problem.body(), "error")
        return
    tenths, words = round(10 * recording.heard_s), len(text.text.split())
    usage: dict[str, Any] = {"type": "tokens", "input_tokens": tenths, "output_tokens": words}
    usage["total_tokens"] = tenths + words
    yield event({"type": "transcript.text.done", "text": text.text, "usage": usage})


async def translations(request: Request) -> Response:
    """POST /v1/audio/translations."""
    raise wrong(
        "this server does not translate; /v1/audio/transcriptions writes what is said", None
    )


async def models(request: Request) -> Response:
    """GET /v1/models."""
    known = names.models(request.app.state.engine, request.app.state.settings)
    return JSONResponse({"object": "list", "data": [_model(name) for name in known]})


async def model(request: Request) -> Response:
    """GET /v1/models/{id}."""
    name = request.path_params["id"]
    if name not in names.models(request.app.state.engine, request.app.state.settings):
        raise Problem(
            404, f"the model {name[:80]!r} does not exist here", "model", "model_not_found"
        )
    return JSONResponse(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "speechstream"}
