"""One direction of a session: streams of the engine, one after the other, that look like one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np

from speechstream.asr.endpoint import EndpointRules
from speechstream.config import read
from speechstream.events import Audio, Endpoint, Event, Final, Partial, SpeechStarted, Word
from speechstream.serve.engine import Engine, Stream
from speechstream.serve.sockets import feed
from speechstream.serve.stream.messages import Listen
from speechstream.tts.stream import CHARACTERS_PER_S

LONGEST_BEFORE_S = 2.0
MOST_HOTWORDS = 200  # they are compiled while others wait


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
