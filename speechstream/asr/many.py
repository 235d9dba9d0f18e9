"""Many recordings through one recogniser, one thread a core.

onnxruntime and numpy let other threads run while they compute, so the threads share the model's weights and each core
is busy with a recording of its own. A pool of streams would batch the decoder's steps, but whole segments fill a core
alone: it saves 9% of the work at 16 recordings at once, where a second core saves half.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Callable, Iterator, Sequence

from speechstream.asr.events import Transcript
from speechstream.errors import SpeechStreamError

if TYPE_CHECKING:
    from speechstream.asr.recognizer import Recognizer


class Stopped(Exception):
    """Raised within a thread whose result nobody wants any more."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def transcribe_many(recognizer: "Recognizer", files: Sequence[str | Path], jobs: int | None = None,
                    latency_ms: int | None = None, progress: Callable[[float], None] | None = None
                    ) -> Iterator[Transcript | SpeechStreamError]:
    """Transcripts in the order of the files; in the place of one that cannot be used, the error that says why.

    `jobs` threads work at a time, by default one a core; `progress` is told the seconds of sound done in all files,
    from any of the threads. Whoever closes the iterator stops the work at the next second of sound. The texts are
    those of `Recognizer.transcribe`. Raises ValueError for jobs below 1.
    """
    jobs = cores() if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"jobs must be 1 or more, got {jobs}")
    return _results(recognizer, list(files), jobs, latency_ms, progress)


def _results(recognizer, files: list, jobs: int, latency_ms: int | None, progress) -> Iterator:
    stop, lock, heard = Event(), Lock(), [0.0]

    def work(file: str | Path) -> Transcript:
        before = 0.0

        def done(seconds: float) -> None:
            nonlocal before
            if stop.is_set():
                raise Stopped
            with lock:
                heard[0] += seconds - before
                before = seconds
                if progress:
                    progress(heard[0])

        if stop.is_set():
            raise Stopped
        return recognizer.transcribe(file, latency_ms=latency_ms, progress=done)

    threads = ThreadPoolExecutor(min(jobs, max(len(files), 1)), thread_name_prefix="transcribe")
    try:
        waiting: deque[Future] = deque(threads.submit(work, file) for file in files)
        while waiting:
            try:
                yield waiting.popleft().result()
            except SpeechStreamError as error:
                yield error
    finally:
        stop.set()
        threads.shutdown(wait=False, cancel_futures=True)
