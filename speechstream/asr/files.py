"""Many recordings through one recogniser, one thread a core.

onnxruntime and numpy let other threads run while they compute, so the threads share the model's weights and each core
is busy with recordings of its own: one at a time, or `recognizer.batch_size` of them through a pool where a batch is faster
than its streams in turn. A FastConformer hears files in chunks, and is; whole segments, as Whisper hears files, fill a
core alone (a pool saves 9% of the work at 16 recordings at once).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Any, Protocol

from speechstream.audio.channels import MIX, SPLIT, Channels, check_channels
from speechstream.audio.io import Source, blocks
from speechstream.audio.recording import Blocks
from speechstream.errors import AudioDamaged, SpeechStreamError
from speechstream.events import Failed, Final, Transcript


class Transcriber(Protocol):
    """What is needed of a recogniser."""

    @property
    def batch_size(self) -> int: ...

    def transcribe(
        self,
        audio: Source,
        *,
        latency_ms: int | None = None,
        progress: Callable[[float], None] | None = None,
        channels: Channels = MIX,
    ) -> Transcript: ...

    def pool(self, slots: int) -> Any: ...


class Stopped(Exception):
    """Raised within a thread whose result nobody wants any more."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def transcribe_many(
    recognizer: Transcriber,
    files: Sequence[Source],
    jobs: int | None = None,
    latency_ms: int | None = None,
    progress: Callable[[float], None] | None = None,
    channels: Channels = MIX,
) -> Iterator[Transcript | SpeechStreamError]:
    """Transcripts in the order of the files; in the place of one that cannot be used, the error that says why. That of a
    file that is damaged or cut short is AudioDamaged, and its `transcript` is what was heard of it.

    `jobs` threads work at a time, by default one a core; `progress` is told the seconds of sound done in all files,
    from any of the threads. Whoever closes the iterator stops the work at the next second of sound. The texts are
    those of `Recognizer.transcribe`, whose `channels` these are. Raises ValueError for jobs below 1, and for one
    recording where a list of them is expected.
    """
    if isinstance(files, (str, bytes, os.PathLike)):  # a path's letters are no recordings
        raise ValueError(f"files must be a list of recordings, got one {type(files).__name__}")
    jobs = cores() if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    work = _Work(recognizer, list(files), latency_ms, progress, check_channels(channels))
    return _results(work, min(jobs, len(files)))


def _results(work: _Work, jobs: int) -> Iterator:
    # each of several threads takes a share of the files at hand, so that none has a full pool while another has none
    width = max(1, min(work.recognizer.batch_size, -(-len(work.results) // max(jobs, 1))))
    width = 1 if work.channels == SPLIT else width  # whose streams are several
    run = work.in_turn if width == 1 else lambda: work.at_once(width)
    for i in range(jobs):
        Thread(target=run, name=f"transcribe-{i}").start()
    waiting = deque(work.results)
    try:
        while waiting:
            try:
                yield waiting.popleft().result()
            except SpeechStreamError as error:
                yield error
    finally:
        work.stop.set()


@dataclass
class _Open:
    """A recording in a pool."""

    result: Future
    source: Blocks
    segments: list[Final] = field(default_factory=list)
    samples: int = 0
    damage: AudioDamaged | None = None

    def end(self) -> None:
        """Give the transcript of what was heard."""
        transcript = Transcript(tuple(self.segments), self.samples / self.source.rate)
        if self.damage is None:
            self.result.set_result(transcript)
        else:
            self.damage.transcript = transcript
            self.result.set_exception(self.damage)


class _Work:
    """The files that nobody has taken yet, and where their results go."""

    def __init__(
        self,
        recognizer: Transcriber,
        files: list,
        latency_ms: int | None,
        progress: Callable[[float], None] | None,
        channels: Channels,
    ):
        self.recognizer, self.latency_ms, self.progress = recognizer, latency_ms, progress
        self.channels = channels
        self.results: list[Future] = [Future() for _ in files]
        self.left = deque(zip(files, self.results))
        self.stop, self.lock, self.heard = Event(), Lock(), 0.0

    def take(self) -> tuple[Source, Future] | None:
        with self.lock:
            return self.left.popleft() if self.left and not self.stop.is_set() else None

    def hear(self, seconds: float) -> None:
        """Count so many more seconds of sound. Raises Stopped where nobody waits for the rest."""
        if self.stop.is_set():
            raise Stopped
        with self.lock:
            self.heard += seconds
            if self.progress:
                self.progress(self.heard)

    def in_turn(self) -> None:
        """A thread: one recording after another."""
        while taken := self.take():
            file, result = taken
            before = 0.0

            def done(seconds: float) -> None:
                nonlocal before
                before, passed = seconds, seconds - before
                self.hear(passed)

            try:
                result.set_result(
                    self.recognizer.transcribe(
                        file, latency_ms=self.latency_ms, progress=done, channels=self.channels
                    )
                )
            except Exception as error:  # whatever it is, it is this recording's
                result.set_exception(error)

    def at_once(self, width: int) -> None:
        """A thread: up to `width` recordings through a pool, the next one as soon as one has ended."""
        pool = self.recognizer.pool(width)
        heard: dict[int, _Open] = {}
        try:
            while self._fill(pool, heard, width):
                for sid, one in list(heard.items()):
                    self._push(pool, sid, one, heard)
                for sid, events in pool.step().items():
                    heard[sid].segments += [e for e in events if isinstance(e, Final)]
                    if isinstance(events[-1], Failed):
                        heard.pop(sid).result.set_exception(SpeechStreamError(events[-1].message))
                for sid in [sid for sid in heard if sid not in pool]:
                    heard.pop(sid).end()
        except Exception as error:
            for one in heard.values():
                one.source.close()
                one.result.set_exception(error)

    def _fill(self, pool, heard: dict[int, _Open], width: int) -> bool:
        while len(heard) < width and (taken := self.take()):
            file, result = taken
            try:
                source = blocks(file, channels=self.channels)
                heard[pool.open(self.latency_ms, source.rate)] = _Open(result, source)
            except Exception as error:
                result.set_exception(error)
        return bool(heard)

    def _push(self, pool, sid: int, one: _Open, heard: dict[int, _Open]) -> None:
        try:
            block = next(one.source, None)
        except AudioDamaged as error:
            one.damage, block = error, None
        except SpeechStreamError as error:
            pool.close(sid)
            heard.pop(sid).result.set_exception(error)
            return
        if block is None:
            one.source.close()
            pool.finish(sid)
            return
        one.samples += len(block)
        self.hear(len(block) / one.source.rate)
        pool.push(sid, block)
